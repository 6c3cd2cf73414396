"""What networks with one vector of latents share, whatever is inside them. N batch, C channels, H height, W width, D latents."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor, nn

from vae.config import ModelConfig
from vae.models.base import VAE, bounded, full
from vae.models.blocks import OfClass
from vae.models.layout import CHANNELS_IN, CHANNELS_OUT, FIXED, SIDE_IN, SIDE_OUT, UNITS, Axes, Place, key_of, plain

TAIL = 4  # layers of ``to_latents``


class VectorVAE(VAE):
    """A network sets ``encoder`` (images to both halves of the posterior), ``expand`` (latents to the coarsest map) and ``decoder``.

    The class of an image, where there are classes, is known to the posterior and to the first layer of ``expand``.
    """

    encoder: nn.Sequential
    expand: nn.Sequential
    decoder: nn.Sequential

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        height, width, self.channels = config.image_shape
        strides = 2 ** len(config.widths)
        self.latent_dim, self.classes = config.latent_dim, config.classes
        self.bottom = (config.widths[-1], height // strides, width // strides)
        self.class_in_latents = OfClass(config.classes, 2 * config.latent_dim)
        self.class_in_picture = OfClass(config.classes, config.hidden_units)

    def to_latents(self, config: ModelConfig) -> list[nn.Module]:
        """The encoder's end, from the coarsest map to both halves of the posterior."""
        return [
            nn.Flatten(), nn.Linear(math.prod(self.bottom), config.hidden_units), nn.SiLU(),
            nn.Linear(config.hidden_units, 2 * config.latent_dim),
        ]  # fmt: skip

    def from_latents(self, config: ModelConfig) -> nn.Sequential:
        """``expand``, its way back."""
        return nn.Sequential(
            nn.Linear(config.latent_dim, config.hidden_units), nn.SiLU(), nn.Linear(config.hidden_units, math.prod(self.bottom))
        )

    def layout(self) -> dict[str, Place]:
        """Layers are counted from the picture, those about the latents from the latents: so models of other depths agree on most."""
        ahead, last, side = len(self.encoder) - TAIL, len(self.decoder), self.bottom[1:]
        owners = {f"encoder.{i}": f"encoder.{i}" if i < ahead else f"to_latents.{i - ahead}" for i in range(ahead + TAIL)}
        owners |= {f"expand.{i}": f"expand.{i}" for i in range(len(self.expand))}
        owners |= {f"decoder.{i}": f"decoder.{i - last}" for i in range(last)}
        depths = self._depths(list(owners)[: ahead + TAIL][::-1]) | self._depths(list(owners)[ahead + TAIL :])
        found = {}
        for name, tensor in self.state_dict().items():
            part = ".".join(name.split(".")[:2])
            if part not in owners:
                found[name] = self._other(name, tensor, max(depths.values()))
                continue
            place = plain(key_of(owners[part], self.get_submodule(part), name[len(part) :]), tuple(tensor.shape), depths[part])
            found[name] = replace(place, axes=self._axes(owners[part], place.axes, side))
        return found

    def _depths(self, parts: list[str]) -> dict[str, int]:
        """Of parts in their order from the latents: how many with weights lie before each."""
        weighted = [any(p.ndim > 1 for p in self.get_submodule(part).parameters()) for part in parts]
        return {part: min(sum(weighted[:i]), sum(weighted) - 1) for i, part in enumerate(parts)}

    def _other(self, name: str, tensor: Tensor, last: int) -> Place:
        """Of a tensor in none of the three: the likelihood's, or a row for each class."""
        shape = tuple(tensor.shape)
        if name.startswith("likelihood"):
            return Place(name, tuple(((CHANNELS_OUT, size),) for size in shape), last)
        return replace(plain(name, shape), axes=(((FIXED, shape[0]),), *plain(name, shape).axes[1:]))

    def _axes(self, key: str, axes: Axes, side: tuple[int, ...]) -> Axes:
        """What is not just units: pictures' channels, the grid at the bottom, both halves of the posterior."""
        grid_in, grid_out = (tuple((kind, size) for size in side) for kind in (SIDE_IN, SIDE_OUT))
        match key:
            case "encoder.1" if len(axes) > 1:
                return axes[0], ((CHANNELS_IN, axes[1][0][1] // 4), (FIXED, 4)), *axes[2:]
            case "to_latents.1" if len(axes) > 1:
                return axes[0], ((UNITS, self.bottom[0]), *grid_in)
            case "to_latents.3":
                return ((FIXED, 2), (UNITS, self.latent_dim)), *axes[1:]
            case "expand.2":
                return ((UNITS, self.bottom[0]), *grid_out), *axes[1:]
            case "decoder.-2":
                return ((self._outputs(), axes[0][0][1] // 4), (FIXED, 4)), *axes[1:]
        return axes

    def _outputs(self) -> str:
        """What the decoder's outputs count: colours, where the likelihood wants one number for each."""
        return CHANNELS_OUT if self.likelihood.output_channels == self.channels else FIXED

    def observe(self, x_NCHW: Tensor, label_N: Tensor | None = None) -> tuple[Tensor, ...]:
        return bounded(self.class_in_latents(self._through(self.encoder, x_NCHW), label_N))

    def decode(self, z_ND: Tensor, label_N: Tensor | None = None) -> Tensor:
        hidden_NC = self.class_in_picture(self.expand[0](z_ND), label_N)
        return full(self._through(self.decoder, self.expand[1:](hidden_NC).unflatten(1, self.bottom)))
