"""notify: the message arrives, or is a warning within seconds; the address is never told."""

from __future__ import annotations

import json
import time

import pytest

from pipeline import notify
from web_server import Site, send, status


@pytest.fixture
def hook(monkeypatch):
    with Site() as site:
        monkeypatch.setenv(notify.WEBHOOK_VARIABLE, site.url("/hook-s3cret"))
        yield site


def test_message_arrives_as_json(hook):
    told = []

    def take(handler):
        told.append(json.loads(handler.rfile.read(int(handler.headers["content-length"]))))
        send(handler, 204, b"")

    hook.answers["/hook-s3cret"] = take
    assert notify.notify("version 3 is the champion", {"exit_code": 0})
    assert told == [{"text": "version 3 is the champion", "facts": {"exit_code": 0}}]


def test_without_an_address_nobody_is_told(monkeypatch, caplog):
    monkeypatch.delenv(notify.WEBHOOK_VARIABLE, raising=False)
    assert not notify.notify("x", {}) and not caplog.text


def test_refusal_silence_and_dripping_are_a_warning_without_the_address(hook, monkeypatch, caplog):
    monkeypatch.setattr(notify, "SECONDS", 0.5)

    def drip(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not hook.closing.wait(0.1):
            handler.wfile.write(b"x: y\r\n")

    def flood(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 500 + b"\r\n")

    for answer in (status(500), drip, flood, lambda handler: hook.closing.wait()):
        caplog.clear()
        hook.answers["/hook-s3cret"] = answer
        started = time.monotonic()
        assert not notify.notify("x", {})
        assert time.monotonic() - started < 5  # a bound of the contract, not a measurement
        assert "did not take the message" in caplog.text and "s3cret" not in caplog.text


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/s3cret", "file:///etc/s3cret", "s3cret", "http://[s3cret"])
def test_address_that_is_none_is_a_warning(monkeypatch, caplog, address):
    monkeypatch.setenv(notify.WEBHOOK_VARIABLE, address)
    assert not notify.notify("x", {})
    assert "did not take the message" in caplog.text and "s3cret" not in caplog.text
