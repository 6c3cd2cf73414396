"""The service's application on a real server, without Ray: each operation, each refusal, and what it holds in memory."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import uvicorn
from PIL import Image

from pipeline.service.application import BODIES, build
from pipeline.service.batches import Batched, compute
from pipeline.service.following import Following
from pipeline.service.options import Options
from saved import saved_model
from vae.answers import MOST_IMAGES, OPERATIONS, Settings, answer
from vae.artefact import load_artefact
from vae.pictures import GAP_PIXELS

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)


def text(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


TEXTS = [text(image) for image in IMAGES]
MASK = text(np.repeat(np.arange(8) < 3, 24).reshape(8, 8, 3).astype(np.uint8) * 255)  # the upper three rows are missing
BLACK = text(np.zeros((8, 8, 3), np.uint8))


class Answer(NamedTuple):
    status: int
    content: bytes
    headers: Any

    @property
    def json(self) -> Any:
        return json.loads(self.content)


class Server:
    """An application on a port of its own."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        values = {"root": folder, "model": str(folder), "hosts": ("127.0.0.1",), "threads": 1} | changes
        self.options, self.hold = Options(**values), threading.Event()
        self.hold.set()

        def submit(parts):
            self.hold.wait()
            return compute(list(parts))

        api = build(self.options, Following(folder, 1.0), submit)
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        listening.listen(2048)  # whoever asks before the server has begun waits
        self.port = listening.getsockname()[1]
        self._server = uvicorn.Server(uvicorn.Config(api, log_level="critical"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]}, daemon=True)
        self._thread.start()

    def ask(self, path: str, body: Any = None, **headers: str) -> Answer:
        content = body if isinstance(body, bytes | type(None)) else json.dumps(body).encode()
        given = {"content-type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", content, given)
        try:
            with urllib.request.urlopen(request, timeout=30) as answered:
                return Answer(answered.status, answered.read(), answered.headers)
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read(), error.headers)

    def until_waiting(self, count: int) -> None:
        """Return once the server itself says that so many requests wait."""
        deadline = time.monotonic() + 20
        while f"vaeline_requests_waiting {count}.0" not in self.ask("/metrics").content.decode():
            assert time.monotonic() < deadline

    def end(self) -> None:
        self.hold.set()
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture
def serving(tmp_path) -> Iterator[Any]:
    servers = []

    def start(classes: int = 0, denoise_levels: float = 50.0, **changes: Any) -> Server:
        folder = tmp_path / f"m{len(servers)}"
        saved_model(folder, classes, denoise_levels=denoise_levels, attributes=True)
        servers.append(Server(folder, **changes))
        return servers[-1]

    yield start
    for each in servers:
        each.end()


ASKED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # a body, and the same as columns
    "sample": ({"n": 5, "seed": 2, "temperature": 0.5}, {"n": [5], "seed": [2]}),
    "reconstruct": ({"images": TEXTS}, {"image": TEXTS}),
    "interpolate": ({"first": TEXTS[0], "second": TEXTS[1], "steps": 4}, {"image": TEXTS[:1], "other": TEXTS[1:2]}),
    "traverse": ({"image": TEXTS[2], "steps": 4}, {"image": TEXTS[2:]}),
    "decode": ({"latents": [[0.5, -1.0, 0.0]]}, {"latents": [[0.5, -1.0, 0.0]]}),
    "encode": ({"images": TEXTS}, {"image": TEXTS}),
    "score": ({"images": TEXTS, "seed": 3}, {"image": TEXTS, "seed": [3] * 3}),
    "nearest": ({"images": TEXTS, "count": 4}, {"image": TEXTS}),
    "denoise": ({"images": TEXTS, "samples": 3}, {"image": TEXTS}),
    "restyle": (
        {"images": TEXTS, "move": "height=+0.2, height=-0.1", "make": "right"},
        {"image": TEXTS, "move": ["height=-0.1"] * 3, "make": ["right"] * 3},
    ),
    "inpaint": ({"images": TEXTS, "mask": MASK, "seed": 2}, {"image": TEXTS, "mask": [MASK] * 3, "seed": [2] * 3}),
}


