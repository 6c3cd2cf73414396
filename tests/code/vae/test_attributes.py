"""attributes: what is read is what was planted, and a move changes what was asked for and nothing else that was planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vae.attributes import Attributes, UnknownAttributeError

LABELS = ["ape", "bee", "cat"]
TURN = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(5)))[0]  # so that no latent is a factor


def planted(count: int, seed: int) -> tuple[Tensor, dict[str, np.ndarray], Tensor]:
    """Latents of two factors, one of them bent, three labels and three dimensions that mean nothing."""
    rng = np.random.default_rng(seed)
    size, angle, label_N = rng.uniform(2, 4, count), rng.uniform(-1, 1, count), rng.integers(0, 3, count)
    rest = rng.normal(size=(count, 3))
    own = np.stack([size - 3, angle + 0.3 * angle**3, label_N - 1.0, *rest.T], 1)
    return torch.from_numpy(own).float() @ TURN, {"size": size, "angle": angle}, torch.from_numpy(label_N)


def truth(z_ND: Tensor) -> np.ndarray:
    """Size, bent angle, label and the rest (N, 6) that latents were planted of."""
    return (z_ND @ TURN.T).double().numpy() + np.array([3, 0, 1, 0, 0, 0])


@pytest.fixture(scope="module")
def known() -> Attributes:
    z_ND, factors, label_N = planted(4000, 0)
    found = Attributes.fit(z_ND, factors, label_N, LABELS, 1500, 0)
    assert found is not None
    return found


def test_factors_and_labels_are_read_of_other_images(known):
    z_ND, factors, label_N = planted(500, 1)
    found = known.factors_of(z_ND).numpy()
    for place, name in enumerate(("size", "angle")):
        assert known.factors[place] == name
        assert np.sqrt(np.mean((found[:, place] - factors[name]) ** 2)) < 0.1 * factors[name].std()
    assert (known.labels_of(z_ND) == label_N).float().mean() > 0.97


@pytest.mark.parametrize(("name", "change", "place"), [("size", 0.5, 0), ("size", -0.3, 0), ("angle", 0.4, 1)])
def test_a_factor_moves_by_what_was_asked_and_the_others_stay(known, name, change, place):
    z_ND, factors, _ = planted(400, 2)
    low, high = factors[name].min() + 0.15 + max(0, -change), factors[name].max() - 0.15 - max(0, change)
    z_ND = z_ND[torch.from_numpy((factors[name] > low) & (factors[name] < high))]
    before, after = truth(z_ND), truth(known.moved(z_ND, {name: change}))
    wanted = before[:, place] + change
    if name == "angle":
        root = np.array(
            [np.roots([0.3, 0, 1, -value]).real[np.abs(np.roots([0.3, 0, 1, -value]).imag) < 1e-9][0] for value in before[:, 1]]
        )
        wanted = (root + change) + 0.3 * (root + change) ** 3
    assert np.abs(after[:, place] - wanted).mean() < 0.12 * abs(change)
    others = np.delete(np.abs(after - before), place, axis=1)
    assert others.mean(0).max() < 0.12 * abs(change)


def test_a_label_is_made_and_the_factors_stay(known):
    z_ND, _, _ = planted(200, 3)
    before, after = truth(z_ND), truth(known.moved(z_ND, {}, "cat"))
    assert (known.labels_of(known.moved(z_ND, {}, "cat")) == 2).float().mean() > 0.97
    assert np.abs(after[:, 2] - 2).mean() < 0.2
    assert np.abs(after - before)[:, [0, 1]].mean() < 0.06


def test_rare_label_is_made_too_and_one_without_images_is_told():
    z_ND, factors, label_N = planted(3000, 0)
    rare = (label_N != 2) | (torch.arange(3000) < 60)
    known = Attributes.fit(
        z_ND[rare], {name: value[rare.numpy()] for name, value in factors.items()}, label_N[rare], [*LABELS, "dog"], 800, 0
    )
    assert known is not None
    other_ND = planted(50, 3)[0]
    assert np.abs(truth(known.moved(other_ND, {}, "cat"))[:, 2] - 2).mean() < 0.25
    with pytest.raises(UnknownAttributeError, match="no training image of label 'dog'"):
        known.moved(other_ND, {}, "dog")


def test_fit_is_a_function_of_its_arguments_and_survives_the_disk(known, tmp_path: Path):
    z_ND, factors, label_N = planted(4000, 0)
    torch.manual_seed(77)
    again = Attributes.fit(z_ND, factors, label_N, LABELS, 1500, 0)
    assert again is not None and all(again.tensors[name].equal(tensor) for name, tensor in known.tensors.items())
    known.save(tmp_path)
    loaded = Attributes.load(tmp_path)
    assert loaded is not None and loaded.moved(z_ND[:3], {"size": 0.01}).equal(known.moved(z_ND[:3], {"size": 0.01}))
    assert Attributes.load(tmp_path / "none") is None


def test_what_never_varies_or_follows_from_the_label_is_left_out():
    z_ND, factors, label_N = planted(300, 0)
    more = factors | {"constant": np.ones(300), "shape": label_N.numpy() * 2}
    found = Attributes.fit(z_ND, more, label_N, LABELS, 5, 0)
    assert found is not None and found.factors == ["size", "angle"] and found.labels == LABELS
    assert Attributes.fit(z_ND, {"constant": np.ones(300)}, label_N, LABELS[:1], 5, 0) is None
    without = Attributes.fit(z_ND, factors, None, [], 5, 0)
    assert without is not None and without.labels == []
    only = Attributes.fit(z_ND, {}, label_N, LABELS, 5, 0)
    assert only is not None and only.factors == [] and only.moved(z_ND[:2], {}, "bee").shape == (2, 6)


def test_unknown_names_and_values_beyond_the_training_images_are_told(known):
    z_ND, _, _ = planted(5, 1)
    with pytest.raises(
        UnknownAttributeError, match="'age', 'dog': not among what the model can move; known are size, angle, ape"
    ):
        known.moved(z_ND, {"age": 1.0}, "dog")
    with pytest.raises(
        UnknownAttributeError, match=r"size of image \d would be .*: the training images have 2 to 4, move it less"
    ):
        known.moved(z_ND, {"size": 1.9})
