"""Folders as people have them: every file, however odd, ends as accepted, rejected with a reason, or skipped; nothing crashes."""

from __future__ import annotations

import csv
import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import download as download_stage
from pipeline.download import download
from pipeline.paths import INDEX, METRICS, REJECTED, SKIPPED
from pipeline.preprocess import PARAMS, preprocess

LIMITS = {
    "base__image_size": 8,
    "base__mode": "RGB",
    "preprocess__val_fraction": 0.3,
    "preprocess__test_fraction": 0.3,
    "preprocess__max_pixels": 10**7,
}


def saved(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def rgb(seed: int, width: int = 12, height: int = 12) -> Image.Image:
    return Image.fromarray(noise(seed, height, width, 3))


def png_of_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds a compressed stream of zeros for it: small on disk, large when decoded."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    pixels = zlib.compress(bytes((width // 8 + 1) * height), 9)
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def good() -> dict[bytes, bytes]:
    """Odd, and images all the same."""
    deep = Image.fromarray(np.random.default_rng(3).integers(0, 65536, (12, 12)).astype(np.uint16))
    palette = rgb(4).convert("P")
    clear = rgb(5).convert("P")
    clear.info["transparency"] = 3
    frames = [rgb(6), rgb(7)]
    files: dict[bytes, bytes] = {
        b"16 bit.png": saved(deep, "PNG"),
        b"cmyk.jpg": saved(rgb(1).convert("CMYK"), "JPEG"),
        b"palette.png": saved(palette, "PNG"),
        b"clear.png": saved(clear, "PNG", transparency=3),
        b"alpha.webp": saved(Image.fromarray(noise(8, 12, 12, 4)), "WEBP", lossless=True),
        b"animated.gif": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        b"pages.tiff": saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
        b"float.tiff": saved(Image.fromarray(np.random.default_rng(9).normal(size=(12, 12)).astype(np.float32)), "TIFF"),
        b"bilevel.png": saved(rgb(10).convert("1"), "PNG"),
        b"wrong extension.txt": saved(rgb(11), "JPEG"),
        b"no extension": saved(rgb(12), "PNG"),
        b"-rf.png": saved(rgb(13), "PNG"),
        b"quote'\"s.png": saved(rgb(14), "PNG"),
        b"new\nline.png": saved(rgb(15), "PNG"),
        b"carriage\rreturn.png": saved(rgb(150), "PNG"),
        b"caf\xe9-\xff.png": saved(rgb(16), "PNG"),
        b"n" * 251 + b".png": saved(rgb(17), "PNG"),
        "Gr\u00fc\u00dfe \u65e5\u672c.png".encode(): saved(rgb(18), "PNG"),
        b"a,b;c\t.png": saved(rgb(19), "PNG"),
    }
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        files[b"turned-%d.jpg" % orientation] = saved(rgb(20 + orientation, 14, 10), "JPEG", exif=exif)
    return files


def bad() -> dict[bytes, tuple[bytes, str]]:
    """Content and the reason that is due."""
    png = saved(rgb(40), "PNG")
    flipped = bytearray(png)
    flipped[-30] ^= 0xFF
    return {
        b"empty.png": (b"", "empty_file"),
        b"text.png": (b"this is not a picture", "not_an_image"),
        b"page.jpg": (b"<!doctype html><title>404</title>", "not_an_image"),
        b"cut.png": (png[: len(png) // 2], "corrupt"),
        b"cut.jpg": (saved(rgb(41, 64, 64), "JPEG")[:700], "corrupt"),
        b"checksum.png": (bytes(flipped), "corrupt"),
        b"dot.png": (saved(rgb(42, 1, 1), "PNG"), "too_small"),
        b"line.png": (saved(Image.new("L", (60000, 1)), "PNG"), "too_small"),
        b"strip.png": (saved(rgb(43, 600, 9), "PNG"), "extreme_aspect_ratio"),
        b"bomb.png": (png_of_header(12000, 12000), "too_many_pixels"),
        b"icon.ico": (saved(rgb(44, 16, 16), "ICO"), "format_not_allowed"),
        b"vector.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not_an_image"),
        b"archive.png": (b"PK\x03\x04" + bytes(100), "not_an_image"),
        b"zeros.jpg": (bytes(5000), "not_an_image"),
        b"bad\rreturn.jpg": (b"text", "not_an_image"),
        b"head.jpg": (b"\xff\xd8\xff\xe0" + bytes(40), "not_an_image"),
    }


def plant(folder: Path) -> tuple[set[bytes], dict[bytes, str], set[bytes]]:
    """Fill a folder with all of it; returns the names of images, of bad files with their reasons, and of skipped ones."""
    root = os.fsencode(folder)
    os.makedirs(root + b"/empty class")
    images = good() | {b"plain/%d.png" % i: saved(rgb(1000 + i), "PNG") for i in range(40)}
    failures = {name: reason for name, (_, reason) in bad().items()}
    skipped = {b".hidden.png", b"Thumbs.db", b"__MACOSX/._x.png"}
    for name, data in (
        images.items() | {name: data for name, (data, _) in bad().items()}.items() | dict.fromkeys(skipped, b"x").items()
    ):
        os.makedirs(os.path.dirname(root + b"/" + name), exist_ok=True)
        with open(root + b"/" + name, "wb") as stream:
            stream.write(data)
    os.mkfifo(root + b"/fifo.png")
    os.symlink("/etc/passwd", root + b"/link.png")
    os.symlink("nowhere", root + b"/broken.png")
    failures |= {b"fifo.png": "not_a_file", b"link.png": "link", b"broken.png": "link"}
    return set(images), failures, skipped


def shown(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def test_every_odd_file_of_a_folder_is_accounted_for(project, tmp_path):
    images, failures, skipped = plant(tmp_path / "wild")
    assert len(png_of_header(12000, 12000)) < 150_000
    values = project.values(download_stage.PARAMS, download__source="path", download__path=str(tmp_path / "wild"), **LIMITS)
    download(values, project.paths)
    preprocess(project.values(PARAMS, **LIMITS), project.paths)
    index = pd.read_parquet(project.paths.processed / INDEX)
    with (project.paths.processed / REJECTED).open(encoding="utf-8", newline="") as stream:
        rejected = pd.DataFrame(list(csv.DictReader(stream)))
    assert set(index["path"]) == {shown(name) for name in images}
    assert dict(zip(rejected["path"], rejected["reason"], strict=True)) == {shown(n): reason for n, reason in failures.items()}
    assert set(pd.read_csv(project.paths.processed / SKIPPED)["path"]) == {shown(name) for name in skipped}
    metrics = json.loads((project.paths.preprocess_report / METRICS).read_text())
    assert metrics["seen"] == len(images) + len(failures) + len(skipped)
    assert metrics["seen"] == metrics["accepted"] + metrics["rejected"] + metrics["skipped"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_has_its_reason(project, tmp_path):
    (tmp_path / "wild").mkdir()
    for i in range(40):
        (tmp_path / "wild" / f"{i}.png").write_bytes(saved(rgb(i), "PNG"))
    (tmp_path / "wild" / "0.png").chmod(0)
    values = project.values(download_stage.PARAMS, download__source="path", download__path=str(tmp_path / "wild"), **LIMITS)
    download(values, project.paths)
    preprocess(project.values(PARAMS, **LIMITS), project.paths)
    rejected = pd.read_csv(project.paths.processed / REJECTED)
    assert list(rejected["reason"]) == ["unreadable"]


SAVERS: dict[str, Callable[[int], bytes]] = {
    "png": lambda i: saved(rgb(i, 20, 16), "PNG"),
    "png16": lambda i: saved(Image.fromarray(noise(i, 16, 20).astype(np.uint16) * 257), "PNG"),
    "palette": lambda i: saved(rgb(i, 20, 16).convert("P"), "PNG", transparency=1),
    "jpeg": lambda i: saved(rgb(i, 20, 16), "JPEG", progressive=bool(i % 2)),
    "cmyk": lambda i: saved(rgb(i, 20, 16).convert("CMYK"), "JPEG"),
    "gif": lambda i: saved(rgb(i, 20, 16), "GIF", save_all=True, append_images=[rgb(i + 1, 20, 16)]),
    "tiff": lambda i: saved(
        rgb(i, 20, 16), "TIFF", compression=("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")[i % 5]
    ),
    "bmp": lambda i: saved(rgb(i, 20, 16), "BMP"),
    "webp": lambda i: saved(rgb(i, 20, 16), "WEBP", lossless=bool(i % 2)),
    "ppm": lambda i: saved(rgb(i, 20, 16), "PPM"),
}


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut, flipped, grown, spliced or with an odd header: what disks, networks and people do to files."""
    kind, changed = rng.integers(5), bytearray(data)
    if kind == 0:
        return data[: rng.integers(len(data))]
    if kind == 1:
        for place in rng.integers(0, len(data), rng.integers(1, 12)):
            changed[place] = rng.integers(256)
    elif kind == 2:
        for place in rng.integers(0, min(64, len(data)), rng.integers(1, 6)):
            changed[place] = rng.choice([0, 0xFF, 0x7F, rng.integers(256)])
    elif kind == 3:
        start, length = rng.integers(len(data)), rng.integers(1, 64)
        changed[start:start] = bytes(rng.integers(0, 256, length, np.uint8))
    else:
        start = rng.integers(len(data))
        del changed[start : start + int(rng.integers(1, 64))]
    return bytes(changed)


def test_two_thousand_damaged_files_all_get_an_answer(project):
    rng, files = np.random.default_rng(7), {}
    for i in range(2000):
        form = list(SAVERS)[i % len(SAVERS)]
        files[f"{form}/{i}"] = damaged(SAVERS[form](i), rng)
    files |= {f"plain/{i}.png": saved(rgb(5000 + i), "PNG") for i in range(40)}
    project.raw(files)
    preprocess(project.values(PARAMS, **LIMITS), project.paths)
    index = pd.read_parquet(project.paths.processed / INDEX)
    rejected = pd.read_csv(project.paths.processed / REJECTED, keep_default_na=False)
    skipped = pd.read_csv(project.paths.processed / SKIPPED)
    assert sorted([*index["path"], *rejected["path"], *skipped["path"]]) == sorted(files)
    assert (rejected["reason"] != "").all() and len(rejected) > 500
    assert {f"plain/{i}.png" for i in range(40)} <= set(index["path"])
