"""Command of films: frames between frames."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline import reference
from pipeline.cli.app import ended
from pipeline.cli.files import check_output, read_clip
from pipeline.cli.models import Label, Model, Out, needed, written
from pipeline.errors import BadConfigError
from pipeline.paths import Paths
from pipeline.registry import CHAMPION
from vae.inbetween import inbetween as between

MOST_FRAMES = 100_000  # of the result


def inbetween(
    clip: Annotated[str, typer.Argument(help="an animation (GIF, WebP, PNG, TIFF), or a folder of frames")],
    frames: Annotated[int, typer.Option(help="new ones between each two", min=1, max=100)] = 1,
    redraw: Annotated[
        bool, typer.Option("--redraw", help="all frames as the model alone draws them, the given ones too")
    ] = False,
    model: Model = CHAMPION,
    label: Label = None,
    out: Out = "inbetween.gif",
) -> None:
    """A film with frames drawn between its own, on the way in the model's latents; the given ones stay as they are.

    vae inbetween walk.gif --frames 3 -o slow.gif
    """

    def work() -> None:
        check_output(out)
        called, generator = reference.load(model, Paths.here())
        pixels = read_clip(clip, generator)
        steps = frames + 1
        if len(pixels) * steps > MOST_FRAMES:
            raise BadConfigError(f"--frames {frames}: {len(pixels)} frames would become more than {MOST_FRAMES}")
        drawn = between(generator, pixels, frames, needed(generator, label, len(pixels)), redraw=redraw)
        written(called, generator, drawn, out, steps)

    ended("inbetween", work)


def add_to(app: typer.Typer) -> None:
    """Make the functions of this file commands."""
    app.command()(inbetween)
