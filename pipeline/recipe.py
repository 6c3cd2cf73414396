"""A recipe: a few parameters that make the same pipeline serve another purpose, from ``recipes/<name>.yaml`` into params.yaml."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from pipeline import params
from pipeline.errors import BadConfigError, InputMissingError
from pipeline.paths import Paths
from vae.files import write_text

FOLDER = "recipes"


def _file(name: str, paths: Paths) -> Path:
    """The file of a recipe's name, or the file that was named."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if not path.is_file():
            raise InputMissingError(f"--recipe {name} does not exist")
        return path
    path = paths.root / FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = sorted(each.stem for each in (paths.root / FOLDER).glob("*.yaml"))
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}, or name a .yaml file"
        raise InputMissingError(f"--recipe {name} is none: {hint}")
    return path


def use(name: str, paths: Paths, kept: tuple[str, ...] = ()) -> dict[str, Any]:
    """Write a recipe into params.yaml, all but the keys ``kept``; returns what changed.

    BadConfigError with every problem, and then nothing is written.
    """
    path, text = _file(name, paths), params.read_text(paths.params)
    params.check(text, paths.params.name)
    values = {key: value for key, value in params.overlay(path, text).items() if key not in kept}
    changed = params.edited(text, values)
    try:
        params.check(changed, path.name)
    except BadConfigError as error:
        told = "\n".join(line.partition(": ")[2] for line in str(error).splitlines())
        raise BadConfigError(f"--recipe {name} with this params.yaml: {told}") from None
    write_text(paths.params, changed)
    return values
