"""What this machine has for us: of a container, what it was given."""

from __future__ import annotations

import os
from pathlib import Path

CONTROL_GROUP = Path("/sys/fs/cgroup")


def processors() -> int:
    """How many processors this process may use; 1 at least."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (CONTROL_GROUP / "cpu.max").read_text().split()
        allowed = min(allowed, int(quota) // int(period))
    except (OSError, ValueError):  # no such file, or "max": all of them
        pass
    return max(1, allowed)


def memory_bytes() -> int:
    """How much memory it has."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CONTROL_GROUP / "memory.max"
    text = limit.read_text().strip() if limit.exists() else ""
    return min(total, int(text)) if text.isdigit() else total
