"""Files from links, kept under .work/fetch by URL and checksum: what was fetched once, or in part, is not fetched again."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from urllib3 import BaseHTTPResponse

from pipeline.sources.address import Policy, shown
from pipeline.sources.content import checksum_problem, looks_like_html
from pipeline.sources.web import LinkError, Ticket, Watch, Web, over, status_problem
from vae.files import canonical_json

BLOCK_BYTES = 2**16
RENEW_BYTES = 2**20  # a patient fetch must get this much in each deadline
DEAD_AFTER = 5  # links in a row without an answer in time: the host is not asked again
PASSING = {"no_answer", "cut", "deadline", "changed", "host_unavailable", "stopped", "http_408", "http_425", "http_429"}


def passing(reason: str) -> bool:
    """Whether a failure is the network's or the server's and may be gone tomorrow."""
    return reason in PASSING or reason.startswith("http_5")


@dataclass(frozen=True)
class Settings:
    """How patient and how polite to be."""

    connections_per_host: int
    attempts: int
    deadline_seconds: float
    backoff_seconds: float = 0.5  # before the second attempt; doubled for each further one


@dataclass(frozen=True)
class _Link:
    """What is fetched, and where it is kept."""

    url: str
    checksum: str
    most_bytes: int
    patient: bool
    final: Path

    @property
    def part(self) -> Path:
        return self.final.with_suffix(".part")

    @property
    def notes(self) -> Path:
        return self.final.with_suffix(".json")

    def error(self, reason: str, detail: str, temporary: bool = False) -> LinkError:
        return LinkError(reason, f"{shown(self.url)}: {detail}", temporary)


@dataclass
class _Host:
    """What is known of one host."""

    silent: int = 0  # links in a row without an answer in time
    not_before: float = 0.0  # monotonic seconds; it asked us to wait until then


class Fetcher:
    """Fetches into ``directory``; safe to use from many threads; to be closed by ``with``, which ends what is under way."""

    def __init__(self, directory: Path, settings: Settings, policy: Policy | None = None) -> None:
        self._directory, self._settings = directory, settings
        self._web = Web(policy, settings.connections_per_host)
        self._watch = Watch()
        self._hosts: dict[str, _Host] = {}
        self._watch.start()

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End every fetch that is under way; what it has got so far stays."""
        self._watch.stop()

    def fetch(self, url: str, checksum: str = "", most_bytes: int = 2**28, patient: bool = False) -> Path:
        """The file behind ``url``, whole and with this checksum; LinkError says why there is none.

        It has ``deadline_seconds`` for all attempts; a ``patient`` fetch has them for each RENEW_BYTES.
        """
        key = hashlib.sha256(f"{url}\n{checksum}".encode("utf-8", "surrogateescape")).hexdigest()[:40]
        link = _Link(url, checksum, most_bytes, patient, self._directory / key[:2] / f"{key}.file")
        if self._kept(link.final):
            return link.final
        link.final.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        host = self._hosts.setdefault(host_of(url), _Host())
        if host.silent >= DEAD_AFTER:
            raise link.error(
                "host_unavailable", f"{DEAD_AFTER} links of this host in a row gave no answer in time, no more are tried"
            )
        self._wait(host.not_before - time.monotonic(), link)
        with Ticket(self._watch, self._settings.deadline_seconds) as ticket:
            try:
                self._attempts(link, ticket, host)
            except LinkError as error:
                host.silent = host.silent + 1 if error.reason in ("no_answer", "deadline") else 0
                raise
        host.silent = 0
        return link.final

    @staticmethod
    def _kept(final: Path) -> bool:
        """Whether the whole file is there as it was noted."""
        try:
            noted = json.loads(final.with_suffix(".json").read_text(encoding="utf-8"))
            return not checksum_problem(final, f"sha256:{noted['sha256']}")
        except (OSError, ValueError, KeyError):
            return False

    def _wait(self, seconds: float, link: _Link) -> None:
        if self._watch.stopped.wait(max(0.0, seconds)):
            raise link.error("stopped", "stopped")

    def _attempts(self, link: _Link, ticket: Ticket, host: _Host) -> None:
        failed = 0
        while True:
            before = _length(link.part)
            try:
                _finish(link, self._once(link, ticket))
                return
            except LinkError as error:
                failed = 1 if link.patient and _length(link.part) - before >= RENEW_BYTES else failed + 1
                wait = max(error.wait_seconds, self._settings.backoff_seconds * 2 ** (failed - 1))
                if error.wait_seconds:  # the whole host is meant, not this link
                    host.not_before = time.monotonic() + min(error.wait_seconds, self._settings.deadline_seconds)
                if not error.temporary or failed >= self._settings.attempts or wait >= ticket.left:
                    raise
            self._wait(wait, link)

    def _once(self, link: _Link, ticket: Ticket) -> str:
        """One request, going on from what is there; returns the content type when the whole body has come."""
        validator, start = _validator(link.notes), _length(link.part)
        headers = {"Range": f"bytes={start}-", "If-Range": validator} if start and validator else {}
        response = self._web.get(link.url, headers, ticket)
        try:
            if response.status == 416 or (response.status == 206 and not _continues(response.headers, start, validator)):
                link.part.unlink(missing_ok=True)
                raise link.error("changed", "it changed while it was fetched in parts", temporary=True)
            if problem := status_problem(response, link.url):
                raise problem
            start = start if response.status == 206 else 0  # 200: all of it again, whatever was asked for
            length = response.headers.get("Content-Length", "")
            total = start + int(length) if length.isdigit() else None
            if total is not None and total > link.most_bytes:
                raise link.error("too_large", f"{total} bytes, more than {link.most_bytes}")
            if not start:
                _note(link.notes, validator=_strong(response.headers))
            self._body(response, link, start, total, ticket)
            response.release_conn()
            return response.headers.get("Content-Type", "")
        except BaseException:
            response.close()
            raise

    def _body(self, response: BaseHTTPResponse, link: _Link, start: int, total: int | None, ticket: Ticket) -> None:
        got, renew_at = start, start + RENEW_BYTES
        with link.part.open("ab" if start else "wb") as stream:
            while block := _block(response, link, got, ticket):
                got += len(block)
                if got > link.most_bytes:
                    raise link.error("too_large", f"more than {link.most_bytes} bytes")
                stream.write(block)
                if link.patient and got >= renew_at:
                    ticket.renew()
                    renew_at = got + RENEW_BYTES
        if ticket.expired:
            raise link.error("stopped", "stopped") if self._watch.stopped.is_set() else over(link.url)
        if total is not None and got != total:
            raise link.error("cut", f"the connection was cut after {got} of {total} bytes", temporary=True)


