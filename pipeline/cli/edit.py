"""``vae restyle`` and ``vae inpaint``: pictures with one property changed, or with a missing part drawn. N images, D latents."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from pipeline import reference
from pipeline.cli.app import ended
from pipeline.cli.files import check_output, read_images
from pipeline.cli.models import Images, Label, Model, Out, Seed, beside, needed
from pipeline.errors import BadConfigError, BadDataError, InputMissingError
from pipeline.paths import Paths
from pipeline.registry import CHAMPION
from vae.artefact import Generator
from vae.inpaint import inpainted
from vae.restyle import parsed_moves, restyled
from vae.use import mask_of


def restyle(
    images: Images,
    move: Annotated[
        list[str] | None, typer.Option(help="a factor and by how much, in its unit, as scale=+0.1; may be repeated")
    ] = None,
    make: Annotated[str | None, typer.Option(help="the label that the picture is to be of")] = None,
    model: Model = CHAMPION,
    label: Label = None,
    out: Out = "restyled.png",
) -> None:
    """Change one property of pictures and keep the others: in a PNG each above the result, elsewhere the results.

    vae restyle sprite.png --move x=+0.2 --move scale=-0.1 · vae restyle sprite.png --make heart
    """

    def work() -> None:
        check_output(out)
        try:
            by = parsed_moves(move or [])
        except ValueError as error:
            raise BadConfigError("\n".join(f"--move {line}" for line in str(error).splitlines())) from None
        if not by and make is None:
            raise BadConfigError("nothing is to be changed: give --move factor=+0.1 or --make label")
        called, generator = reference.load(model, Paths.here())
        _, pixels_NHWC = read_images(images, generator)
        try:
            found = restyled(generator, pixels_NHWC, by, make, needed(generator, label, len(pixels_NHWC)))
        except ValueError as error:
            raise BadConfigError(f"--move, --make, --model: {error}") from None
        beside(called, generator, pixels_NHWC, found, out)

    ended("restyle", work)


def _mask(path: Path, generator: Generator) -> np.ndarray:
    """Where a mask is light (H, W), laid over pictures as the model takes them."""
    if not path.is_file():
        raise InputMissingError(f"--mask {path} does not exist: name a picture that is white where something is missing")
    try:
        return mask_of(path.read_bytes(), generator)
    except ValueError as error:
        raise BadDataError(f"--mask {path} cannot be used: {error}") from None


def inpaint(
    images: Images,
    mask: Annotated[Path, typer.Option(help="a picture, white where something is missing; cut and resized as the pictures are")],
    model: Model = CHAMPION,
    label: Label = None,
    seed: Seed = 0,
    out: Out = "inpainted.png",
) -> None:
    """Draw what is missing of pictures as the model explains the rest: in a PNG each (its missing part grey) above the result.

    vae inpaint old-photo.png --mask scratches.png · known pixels stay as they are
    """

    def work() -> None:
        check_output(out)
        called, generator = reference.load(model, Paths.here())
        missing_HW = _mask(mask, generator)
        _, pixels_NHWC = read_images(images, generator)
        missing_NHW = np.broadcast_to(missing_HW, pixels_NHWC.shape[:3])
        try:
            found = inpainted(generator, pixels_NHWC, missing_NHW, needed(generator, label, len(pixels_NHWC)), seed)
        except ValueError as error:
            raise BadConfigError(f"--mask, --model: {error}") from None
        beside(called, generator, np.where(missing_NHW[..., None], np.uint8(128), pixels_NHWC), found, out)
        print(f"{missing_HW.mean():.0%} of each picture was missing", file=sys.stderr)

    ended("inpaint", work)


def add_to(app: typer.Typer) -> None:
    """Make the functions of this file commands."""
    for command in (restyle, inpaint):
        app.command()(command)
