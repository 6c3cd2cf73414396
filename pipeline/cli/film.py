"""Command of films: frames between frames."""

from __future__ import annotations

import itertools
from typing import Annotated

import torch
import typer

from pipeline import reference
from pipeline.cli.app import ended
from pipeline.cli.files import check_output, read_clip
from pipeline.cli.models import Label, Model, Out, needed, written
from pipeline.errors import BadConfigError
from pipeline.paths import Paths
from pipeline.registry import CHAMPION
from vae.use import interpolation

MOST_FRAMES = 100_000  # of the result


def inbetween(
    clip: Annotated[str, typer.Argument(help="an animation (GIF, WebP, PNG, TIFF), or a folder of frames")],
    frames: Annotated[int, typer.Option(help="new ones between each two", min=1, max=100)] = 1,
    linear: Annotated[bool, typer.Option("--linear", help="straight, instead of along the great circle")] = False,
    redraw: Annotated[bool, typer.Option("--redraw", help="the given frames, too, as the model draws them")] = False,
    model: Model = CHAMPION,
    label: Label = None,
    out: Out = "inbetween.gif",
) -> None:
    """A film with frames drawn between its own, on the way in the model's latents.

    vae inbetween walk.gif --frames 3 -o slow.gif
    """

    def work() -> None:
        check_output(out)
        called, generator = reference.load(model, Paths.here())
        pixels = read_clip(clip, generator)
        steps = frames + 1
        if len(pixels) * steps > MOST_FRAMES:
            raise BadConfigError(f"--frames {frames}: {len(pixels)} frames would become more than {MOST_FRAMES}")
        mean_ND, _ = generator.encode(pixels, needed(generator, label, len(pixels)))
        ways = [interpolation(a_D, b_D, steps + 1, linear)[:-1] for a_D, b_D in itertools.pairwise(mean_ND)]
        z_ND = torch.cat([*ways, mean_ND[-1:]])
        drawn = generator.decode(z_ND, needed(generator, label, len(z_ND)))
        if not redraw:
            drawn[::steps] = pixels
        written(called, generator, drawn, out, steps)

    ended("inbetween", work)


def add_to(app: typer.Typer) -> None:
    """Make the functions of this file commands."""
    app.command()(inbetween)
