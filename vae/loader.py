"""Training images on their way to the device: whole batches by one gather, uint8 until they are there."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from vae.augment import OnTheFly
from vae.config import FitConfig
from vae.data import ImageShards
from vae.files import DamagedError
from vae.images import LAYOUTS, to_model_range
from vae.order import Windows, stream_indices

RESIDENT_SHARE = 0.25  # of an accelerator's free memory: a data set up to this lies there from the start
RESIDENT_BYTES = 2**26  # likewise in a processor's own
# Read in one go: after a step nothing of this is in the processor's caches, and the rows of one batch alone take three times as long.
AHEAD_STEPS, AHEAD_BYTES = 8, 2**21
BLOCK_IMAGES = 8192
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, KEPT_BYTES = -1, -3, 2**30  # glibc's malloc.h


def _keep_freed_memory() -> None:
    """Let this process keep what a step frees for the next one: glibc returns it, and to fault it in anew takes a tenth of a step."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # another C library, another allocator
        return
    mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)


def _quietly(fetch: Callable[[int], None], shards: list[int]) -> None:
    with suppress(OSError, DamagedError):
        for shard in shards:
            fetch(shard)


class Loader:
    """Any rows of any global batch in model range; a function of the configuration's seed, the step and the rows alone.

    Data that fit stay on the device. Else a thread gathers the rows of a block of steps from the shards (for an accelerator into
    pinned memory) while the block before is trained on.
    """

    def __init__(
        self, images: ImageShards, config: FitConfig, device: torch.device, augment: OnTheFly | None, labelled: bool = False
    ) -> None:
        self._images, self._config, self._device, self._augment, self._labelled = images, config, device, augment, labelled
        self._layout = LAYOUTS[config.memory_format]
        self._resident: Tensor | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: dict[tuple[int, int, int], Future[Tensor]] = {}
        self._windows = Windows(images.lengths, config.seed, config.shuffle_images) if config.shuffle_images else None
        self._coming: tuple[int, int] | None = None  # the window whose shards are on their way into the cache
        if config.smoothness and (images.following_N is None or augment is not None):
            raise ValueError(
                "fit.smoothness is about neighbouring frames, which these images are not known to be: set preprocess.split_by to folder, "
                "augment.copies to 0 and augment.on_the_fly to false, or fit.smoothness to 0"
            )
        if augment is not None and len(augment.keys) != len(images):
            raise ValueError(
                f"{len(augment.keys)} keys for {len(images)} training images: give the keys of these shards, in their order"
            )
        accelerated = device.type == "cuda"
        room = RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0] if accelerated else RESIDENT_BYTES
        if len(images) * self.pixels <= room:
            self._resident = torch.empty((len(images), *images.image_shape), dtype=torch.uint8, device=device)
            for start in range(0, len(images), BLOCK_IMAGES):
                block = images.slice(start, start + BLOCK_IMAGES)
                self._resident[start : start + len(block)] = torch.from_numpy(block)
        else:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")
            self._steps = max(1, min(AHEAD_STEPS, AHEAD_BYTES // (config.global_batch_size * self.pixels)))
        if not accelerated:
            _keep_freed_memory()

    def _stream(self, step: int, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """int64 (N,) index of each image in the data set, and the epoch that it is shown in."""
        first = step * self._config.global_batch_size
        start, stop = first + rows.start, first + rows.stop
        epochs = np.arange(start, stop) // len(self._images)
        if self._windows is None:
            return stream_indices(len(self._images), self._config.seed, start, stop), epochs
        self._fetch(self._windows.after(*self._windows.at(start)))
        return self._windows.indices(start, stop), epochs

    def _fetch(self, window: tuple[int, int]) -> None:
        """Let the cache have the shards of a window before they are wanted."""
        if self._windows is None or not self._images.cached or window == self._coming:
            return
        self._coming, shards = window, self._windows.shards(*window)
        # Whoever wants a shard that is not there yet, or is damaged, brings it, or fails, by itself.
        threading.Thread(target=_quietly, args=(self._images.fetch, shards), name="fetching", daemon=True).start()

    def _gather(self, block: int, rows: slice) -> Tensor:
        """uint8 (steps, N, H, W, C): these rows of each batch of a block of neighbouring steps."""
        steps = range(block * self._steps, (block + 1) * self._steps)
        found = torch.from_numpy(self._images.gather(np.concatenate([self._stream(step, rows)[0] for step in steps])))
        found = found.unflatten(0, (self._steps, -1))
        return found.pin_memory() if self._device.type == "cuda" else found

    def _rows(self, step: int, rows: slice) -> Tensor:
        if self._thread is None:
            return self._at(self._stream(step, rows)[0])
        block, place = divmod(step, self._steps)
        for number in (block, block + 1):
            if (number, rows.start, rows.stop) not in self._ahead:
                self._ahead[number, rows.start, rows.stop] = self._thread.submit(self._gather, number, rows)
        found = self._ahead[block, rows.start, rows.stop].result()[place]
        if place == self._steps - 1:
            del self._ahead[block, rows.start, rows.stop]
        return found.to(self._device, non_blocking=True)

    def _at(self, indices: np.ndarray) -> Tensor:
        """uint8 (N, H, W, C) of these images, on the device."""
        if self._resident is not None:
            return self._resident.index_select(0, torch.from_numpy(indices).to(self._device))
        return torch.from_numpy(self._images.gather(indices)).to(self._device)

    @property
    def pixels(self) -> int:
        """Of an image, values counted."""
        return int(np.prod(self._images.image_shape))

    def chosen(self, indices: np.ndarray, copy: int) -> tuple[Tensor, Tensor | None]:
        """As ``batch``, the images of these numbers; augmentation varies them as in epoch ``copy``."""
        x_NHWC = self._at(indices)
        if self._augment is not None:
            x_NHWC = self._augment(x_NHWC, indices, np.full(len(indices), copy), self._config.seed)
        return to_model_range(x_NHWC, self._layout), self._images.labels(indices, self._device) if self._labelled else None

    def after(self, step: int, rows: slice) -> Tensor:
        """The next frame of each row of ``batch``, likewise; an image that is the last of its film is its own."""
        indices = self._stream(step, rows)[0]
        assert self._images.following_N is not None  # or there would be no loader
        following = self._images.following_N[indices]
        return to_model_range(self._at(np.where(following < 0, indices, following)), self._layout)

    def blank(self, count: int) -> tuple[Tensor, Tensor | None]:
        """What ``batch`` returns for so many rows, of grey images of the first class."""
        x_NHWC = torch.full((count, *self._images.image_shape), 128, dtype=torch.uint8, device=self._device)
        return to_model_range(x_NHWC, self._layout), x_NHWC.new_zeros(count, dtype=torch.int64) if self._labelled else None

    def batch(self, step: int, rows: slice) -> tuple[Tensor, Tensor | None]:
        """Rows of global batch ``step``: float32 (N, C, H, W) in [-1, 1], varied by the augmentation where there is one.

        And the labels (N,) of a loader that is ``labelled``: others copy none to the device.
        """
        x_NHWC = self._rows(step, rows)
        if self._augment is not None:
            x_NHWC = self._augment(x_NHWC, *self._stream(step, rows), self._config.seed)
        label_N = self._images.labels(self._stream(step, rows)[0], self._device) if self._labelled else None
        return to_model_range(x_NHWC, self._layout), label_N


class Blank:
    """In a loader's place, grey images of the first class: for a pass whose gradients nobody takes."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def batch(self, _step: int, rows: slice) -> tuple[Tensor, Tensor | None]:
        """What ``Loader.batch`` returns, in shape and layout."""
        return self._loader.blank(rows.stop - rows.start)

    def after(self, _step: int, rows: slice) -> Tensor:
        """What ``Loader.after`` returns, likewise."""
        return self._loader.blank(rows.stop - rows.start)[0]
