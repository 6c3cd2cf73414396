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
from vae.images import to_model_range
from vae.order import Windows, stream_indices

RESIDENT_SHARE = 0.25  # of an accelerator's free memory: a data set up to this lies there from the start
RESIDENT_BYTES = 2**26  # likewise in a processor's own: to read its rows one by one takes 2 to 4 % of a small network's step
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

    Data that fit stay on the device. Else a batch is one gather from the shards; for an accelerator the next rows (those asked for
    at the last step, one step on) are gathered into pinned memory meanwhile.
    """

    def __init__(
        self, images: ImageShards, config: FitConfig, device: torch.device, augment: OnTheFly | None, labelled: bool = False
    ) -> None:
        self._images, self._config, self._device, self._augment, self._labelled = images, config, device, augment, labelled
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
        elif accelerated:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")
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

    def _gather(self, step: int, rows: slice) -> Tensor:
        return torch.from_numpy(self._images.gather(self._stream(step, rows)[0])).pin_memory()

    def _rows(self, step: int, rows: slice) -> Tensor:
        if self._thread is None:
            return self._at(self._stream(step, rows)[0])
        ready = self._ahead.pop((step, rows.start, rows.stop), None)
        found = ready.result() if ready else self._gather(step, rows)
        self._ahead[step + 1, rows.start, rows.stop] = self._thread.submit(self._gather, step + 1, rows)
        return found.to(self._device, non_blocking=True)

    def _at(self, indices: np.ndarray) -> Tensor:
        """uint8 (N, H, W, C) of these images, on the device."""
        if self._resident is not None:
            return self._resident[torch.from_numpy(indices).to(self._device)]
        return torch.from_numpy(self._images.gather(indices)).to(self._device)

    def _in_range(self, x_NHWC: Tensor) -> Tensor:
        x_NCHW = to_model_range(x_NHWC)
        if self._config.memory_format == "channels_last":
            return x_NCHW
        # Not contiguous(): one channel is so in both layouts, and convolutions would go by its strides, which say channels_last.
        return x_NCHW.clone(memory_format=torch.contiguous_format)

    @property
    def pixels(self) -> int:
        """Of an image, values counted."""
        return int(np.prod(self._images.image_shape))

    def chosen(self, indices: np.ndarray, copy: int) -> tuple[Tensor, Tensor | None]:
        """As ``batch``, the images of these numbers; augmentation varies them as in epoch ``copy``."""
        x_NHWC = self._at(indices)
        if self._augment is not None:
            x_NHWC = self._augment(x_NHWC, indices, np.full(len(indices), copy), self._config.seed)
        return self._in_range(x_NHWC), self._images.labels(indices, self._device) if self._labelled else None

    def after(self, step: int, rows: slice) -> Tensor:
        """The next frame of each row of ``batch``, likewise; an image that is the last of its film is its own."""
        indices = self._stream(step, rows)[0]
        assert self._images.following_N is not None  # or there would be no loader
        following = self._images.following_N[indices]
        return self._in_range(self._at(np.where(following < 0, indices, following)))

    def batch(self, step: int, rows: slice) -> tuple[Tensor, Tensor | None]:
        """Rows of global batch ``step``: float32 (N, C, H, W) in [-1, 1], varied by the augmentation where there is one.

        And the labels (N,) of a loader that is ``labelled``: others copy none to the device.
        """
        x_NHWC = self._rows(step, rows)
        if self._augment is not None:
            x_NHWC = self._augment(x_NHWC, *self._stream(step, rows), self._config.seed)
        label_N = self._images.labels(self._stream(step, rows)[0], self._device) if self._labelled else None
        return self._in_range(x_NHWC), label_N
