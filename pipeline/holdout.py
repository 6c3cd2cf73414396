"""The images by which champions and challengers are compared: those of the first version's test split, frozen for the model's name.

Kept as a run of MLflow; the registered model's tag says which. A copy lies in .work/holdout, checked by its manifest. N images.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline.errors import UnavailableError
from pipeline.paths import INDEX, Paths
from pipeline.registry import Registry
from pipeline.tracking import Tracker
from vae.data import ImageShards, ShardWriter
from vae.files import MANIFEST, DamagedError, read_manifest, replaced_directory, sha256_file, write_manifest

MOST_IMAGES = 10_000  # spread over the test split: more would tell little more, and have to be kept
RUN_TAG, HASH_TAG = "vaeline.holdout_run", "vaeline.holdout_sha256"
PLACE, KEYS = "holdout", "images.csv"
log = logging.getLogger("pipeline.holdout")


@dataclass(frozen=True)
class Holdout:
    """Images, the sha256 of each one's pixels, the seed of the latents that are compared on them, and its manifest's hash."""

    images: ImageShards
    keys: frozenset[str]
    seed: int
    sha256: str

    @classmethod
    def read(cls, directory: Path) -> Holdout:
        """DamagedError where a file differs from its hash."""
        facts = read_manifest(directory)
        keys = frozenset(pd.read_csv(directory / KEYS)["sha256"])
        return cls(ImageShards(directory), keys, facts["seed"], sha256_file(directory / MANIFEST))


def freeze(paths: Paths, seed: int, directory: Path) -> None:
    """Write today's test images as a hold-out into the empty folder ``directory``."""
    test, index = ImageShards(paths.processed / "test"), pd.read_parquet(paths.processed / INDEX, columns=["split", "sha256"])
    places = test.places(MOST_IMAGES)
    writer = ShardWriter(directory, test.image_shape, 8192)
    writer.add_all(test.gather(places))
    writer.close()
    keys = index.loc[index["split"] == "test", "sha256"].iloc[places]
    keys.to_frame().to_csv(directory / KEYS, index=False)
    write_manifest(directory, seed=seed, mode=read_manifest(paths.processed, hashes=False)["mode"])


def _fetched(registry: Registry, tracker: Tracker, paths: Paths) -> Holdout | None:
    """The hold-out of this name, None where there is none yet; UnavailableError where the store does not give it."""
    tags, directory = registry.model_tags(), paths.work / "holdout"
    if RUN_TAG not in tags:
        return None
    try:
        if sha256_file(directory / MANIFEST) == tags[HASH_TAG]:
            return Holdout.read(directory)
    except (OSError, DamagedError):
        pass
    with replaced_directory(directory) as fresh:
        try:
            found = tracker.client.download_artifacts(tags[RUN_TAG], PLACE, str(fresh))
        except Exception as error:  # whatever store it is
            raise UnavailableError(
                f"the hold-out of models:/{registry.name} cannot be read from run {tags[RUN_TAG]} "
                f"({' '.join(str(error).split())[:200]}): bring it back, or remove the model's tag {RUN_TAG} to freeze today's test images"
            ) from None
        for file in Path(found).iterdir():
            file.replace(fresh / file.name)
        shutil.rmtree(fresh / PLACE, ignore_errors=True)
    return Holdout.read(directory)


def of_model(registry: Registry, tracker: Tracker, paths: Paths, seed: int) -> Holdout:
    """The hold-out of this name; frozen now where there is none, or where images have another shape since.

    Within ``ledger.locked``; the registered model exists.
    """
    found = _fetched(registry, tracker, paths)
    shape = ImageShards(paths.processed / "test").image_shape
    if found is not None and tuple(found.images.image_shape) == tuple(shape):
        return found
    if found is not None:
        log.warning("images are %s now, the hold-out has %s: it is frozen anew", shape, found.images.image_shape)
    directory = paths.work / "holdout"
    with replaced_directory(directory) as fresh:
        freeze(paths, seed, fresh)
    run_id = tracker.run("holdout", tags={"vaeline.stage": "register"})
    tracker.artifacts(run_id, directory, PLACE)
    tracker.end(run_id)
    frozen = Holdout.read(directory)
    registry.tag_model(RUN_TAG, run_id)
    registry.tag_model(HASH_TAG, frozen.sha256)
    log.info("%d test images are the hold-out of models:/%s from now on", len(frozen.images), registry.name)
    return frozen


def trained_on(holdout: Holdout, paths: Paths) -> int:
    """How many images of the hold-out are in today's training split."""
    index = pd.read_parquet(paths.processed / INDEX, columns=["split", "sha256"])
    return int(index.loc[index["split"] == "train", "sha256"].isin(holdout.keys).sum())
