"""best: groups against their definition, choices against planted scores, scores against the model's own parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from configs import model_config, prior_config
from saved import saved_model
from vae.artefact import Generator
from vae.best import Candidates, TooFewError, chosen, consistency, density, groups, scored, sureness
from vae.extractor import Extractor, ExtractorConfig
from vae.models import build
from vae.samplers import SAMPLERS
from vae.samplers.by_class import ByClass


def cloud(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("candidates", "count"), [(64, 16), (65, 16), (37, 37), (50, 7), (9, 1)])
def test_groups_divide_all_candidates_evenly_and_hold_near_ones(candidates, count):
    z_MD = cloud(candidates, 3)
    found = groups(z_MD, count)
    assert torch.cat(found).sort().values.tolist() == list(range(candidates))
    sizes = [len(group) for group in found]
    assert len(sizes) == count and max(sizes) - min(sizes) <= 1
    if max(sizes) > 2 and count > 2:
        within = np.mean([torch.pdist(z_MD[group]).mean().item() for group in found])
        assert within < 0.7 * torch.pdist(z_MD).mean().item()


def corners(each: int) -> torch.Tensor:
    """So many latents about each corner of a cube of side 100."""
    return 100.0 * torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3).repeat_interleave(each, 0) + cloud(8 * each, 3)


def test_groups_follow_clusters():
    z_MD = corners(4)
    assert sorted(sorted(group.tolist()) for group in groups(z_MD, 8)) == [list(range(i, i + 4)) for i in range(0, 32, 4)]


def test_the_best_of_each_group_keeps_every_cluster_and_the_best_of_all_does_not():
    z_MD = corners(16)
    score_M = torch.arange(128.0)  # the last cluster is the best by far
    assert (chosen(z_MD, score_M, 16) // 16).bincount().tolist() == [2] * 8
    assert (chosen(z_MD, score_M, 16, diverse=False) // 16).unique().tolist() == [7]
    best = chosen(z_MD, score_M, 8)
    assert best.tolist() == list(range(15, 128, 16))


def test_what_may_not_be_taken_is_not():
    z_MD, score_M = cloud(40, 2), torch.full((40,), -torch.inf)
    score_M[[3, 8, 9, 30]] = 1.0
    assert chosen(z_MD, score_M, 4).tolist() == [3, 8, 9, 30]
    assert set(chosen(z_MD, score_M, 2).tolist()) <= {3, 8, 9, 30}
    with pytest.raises(TooFewError, match="4 of 40 candidates may be taken, 5 are wanted"):
        chosen(z_MD, score_M, 5)


def test_one_candidate_each_is_what_the_model_samples(tmp_path):
    for classes in (0, 3):
        generator = saved_model(tmp_path / str(classes), classes=classes)
        z_ND, label_N = scored(generator, 20, 7, 1, density).best(1)
        np.testing.assert_array_equal(generator.decode(z_ND, label_N), generator.sample(20, 7))


def test_of_each_class_as_many_are_kept_as_were_asked_for(tmp_path):
    generator = saved_model(tmp_path / "m", classes=3)
    asked_N = torch.tensor([2, 0, 0, 1, 2, 2, 0])

    def favourite(candidates: Candidates) -> torch.Tensor:
        assert candidates.label_M is not None
        return candidates.z_MD[:, 0] * torch.where(candidates.label_M == 1, -1.0, 1.0)

    drawn = scored(generator, 7, 1, 40, favourite, label_N=asked_N)
    z_ND, label_N = drawn.best(40)
    assert label_N is not None and label_N.tolist() == asked_N.tolist()
    for z_D, label in zip(z_ND, asked_N, strict=True):
        place = (drawn.z_MD == z_D).all(1).nonzero()[0, 0]
        assert drawn.label_M is not None and drawn.label_M[place] == label
    one = drawn.z_MD[drawn.label_M == 1]
    assert z_ND[3].equal(one[one[:, 0].argmin()])  # the only one of its class: the best of all 40


def test_density_is_the_priors_and_of_a_class_that_of_its_own():
    z_ND, label_N = torch.cat([cloud(200, 4), 3 + cloud(200, 4, 1)]), torch.arange(400) // 200
    config = prior_config(name="mixture")
    prior = ByClass.fit(SAMPLERS["mixture"], z_ND, label_N, 2, config, 0)
    generator = Generator(build(model_config(latent_dim=4, classes=2)), model_config(latent_dim=4, classes=2), prior, {})
    shuffled = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    found = density(Candidates(generator, z_ND[shuffled], label_N[shuffled]))
    own = torch.stack([prior.samplers[int(label_N[i])].log_prob(z_ND[i : i + 1])[0] for i in shuffled])
    torch.testing.assert_close(found, own)
    assert (
        density(Candidates(generator, z_ND, 1 - label_N)) < density(Candidates(generator, z_ND, label_N)) - 5
    ).float().mean() > 0.9


def test_consistency_is_how_far_the_encoder_is_from_the_latent(tmp_path):
    generator = saved_model(tmp_path / "m")
    z_MD = cloud(300, 3)
    mean_MD, _ = generator.encode(generator.decode(z_MD))
    torch.testing.assert_close(consistency(Candidates(generator, z_MD, None)), -((mean_MD - z_MD).norm(dim=1) ** 2))


def test_consistency_of_a_hierarchy_is_refused(tmp_path):
    generator = saved_model(tmp_path / "m", name="ladder")
    with pytest.raises(ValueError, match="take density"):
        scored(generator, 2, 0, 2, consistency)
    assert scored(generator, 2, 0, 2, density).best(2)[0].shape == (2, generator.model.latent_dim)


def test_sureness_is_the_probability_of_what_was_asked_for(tmp_path):
    generator = saved_model(tmp_path / "m", classes=3)
    torch.manual_seed(0)
    network = Extractor(ExtractorConfig(channels=3, width=8, feature_dim=4, classes=3, task="labels")).eval()
    z_MD, label_M = cloud(9, 3), torch.arange(9) % 3
    images = torch.from_numpy(generator.decode(z_MD, label_M))
    with torch.no_grad():
        share_MK = network(images.permute(0, 3, 1, 2).float() / 127.5 - 1).softmax(1)
    found = sureness(network)(Candidates(generator, z_MD, label_M))
    torch.testing.assert_close(found.exp(), share_MK[torch.arange(9), label_M])
    asked_of_none = sureness(network)(Candidates(saved_model(tmp_path / "n"), z_MD, None))
    assert asked_of_none.shape == (9,) and (asked_of_none.exp() >= 1 / 3).all()
