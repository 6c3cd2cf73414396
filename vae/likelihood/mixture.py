"""256 levels as a mixture at each pixel. N batch, C channels, H height, W width, K components."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from vae.likelihood.base import Likelihood
from vae.likelihood.levels import SMALLEST_SCALE, log_logistic_mass, logistic_noise, lower_edge, to_levels

COMPONENTS = 5
LARGEST_LOG_SCALE = 5.0


class LogisticMixture(Likelihood):
    """A mixture of logistics at each pixel, over 256 bins, its channels coupled (Salimans et al., PixelCNN++, 2017, section 2).

    Of each component the centre of a channel moves linearly with the observed values of the channels before it. K components;
    the decoder gives K weights, K C centres, K C log-scales and K C (C - 1) / 2 couplings for each pixel.
    """

    def __init__(self, channels: int, sigma: float = 1.0) -> None:
        super().__init__(channels)
        self._channels, self._pairs = channels, channels * (channels - 1) // 2
        self.output_channels = COMPONENTS * (1 + 2 * channels + self._pairs)

    def _parts(self, output: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-weights (N, K, H, W), and for each of K: centres, scales (N, K, C, H, W), couplings (N, K, pairs, H, W)."""
        sizes = [COMPONENTS * n for n in (1, self._channels, self._channels, self._pairs)]
        weights, centres, log_scales, couplings = output.split(sizes, 1)
        by_component = [part.unflatten(1, (COMPONENTS, -1)) for part in (centres, log_scales) if part.shape[1]]
        coupling = couplings.tanh().unflatten(1, (COMPONENTS, self._pairs)) if self._pairs else couplings[:, None]
        # A network's first outputs are near 0. Beyond the limits float32 has no difference of two edges of a bin left.
        scales = (by_component[1] - 1.0).clamp(math.log(SMALLEST_SCALE), LARGEST_LOG_SCALE).exp()
        return torch.log_softmax(weights, 1), by_component[0], scales, coupling

    def _moved(self, centres: Tensor, couplings: Tensor, x: Tensor) -> Tensor:
        """Centres (N, K, C, H, W) given the values ``x`` of all channels, of which each channel uses those before it."""
        moved, pair = [], 0
        for channel in range(self._channels):
            centre = centres[:, :, channel]
            for before in range(channel):
                centre = centre + couplings[:, :, pair] * x[:, :, before]
                pair += 1
            moved.append(centre)
        return torch.stack(moved, 2)

    def log_prob(self, output: Tensor, x_NCHW: Tensor) -> Tensor:
        log_weights, centres, scales, couplings = self._parts(output)
        x = x_NCHW[:, None]  # the same for all components
        log_mass = log_logistic_mass(x, self._moved(centres, couplings, x), scales).sum(2)
        return torch.logsumexp(log_weights + log_mass, 1).flatten(1).sum(1)

    def below(self, output: Tensor, x_NCHW: Tensor, channel: int) -> Callable[[Tensor], Tensor]:
        log_weights, centres, scales, couplings = self._parts(output)
        moved, x = self._moved(centres, couplings, x_NCHW[:, None]), x_NCHW[:, None, :channel]
        # Which component it is, as far as the channels before this one tell.
        log_known = log_weights + log_logistic_mass(x, moved[:, :, :channel], scales[:, :, :channel]).sum(2)
        weight, centre, scale = torch.softmax(log_known, 1), moved[:, :, channel], scales[:, :, channel]
        return lambda level_NHW: (weight * torch.sigmoid((lower_edge(level_NHW)[:, None].to(centre) - centre) / scale)).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        log_weights, centres, _, couplings = self._parts(output)
        means = torch.zeros_like(centres)
        for channel in range(self._channels):  # each channel's mean given the means of those before it: couplings are linear
            means = torch.cat([means[:, :, :channel], self._moved(centres, couplings, means)[:, :, channel:]], 2)
        return (log_weights.exp()[:, :, None] * means).sum(1).clamp(-1, 1)

    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        log_weights, centres, scales, couplings = self._parts(output)
        gumbel = -torch.log(-torch.log(torch.rand(log_weights.shape, generator=generator).clamp(1e-9, 1 - 1e-7)))
        chosen = (log_weights + gumbel.to(log_weights)).argmax(1)[:, None, None]
        centres, scales, couplings = (part.gather(1, chosen.expand(-1, 1, part.shape[2], -1, -1)) if part.shape[2] else part
                                      for part in (centres, scales, couplings))  # fmt: skip
        noise, x = scales * logistic_noise(scales, generator), torch.zeros_like(centres)
        for channel in range(self._channels):
            drawn = to_levels(self._moved(centres, couplings, x) + noise)
            x = torch.cat([x[:, :, :channel], drawn[:, :, channel:]], 2)
        return x[:, 0]
