"""What a file turned out to be: its checksum, and whether it is a web page instead of data."""

from __future__ import annotations

import hashlib
from pathlib import Path

HTML_HEADS = (b"<!doctype html", b"<html", b"<head", b"<body")


def checksum_problem(path: Path, checksum: str) -> str:
    """'' where the file has this ``sha256:`` or ``md5:`` sum (or where there is none to compare), else what it has."""
    if not checksum:
        return ""
    kind, _, wanted = checksum.rpartition(":")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, kind or "sha256").hexdigest()
    return "" if found == wanted.lower() else f"its {kind or 'sha256'} is {found}, expected is {wanted.lower()}"


def looks_like_html(path: Path, content_type: str) -> bool:
    """Whether a file is a page (of a login, an error, a licence) instead of data."""
    with path.open("rb") as stream:
        head = stream.read(512).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return head.startswith(HTML_HEADS) or (content_type.lower().startswith("text/html") and head.startswith(b"<"))
