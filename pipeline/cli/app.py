"""Entry point of ``vae``: the commands, and how each ends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from pipeline.console import set_up_logging
from pipeline.stage import guarded

app = typer.Typer(
    help="What one does with a trained model: draw, reconstruct, score, promote, roll back.", no_args_is_help=True,
    pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
Json = Annotated[bool, typer.Option("--json", help="for a machine")]


def ended(name: str, work: Callable[[], None]) -> NoReturn:
    """Do the work of a command: a failure is a line on standard error and an exit code, as a stage's is."""
    set_up_logging(name)
    sys.exit(guarded(name, work, debug=False))


def main() -> None:
    """Entry point."""
    from pipeline.cli import compress, data, doctor, edit, export, film, models, numbers, registry, sample, serve

    sample.add_to(app)
    models.add_to(app)
    edit.add_to(app)
    film.add_to(app)
    compress.add_to(app)
    numbers.add_to(app)
    app.command()(registry.compare)
    app.command()(registry.report)
    app.add_typer(registry.app, name="registry")
    app.add_typer(data.app, name="data")
    export.add_to(app)
    serve.add_to(app)
    doctor.add_to(app)
    app()
