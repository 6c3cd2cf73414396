"""What a request passes before anybody reads it: the token, the host it asks for, its size, and whether there is room for it.

Pure ASGI, so that a body that is too large is never held. Refusals are a sentence in JSON: 401 token, 413 size, 421 host, 429 room.
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.service import counters
from pipeline.service.options import Options

PROBED = ("/health", "/ready")  # by schedulers, which know an address and no name
OPEN = ("/", *PROBED)  # without a token: they tell nothing of the model
HEADERS = {
    "content-security-policy": "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def _refusal(status: int, sentence: str) -> list[Message]:
    body = json.dumps({"error": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 429:
        headers.append((b"retry-after", b"1"))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return [{"type": "http.response.start", "status": status, "headers": headers}, {"type": "http.response.body", "body": body}]


class Guard:
    """Stands before the application of one replica."""

    def __init__(self, app: ASGIApp, options: Options, called: Callable[[], str]) -> None:
        self._app, self._options, self._called = app, options, called
        self._token = options.token()
        self._waiting, self._bytes = 0, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started, path = time.perf_counter(), scope["path"]
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        seen, refused = {"status": 500}, self._refused(path, headers)
        own = HEADERS if refused or path in OPEN else {**HEADERS, "x-model-version": self._called()}

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
                message = {**message, "headers": [*message["headers"], *((k.encode(), v.encode()) for k, v in own.items())]}
            await send(message)

        try:
            if refused:
                for message in refused:
                    await sending(message)
            elif path.startswith("/v1/"):
                await self._counted(scope, receive, sending, _told(headers))
            else:
                await self._app(scope, receive, sending)
        finally:
            counters.ended(path, seen["status"], time.perf_counter() - started)

    def _refused(self, path: str, headers: dict[str, str]) -> list[Message]:
        options, host = self._options, urlsplit(f"//{headers.get('host', '')}").hostname or ""
        # A page of another name, which was made to point here, is not to ask through somebody's browser.
        if path not in PROBED and "*" not in options.hosts and host not in options.hosts:
            return _refusal(
                421, f"this service is not {host!r}: ask for {options.hosts[0]}, or start it with --allow-host {host}"
            )
        if self._token and path not in OPEN:
            kind, _, given = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token.encode()):
                return _refusal(401, "a request needs the header `Authorization: Bearer` with this service's token")
        if not path.startswith("/v1/"):
            return []
        told = _told(headers)
        if told > options.most_bytes:
            return _refusal(413, f"a request has at most {options.most_bytes} bytes, this one {told}")
        if self._waiting >= options.most_waiting or self._bytes + told > options.most_bytes_waiting:
            return _refusal(429, f"{self._waiting} requests of {self._bytes} bytes are waiting already: ask again in a second")
        return []

    async def _counted(self, scope: Scope, receive: Receive, send: Send, told: int) -> None:
        """Answer with the body's bytes held against the limits: those that were told, and those that come although nobody told them."""
        held, reserved = 0, told

        async def receiving() -> Message:
            nonlocal held, reserved
            message = await receive()
            if message["type"] == "http.request":
                held += len(message.get("body", b""))
                more = max(0, held - reserved)
                reserved, self._bytes = reserved + more, self._bytes + more
                if held > self._options.most_bytes:
                    raise HTTPException(413, f"more than {self._options.most_bytes} bytes, the most that a request may have")
                if self._bytes > self._options.most_bytes_waiting:
                    raise HTTPException(429, "too many bytes are waiting already: ask again in a second")
            return message

        self._waiting, self._bytes = self._waiting + 1, self._bytes + reserved
        counters.waiting(self._waiting)
        try:
            await self._app(scope, receiving, send)
        finally:
            self._waiting, self._bytes = self._waiting - 1, self._bytes - reserved
            counters.waiting(self._waiting)


def _told(headers: dict[str, str]) -> int:
    """The bytes that a request says it has; 0 where it says nothing."""
    length = headers.get("content-length", "")
    return int(length) if length.isdecimal() else 0
