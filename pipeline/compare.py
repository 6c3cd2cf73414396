"""`python -m pipeline.compare A B`: two registered versions side by side, as a page and as Markdown for a pull request.

A and B are version numbers, or aliases as ``champion``. Scores are those of the versions' own evaluation, and are compared only where
both came about by the same protocol; samples of the same seed and reconstructions of the same test images are drawn anew.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np

from pipeline import params
from pipeline.console import set_up_logging
from pipeline.errors import BadDataError
from pipeline.pages import drawn, interval, number, render
from pipeline.paths import INTERVALS, METRICS, PROTOCOL, Paths
from pipeline.registry import Registry
from pipeline.stage import guarded
from vae.artefact import Generator, load_artefact
from vae.data import ImageShards
from vae.files import MANIFEST, sha256_file, write_text
from vae.pictures import grid

TEMPLATE = "compare.html.jinja"
SAMPLES, COLUMNS, RECONSTRUCTIONS = 64, 8, 16
OF_THE_MODEL = ("prior", "classes")  # what a protocol says of the model, and not of how it was scored
LOWER = (
    "fcd",
    "fcd_second",
    "fcd_standard_normal",
    "kid",
    "nll_nats",
    "bits_per_dim",
    "distortion_nats",
    "near_share",
    "label_distance",
)
HIGHER = ("elbo_nats", "coverage", "psnr_db", "class_accuracy", "mig", "factor_vae_score", "dci_disentanglement", "sap")
WITHIN = "within their intervals"


def better(name: str, a: dict[str, Any], b: dict[str, Any], names: tuple[str, str]) -> str:
    """Which version's score is better, or that their 95 % intervals overlap; '' where there is no better."""
    ours, theirs = a["metrics"].get(name), b["metrics"].get(name)
    if name not in LOWER + HIGHER or ours is None or theirs is None or ours == theirs:
        return ""
    of_a, of_b = a["intervals"].get(name), b["intervals"].get(name)
    if of_a and of_b and of_a[0] <= of_b[1] and of_b[0] <= of_a[1]:
        return WITHIN
    return names[(ours > theirs) == (name in LOWER)]


def check_protocols(a: dict[str, Any], b: dict[str, Any], names: tuple[str, str]) -> dict[str, Any]:
    """The protocol of both; BadDataError names what differs."""
    first, second = ({k: v for k, v in each["protocol"].items() if k not in OF_THE_MODEL} for each in (a, b))
    differing = [key for key in sorted({*first, *second}) if first.get(key) != second.get(key)]
    if differing:
        told = "; ".join(f"{key}: {first.get(key)} and {second.get(key)}" for key in differing)
        raise BadDataError(
            f"the scores of {names[0]} and {names[1]} came about by different protocols and are not compared ({told}): "
            "check out the older version's commit, and let `dvc repro` register it anew on today's data and parameters"
        )
    return first


def check_data(protocol: dict[str, Any], paths: Paths) -> None:
    """BadDataError where data/processed is not what both were scored on: the page would show other test images."""
    manifest = paths.processed / MANIFEST
    if not manifest.exists() or sha256_file(manifest) != protocol["data_manifest_sha256"]:
        raise BadDataError(
            f"{paths.processed} {'holds other images than' if manifest.exists() else 'is missing, which has the images that'} the "
            "versions were scored on: bring params.yaml's download and preprocess sections back to theirs and run `dvc repro preprocess`"
        )


def table(a: dict[str, Any], b: dict[str, Any], names: tuple[str, str]) -> list[dict[str, str]]:
    """A row for each score that both or one of them have."""

    def told(found: dict[str, Any], name: str) -> str:
        if name not in found["metrics"]:
            return ""
        span = interval(found["intervals"].get(name))
        return number(found["metrics"][name]) + (f" ({span})" if span else "")

    every = [*a["metrics"], *(name for name in b["metrics"] if name not in a["metrics"])]
    return [{"name": name, "a": told(a, name), "b": told(b, name), "better": better(name, a, b, names)} for name in every]


def summary(a: dict[str, Any], b: dict[str, Any], names: tuple[str, str]) -> str:
    """One sentence on the score that decides about the champion."""
    ours, theirs = a["metrics"].get("fcd"), b["metrics"].get("fcd")
    if ours is None or theirs is None:
        return "There were too few images for FCD, which decides about the champion."
    word = better("fcd", a, b, names)
    verdict = "the difference is within their intervals" if word == WITHIN else f"{word} is better" if word else "no difference"
    return f"FCD is {number(ours)} for {names[0]} and {number(theirs)} for {names[1]}: {verdict}."


def markdown(found: dict[str, Any]) -> str:
    """The summary and the scores for a pull request."""
    head = f"### {found['title']}\n\n{found['word']}\n\n| score | {found['names'][0]} | {found['names'][1]} | better |\n|---|---|---|---|\n"
    return head + "".join(f"| {row['name']} | {row['a']} | {row['b']} | {row['better']} |\n" for row in found["rows"])


def _pictures(generators: tuple[Generator, Generator], names: tuple[str, str], test: ImageShards, seed: int) -> dict[str, Any]:
    shapes = {tuple(generator.config.image_shape) for generator in generators} | {tuple(test.image_shape)}
    if len(shapes) > 1:
        raise BadDataError(f"the versions and data/processed are of different shapes: {', '.join(map(str, sorted(shapes)))}")
    images, label_N = test.labelled(RECONSTRUCTIONS)
    rows, samples = [images], []
    for name, generator in zip(names, generators, strict=True):
        mode = generator.contract["mode"]
        samples.append((name, drawn(grid(generator.sample(SAMPLES, seed), columns=COLUMNS, mode=mode))))
        rows.append(generator.reconstruct(images, label_N))
    return {"samples": samples, "reconstructions": drawn(grid(np.concatenate(rows), columns=len(images), mode=mode))}


def compare(which: tuple[str, str], paths: Paths) -> str:
    """Write the page and the Markdown; returns what is to be said: the latter, and where they are."""
    values, registry = params.load(paths.params, ("base.seed",)), Registry.here(paths)
    versions = tuple(registry.version(each) for each in which)
    names = (f"version {versions[0]}", f"version {versions[1]}")
    a, b = (
        {"metrics": registry.told(v, METRICS), "intervals": registry.told(v, INTERVALS), "protocol": registry.told(v, PROTOCOL)}
        for v in versions
    )
    protocol = check_protocols(a, b, names)
    check_data(protocol, paths)
    first, second = (load_artefact(registry.fetch(version, paths.work / f"version-{version}")) for version in versions)
    test = ImageShards(paths.processed / "test")
    found = {
        "title": f"{registry.name}: {names[0]} and {names[1]}",
        "names": names,
        "word": summary(a, b, names),
        "rows": table(a, b, names),
        "protocol": protocol,
        "pictures": _pictures((first, second), names, test, values.base.seed),
    }
    targets = tuple(paths.comparisons / f"{versions[0]}-{versions[1]}{suffix}" for suffix in (".html", ".md"))
    targets[0].parent.mkdir(parents=True, exist_ok=True)
    write_text(targets[0], render(TEMPLATE, found))
    write_text(targets[1], markdown(found))
    return "\n".join((markdown(found), *map(str, targets)))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.compare", description=__doc__)
    parser.add_argument("a", help="a version, or an alias")
    parser.add_argument("b", help="another one")
    arguments = parser.parse_args()
    set_up_logging("compare")
    sys.exit(guarded("compare", lambda: print(compare((arguments.a, arguments.b), Paths.here())), debug=False))


if __name__ == "__main__":
    main()
