"""artefact: what was saved is what is loaded, and nothing in the files can run."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from configs import prior_config
from vae.artefact import BATCH, Generator, load_artefact, save_artefact
from vae.config import ModelConfig
from vae.data import ImageShards
from vae.files import MANIFEST, DamagedError, canonical_json, write_manifest
from vae.known import Known
from vae.models import build
from vae.samplers import SAMPLERS

FILES = ["config.json", "known.json", "known.safetensors", "model.safetensors", "prior.safetensors"]
CONTRACT = {"image_size": 8, "mode": "L"}


def make(model_config: ModelConfig, prior: str, directory: Path) -> Generator:
    torch.manual_seed(0)
    model = build(model_config)
    sampler = SAMPLERS[prior].fit(torch.randn(200, 3), prior_config(), seed=0)
    directory.mkdir()
    known = Known(["a", "b", "c", "d"], torch.randn(4, 3))
    generator = Generator(model, model_config, sampler, CONTRACT, known)
    save_artefact(directory, generator)
    return generator


@pytest.fixture
def original(model_config: ModelConfig, tmp_path: Path) -> Generator:
    return make(model_config, "mixture", tmp_path / "artefact")


@pytest.mark.parametrize("prior", SAMPLERS)
def test_artefact_loaded_gives_identical_images_and_latents(
    model_config: ModelConfig, prior: str, tmp_path: Path, shards: ImageShards
) -> None:
    original = make(model_config, prior, tmp_path / "artefact")
    loaded = load_artefact(tmp_path / "artefact")
    assert loaded.config == model_config and loaded.contract == CONTRACT and loaded.prior.name == prior
    images = shards.slice(0, 20)
    np.testing.assert_array_equal(loaded.sample(9, seed=3, temperature=0.8), original.sample(9, seed=3, temperature=0.8))
    np.testing.assert_array_equal(loaded.reconstruct(images), original.reconstruct(images))
    for ours, theirs in zip(loaded.encode(images), original.encode(images), strict=True):
        assert torch.equal(ours, theirs)
    np.testing.assert_array_equal(loaded.nearest(images, count=3), original.nearest(images, count=3))


def test_artefact_same_model_gives_the_same_bytes(model_config: ModelConfig, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make(model_config, "mixture", tmp_path / name)
    assert [p.name for p in sorted((tmp_path / "a").iterdir())] == sorted([*FILES, MANIFEST])
    for name in (*FILES, MANIFEST):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_artefact_files_are_safetensors_and_json_only(original: Generator, tmp_path: Path) -> None:
    for path in (tmp_path / "artefact").iterdir():
        if path.suffix == ".safetensors":
            assert load_file(path)
        else:
            assert path.suffix == ".json" and path.read_text().startswith(("{", "["))
        with pytest.raises(Exception, match=r"pickle|UNPICKL|invalid load key|opcode|unpickl|stack|truncated|EOF"):
            pickle.loads(path.read_bytes())


class _Payload:
    """Unpickling this makes a directory: the trace of code that ran."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_load_artefact_pickle_in_the_place_of_a_file_is_damage_and_does_not_run(
    original: Generator, tmp_path: Path, name: str, writer: str
) -> None:
    trace, path = tmp_path / "ran", tmp_path / "artefact" / name
    if writer == "pickle":
        path.write_bytes(pickle.dumps(_Payload(trace)))
    else:
        torch.save(_Payload(trace), path)
    with pytest.raises(DamagedError, match=name):
        load_artefact(path.parent)
    assert not trace.exists()
    with path.open("rb") as stream:  # the payload is live: a loader that unpickles does run it
        pickle.load(stream) if writer == "pickle" else torch.load(stream, weights_only=False)
    assert trace.exists()


@pytest.mark.parametrize("name", FILES)
def test_load_artefact_pickle_with_a_fitting_manifest_does_not_run_either(original: Generator, tmp_path: Path, name: str) -> None:
    trace, path = tmp_path / "ran", tmp_path / "artefact" / name
    path.write_bytes(pickle.dumps(_Payload(trace)))
    write_manifest(path.parent)
    with pytest.raises(Exception, match=r"header|codec|JSON|[Ee]xpecting"):
        load_artefact(path.parent)
    assert not trace.exists()


