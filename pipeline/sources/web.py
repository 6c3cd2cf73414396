"""HTTP for strangers' links: one GET with checked redirects, checked peers, and an end in time whatever the server does."""

from __future__ import annotations

import email.utils
import http.client
import os
import re
import socket
import threading
import time
import urllib.request
from contextlib import suppress
from typing import Any
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from pipeline.raw import Unreadable
from pipeline.sources.address import Policy, parsed, shown

AGENT = "vaeline/0.1 (fetches a list of images for training)"
MOST_REDIRECTS = 8
SILENCE_SECONDS = 20.0  # without a byte
CONNECT_SECONDS = 10.0  # until a connection stands; a stop waits for it
WATCH_SECONDS = 0.1
REDIRECTS = (301, 302, 303, 307, 308)
TEMPORARY_STATUS = (408, 425, 429, 500, 502, 503, 504)
_current = threading.local()


class LinkError(Unreadable):
    """Why a link gave no file; ``temporary`` where trying again later may help, after ``wait_seconds`` if the server says so."""

    def __init__(self, reason: str, detail: str, temporary: bool = False, wait_seconds: float = 0.0) -> None:
        super().__init__(reason, detail)
        self.temporary, self.wait_seconds = temporary, wait_seconds


class Forbidden(Exception):  # noqa: N818 - urllib3 takes OSError and the like for faults of the network
    """The policy does not allow this peer."""


class Ticket:
    """The time that one file has; while it is entered, this thread's connection is shut down when the time is over."""

    def __init__(self, watch: Watch, seconds: float) -> None:
        self._watch, self._seconds = watch, seconds
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self.public_only = self.peer_public = self.expired = False
        self.deadline = time.monotonic() + seconds

    def renew(self) -> None:
        """Start the time again."""
        self.deadline = time.monotonic() + self._seconds

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()

    def hold(self, connection: socket.socket) -> None:
        """Be able to end this connection, in a TLS handshake too, which takes the socket's own number away."""
        with self._lock:
            self._drop()
            self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        if self.expired:  # while the connection was being made
            self.end()

    def end(self) -> None:
        """The time is over, or everything is to stop."""
        with self._lock:
            self.expired = True
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Ticket:
        _current.ticket = self
        self._watch.tickets.add(self)
        if self._watch.stopped.is_set():  # after it was added: whoever stops now finds it
            self.end()
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.tickets.discard(self)
        _current.ticket = None
        with self._lock:
            self._drop()


class Watch(threading.Thread):
    """Ends the connections whose time is over: a timeout between two bytes does not stop a server that sends one now and then."""

    def __init__(self) -> None:
        super().__init__(daemon=True, name="watch")
        self.tickets: set[Ticket] = set()
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(WATCH_SECONDS):
            for ticket in list(self.tickets):
                if ticket.left <= 0:
                    ticket.end()

    def stop(self) -> None:
        """End every connection now."""
        self.stopped.set()
        for ticket in list(self.tickets):
            ticket.end()


def _pools(policy: Policy) -> dict[str, type]:
    """urllib3's pools with connections that check their peer before anything is said to it."""

    def taken(connection: Any, opened: socket.socket) -> None:
        ticket: Ticket = _current.ticket
        ticket.hold(opened)
        peer = None if connection.proxy else parsed(opened.getpeername()[0])  # behind a proxy the peer is the proxy
        if peer is not None:
            ticket.peer_public = policy.is_public(peer)
            if problem := policy.problem(peer, ticket.public_only):
                raise Forbidden(problem)

    class Checked:
        sock: socket.socket | None

        def _new_conn(self) -> socket.socket:
            opened = super()._new_conn()  # type: ignore[misc]
            try:
                taken(self, opened)
            except BaseException:
                opened.close()
                raise
            return opened

        def request(self, *arguments: Any, **named: Any) -> None:
            if self.sock is not None:  # one that was kept open
                taken(self, self.sock)
            super().request(*arguments, **named)  # type: ignore[misc]

    class Http(Checked, HTTPConnection):
        pass

    class Https(Checked, HTTPSConnection):
        pass

    http_pool = type("HttpPool", (HTTPConnectionPool,), {"ConnectionCls": Http})
    return {"http": http_pool, "https": type("HttpsPool", (HTTPSConnectionPool,), {"ConnectionCls": Https})}


