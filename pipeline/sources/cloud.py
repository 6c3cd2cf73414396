"""Object stores through fsspec (s3, gs, az): listed, and brought into the same cache as links.

Credentials come from the environment alone, as each store's own tools read them; nothing here takes or keeps any. fsspec's own
file cache is not safe to use from many threads, so it is ours, and asks the store whether an object has changed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec

from pipeline.errors import BadConfigError
from pipeline.raw import Unreadable
from pipeline.sources.address import shown
from pipeline.sources.content import checksum_problem
from vae.files import canonical_json, read_json, write_text

# Scheme: what to install for it ('' is in fsspec itself).
STORES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "memory": "",
}


def is_cloud(url: str) -> bool:
    """Whether ``url`` names an object store."""
    return url.partition("://")[0].lower() in STORES and "://" in url


def _store(url: str) -> tuple[Any, str]:
    """fsspec's file system and the path in it; BadConfigError where its package is missing."""
    scheme = url.partition("://")[0].lower()
    if "::" in url:
        raise Unreadable("bad_url", f"{shown(url)}: chained addresses are not followed")
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError:
        raise BadConfigError(f"{scheme}:// needs a package that is not installed: pip install {STORES[scheme]}") from None
    except Exception as error:  # each store has errors of its own
        raise Unreadable("no_answer", _plain(url, error)) from None


def _plain(url: str, error: Exception) -> str:
    return f"{shown(url)}: {type(error).__name__}: {' '.join(str(error).split())[:120]}"


def listed(url: str) -> list[tuple[str, str]]:
    """(path below ``url``, URL) of every object below it, in byte order; Unreadable where it cannot be listed."""
    store, root = _store(url)
    try:
        found = store.find(root)
    except Exception as error:
        raise Unreadable("no_answer", _plain(url, error)) from None
    scheme, root = urlsplit(url).scheme, root.rstrip("/")
    below = [(path[len(root) :].lstrip("/") or path.rpartition("/")[2], path) for path in found if not path.endswith("/")]
    return sorted((name, f"{scheme}://{path.lstrip('/')}") for name, path in below)


class Cloud:
    """Objects as local files under ``directory``; safe to use from many threads, one object at a time each."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def fetch(self, url: str, checksum: str, most_bytes: int) -> Path:
        """The object behind ``url`` with this checksum; Unreadable says why there is none."""
        store, path = _store(url)
        key = hashlib.sha256(f"{url}\n{checksum}".encode("utf-8", "surrogateescape")).hexdigest()[:40]
        final = self._directory / key[:2] / f"{key}.file"
        part, notes = final.with_suffix(".part"), final.with_suffix(".json")
        try:
            info = store.info(path)
            length, version = int(info.get("size") or 0), str(store.ukey(path))
        except FileNotFoundError:
            raise Unreadable("not_found", f"{shown(url)}: there is no such object") from None
        except Exception as error:
            raise Unreadable("no_answer", _plain(url, error)) from None
        if length > most_bytes:
            raise Unreadable("too_large", f"{shown(url)}: {length} bytes, more than {most_bytes}")
        if final.exists() and notes.exists():
            noted = read_json(notes)
            if noted.get("version") == version and not checksum_problem(final, f"sha256:{noted['sha256']}"):
                return final
        final.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            store.get_file(path, str(part))
        except Exception as error:
            raise Unreadable("no_answer", _plain(url, error)) from None
        if problem := checksum_problem(part, checksum):
            part.unlink()
            raise Unreadable("wrong_checksum", f"{shown(url)}: {problem}")
        with part.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        write_text(notes, canonical_json({"version": version, "sha256": digest}))
        part.replace(final)
        return final
