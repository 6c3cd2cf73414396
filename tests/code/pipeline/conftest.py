"""Fixtures of the pipeline's unit tests: an empty workspace with the real params.yaml, and pictures as the bytes of a file."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pipeline import params
from pipeline.paths import Paths
from pipeline.raw import RawWriter
from vae.files import write_manifest

ROOT = Path(__file__).resolve().parents[3]
# What these tests rest on, whatever the project's own values are today.
KNOWN = {
    "base.seed": 0,
    "base.image_size": 32,
    "base.mode": "RGB",
    "download.source": "sprites",
    "preprocess.fit": "crop",
    "preprocess.min_side_pixels": 8,
    "preprocess.val_fraction": 0.1,
    "preprocess.test_fraction": 0.1,
    "augment.copies": 1,
    "tune.score": "fcd",
}


class Project:
    """A folder with the real params.yaml but for ``KNOWN``, whose stages are called as functions."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.root, self.paths = root, Paths(root)
        text = re.sub(r"widths: \[.*?\]", "widths: [8, 16]", (ROOT / "params.yaml").read_text())
        self.text = params.edited(text, KNOWN)
        self.paths.params.write_text(self.text)

    def values(self, keys: tuple[str, ...], **changes: object) -> SimpleNamespace:
        """The declared ``keys`` of the real parameters with ``section__key`` changed, as a stage gets them."""
        self.paths.params.write_text(params.edited(self.text, {k.replace("__", "."): v for k, v in changes.items()}))
        return params.load(self.paths.params, keys)

    def raw(self, files: dict[str, bytes]) -> None:
        """data/raw as stage download leaves it, with these members."""
        self.paths.raw.mkdir(parents=True)
        with RawWriter(self.paths.raw) as writer:
            for name, data in files.items():
                writer.add(name, data)
        write_manifest(self.paths.raw, files=writer.files, failed=writer.failures)


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
