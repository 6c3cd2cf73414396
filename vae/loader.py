"""Training images on their way to the device: whole batches by one gather, uint8 until they are there."""

from __future__ import annotations

import ctypes
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from vae.augment import OnTheFly
from vae.config import FitConfig
from vae.data import ImageShards, stream_indices
from vae.images import to_model_range

RESIDENT_SHARE = 0.25  # of an accelerator's free memory: a data set up to this lies there from the start
BLOCK_IMAGES = 8192
MAPPED_BYTES = 2**28  # mapped pages count as this process's memory: of a larger data set they are given back again and again
FORGET_BYTES = 2**27  # ... after so many bytes
FAULT_BYTES = 2**20  # that Linux maps at once around a place that is read, where the page cache has large folios
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, KEPT_BYTES = -1, -3, 2**30  # glibc's malloc.h


def _keep_freed_memory() -> None:
    """Let this process keep what a step frees for the next one: glibc returns it, and to fault it in anew takes a tenth of a step."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # another C library, another allocator
        return
    mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)


class Loader:
    """Any rows of any global batch in model range; a function of the configuration's seed, the step and the rows alone.

    On an accelerator, data that fit stay there; else the next rows (those asked for at the last step, one step on) are
    gathered into pinned memory meanwhile. On a processor a batch is one gather from the mapped shards.
    """

    def __init__(self, images: ImageShards, config: FitConfig, device: torch.device, augment: OnTheFly | None) -> None:
        self._images, self._config, self._device, self._augment = images, config, device, augment
        self._mapped_bytes, self._resident = 0, None
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: dict[tuple[int, int, int], Future[Tensor]] = {}
        size = len(images) * int(np.prod(images.image_shape))
        self._forgets = size > MAPPED_BYTES
        if device.type == "cuda":
            if size <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
                blocks = [images.slice(start, start + BLOCK_IMAGES) for start in range(0, len(images), BLOCK_IMAGES)]
                self._resident = torch.cat([torch.from_numpy(block).to(device) for block in blocks])
            else:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")
        else:
            _keep_freed_memory()

    def _positions(self, step: int, rows: slice) -> tuple[int, int]:
        start = step * self._config.global_batch_size
        return start + rows.start, start + rows.stop

    def _gather(self, step: int, rows: slice) -> Tensor:
        indices = stream_indices(len(self._images), self._config.seed, *self._positions(step, rows))
        batch = self._images.gather(indices)
        self._mapped_bytes += max(batch.nbytes, len(batch) * FAULT_BYTES)
        if self._forgets and self._mapped_bytes > FORGET_BYTES:
            self._images.forget()
            self._mapped_bytes = 0
        found = torch.from_numpy(batch)
        return found.pin_memory() if self._thread else found

    def _rows(self, step: int, rows: slice) -> Tensor:
        if self._resident is not None:
            indices = stream_indices(len(self._images), self._config.seed, *self._positions(step, rows))
            return self._resident[torch.from_numpy(indices).to(self._device)]
        if self._thread is None:
            return self._gather(step, rows)
        ready = self._ahead.pop((step, rows.start, rows.stop), None)
        found = ready.result() if ready else self._gather(step, rows)
        self._ahead[step + 1, rows.start, rows.stop] = self._thread.submit(self._gather, step + 1, rows)
        return found.to(self._device, non_blocking=True)

    def batch(self, step: int, rows: slice) -> Tensor:
        """Rows of global batch ``step``: float32 (N, C, H, W) in [-1, 1], varied by the augmentation where there is one."""
        x_NHWC = self._rows(step, rows)
        if self._augment is not None:
            start, stop = self._positions(step, rows)
            indices = stream_indices(len(self._images), self._config.seed, start, stop)
            x_NHWC = self._augment(x_NHWC, indices, np.arange(start, stop) // len(self._images), self._config.seed)
        x_NCHW = to_model_range(x_NHWC)
        return x_NCHW if self._config.memory_format == "channels_last" else x_NCHW.contiguous()