@pytest.mark.parametrize("name", FILES)
def test_load_artefact_flipped_byte_is_damage(original: Generator, tmp_path: Path, name: str) -> None:
    path = tmp_path / "artefact" / name
    whole = path.read_bytes()
    for position in np.linspace(0, len(whole) - 1, 20).astype(int):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        with pytest.raises(DamagedError, match=name):
            load_artefact(path.parent)


def test_load_artefact_leaves_the_global_generator_alone(original: Generator, tmp_path: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load_artefact(tmp_path / "artefact")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("key", "value"), [("blocks", None), ("likelihood", "unheard_of"), ("widths", [8, 8])])
def test_load_of_another_versions_artefact_says_so(original: Generator, tmp_path: Path, key: str, value: object) -> None:
    save_artefact(tmp_path, original)
    described = json.loads((tmp_path / "config.json").read_text())
    described["model"] = {k: v for k, v in described["model"].items() if k != key} | ({key: value} if value else {})
    (tmp_path / "config.json").write_text(canonical_json(described))
    write_manifest(tmp_path)
    with pytest.raises(DamagedError, match=r"another version of this code .*dvc repro"):
        load_artefact(tmp_path)


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 16, 16, 1), (2, 1, 8, 8), (8, 8, 1), (2, 8, 8)])
def test_generator_images_of_the_wrong_shape_are_refused_with_both_shapes(original: Generator, shape: tuple[int, ...]) -> None:
    for method in (original.encode, original.reconstruct, original.rate_per_dim):
        with pytest.raises(ValueError, match=r"the model takes \(8, 8, 1\)"):
            method(np.zeros(shape, np.uint8))


def test_generator_float_images_are_refused(original: Generator) -> None:
    with pytest.raises(ValueError, match="uint8"):
        original.encode(np.zeros((2, 8, 8, 1), np.float32))


def test_generator_sample_is_uint8_of_the_models_shape_and_a_function_of_the_seed(original: Generator) -> None:
    images = original.sample(5, seed=1)
    assert images.dtype == np.uint8 and images.shape == (5, 8, 8, 1)
    np.testing.assert_array_equal(images, original.sample(5, seed=1))
    assert (images != original.sample(5, seed=2)).any()


@pytest.mark.parametrize("prior", SAMPLERS)
def test_generator_sample_of_no_images_is_empty(model_config: ModelConfig, prior: str, tmp_path: Path) -> None:
    assert make(model_config, prior, tmp_path / "artefact").sample(0, seed=1).shape == (0, 8, 8, 1)


def test_generator_many_images_pass_in_batches_in_their_order(original: Generator) -> None:
    z_ND = original.latents(BATCH + 5, seed=0)
    whole = original.decode(z_ND).astype(int)
    assert len(whole) == BATCH + 5
    # One level of difference is rounding: kernels differ with the size of the batch.
    assert np.abs(whole[BATCH - 2 :] - original.decode(z_ND[BATCH - 2 :])).max() <= 1
    mean_ND, _ = original.encode(whole.astype(np.uint8))
    torch.testing.assert_close(
        mean_ND[BATCH - 2 :], original.encode(whole[BATCH - 2 :].astype(np.uint8))[0], rtol=1e-4, atol=1e-5
    )


def test_generator_reconstruct_decodes_the_posterior_mean(original: Generator, shards: ImageShards) -> None:
    images = shards.slice(0, 4)
    np.testing.assert_array_equal(original.reconstruct(images), original.decode(original.encode(images)[0]))


def test_generator_rate_per_dim_is_the_mean_kl(original: Generator, shards: ImageShards) -> None:
    mean_ND, logvar_ND = original.encode(shards.slice(0, 50))
    q = torch.distributions.Normal(mean_ND, (logvar_ND / 2).exp())
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0, 1)).mean(0)
    torch.testing.assert_close(original.rate_per_dim(shards.slice(0, 50)), expected, rtol=1e-4, atol=1e-6)


def test_generator_holds_a_frozen_model(original: Generator) -> None:
    assert not original.model.training and not any(p.requires_grad for p in original.model.parameters())
