"""``vae export``."""

from __future__ import annotations

import importlib.util
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline import reference
from pipeline.cli.app import ended
from pipeline.cli.models import Model
from pipeline.errors import BadDataError, UnavailableError
from pipeline.paths import Paths
from pipeline.registry import CHAMPION

NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "int8": ("onnx", "onnxscript", "onnxruntime")}


class Form(StrEnum):
    """As --to names it."""

    ONNX = "onnx"
    TORCH_EXPORT = "torch-export"
    SAFETENSORS = "safetensors"
    INT8 = "int8"
    PRUNED = "pruned"
    STUDENT = "student"


def export(
    to: Annotated[
        Form, typer.Option(help="int8 is ONNX of 8-bit integers; pruned and student are smaller networks, taught by it")
    ],
    model: Model = CHAMPION,
    out: Annotated[str, typer.Option("--out", "-o", help="folder; what is there is replaced. Default: export-FORM")] = "",
    force: Annotated[bool, typer.Option("--force", help="write it even where it misses its bounds")] = False,
) -> None:
    """The model for another runtime, measured beside PyTorch: size, time, difference, PSNR, FCD.

    vae export --to onnx · vae export --to int8 -o small · vae export --to student, then vae serve -m export-student
    """

    def work() -> None:
        missing = [name for name in NEEDED.get(to, ()) if importlib.util.find_spec(name) is None]
        if missing:
            raise UnavailableError(f"{', '.join(missing)} are not installed: pip install 'vaeline[export]'")
        from pipeline.export import export as exported

        paths, target = Paths.here(), Path(out or f"export-{to}")
        called, generator = reference.load(model, paths)
        try:
            print(exported(generator, to, target.resolve(), paths, force))
        except ValueError as error:
            raise BadDataError(f"{called}: {error}") from None
        print(f"{called} as {to}: {target}")

    ended("export", work)


def add_to(app: typer.Typer) -> None:
    """Make the function of this file a command."""
    app.command()(export)
