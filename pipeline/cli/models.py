"""``vae reconstruct``, ``interpolate``, ``traverse``, ``denoise``, ``decode``: commands that draw. N images, D latents."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from pipeline import reference
from pipeline.cli.app import ended
from pipeline.cli.files import STANDARD, check_output, read_images, write_images
from pipeline.cli.latents import read_latents
from pipeline.errors import BadConfigError
from pipeline.paths import Paths
from pipeline.registry import CHAMPION
from vae.artefact import Generator
from vae.denoise import LEAST_LEVELS, SAMPLES, averaged, denoised, estimated_sigma, trained_levels, within
from vae.use import class_number, interpolation, traversal

COLUMNS = 8
Model = Annotated[str, typer.Option("--model", "-m", help="a folder, models:/name@alias, models:/name/3, an alias, a version")]
Out = Annotated[str, typer.Option("--out", "-o", help=".png (a grid), .gif or .webp (moving), .npz, a folder, or - (a PNG)")]
Images = Annotated[list[str], typer.Argument(help="pictures, folders of them, or - for standard input")]
Latents = Annotated[Path, typer.Argument(help=".npz with an array mean or latents (N, D), or .parquet with mean_0, mean_1, ...")]
Seed = Annotated[int, typer.Option(help="the same seed gives the same pixels")]
Label = Annotated[str | None, typer.Option(help="of this label (a model that was trained with fit.class_conditional)")]


def labels_of(generator: Generator, label: str | None, count: int) -> torch.Tensor | None:
    """Class numbers of ``count`` images of one label; None where none is said."""
    if label is None:
        return None
    try:
        return torch.full((count,), class_number(label, generator))
    except ValueError as error:
        raise BadConfigError(f"--label: {error}") from None


def needed(generator: Generator, label: str | None, count: int) -> torch.Tensor | None:
    """Likewise, where a model with classes cannot do without."""
    if generator.config.classes and label is None:
        raise BadConfigError(
            f"--label is needed: the model is told the label of every image ({', '.join(generator.contract['labels'])})"
        )
    return labels_of(generator, label, count)


def _mode(generator: Generator) -> str:
    return generator.contract["mode"]


def written(called: str, generator: Generator, images_NHWC: np.ndarray, out: str, columns: int) -> None:
    told = write_images(images_NHWC, _mode(generator), out, columns)
    print(f"{called} drew {told}", file=sys.stderr)


def reconstruct(images: Images, model: Model = CHAMPION, label: Label = None, out: Out = "reconstructions.png") -> None:
    """What the model makes of pictures: in a PNG each above its reconstruction, elsewhere the reconstructions.

    vae reconstruct cat.jpg dog.png · cat cat.jpg | vae reconstruct - -o - > copy.png
    """

    def work() -> None:
        check_output(out)
        called, generator = reference.load(model, Paths.here())
        _, pixels = read_images(images, generator)
        beside(called, generator, pixels, generator.reconstruct(pixels, needed(generator, label, len(pixels))), out)

    ended("reconstruct", work)


def denoise(
    images: Images,
    model: Model = CHAMPION,
    sigma: Annotated[
        float | None, typer.Option(help="of the noise, in levels of 255; where nothing is said it is estimated for each picture")
    ] = None,
    samples: Annotated[
        int, typer.Option(help="of the posterior, whose mean is taken (a model trained for it)", min=1, max=1024)
    ] = SAMPLES,
    label: Label = None,
    out: Out = "denoised.png",
) -> None:
    """Pictures without their noise: in a PNG each above the result, elsewhere the results.

    vae denoise scan.png · by a model that was trained for it (docs/denoise.md), or else as the model can explain the picture
    """

    def work() -> None:
        check_output(out)
        called, generator = reference.load(model, Paths.here())
        names, pixels = read_images(images, generator)
        sigma_N = estimated_sigma(pixels).clip(LEAST_LEVELS) if sigma is None else np.full(len(pixels), sigma)
        label_N, most = needed(generator, label, len(pixels)), trained_levels(generator)
        try:
            if most:
                within(sigma, most)
                found = averaged(generator, pixels, samples, label_N)
            else:
                found = denoised(generator, pixels, sigma_N, label_N)
        except ValueError as error:
            raise BadConfigError(f"--sigma, --model: {error}") from None
        if sigma is None:
            for name, each in zip(names, sigma_N, strict=True):
                more = f", more than the {most:g} that the model has learned" if 0 < most < each else ""
                print(f"{each:8.1f} levels of noise estimated in {name}{more}", file=sys.stderr)
        beside(called, generator, pixels, found, out)

    ended("denoise", work)


def beside(called: str, generator: Generator, before_NHWC: np.ndarray, after_NHWC: np.ndarray, out: str) -> None:
    """In a PNG what went in above what came out, elsewhere what came out."""
    if out == STANDARD or Path(out).suffix.lower() == ".png":
        columns = min(COLUMNS, len(before_NHWC))
        return written(called, generator, _above(before_NHWC, after_NHWC, columns), out, columns)
    return written(called, generator, after_NHWC, out, COLUMNS)


def _above(upper_NHWC: np.ndarray, lower_NHWC: np.ndarray, columns: int) -> np.ndarray:
    """Rows of the one above rows of the other; where a row is not full the rest is white."""
    rest = np.full((-len(upper_NHWC) % columns, *upper_NHWC.shape[1:]), 255, np.uint8)
    rows = [np.concatenate([images, rest]).reshape(-1, columns, *rest.shape[1:]) for images in (upper_NHWC, lower_NHWC)]
    return np.stack(rows, 1).reshape(-1, *rest.shape[1:])


def interpolate(
    first: Annotated[str, typer.Argument(help="a picture")],
    second: Annotated[str, typer.Argument(help="another one")],
    steps: Annotated[int, typer.Option(help="pictures from one to the other, both included", min=2, max=1000)] = 9,
    linear: Annotated[bool, typer.Option("--linear", help="straight, instead of along the great circle")] = False,
    model: Model = CHAMPION,
    label: Label = None,
    out: Out = "interpolation.png",
) -> None:
    """The way from one picture to another.

    vae interpolate cat.jpg dog.jpg --steps 24 -o way.gif
    """

    def work() -> None:
        check_output(out)
        called, generator = reference.load(model, Paths.here())
        _, pixels = read_images([first, second], generator)
        (a_D, b_D), _ = generator.encode(pixels, needed(generator, label, 2))
        z_ND = interpolation(a_D, b_D, steps, linear)
        written(called, generator, generator.decode(z_ND, labels_of(generator, label, steps)), out, steps)

    ended("interpolate", work)


def traverse(
    image: Annotated[str, typer.Argument(help="a picture to start from, or - for standard input")],
    dimensions: Annotated[str, typer.Option(help="which latents, as 0,3,5; all where nothing is said")] = "",
    steps: Annotated[int, typer.Option(help="pictures for each latent", min=2, max=1000)] = 9,
    extent: Annotated[
        float, typer.Option(help="from minus so many to plus so many prior standard deviations", min=0.01, max=100)
    ] = 3.0,
    model: Model = CHAMPION,
    label: Label = None,
    out: Out = "traversal.png",
) -> None:
    """One latent after the other moves, the others stay: a row each.

    vae traverse cat.jpg --dimensions 0,4 --extent 2
    """

    def work() -> None:
        check_output(out)
        called, generator = reference.load(model, Paths.here())
        latents = generator.model.latent_dim
        chosen = [part.strip() for part in dimensions.split(",")] if dimensions else [str(d) for d in range(latents)]
        wrong = [part for part in chosen if not part.isdecimal() or int(part) >= latents]
        if wrong:
            raise BadConfigError(f"--dimensions: {', '.join(wrong)} are none of the model's latents 0 to {latents - 1}")
        _, pixels = read_images([image], generator)
        (z_D,), _ = generator.encode(pixels, needed(generator, label, 1))
        end_D = torch.full((latents,), extent)
        z_ND = traversal(z_D, [int(part) for part in chosen], -end_D, end_D, steps)
        written(called, generator, generator.decode(z_ND, labels_of(generator, label, len(z_ND))), out, steps)

    ended("traverse", work)


def decode(latents: Latents, model: Model = CHAMPION, label: Label = None, out: Out = "decoded.png") -> None:
    """Latents as pictures.

    vae decode latents.npz -o folder
    """

    def work() -> None:
        check_output(out)
        called, generator = reference.load(model, Paths.here())
        z_ND = read_latents(latents, generator.model.latent_dim)
        written(called, generator, generator.decode(z_ND, needed(generator, label, len(z_ND))), out, COLUMNS)

    ended("decode", work)


def add_to(app: typer.Typer) -> None:
    """Make the functions of this file commands."""
    for command in (reconstruct, interpolate, traverse, denoise, decode):
        app.command()(command)
