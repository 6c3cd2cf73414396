"""`vae serve` as a person starts it, on a real Ray Serve: it follows the alias through a stream of requests, and its page works."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import pytest
from PIL import Image

from browser import Browser, needs_browser
from pipeline import ledger
from pipeline.paths import Paths
from pipeline.registry import Registry
from pipeline.service.batches import Batched, compute
from pipeline.tracking import Tracker
from saved import saved_model
from vae.artefact import Generator
from workspace import ROOT, free_port

START_SECONDS, SWAP_SECONDS = 150, 60


class Service:
    """A workspace with three versions, the last of them broken, and `vae serve` on its champion, which is the first."""

    def __init__(self, root: Path) -> None:
        self.root, self.port = root, free_port()
        root.mkdir()
        shutil.copytree(ROOT / "infra", root / "infra")
        shutil.copy(ROOT / "params.yaml", root)
        self.paths = Paths(root)
        tracker = Tracker(self.paths)
        self.registry = Registry(tracker, "sprites")
        self.generators = {str(version): self._registered(version) for version in (1, 2, 3)}
        ledger.crown(self.registry, "1")
        broken = max((root / "mlartifacts").rglob("model.safetensors"), key=lambda path: path.stat().st_mtime_ns)
        broken.write_bytes(broken.read_bytes()[:-8] + b"\0" * 8)
        environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | {"PYTHONPATH": str(ROOT)}
        self.log = root / "log"
        vae = shutil.which("vae")
        assert vae is not None
        self.process = subprocess.Popen(
            [vae, "serve", "--port", str(self.port)], cwd=root, env=environment, stderr=self.log.open("w"),
            start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while not self.ready():
            assert time.monotonic() < deadline and self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)

    def _registered(self, number: int) -> Generator:
        folder = self.root / f"m{number}"
        generator = saved_model(folder, seed=number, attributes=True, denoise_levels=50.0)
        self.registry.add(self.registry.tracker.run(f"m{number}"), folder, generator, {}, {})
        return generator

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ready(self) -> bool:
        try:
            return self.get("/ready") == {"status": "ready"}
        except (urllib.error.URLError, OSError):
            return False

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=20) as answer:
            return json.load(answer)

    def drawn(self, body: dict[str, Any]) -> tuple[str, np.ndarray]:
        """The version that answered, and its images."""
        content = json.dumps(body | {"format": "npy"}).encode()
        request = urllib.request.Request(f"{self.url}/v1/sample", content, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.headers["x-answered-by"].rpartition("/")[2], np.load(io.BytesIO(answer.read()))

    def until(self, true: Any) -> None:
        deadline = time.monotonic() + SWAP_SECONDS
        while not true():
            assert time.monotonic() < deadline, self.get("/version")
            time.sleep(0.1)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    before = os.environ.pop("MLFLOW_TRACKING_URI", None)
    found = Service(tmp_path_factory.mktemp("serve") / "project")
    yield found
    if found.process.poll() is None:
        os.killpg(found.process.pid, signal.SIGKILL)
    if before is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before


def test_stream_of_requests_passes_through_promotion_rollback_and_a_broken_version(service: Service) -> None:
    failures, seen, stop = [], [], threading.Event()

    def ask(worker: int) -> None:
        number = 0
        while not stop.is_set():
            seed, n, number = worker * 1000 + number % 7, 1 + number % 5, number + 1
            try:
                version, images = service.drawn({"n": n, "seed": seed})
                expected = Batched(service.generators[version], compute, 100).sample(n, seed)
                assert np.array_equal(images, expected), (version, seed, n)  # whoever else shares the batch
                seen.append(version)
            except Exception as error:
                failures.append(repr(error))
                return

    workers = [threading.Thread(target=ask, args=(worker,)) for worker in range(4)]
    for each in workers:
        each.start()
    try:
        for version, move in (
            ("2", lambda: ledger.promote_by_hand(service.registry, service.paths, "2", "better")),
            ("1", lambda: ledger.rollback(service.registry, service.paths)),
        ):
            move()
            service.until(lambda version=version: service.get("/version")["version"] == version or failures)
        service.registry.promote("3")
        service.until(lambda: service.get("/version")["refused"] or failures)
        told = service.get("/version")
        assert told["version"] == "1" and "model.safetensors" in told["refused"]["3"]
        service.registry.promote("2")
        service.until(lambda: service.get("/version")["version"] == "2" or failures)
    finally:
        stop.set()
        for each in workers:
            each.join()
    assert failures == [] and {"1", "2"} == set(seen) and len(seen) > 50
    with urllib.request.urlopen(f"{service.url}/metrics", timeout=20) as answer:
        counted = answer.read().decode()
    answered = re.search(r'vaeline_requests_total\{path="/v1/sample",status="200"\} (\d+)', counted)
    assert answered and int(answered[1]) >= len(seen)
    assert re.search(r"vaeline_model_version\S* 2\.0", counted) and "vaeline_versions_refused_total 1.0" in counted


def test_thousand_at_once_leave_it_alive_and_its_memory_bounded(service: Service) -> None:
    mine = psutil.Process(service.process.pid).children(recursive=True)
    (replica,) = (each for each in mine if "ServeReplica" in " ".join(each.cmdline()))
    large = json.dumps({"images": ["A" * 20_000_000]}).encode()  # of 100: 2 GB, if they were all held
    found, most_bytes = [], [replica.memory_info().rss]

    async def asked(session: aiohttp.ClientSession, number: int) -> None:
        path, body = ("encode", large) if number % 10 == 0 else ("sample", json.dumps({"n": 8, "seed": number}).encode())
        headers = {"content-type": "application/json"}
        try:
            async with session.post(f"{service.url}/v1/{path}", data=body, headers=headers) as answer:
                told = await answer.json()
                found.append(answer.status)
                assert answer.status == 200 or told["error"]
        except aiohttp.ClientOSError:  # refused before all of a large body was sent
            assert number % 10 == 0
            found.append(429)
        most_bytes.append(replica.memory_info().rss)

    async def every() -> None:
        timeout = aiohttp.ClientTimeout(total=120)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            await asyncio.gather(*(asked(session, number) for number in range(1000)))

    asyncio.run(every())
    assert len(found) == 1000 and set(found) <= {200, 400, 408, 413, 429} and found.count(200) > 100, Counter(found)
    assert max(most_bytes) - most_bytes[0] < 1.5 * 2**30
    assert service.ready() and service.drawn({"n": 1})[1].shape == (1, 8, 8, 3)


@needs_browser
def test_page_draws_moves_latents_by_keyboard_and_interpolates(service: Service, tmp_path: Path) -> None:
    pictures = []
    for place in range(2):
        pictures.append(tmp_path / f"{place}.png")
        Image.fromarray(np.random.default_rng(place).integers(0, 256, (40, 50, 3)).astype(np.uint8)).save(pictures[-1])
    mask = tmp_path / "mask.png"
    Image.fromarray((np.arange(50)[None] < 20).repeat(40, 0).astype(np.uint8) * 255).save(mask)
    with Browser(tmp_path / "browser") as page:
        page.open(service.url)
        page.until("document.querySelectorAll('#drawn img').length === 32 && document.getElementById('decoded').naturalWidth > 0")
        before = page.value("document.getElementById('decoded').src")
        page.value("document.getElementById('zero').focus()")
        page.press("Tab")  # the sliders come after the button
        assert page.value("document.activeElement.type") == "range"
        for _ in range(30):
            page.press("ArrowRight")
        assert page.value("Number(document.activeElement.value)") == pytest.approx(1.5)
        page.until(f"document.getElementById('decoded').src !== {json.dumps(before)}")
        page.value("document.getElementById('best').value = 2; document.getElementById('n').value = 6")
        page.value("document.getElementById('n').focus()")
        page.press("Enter")
        page.until("document.querySelectorAll('#drawn button').length === 6 && drawn.textContent.includes('nats')")
        page.value("document.querySelector('#drawn button').click()")
        page.until("Number(document.querySelector('#sliders input').value) !== 1.5")
        page.choose_file("#first", pictures[0])
        page.choose_file("#second", pictures[1])
        page.value("document.querySelector('#between button').click()")
        page.until("document.querySelectorAll('#way img').length === 9")
        assert page.value("[...document.images].every(image => image.naturalWidth > 0)")
        page.choose_file("#picture", pictures[0])
        page.value("document.querySelector('#moves input').value = 0.1; document.getElementById('make').value = 'right'")
        page.value("document.getElementById('restyle').focus()")
        page.press("Enter")
        page.until("document.querySelector('#changed button')?.textContent === 'height=0.1 right'")
        page.value("document.getElementById('denoise').click()")
        page.until("document.querySelector('#changed button').textContent === 'without noise'")
        page.choose_file("#mask", mask)
        page.value("document.querySelector('#complete button').click()")
        page.until("document.querySelector('#changed button').textContent === 'completed'")
        assert page.value("document.querySelectorAll('#changed img').length") == 3
        page.value("document.querySelector('#moves input').value = 0.99 * document.querySelector('#moves input').max")
        page.value("document.getElementById('restyle').click()")
        page.until("document.getElementById('said').textContent.includes('move it less')")
        page.value("document.querySelector('#moves input').value = 0; document.getElementById('make').value = ''")
        page.value("document.getElementById('restyle').click()")
        page.until("document.getElementById('said').textContent.includes('say what is to be changed')")
        assert page.value("[...document.images].every(image => image.naturalWidth > 0)")
        page.errors.clear()  # Chromium tells of the refusal, which was meant
        page.picture(tmp_path / "wide.png")
        page.open(service.url, width=390)
        page.until("document.querySelectorAll('#drawn img').length === 32")
        assert page.value("document.documentElement.scrollWidth") <= 390
        page.picture(tmp_path / "narrow.png")
        assert page.errors == []


def test_end_is_clean(service: Service) -> None:
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(timeout=60) == 0
    told = service.log.read_text()
    assert "Traceback" not in told and f"models:/sprites/1 answers at {service.url}" in told
    left = subprocess.run(["pgrep", "-s", str(service.process.pid)], capture_output=True, text=True, check=False).stdout.split()
    assert left == [], told
