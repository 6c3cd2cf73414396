"""The parameters that ``make run RECIPE=…`` trains by."""

from __future__ import annotations

from types import SimpleNamespace

from benchmarks.rows import ROOT
from pipeline import params


def values(recipe: str) -> SimpleNamespace:
    """params.yaml with the recipe's own values in it."""
    text, file = (ROOT / "params.yaml").read_text(encoding="utf-8"), ROOT / "recipes" / f"{recipe}.yaml"
    return params.check(params.edited(text, params.overlay(file, text)), file.name)
