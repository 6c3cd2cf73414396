"""The small classic: strided convolutions down, the mirror image up. N batch, C channels, H height, W width, D latents.

Space-to-depth at the stem and depth-to-space at the head keep the widest tensors at half the picture's resolution, which is
what makes it fast on a processor. GroupNorm, never BatchNorm: nothing depends on the rest of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential

from vae.config import ModelConfig
from vae.likelihood import LIKELIHOODS
from vae.objective import rate_per_dim, reparameterize

GROUP_CHANNELS = 8  # channels in a normalisation group
RECOMPUTED_SEGMENTS = 4  # of encoder and decoder each: only what lies between them is kept for the backward pass
LOGVAR_LIMIT = 12.0  # keeps exp(logvar) finite in float32 and bfloat16


@dataclass(frozen=True)
class Output:
    """All terms of one forward pass: distortion (N,), rate (N, D) in nats."""

    distortion_N: Tensor
    rate_ND: Tensor


def _norm(channels: int) -> nn.GroupNorm:
    groups = max(1, channels // GROUP_CHANNELS)
    return nn.GroupNorm(groups if channels % groups == 0 else 1, channels)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_norm(channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW + self.body(x_NCHW)


class ConvVAE(nn.Module):
    """Convolutional VAE with a diagonal normal posterior (Kingma and Welling 2014).

    Images are (N, C, H, W) in [-1, 1]; latents (N, D). H and W must divide by ``2 ** len(widths)``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        height, width, channels = config.image_shape
        widths, strides = config.widths, 2 ** len(config.widths)
        self.latent_dim, self.recompute = config.latent_dim, False
        self.bottom = (widths[-1], height // strides, width // strides)
        flat = self.bottom[0] * self.bottom[1] * self.bottom[2]

        down: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(4 * channels, widths[0], 3, padding=1)]
        for before, after in pairwise(widths):
            down += [_norm(before), nn.SiLU(), nn.Conv2d(before, after, 4, stride=2, padding=1)]
        self.encoder = nn.Sequential(
            *down, _Residual(widths[-1]), _norm(widths[-1]), nn.SiLU(), nn.Flatten(),
            nn.Linear(flat, config.hidden_units), nn.SiLU(), nn.Linear(config.hidden_units, 2 * config.latent_dim),
        )  # fmt: skip
        up: list[nn.Module] = [_Residual(widths[-1])]
        for before, after in pairwise(widths[::-1]):
            up += [_norm(before), nn.SiLU(), nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)]
        self.expand = nn.Sequential(
            nn.Linear(config.latent_dim, config.hidden_units), nn.SiLU(), nn.Linear(config.hidden_units, flat)
        )
        self.decoder = nn.Sequential(
            *up, _norm(widths[0]), nn.SiLU(), nn.Conv2d(widths[0], 4 * channels, 3, padding=1), nn.PixelShuffle(2)
        )
        self.likelihood = LIKELIHOODS[config.likelihood](channels)

    @staticmethod
    def problem(config: ModelConfig) -> str | None:
        """Why this network cannot take such images, or None."""
        height, width, _ = config.image_shape
        strides = 2 ** len(config.widths)
        if height % strides or width % strides:
            return (
                f"images of {height}x{width} pixels do not divide by {strides} (2 to the {len(config.widths)} widths): "
                f"set base.image_size to a multiple of {strides}, or fewer fit.widths"
            )
        return None

    def _through(self, layers: nn.Sequential, x: Tensor) -> Tensor:
        if not (self.recompute and torch.is_grad_enabled()):
            return layers(x)
        return checkpoint_sequential(layers, RECOMPUTED_SEGMENTS, x, use_reentrant=False, preserve_rng_state=False)

    def encode(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and log-variance, each (N, D)."""
        mean_ND, logvar_ND = self._through(self.encoder, x_NCHW).float().chunk(2, dim=1)
        return mean_ND, logvar_ND.clamp(-LOGVAR_LIMIT, LOGVAR_LIMIT)

    def decode(self, z_ND: Tensor) -> Tensor:
        """The likelihood's parameters (N, C, H, W) for latents (N, D)."""
        return self._through(self.decoder, self.expand(z_ND).unflatten(1, self.bottom)).float()

    def forward(self, x_NCHW: Tensor, noise_ND: Tensor) -> Output:
        """All terms of the bound for one posterior sample made of ``noise_ND`` (standard normal), unreduced, in nats."""
        mean_ND, logvar_ND = self.encode(x_NCHW)
        output_NCHW = self.decode(reparameterize(mean_ND, logvar_ND, noise_ND))
        return Output(-self.likelihood.log_prob(output_NCHW, x_NCHW), rate_per_dim(mean_ND, logvar_ND))

    def sample(self, z_ND: Tensor) -> Tensor:
        """The mean images (N, C, H, W) in [-1, 1] of latents (N, D)."""
        return self.likelihood.mean(self.decode(z_ND))
