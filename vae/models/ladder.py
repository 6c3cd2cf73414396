"""Layers of latents, each given the ones above it, from coarse to fine. N batch, C channels, Z latents at a place, H, W, D all latents.

Bottom-up the encoder makes a feature map at each resolution. Top-down one network, the same for inference and generation,
starts from a learned constant; layer l has of its state h_l

    prior      p(z_l | z_<l)    = N(m_l, s_l^2),                       m_l, s_l of h_l; N(0, I) at the top
    posterior  q(z_l | z_<l, x) = N(m_l + s_l a_l, s_l^2 exp(b_l)),    a_l, b_l of h_l and the features

and h_{l+1} of h_l and z_l = m_l + s_l e_l. What the rest of the house calls latents are the e_l: N(0, I) under the prior and
N(a_l, exp(b_l)) under the posterior. The map from e to z is the same for both, so their ratio and KL are those of z, exactly.
Soenderby et al., Ladder Variational Autoencoders, 2016; Vahdat and Kautz, NVAE, 2020 (posterior relative to the prior); Child,
Very Deep VAEs, 2021 (one top-down network).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vae.config import ModelConfig
from vae.models.base import VAE, Draw, Posterior, bounded, full, likelihood, norm, strides_problem
from vae.models.blocks import OfClass, Residual, halve, head, silent, stem

MOST_LATENTS = 2**20  # of an image: a batch of 64 then holds 256 MiB of noise alone
ENTERING = 0.2  # share of the usual initial weights by which latents enter the network: they say nothing yet
LOG_SCALE_LIMIT = 3.0  # of a prior: its scale stays between 1/20 and 20


def layers_by_resolution(layers: int, resolutions: int) -> list[int]:
    """How many layers of latents lie at each resolution, coarsest first: about half as many with every doubling of the sides.

    There they are cheap, and each of their latents says more.
    """
    counts: list[int] = []
    for left in range(resolutions, 0, -1):
        counts.append(round((layers - sum(counts)) * 2 ** (left - 1) / (2**left - 1)))
    return counts


def grids(config: ModelConfig) -> list[tuple[int, int, int]]:
    """The shape (Z, H, W) of each layer's latents, top layer first."""
    height, width, _ = config.image_shape
    found = []
    for i, count in enumerate(layers_by_resolution(config.stochastic_layers, len(config.widths))):
        strides = 2 ** (len(config.widths) - i)
        found += [(config.latent_dim, height // strides, width // strides)] * count
    return found


def _between(width: int, config: ModelConfig) -> nn.Sequential:
    """``config.blocks`` residual blocks, narrow inside: there are many of them."""
    return nn.Sequential(*(Residual(width, max(1, width // 2)) for _ in range(config.blocks)))


class _Layer(nn.Module):
    """One layer of latents, and the residual blocks between it and the next one."""

    def __init__(self, width: int, config: ModelConfig, top: bool) -> None:
        super().__init__()
        latents = config.latent_dim
        self.prior = None
        if not top:
            self.prior = nn.Sequential(norm(width), nn.SiLU(), silent(nn.Conv2d(width, 2 * latents, 3, padding=1)))
        # The sum of the two is a 1x1 convolution of both side by side, without such a copy.
        self.of_state, self.of_features = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1, bias=False)
        self.posterior = nn.Sequential(norm(width), nn.SiLU(), silent(nn.Conv2d(width, 2 * latents, 3, padding=1)))
        self.enter = nn.Conv2d(latents, width, 1)
        # So that all layers together bring in what one would (Child 2021, section 3); of which little at first, as it is noise.
        self.enter.weight.data *= ENTERING * config.stochastic_layers**-0.5
        self.blocks = _between(width, config)

    def prior_of(self, h_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale of p(z_l | z_<l), each (N, Z, H, W), not below float32; 0 and 1 before training, and always in the top layer."""
        if self.prior is None:
            mean_NZHW = full(h_NCHW.new_zeros(h_NCHW.shape[0], self.enter.in_channels, *h_NCHW.shape[2:]))
            return mean_NZHW, torch.ones_like(mean_NZHW)
        mean_NZHW, raw_NZHW = full(self.prior(h_NCHW)).chunk(2, dim=1)
        return mean_NZHW, torch.exp(LOG_SCALE_LIMIT * torch.tanh(raw_NZHW / LOG_SCALE_LIMIT))

    def forward(self, h_NCHW: Tensor, e_ND: Tensor) -> Tensor:
        """The state after this layer's latents e_l, (N, Z * H * W)."""
        mean_NZHW, scale_NZHW = self.prior_of(h_NCHW)
        z_NZHW = mean_NZHW + scale_NZHW * e_ND.view_as(mean_NZHW)
        return self.blocks(h_NCHW + self.enter(z_NZHW))

    def infer(self, h_NCHW: Tensor, features_NCHW: Tensor, draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The next state; mean and log-variance of q(e_l | e_<l, x) and what is drawn of it, each (N, Z * H * W)."""
        mean_NZHW, logvar_NZHW = bounded(self.posterior(self.of_state(h_NCHW) + self.of_features(features_NCHW)))
        mean_ND, logvar_ND = mean_NZHW.flatten(1), logvar_NZHW.flatten(1)
        e_ND = draw(mean_ND, logvar_ND)
        return self(h_NCHW, e_ND), mean_ND, logvar_ND, e_ND


class _Stage(nn.Module):
    """The top-down path at one resolution: up to it, then its layers of latents."""

    def __init__(self, rise: list[nn.Module], layers: list[_Layer]) -> None:
        super().__init__()
        self.rise, self.layers = nn.Sequential(*rise), nn.ModuleList(layers)

    def __iter__(self) -> Iterator[_Layer]:
        return iter(cast(list[_Layer], self.layers))


class LadderVAE(VAE):
    """Hierarchical VAE with ``config.stochastic_layers`` layers of ``config.latent_dim`` latents at each place.

    H and W must divide by ``2 ** len(widths)``: that is the coarsest grid of latents; the finest has half the picture's sides.
    """

    vector_latents = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        widths, channels = config.widths, config.image_shape[2]
        shapes = grids(config)
        self._sizes = tuple(math.prod(shape) for shape in shapes)
        self.latent_dim, self.classes, self._channels = sum(self._sizes), config.classes, config.latent_dim

        down = [nn.Sequential(*stem(channels, widths[0]), _between(widths[0], config))]
        down += [nn.Sequential(halve(before, after), _between(after, config)) for before, after in pairwise(widths)]
        self.down = nn.ModuleList(down)

        # Not zeros: the gradient of a norm of zeros is hundreds of times too large.
        self.start = nn.Parameter(torch.randn(1, widths[-1], *shapes[0][1:]))
        self.of_class = OfClass(config.classes, widths[-1])
        self.stages = nn.ModuleList()
        counts = layers_by_resolution(config.stochastic_layers, len(widths))
        for above, width, count in zip((0, *widths[:0:-1]), widths[::-1], counts, strict=True):
            # A 1x1 convolution before the enlargement costs next to nothing; the blocks after it smooth.
            rise = [nn.Conv2d(above, width, 1), nn.Upsample(scale_factor=2)] if above else []
            layers = [_Layer(width, config, top=not above and not i) for i in range(count)]
            self.stages.append(_Stage(rise if count else [*rise, _between(width, config)], layers))
        self.likelihood = likelihood(config)
        self.head = nn.Sequential(*head(widths[0], self.likelihood.output_channels))

    def _down_from_top(self) -> list[_Stage]:
        return cast(list[_Stage], list(self.stages))

    @property
    def layers(self) -> tuple[int, ...]:
        return self._sizes

    @property
    def rate_groups(self) -> tuple[int, ...]:
        """A group for each layer."""
        return self._sizes

    @property
    def channel_D(self) -> Tensor:
        channels = [torch.arange(self._channels).repeat_interleave(size // self._channels) for size in self._sizes]
        return torch.cat([i * self._channels + each for i, each in enumerate(channels)])

    @staticmethod
    def problem(config: ModelConfig) -> str | None:
        reason, latents = strides_problem(config), sum(math.prod(shape) for shape in grids(config))
        if not reason and latents > MOST_LATENTS:
            reason = (
                f"{latents} latents of an image in {config.stochastic_layers} layers are more than {MOST_LATENTS}: set fewer "
                "fit.stochastic_layers, a smaller base.image_size, or more fit.widths, so that most layers are coarser"
            )
        return reason

    def _begin(self, count: int, label_N: Tensor | None) -> Tensor:
        """What the top-down path starts from (N, C, H, W): the class is known to all layers, for inference and generation alike."""
        return self.of_class(self.start.expand(count, -1, -1, -1), label_N)

    def observe(self, x_NCHW: Tensor, label_N: Tensor | None = None) -> tuple[Tensor, ...]:
        """What the top-down path starts from, then the encoder's feature maps, coarsest first."""
        features = []
        for stage in self.down:
            x_NCHW = self._again(stage, x_NCHW)
            features.append(x_NCHW)
        return self._begin(x_NCHW.shape[0], label_N), *features[::-1]

    def infer_by(self, observed: tuple[Tensor, ...], draws: Sequence[Draw]) -> Posterior:
        """Top-down, each layer's posterior from what was drawn of those above it."""
        each_draw, found = iter(draws), []
        h_NCHW, *features = observed
        for stage, features_NCHW in zip(self._down_from_top(), features, strict=True):
            h_NCHW = self._again(stage.rise, h_NCHW)
            for layer in stage:
                h_NCHW, *of_layer = self._again(layer.infer, h_NCHW, features_NCHW, next(each_draw))
                found.append(of_layer)
        mean_ND, logvar_ND, e_ND = (torch.cat(each, dim=1) for each in zip(*found, strict=True))
        return Posterior(mean_ND, logvar_ND, e_ND, full(self.head(h_NCHW)))

    def decode(self, z_ND: Tensor, label_N: Tensor | None = None) -> Tensor:
        layers = iter(z_ND.split(self.rate_groups, dim=1))
        h_NCHW = self._begin(z_ND.shape[0], label_N)
        for stage in self._down_from_top():
            h_NCHW = self._again(stage.rise, h_NCHW)
            for layer in stage:
                h_NCHW = self._again(layer, h_NCHW, next(layers))
        return full(self.head(h_NCHW))

    def _again(self, function: Callable[..., Any], *inputs: Tensor | Draw) -> Any:
        """What the function gives; with ``recompute`` what lies within it is computed anew in the backward pass."""
        if not (self.recompute and torch.is_grad_enabled()):
            return function(*inputs)
        return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