def test_every_operation_answers_in_every_form(serving):
    server = serving()
    assert set(ASKED) == set(BODIES) == set(OPERATIONS)
    generator = Batched(load_artefact(server.options.root), compute, 100)
    for op, (body, columns) in ASKED.items():
        expected = answer(
            generator, op, columns, Settings(temperature=0.5 if op == "sample" else 1.0, steps=4, count=4, samples=3)
        )
        array = server.ask(f"/v1/{op}", body | {"format": "npy"})
        np.testing.assert_array_equal(np.load(io.BytesIO(array.content)), expected, err_msg=op)
        told = server.ask(f"/v1/{op}", body)
        assert told.status == 200 and told.json["model"] == str(server.options.root) == told.headers["x-model-version"]
        if op in ("encode", "score"):
            np.testing.assert_array_equal(next(v for k, v in told.json.items() if k != "model"), expected.tolist())
            continue
        if op == "nearest":
            assert told.json["nearest"] == [[{"name": n, "distance": d} for n, d in row] for row in expected.tolist()]
            assert [len(row) for row in told.json["nearest"]] == [4] * len(TEXTS)
            continue
        pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in told.json["images"]]
        np.testing.assert_array_equal(pictures, expected)
        grid = server.ask(f"/v1/{op}", body | {"format": "grid"})
        assert grid.headers["content-type"] == "image/png"
        tiled = np.asarray(Image.open(io.BytesIO(grid.content)))
        np.testing.assert_array_equal(tiled if op == "decode" else tiled[GAP_PIXELS:, GAP_PIXELS:][:8, :8], expected[0])


def test_one_picture_is_completed_at_a_time_and_others_are_answered_meanwhile(serving, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def slow(generator: Any, images_NHWC: np.ndarray, *_: Any) -> np.ndarray:
        begun.set()
        assert go_on.wait(30)
        return images_NHWC

    monkeypatch.setattr("vae.answers.inpainted", slow)
    server, body = serving(), {"images": TEXTS[:1], "mask": MASK}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.ask, "/v1/inpaint", body)
        assert begun.wait(30)
        refused = server.ask("/v1/inpaint", body)
        assert refused.status == 429 and "another inpaint is under way" in refused.json["error"]
        assert server.ask("/v1/sample", {"n": 1}).status == 200
        go_on.set()
        assert first.result(30).status == 200
    assert server.ask("/v1/inpaint", body).status == 200  # and there is room again


def test_version_tells_what_can_be_changed(serving):
    told = serving().ask("/version").json
    assert set(told["factors"]) == {"height"} and told["makes"] == ["left", "right"] and told["denoise_levels"] == 50.0
    low, high = told["factors"]["height"]
    assert low < 10 < high
    assert serving(classes=3).ask("/version").json["makes"] == ["ape", "bee", "cat"]


def test_model_that_was_not_trained_to_denoise_says_so(serving):
    refused = serving(denoise_levels=0.0).ask("/v1/denoise", {"images": TEXTS})
    assert refused.status == 400 and "not trained to take noise away" in refused.json["error"]


def test_label_draws_that_class(serving):
    server = serving(classes=3)
    generator = Batched(load_artefact(server.options.root), compute, 100)
    found = server.ask("/v1/sample", {"n": 4, "seed": 1, "label": "bee", "format": "npy"})
    expected = answer(generator, "sample", {"n": [4], "seed": [1], "label": ["bee"]}, Settings())
    np.testing.assert_array_equal(np.load(io.BytesIO(found.content)), expected)
    assert server.ask("/v1/sample", {"label": "bea"}).json == {"error": "unknown label 'bea': did you mean 'bee'?"}
    assert "needs a column 'label'" in server.ask("/v1/encode", {"images": TEXTS}).json["error"]
    assert server.ask("/version").json["labels"] == ["ape", "bee", "cat"]


