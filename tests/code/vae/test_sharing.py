"""sharing: whatever ranks divide among them is, bit for bit, what one process finds; and without it ranks work alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from configs import model_config, prior_config
from ranks import side_by_side
from vae.artefact import Generator
from vae.data import ImageShards, ShardWriter, save_labels
from vae.distributed import rank, shared, sharing
from vae.extractor import Extractor, ExtractorConfig
from vae.images import to_model_range
from vae.metrics.bounds import importance_weighted_nll
from vae.models import build
from vae.samplers import fit_prior
from vae.validation import image_terms

COUNT = 700  # images: three batches of a generator, and one that is not full
MODELS = {"conv": {}, "ladder": {"name": "ladder"}, "of classes": {"classes": 3}}


def _found(images: ImageShards, **model: object) -> dict[str, torch.Tensor]:
    """What an evaluation computes image by image."""
    config = model_config(latent_dim=3, **model)
    torch.manual_seed(0)
    network, extractor = build(config).eval(), Extractor(ExtractorConfig(1, 8, 8, 3, "labels", "residual")).eval()
    some, label_N = images.labelled(COUNT)
    labels = label_N if network.classes else None
    prior = fit_prior(network, some, prior_config(name="normal"), 0, labels)
    generator = Generator(network, config, prior, {})
    mean_ND, logvar_ND = generator.encode(some, labels)
    return {
        "terms": image_terms(network, images, 64, 3),
        "nll": importance_weighted_nll(network, to_model_range(torch.from_numpy(some[:5])), 3, 1, None if labels is None else labels[:5]),
        "mean": mean_ND, "logvar": logvar_ND, "rates": generator.rate_per_dim(some, labels),
        "samples": torch.from_numpy(generator.sample(COUNT, 4)), "copies": torch.from_numpy(generator.reconstruct(some, labels)),
        "features": extractor.features(some), "told": extractor.told(some),
    }  # fmt: skip


def _rank(number: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    root = Path(folder)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting-{size}", rank=number, world_size=size)
    computed = []
    with sharing():
        parts = shared(range(7), lambda part: computed.append(part) or torch.full((part, 2), part))
        for name, model in MODELS.items():
            found = {key: tensor.contiguous() for key, tensor in _found(ImageShards(root / "shards"), **model).items()}
            save_file(found, root / f"{name}-{size}-{number}.safetensors")
    assert parts[:, 0].tolist() == [part for part in range(7) for _ in range(part)]
    assert computed == list(range(number, 7, size))  # its own and no others
    alone = shared(range(2), lambda part: torch.full((1,), 10 * rank() + part))
    assert alone.tolist() == [10 * number, 10 * number + 1]
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """700 images, and what two and three ranks found of them."""
    root = tmp_path_factory.mktemp("ranks")
    writer = ShardWriter(root / "shards", (8, 8, 1), 300)
    writer.add_all(np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 1)).astype(np.uint8))
    writer.close()
    save_labels(root / "shards", np.arange(COUNT) % 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        for size in (2, 3):
            side_by_side(_rank, size, str(root))
    return root


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("model", MODELS)
def test_every_rank_has_what_one_process_finds(folder: Path, model: str, size: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = _found(ImageShards(folder / "shards"), **MODELS[model])
    finally:
        torch.set_num_threads(before)
    for number in range(size):
        together = load_file(folder / f"{model}-{size}-{number}.safetensors")
        assert together.keys() == alone.keys()
        for name, tensor in alone.items():
            assert torch.equal(together[name], tensor), name


def test_sharing_ends_with_its_block_even_by_an_error() -> None:
    with pytest.raises(ZeroDivisionError), sharing():
        raise ZeroDivisionError
    assert shared([1, 2], lambda part: torch.tensor([part])).tolist() == [1, 2]
