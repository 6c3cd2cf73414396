"""``vae sample``: new images, the best of many candidates, or a whole data set of them. N images."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from pipeline import reference
from pipeline.best_of import CLASSIFIER, KINDS, BestOf
from pipeline.cli.app import ended
from pipeline.cli.files import STANDARD, check_output
from pipeline.cli.models import COLUMNS, Label, Model, Out, Seed, labels_of, written
from pipeline.dataset import CARD, FORMS, MOST, PART_IMAGES, Dataset, ordered
from pipeline.errors import BadConfigError
from pipeline.paths import SECOND, Paths
from pipeline.registry import CHAMPION
from vae.answers import MOST_IMAGES


@dataclass(frozen=True)
class _Wanted:
    n: int
    model: str
    seed: int
    temperature: float
    label: str | None
    best: BestOf
    out: str


def sample(
    n: Annotated[int, typer.Argument(help="images to draw")] = 64,
    model: Model = CHAMPION,
    seed: Seed = 0,
    temperature: Annotated[float, typer.Option(help="below 1: nearer to the usual, less variety")] = 1.0,
    label: Label = None,
    best_of: Annotated[int, typer.Option(help="candidates for each image, of which the best is kept; they stay diverse")] = 1,
    by: Annotated[str, typer.Option(help=f"what is best: {', '.join(KINDS)}")] = "consistency",
    require: Annotated[
        list[str] | None, typer.Option(help="what each picture must meet, as 'sharpness >= 12'; brightness, deviation (levels)")
    ] = None,
    classifier: Annotated[
        str, typer.Option(help="folder of the network of --by classifier; where nothing is said this project's")
    ] = "",
    dataset: Annotated[
        str, typer.Option(help="folder or parquet: write a data set with labels and a card, of any size, in a folder of its own")
    ] = "",
    out: Out = "samples.png",
) -> None:
    """Draw new images.

    vae sample 64 --seed 3 -o faces.png · vae sample 64 --best-of 8 · vae sample 100000 --dataset folder -o shapes
    """

    def work() -> None:
        paths = Paths.here()
        network = Path(classifier) if classifier else paths.extractor / SECOND
        best = BestOf(best_of, by, tuple(require or ()), network if by == CLASSIFIER else None)
        wanted = _Wanted(n, model, seed, temperature, label, best, out)
        if dataset:
            return _dataset(wanted, dataset, paths)
        check_output(out)
        if not 1 <= n <= MOST_IMAGES:
            raise BadConfigError(f"n is {n}: 1 to {MOST_IMAGES} images are drawn at a time")
        _check([], wanted, n)
        called, generator = reference.load(model, paths)
        drawn = best.of(generator)(n, seed, temperature, labels_of(generator, label, n))
        written(called, generator, drawn, out, COLUMNS)

    ended("sample", work)


def _check(problems: list[str], wanted: _Wanted, at_a_time: int) -> None:
    if not 0 <= wanted.temperature <= 100:
        problems.append(f"--temperature is {wanted.temperature}: 0 (the mean) to 100")
    problems += wanted.best.problems(at_a_time)
    if problems:
        raise BadConfigError("\n".join(problems))


def _dataset(wanted: _Wanted, form: str, paths: Paths) -> None:
    n, out = wanted.n, wanted.out
    problems = [f"--dataset {form}: {' or '.join(FORMS)}"] if form not in FORMS else []
    problems += [f"n is {n}: 1 to {MOST} images make a data set"] if not 1 <= n <= MOST else []
    problems += ["--label: a data set has all of a model's labels"] if wanted.label is not None else []
    problems += [f"--seed is {wanted.seed}: 0 or more"] if wanted.seed < 0 else []
    problems += [f"--out {out}: a data set is a folder, its name has no suffix"] if out == STANDARD or Path(out).suffix else []
    _check(problems, wanted, PART_IMAGES)
    called, generator = reference.load(wanted.model, paths)
    draw = wanted.best.of(generator)  # a classifier that is missing is told before a folder is begun
    order = ordered(called, generator, n, wanted.seed, wanted.temperature, str(wanted.best), form)
    drawn = Dataset(Path(out), order, generator, draw).write()
    print(f"{called} drew {drawn} of {n} images now: {out}, {CARD} says what they are", file=sys.stderr)


def add_to(app: typer.Typer) -> None:
    """Make ``sample`` a command."""
    app.command()(sample)
