"""What every model is: a posterior over latents, a decoder, a likelihood. N batch, C channels, H height, W width, D latents.

Latents are counted in the coordinates in which the model's own prior is N(0, I): of a hierarchy these are the normal numbers from
which each layer's latents are made, given the layers above. So rate, importance weights and sampling are the same few lines for
all models.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential

from vae.config import ModelConfig
from vae.likelihood import LIKELIHOODS
from vae.likelihood.base import Likelihood
from vae.models.layout import Place, plain
from vae.objective import log_normal, rate_per_dim, reparameterize
from vae.statistics import follow

GROUP_CHANNELS = 8  # channels in a normalisation group
RECOMPUTED_SEGMENTS = 4  # of a stack of layers: only what lies between them is kept for the backward pass
LOGVAR_LIMIT = 12.0  # keeps exp(logvar) finite in float32 and bfloat16
Draw = Callable[[Tensor, Tensor], Tensor]  # a layer's latents by its posterior's mean and log-variance, each (N, D of the layer)


@dataclass(frozen=True)
class Posterior:
    """q(z|x) as a diagonal normal, each (N, D), and the sample ``z_ND`` of it; in a hierarchy each layer's depends on the sample.

    ``output_NCHW`` is what ``decode(z_ND)`` would give, where it was computed on the way. ``penalty`` is what training with
    such a posterior adds to any objective, summed over the images.
    """

    mean_ND: Tensor
    logvar_ND: Tensor
    z_ND: Tensor
    output_NCHW: Tensor | None = None
    penalty: Tensor | None = None

    def rate_ND(self) -> Tensor:
        """KL(q(z|x) || p(z)) of each latent, in nats."""
        return rate_per_dim(self.mean_ND, self.logvar_ND)

    def log_ratio_N(self) -> Tensor:
        """log p(z) - log q(z|x) of the sample (N,), in nats."""
        return log_normal(self.z_ND) - log_normal(self.z_ND, self.mean_ND, self.logvar_ND)


@dataclass(frozen=True)
class Output:
    """All terms of one forward pass: distortion (N,), rate (N, D), both in nats; and the posterior that they are of.

    ``penalty`` is what training adds to any objective, summed over the images. ``step_N``: the squared distance from each image's
    posterior mean to that of the image after it, where there is one. ``output_NCHW``: the likelihood's parameters; ``critic_N``: the
    loss of whoever tells the images from what the model makes of them (vae/adversary.py).
    """

    distortion_N: Tensor
    rate_ND: Tensor
    posterior: Posterior
    penalty: Tensor | None = None
    step_N: Tensor | None = None
    output_NCHW: Tensor | None = None
    critic_N: Tensor | None = None

    def log_weight_N(self) -> Tensor:
        """log p(x, z) / q(z|x) of the sample (N,), in nats."""
        return self.posterior.log_ratio_N() - self.distortion_N


def norm(channels: int) -> nn.GroupNorm:
    """GroupNorm, never BatchNorm: nothing depends on the rest of the batch."""
    groups = max(1, channels // GROUP_CHANNELS)
    return nn.GroupNorm(groups if channels % groups == 0 else 1, channels)


def likelihood(config: ModelConfig) -> Likelihood:
    """The likelihood of a configuration."""
    return LIKELIHOODS[config.likelihood](config.image_shape[2], config.sigma)


def strides_problem(config: ModelConfig) -> str | None:
    """Why images cannot be halved as often as there are widths, or None."""
    height, width, _ = config.image_shape
    strides = 2 ** len(config.widths)
    if height % strides or width % strides:
        return (
            f"images of {height}x{width} pixels do not divide by {strides} (2 to the {len(config.widths)} widths): "
            f"set base.image_size to a multiple of {strides}, or fewer fit.widths"
        )
    return None


class VAE(nn.Module, ABC):
    """The shared part. A model sets ``latent_dim`` and ``likelihood`` and has ``observe``, ``decode`` and ``problem``.

    Images are (N, C, H, W) in [-1, 1]; ``label_N`` is the class number of each, int64: a model with ``classes`` gives all its
    probabilities given the class, others do not look at it. ``rate_groups`` says which latents free bits count together: sizes
    that sum to D.
    """

    latent_dim: int
    classes = 0  # that the model is told apart; 0: it is never given labels
    likelihood: Likelihood
    recompute = False
    vector_latents = True  # False: grids of them under a trained prior of their own, to which no other density is fitted
    normal_posterior = True  # False: other objectives than elbo have no meaning

    @property
    def statistics(self) -> tuple[nn.Parameter, ...]:
        """Parameters that follow the data (vae/statistics.py): moved by ``settle``, and by the optimizer not."""
        return self.likelihood.statistics

    @property
    def layers(self) -> tuple[int, ...]:
        """How many latents each layer has, top layer first: the posterior of one depends on the latents of those before it."""
        return (self.latent_dim,)

    @property
    def rate_groups(self) -> tuple[int, ...]:
        """One latent each, unless the model has layers of them."""
        return (1,) * self.latent_dim

    @property
    def channel_D(self) -> Tensor:
        """Which channel each latent is of, int64 (D,): on a grid those at all places of a layer are one, elsewhere each is its own."""
        return torch.arange(self.latent_dim)

    @staticmethod
    def problem(config: ModelConfig) -> str | None:
        """Why this network cannot take such images (with the remedy), or None."""
        return strides_problem(config)

    @abstractmethod
    def observe(self, x_NCHW: Tensor, label_N: Tensor | None = None) -> tuple[Tensor, ...]:
        """All that the posterior needs to know of the images, each (N, ...): here its mean and log-variance (N, D)."""

    def infer(self, observed: tuple[Tensor, ...], noise_ND: Tensor) -> Posterior:
        """The posterior of what was observed and the sample of it that ``noise_ND`` (standard normal) makes."""
        noises = noise_ND.split(self.layers, dim=1)
        return self.infer_by(observed, [partial(reparameterize, noise_ND=each) for each in noises])

    def infer_by(self, observed: tuple[Tensor, ...], draws: Sequence[Draw]) -> Posterior:
        """The posterior of what was observed and the latents that ``draws`` (one for each layer) take from it."""
        mean_ND, logvar_ND = observed
        (draw,) = draws
        return Posterior(mean_ND, logvar_ND, draw(mean_ND, logvar_ND))

    @abstractmethod
    def decode(self, z_ND: Tensor, label_N: Tensor | None = None) -> Tensor:
        """The likelihood's parameters (N, ., H, W) for latents (N, D)."""

    def output_of(self, found: Posterior, label_N: Tensor | None = None) -> Tensor:
        """The likelihood's parameters for the posterior's sample: what was computed on the way, or decoded now."""
        return self.decode(found.z_ND, label_N) if found.output_NCHW is None else found.output_NCHW

    def encode(self, x_NCHW: Tensor, label_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Posterior mean and log-variance, each (N, D); of a hierarchy along its means."""
        observed = self.observe(x_NCHW, label_N)
        count = x_NCHW.shape[0]  # len() would be a constant to torch.export
        posterior = self.infer(observed, observed[0].new_zeros(count, self.latent_dim))
        return posterior.mean_ND, posterior.logvar_ND

    def forward(
        self,
        x_NCHW: Tensor,
        noise_ND: Tensor,
        label_N: Tensor | None = None,
        seen_NCHW: Tensor | None = None,
        after_NCHW: Tensor | None = None,
    ) -> Output:
        """All terms of the bound for one posterior sample made of ``noise_ND`` (standard normal), unreduced, in nats.

        ``seen_NCHW``: what the posterior is of, where that is not the images themselves but noisy ones; ``after_NCHW``: the next
        frame of each, where the images are of films.
        """
        found = self.infer(self.observe(x_NCHW if seen_NCHW is None else seen_NCHW, label_N), noise_ND)
        output_NCHW = self.output_of(found, label_N)
        penalty = found.penalty
        if self.likelihood.statistics and torch.is_grad_enabled():
            penalty = self.likelihood.penalty(output_NCHW, x_NCHW) + (0.0 if penalty is None else penalty)
        distortion_N = -self.likelihood.log_prob(output_NCHW, x_NCHW)
        step_N = None
        if after_NCHW is not None:
            step_N = (self.encode(after_NCHW, label_N)[0] - found.mean_ND).square().sum(1)
        return Output(distortion_N, found.rate_ND(), replace(found, output_NCHW=None), penalty, step_N, output_NCHW)

    def layout(self) -> dict[str, Place]:
        """What each tensor of the state is for, by its name."""
        return {name: plain(name, tuple(tensor.shape)) for name, tensor in self.state_dict().items()}

    def settle(self, step: int) -> None:
        """Move ``statistics`` by their gradients, which are those of the whole batch, after the optimizer's step number ``step``."""
        follow(self.statistics, step)

    def sample(self, z_ND: Tensor, label_N: Tensor | None = None) -> Tensor:
        """The mean images (N, C, H, W) in [-1, 1] of latents (N, D)."""
        return self.likelihood.mean(self.decode(z_ND, label_N))

    def _through(self, layers: nn.Sequential, x: Tensor) -> Tensor:
        if not (self.recompute and torch.is_grad_enabled()):
            return layers(x)
        return checkpoint_sequential(layers, RECOMPUTED_SEGMENTS, x, use_reentrant=False, preserve_rng_state=False)


def full(output: Tensor) -> Tensor:
    """A network's last output in float32, whatever autocast made of it; in float64 it stays where the network is."""
    return output if output.dtype == torch.float64 else output.float()


def bounded(both_ND: Tensor) -> tuple[Tensor, Tensor]:
    """A network's last output as mean and log-variance, each (N, D), of which the latter stays finite as a variance."""
    mean_ND, logvar_ND = full(both_ND).chunk(2, dim=1)
    return mean_ND, logvar_ND.clamp(-LOGVAR_LIMIT, LOGVAR_LIMIT)
