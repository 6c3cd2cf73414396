"""Tells the world that a scheduled training has ended: one JSON message to the webhook in the environment, if there is one."""

from __future__ import annotations

import http.client
import json
import logging
import os
import threading
import urllib.error
import urllib.request
from typing import Any

WEBHOOK_VARIABLE = "VAELINE_WEBHOOK"  # an address is a secret: never in params.yaml, never in a log
SECONDS = 10.0
log = logging.getLogger("pipeline.notify")


def notify(text: str, facts: dict[str, Any]) -> bool:
    """Post ``{"text": …, "facts": …}``; False, and a warning, where it was not taken within ``SECONDS``. Never raises, never hangs."""
    address = os.environ.get(WEBHOOK_VARIABLE, "")
    if not address:
        return False
    taken: list[int] = []
    reasons = ["it did not answer"]

    def post() -> None:
        try:
            if not address.startswith(("https://", "http://")):
                raise ValueError("it is no http address")
            content = json.dumps({"text": text, "facts": facts}).encode()
            request = urllib.request.Request(address, content, {"content-type": "application/json"})
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                taken.append(answer.status)
        except (OSError, ValueError, http.client.HTTPException) as error:
            reasons.append(
                str(error) if isinstance(error, urllib.error.URLError) else type(error).__name__
            )  # others quote the address

    thread = threading.Thread(target=post, name="webhook", daemon=True)  # one that drips byte by byte is left behind
    thread.start()
    thread.join(SECONDS)
    if not taken:
        log.warning("the webhook of %s did not take the message: %s", WEBHOOK_VARIABLE, reasons[-1])
    return bool(taken)
