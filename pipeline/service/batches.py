"""Work of many requests in one pass through the network: parts that wait together are computed together.

Float arithmetic gives an image other last digits in a batch of another size, and so now and then another pixel. Batches here are of
multiples of TILE rows, for which an image comes out the same whatever shares its batch (tests/code/pipeline/test_batches.py): what a
request draws does not depend on who else asks.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vae.artefact import BATCH, Generator
from vae.data import Selection

TILE = 8
# An image's noise is that of its place among the request's images; others ask for other numbers of samples.
ALONE = ("bound", "average")


@dataclass(frozen=True)
class Part:
    """Rows of latents that become images, or of images that become means and log-variances, or bounds by ``seed``."""

    generator: Generator
    what: str  # decode, encode, bound or average
    rows: Tensor | np.ndarray
    label_N: Tensor | None
    seed: int = 0
    samples: int = 1

    def __len__(self) -> int:
        return len(self.rows)


Submit = Callable[[Sequence[Part]], list[Tensor]]  # waits for all


class Network:
    """The one thread that computes; what comes meanwhile is the next batch.

    Ray Serve's own batching closes a batch when its first request comes, not when the network is free: without a delay for all, each of
    many single images had a batch of its own.
    """

    def __init__(self, seconds: float, computed: Callable[[int], None] = lambda rows: None) -> None:
        self._seconds, self._computed = seconds, computed
        self._waiting: queue.SimpleQueue[tuple[Part, Future[Tensor]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="network", daemon=True).start()

    def submit(self, parts: Sequence[Part]) -> list[Tensor]:
        """The result of each part; TimeoutError after so many seconds."""
        futures: list[Future[Tensor]] = [Future() for _ in parts]
        for pair in zip(parts, futures, strict=True):
            self._waiting.put(pair)
        try:
            return [future.result(self._seconds) for future in futures]
        finally:
            for future in futures:
                future.cancel()  # of no effect on those that have begun

    def _work(self) -> None:
        while True:
            pairs: list[tuple[Part, Future[Tensor]]] = []
            rows = 0
            while rows < BATCH and (not pairs or not self._waiting.empty()):
                part, future = self._waiting.get()
                if future.set_running_or_notify_cancel():
                    pairs.append((part, future))
                    rows += len(part)
            self._computed(rows)
            try:
                found = compute([part for part, _ in pairs])
            except Exception:  # of one of them: the others are not to suffer for it
                for part, future in pairs:
                    _alone(part, future)
                continue
            for (_, future), result in zip(pairs, found, strict=True):
                future.set_result(result)


def _alone(part: Part, future: Future[Tensor]) -> None:
    try:
        (result,) = compute([part])
        future.set_result(result)
    except Exception as error:
        future.set_exception(error)


def compute(parts: list[Part]) -> list[Tensor]:
    """The result of each part."""
    found: list[Tensor | None] = [None] * len(parts)
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, part in enumerate(parts):
        alone = place if part.what in ALONE else -1
        groups.setdefault((id(part.generator), part.what, alone), []).append(place)
    for places in groups.values():
        result = _together([parts[place] for place in places])
        start = 0
        for place in places:
            found[place] = result[start : start + len(parts[place])]
            start += len(parts[place])
    return [each for each in found if each is not None]


def _together(parts: list[Part]) -> Tensor:
    first = parts[0]
    if first.what == "bound":
        return first.generator.bound(first.rows, first.label_N, first.seed)
    if first.what == "average":
        return torch.from_numpy(first.generator.average(first.rows, first.samples, first.label_N, first.seed))
    rows = torch.cat([torch.as_tensor(part.rows) for part in parts])
    labels = None if first.label_N is None else torch.cat([part.label_N for part in parts if part.label_N is not None])
    count, more = len(rows), -len(rows) % TILE
    rows = torch.cat([rows, rows[-1:].expand(more, *rows.shape[1:])])
    labels = None if labels is None else torch.cat([labels, labels[-1:].expand(more)])
    if first.what == "decode":
        return torch.from_numpy(first.generator.decode(rows, labels))[:count]
    return torch.cat(first.generator.encode(rows, labels), 1)[:count]


class Batched(Generator):
    """A generator whose network runs elsewhere, for many requests at once; ValueError where one asks for too much."""

    def __init__(self, generator: Generator, submit: Submit, most_images: int) -> None:
        vars(self).update(vars(generator))
        self._alone, self._submit, self._most_images = generator, submit, most_images

    def _each(
        self,
        what: str,
        rows: Tensor | np.ndarray | Selection,
        label_N: Tensor | None,
        seed: int = 0,
        size: int = BATCH,
        samples: int = 1,
    ) -> Tensor:
        if len(rows) > self._most_images:
            raise ValueError(f"an answer is of at most {self._most_images} images, this one of {len(rows)}")
        slices = [slice(start, start + size) for start in range(0, len(rows), size)]
        parts = [Part(self._alone, what, rows[s], None if label_N is None else label_N[s], seed, samples) for s in slices]
        return torch.cat(self._submit(parts))

    def decode(self, z_ND: Tensor, label_N: Tensor | None = None) -> np.ndarray:
        """Images of latents."""
        return self._each("decode", z_ND, label_N).numpy()

    def encode(self, images_NHWC: np.ndarray | Tensor | Selection, label_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Posterior mean and log-variance."""
        mean_ND, logvar_ND = self._each("encode", images_NHWC, label_N).chunk(2, 1)
        return mean_ND.contiguous(), logvar_ND.contiguous()

    def bound(self, images_NHWC: np.ndarray | Tensor, label_N: Tensor | None = None, seed: int = 0) -> Tensor:
        """The bound of each image; a request's images are one part, as the noise is that of their places."""
        return self._each("bound", images_NHWC, label_N, seed, size=self._most_images)

    def average(self, images_NHWC: np.ndarray | Tensor, samples: int, label_N: Tensor | None = None, seed: int = 0) -> np.ndarray:
        """The mean of images that the posterior of each draws; those of a request are computed TILE at a time, others between them."""
        return self._each("average", images_NHWC, label_N, seed, size=TILE, samples=samples).numpy()
