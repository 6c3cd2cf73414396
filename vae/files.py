"""Files that are whole or absent: atomic replacement, sha256 manifests, and their verification."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MANIFEST = "MANIFEST.json"
HASHING_THREADS = 8  # at most: more would only wait for the disk


class DamagedError(ValueError):
    """A directory does not match its manifest; the message names the file, what differs and what to do."""


def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sources_sha256(*folders: Path) -> str:
    """Hexadecimal sha256 over the Python files below these folders, their names and bytes: which code this is."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{path.relative_to(folder).as_posix()} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


def secured_sha256(path: Path) -> str:
    """The hash of a file, whose bytes survive a power cut from now on."""
    fsync_path(path)
    return sha256_file(path)


def sha256_files(paths: Sequence[Path]) -> Iterator[str]:
    """The hash of each file in order, several files at a time."""
    yield from _several(sha256_file, paths)


def _several(function: Callable[[Path], str], paths: Sequence[Path]) -> Iterator[str]:
    with ThreadPoolExecutor(min(HASHING_THREADS, os.cpu_count() or 1)) as threads:
        yield from threads.map(function, paths)


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, two spaces, a final newline; NaN is refused."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    return json.loads(path.read_text(encoding="utf-8"))


def fsync_path(path: Path) -> None:
    """Make a file's bytes, or a directory's entries, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replaced_file(final: Path) -> Iterator[Path]:
    """Yield a path beside ``final``; what the block wrote there takes the final name if it ends well, else it is removed."""
    final.parent.mkdir(parents=True, exist_ok=True)
    beside = final.with_name(f".{final.name}.{os.getpid()}.part")
    try:
        yield beside
        fsync_path(beside)
        beside.replace(final)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in one step: a reader sees the old file or the new one, never a part."""
    with replaced_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


@contextmanager
def replaced_directory(final: Path) -> Iterator[Path]:
    """Yield an empty directory beside ``final``; when the block ends well it takes the final name, else it is removed."""
    final.parent.mkdir(parents=True, exist_ok=True)
    beside, old = (final.with_name(f".{final.name}.{suffix}") for suffix in ("part", "old"))
    if old.exists() and not final.exists():  # a kill between the two renames below
        old.rename(final)
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            final.rename(old)
        try:
            beside.rename(final)
        except OSError:
            if old.exists():
                old.rename(final)
            raise
        fsync_path(final.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def remove_directory(directory: Path) -> None:
    """Take a directory's name away in one step, then its files: whoever is killed meanwhile leaves no part under the name."""
    gone = directory.with_name(f".{directory.name}.gone")
    for left in directory.parent.glob(".*.gone"):  # by whoever was killed
        shutil.rmtree(left, ignore_errors=True)
    directory.rename(gone)
    shutil.rmtree(gone)


def write_manifest(directory: Path, *, known: Mapping[str, str] | None = None, **facts: Any) -> str:
    """Record size and sha256 of every file below ``directory`` (and ``facts``, and its own); returns the sha256 of the manifest.

    Files named in ``known`` have that sha256 and survive a power cut already: they are not read.
    """
    recorded = known or {}
    named = {p.relative_to(directory).as_posix(): p for p in sorted(directory.rglob("*")) if p.is_file() and p.name != MANIFEST}
    new = {name: path for name, path in named.items() if name not in recorded}
    sha256s = {**recorded, **dict(zip(new, _several(secured_sha256, list(new.values())), strict=True))}
    files = {name: {"sha256": sha256s[name], "size_bytes": path.stat().st_size} for name, path in named.items()}
    content = {"facts": facts, "files": files}
    own = hashlib.sha256(canonical_json(content).encode()).hexdigest()
    write_text(directory / MANIFEST, canonical_json(content | {"sha256_of_the_rest": own}))
    return sha256_file(directory / MANIFEST)


def _remedy(directory: Path) -> str:
    return f"remove {directory} and run `dvc repro` again"


def _manifest(directory: Path, remedy: str) -> tuple[dict[str, Any], list[tuple[str, int, str]]]:
    """The facts, and name, size in bytes and sha256 of each file; DamagedError where the manifest itself is not whole."""
    path = directory / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
        manifest = json.loads(text)
        facts, files, own = manifest["facts"], manifest["files"], manifest["sha256_of_the_rest"]
        rest = canonical_json({"facts": facts, "files": files})
        whole = canonical_json(manifest) == text and hashlib.sha256(rest.encode()).hexdigest() == own
        wanted = [(name, entry["size_bytes"], entry["sha256"]) for name, entry in files.items()]
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing: {remedy}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedError(f"{path} cannot be read: {remedy}") from None
    if not whole:
        raise DamagedError(f"{path} differs from its own sha256: {remedy}")
    return facts, wanted


def manifest_hashes(directory: Path) -> dict[str, str]:
    """The sha256 that a manifest says of each file by its name below ``directory``; DamagedError where the manifest is not whole."""
    return {name: sha256 for name, _, sha256 in _manifest(directory, _remedy(directory))[1]}


def read_manifest(directory: Path, *, hashes: bool | Collection[str] = True) -> dict[str, Any]:
    """The manifest's facts after checking every file's size, then its sha256 (of those named in ``hashes``, of all or none).

    DamagedError names the first that differs.
    """
    remedy = _remedy(directory)
    facts, wanted = _manifest(directory, remedy)
    members = [directory / name for name, _, _ in wanted]
    for member, (_, size_bytes, _) in zip(members, wanted, strict=True):
        if not member.is_file():
            raise DamagedError(f"{member} is missing: {remedy}")
        if member.stat().st_size != size_bytes:
            raise DamagedError(f"{member} has {member.stat().st_size} bytes, its manifest says {size_bytes}: {remedy}")
    looked_at = {directory / name: sha256 for name, _, sha256 in wanted if hashes is True or (hashes and name in hashes)}
    for (member, sha256), found in zip(looked_at.items(), sha256_files(list(looked_at)), strict=True):
        if found != sha256:
            raise DamagedError(f"{member} differs from the sha256 in its manifest: {remedy}")
    return facts
