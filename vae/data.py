"""Image shards: uint8 NHWC ``.npy`` files, written in order and read in any. No torch here but for labels: whoever packs needs none."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from vae.shard_cache import ShardCache

if TYPE_CHECKING:
    import torch

SHARD_NAME = "shard-{:05d}.npy"
LABELS, FOLLOWING = "labels.npy", "following.npy"
OPEN_FILES = 256  # at once, of a data set: a process may often have 1024


class ShardWriter:
    """Writes images in order into shards of ``shard_images`` under ``directory``, and tells ``finished`` of each that is whole."""

    def __init__(
        self,
        directory: Path,
        image_shape: tuple[int, int, int],
        shard_images: int,
        finished: Callable[[Path], object] = lambda path: None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._finished = finished
        self.directory, self.image_shape, self.shard_images = directory, image_shape, shard_images
        self.count = 0
        self._stream: IO[bytes] | None = None  # of the shard that is being filled
        self._in_shard = 0

    def add(self, image_HWC: np.ndarray) -> tuple[str, int]:
        """Append one uint8 (H, W, C) image; returns (shard file name, row in it)."""
        shard, row = divmod(self.count, self.shard_images)
        self.add_all(image_HWC[None])
        return SHARD_NAME.format(shard), row

    def add_all(self, images_NHWC: np.ndarray) -> tuple[list[str], np.ndarray]:
        """Append uint8 (N, H, W, C) images; returns the name of the shard of each, and int64 (N,) its row there."""
        assert images_NHWC.dtype == np.uint8 and images_NHWC.shape[1:] == self.image_shape, (images_NHWC.dtype, images_NHWC.shape)
        shards, rows = np.divmod(np.arange(self.count, self.count + len(images_NHWC)), self.shard_images)
        start = 0
        while start < len(images_NHWC):
            if self._stream is None:
                self._stream = (self.directory / SHARD_NAME.format(self.count // self.shard_images)).open("wb")
                self._write_header()
            part = np.ascontiguousarray(images_NHWC[start : start + self.shard_images - self._in_shard])
            self._stream.write(part.data.cast("B"))
            self._in_shard += len(part)
            self.count += len(part)
            start += len(part)
            if self._in_shard == self.shard_images:
                self.close()
        return [SHARD_NAME.format(shard) for shard in shards], rows

    def _write_header(self) -> None:
        """Of a shard of ``_in_shard`` images: numpy pads it, so that a larger number needs no more room."""
        assert self._stream is not None
        header = {"descr": "|u1", "fortran_order": False, "shape": (self._in_shard, *self.image_shape)}
        # Not np.save: on a full disk it raises an OSError that does not say so.
        np.lib.format.write_array_header_1_0(self._stream, header)

    def close(self) -> None:
        """Finish the shard that is being filled, if there is one."""
        if self._stream is not None:
            self._stream.seek(0)
            self._write_header()
            self._stream.close()
            self._finished(Path(self._stream.name))
            self._stream, self._in_shard = None, 0


def evenly(total: int, count: int) -> np.ndarray:
    """``count`` of ``total`` places (or all, where there are fewer) at equal distances, first and last among them."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(np.int64)


def _save(path: Path, values_N: np.ndarray) -> None:
    content = io.BytesIO()
    np.save(content, values_N, allow_pickle=False)
    path.write_bytes(content.getvalue())  # not np.save: on a full disk its OSError does not say so


def save_labels(directory: Path, labels_N: np.ndarray) -> None:
    """Write the class number of each image beside its shards; -1 where it is not known."""
    _save(directory / LABELS, labels_N.astype(np.int32))


def save_following(directory: Path, rows_N: np.ndarray) -> None:
    """Write, of each image, the number of the one that is the next frame of its film, beside its shards; -1 after the last."""
    _save(directory / FOLLOWING, rows_N.astype(np.int64))


class _Opened:
    """A file that is open as long as somebody holds it: a thread may read while another one has closed it for itself."""

    def __init__(self, path: Path, cache: ShardCache | None) -> None:
        self._path, self._descriptor = path, os.open(path, os.O_RDONLY) if cache is None else cache.open(path)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def read_into(self, rows: memoryview, place: int) -> None:
        """Fill ``rows`` with the bytes from ``place`` on; OSError where the file ends before."""
        while rows:  # a read may be cut at 2 GiB
            count = os.preadv(self._descriptor, [rows], place)
            if not count:
                raise OSError(f"{self._path} ends before byte {place}, which its header promises: make it anew")
            rows, place = rows[count:], place + count


