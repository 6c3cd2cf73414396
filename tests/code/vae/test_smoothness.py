"""smoothness: the loader knows the next frame, the loss draws its latents near, and what is no film is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from configs import fit_config, model_config
from vae.config import ModelConfig
from vae.data import ImageShards, ShardWriter, save_following
from vae.images import to_model_range
from vae.loader import Loader
from vae.losses import Draws, Objective
from vae.models import build
from vae.models.base import Output
from vae.order import stream_indices
from vae.trainer import fit

CPU, LENGTH = torch.device("cpu"), 8
SMOOTH = fit_config(smoothness=2.0)


def films(folder: Path, count: int = 12) -> ImageShards:
    """A bright column that moves to the right by a pixel from frame to frame, in ``count`` films of eight frames."""
    rng, images = np.random.default_rng(0), []
    for _ in range(count):
        level = rng.integers(150, 256)
        for frame in range(LENGTH):
            image = np.full((8, 8, 1), 20, np.uint8)
            image[:, frame] = level
            images.append(image)
    writer = ShardWriter(folder, (8, 8, 1), 30)
    writer.add_all(np.stack(images))
    writer.close()
    rows = np.arange(count * LENGTH)
    save_following(folder, np.where(rows % LENGTH == LENGTH - 1, -1, rows + 1))
    return ImageShards(folder)


def test_following_counts_from_the_first_image_of_its_own_folder(tmp_path: Path) -> None:
    films(tmp_path / "a", 2)
    films(tmp_path / "b", 3)
    both = ImageShards(tmp_path / "a", tmp_path / "b").following_N
    assert both is not None
    expected = [i + 1 if i % LENGTH < LENGTH - 1 else -1 for i in range(5 * LENGTH)]
    assert both.tolist() == expected
    (tmp_path / "b/following.npy").unlink()
    assert ImageShards(tmp_path / "a", tmp_path / "b").following_N is None
    save_following(tmp_path / "b", np.zeros(7))
    with pytest.raises(ValueError, match="23 following of 40 images"):
        ImageShards(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_after_is_the_next_frame_of_each_row_or_itself(tmp_path: Path, layout: str) -> None:
    shards = films(tmp_path)
    loader = Loader(shards, replace(SMOOTH, memory_format=layout), CPU, None)
    for step in (0, 5, 9):
        indices = stream_indices(len(shards), SMOOTH.seed, 16 * step + 4, 16 * step + 12)
        wanted = [i + 1 if i % LENGTH < LENGTH - 1 else i for i in indices.tolist()]
        assert torch.equal(loader.after(step, slice(4, 12)), to_model_range(torch.from_numpy(shards.gather(np.array(wanted)))))


def test_images_that_are_no_films_are_refused(shards: ImageShards) -> None:
    with pytest.raises(ValueError, match=r"fit\.smoothness is about neighbouring frames.*split_by to folder"):
        Loader(shards, SMOOTH, CPU, None)
    assert Loader(shards, replace(SMOOTH, smoothness=0.0), CPU, None)


@pytest.mark.parametrize("model", [model_config(), model_config(name="ladder"), model_config(name="resnet")])
@pytest.mark.parametrize("samples", [1, 2])
def test_loss_is_larger_by_the_weighted_squared_distance_of_means(model: ModelConfig, samples: int) -> None:
    objective = "importance" if samples > 1 else "elbo"
    config = replace(SMOOTH, global_batch_size=6, objective=objective, importance_samples=samples)
    network = build(model)
    for parameter in network.parameters():  # or the posterior of a ladder is its prior
        parameter.data += 0.1 * torch.randn(parameter.shape)
    x_NCHW, after_NCHW = torch.rand(6, 1, 8, 8) * 2 - 1, torch.rand(6, 1, 8, 8) * 2 - 1
    after_NCHW[2] = x_NCHW[2]
    measure, seen = Objective(network, config, CPU), list[Output]()
    draws = measure.draw(0, 64)

    def forward(*given: Tensor) -> Output:
        seen.append(network(*given))
        return seen[-1]

    with_after, sums = measure(forward, x_NCHW, None, draws, 0, after_NCHW)
    without, same = measure(forward, x_NCHW, None, draws, 0)
    assert torch.equal(sums, same)
    first, second = seen[0].posterior.mean_ND[::samples], seen[0].step_N
    assert second is not None and seen[1].step_N is None
    if model.name != "ladder":  # whose lower layers' posteriors depend on the sample above them
        expected_N = (network.encode(after_NCHW)[0] - first).square().sum(1)
        torch.testing.assert_close(second[::samples], expected_N)
        assert second[2 * samples].item() < 1e-8
    torch.testing.assert_close(with_after - without, 2.0 * second.sum() / samples, rtol=1e-3, atol=1e-3)
    with_after.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_bits_of_both_frames_are_drawn_alike() -> None:
    network = build(model_config(likelihood="bernoulli"))
    given: list[tuple[Tensor, ...]] = []

    def forward(*tensors: Tensor) -> Output:
        given.append(tensors)
        return network(*tensors)

    grey, draws = torch.zeros(4, 1, 8, 8), Draws(torch.zeros(4, 3), torch.rand(4, 64))
    Objective(network, SMOOTH, CPU)(forward, grey, None, draws, 0, grey.clone())
    assert torch.equal(given[0][0], given[0][4])


def test_training_with_smoothness_leaves_neighbours_nearer(tmp_path: Path) -> None:
    shards, found = films(tmp_path), {}
    for weight in (0.0, 5.0):
        config = fit_config(smoothness=weight, total_images=6400, learning_rate=5e-3, beta_start=1.0, validate_every_images=6400)
        model = fit(model_config(), config, shards, shards).model
        with torch.no_grad():
            mean_ND, _ = model.encode(to_model_range(torch.from_numpy(shards.slice(0, len(shards)))))
        step = (mean_ND[1:] - mean_ND[:-1]).square().sum(1)[torch.arange(len(shards) - 1) % LENGTH < LENGTH - 1].mean()
        found[weight] = float(step / mean_ND.var(0).sum())  # of the whole spread: shrinking all alike is no smoothness
    assert found[5.0] < 0.7 * found[0.0], found
