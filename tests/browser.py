"""A real headless Chromium, driven as its own developer tools drive it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest
from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
START_SECONDS, WAIT_SECONDS = 60, 30
# In CI nothing is skipped: there the test fails where there is no browser.
needs_browser = pytest.mark.skipif(CHROMIUM is None and "CI" not in os.environ, reason="no Chromium")
# What a reader would stumble over, each with the words by which it is found.
MISFITS = """(() => {
  const told = element => element.textContent.trim().slice(0, 60);
  const lines = element => {
    const range = document.createRange();
    range.selectNodeContents(element);
    return new Set([...range.getClientRects()].map(each => Math.round(each.top))).size;
  };
  const wide = document.documentElement.scrollWidth - innerWidth;
  return [
    ...(wide > 0 ? [`the page is ${wide} pixels too wide`] : []),
    ...[...document.images].filter(each => !each.naturalWidth).map(each => `no picture: ${each.alt}`),
    ...[...document.querySelectorAll("table")].filter(each => each.offsetWidth > each.parentElement.clientWidth)
      .map(each => `a table reaches beyond its card: ${told(each)}`),
    ...[...document.querySelectorAll("th")].filter(each => lines(each) > told(each).split(/\\s+/).length)
      .map(each => `a word is torn apart: ${told(each)}`),
  ];
})()"""


class Browser:
    """One page; ``errors`` are those of its console, and answers that it could not get."""

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM is not None
        folder.mkdir(parents=True)
        self._process = subprocess.Popen(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0",
             "--remote-allow-origins=*", f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        place, deadline = folder / "DevToolsActivePort", time.monotonic() + START_SECONDS
        while not (place.exists() and place.read_text().count("\n")):
            assert time.monotonic() < deadline and self._process.poll() is None, "Chromium did not start"
            time.sleep(0.05)
        port = int(place.read_text().splitlines()[0])
        request = urllib.request.Request(f"http://127.0.0.1:{port}/json/new", method="PUT")
        with urllib.request.urlopen(request, timeout=10) as answer:
            address = json.load(answer)["webSocketDebuggerUrl"]
        self._open = ExitStack()
        self._socket = self._open.enter_context(connect(address, max_size=None))
        self._number, self.errors = 0, []
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.tell(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        self._process.terminate()
        self._process.wait(timeout=30)

    def tell(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its answer; events that come meanwhile are looked through for errors."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=WAIT_SECONDS))
            if message.get("id") == self._number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            kind, told = message.get("method"), message.get("params", {})
            if kind == "Runtime.exceptionThrown":
                self.errors.append(told["exceptionDetails"]["text"])
            if kind == "Log.entryAdded" and told["entry"]["level"] == "error":
                self.errors.append(told["entry"]["text"])

    def open(self, url: str, width: int = 1280, height: int = 900) -> None:
        """Show a page in a window of that size; it is there, with all that it loads, when this returns."""
        self.tell("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.tell("Page.navigate", url=url)
        self.until("location.href != 'about:blank' && document.readyState == 'complete'")

    def value(self, script: str) -> Any:
        """What an expression is worth in the page."""
        found = self.tell("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not self.value(script):
            assert time.monotonic() < deadline, f"never true: {script}; errors {self.errors}"
            time.sleep(0.05)

    def misfits(self) -> list[str]:
        """What is wrong with the page as it is shown, whole; its console's errors among it."""
        return [*self.value(MISFITS), *self.errors]

    def press(self, key: str) -> None:
        """A key of the keyboard, by its name in DOM."""
        codes = {"Tab": 9, "Enter": 13, "ArrowRight": 39, "ArrowLeft": 37}
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.tell("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key], **text)

    def choose_file(self, selector: str, path: Path) -> None:
        """Put a file into an input."""
        root = self.tell("DOM.getDocument")["root"]["nodeId"]
        node = self.tell("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.tell("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def picture(self, path: Path) -> None:
        """A screenshot of the whole page, for somebody to look at."""
        path.write_bytes(base64.b64decode(self.tell("Page.captureScreenshot", captureBeyondViewport=True)["data"]))
