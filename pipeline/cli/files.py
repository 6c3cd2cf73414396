"""Pictures in and out of the command line: files, folders, standard input; PNG grids, folders, animations, arrays.

N images, H height, W width, C channels, all uint8.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.errors import BadConfigError, BadDataError, InputMissingError
from pipeline.films import counted
from vae.artefact import Generator
from vae.decode import RejectedError
from vae.frames import Animation
from vae.pictures import pictures, sheet
from vae.use import pixels_of

STANDARD = "-"  # input or output
FRAME_MILLISECONDS = 120
ANIMATIONS = {".gif": "GIF", ".webp": "WEBP"}
SUFFIXES = (".png", *ANIMATIONS, ".npz")
FILE_NAMES = "{:05d}.png"


def _listed(names: Sequence[str]) -> list[tuple[str, bytes]]:
    """Name and content of every file that was named, of folders all in the order of their names."""
    found = []
    for name in names:
        path = Path(name)
        if name == STANDARD:
            found.append(("standard input", sys.stdin.buffer.read()))
        elif path.is_dir():
            inside = sorted(each for each in path.rglob("*") if each.is_file() and not each.name.startswith("."))
            found += [(str(each), each.read_bytes()) for each in inside]
        elif path.is_file():
            found.append((name, path.read_bytes()))
        else:
            raise InputMissingError(f"{name} does not exist: name pictures, folders of them, or {STANDARD} for standard input")
    if not found:
        raise InputMissingError(f"no file in {', '.join(names)}")
    return found


def read_images(names: Sequence[str], generator: Generator) -> tuple[list[str], np.ndarray]:
    """The pictures as the model takes them (N, H, W, C), and their names; BadDataError with every one that is none."""
    return _read(names, lambda content: pixels_of(content, generator))


def read_images_as_they_are(names: Sequence[str], generator: Generator, lossless: bool) -> tuple[list[str], np.ndarray]:
    """Likewise, where a picture must have the model's size, and for ``lossless`` every pixel must be taken as it is."""
    height, width, _ = generator.config.image_shape

    def read(content: bytes) -> np.ndarray:
        taken, picture = pixels_of(content, generator), Image.open(io.BytesIO(content))
        if picture.size != (width, height):
            told = f"{picture.width}x{picture.height} pixels, and this model compresses {width}x{height}"
            raise ValueError(f"it has {told}: resize it first")
        if lossless and not np.array_equal(np.asarray(picture).reshape(height, width, -1), taken):
            raise ValueError(f"it would not come back as it is: the model takes {generator.contract['mode']} pictures of 8 bits")
        return taken

    return _read(names, read)


def _read(names: Sequence[str], read: Callable[[bytes], np.ndarray]) -> tuple[list[str], np.ndarray]:
    told, pixels, problems = [], [], []
    for name, content in _listed(names):
        try:
            pixels.append(read(content))
            told.append(name)
        except ValueError as error:
            problems.append(f"{name} cannot be used: {error}")
    if problems:
        raise BadDataError("\n".join(problems))
    return told, np.stack(pixels)


def read_clip(name: str, generator: Generator) -> np.ndarray:
    """The frames of a film as the model takes them (N, H, W, C); BadDataError where they are fewer than two, or one is no picture."""
    path = Path(name)
    if path.is_dir():
        inside = [each for each in path.iterdir() if each.is_file() and not each.name.startswith(".")]
        _, pixels = read_images([str(each) for each in sorted(inside, key=lambda each: counted(each.name))], generator)
    elif path.is_file():
        try:
            pixels = np.stack([pixels_of(frame, generator) for frame in Animation(path.read_bytes()).frames()])
        except (RejectedError, ValueError) as error:
            raise BadDataError(f"{name} cannot be used: {error}") from None
    else:
        raise InputMissingError(f"{name} does not exist: name an animation or a folder of frames")
    if len(pixels) < 2:
        raise BadDataError(f"{name} holds one frame: a film has two at least")
    return pixels


def check_output(out: str) -> None:
    """BadConfigError where nothing can be written as ``out`` says, told before any work."""
    suffix = Path(out).suffix.lower()
    if out != STANDARD and suffix and suffix not in SUFFIXES:
        raise BadConfigError(f"--out {out}: {suffix} is not written; use {', '.join(SUFFIXES)}, a folder, or {STANDARD}")


def _file_names(names: Sequence[str], count: int) -> list[str]:
    usable = len(set(names)) == count and all(name == Path(name).name and name.strip(". ") for name in names)
    return [f"{name}.png" for name in names] if usable else [FILE_NAMES.format(number) for number in range(count)]


def write_images(images_NHWC: np.ndarray, mode: str, out: str, columns: int, names: Sequence[str] = ()) -> str:
    """Write as ``out`` says; returns what was written, in words.

    A PNG is one image, or a grid of at most ``columns``; a GIF or WebP shows one image after the other; an .npz has the array
    ``images``; anything else is a folder, of a PNG each, under ``names``
    where these can be names of so many files; - is a PNG on standard output.
    """
    path, suffix = Path(out), Path(out).suffix.lower()
    count = f"{len(images_NHWC)} image{'s' if len(images_NHWC) > 1 else ''}"
    if out == STANDARD:
        buffer = io.BytesIO()
        sheet(images_NHWC, columns, mode).save(buffer, format="PNG")
        sys.stdout.buffer.write(buffer.getvalue())
        return f"{count} on standard output"
    (path if not suffix else path.parent).mkdir(parents=True, exist_ok=True)
    if suffix == ".png":
        sheet(images_NHWC, columns, mode).save(path)
    elif suffix == ".npz":
        np.savez_compressed(path, images=images_NHWC)
    else:
        frames = pictures(images_NHWC, mode)
        if suffix in ANIMATIONS:
            first, *rest = frames
            first.save(
                path, format=ANIMATIONS[suffix], save_all=True, append_images=rest, duration=FRAME_MILLISECONDS, loop=0,
                **({"lossless": True} if suffix == ".webp" else {}),
            )  # fmt: skip
        else:
            for name, picture in zip(_file_names(names, len(images_NHWC)), frames, strict=True):
                picture.save(path / name)
    return f"{count}: {path}"
