"""What serving costs: ``python -m benchmarks.serve [rows]`` writes docs/results/serve.json.

The network of params.yaml with random weights (it is as fast as a trained one), 32 x 32 grey, registered and served by `vae serve`,
one replica of one thread; beside it, in turns, the bare decoder on one thread in this process. Clients are threads of this process.
arrays: requests of 64 images as one array, CLIENTS at once: images per second, ours / bare.
latency: the same at half the rate that ``arrays`` reaches, at fixed moments whether or not the former were answered: 99th percentile,
in milliseconds from the moment that was planned; ``bare_ms``: the median of decoding 64.
singles: requests of one image as a PNG, MANY at once: per second, and beside it those of `mlflow models serve`.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import tables
from benchmarks.rows import ROOT, measure
from pipeline import ledger, params
from pipeline.paths import Paths
from pipeline.registry import CHAMPION, Registry
from pipeline.tracking import URI_VARIABLE
from vae.artefact import Generator, load_artefact, save_artefact
from vae.decode import Rules
from vae.models import build
from vae.samplers import fit_prior

SIDE, LATENTS, IMAGES, CLIENTS, MANY = 32, 9, 64, 4, 16
ROUNDS, SECONDS, START_SECONDS = 5, 4.0, 150
PORT, MLFLOW_PORT = 18_321, 18_322
ARRAYS = {"n": IMAGES, "format": "npy"}


def _registered(work: Path) -> Generator:
    """A workspace in ``work`` whose champion it is."""
    fit = params.check((ROOT / "params.yaml").read_text(), "params.yaml").fit
    config = fit.model_config((SIDE, SIDE, 1), LATENTS)
    torch.manual_seed(0)
    model = build(config).eval()
    images = np.random.default_rng(0).integers(0, 256, (512, SIDE, SIDE, 1)).astype(np.uint8)
    rules = Rules(height=SIDE, width=SIDE, mode="L", fit="crop", filter="lanczos", background=(0, 0, 0), min_side_pixels=4,
                  max_aspect_ratio=5.0, max_pixels=10**7)  # fmt: skip
    contract = {"mode": "L", "image_shape": [SIDE, SIDE, 1], "labels": [], "rules": asdict(rules)}
    folder = work / "model"
    folder.mkdir()
    save_artefact(folder, Generator(model, config, fit_prior(model, images, fit.prior_config, 0, None), contract))
    shutil.copytree(ROOT / "infra", work / "infra")
    shutil.copy(ROOT / "params.yaml", work)
    os.environ.pop(URI_VARIABLE, None)  # of the row before
    registry = Registry.here(Paths(work))
    generator = load_artefact(folder)
    ledger.crown(registry, registry.add(registry.tracker.run("serve"), folder, generator, {}, {}))
    return generator


@contextmanager
def _running(command: list[str], work: Path, port: int, path: str) -> Iterator[None]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": f"sqlite:///{work}/mlflow.db"}
    with (work / f"log-{port}").open("w") as log:
        process = subprocess.Popen(command, cwd=work, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(port, path):
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError((work / f"log-{port}").read_text()[-2000:])
            time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def _answers(port: int, path: str) -> bool:
    try:
        return _get(http.client.HTTPConnection("127.0.0.1", port, timeout=5), "GET", path) is not None
    except (OSError, http.client.HTTPException, RuntimeError):
        return False


def _get(connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None) -> bytes:
    connection.request(method, path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{path}: {answer.status} {content[:300]!r}")
    return content


def _rate(port: int, path: str, body: Callable[[int], dict[str, Any]], clients: int) -> float:
    """Requests that are answered in a second, by so many clients that ask one after the other."""
    counts, end = [0] * clients, time.perf_counter() + SECONDS

    def ask(client: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while time.perf_counter() < end:
            _get(connection, "POST", path, json.dumps(body(client * 10**6 + counts[client])).encode())
            counts[client] += 1

    started, threads = time.perf_counter(), [threading.Thread(target=ask, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


def _bare(generator: Generator) -> tuple[float, float]:
    """Images that the decoder makes in a second, 64 at a time, and its median milliseconds for them."""
    torch.set_num_threads(1)
    z_ND, seconds, end = generator.latents(IMAGES, 0), [], time.perf_counter() + SECONDS
    while (begun := time.perf_counter()) < end:
        generator.decode(z_ND)
        seconds.append(time.perf_counter() - begun)
    return IMAGES * len(seconds) / sum(seconds), 1000 * statistics.median(seconds)


def _serving(work: Path) -> Any:
    return _running(["vae", "serve", "--port", str(PORT)], work, PORT, "/ready")


def arrays(work: Path) -> dict[str, Any]:
    """Throughput of large answers against the decoder alone."""
    generator = _registered(work)
    with _serving(work):
        _rate(PORT, "/v1/sample", lambda number: ARRAYS | {"seed": number}, CLIENTS)
        rounds = [
            (_rate(PORT, "/v1/sample", lambda number: ARRAYS | {"seed": number}, CLIENTS) * IMAGES, _bare(generator)[0])
            for _ in range(ROUNDS)
        ]
    ratios = [served / bare for served, bare in rounds]
    return {
        "ratio": round(statistics.median(ratios), 3), "ratios": [round(each, 3) for each in ratios],
        "images_per_second": round(statistics.median(served for served, _ in rounds)),
        "bare_images_per_second": round(statistics.median(bare for _, bare in rounds)),
    }  # fmt: skip


def latency(work: Path) -> dict[str, Any]:
    """How long one waits where half the capacity is asked for."""
    generator = _registered(work)
    with _serving(work):
        _rate(PORT, "/v1/sample", lambda number: ARRAYS | {"seed": number}, CLIENTS)
        most = _rate(PORT, "/v1/sample", lambda number: ARRAYS | {"seed": number}, CLIENTS)
        bare_ms, waits = _bare(generator)[1], _at_moments(most / 2, ROUNDS * SECONDS)
    p50, p99 = (float(np.quantile(waits, q) * 1000) for q in (0.5, 0.99))
    return {
        "bare_ms": round(bare_ms, 2), "p50_ms": round(p50, 2), "p99_ms": round(p99, 2), "requests": len(waits),
        "requests_per_second": round(most / 2, 1), "bound_ms": round(3 * bare_ms + 15, 2),
    }  # fmt: skip


def _at_moments(rate: float, seconds: float) -> list[float]:
    """Seconds from the moment at which each request was due to its answer; due at equal distances."""
    waits: list[float] = []
    begun, number, lock = time.perf_counter() + 0.1, iter(range(int(rate * seconds))), threading.Lock()

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
        while True:
            with lock:
                mine = next(number, None)
            if mine is None:
                return
            due = begun + mine / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            _get(connection, "POST", "/v1/sample", json.dumps(ARRAYS | {"seed": mine}).encode())
            waits.append(time.perf_counter() - due)

    threads = [threading.Thread(target=ask) for _ in range(MANY)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return waits


def singles(work: Path) -> dict[str, Any]:
    """Many who want one picture each, here and at MLflow's own server."""
    _registered(work)
    name = params.load(work / "params.yaml", ("register",)).register.name
    mlflow = ["mlflow", "models", "serve", "-m", f"models:/{name}@{CHAMPION}", "--env-manager", "local", "-p", str(MLFLOW_PORT)]

    def of_mlflow(number: int) -> dict[str, Any]:
        return {"dataframe_records": [{"n": 1, "seed": number}], "params": {"op": "sample", "png": True}}

    ours, theirs = [], []
    with _serving(work), _running(mlflow, work, MLFLOW_PORT, "/ping"):
        for _ in range(ROUNDS):
            ours.append(_rate(PORT, "/v1/sample", lambda number: {"n": 1, "seed": number}, MANY))
            theirs.append(_rate(MLFLOW_PORT, "/invocations", of_mlflow, MANY))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "ratio": round(statistics.median(ratios), 2), "ratios": [round(each, 2) for each in ratios],
        "requests_per_second": round(statistics.median(ours)), "mlflow_requests_per_second": round(statistics.median(theirs)),
    }  # fmt: skip


if __name__ == "__main__":
    measure("serve", {"arrays": arrays, "latency": latency, "singles": singles}, __doc__)
    tables.write()