def _block(response: BaseHTTPResponse, link: _Link, got: int, ticket: Ticket) -> bytes:
    """The next bytes, as soon as there are some; b'' at the end and when the time is over."""
    if ticket.expired:
        return b""
    try:
        return response.read1(BLOCK_BYTES)
    except Exception as error:  # urllib3's, http.client's, ssl's: the connection is gone in one way or another
        if ticket.expired:
            return b""
        text = f"the connection was cut after {got} bytes ({type(error).__name__})"
        raise link.error("cut", text, temporary=True) from None


def _finish(link: _Link, content_type: str) -> None:
    """Check what has come and give it its name; what is wrong is not kept."""
    wrong, page = checksum_problem(link.part, link.checksum), looks_like_html(link.part, content_type)
    if page and (wrong or not link.checksum):
        link.part.unlink()
        raise link.error("html_page", "a web page came instead of a file")
    if wrong:
        link.part.unlink()
        raise link.error("wrong_checksum", wrong)
    with link.part.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    _note(link.notes, sha256=digest)
    link.part.replace(link.final)


def host_of(url: str) -> str:
    """The host (and port) that a URL names; '' where it is none."""
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return ""


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _note(path: Path, **facts: str) -> None:
    """Without waiting for the disk at each of a million links: what a power cut loses here is fetched again."""
    path.write_text(canonical_json(facts), encoding="utf-8")


def _validator(notes: Path) -> str:
    with suppress(OSError, ValueError, AttributeError):
        return json.loads(notes.read_text(encoding="utf-8")).get("validator", "")
    return ""


def _strong(headers: Mapping[str, str]) -> str:
    """What If-Range may carry (RFC 9110, 13.1.5): a strong entity tag, or the date of the last change."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else "" if tag else headers.get("Last-Modified", "")


def _continues(headers: Mapping[str, str], start: int, validator: str) -> bool:
    """Whether a partial answer is the missing rest of what is here."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", headers.get("Content-Range", ""))
    tag = headers.get("ETag", "")
    return found is not None and int(found[1]) == start and not (validator.startswith('"') and tag and tag != validator)
