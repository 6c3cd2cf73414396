"""Named data sets by their canonical addresses and published checksums; a mirror may serve the same files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

from pipeline.errors import BadDataError, InputMissingError, PipelineError, UnavailableError
from pipeline.raw import RawWriter, Unreadable
from pipeline.sources.archive import Limits
from pipeline.sources.arrays import idx_pair, pack_cifar, pack_svhn, write_images
from pipeline.sources.cloud import Cloud, is_cloud
from pipeline.sources.content import checksum_problem
from pipeline.sources.fetch import Fetcher, passing
from pipeline.sources.gather import settings_of
from pipeline.sources.path import limits_of

DIGITS = tuple("0123456789")
CLOTHES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle_boot")
KUZUSHIJI = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Entry:
    """One data set: where its files lie, their names with checksums, and what reads them (files by name, writer, limits)."""

    address: str
    files: dict[str, str]
    read: Callable[[dict[str, Path], RawWriter, Limits], None]


def _idx(names: tuple[str, ...]) -> Callable[[dict[str, Path], RawWriter, Limits], None]:
    def read(files: dict[str, Path], writer: RawWriter, _: Limits) -> None:
        pairs = {
            split: idx_pair(files[f"{stem}-images-idx3-ubyte.gz"], files[f"{stem}-labels-idx1-ubyte.gz"], len(names))
            for split, stem in (("train", "train"), ("test", "t10k"))
        }
        for split, (images, labels) in pairs.items():
            write_images(writer, images, labels, split, names)

    return read


def _cifar(files: dict[str, Path], writer: RawWriter, limits: Limits) -> None:
    pack_cifar(files["cifar-10-binary.tar.gz"], writer, limits, CIFAR_CLASSES)


def _svhn(files: dict[str, Path], writer: RawWriter, _: Limits) -> None:
    for split in ("train", "test"):
        pack_svhn(files[f"{split}_32x32.mat"], writer, split)


def _mnist_like(address: str, sums: tuple[str, str, str, str], names: tuple[str, ...]) -> Entry:
    files = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
    return Entry(address, {file: f"md5:{md5}" for file, md5 in zip(files, sums, strict=True)}, _idx(names))


# Sums of the MNIST family and of SVHN: torchvision/datasets/mnist.py and svhn.py; of CIFAR-10: the authors' own page
# (cs.toronto.edu/~kriz/cifar.html), for the binary version, which is lossless and holds no pickle.
CATALOGUE = {
    "mnist": _mnist_like(
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        DIGITS,
    ),
    "fashion_mnist": _mnist_like(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        CLOTHES,
    ),
    "kmnist": _mnist_like(
        "http://codh.rois.ac.jp/kmnist/dataset/kmnist",
        (
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
        ),
        KUZUSHIJI,
    ),
    "cifar10": Entry(
        "https://www.cs.toronto.edu/~kriz", {"cifar-10-binary.tar.gz": "md5:c32a1d4ab5d03f1284b67883e8d87530"}, _cifar
    ),
    "svhn": Entry(
        "http://ufldl.stanford.edu/housenumbers",
        {
            "train_32x32.mat": "md5:e26dedcc434d2e4c54c9b2d4a06d8373",
            "test_32x32.mat": "md5:eb5a983be6a315427106f1b164d9cef3",
        },
        _svhn,
    ),
}


def local_path(place: str) -> Path | None:
    """The folder or file that a path or a file:// address names; None for an address elsewhere."""
    if place.startswith("file://"):
        return Path(unquote(urlsplit(place).path))
    return None if "://" in place else Path(place).expanduser()


def bring(place: str, checksum: str, values: SimpleNamespace, remedy: str) -> Path:
    """The one file at ``place`` (path, file://, http(s):// or an object store), verified before anybody opens it."""
    local = local_path(place)
    if local is not None:
        if not local.is_file():
            raise InputMissingError(f"{local} does not exist: {remedy}")
        if problem := checksum_problem(local, checksum):
            raise BadDataError(f"{local} is not the file that was asked for: {problem}")
        return local
    keep, most_bytes = values.work / "fetch", limits_of(values).total_bytes
    try:
        if is_cloud(place):
            return Cloud(keep).fetch(place, checksum, most_bytes)
        with Fetcher(keep, settings_of(values)) as fetcher:
            return fetcher.fetch(place, checksum, most_bytes, patient=True)
    except Unreadable as error:
        kind: type[PipelineError] = UnavailableError if passing(error.reason) else BadDataError
        if error.reason in ("http_404", "http_410", "not_found"):
            kind = InputMissingError
        raise kind(f"{error.detail} ({error.reason}): {remedy}") from None


def pack(values: SimpleNamespace, writer: RawWriter, catalogue: dict[str, Entry] = CATALOGUE) -> None:
    """Bring the data set ``download.name``, all its files verified before the first is read."""
    download = values.download
    entry = catalogue[download.name]
    base = f"{download.mirror.rstrip('/')}/{download.name}" if download.mirror else entry.address
    remedy = f"name a folder or address with {download.name}/{next(iter(entry.files))} in download.mirror, or try again later"
    files = {name: bring(f"{base}/{name}", checksum, values, remedy) for name, checksum in entry.files.items()}
    entry.read(files, writer, limits_of(values))
