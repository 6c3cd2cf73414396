"""The tables of the recipes' pages."""

from __future__ import annotations

from benchmarks.markdown import lines, read

SETS = {"sprites": "sprites", "mnist": "MNIST", "mnist-png": "MNIST"}
SHOWN_CANDIDATES, SHOWN_TEMPERATURE = (1, 4, 16), 0.8


def best_of() -> str:
    """Precision, coverage and FCD of every way to choose, and of a lower temperature (benchmarks/best_of.py)."""
    found, rows = read("best-of-n"), []
    for name, measured in found.items():
        for i, row in enumerate(
            each
            for each in measured["rows"]
            if each["candidates"] in SHOWN_CANDIDATES
            and each["temperature"] in (1, SHOWN_TEMPERATURE)
            and (each["candidates"] > 1 or each["way"] in ("density", "temperature"))
            and not (each["way"] == "temperature" and each["temperature"] == 1)
        ):
            one = row["candidates"] == 1 and row["temperature"] == 1
            way = "single draws" if one else row["way"] if row["candidates"] > 1 else f"temperature {row['temperature']:g}"
            numbers = [f"{row[key]:.3f}" for key in ("precision", "coverage")] + [
                f"{row[key]:.2f}" for key in ("fcd", "fcd_second")
            ]
            rows.append((SETS.get(name, name) if not i else "", way, f"{row['candidates']:.0f}", *numbers))
    machines = ", ".join(sorted({measured["machine"] for measured in found.values()}))
    head = ("data", "kept", "candidates", "precision", "coverage", "FCD", "FCD, second network")
    return f"{lines(head, rows)}\n\nMeasured on: {machines}."
