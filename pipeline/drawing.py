"""Pictures drawn in a process of their own while a stage works on.

To load matplotlib and to draw take as long as to pack 100,000 images.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from threading import Thread
from typing import Any

from pipeline import plots
from pipeline.stage import die_with_parent

Drawing = tuple[Callable[..., None], tuple[Any, ...]]  # a function of pipeline.plots, and its arguments
Draw = Callable[[list[Drawing]], None]


def _begin(parent: int) -> None:
    """Load what will be needed, before there is anything to draw; and end with the stage, however that ends."""
    die_with_parent()
    if os.getppid() != parent:  # it ended before that was settled
        os._exit(1)
    plots.load()


def _here(drawings: list[Drawing]) -> None:
    for function, arguments in drawings:
        function(*arguments)


@contextmanager
def drawn(beside: bool) -> Iterator[Draw]:
    """Yield ``draw``, to be called once: it draws all at once, or else ``beside``. When the block has ended well, all are drawn.

    Raises what a function raised, at the end of the block where it is drawn beside; that is on Linux alone, for elsewhere a process
    would stay when the stage is killed.
    """
    if not beside or sys.platform != "linux":
        yield _here
        return
    process = ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin, initargs=(os.getpid(),))
    end = Thread(target=process.shutdown)  # it waits until the process is gone, and the stage goes on meanwhile
    try:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for the stage to answer: not twice
        try:
            promised: list[Future[Any]] = [process.submit(os.getpid)]  # the first call, whichever, starts the process
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

        def draw(drawings: list[Drawing]) -> None:
            promised.extend(process.submit(function, *arguments) for function, arguments in drawings)
            end.start()

        yield draw
        for each in promised:
            each.result()
    finally:
        if end.ident is None:
            end.start()
        end.join()
