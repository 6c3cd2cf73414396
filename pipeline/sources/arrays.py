"""Reads data sets that are arrays (IDX, CIFAR binary, SVHN .mat, .npz) and hands their images on as lossless PNGs.

Every reader is strict: a wrong magic number, size, type or label is BadDataError, and nothing is ever unpickled.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from pipeline.console import progress
from pipeline.errors import BadDataError
from pipeline.raw import RawWriter
from pipeline.sources.archive import ARCHIVE_ERRORS, MEMBER_ERRORS, MOST_RATIO, RATIO_FREE_BYTES, Limits, read_tar
from pipeline.sources.matlab import read_mat

MOST_ARRAY_BYTES = 2**33  # an array is held in memory
CIFAR_RECORD = 1 + 3 * 32 * 32
CIFAR_MEMBERS = {f"data_batch_{number}.bin": "train" for number in range(1, 6)} | {"test_batch.bin": "test"}
NPZ_SPLITS = {"train": "train", "val": "val", "test": "test"}


def bad(origin: Path, why: str) -> BadDataError:
    return BadDataError(f"{origin.name} is {why}: fetch it anew ({origin})")


def write_images(
    writer: RawWriter, images: np.ndarray, labels: np.ndarray | None, split: str, names: Sequence[str] = (), start: int = 0
) -> None:
    """uint8 ``images`` (N, H, W) or (N, H, W, 3) as PNGs named split/label/number, ``start`` being the first number."""
    label = ""
    for number, image in enumerate(progress(images, len(images), "images", f"packing {split}".rstrip()), start=start):
        if labels is not None:
            index = int(labels[number - start])
            label = names[index] if names else str(index)
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG", compress_level=1)
        folders = "/".join(part for part in (split, label.replace("/", "-")) if part)
        writer.add(f"{folders}/{number:07d}.png".lstrip("/"), buffer.getvalue(), label=label, split=split)


def read_idx(origin: Path, dimensions: int) -> np.ndarray:
    """A gzipped IDX file of unsigned bytes with so many dimensions (LeCun's format: magic, sizes, then the values)."""
    try:
        with gzip.open(origin) as stream:
            head = stream.read(4 + 4 * dimensions)
            if head[:4] != bytes((0, 0, 8, dimensions)):
                raise bad(origin, f"no IDX file of {dimensions} dimensions of bytes (magic number {head[:4].hex()})")
            if len(head) < 4 + 4 * dimensions:
                raise bad(origin, "cut short within its header")
            shape = struct.unpack(f">{dimensions}I", head[4:])
            expected = math.prod(shape)
            if expected > MOST_ARRAY_BYTES or 0 in shape:
                raise bad(origin, f"of an impossible shape {shape}")
            body = _exactly(stream, expected)
    except (OSError, EOFError, zlib.error) as error:
        raise bad(origin, f"no whole gzip file ({error})") from None
    if len(body) != expected:
        raise bad(origin, f"not what its header says: {expected} values, found {'more' if len(body) > expected else len(body)}")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _exactly(stream: IO[bytes] | gzip.GzipFile, length: int) -> bytes:
    """``length`` bytes, or fewer at an early end, or one more where there are more; memory follows what is really there."""
    blocks, left = [], length + 1
    while left and (block := stream.read(min(left, 2**20))):
        blocks.append(block)
        left -= len(block)
    return b"".join(blocks)


def idx_pair(images: Path, labels: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W) and their labels (N,), checked against each other."""
    pictures, numbers = read_idx(images, 3), read_idx(labels, 1)
    if len(pictures) != len(numbers):
        raise bad(labels, f"of {len(numbers)} labels for {len(pictures)} images")
    if numbers.max() >= classes:
        raise bad(labels, f"with a label {numbers.max()}, of {classes} classes")
    return pictures, numbers


def pack_cifar(origin: Path, writer: RawWriter, limits: Limits, names: Sequence[str]) -> None:
    """The binary version of CIFAR-10: records of a label and 3 x 32 x 32 bytes, planes of red, green, blue."""
    seen: dict[str, int] = {}
    counts = {"train": 0, "test": 0}
    try:
        for path, stream in read_tar(origin, limits):
            member = path.rpartition("/")[2]
            if member not in CIFAR_MEMBERS:
                continue
            data = stream.read()
            if not data or len(data) % CIFAR_RECORD:
                raise bad(origin, f"damaged: {member} has {len(data)} bytes, no multiple of {CIFAR_RECORD}")
            records = np.frombuffer(data, np.uint8).reshape(-1, CIFAR_RECORD)
            if records[:, 0].max() >= len(names):
                raise bad(origin, f"damaged: {member} has a label {records[:, 0].max()}, of {len(names)} classes")
            split = CIFAR_MEMBERS[member]
            images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            write_images(writer, images, records[:, 0], split, names, counts[split])
            counts[split] += len(images)
            seen[member] = len(images)
    except ARCHIVE_ERRORS as error:
        raise bad(origin, f"no readable tar archive ({error})") from None
    if missing := sorted(set(CIFAR_MEMBERS) - set(seen)):
        raise bad(origin, f"incomplete: it lacks {', '.join(missing)}")


def pack_svhn(origin: Path, writer: RawWriter, split: str) -> None:
    """The cropped SVHN digits: X of uint8 (32, 32, 3, N), y of (N, 1), in which 10 means the digit 0."""
    try:
        arrays = read_mat(origin, MOST_ARRAY_BYTES)
    except ValueError as error:
        raise bad(origin, f"no readable .mat file: {error}") from None
    if missing := {"X", "y"} - set(arrays):
        raise bad(origin, f"no SVHN file: it has no variable {', '.join(sorted(missing))}")
    images, labels = arrays["X"], arrays["y"].ravel()
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[2] != 3 or not len(labels) == images.shape[3] > 0:
        raise bad(origin, f"no SVHN file: X is {images.dtype} {images.shape}, y {arrays['y'].shape}")
    if not np.isin(labels, np.arange(1, 11)).all():
        raise bad(origin, "no SVHN file: its labels are not 1 to 10")
    write_images(writer, images.transpose(3, 0, 1, 2), labels.astype(int) % 10, split)


def _npz_members(origin: Path) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and type of every array, from the headers alone."""
    found = {}
    with zipfile.ZipFile(origin) as archive:
        for info in archive.infolist():
            with archive.open(info) as stream:
                version = np.lib.format.read_magic(stream)
                header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
                shape, _, kind = header(stream)
                found[info.filename.removesuffix(".npy")] = (shape, kind)
    return found


def _npz_pairs(names: set[str]) -> list[tuple[str, str, str]]:
    """(images, labels or '', split) of the layouts in use: x_train/y_train, train_images/train_labels, images/labels."""
    pairs = []
    for images, labels in (("x_{}", "y_{}"), ("{}_images", "{}_labels")):
        for split in NPZ_SPLITS:
            if images.format(split) in names:
                pairs.append((images.format(split), labels.format(split), split))
    for images, labels in (("images", "labels"), ("x", "y"), ("arr_0", "")):
        if not pairs and images in names:
            pairs.append((images, labels, ""))
    return [(images, labels if labels in names else "", split) for images, labels, split in pairs]


def npz_shapes(origin: Path) -> list[tuple[int, ...]]:
    """The shapes of the arrays that are images, from their headers alone; BadDataError."""
    try:
        members = _npz_members(origin)
    except (*MEMBER_ERRORS, KeyError) as error:
        raise bad(origin, f"no readable .npz file ({' '.join(str(error).split())[:100]})") from None
    return [members[images][0] for images, _, _ in _npz_pairs(set(members))]


def pack_npz(origin: Path, writer: RawWriter) -> None:
    """Arrays of uint8 images (N, H, W), (N, H, W, 1) or (N, H, W, 3), and labels (N,) or (N, 1) of whole numbers."""
    try:
        members = _npz_members(origin)
        pairs = _npz_pairs(set(members))
        if not pairs:
            raise bad(origin, f"without arrays that are known as images (x_train, train_images, images, x): {', '.join(members)}")
        with np.load(origin, allow_pickle=False) as arrays:
            for images_name, labels_name, split in pairs:
                shape, kind = members[images_name]
                if kind != np.uint8 or len(shape) not in (3, 4) or shape[3:] not in ((), (1,), (3,)) or 0 in shape:
                    raise bad(origin, f"without images in {images_name}: {kind} {shape} is not uint8 (N, H, W) or (N, H, W, 3)")
                if math.prod(shape) > min(MOST_ARRAY_BYTES, RATIO_FREE_BYTES + MOST_RATIO * origin.stat().st_size):
                    raise bad(origin, f"refused for {images_name}: {shape} is too large for memory, or unpacks as bombs do")
                labels = None
                if labels_name:
                    labels_shape, labels_kind = members[labels_name]
                    if labels_kind.kind not in "iu" or math.prod(labels_shape) != shape[0]:
                        raise bad(origin, f"without a label for each image: {labels_name} is {labels_kind} {labels_shape}")
                    labels = arrays[labels_name].ravel()
                images = arrays[images_name]
                write_images(writer, images[..., 0] if shape[3:] == (1,) else images, labels, split)
    except (*MEMBER_ERRORS, KeyError) as error:
        raise bad(origin, f"no readable .npz file ({' '.join(str(error).split())[:100]})") from None
