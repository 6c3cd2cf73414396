"""Codes on a grid, of a book, under a prior that knows their order. N batch, P codes of an image, K codes in the book, Z, C, H, W.

The encoder's vector at each place is replaced by the nearest of K codes; the gradient passes as if it had not been (van den Oord et
al., Neural Discrete Representation Learning, 2017). A causal transformer is the prior, trained with the rest: the rate of a code is
-log p(k_p | k_<p), whose gradient reaches the prior alone. The posterior is certain, so distortion + rate is a bound like any other.

What the rest of the house calls latents are normal numbers, one for each code: p(k_p | k_<p) divides N(0, 1) into cells, the most
probable code in the middle; the posterior is N(0, 1) within the cell of the code. Its divergence from N(0, 1) is that rate, exactly,
and to decode numbers of N(0, I) is ancestral sampling. Smaller numbers ("temperature") draw more probable codes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vae.config import ModelConfig
from vae.models.base import VAE, Posterior, likelihood, norm, strides_problem
from vae.models.blocks import residual_down, residual_up
from vae.models.causal import Cache, CausalPrior
from vae.models.codebook import Codebook

CODE_SIZE = 16
COMMITMENT = 1.0  # nats for each unit of squared distance between a vector and its code
PRIOR_LAYERS = 4
LEAST = 1e-3  # of the prior's mass is shared out among all codes: no cell is too narrow for float32
MOST_PLACES = 2048  # drawn one after the other
CELLS_AT_ONCE = 2**22  # sorted: some 150 MiB, whatever the batch is


@dataclass(frozen=True)
class _Certain(Posterior):
    """A posterior that knows the codes: N(0, 1) within their cells."""

    cell_rate_ND: Tensor = field(kw_only=True)

    def rate_ND(self) -> Tensor:
        return self.cell_rate_ND

    def log_ratio_N(self) -> Tensor:
        return -self.cell_rate_ND.sum(1)


def grid(config: ModelConfig) -> tuple[int, int, int]:
    """(H, W, codes at each place)."""
    height, width, _ = config.image_shape
    strides = 2 ** len(config.widths)
    return height // strides, width // strides, config.latent_dim


def middle_out(codes: int) -> Tensor:
    """Ranks in the order of their cells, (K,): 0 in the middle, 1 and 2 beside it, and so on."""
    return torch.cat([torch.arange(1, codes, 2).flip(0), torch.arange(0, codes, 2)])


def cells(logits_NPK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes in the order of their cells, int64, the probability of each and its upper edge, float64, each (N, P, K)."""
    codes = logits_NPK.shape[-1]
    mass = (1 - LEAST) * torch.softmax(logits_NPK.double(), -1) + LEAST / codes
    ranked, of_rank = mass.sort(dim=-1, descending=True, stable=True)
    order = middle_out(codes).to(logits_NPK.device)
    return of_rank[..., order], ranked[..., order], ranked[..., order].cumsum(-1)


