"""One's own images: a folder, .zip, .tar, .tar.gz or .npz."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace

from pipeline.console import progress
from pipeline.errors import BadDataError, InputMissingError
from pipeline.raw import RawWriter, Unopened
from pipeline.sources.animations import FrameWriter
from pipeline.sources.archive import ARCHIVE_SUFFIXES, Limits, pack_archive
from pipeline.sources.arrays import pack_npz
from pipeline.sources.folder import count, open_regular, walk
from vae.frames import SUFFIXES as ANIMATIONS

FILE_SUFFIXES = (*ARCHIVE_SUFFIXES, ".npz")


def limits_of(values: SimpleNamespace) -> Limits:
    """What the parameters allow an archive to hold."""
    return Limits(values.download.max_members, round(values.download.max_gib * 2**30))


def pack_folder(origin: Path, writer: RawWriter) -> None:
    """Hand every file below ``origin`` to ``writer``; what is no readable regular file is named as a failure."""
    for entry in progress(walk(origin), count(origin), "files", "packing"):
        if entry.reason:
            writer.fail(entry.path, entry.reason, entry.detail)
        else:
            writer.add(entry.path, Unopened(partial(open_regular, f"{origin}/{entry.path}"), entry.stamp))


def pack_file(origin: Path, name: str, writer: RawWriter, limits: Limits) -> None:
    """Hand the images of one file to ``writer``; its kind is told by ``name``."""
    if name.lower().endswith(".npz"):
        pack_npz(origin, writer)
    else:
        pack_archive(origin, writer, limits, name)


def pack(values: SimpleNamespace, writer: RawWriter) -> None:
    """Bring ``download.path``; InputMissingError where there is nothing, BadDataError where it cannot be read."""
    origin = Path(values.download.path).expanduser()
    if not origin.exists():
        raise InputMissingError(f"{origin} does not exist: download.path names a folder, .zip, .tar or .tar.gz of images")
    if values.download.animation_frames:
        writer = FrameWriter(writer)
    if origin.is_dir():
        pack_folder(origin, writer)
    elif values.download.animation_frames and origin.is_file() and origin.name.lower().endswith(ANIMATIONS):
        with open_regular(origin) as stream:
            writer.add(origin.name, stream)
    elif origin.is_file() and origin.name.lower().endswith(FILE_SUFFIXES):
        pack_file(origin, origin.name, writer, limits_of(values))
    else:
        raise BadDataError(f"{origin} is neither a folder nor a .zip, .tar or .tar.gz: pack the images or name their folder")
