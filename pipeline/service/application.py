"""The paths of the service: each operation, what a scheduler and Prometheus ask for, and the page. No Ray here."""

from __future__ import annotations

import asyncio
import functools
import io
import json
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from pipeline.service import counters
from pipeline.service.batches import Batched, Submit
from pipeline.service.bodies import (
    Body,
    Decode,
    Denoise,
    Inpaint,
    Interpolate,
    Nearest,
    OfPictures,
    Restyle,
    Sample,
    Score,
    Traverse,
)
from pipeline.service.following import Following, Held
from pipeline.service.guard import Guard
from pipeline.service.options import Options
from vae.answers import NO_IMAGES, answer, as_rows, as_texts
from vae.denoise import trained_levels
from vae.pictures import sheet
from vae.restyle import makes

PAGE = Path(__file__).with_name("page.html")
BODIES: dict[str, type[Body]] = {
    "sample": Sample, "reconstruct": OfPictures, "interpolate": Interpolate, "traverse": Traverse, "decode": Decode,
    "encode": OfPictures, "score": Score, "nearest": Nearest, "denoise": Denoise,
    "restyle": Restyle, "inpaint": Inpaint,
}  # fmt: skip
# Of a grid; the others have a row for each picture or latent.
COLUMNS = {"sample": 8, "reconstruct": 8, "decode": 8, "denoise": 8, "restyle": 8, "inpaint": 8}
THREADS = 32  # that read pictures, wait for the network and write pictures
LONG = ("inpaint",)  # not for the network's thread, and one at a time
NUMBERS = {"encode": "latents", "score": "elbo_nats", "nearest": "nearest"}


def _numpy_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _content(held: Held, op: str, body: Body, found: np.ndarray) -> tuple[bytes, str]:
    """An answer's bytes in the form that was asked for, and their type."""
    if body.format == "npy":
        return _numpy_bytes(found), "application/x-npy"
    if op in NO_IMAGES:
        return json.dumps({"model": held.called, NUMBERS[op]: as_rows(found)}).encode(), "application/json"
    if body.format == "grid":
        stream = io.BytesIO()
        sheet(found, COLUMNS.get(op) or body.settings().steps, held.generator.contract["mode"]).save(stream, format="PNG")
        return stream.getvalue(), "image/png"
    return json.dumps({"model": held.called, "images": as_texts(found, held.generator)}).encode(), "application/json"


class BusyError(Exception):
    """There is no room for another piece of long work."""


def _alone(lock: threading.Lock, work: Callable[[], tuple[bytes, str]]) -> tuple[bytes, str]:
    """In a thread: ``work``, where no other one is at it; BusyError where one is."""
    if not lock.acquire(blocking=False):
        raise BusyError
    try:
        return work()
    finally:
        lock.release()


def _answered(held: Held, submit: Submit, most_images: int, op: str, body: Body) -> tuple[bytes, str]:
    """In a thread: from pictures in a request to pictures in an answer."""
    generator = Batched(held.generator, submit, most_images)
    return _content(held, op, body, answer(generator, op, body.columns(), body.settings()))


def _refusal(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, status)


def _sentence(error: RequestValidationError) -> str:
    """All that is wrong with a body, in one line."""
    told = []
    for each in error.errors():
        if each["type"] == "json_invalid":
            return f"the body is no JSON: {each['ctx']['error']} at character {each['loc'][-1]}"
        if each["loc"] == ("body",):
            return "the body must be a JSON object, with the header `content-type: application/json`"
        where = ".".join(str(part) for part in each["loc"] if part != "body")
        told.append(f"{where}: {each['msg']}" if where else str(each["msg"]))
    return "; ".join(told[:10]) + (f"; and {len(told) - 10} more" if len(told) > 10 else "")


def build(options: Options, following: Following, submit: Submit) -> FastAPI:
    """The application of one replica. ``submit`` has parts computed, and waits for them."""
    api = FastAPI(title="Vaeline", description="A trained image model.", docs_url=None, redoc_url=None)
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="answer")
    page, long_work = PAGE.read_text(encoding="utf-8"), threading.Lock()

    async def answered(op: str, body: Body) -> Response:
        held = following.held  # one model for all of a request, whatever the alias does meanwhile
        work = functools.partial(_answered, held, submit, options.most_images, op, body)
        if op in LONG:
            work = functools.partial(_alone, long_work, work)
        try:
            content, kind = await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(threads, work), options.seconds)
        except TimeoutError:
            return _refusal(408, f"no answer within {options.seconds:g} s: ask for fewer images, or later")
        except BusyError:
            return _refusal(429, f"another {op} is under way, which takes hundreds of passes: ask again in some seconds")
        except ValueError as error:
            return _refusal(400, " ".join(str(error).split()))
        return Response(content, media_type=kind, headers={"x-answered-by": held.called})

    def path(op: str, kind: type[Body]) -> Callable[[Any], Awaitable[Response]]:
        async def asked(body: Any) -> Response:
            return await answered(op, body)

        asked.__annotations__ = {"body": kind, "return": Response}
        return asked

    for op, kind in BODIES.items():
        api.post(f"/v1/{op}", summary=(kind.__doc__ or "").strip(), name=op)(path(op, kind))

    @api.get("/health", summary="The process answers")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @api.get("/ready", summary="A model is loaded and has drawn an image")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    @api.get("/version", summary="Which model answers, what it takes, and which versions were refused")
    async def version() -> dict[str, Any]:
        held = following.held
        config, contract, known = held.generator.config, held.generator.contract, held.generator.attributes
        return {
            "model": held.called, "version": held.version, "image_shape": list(config.image_shape), "mode": contract["mode"],
            "latent_dim": held.generator.model.latent_dim, "labels": contract.get("labels", []) if config.classes else [],
            "factors": {} if known is None else known.ranges(), "makes": makes(held.generator),
            "denoise_levels": trained_levels(held.generator),
            "refused": following.refused, "registry": following.away or "answers",
            "most_images": options.most_images, "most_bytes": options.most_bytes,
        }  # fmt: skip

    @api.get("/metrics", summary="For Prometheus")
    async def metrics() -> Response:
        content, kind = counters.page()
        return Response(content, media_type=kind)

    @api.get("/", include_in_schema=False)
    async def front() -> Response:
        return Response(page, media_type="text/html")

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return _refusal(422, _sentence(error))

    @api.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        known = f"; known are {', '.join(sorted(counted))}" if error.status_code == 404 else ""
        return _refusal(error.status_code, f"{request.method} {request.url.path}: {error.detail}{known}")

    @api.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        return _refusal(500, f"{type(error).__name__} while {request.url.path} was answered: the log has more")

    counted = {getattr(route, "path", "") for route in api.routes} - {""}
    counters.know(counted)
    counters.serves(following.held.version)
    api.add_middleware(Guard, options=options, called=lambda: following.held.called)
    return api
