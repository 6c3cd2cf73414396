"""What training minimises: distortion and rate in the manner of an objective, summed over images. N batch, D latents, G groups.

Every objective is a function of one forward pass's terms. ``tc`` and ``mmd`` compare the images of a process's share of the batch
with one another, so there the number of processes is part of the result; the others treat every image alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vae.config import FitConfig
from vae.corruption import corrupted, step_corruption
from vae.likelihood import binarised
from vae.models.base import VAE, Output
from vae.noise import step_noise, step_uniforms
from vae.objective import annealed_beta, annealed_share, begun, importance_bound

DETERMINISTIC_LOGVAR = (
    -8.0
)  # what the posterior's log-variance is drawn to where no noise is to be left: 2 % of the prior's spread
# After a step nothing of this is in the processor's caches, so that one draw takes as long as those of eight steps in a row.
AHEAD_STEPS, AHEAD_NUMBERS = 8, 2**17
BANDWIDTHS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # of the kernel, in units of the expected squared distance 2 D


def rate_N(terms: Output, free_bits_nats: float, groups: tuple[int, ...]) -> Tensor:
    """The rate of each image; with free bits a group of latents counts at least so much (Kingma et al. 2016, appendix C.8).

    The floor holds for every image, not for the batch's mean as in the paper: so nothing depends on how batches are shared out.
    """
    if not free_bits_nats:
        return terms.rate_ND.sum(1)
    rate_NG = terms.rate_ND if max(groups) == 1 else torch.stack([part.sum(1) for part in terms.rate_ND.split(groups, 1)], 1)
    return rate_NG.clamp_min(free_bits_nats).sum(1)


def _elbo(terms: Output, beta: float, capacity_nats: float, config: FitConfig, groups: tuple[int, ...]) -> Tensor:
    """distortion + beta rate (Higgins et al. 2017); with a capacity, distortion + beta |rate - capacity| (Burgess et al. 2018)."""
    rate = rate_N(terms, config.free_bits_nats, groups)
    if config.capacity_nats:
        rate = (rate - capacity_nats).abs()
    return terms.distortion_N.sum() + beta * rate.sum()


def _importance(terms: Output, beta: float, capacity_nats: float, config: FitConfig, groups: tuple[int, ...]) -> Tensor:
    """The importance-weighted bound of k samples (Burda et al. 2016, eq. 8); the k rows of an image are neighbours."""
    return -importance_bound(terms.log_weight_N().unflatten(0, (-1, config.importance_samples)).T).sum()


def total_correlation_N(terms: Output) -> Tensor:
    """log q(z) - sum_d log q(z_d) of each sample (N,), both estimated as a mean over the batch (Chen et al. 2018, eq. 2).

    Weights for the size of the data set (their appendix C.1) are left out: they add a constant, and training sees gradients only.
    """
    z_N1D, mean_1ND, logvar_1ND = terms.posterior.z_ND[:, None], terms.posterior.mean_ND[None], terms.posterior.logvar_ND[None]
    log_q_NND = -0.5 * (math.log(2 * math.pi) + logvar_1ND + (z_N1D - mean_1ND).square() * torch.exp(-logvar_1ND))
    count, dims = terms.posterior.z_ND.shape
    joint_N = torch.logsumexp(log_q_NND.sum(2), 1)
    return joint_N - torch.logsumexp(log_q_NND, 1).sum(1) + (dims - 1) * math.log(count)


def _tc(terms: Output, beta: float, capacity_nats: float, config: FitConfig, groups: tuple[int, ...]) -> Tensor:
    """distortion + rate + (beta - 1) total correlation: beta weights one of the three parts of the rate (Chen et al. 2018, eq. 4)."""
    return terms.distortion_N.sum() + terms.rate_ND.sum() + (beta - 1) * total_correlation_N(terms).sum()


def mismatch(z_ND: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of the samples to N(0, I) (Gretton et al. 2012, eq. 3), mean over Gaussian kernels.

    Of a Gaussian kernel both expectations under the prior are known, so no sample of it is drawn. At least two samples.
    """
    count, dims = z_ND.shape
    squares_NN = torch.cdist(z_ND, z_ND, compute_mode="donot_use_mm_for_euclid_dist").square()
    norms_N, total = z_ND.square().sum(1), z_ND.new_zeros(())
    for bandwidth in BANDWIDTHS:
        variance = bandwidth * 2 * dims
        within = (torch.exp(-squares_NN / (2 * variance)).sum() - count) / (count * (count - 1))
        across = (variance / (variance + 1)) ** (dims / 2) * torch.exp(-norms_N / (2 * (variance + 1))).mean()
        total = total + within - 2 * across + (variance / (variance + 2)) ** (dims / 2)
    return total / len(BANDWIDTHS)


def _mmd(terms: Output, beta: float, capacity_nats: float, config: FitConfig, groups: tuple[int, ...]) -> Tensor:
    """distortion + the latents' mismatch with the prior, as a whole (WAE-MMD, Tolstikhin et al. 2018, algorithm 2)."""
    z_ND = terms.posterior.z_ND
    return terms.distortion_N.sum() + len(z_ND) * config.regulariser_weight * mismatch(z_ND)