BOMB = base64.b64encode(b"P5 30000 30000 255\n").decode()


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/sample", {"n": 0}, 422, "n: Input should be greater than or equal to 1"),
        ("/v1/sample", {"n": 10**9}, 422, "n: Input should be less than"),
        ("/v1/sample", {"n": 1, "seed": -1, "temperature": -0.5}, 422, "temperature: Input"),
        ("/v1/sample", {"n": 1, "colour": "red"}, 422, "colour: Extra inputs"),
        ("/v1/sample", b'{"temperature": NaN}', 422, "temperature"),
        ("/v1/sample", b'{"n": ', 422, "the body is no JSON: Expecting value at character 6"),
        ("/v1/sample", b"[1]", 422, "must be a JSON object"),
        ("/v1/sample", {"label": "ape"}, 400, "the model has no classes"),
        ("/v1/sample", {"n": 101}, 400, "at most 100 images, this one of 101"),
        ("/v1/traverse", {"image": TEXTS[0], "steps": 50}, 400, "at most 100 images, this one of 150"),
        ("/v1/denoise", {"images": TEXTS, "samples": 65}, 422, "samples: Input should be less than or equal to 64"),
        ("/v1/restyle", {"images": TEXTS}, 400, "needs a column 'move'"),
        ("/v1/restyle", {"images": TEXTS, "move": "height"}, 400, "'height' is none: write a factor"),
        ("/v1/restyle", {"images": TEXTS, "move": "age=1"}, 400, "'age': not among what the model can move"),
        ("/v1/restyle", {"images": TEXTS, "move": "height=1e6"}, 400, "move it less"),
        ("/v1/restyle", {"images": TEXTS, "make": "up"}, 400, "'up': not among what the model can move"),
        ("/v1/inpaint", {"images": TEXTS, "mask": "?"}, 400, "mask of row 0: the picture is no base64 text"),
        ("/v1/inpaint", {"images": TEXTS[:1] * 17, "mask": MASK}, 400, "inpaint takes at most 16 images, got 17"),
        ("/v1/inpaint", {"images": TEXTS, "mask": BLACK}, 400, "nothing is missing of picture 0"),
        ("/v1/inpaint", {"images": TEXTS}, 422, "mask: Field required"),
        ("/v1/encode", {"images": []}, 422, "images: List should have at least 1 item"),
        ("/v1/encode", {"images": ["?"]}, 400, "image of row 0: the picture is no base64 text"),
        ("/v1/encode", {"images": [TEXTS[0], base64.b64encode(b"GIF89a").decode()]}, 400, "image of row 1: not_an_image"),
        ("/v1/encode", {"images": [BOMB]}, 400, "too_many_pixels"),
        ("/v1/decode", {"latents": [[1.0]]}, 400, "latents of a row are 3 numbers, got [1]"),
        ("/v1/decode", b'{"latents": [[1.0, 2.0, 1e400]]}', 422, "finite"),
        ("/v1/decode", {"latents": [[1e39, 0, 0]]}, 400, "latents must be finite"),
        ("/v1/smaple", {"n": 1}, 404, "known are /, /health, /metrics"),
        ("/v1/sample", None, 405, "Method Not Allowed"),
    ],
)
def test_request_that_cannot_be_met_is_refused_in_a_sentence(serving, path, body, status, words):
    server = serving(most_images=100)
    refused = server.ask(path, body)
    assert refused.status == status and words in refused.json["error"] and "\n" not in refused.json["error"]
    assert server.ask("/v1/sample", {"n": 1}).status == 200


