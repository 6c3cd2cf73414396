"""Decoding many files: in blocks, in this process or as Ray tasks, always in the order of the input and in bounded memory."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import sys
import warnings
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.duplicates import perceptual_hash
from pipeline.measures import Filters, luminance, measure, reasons
from pipeline.plain_jpeg import decode_plain
from vae.decode import RejectedError, Rules, decode

BLOCK_FILES, BLOCK_BYTES = 1024, 32 * 2**20  # at most, of files and of their pixels
MAX_FILE_BYTES = 512 * 2**20
IN_FLIGHT = 2  # blocks per processor of the cluster that are under way or wait to be taken


def block_files(rules: Rules) -> int:
    """How many files a block may have."""
    height, width, channels = rules.shape
    return max(1, min(BLOCK_FILES, BLOCK_BYTES // (height * width * channels)))


@dataclass(frozen=True)
class Task:
    """A block of files: archive, and for each file its number in the raw table and its name in the archive."""

    archive: Path
    numbers: list[int]
    names: list[str]

    def halves(self) -> list[Task]:
        middle = len(self.names) // 2
        cuts = (slice(0, middle), slice(middle, None))
        return [Task(self.archive, self.numbers[cut], self.names[cut]) for cut in cuts]


@dataclass
class Block:
    """A task's answer, column by column: what was accepted with its pixels (N, H, W, C), and what was rejected with its reason."""

    pixels: np.ndarray
    numbers: list[int] = field(default_factory=list)
    sha256: list[str] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    modes: list[str] = field(default_factory=list)
    measures: dict[str, np.ndarray] = field(default_factory=dict)
    rejected: list[tuple[int, str, str]] = field(default_factory=list)
    refused_pixels: dict[int, np.ndarray] = field(default_factory=dict)  # of rejected files that could be decoded


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Python's warnings and what C libraries (libtiff) write to standard error by themselves: the answer says what matters."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@functools.lru_cache(maxsize=2)
def _opened(path: Path, _changed: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def decode_block(task: Task, rules: Rules, filters: Filters) -> Block:
    """Decode, measure and filter the files of one task; raises nothing for what a file holds."""
    archive = _opened(task.archive, task.archive.stat().st_mtime_ns)
    # All pictures of a block below each other: to turn one large picture into an array is much cheaper than many small ones.
    strip = Image.new(rules.mode, (rules.width, rules.height * len(task.names)))
    facts: list[tuple[int, int, int, str]] = []
    rejected: list[tuple[int, str, str]] = []
    with _silent():
        for number, name in zip(task.numbers, task.names, strict=True):
            try:
                if archive.getinfo(name).file_size > MAX_FILE_BYTES:
                    raise RejectedError("unreadable", f"more than {MAX_FILE_BYTES} bytes")
                data = archive.read(name)
            except RejectedError as refused:
                rejected.append((number, refused.reason, refused.detail))
                continue
            except Exception as error:  # a damaged archive has many ways to say so
                rejected.append((number, "unreadable", f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"))
                continue
            try:
                image, width, height, mode = decode_plain(data, rules) or decode(data, rules)
            except RejectedError as refused:
                rejected.append((number, refused.reason, refused.detail))
                continue
            strip.paste(image, (0, rules.height * len(facts)))
            facts.append((number, width, height, mode))
    pixels = np.asarray(strip).reshape(-1, *rules.shape)[: len(facts)]
    light = luminance(pixels, rules.mode)
    measures = measure(light) if facts else {}
    verdicts = reasons(measures, filters) if facts else []
    measures |= {"perceptual_hash": perceptual_hash(light)}
    kept = np.array([not reason for reason, _ in verdicts], bool)
    refused_pixels = {}
    for i in np.flatnonzero(~kept):
        rejected.append((facts[i][0], *verdicts[i]))
        refused_pixels[facts[i][0]] = pixels[i]
    chosen = [fact for fact, keep in zip(facts, kept, strict=True) if keep]
    numbers, widths, heights, modes = (list(column) for column in zip(*chosen, strict=True)) if chosen else ([], [], [], [])
    pixels = pixels[kept] if len(chosen) < len(facts) else pixels
    digests = [hashlib.sha256(image).hexdigest() for image in pixels]
    kept_measures = {name: values[kept] for name, values in measures.items()}
    return Block(pixels, numbers, digests, widths, heights, modes, kept_measures, rejected, refused_pixels)


def decode_here(tasks: Iterable[Task], rules: Rules, filters: Filters) -> Iterator[Block]:
    """All blocks, one after the other, in this process."""
    for task in tasks:
        yield decode_block(task, rules, filters)


def decode_on_ray(tasks: Iterable[Task], rules: Rules, filters: Filters) -> Iterator[Block]:
    """All blocks in order, each a Ray task on one processor; the caller is connected to a cluster that sees the archives.

    A decoder that takes its process with it is found by halving its block: the file at fault is rejected as ``decoder_crashed``.
    """
    import ray
    from ray.exceptions import NodeDiedError, OutOfMemoryError, WorkerCrashedError

    remote = ray.remote(num_cpus=1, max_retries=0)(decode_block)
    limit = IN_FLIGHT * max(1, int(ray.cluster_resources().get("CPU", os.cpu_count() or 1)))
    waiting: deque = deque()

    def answers(task: Task, reference: Any) -> Iterator[Block]:
        try:
            block: Block = ray.get(reference)
            yield block
        except (WorkerCrashedError, OutOfMemoryError, NodeDiedError) as error:
            if len(task.names) == 1:
                empty = np.empty((0, *rules.shape), np.uint8)
                yield Block(empty, rejected=[(task.numbers[0], "decoder_crashed", type(error).__name__)])
                return
            for half in task.halves():
                yield from answers(half, remote.remote(half, rules, filters))

    for task in tasks:
        waiting.append((task, remote.remote(task, rules, filters)))
        if len(waiting) > limit:
            yield from answers(*waiting.popleft())
    while waiting:
        yield from answers(*waiting.popleft())
