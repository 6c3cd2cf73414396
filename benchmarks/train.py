"""How fast training is: ``python -m benchmarks.train [rows]`` writes docs/results/train.json.

Run variants-… (and compiled-…) before the others.

variants-…: a specialist's own loop (benchmarks/hand.py) in every memory format and precision; compiled-…: its best one compiled.
wide-…, narrow-…: that loop in its best variant, ours (plain ``vae.trainer.fit``, the same variant), pythae's BaseTrainer and
lightning's Trainer as documented (float32), one network and objective for all. ray-…: the same job in plain Python and under Ray
Train with one worker of one thread, one of two, two of one. The others: benchmarks/overheads.py.
Each contender is asked for one round in turn; speeds are medians, ratios are medians of the ratios within a round. Times begin
after the first steps. pythae and lightning live in an environment of their own: see requirements.txt beside.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import overheads
from benchmarks.case import DATA, NETWORKS, Case, prepare
from benchmarks.contenders import OTHERS, Contender
from benchmarks.grouped import profile_of, under_ray
from benchmarks.rows import ROOT, Row, measure, result
from pipeline.cluster import connected
from pipeline.paths import Paths

ROUNDS = 5
COMPILING_PAYS = 1.03  # from this ratio on: less is within what two medians differ by here
Speeds = dict[str, list[float]]


def _compared(speeds: Speeds, ratios: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """Medians of the speeds, and of the ratios of speeds of the same round."""
    found = {
        name: statistics.median(a / b for a, b in zip(speeds[over], speeds[under], strict=True))
        for name, (over, under) in ratios.items()
    }
    return {
        "rounds": len(next(iter(speeds.values()))),
        "images_per_second": {name: round(statistics.median(values), 1) for name, values in speeds.items()},
        "lowest_and_highest": {name: [round(min(values), 1), round(max(values), 1)] for name, values in speeds.items()},
        "ratios": {name: round(value, 3) for name, value in found.items()},
    }


def _alternate(runs: dict[str, Callable[[], float]]) -> Speeds:
    speeds: Speeds = {name: [] for name in runs}
    for number in range(ROUNDS):
        # Each second round backwards, so that nobody always runs after the same one.
        for name in list(runs)[:: 1 if number % 2 == 0 else -1]:
            speeds[name].append(runs[name]())
    return speeds


def variants(network: str, _work: Path) -> dict[str, Any]:
    """The loop by hand in every memory format and precision, on colour images."""
    found, by_hand = {}, Contender("hand")
    for threads in (1, 2):
        cases = {
            f"{layout} {precision}": Case(network, "cifar10", threads, precision, layout)
            for layout in ("contiguous", "channels_last")
            for precision in ("float32", "bfloat16")
        }
        runs = {name: partial(by_hand, case) for name, case in cases.items()}
        next(iter(runs.values()))()  # imports and data
        speeds = _alternate(runs)
        winner = cases[max(speeds, key=lambda name, speeds=speeds: statistics.median(speeds[name]))]
        settings = {key: getattr(winner, key) for key in ("memory_format", "precision")}
        found[str(threads)] = _compared(speeds, {}) | {"best": settings}
    by_hand.close()
    return found


def compiled(network: str, _work: Path) -> dict[str, Any]:
    """The best variant by hand under torch.compile against itself without; it is taken by the other rows where it wins."""
    found, by_hand = {}, Contender("hand")
    for threads in (1, 2):
        eager = Case(network, "cifar10", threads, **_best(network, threads) | {"compile": False})
        runs = {name: partial(by_hand, eager.with_(compile=name == "compiled")) for name in ("eager", "compiled")}
        started = time.perf_counter()
        runs["compiled"]()
        seconds = time.perf_counter() - started
        found[str(threads)] = _compared(_alternate(runs), {"compiled / eager": ("compiled", "eager")})
        found[str(threads)] |= {"seconds_of_the_first_round": round(seconds, 1)}
    by_hand.close()
    return found


def _best(network: str, threads: int) -> dict[str, Any]:
    """The settings of the fastest loop by hand."""
    results = json.loads(result("train").read_text())
    best = results[f"variants-{network}"][str(threads)]["best"]
    tried = results.get(f"compiled-{network}")
    return best | {"compile": bool(tried) and tried[str(threads)]["ratios"]["compiled / eager"] > COMPILING_PAYS}


def against(network: str, data: str, _work: Path) -> dict[str, Any]:
    """Ours against the loop by hand, pythae and lightning, all in one process with one and two threads."""
    prepare(data)
    contenders = {name: Contender(name) for name in ("hand", "ours", *(("pythae", "lightning") if OTHERS.exists() else ()))}
    ratios = {f"ours / {name}": ("ours", name) for name in contenders if name != "ours"}
    found = {}
    for threads in (1, 2):
        plain, best = Case(network, data, threads), Case(network, data, threads, **_best(network, threads))
        cases = {name: best if name in ("hand", "ours") else plain for name in contenders}
        runs = {name: partial(contender, cases[name]) for name, contender in contenders.items()}
        for run in runs.values():  # imports, data, compilers
            run()
        found[str(threads)] = _compared(_alternate(runs), ratios) | {"hand_and_ours": _best(network, threads)}
    for contender in contenders.values():
        contender.close()
    return found


def grouped(network: str, data: str, work: Path) -> dict[str, Any]:
    """Ours under Ray Train against ours in plain Python, and two workers of one thread against one of two."""
    prepare(data)
    one, two = (Case(network, data, threads, **_best(network, 1)) for threads in (1, 2))
    plain = Contender("plain")
    runs: dict[str, Callable[[], float]] = {
        "plain, 1 thread": partial(plain, one),
        "ray 1x1": partial(under_ray, one, 1, work / "job"),
        "plain, 2 threads": partial(plain, two),
        "ray 1x2": partial(under_ray, two, 1, work / "job"),
        "ray 2x1": partial(under_ray, one, 2, work / "job"),
    }
    with connected(profile_of(1, 2), Paths(ROOT), 1):
        speeds = _alternate(runs)
    plain.close()
    return _compared(
        speeds,
        {
            "ray 1x1 / plain": ("ray 1x1", "plain, 1 thread"),
            "ray 1x2 / plain": ("ray 1x2", "plain, 2 threads"),
            "ray 2x1 / ray 1x2": ("ray 2x1", "ray 1x2"),
            "ray 2x1 / ray 1x1": ("ray 2x1", "ray 1x1"),
        },
    ) | {"all": _best(network, 1)}


ROWS: dict[str, Row] = {
    **{f"variants-{network}": partial(variants, network) for network in NETWORKS},
    **{f"compiled-{network}": partial(compiled, network) for network in NETWORKS},
    **{f"{network}-{data}": partial(against, network, data) for network in NETWORKS for data in DATA},
    **{f"ray-{network}-{data}": partial(grouped, network, data) for network in NETWORKS for data in DATA},
    **overheads.ROWS,
}


if __name__ == "__main__":
    prepare("cifar10")
    measure("train", ROWS, __doc__)