def _deterministic(terms: Output, beta: float, capacity_nats: float, config: FitConfig, groups: tuple[int, ...]) -> Tensor:
    """distortion + beta |z|^2 / 2 without noise (RAE, Ghosh et al. 2020, eq. 8); weight decay regularises the decoder.

    The log-variance is drawn to a small constant, so that whoever samples the posterior afterwards gets its mean.
    """
    found = terms.posterior
    certain = (found.logvar_ND - DETERMINISTIC_LOGVAR).square().sum()
    return terms.distortion_N.sum() + 0.5 * beta * found.z_ND.square().sum() + 0.5 * certain


Loss = Callable[[Output, float, float, FitConfig, tuple[int, ...]], Tensor]
LOSSES: dict[str, Loss] = {
    "elbo": _elbo, "importance": _importance, "tc": _tc, "mmd": _mmd, "deterministic": _deterministic,
}  # fmt: skip


@dataclass(frozen=True)
class Draws:
    """All that is random about rows of a global batch: noise of the posterior (N, K D); where they are asked for, what binarises
    the images and what is added to those that the posterior sees, each (N, pixels).
    """

    noise_NE: Tensor
    uniform_NP: Tensor | None = None
    corruption_NP: Tensor | None = None

    def of(self, rows: slice) -> Draws:
        """Those of some of the rows."""

        def part(every: Tensor | None) -> Tensor | None:
            return None if every is None else every[rows]

        return Draws(self.noise_NE[rows], part(self.uniform_NP), part(self.corruption_NP))


class Objective:
    """The loss of any rows of global batch ``step``, as a function of configuration, weights, images and step."""

    def __init__(self, model: VAE, config: FitConfig, device: torch.device) -> None:
        self._config, self._device, self._samples = config, device, config.importance_samples
        self._binary, self._groups, self._latents = model.likelihood.binary, model.rate_groups, model.latent_dim
        self._ahead: dict[int, Tensor] = {}

    def _noise(self, step: int, count: int) -> Tensor:
        """``step_noise`` of so many images: of a whole batch, that of the next steps is drawn along with it."""
        size, config = self._samples * self._latents, self._config
        if count != config.global_batch_size or count * size > AHEAD_NUMBERS:
            return step_noise(config.seed, step, (count, size), self._device)
        if step not in self._ahead:
            coming = range(step, step + AHEAD_STEPS)
            self._ahead = {each: step_noise(config.seed, each, (count, size), self._device) for each in coming}
        return self._ahead.pop(step)

    def draw(self, step: int, pixels: int, count: int = -1) -> Draws:
        """All that is random about the global batch; ``count``: of another number of images."""
        config, shape = self._config, (self._config.global_batch_size if count < 0 else count, pixels)
        noise = self._noise(step, shape[0])
        if config.objective == "deterministic":
            noise.zero_()
        uniform = step_uniforms(config.seed, step, shape, self._device) if self._binary else None
        most = config.denoise_levels
        return Draws(noise, uniform, step_corruption(config.seed, step, shape, most, self._device) if most else None)

    def __call__(
        self,
        forward: Callable[..., Output],
        x_NCHW: Tensor,
        label_N: Tensor | None,
        draws: Draws,
        images_seen: int,
        after_NCHW: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The loss summed over the images, and the sums of distortion and rate, the count, the critic's loss (4,), float64, detached.

        ``after_NCHW``: the next frame of each image, to whose latents its own are drawn (fit.smoothness).
        """
        config, samples = self._config, self._samples
        if draws.uniform_NP is not None:
            x_NCHW = binarised(x_NCHW, draws.uniform_NP)
            after_NCHW = None if after_NCHW is None else binarised(after_NCHW, draws.uniform_NP)
        seen_NCHW = None if draws.corruption_NP is None else corrupted(x_NCHW, draws.corruption_NP)

        def repeated(every: Tensor | None) -> Tensor | None:
            return every if every is None or samples == 1 else every.repeat_interleave(samples, 0)

        noise_ND = draws.noise_NE.reshape(len(x_NCHW) * samples, -1)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            given = repeated(x_NCHW), noise_ND, repeated(label_N), repeated(seen_NCHW), repeated(after_NCHW)
            terms = forward(*given, True) if begun(images_seen, config) else forward(*given)
        beta = annealed_beta(images_seen, config)
        capacity = config.capacity_nats * annealed_share(images_seen, config)
        loss = LOSSES[config.objective](terms, beta, capacity, config, self._groups)
        if terms.penalty is not None:
            loss = loss + terms.penalty / samples
        if terms.step_N is not None:
            loss = loss + config.smoothness * terms.step_N.sum() / samples
        distortion, rate = terms.distortion_N.detach().sum() / samples, terms.rate_ND.detach().sum() / samples
        critic = torch.zeros_like(rate) if terms.critic_N is None else terms.critic_N.detach().sum()
        return loss, torch.stack([distortion, rate, torch.full_like(distortion, len(x_NCHW)), critic]).double()
