"""Small trained-looking models for tests of what is done with one."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from configs import model_config, prior_config
from vae.artefact import Generator, load_artefact, save_artefact
from vae.attributes import Attributes
from vae.codec.tables import Tables
from vae.decode import Rules
from vae.known import Known
from vae.models import build
from vae.samplers import fit_prior

RULES = Rules(height=8, width=8, mode="", fit="crop", filter="lanczos", background=(255, 255, 255), min_side_pixels=4,
              max_aspect_ratio=5.0, max_pixels=10_000)  # fmt: skip


def some_attributes() -> Attributes | None:
    """Of three latents: height is one of them and a little of another one, the third says which label."""
    z_ND = torch.randn(600, 3, generator=torch.Generator().manual_seed(0))
    height, side_N = 10 + 2 * z_ND[:, 0] + 0.3 * z_ND[:, 1], (z_ND[:, 2] > 0).long()
    return Attributes.fit(z_ND, {"height": height.numpy()}, side_N, ["left", "right"], 400, 0)


def saved_model(
    folder: Path,
    classes: int = 0,
    seed: int = 0,
    mode: str = "RGB",
    denoise_levels: float = 0.0,
    attributes: bool = False,
    tables: bool = False,
    **changes: object,
) -> Generator:
    """A model of random weights for images of 8 x 8, in a new ``folder``; its labels are ape, bee, cat, it knows 60 images by name.

    With ``attributes`` it reads a factor, height, and two labels, left and right, from its latents; with ``tables`` it can compress.
    """
    shape = (8, 8, len(mode))
    config = model_config(image_shape=shape, latent_dim=3, classes=classes, **changes)
    torch.manual_seed(seed)
    model = build(config).eval()
    images = np.random.default_rng(0).integers(0, 256, (60, *shape)).astype(np.uint8)
    labels = torch.arange(60) % classes if classes else None
    prior = fit_prior(model, images, prior_config(name="normal"), 0, labels)
    folder.mkdir(parents=True)
    names = ["ape", "bee", "cat"][:classes]
    rules = asdict(replace(RULES, mode=mode))
    contract = {"mode": mode, "image_shape": list(shape), "labels": names, "rules": rules, "denoise_levels": denoise_levels}
    generator = Generator(model, config, prior, contract)
    generator.known = Known([f"{i:02d}.png" for i in range(60)], generator.encode(images, labels)[0])
    if attributes:
        generator.attributes = some_attributes()
    if tables:
        generator.tables = Tables.fit(model, images)
    save_artefact(folder, generator)
    return load_artefact(folder)