def test_size_is_held_against_the_limit_whether_told_or_not(serving):
    server = serving(most_bytes=10_000)
    refused = server.ask("/v1/sample", b" " * 20_000)
    assert refused.status == 413 and "at most 10000 bytes, this one 20000" in refused.json["error"]
    with socket.create_connection(("127.0.0.1", server.port)) as raw:  # chunks, whose sum is told by nobody
        raw.sendall(
            b"POST /v1/sample HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(12):
            raw.sendall(b"3e8\r\n" + b" " * 1000 + b"\r\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 413")
    assert server.ask("/v1/sample", {"n": 1}).status == 200


def test_those_who_find_no_room_are_told_so_and_the_others_are_answered(serving):
    server = serving(most_waiting=3)
    server.hold.clear()
    found: list[Answer] = []
    waiting = [threading.Thread(target=lambda: found.append(server.ask("/v1/sample", {"n": 1}))) for _ in range(3)]
    for each in waiting:
        each.start()
    server.until_waiting(3)
    refused = server.ask("/v1/sample", {"n": 1})
    assert refused.status == 429 and "3 requests of" in refused.json["error"] and refused.headers["retry-after"] == "1"
    assert server.ask("/health").status == server.ask("/ready").status == 200  # whoever looks after it is answered
    server.hold.set()
    for each in waiting:
        each.join()
    assert [each.status for each in found] == [200] * 3 and server.ask("/v1/sample", {"n": 1}).status == 200


def test_answer_that_takes_too_long_is_given_up(serving):
    server = serving(seconds=0.3)
    server.hold.clear()
    refused = server.ask("/v1/sample", {"n": 1})
    assert refused.status == 408 and "no answer within 0.3 s" in refused.json["error"]


def test_token_is_asked_for_and_told_by_nothing(serving, tmp_path):
    token = tmp_path / "token"
    token.write_text("correct-horse-battery\n")
    server = serving(token_file=token)
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic correct-horse-battery"}):
        for path in ("/v1/sample", "/version", "/metrics", "/openapi.json"):
            refused = server.ask(path, **headers)
            assert refused.status == 401 and refused.headers["www-authenticate"] == "Bearer"
    assert server.ask("/version", authorization="Bearer correct-horse-battery").status == 200
    assert server.ask("/health").status == server.ask("/").status == 200
    assert "correct-horse" not in repr(server.options)


def test_page_of_another_name_cannot_ask_through_a_browser(serving):
    server = serving()
    refused = server.ask("/version", host="evil.example:80")
    assert refused.status == 421 and "--allow-host evil.example" in refused.json["error"]
    assert server.ask("/v1/sample", {"n": 1}, content_type="text/plain").status == 422  # as forms of other pages send it


def test_what_runs_is_described_and_counted(serving):
    server = serving()
    server.ask("/v1/sample", {"n": 2})
    server.ask("/v1/sample", {"n": 0})
    server.ask("/.env")
    counted = server.ask("/metrics").content.decode()
    assert 'vaeline_requests_total{path="/v1/sample",status="200"}' in counted
    assert 'vaeline_requests_total{path="/v1/sample",status="422"}' in counted
    assert 'path="other",status="404"' in counted and ".env" not in counted
    described = server.ask("/openapi.json").json
    assert {f"/v1/{op}" for op in BODIES} <= set(described["paths"])
    assert described["components"]["schemas"]["Sample"]["properties"]["n"]["maximum"] == MOST_IMAGES
    version = server.ask("/version").json
    assert version["image_shape"] == [8, 8, 3] and version["latent_dim"] == 3 and version["refused"] == {}
    assert version["most_images"] == 4096


def test_thousand_at_once_are_answered_or_told_to_come_again(serving):
    server = serving(most_waiting=50)
    statuses: list[int] = []

    def many() -> None:
        for _ in range(10):
            statuses.append(server.ask("/v1/sample", {"n": 1}, connection="close").status)

    threads = [threading.Thread(target=many) for _ in range(100)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(statuses) == 1000 and set(statuses) <= {200, 429} and 200 in statuses
    assert server.ask("/v1/sample", {"n": 1}).status == 200


def test_model_is_named_to_nobody_without_the_token(serving, tmp_path):
    token = tmp_path / "token"
    token.write_text("correct-horse-battery\n")
    server = serving(token_file=token)
    for path in ("/", "/health", "/version", "/nothing"):
        answer = server.ask(path)
        assert "x-model-version" not in answer.headers and str(server.options.root).encode() not in answer.content


def test_bodies_that_wait_are_held_against_the_room_for_all_of_them(serving):
    server = serving(most_bytes=10_000, most_bytes_waiting=15_000)
    server.hold.clear()
    body = json.dumps({"n": 1}).encode().ljust(9_000)
    found: list[Answer] = []
    first = threading.Thread(target=lambda: found.append(server.ask("/v1/sample", body)))
    first.start()
    server.until_waiting(1)
    refused = server.ask("/v1/sample", body)
    assert refused.status == 429 and "1 requests of 9000 bytes are waiting" in refused.json["error"]
    server.hold.set()
    first.join()
    assert found[0].status == 200 and server.ask("/v1/sample", body).status == 200
