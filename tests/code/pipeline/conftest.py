"""Fixtures of the pipeline's unit tests: an empty workspace with the real params.yaml, and pictures as the bytes of a file."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pipeline import params
from pipeline.paths import RAW_ARCHIVE, Paths
from vae.files import write_manifest

ROOT = Path(__file__).resolve().parents[3]


class Project:
    """A folder with params.yaml, whose stages are called as functions."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.root, self.paths = root, Paths(root)
        self.text = (ROOT / "params.yaml").read_text()
        self.paths.params.write_text(self.text)

    def values(self, keys: tuple[str, ...], **changes: object) -> SimpleNamespace:
        """The declared ``keys`` of the real parameters with ``section__key`` changed, as a stage gets them."""
        self.paths.params.write_text(params.edited(self.text, {k.replace("__", "."): v for k, v in changes.items()}))
        return params.load(self.paths.params, keys)

    def raw(self, files: dict[str, bytes]) -> None:
        """data/raw as stage download leaves it, with these members."""
        self.paths.raw.mkdir(parents=True)
        with zipfile.ZipFile(self.paths.raw / RAW_ARCHIVE, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        write_manifest(self.paths.raw, files=len(files))


def _picture(seed: int, width: int = 12, height: int = 12, mode: str = "RGB", form: str = "PNG") -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "workspace")


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """``picture(seed, width, height, mode, form)``: a noise image as the bytes of a file; another seed, another image."""
    return _picture
