"""inpaint: what is known stays to the bit, what is missing is what the model's own pictures have there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from configs import model_config, prior_config
from saved import saved_model
from vae.artefact import Generator
from vae.inpaint import inpainted
from vae.models import build
from vae.samplers import SAMPLERS


@pytest.fixture
def generator() -> Generator:
    """Of pictures that differ much with their latents, and an encoder that knows nothing of them."""
    config = model_config(image_shape=(8, 8, 1), latent_dim=2, hidden_units=32)
    torch.manual_seed(0)
    model = build(config)
    with torch.no_grad():
        for p in model.expand.parameters():
            p.mul_(3)
    return Generator(model, config, SAMPLERS["normal"].fit(torch.zeros(2, 2), prior_config(), 0), {"mode": "L", "labels": []})


def test_missing_half_of_the_models_own_pictures_is_found_again(generator):
    pictures = generator.sample(12, 3)
    missing = np.zeros((12, 8, 8), bool)
    missing[:6, :4], missing[6:, :, 5:] = True, True
    spoilt = np.where(missing[..., None], np.uint8(0), pictures)
    found = inpainted(generator, spoilt, missing)
    np.testing.assert_array_equal(found[~missing], pictures[~missing])

    def error(of: np.ndarray) -> float:
        return float(np.sqrt(np.mean((of.astype(float) - pictures)[missing] ** 2)))

    even = np.broadcast_to(
        (pictures * ~missing[..., None]).sum((1, 2), keepdims=True) / (~missing).sum((1, 2))[:, None, None, None], pictures.shape
    )
    assert error(found) < 0.3 * error(even)


def test_what_lies_below_the_mask_does_not_matter_and_the_seed_decides(generator):
    pictures, missing = generator.sample(3, 1), np.zeros((3, 8, 8), bool)
    missing[:, 2:6, 2:6] = True
    noise = np.random.default_rng(0).integers(0, 256, pictures.shape).astype(np.uint8)
    first, second = (
        inpainted(generator, np.where(missing[..., None], under, pictures), missing, steps=20) for under in (0 * noise, noise)
    )
    np.testing.assert_array_equal(first, second)


def test_what_cannot_be_done_is_told(generator, tmp_path):
    pictures = generator.sample(2, 0)
    with pytest.raises(ValueError, match="everything is missing of picture 1"):
        inpainted(generator, pictures, np.stack([np.eye(8, dtype=bool), np.ones((8, 8), bool)]))
    with pytest.raises(ValueError, match="nothing is missing of picture 0"):
        inpainted(generator, pictures, np.zeros((2, 8, 8), bool))
    with pytest.raises(ValueError, match=r"the mask is \(4, 4\), the pictures are \(8, 8\)"):
        inpainted(generator, pictures, np.ones((2, 4, 4), bool))
    with pytest.raises(ValueError, match="latents without a gradient"):
        inpainted(saved_model(tmp_path / "vq", name="vq"), pictures, np.ones((2, 8, 8), bool))
