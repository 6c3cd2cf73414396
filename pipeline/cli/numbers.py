"""``vae encode``, ``score``, ``nearest``: commands that tell what a model makes of pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from pipeline import reference
from pipeline.cli.app import Json, ended
from pipeline.cli.files import STANDARD, check_output, read_images, write_images
from pipeline.cli.latents import check_latents_output, write_latents
from pipeline.cli.models import Images, Label, Model, Seed, needed
from pipeline.errors import BadConfigError, InputMissingError
from pipeline.paths import INDEX, Paths
from pipeline.registry import CHAMPION
from vae.answers import MOST_NEAREST, as_rows
from vae.artefact import Generator
from vae.data import ImageShards
from vae.files import MANIFEST, sha256_file

Arrays = Annotated[str, typer.Option("--out", "-o", help=".npz: mean, log_variance, names; or .parquet: a row each")]


def encode(images: Images, model: Model = CHAMPION, label: Label = None, out: Arrays = "latents.npz") -> None:
    """Pictures as latents.

    vae encode photos/ -o latents.npz · vae encode photos/ -o latents.parquet · then vae decode latents.npz
    """

    def work() -> None:
        check_latents_output(out)
        called, generator = reference.load(model, Paths.here())
        names, pixels = read_images(images, generator)
        mean_ND, log_variance_ND = generator.encode(pixels, needed(generator, label, len(pixels)))
        write_latents(out, names, mean_ND, log_variance_ND)
        print(f"{called} encoded {len(names)} images: {out}", file=sys.stderr)

    ended("encode", work)


def score(images: Images, model: Model = CHAMPION, label: Label = None, seed: Seed = 0, as_json: Json = False) -> None:
    """How likely the model finds each picture: its bound in nats, the least likely first. Low ones are unlike the training images.

    vae score incoming/ --json
    """

    def work() -> None:
        _, generator = reference.load(model, Paths.here())
        names, pixels = read_images(images, generator)
        bound_N = generator.bound(pixels, needed(generator, label, len(pixels)), seed).tolist()
        ranked = sorted(zip(bound_N, names, strict=True))
        if as_json:
            print(json.dumps([{"image": name, "elbo_nats": value} for value, name in ranked]))
        else:
            print("\n".join(f"{value:12.2f}  {name}" for value, name in ranked))

    ended("score", work)


def nearest(
    images: Images,
    count: Annotated[int, typer.Option(help="for each picture", min=1, max=MOST_NEAREST)] = 5,
    model: Model = CHAMPION,
    label: Label = None,
    as_json: Json = False,
    out: Annotated[str, typer.Option("--out", "-o", help="a .png too: each picture, and its nearest beside it")] = "",
) -> None:
    """The training images nearest to each picture, by the distance of their latents.

    vae nearest cat.jpg --count 9 -o nearest.png
    """

    def work() -> None:
        if out and (out == STANDARD or Path(out).suffix.lower() != ".png"):
            raise BadConfigError(f"--out {out}: nearest draws a .png file")
        check_output(out)
        paths = Paths.here()
        called, generator = reference.load(model, paths)
        names, pixels = read_images(images, generator)
        try:
            found = generator.nearest(pixels, needed(generator, label, len(pixels)), count)
        except ValueError as error:
            raise BadConfigError(f"{called}: {error}") from None
        if out:
            rows = np.concatenate([pixels[:, None], _pictures(found["name"], generator, paths)], 1)
            told = write_images(rows.reshape(-1, *pixels.shape[1:]), generator.contract["mode"], out, rows.shape[1])
            print(f"{called} drew {told}", file=sys.stderr)
        if as_json:
            print(json.dumps([{"image": name, "nearest": row} for name, row in zip(names, as_rows(found), strict=True)]))
        else:
            for name, row in zip(names, found, strict=True):
                print(name, *(f"{each['distance']:12.4f}  {each['name']}" for each in row), sep="\n")

    ended("nearest", work)


def _pictures(names_NC: np.ndarray, generator: Generator, paths: Paths) -> np.ndarray:
    """The pixels of training images (N, C, height, width, channels); InputMissingError where their data set does not lie here."""
    manifest = paths.processed / MANIFEST
    if not manifest.exists() or sha256_file(manifest) != generator.contract["data_manifest"]:
        raise InputMissingError(f"--out: the images that the model was trained on do not lie in {paths.processed}: leave it out")
    index = pd.read_parquet(paths.processed / INDEX, columns=["path", "split"])
    places = pd.Index(index.loc[index["split"] == "train", "path"]).get_indexer(names_NC.ravel())
    pixels = ImageShards(paths.processed / "train").gather(places)
    return pixels.reshape(*names_NC.shape, *pixels.shape[1:])


def privacy(model: Model = CHAMPION, as_json: Json = False) -> None:
    """What a model can tell of any one of its training images at most: epsilon and delta of a private training (docs/private.md).

    A model that was trained without train.epsilon is refused: nothing can be said of it.
    """

    def work() -> None:
        called, generator = reference.load(model, Paths.here())
        told = generator.contract.get("privacy")
        if not told:
            raise BadConfigError(
                f"{called} was trained without train.epsilon: it has no epsilon, and nothing bounds what it tells"
            )
        if as_json:
            print(json.dumps({"model": called, **told}))
            return
        print(f"{called}: epsilon {told['epsilon']:.3f}, delta {told['delta']:g}, for {told['images']:,} training images")
        print(
            f"{told['steps']:,} steps, each with {told['sample_rate']:.3%} of the images, gradients cut to {told['sample_norm']:g} nats, "
            f"noise of {told['noise_multiplier']:.4f} times that ({told['accountant']})"
        )

    ended("privacy", work)


def add_to(app: typer.Typer) -> None:
    """Make the functions of this file commands."""
    for command in (encode, score, nearest, privacy):
        app.command()(command)
