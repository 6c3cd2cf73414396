"""A stage's work on every rank of a cluster: each does all of it, but for what ``vae.distributed.shared`` divides among them."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import errors
from pipeline.cluster import Profile
from pipeline.group import on_ranks
from vae.distributed import rank, sharing
from vae.files import DamagedError

Work = Callable[[Path], None]  # what is to be done, into a folder
log = logging.getLogger("pipeline.everywhere")


def pays(profile: Profile) -> bool:
    """Whether several ranks are worth their start: on a cluster, or with accelerators; two processes of a laptop save nothing."""
    return profile.workers > 1 and (profile.address != "local" or profile.gpus_per_worker > 0)


def _rank(config: dict[str, Any]) -> dict[str, str]:
    """Rank 0 writes into the folder, the others into one that is thrown away; what a person can mend comes back as data."""
    target: Path = config["target"]
    try:
        with sharing():
            if rank() == 0:
                logging.getLogger("pipeline").addHandler(logging.FileHandler(config["log"]))
                logging.getLogger("pipeline").setLevel(logging.INFO)
                config["work"](target)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    config["work"](Path(folder))
    except (errors.PipelineError, DamagedError) as error:  # from every rank alike: all see the same files and numbers
        return {"error": type(error).__name__, "message": str(error)}
    return {}


def on_workers(work: Work, target: Path, profile: Profile, scratch: Path) -> None:
    """Do ``work`` into ``target`` on all of the profile's workers, and show what rank 0 logs; raises what it raises."""
    scratch.mkdir(parents=True, exist_ok=True)
    told, shown = scratch / "log", 0
    told.write_text("")

    def tick() -> None:
        nonlocal shown
        lines = told.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in lines[shown:]:
            log.info("%s", line)
        shown = len(lines)

    config = {"work": work, "target": target, "log": str(told)}
    outcome = on_ranks(_rank, config, profile, profile.workers, 0, scratch / "ray", tick)
    if outcome:
        kind = DamagedError if outcome["error"] == DamagedError.__name__ else getattr(errors, outcome["error"])
        raise kind(outcome["message"])