class Web:
    """GET by http and https, through the environment's proxies; safe to use from many threads."""

    def __init__(self, policy: Policy | None = None, connections_per_host: int = 4) -> None:
        self.policy, self._per_host = policy or Policy(), connections_per_host
        self._managers: dict[str, urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def _manager(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        proxy = urllib.request.getproxies().get(parts.scheme, "")
        host = parts.hostname or ""
        address = parsed(host)
        if proxy and (host == "localhost" or (address and address.is_loopback) or urllib.request.proxy_bypass(host)):
            proxy = ""
        with self._lock:
            if proxy not in self._managers:
                keep = {"num_pools": 32, "maxsize": min(8, self._per_host)}  # idle ones count as open files
                manager = urllib3.ProxyManager(proxy, **keep) if proxy else urllib3.PoolManager(**keep)  # type: ignore[arg-type]
                manager.pool_classes_by_scheme = _pools(self.policy)
                self._managers[proxy] = manager
            return self._managers[proxy]

    def get(self, url: str, headers: dict[str, str], ticket: Ticket) -> urllib3.BaseHTTPResponse:
        """The answer to GET at the end of all redirects, its body not read yet; LinkError where there is none."""
        ticket.public_only, seen = False, {url}
        while True:
            if problem := self.policy.url_problem(url, ticket.public_only):
                raise LinkError("forbidden" if len(seen) > 1 else "bad_url", f"{shown(url)}: {problem}")
            response = self._ask(url, headers, ticket)
            place = response.headers.get("Location")
            if response.status not in REDIRECTS or not place:
                return response
            response.close()
            ticket.public_only = ticket.public_only or ticket.peer_public
            before = url
            try:
                url = urljoin(url, place)
            except ValueError as error:
                raise LinkError("bad_url", f"{shown(before)} redirects to no URL: {error}") from None
            if url in seen or len(seen) > MOST_REDIRECTS:
                raise LinkError("redirect_loop", f"{shown(before)} redirects in a circle, or more than {MOST_REDIRECTS} times")
            seen.add(url)

    def _ask(self, url: str, headers: dict[str, str], ticket: Ticket) -> urllib3.BaseHTTPResponse:
        if ticket.left <= 0 or ticket.expired:
            raise over(url)
        wait = min(SILENCE_SECONDS, max(0.1, ticket.left))
        told = {"User-Agent": AGENT, "Accept-Encoding": "identity"} | headers
        try:
            return self._manager(url).request(
                "GET", url, headers=told, redirect=False, retries=False, preload_content=False, decode_content=False,
                timeout=urllib3.Timeout(connect=min(wait, CONNECT_SECONDS), read=wait),
            )  # fmt: skip
        except Forbidden as error:
            raise LinkError("forbidden", f"{shown(url)}: {error}") from None
        except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            if ticket.expired or ticket.left < WATCH_SECONDS / 2:  # the timeout above may come a moment before the watch
                raise over(url) from None
            if isinstance(error, ValueError):  # no host, or one that cannot be
                raise LinkError("bad_url", f"{shown(url)}: {_plain(error)}") from None
            raise LinkError("no_answer", f"{shown(url)}: {_plain(error)}", temporary=True) from None


def over(url: str) -> LinkError:
    """The error for a file whose time is over."""
    return LinkError("deadline", f"{shown(url)}: not whole within download.deadline_seconds")


def _plain(error: Exception) -> str:
    """An error of urllib3 without the names of its objects."""
    text = re.sub(r"^\w+\(host=[^)]*\): ", "", " ".join(str(error).split()))
    return text or type(error).__name__


def status_problem(response: urllib3.BaseHTTPResponse, url: str) -> LinkError | None:
    """The error for an answer that is no file, or None."""
    if response.status in (200, 206):
        return None
    wait = _seconds(response.headers.get("Retry-After", "")) if response.status in TEMPORARY_STATUS else 0.0
    detail = f"{shown(url)}: HTTP {response.status} {response.reason or ''}"
    return LinkError(f"http_{response.status}", detail, response.status in TEMPORARY_STATUS, wait)


def _seconds(retry_after: str) -> float:
    """The seconds of a Retry-After, given as such or as a date; 0 where it is neither."""
    if retry_after.isdigit():
        return float(retry_after[:9])
    with suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    return 0.0
