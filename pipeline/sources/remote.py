"""One archive or array file behind an address (http, https, s3, gs, az), or a whole folder of an object store."""

from __future__ import annotations

from types import SimpleNamespace

from pipeline.errors import InputMissingError, UnavailableError
from pipeline.raw import RawWriter, Unreadable
from pipeline.sources.catalogue import bring
from pipeline.sources.cloud import listed
from pipeline.sources.gather import Row, pack_rows
from pipeline.sources.path import FILE_SUFFIXES, limits_of, pack_file


def _path(url: str) -> str:
    return url.split("?")[0].rstrip("/")


def is_file(url: str) -> bool:
    """Whether it is one archive or array file, by its name, and no folder."""
    return _path(url).lower().endswith(FILE_SUFFIXES)


def objects(url: str) -> list[tuple[str, str]]:
    """Below a folder of an object store: each object's name and its address; UnavailableError where the store does not answer."""
    try:
        return listed(url)
    except Unreadable as error:
        raise UnavailableError(
            f"{error.detail}: look at download.url, the credentials in the environment and the connection"
        ) from None


def pack(values: SimpleNamespace, writer: RawWriter) -> None:
    """Bring ``download.url``: one file with its checksum, or every object below a folder."""
    url = values.download.url
    if is_file(url):
        name = _path(url).rpartition("/")[2]
        origin = bring(url, values.download.checksum, values, "look at download.url and your connection, or try again later")
        pack_file(origin, name, writer, limits_of(values))
        return
    found = objects(url)
    if not found:
        raise InputMissingError(f"{url} holds no objects: look at download.url")
    rows = (Row(number, place, below, True) for number, (below, place) in enumerate(found, start=1))
    pack_rows(values, rows, len(found), values.work, writer)
