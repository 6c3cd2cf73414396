"""The trained model as files: weights and fitted prior as safetensors, the rest as JSON, hashes in a manifest. No pickle.

``Generator`` is what a user holds: images in and out are uint8 (N, H, W, C), latents float32 (N, D), class numbers int64 (N,): of
a class-conditional model they are asked for wherever images or latents are given.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vae.attributes import Attributes
from vae.codec.tables import Tables
from vae.config import ModelConfig
from vae.data import Selection
from vae.distributed import shared
from vae.files import DamagedError, canonical_json, read_manifest, write_manifest, write_text
from vae.images import to_model_range, to_uint8
from vae.known import Known
from vae.models import build
from vae.models.base import VAE
from vae.noise import step_noise
from vae.samplers import SAMPLERS, Sampler
from vae.samplers.by_class import ByClass
from vae.validation import observed

WEIGHTS, PRIOR, CONFIG = "model.safetensors", "prior.safetensors", "config.json"
BATCH = 256


def _batches(count: int) -> list[slice]:
    return [slice(start, start + BATCH) for start in range(0, count, BATCH)]


class Generator:
    """A trained model with its prior and its preprocessing contract, for use: no gradient, one batch at a time."""

    def __init__(
        self,
        model: VAE,
        config: ModelConfig,
        prior: Sampler | ByClass,
        contract: dict[str, Any],
        known: Known | None = None,
        attributes: Attributes | None = None,
        tables: Tables | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.config, self.prior, self.contract = config, prior, contract
        self.known, self.attributes, self.tables = known, attributes, tables
        self.device = next(model.parameters()).device

    def to(self, device: str) -> Generator:
        """This one, its network on ``device``; the prior stays where it is."""
        self.device = next(self.model.to(device).parameters()).device
        return self

    def _of_each(
        self,
        images_NHWC: np.ndarray | Tensor | Selection,
        label_N: Tensor | None,
        compute: Callable[[Tensor, Tensor | None, slice], Tensor],
    ) -> Tensor:
        """``compute`` of all images in model range, a batch at a time: images, labels, and which rows they are."""
        shape = tuple(images_NHWC.shape[1:])
        if shape != tuple(self.config.image_shape):
            raise ValueError(f"images are {shape}, the model takes {tuple(self.config.image_shape)} (H, W, C)")

        def of_rows(rows: slice) -> Tensor:
            part = images_NHWC[rows]
            if isinstance(part, np.ndarray) and not part.flags.writeable:  # as Pillow lends them; torch would warn
                part = part.copy()
            x_NCHW = to_model_range(torch.as_tensor(part).to(self.device))
            return compute(x_NCHW, self._labels(label_N, rows), rows)

        return shared(_batches(len(images_NHWC)), of_rows).cpu()

    def _labels(self, label_N: Tensor | None, rows: slice) -> Tensor | None:
        return None if label_N is None else label_N[rows].to(self.device)

    def classes(self, n: int, seed: int) -> Tensor | None:
        """``n`` class numbers, as frequent as among the training images: a function of the arguments. None: a model without classes."""
        return self.prior.classes(n, torch.Generator().manual_seed(seed)) if isinstance(self.prior, ByClass) else None

    @torch.no_grad()
    def latents(self, n: int, seed: int, temperature: float = 1.0, label_N: Tensor | None = None) -> Tensor:
        """``n`` latents (n, D) of the prior: a function of the arguments. ``label_N``: theirs, of a class-conditional model."""
        generator = torch.Generator().manual_seed(seed)
        if not isinstance(self.prior, ByClass):
            return self.prior.sample(n, generator, temperature)
        if label_N is None or len(label_N) != n:
            raise ValueError("this model is class-conditional: give the class number of every latent")
        return self.prior.sample(label_N, generator, temperature)

    @torch.no_grad()
    def decode(self, z_ND: Tensor, label_N: Tensor | None = None) -> np.ndarray:
        """Images of latents."""
        if not len(z_ND):
            return np.zeros((0, *self.config.image_shape), np.uint8)

        def of_rows(rows: slice) -> Tensor:
            return to_uint8(self.model.sample(z_ND[rows].to(self.device), self._labels(label_N, rows))).cpu()

        return shared(_batches(len(z_ND)), of_rows).numpy()

    def sample(self, n: int, seed: int, temperature: float = 1.0, label_N: Tensor | None = None) -> np.ndarray:
        """``n`` new images; of a class-conditional model of these classes, or else of ``classes(n, seed)``."""
        label_N = self.classes(n, seed) if label_N is None else label_N
        return self.decode(self.latents(n, seed, temperature, label_N), label_N)

    @torch.no_grad()
    def encode(self, images_NHWC: np.ndarray | Tensor | Selection, label_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Posterior mean and log-variance, each (N, D)."""
        both_N2D = self._of_each(images_NHWC, label_N, lambda x_NCHW, labels, _: torch.cat(self.model.encode(x_NCHW, labels), 1))
        mean_ND, logvar_ND = both_N2D.chunk(2, 1)
        return mean_ND.contiguous(), logvar_ND.contiguous()

    def nearest(self, images_NHWC: np.ndarray | Tensor, label_N: Tensor | None = None, count: int = 5) -> np.ndarray:
        """The training images nearest to each (N, count), fields ``name`` and ``distance``; ValueError where the model knows none."""
        if self.known is None:
            raise ValueError("this model knows no training images: it was trained with train.known_images 0, or was made smaller")
        return self.known.nearest(self.encode(images_NHWC, label_N)[0], count)

    def reconstruct(self, images_NHWC: np.ndarray | Tensor, label_N: Tensor | None = None) -> np.ndarray:
        """The images of the posterior means."""
        return self.decode(self.encode(images_NHWC, label_N)[0], label_N)

    @torch.no_grad()
    def average(self, images_NHWC: np.ndarray | Tensor, samples: int, label_N: Tensor | None = None, seed: int = 0) -> np.ndarray:
        """The mean of ``samples`` images that the posterior of each draws: f(image, seed), whatever its place.

        Samples come in pairs of opposite noise, which errs less than as many without regard to one another.
        """

        def mean_NCHW(x_NCHW: Tensor, labels: Tensor | None, _: slice) -> Tensor:
            seen, total = self.model.observe(x_NCHW, labels), torch.zeros_like(x_NCHW)
            for number in range(samples):
                sign = 1 - 2 * (number % 2)
                noise_1D = sign * step_noise(seed, number // 2, (1, self.model.latent_dim), self.device)
                found = self.model.infer(seen, noise_1D.expand(len(x_NCHW), -1))
                total += self.model.likelihood.mean(self.model.output_of(found, labels))
            return to_uint8(total / samples)

        if not len(images_NHWC):
            return np.zeros((0, *self.config.image_shape), np.uint8)
        return self._of_each(images_NHWC, label_N, mean_NCHW).numpy()

    @torch.no_grad()
    def bound(self, images_NHWC: np.ndarray | Tensor, label_N: Tensor | None = None, seed: int = 0) -> Tensor:
        """The beta = 1 bound of each image (N,), float64, in nats, by one posterior sample: f(image, place, seed).

        How likely the model finds it: a low one is an image unlike those of the training.
        """
        noise_ND = step_noise(seed, 0, (len(images_NHWC), self.model.latent_dim), self.device)

        def elbo_N(x_NCHW: Tensor, labels: Tensor | None, rows: slice) -> Tensor:
            terms = self.model(observed(self.model, x_NCHW, seed, rows.start), noise_ND[rows], labels)
            return -(terms.distortion_N.double() + terms.rate_ND.double().sum(1))

        return self._of_each(images_NHWC, label_N, elbo_N)

    @torch.no_grad()
    def rate_per_dim(self, images_NHWC: np.ndarray | Tensor, label_N: Tensor | None = None) -> Tensor:
        """Mean rate of each latent dimension over the images (D,), in nats; of a hierarchy along its means."""

        def rate_ND(x_NCHW: Tensor, labels: Tensor | None, rows: slice) -> Tensor:
            seen = self.model.observe(x_NCHW, labels)
            return self.model.infer(seen, seen[0].new_zeros(len(x_NCHW), self.model.latent_dim)).rate_ND()

        return self._of_each(images_NHWC, label_N, rate_ND).mean(0)


def save_description(directory: Path, generator: Generator) -> None:
    """What every form of a model has beside its networks: the prior, and what ``config.json`` says of the three."""
    save_file({k: v.contiguous() for k, v in generator.prior.tensors.items()}, directory / PRIOR)
    described = {"model": asdict(generator.config), "prior": generator.prior.name, "preprocessing": generator.contract}
    write_text(directory / CONFIG, canonical_json(described))


def save_artefact(directory: Path, generator: Generator) -> str:
    """Write all files into ``directory`` (which exists and is empty); returns the manifest's sha256."""
    save_file({k: v.contiguous().cpu() for k, v in generator.model.state_dict().items()}, directory / WEIGHTS)
    save_description(directory, generator)
    for part in (generator.known, generator.attributes, generator.tables):
        if part is not None:
            part.save(directory)
    return write_manifest(directory)


def load_artefact(directory: Path) -> Generator:
    """The model in ``directory``; DamagedError where a file differs from its hash, or was written by another version of this code."""
    read_manifest(directory)
    described = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    try:
        config = ModelConfig.of(described["model"])
        with torch.random.fork_rng(devices=[]):
            model = build(config)
        model.load_state_dict(load_file(directory / WEIGHTS))
        kind, tensors = SAMPLERS[described["prior"]], load_file(directory / PRIOR)
        prior = ByClass.load(kind, tensors) if config.classes else kind(tensors)
        parts = Known.load(directory), Attributes.load(directory), Tables.load(directory)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        what = " ".join(str(error).split())
        raise DamagedError(
            f"{directory} is of another version of this code ({what}): remove it and run `dvc repro` again"
        ) from None
    return Generator(model, config, prior, described["preprocessing"], *parts)
