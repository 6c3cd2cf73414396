"""What judging costs: ``python -m benchmarks.judge [rows]`` writes docs/results/judge.json.

frechet: the statistics of a Fréchet distance, 10,000 feature vectors of 2,048 numbers against 60,000, and its value; beside the way
of pytorch-fid and torch-fidelity: numpy's covariance, scipy's general matrix root of the product. In turns, in one process, medians;
``reference_known``: the larger set's mean and covariance are there already, as for a second model on the same data.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch

from benchmarks.rows import measure
from vae.metrics.frechet import frechet_distance, moments

DIM, GENERATED, REAL, ROUNDS, THREADS = 2048, 10_000, 60_000, 3, 2


def _features(count: int, seed: int, shift: float) -> torch.Tensor:
    """Correlated, with variances that fall over four orders of magnitude, as those of a deep network do."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(0))).Q
    spread = torch.logspace(0, -4, DIM).sqrt()
    return (torch.randn(count, DIM, generator=generator) * spread) @ mixing * (1 + shift) + shift


def _general_root(a_ND: np.ndarray, of_real: tuple[np.ndarray, np.ndarray]) -> float:
    mean_a, cov_a = a_ND.mean(0), np.cov(a_ND, rowvar=False)
    mean_b, cov_b = of_real
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(root).real)


def frechet(_work: Path) -> dict[str, Any]:
    """Seconds of each way, with and without the reference's statistics, and how far the values are apart."""
    torch.set_num_threads(THREADS)
    made, real = _features(GENERATED, 1, 0.05), _features(REAL, 2, 0.0)
    made_64, real_64 = made.double().numpy(), real.double().numpy()  # both ways compute in float64

    def known() -> tuple[np.ndarray, np.ndarray]:
        return real_64.mean(0), np.cov(real_64, rowvar=False)

    ours_known, theirs_known = moments(real), known()
    ways: dict[str, Callable[[], float]] = {
        "ours": lambda: frechet_distance(moments(real), moments(made)),
        "ours, reference known": lambda: frechet_distance(ours_known, moments(made)),
        "general root": lambda: _general_root(made_64, known()),
        "general root, reference known": lambda: _general_root(made_64, theirs_known),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    values: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started = time.perf_counter()
            values[name] = way()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    return {
        "rounds": ROUNDS,
        "threads": THREADS,
        "seconds": {name: round(value, 2) for name, value in medians.items()},
        "times_faster": round(medians["general root"] / medians["ours"], 2),
        "times_faster_reference_known": round(medians["general root, reference known"] / medians["ours, reference known"], 2),
        "value": values["ours"],
        "relative_difference": abs(values["ours"] - values["general root"]) / values["general root"],
    }


if __name__ == "__main__":
    measure("judge", {"frechet": frechet}, __doc__)
