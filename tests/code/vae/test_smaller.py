"""Smaller networks: what is cut is what says least, and a pupil comes to do what its teacher does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saved import saved_model
from vae.artefact import Generator
from vae.data import ImageShards, ShardWriter, save_labels
from vae.images import to_model_range
from vae.smaller import halved, pruned, student, taught

COUNT = 200


def images(folder, classes: int) -> ImageShards:
    folder.mkdir()
    pictures = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3)).astype(np.uint8)
    writer = ShardWriter(folder, (8, 8, 3), COUNT)
    writer.add_all(pictures)
    writer.close()
    if classes:
        save_labels(folder, np.arange(COUNT) % classes)
    return ImageShards(folder)


def louder(generator: Generator) -> Generator:
    """Latents and pictures that vary."""
    torch.manual_seed(2)
    for parameter in generator.model.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    return generator


def apart(teacher: Generator, model: torch.nn.Module, train: ImageShards) -> float:
    pixels, label_N = train.labelled(100)
    x_NCHW, label_N = to_model_range(torch.from_numpy(pixels)), label_N if teacher.config.classes else None
    with torch.no_grad():
        wanted = teacher.model.sample(teacher.model.encode(x_NCHW, label_N)[0], label_N)
        found = model.sample(model.encode(x_NCHW, label_N)[0], label_N)
    return float((found - wanted).square().mean() / (wanted - wanted.mean(0)).square().mean())


@pytest.mark.parametrize("classes", [0, 3])
def test_units_that_say_nothing_are_cut_without_loss(tmp_path, classes):
    teacher = louder(saved_model(tmp_path / "m", classes, hidden_units=16))
    quiet = torch.randperm(16, generator=torch.Generator().manual_seed(1))[:8]
    model = teacher.model
    for layer in (model.encoder[-1], model.expand[2]):
        layer.weight[:, quiet] = 0
    cut, config = pruned(teacher)
    assert config.hidden_units == 8 and sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in model.parameters())
    assert apart(teacher, cut.eval(), images(tmp_path / "i", classes)) < 1e-9


def test_network_without_hidden_units_is_told(tmp_path):
    with pytest.raises(ValueError, match="ladder has no hidden units"):
        pruned(saved_model(tmp_path / "m", name="ladder"))


@pytest.mark.parametrize("classes", [0, 3])
def test_pupil_comes_to_do_what_its_teacher_does(tmp_path, classes):
    teacher, train = louder(saved_model(tmp_path / "m", classes)), images(tmp_path / "i", classes)
    pupil, config = student(teacher, 0)
    assert config == halved(teacher.config) and config.widths == (4, 8)
    before, heard = apart(teacher, pupil.eval(), train), []
    taught(teacher, pupil, train, 64 * 150, 0, lambda done, of: heard.append((done, of)))
    assert heard[-1] == (150, 150) and len(heard) == 150
    assert apart(teacher, pupil, train) < 0.5 * before
    again, _ = student(teacher, 0)
    taught(teacher, again, train, 64 * 150, 0, lambda done, of: None)
    assert all(torch.equal(a, b) for a, b in zip(pupil.parameters(), again.parameters(), strict=True))
