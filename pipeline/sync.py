"""``python -m pipeline.sync``: sends to MLflow what could not be sent while it was away. Every stage that needs it does so too."""

from __future__ import annotations

from pipeline import stage
from pipeline.outbox import Outbox
from pipeline.paths import Paths
from pipeline.tracking import Tracker


def sync(paths: Paths) -> None:
    """Deliver every message that waits for the store in force; UnavailableError where it does not answer."""
    outbox = Outbox(paths)
    count = len(outbox.waiting())
    if not count:
        print("nothing waits to be sent")
        return
    tracker = Tracker(paths)
    others = outbox.deliver(tracker)
    print(f"sent {count - others} of {count} ended runs to {tracker.uri}")
    if others:
        print(f"{others} wait for another store: set MLFLOW_TRACKING_URI to the one that they were made with")


if __name__ == "__main__":
    stage.command("sync", lambda: sync(Paths.here()), __doc__)