class ImageShards:
    """Read-only view of all shards in the given directories as one array (n, H, W, C); nothing is read until asked for.

    Images are read, not mapped: around one image of a mapped file Linux maps up to megabytes, and all of them count as the memory
    of this process until somebody else needs it. ``labels_N`` is the class number of each (-1: not known), int64; None where a
    directory has none. ``following_N`` likewise: the next frame of each (-1: there is none). With a ``cache`` (``cached``), images
    are read from copies of the shards on this machine's own disk.
    """

    def __init__(self, *directories: Path, cache: ShardCache | None = None) -> None:
        paths = [path for directory in directories for path in sorted(directory.glob("shard-*.npy"))]
        if not paths:
            raise ValueError(f"no shards in {', '.join(map(str, directories))}: run the stage that writes them")
        shards = [np.load(path, mmap_mode="r", allow_pickle=False) for path in paths]  # headers and lengths are looked at
        shapes = {shard.shape[1:] for shard in shards}
        if len(shapes) != 1 or any(shard.dtype != np.uint8 for shard in shards):
            raise ValueError(f"shards of different shapes or types in {', '.join(map(str, directories))}: {sorted(shapes)}")
        self.image_shape: tuple[int, int, int] = shapes.pop()
        self._headers = np.array([getattr(shard, "offset", 0) for shard in shards])  # an empty shard is not mapped
        self._ends = np.cumsum([len(shard) for shard in shards])
        self._starts = np.concatenate([[0], self._ends[:-1]])
        self.cached, self._open = cache is not None, lambda shard: _Opened(paths[shard], cache)
        self._opened = lru_cache(OPEN_FILES)(self._open)
        folders = list(dict.fromkeys(path.parent for path in paths))
        labels = self._beside(folders, LABELS)
        self.labels_N = None if labels is None else np.concatenate(labels).astype(np.int64)
        following = self._beside(folders, FOLLOWING)
        self.following_N: np.ndarray | None = None
        if following is not None:  # each counts from its own folder's first image
            firsts = np.repeat(np.cumsum([0, *map(len, following[:-1])]), [len(each) for each in following])
            rows_N = np.concatenate(following)
            self.following_N = np.where(rows_N < 0, -1, rows_N + firsts)

    def _beside(self, folders: list[Path], name: str) -> list[np.ndarray] | None:
        """What each folder's file of this name says of its images; None where one has none."""
        files = [folder / name for folder in folders]
        if not all(path.exists() for path in files):
            return None
        found = [np.load(path, allow_pickle=False) for path in files]
        count, kind = sum(map(len, found)), name.partition(".")[0]
        if count != len(self):
            raise ValueError(f"{count} {kind} of {len(self)} images in {', '.join(map(str, files))}: make them anew")
        return found

    @property
    def lengths(self) -> list[int]:
        """The number of images in each shard."""
        return (self._ends - self._starts).tolist()

    def fetch(self, shard: int) -> None:
        """Let the cache have this shard, for a later reader."""
        self._open(shard)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """Images (len(indices), H, W, C) in the order asked for."""
        out, image_bytes = np.empty((len(indices), *self.image_shape), np.uint8), int(np.prod(self.image_shape))
        if not len(indices):
            return out
        if indices.min() < 0 or indices.max() >= len(self):
            raise IndexError(f"images {indices.min()} to {indices.max()} of {len(self)}")
        shards = np.searchsorted(self._ends, indices, side="right")
        places = self._headers[shards] + (indices - self._starts[shards]) * image_bytes
        # Neighbours that are asked for one after the other are one read.
        apart = np.flatnonzero((np.diff(shards) != 0) | (np.diff(places) != image_bytes)) + 1
        starts, stops = [0, *apart.tolist()], [*apart.tolist(), len(indices)]
        # Copies of a cache stay open no longer than they are read: what is open is still on the disk after it has been removed.
        opened, rows = lru_cache(None)(self._open) if self.cached else self._opened, out.reshape(-1).data
        for start, stop, shard, place in zip(starts, stops, shards[starts].tolist(), places[starts].tolist(), strict=True):
            opened(shard).read_into(rows[start * image_bytes : stop * image_bytes], place)
        return out

    def labels(self, indices: np.ndarray, device: torch.device | None = None) -> torch.Tensor | None:
        """The class numbers of these images, int64, or None where they are not known."""
        if self.labels_N is None:
            return None
        import torch

        return torch.from_numpy(self.labels_N[indices]).to(device)

    def slice(self, start: int, stop: int) -> np.ndarray:
        """Images start..stop (clipped to the end) in stored order."""
        return self.gather(np.arange(start, min(stop, len(self))))

    def places(self, count: int) -> np.ndarray:
        """``count`` indices (or all, where there are fewer) at equal distances: stored order is by folder, so a head is no sample."""
        return evenly(len(self), count)

    def spread(self, count: int) -> np.ndarray:
        """The images at ``places(count)``."""
        return self.gather(self.places(count))

    def labelled(self, count: int) -> tuple[np.ndarray, torch.Tensor | None]:
        """The images at ``places(count)`` and their labels."""
        return self.spread(count), self.labels(self.places(count))


class Selection:
    """Images at ``places`` of a set, (N, H, W, C) uint8, read as they are sliced: more of them than a machine should hold at once."""

    def __init__(self, images: ImageShards, places: np.ndarray) -> None:
        self._images, self._places = images, places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As of the array that it stands for."""
        return len(self), *self._images.image_shape

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self._images.gather(self._places[rows])


def check_labels(images: ImageShards, classes: int) -> None:
    """ValueError where a model with so many classes (0: none) cannot be told the class of every image."""
    if not classes:
        return
    labels_N = images.labels_N
    unknown = len(images) if labels_N is None else int(((labels_N < 0) | (labels_N >= classes)).sum())
    if unknown:
        raise ValueError(
            f"{unknown} of {len(images)} images have none of the {classes} classes: label all, or train without classes"
        )
