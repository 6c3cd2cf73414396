"""What decides the bits of a result beside configuration, data and code; and what a resumed run does where it has changed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from vae.config import FitConfig
from vae.distributed import world_size
from vae.errors import ResumeRefusedError

log = logging.getLogger(__name__)


def numerics(device: torch.device, order: str) -> dict[str, Any]:
    """Threads, torch version, processor capability, kind of device, number of ranks and the ``order`` in which gradients are added."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "world_size": world_size(),
        "order_of_sums": order,
    }


def flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping with dotted keys; tuples as the lists that JSON gives back."""
    found: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return found


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each dotted key whose value has changed, come or gone."""
    old, new, none = flat(before), flat(now), "nothing"
    return [
        f"{key}: {old.get(key, none)!r} before, {new.get(key, none)!r} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, none) != new.get(key, none)
    ]


def check_identity(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """ResumeRefusedError where configuration, data or code are others than those that the training began with."""
    if changed := differences(before, now):
        raise ResumeRefusedError(
            f"the unfinished training is another one ({'; '.join(changed)}): put that back, or start anew with --fresh"
        )


def check_numerics(before: Mapping[str, Any], now: Mapping[str, Any], config: FitConfig) -> None:
    """Where the bits would not be those of an uninterrupted run: a warning (off, run) or ResumeRefusedError (resume, elastic)."""
    free = {"world_size"} if config.exactness == "elastic" else set()
    kept, here = ({key: value for key, value in each.items() if key not in free} for each in (before, now))
    changed = differences(kept, here)
    if not changed:
        return
    text = "; ".join(changed)
    if config.exactness in ("off", "run"):
        log.warning("resumed with other numerics (%s): the result is not bit for bit that of an uninterrupted run", text)
        return
    raise ResumeRefusedError(
        f"fit.exactness {config.exactness} cannot hold in this place ({text}): go back to that, or start anew with --fresh"
    )


@contextmanager
def determinism(config: FitConfig, device: torch.device) -> Iterator[None]:
    """Deterministic kernels on accelerators at every level but ``off``; processors have them anyway."""
    if device.type == "cpu" or config.exactness == "off":
        yield
        return
    before, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark
