"""``vae data``: a look at images, pointing the workspace at them, and whether what the stages made of them is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline import images
from pipeline.cli.app import ended
from pipeline.paths import Paths

app = typer.Typer(help="Images: look at them, use them, check what was made of them.", no_args_is_help=True)
Origin = Annotated[str, typer.Argument(help="a folder, archive or list of links (.csv, .parquet)")]


@app.command()
def look(origin: Origin) -> None:
    """What some of the images are like; nothing is changed.

    vae data look photos/
    """

    def work() -> None:
        seen = images.look(Path(origin).expanduser())
        sides = f"all {seen.square_side} x {seen.square_side}" if seen.square_side else f"short side {seen.short_side}"
        print(f"{origin}: {seen.files:,} files, {'grey' if seen.grey else 'in colour'}, {sides} pixels")

    ended("data", work)


@app.command()
def use(origin: Origin) -> None:
    """Point params.yaml at the images, as `make run IMAGES=…` does before it runs; `git diff` shows what it chose."""

    def work() -> None:
        written = images.use(origin, Paths.here())
        print("\n".join(f"params.yaml: {key} = {value}" for key, value in written.items()) or "params.yaml uses them already")

    ended("data", work)


@app.command()
def verify() -> None:
    """Every artefact of this workspace against its hashes."""
    from pipeline.verify import verify as verified

    ended("data", lambda: verified(Paths.here()))