class VectorQuantisedVAE(VAE):
    """``config.latent_dim`` codes at each place of the coarsest grid, of a book of ``config.codes``; H, W divide by 2 ** len(widths)."""

    vector_latents = False
    normal_posterior = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        height, width, heads = grid(config)
        self.bottom, self.latent_dim, self.classes = (height, width), height * width * heads, config.classes
        last = config.widths[-1]
        self.encoder = nn.Sequential(*residual_down(config), norm(last), nn.SiLU(), nn.Conv2d(last, heads * CODE_SIZE, 1))
        self.book = Codebook(config.codes, CODE_SIZE, self.latent_dim)
        self.prior = CausalPrior(config.codes, self.latent_dim, last, PRIOR_LAYERS, config.classes)
        self.likelihood = likelihood(config)
        up = residual_up(config, self.likelihood.output_channels)
        self.decoder = nn.Sequential(nn.Conv2d(heads * CODE_SIZE, last, 3, padding=1), *up)

    @staticmethod
    def problem(config: ModelConfig) -> str | None:
        reason, places = strides_problem(config), math.prod(grid(config))
        if not reason and places > MOST_PLACES:
            reason = (
                f"{places} codes of an image, drawn one after the other, are more than {MOST_PLACES}: set a smaller "
                "base.image_size, more fit.widths, so that the grid is coarser, or a smaller latent_dim"
            )
        return reason

    @property
    def statistics(self) -> tuple[nn.Parameter, ...]:
        return *self.book.statistics, *super().statistics

    def settle(self, step: int) -> None:
        super().settle(step)
        self.book.revive(step)

    def observe(self, x_NCHW: Tensor, label_N: Tensor | None = None) -> tuple[Tensor, ...]:
        """The encoder's vectors, float32 (N, P, Z), each of length sqrt(Z); what the prior starts from (N, 1, C)."""
        h_NPZ = self._through(self.encoder, x_NCHW).float().permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, CODE_SIZE))
        return torch.nn.functional.layer_norm(h_NPZ, (CODE_SIZE,)), self.prior.begin(x_NCHW.shape[0], label_N)

    def infer(self, observed: tuple[Tensor, ...], noise_ND: Tensor) -> Posterior:
        """The nearest codes and a draw within their cells; the penalty is commitment, and what moves the book.

        With gradients the numbers of the codes are NaN: training asks for none of them, and to sort all cells takes long.
        """
        h_NPZ, first_N1C = observed
        with torch.autocast(h_NPZ.device.type, enabled=False):
            index_NP = self.book.nearest(h_NPZ)
            codes_NPZ, penalty = self.book.codes_KZ()[index_NP], None
            if torch.is_grad_enabled():
                penalty = COMMITMENT * (h_NPZ - codes_NPZ).square().sum() + self.book.statistics_loss(h_NPZ, index_NP)
        logits_NPK = self.prior(index_NP, first_N1C)
        log_NPK = torch.log_softmax(logits_NPK, -1)
        chosen_NP = log_NPK.gather(2, index_NP[..., None])[..., 0] + math.log1p(-LEAST)
        rate_ND = -torch.logaddexp(chosen_NP, torch.full_like(chosen_NP, math.log(LEAST / log_NPK.shape[2])))
        if torch.is_grad_enabled():
            mean_ND = logvar_ND = z_ND = torch.full_like(noise_ND, math.nan)
        else:
            rows = max(1, CELLS_AT_ONCE // logits_NPK[0].numel())
            parts = [_numbers(*each) for each in zip(*(t.split(rows) for t in (logits_NPK, index_NP, noise_ND)), strict=True)]
            mean_ND, logvar_ND, z_ND = (torch.cat(each) for each in zip(*parts, strict=True))
        # As a value the code, to the bit; as a gradient the encoder's.
        entered_NPZ = codes_NPZ + (h_NPZ - h_NPZ.detach())
        return _Certain(mean_ND, logvar_ND, z_ND, self._decoded(entered_NPZ), penalty, cell_rate_ND=rate_ND)

    def _decoded(self, codes_NPZ: Tensor) -> Tensor:
        grid_NHWC = codes_NPZ.flatten(1).unflatten(1, (*self.bottom, -1))
        return self._through(self.decoder, grid_NHWC.permute(0, 3, 1, 2)).float()

    def decode(self, z_ND: Tensor, label_N: Tensor | None = None) -> Tensor:
        """The likelihood's parameters for normal numbers (N, P): one code after the other, each from those before it."""
        cache: Cache = []
        place_NP = torch.special.ndtr(z_ND.double())
        found: list[Tensor] = []
        for p in range(self.latent_dim):
            before_N1C = self.prior.code(found[-1])[:, None] if found else self.prior.begin(z_ND.shape[0], label_N)
            code, _, upper = cells(self.prior.next(before_N1C, p, cache))
            cell = torch.searchsorted(upper, place_NP[:, p, None].contiguous()).clamp_max(code.shape[1] - 1)
            found.append(code.gather(1, cell)[:, 0])
        return self._decoded(self.book.codes_KZ()[torch.stack(found, 1)])


def _numbers(logits_NPK: Tensor, index_NP: Tensor, noise_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Median, log-variance and a sample (made of ``noise_ND``) of N(0, 1) within the cells of codes, each float32 (N, P)."""
    code, mass, upper = cells(logits_NPK)
    cell = (code == index_NP[..., None]).int().argmax(-1, keepdim=True)
    mass_NP, upper_NP = mass.gather(2, cell)[..., 0], upper.gather(2, cell)[..., 0]
    z_ND = _normal(upper_NP - mass_NP * (1 - torch.special.ndtr(noise_ND.double())))
    middle_ND = _normal(upper_NP - mass_NP / 2)
    # Of a uniform distribution as wide as the cell, where the density is that of its middle.
    logvar_ND = 2 * mass_NP.log() - math.log(12) + math.log(2 * math.pi) + middle_ND.double().square()
    return middle_ND, logvar_ND.float(), z_ND


def _normal(quantile: Tensor) -> Tensor:
    """The normal number below which so much of N(0, 1) lies, float32."""
    return torch.special.ndtri(quantile.clamp(1e-12, 1 - 1e-12)).float()
