"""A book of code vectors that follows what is written in it. K codes, Z numbers in each, N images, P places in an image.

Each code is the mean of the vectors that chose it, over a moving window: with counts c_k, sums m_k and summed squares s_k of the
last batches, all per image,

    c_k <- d c_k + (1 - d) n_k        m_k <- d m_k + (1 - d) sum_p h_p        e_k = m_k / c_k

(van den Oord et al., Neural Discrete Representation Learning, 2017, appendix A.1). How they follow: vae/statistics.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae.noise import step_noise
from vae.statistics import following_loss

DEAD_SHARE = 0.1  # of the mean count: a code that is chosen less often says nothing
RESTART_STEPS = 4  # between two looks for dead codes
SMALLEST = 1e-8


class Codebook(nn.Module):
    """K codes; after each step ``statistics`` follow the batch, then ``revive``."""

    def __init__(self, codes: int, size: int, places: int) -> None:
        super().__init__()
        share = places / codes  # as if each were chosen equally often
        start_KZ = torch.randn(codes, size)
        self.counts_K = nn.Parameter(torch.full((codes,), share))
        self.sums_KZ = nn.Parameter(share * start_KZ)
        self.squares_K = nn.Parameter(share * (start_KZ.square().sum(1) + size))

    @property
    def statistics(self) -> tuple[nn.Parameter, ...]:
        """Counts, sums and summed squares, per image."""
        return self.counts_K, self.sums_KZ, self.squares_K

    def codes_KZ(self) -> Tensor:
        """The code vectors, without gradient."""
        return (self.sums_KZ / self.counts_K[:, None].clamp_min(SMALLEST)).detach()

    def nearest(self, h_NPZ: Tensor) -> Tensor:
        """The number of the code nearest to each vector, int64 (N, P)."""
        codes_KZ = self.codes_KZ()
        with torch.no_grad():
            return (codes_KZ.square().sum(1) - 2 * h_NPZ @ codes_KZ.T).argmin(2)

    def statistics_loss(self, h_NPZ: Tensor, index_NP: Tensor) -> Tensor:
        """What makes the statistics follow the vectors that chose each code, summed over the images."""
        rows, codes = h_NPZ.detach().flatten(0, 1), len(self.counts_K)
        chosen_RK = F.one_hot(index_NP.flatten(), codes).to(rows.dtype)  # a product adds in one order, whatever the device
        seen = (chosen_RK.sum(0), chosen_RK.T @ rows, chosen_RK.T @ rows.square().sum(1))
        losses = [following_loss(own, now, len(h_NPZ)) for own, now in zip(self.statistics, seen, strict=True)]
        return torch.stack(losses).sum()

    @torch.no_grad()
    def revive(self, step: int) -> None:
        """Now and then each dead code takes half of the vectors of one whose vectors lie far from it (Linde, Buzo, Gray 1980).

        A function of the statistics and the step alone, so that all processes do the same.
        """
        if step % RESTART_STEPS:
            return
        counts_K, sums_KZ, squares_K = self.statistics
        spread_K = (squares_K - sums_KZ.square().sum(1) / counts_K.clamp_min(SMALLEST)).clamp_min(0)  # squared distances, summed
        dead_K = counts_K < DEAD_SHARE * counts_K.mean()
        dead = dead_K.nonzero()[:, 0]
        wide = torch.argsort(spread_K.masked_fill(dead_K, -1), descending=True)[: min(len(dead), len(dead_K) - len(dead))]
        dead = dead[: len(wide)]
        if not len(dead):
            return
        half_D, size = counts_K[wide] / 2, sums_KZ.shape[1]
        deviation_D = (spread_K[wide] / counts_K[wide] / size).sqrt()
        offset_DZ = deviation_D[:, None] * step_noise(0, step, (len(wide), size), sums_KZ.device)
        centre_DZ = sums_KZ[wide] / counts_K[wide][:, None]
        for rows, codes_DZ in ((wide, centre_DZ - offset_DZ), (dead, centre_DZ + offset_DZ)):
            counts_K[rows] = half_D
            sums_KZ[rows] = half_D[:, None] * codes_DZ
            squares_K[rows] = half_D * codes_DZ.square().sum(1) + spread_K[wide] / 2
