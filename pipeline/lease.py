"""Alone with a model among machines that share nothing but an MLflow server, which has no lock: a tag, written, waited for, read again.

That is Fischer's algorithm (Lamport, A fast mutual exclusion algorithm, 1987): whoever finds the tag free writes its name, waits longer
than anybody's write may be under way, and has it if its name is still there. A holder writes anew every few seconds; one that was
killed is known by a tag that no longer changes, so that no two clocks are compared.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import TemporaryError, UnavailableError
from pipeline.tracking import Tracker

TAG = "vaeline.lease."  # and the model's name; of the experiment, which is there before the model
SETTLE_SECONDS, BEAT_SECONDS, DEAD_SECONDS, POLL_SECONDS = 1.0, 5.0, 30.0, 0.2
log = logging.getLogger("pipeline.lease")


def _take(tracker: Tracker, name: str, own: str, deadline: float) -> None:
    key, seen, since, told = TAG + name, "", time.monotonic(), False
    while True:
        value = tracker.note(key)
        if value != seen:
            seen, since = value, time.monotonic()
        if not value or time.monotonic() - since > DEAD_SECONDS:
            tracker.set_note(key, f"{own} 0")
            time.sleep(SETTLE_SECONDS)
            if tracker.note(key) == f"{own} 0":
                return
        if time.monotonic() > deadline:
            raise TemporaryError(f"another machine works on models:/{name} (by the tag {key}): wait for it to end")
        if not told:
            log.info("waiting for another machine that works on models:/%s", name)
            told = True
        time.sleep(POLL_SECONDS)


@contextmanager
def lease(tracker: Tracker, name: str, deadline: float) -> Iterator[None]:
    """Alone with ``name`` on this server. TemporaryError where another does not end until ``deadline`` (of time.monotonic);
    UnavailableError where the lease was lost, or the server does not answer.
    """
    key, own = TAG + name, uuid.uuid4().hex
    _take(tracker, name, own, deadline)
    ended, lost = threading.Event(), threading.Event()

    def beat() -> None:
        number = 0
        while not ended.wait(BEAT_SECONDS):
            try:
                if not tracker.note(key).startswith(own):
                    lost.set()
                    return
                number += 1
                tracker.set_note(key, f"{own} {number}")
            except UnavailableError as error:  # the next beat tries again
                log.warning("the lease of models:/%s could not be renewed: %s", name, error)

    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        try:
            if tracker.note(key).startswith(own):
                tracker.set_note(key, "")
            else:
                lost.set()
        except UnavailableError as error:  # what the block itself raised matters more
            log.warning("the lease of models:/%s runs out in %g s: %s", name, DEAD_SECONDS, error)
    if lost.is_set():
        raise UnavailableError(
            f"the lease of models:/{name} was taken by another machine, as this one had not answered for {DEAD_SECONDS:g} s: look at "
            "`vae registry history` and repeat"
        )
