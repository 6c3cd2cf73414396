"""Known properties of images (factors, labels) as functions of the latents, and moves that change one of them and keep the others.

A small network reads standardised factors and one-hot labels from the latents, f: R^D -> R^A. A move goes from z to f(z) + delta by
steps of least length, dz = J^+ (goal - f(z)) with J the Jacobian of f (Gauss-Newton with the pseudo-inverse): whatever f does not read
stays, and so does whatever it reads and is not to be moved. Between labels there is nothing to follow a slope along: a label is made by
the step between the mean latents of training images of either label whose factors are nearest, and then the factors are set right as above.
N images, D latents, F factors, L labels, A = F + L.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from vae.files import canonical_json, write_text
from vae.samplers.fitting import one_thread
from vae.samplers.training import Tensors, layers, network, through, trained

TENSORS, NAMES = "attributes.safetensors", "attributes.json"
HIDDEN_UNITS, MOVES = 128, 12
EXAMPLES, NEAR = 2000, 20  # training images whose latents are kept, and how many of a label make a mean
WEAKEST = 1e-2  # of J's singular values, relative to the largest: what f hardly sees is not moved along


class UnknownAttributeError(ValueError):
    """A property that the model does not know, or a value that no training image has."""


def _told(tensors: Tensors, z_ND: Tensor) -> Tensor:
    return through(layers(tensors, "read"), (z_ND - tensors["mean_D"]) / tensors["std_D"])


@dataclass(frozen=True)
class Attributes:
    """``factors`` (F) and ``labels`` (L) that can be moved; ``tensors``: the network, and the factors' mean, std, low and high (F,)."""

    factors: list[str]
    labels: list[str]
    tensors: Tensors

    @classmethod
    @one_thread()
    def fit(
        cls, z_ND: Tensor, factors: Mapping[str, np.ndarray], label_N: Tensor | None, labels: list[str], steps: int, seed: int
    ) -> Attributes | None:
        """Learned from a posterior sample (N, D) of each image and the known values (N,) of each factor, by least squares.

        A function of the arguments.
        A factor that never varies, or that the label decides, is left out; None where nothing is left.
        """
        known = {name: np.asarray(value_N, np.float64) for name, value_N in factors.items()}
        kept = [name for name, value_N in known.items() if np.ptp(value_N) > 0 and not _decided(value_N, label_N)]
        own_labels = labels if label_N is not None and len(labels) > 1 else []
        if not kept and not own_labels:
            return None
        value_NF = torch.from_numpy(np.stack([known[name] for name in kept], 1) if kept else np.zeros((len(z_ND), 0)))
        mean_F = value_NF.mean(0)
        std_F = (value_NF - mean_F).square().mean(0).sqrt()
        parts = [(value_NF - mean_F) / std_F]
        if own_labels:
            assert label_N is not None
            parts.append(F.one_hot(label_N, len(own_labels)).double())
        target_NA = torch.cat(parts, 1).float()
        latents, inputs = z_ND.shape[1], {"mean_D": z_ND.mean(0), "std_D": z_ND.std(0).clamp_min(1e-6)}

        def loss(tensors: Tensors, both: Tensor, progress: float, noise: torch.Generator) -> Tensor:
            return (_told(inputs | tensors, both[:, :latents]) - both[:, latents:]).square().sum(1).mean()

        sizes = (latents, HIDDEN_UNITS, HIDDEN_UNITS, target_NA.shape[1])
        start = network("read", sizes, torch.Generator().manual_seed(seed))
        learned = trained(start, loss, torch.cat([z_ND, target_NA], 1), steps, seed)
        low_F, high_F = (value_NF.amin(0), value_NF.amax(0)) if len(kept) else (mean_F, mean_F)
        scales = {"factor_mean": mean_F, "factor_std": std_F, "factor_low": low_F, "factor_high": high_F}
        tensors = {**learned, **inputs, **{name: value.float() for name, value in scales.items()}}
        if own_labels:
            assert label_N is not None
            some = _examples(label_N, len(own_labels))
            tensors |= {"example_MD": z_ND[some].contiguous(), "example_label_M": label_N[some].contiguous()}
        return cls(kept, own_labels, tensors)

    def ranges(self) -> dict[str, tuple[float, float]]:
        """The least and the greatest value of each factor among the training images."""
        both = zip(self.tensors["factor_low"].tolist(), self.tensors["factor_high"].tolist(), strict=True)
        return dict(zip(self.factors, both, strict=True))

    @torch.no_grad()
    def factors_of(self, z_ND: Tensor) -> Tensor:
        """What is read of each factor (N, F), in its own unit."""
        return _told(self.tensors, z_ND)[:, : len(self.factors)] * self.tensors["factor_std"] + self.tensors["factor_mean"]

    @torch.no_grad()
    def labels_of(self, z_ND: Tensor) -> Tensor:
        """The number (N,) of the label that each is read as."""
        return _told(self.tensors, z_ND)[:, len(self.factors) :].argmax(1)

    def moved(self, z_ND: Tensor, by: Mapping[str, float], label: str | None = None) -> Tensor:
        """Latents (N, D) whose factors differ ``by`` so much, in their own units, and that are of ``label``; all else stays.

        UnknownAttributeError for a name that is none, or a value beyond those of the training images.
        """
        self._check(z_ND, by, label)
        count, goal_NF = len(self.factors), _told(self.tensors, z_ND)[:, : len(self.factors)]
        if label is not None:
            wanted_N = torch.full((len(z_ND),), self.labels.index(label))
            z_ND = z_ND + self._near(goal_NF, wanted_N) - self._near(goal_NF, self.labels_of(z_ND))
        goal_NA = torch.cat([goal_NF, _told(self.tensors, z_ND)[:, count:]], 1)
        for name, change in by.items():
            place = self.factors.index(name)
            goal_NA[:, place] += change / float(self.tensors["factor_std"][place])
        jacobian = torch.func.vmap(torch.func.jacrev(lambda z_D: _told(self.tensors, z_D)))
        for left in range(MOVES, 0, -1):
            short_NA1 = ((goal_NA - _told(self.tensors, z_ND)) / left)[..., None]
            z_ND = z_ND + (torch.linalg.pinv(jacobian(z_ND), rtol=WEAKEST) @ short_NA1)[..., 0]
        return z_ND

    def _near(self, value_NF: Tensor, label_N: Tensor) -> Tensor:
        """The mean latents (N, D) of the training images of each label whose factors are nearest to those values."""
        example_MD, known_M = self.tensors["example_MD"], self.tensors["example_label_M"]
        value_MF, found = _told(self.tensors, example_MD)[:, : len(self.factors)], []
        for value_F, label in zip(value_NF, label_N, strict=True):
            own_M = (known_M == label).nonzero()[:, 0]
            if not len(own_M):
                raise UnknownAttributeError(f"no training image of label {self.labels[int(label)]!r} went with the model")
            near_M = (value_MF[own_M] - value_F).square().sum(1).argsort(stable=True)[: NEAR if self.factors else len(own_M)]
            found.append(example_MD[own_M[near_M]].mean(0))
        return torch.stack(found)

    def _check(self, z_ND: Tensor, by: Mapping[str, float], label: str | None) -> None:
        known = f"known are {', '.join((*self.factors, *self.labels)) or 'none'}"
        unknown = [name for name in by if name not in self.factors] + ([label] if label not in (None, *self.labels) else [])
        if unknown:
            raise UnknownAttributeError(f"{', '.join(map(repr, unknown))}: not among what the model can move; {known}")
        value_NF = self.factors_of(z_ND)
        for name, change in by.items():
            place = self.factors.index(name)
            low, high = float(self.tensors["factor_low"][place]), float(self.tensors["factor_high"][place])
            for number, value in enumerate((value_NF[:, place] + change).tolist()):
                if not low <= value <= high:
                    raise UnknownAttributeError(
                        f"{name} of image {number} would be {value:.3g}: the training images have {low:.3g} to {high:.3g}, move it less"
                    )

    def save(self, directory: Path) -> None:
        """Write both files."""
        save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, directory / TENSORS)
        write_text(directory / NAMES, canonical_json({"factors": self.factors, "labels": self.labels}))

    @classmethod
    def load(cls, directory: Path) -> Attributes | None:
        """Those of an artefact, or None where it has none."""
        if not (directory / NAMES).exists():
            return None
        return cls(**json.loads((directory / NAMES).read_text(encoding="utf-8")), tensors=load_file(directory / TENSORS))


def _examples(label_N: Tensor, labels: int) -> Tensor:
    """Places (M,) of about ``EXAMPLES`` images, of each label equally many where there are so many, spread over them all."""
    each, found = max(NEAR, EXAMPLES // labels), []
    for label in range(labels):
        own = (label_N == label).nonzero()[:, 0]
        found.append(own[:: max(1, len(own) // each)][:each])
    return torch.cat(found)


def _decided(value_N: np.ndarray, label_N: Tensor | None) -> bool:
    """Whether images of one label all have one value."""
    if label_N is None:
        return False
    return all(np.ptp(value_N[label_N.numpy() == label]) == 0 for label in label_N.unique().tolist())
