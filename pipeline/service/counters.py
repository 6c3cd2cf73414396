"""What Prometheus reads at /metrics: all replicas of a machine write into one folder, and any of them tells the sum."""

from __future__ import annotations

import os

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own, read when it is imported
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
OTHER = "other"  # paths that nobody serves, or a scanner fills the memory with names

_requests = Counter("vaeline_requests", "Requests by path and status", ["path", "status"])
_seconds = Histogram("vaeline_request_seconds", "From the first byte to the last", ["path"], buckets=SECONDS)
_rows = Histogram("vaeline_batch_rows", "Images or latents that went through the network together", buckets=ROWS)
_waiting = Gauge("vaeline_requests_waiting", "Requests that are being answered", multiprocess_mode="livesum")
_version = Gauge("vaeline_model_version", "Version that is served, 0: a folder", multiprocess_mode="livemax")
_refused = Counter("vaeline_versions_refused", "Versions that were broken")
_known: set[str] = set()


def know(paths: set[str]) -> None:
    """The paths that are counted by name."""
    _known.update(paths)


def ended(path: str, status: int, seconds: float) -> None:
    """A request was answered."""
    name = path if path in _known else OTHER
    _requests.labels(name, str(status)).inc()
    _seconds.labels(name).observe(seconds)


def computed(rows: int) -> None:
    """A batch went through the network."""
    _rows.observe(rows)


def waiting(count: int) -> None:
    """So many requests are being answered."""
    _waiting.set(count)


def serves(version: str) -> None:
    """A version serves from now on."""
    _version.set(int(version or 0))


def refused() -> None:
    """A version was broken."""
    _refused.inc()


def page() -> tuple[bytes, str]:
    """The text for Prometheus, and its content type."""
    registry = CollectorRegistry()
    if os.environ.get(FOLDER_VARIABLE):
        MultiProcessCollector(registry)
        return generate_latest(registry), CONTENT_TYPE_LATEST
    return generate_latest(), CONTENT_TYPE_LATEST
