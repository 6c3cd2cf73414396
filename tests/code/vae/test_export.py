"""Other runtimes: what they compute is what PyTorch computes, whatever the number of rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saved import saved_model
from vae.artefact import Generator
from vae.export import OUTPUTS, PARTS, ExportError, feeds, program, session, write_integers, write_onnx
from vae.images import to_model_range

IMAGES = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3)).astype(np.uint8)


def told(generator: Generator) -> Generator:
    """All weights say something: those that begin at zero, too."""
    torch.manual_seed(1)
    for parameter in generator.model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return generator


def inputs(generator: Generator, part: str, count: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    label_N = torch.arange(count) % generator.config.classes if generator.config.classes else None
    if part == "encoder":
        return to_model_range(torch.from_numpy(IMAGES[:count])), label_N
    return torch.randn(count, generator.model.latent_dim), label_N


def of_torch(generator: Generator, part: str, rows: torch.Tensor, label_N: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return (generator.model.sample(rows, label_N),) if part == "decoder" else generator.model.encode(rows, label_N)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("name", "classes"), [("conv", 0), ("conv", 3), ("resnet", 0), ("ladder", 0), ("classifier_encoder", 0)])
def test_onnx_computes_what_pytorch_computes(tmp_path, name, classes, part):
    generator = told(saved_model(tmp_path / "m", classes, name=name))
    write_onnx(generator, part, tmp_path / "part.onnx")
    runs = session(tmp_path / "part.onnx", 1)
    assert [each.name for each in runs.get_outputs()] == OUTPUTS[part]
    for count in (1, 3, 16):
        rows, label_N = inputs(generator, part, count)
        found = runs.run(None, feeds(generator, part, rows, label_N))
        for ours, theirs in zip(of_torch(generator, part, rows, label_N), found, strict=True):
            assert np.abs(ours.numpy() - theirs).max() <= 1e-4 and theirs.shape[0] == count


@pytest.mark.parametrize("part", PARTS)
def test_program_computes_what_pytorch_computes(tmp_path, part):
    generator = told(saved_model(tmp_path / "m", classes=3))
    torch.export.save(program(generator, part), tmp_path / "part.pt2")
    module = torch.export.load(tmp_path / "part.pt2").module()
    for count in (1, 5):
        rows, label_N = inputs(generator, part, count)
        for ours, theirs in zip(of_torch(generator, part, rows, label_N), module(rows, label_N), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_integers_are_smaller_and_near(tmp_path):
    generator = told(saved_model(tmp_path / "m", widths=(32, 64), hidden_units=256))
    write_onnx(generator, "decoder", tmp_path / "whole.onnx")
    calibration = ({"latents": generator.latents(32, seed).numpy()} for seed in range(8))
    write_integers(tmp_path / "whole.onnx", tmp_path / "small.onnx", calibration)
    assert (tmp_path / "small.onnx").stat().st_size < (tmp_path / "whole.onnx").stat().st_size / 2.5
    z_ND = generator.latents(64, 100)
    (found,) = session(tmp_path / "small.onnx", 1).run(None, {"latents": z_ND.numpy()})
    expected = of_torch(generator, "decoder", z_ND, None)[0].numpy()
    error, spread = np.abs(found - expected).mean(), expected.std()
    assert 0 < error < 0.1 * spread


def test_network_that_cannot_be_traced_is_refused_in_a_sentence(tmp_path):
    generator = saved_model(tmp_path / "m")

    def sample(z_ND, label_N=None):
        return torch.zeros(len(z_ND), 3, 8, 8) if z_ND.sum() > 0 else torch.ones(len(z_ND), 3, 8, 8)

    generator.model.sample = sample  # which way depends on the data
    with pytest.raises(ExportError, match="the decoder of conv cannot be exported: ") as caught:
        program(generator, "decoder")
    assert "\n" not in str(caught.value)
