"""A web server on loopback that behaves as each of its paths is told to, for tests of what fetches from strangers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


class Site:
    """``site["/path"] = answer`` or bytes; ``asked`` holds (path, headers) of every request; at once at most ``most_at_once``."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()
        self.closing = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with site._lock:
                    site.asked.append((self.path, dict(self.headers)))
                    site._now += 1
                    site.most_at_once = max(site.most_at_once, site._now)
                try:
                    site.answers.get(self.path, status(404))(self)
                except OSError:  # the other side has gone
                    self.close_connection = True
                finally:
                    with site._lock:
                        site._now -= 1

            do_POST = do_GET

            def handle(self) -> None:
                with contextlib.suppress(ConnectionResetError):  # between two requests: who asked wants no more
                    super().handle()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __setitem__(self, path: str, answer: Answer | bytes) -> None:
        self.answers[path] = whole(answer) if isinstance(answer, bytes) else answer

    def url(self, path: str) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host}:{port}{path}"

    def count(self, path: str) -> int:
        return sum(asked == path for asked, _ in self.asked)

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


def send(handler: BaseHTTPRequestHandler, code: int, body: bytes, length: int | None = None, **headers: str) -> None:
    """A response whose declared length may be a lie; header names have _ for -."""
    handler.send_response(code)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def status(code: int, **headers: str) -> Answer:
    return lambda handler: send(handler, code, b"", **headers)


def whole(body: bytes, **headers: str) -> Answer:
    return lambda handler: send(handler, 200, body, **headers)


def redirect(place: str) -> Answer:
    return status(302, Location=place)


def in_turn(*answers: Answer) -> Answer:
    """The first answer for the first request and so on; the last for all that follow."""
    left = list(answers)
    return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)


def cut(body: bytes, after: int, **headers: str) -> Answer:
    """``body`` announced whole, but the connection ends after so many bytes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        send(handler, 200, body[:after], len(body), **headers)
        handler.close_connection = True

    return answer


def ranged(body: bytes, tag: str) -> Answer:
    """An honest server of ranges: the rest where the tag still fits, all of it where not."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start = handler.headers.get("Range", "").removeprefix("bytes=").removesuffix("-")
        if start and handler.headers.get("If-Range") == tag:
            here = f"bytes {start}-{len(body) - 1}/{len(body)}"
            send(handler, 206, body[int(start) :], ETag=tag, Content_Range=here)
        else:
            send(handler, 200, body, ETag=tag)

    return answer
