"""A training's reports on their way to the terminal at once and to MLflow as soon as it takes them: nobody waits for it."""

from __future__ import annotations

import logging
import threading

from pipeline.console import Progress
from pipeline.tracking import Tracker

CLOSE_SECONDS = 30.0  # at most two attempts of the client at one call
RETRY_SECONDS = 5.0
log = logging.getLogger("pipeline.forwarder")


class Forwarder:
    """Shows each record and sends it from a thread of its own; what could not be sent until the end waits in the outbox."""

    def __init__(self, tracker: Tracker, run_id: str, total_images: int) -> None:
        self._tracker, self._run_id = tracker, run_id
        self._shown, self._total = Progress(total_images, "images", "training"), total_images
        self._waiting: list[dict[str, float]] = []
        self._changed, self._closing, self._silent = threading.Condition(), False, False
        self._thread = threading.Thread(target=self._send_all, name="mlflow", daemon=True)
        self._thread.start()

    def record(self, record: dict[str, float]) -> None:
        """Show it now, send it soon."""
        text = f"elbo {record['val_elbo_nats']:.1f} nats, {record['images_per_second']:.0f} images/s"
        self._shown.to(min(int(record["images"]), self._total), text)
        with self._changed:
            self._waiting.append(record)
            self._changed.notify()

    def _send_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                batch = list(self._waiting)
            try:
                self._tracker.records(self._run_id, batch)
            except Exception as error:  # whatever the store does, training goes on
                if not self._silent:
                    log.warning("MLflow does not take metrics now (%s); they wait", " ".join(str(error).split())[:120])
                self._silent = True
                with self._changed:
                    if self._closing or self._changed.wait_for(lambda: self._closing, RETRY_SECONDS):
                        return
                continue
            self._silent = False
            with self._changed:
                del self._waiting[: len(batch)]

    def close(self) -> None:
        """Take the bar away and let the thread end: after what it is sending now, or the one more try that is due."""
        self._shown.close()
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(CLOSE_SECONDS)
