"""The table of an export: what a form costs and is worth beside PyTorch, and the bounds that it is held to."""

from __future__ import annotations

from dataclasses import dataclass

SMALLER = {"pruned": 1.5, "student": 3.0}  # how many times smaller they are at least
MOST_DIFFERENCE = 1e-4  # of an image in [-1, 1], or of a latent, to PyTorch's
LEAST_RATIO, LEAST_SPEED, MOST_FCD = 3.5, 1.5, 1.05  # int8: size, speed to PyTorch's at 1 or 64, FCD


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a form costs and is worth; None: nothing here to measure it by."""

    form: str
    size_mib: float
    ms_of_1: float
    ms_of_64: float
    difference: float  # the largest, of both halves to PyTorch's
    psnr_db: float | None  # of reconstructions of test images
    fcd: float | None


def misses(row: Row, whole: Row) -> list[str]:
    """What a form promises and does not keep, each in words."""
    if row.form in SMALLER:
        size = whole.size_mib / row.size_mib
        return [f"is {size:.2f} times smaller, not {SMALLER[row.form]}"] if size < SMALLER[row.form] else []
    if row.form != "int8":
        found = row.difference > MOST_DIFFERENCE
        return [f"differs from PyTorch by {row.difference:.2g}, more than {MOST_DIFFERENCE:g}"] if found else []
    speed, size = max(whole.ms_of_1 / row.ms_of_1, whole.ms_of_64 / row.ms_of_64), whole.size_mib / row.size_mib
    told = []
    if size < LEAST_RATIO:
        told.append(f"is {size:.2f} times smaller, not {LEAST_RATIO}")
    if speed < LEAST_SPEED:
        told.append(f"is {speed:.2f} times as fast as PyTorch, not {LEAST_SPEED}")
    if row.fcd is None or whole.fcd is None:
        told.append("has no FCD: there are too few test images or evaluate.samples")
    elif row.fcd > MOST_FCD * whole.fcd:
        told.append(f"has an FCD of {row.fcd:.3g}, PyTorch's is {whole.fcd:.3g}")
    return told


def table(rows: list[Row]) -> str:
    """A line for each form."""

    def told(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    head = f"{'form':<14}{'MiB':>8}{'ms of 1':>9}{'ms of 64':>10}{'difference':>12}{'PSNR dB':>9}{'FCD':>9}"
    lines = [
        f"{r.form:<14}{r.size_mib:>8.2f}{r.ms_of_1:>9.2f}{r.ms_of_64:>10.2f}{r.difference:>12.1e}"
        f"{told(r.psnr_db, '.2f'):>9}{told(r.fcd, '.4g'):>9}"
        for r in rows
    ]
    return "\n".join([head, *lines])
