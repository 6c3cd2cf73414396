"""Catalogue, remote files, array readers, digits: small synthetic files in the real formats, verified before they are opened."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import struct
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pandas as pd
import pytest
import scipy.io
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.download import PARAMS, download
from pipeline.errors import BadDataError, InputMissingError, PipelineError, UnavailableError
from pipeline.raw import RawWriter, read_failures, read_files
from pipeline.sections import SECTIONS
from pipeline.sources import arrays, catalogue
from pipeline.sources.catalogue import CATALOGUE, Entry
from pipeline.sources.matlab import read_mat
from vae.files import MANIFEST
from web_server import Site, cut, in_turn, ranged, status

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def site():
    with Site() as opened:
        yield opened


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def idx(array: np.ndarray) -> bytes:
    head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(head + array.tobytes(), 1)


def mnist_files() -> tuple[dict[str, bytes], dict[str, tuple[np.ndarray, np.ndarray]]]:
    truth = {
        "train": (noise(0, 20, 28, 28), np.arange(20, dtype=np.uint8) % 10),
        "test": (noise(1, 10, 28, 28), np.arange(10, dtype=np.uint8)[::-1].copy()),
    }
    files = {}
    for stem, (images, labels) in zip(("train", "t10k"), truth.values(), strict=True):
        files[f"{stem}-images-idx3-ubyte.gz"], files[f"{stem}-labels-idx1-ubyte.gz"] = idx(images), idx(labels)
    return files, truth


def tar_gz(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def cifar_members(count: int = 4) -> tuple[dict[str, bytes], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Records written by hand from the page's description: label, then the planes of red, green and blue, row by row."""
    members, truth = {"batches.meta.txt": b"airplane\n", "readme.html": b"<html>"}, {}
    for number, name in enumerate([*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]):
        images, labels = noise(number, count, 32, 32, 3), (np.arange(count) + number) % 10
        records = [
            bytes([label]) + b"".join(image[:, :, plane].tobytes() for plane in range(3))
            for image, label in zip(images, labels, strict=True)
        ]
        members[name] = b"".join(records)
        split = "test" if name.startswith("test") else "train"
        before = truth.get(split, (images[:0], labels[:0]))
        truth[split] = (np.concatenate([before[0], images]), np.concatenate([before[1], labels]))
    return members, truth


def svhn_files() -> tuple[dict[str, bytes], dict[str, tuple[np.ndarray, np.ndarray]]]:
    files, truth = {}, {}
    for seed, split in enumerate(("train", "test")):
        images, labels = noise(seed, 12, 32, 32, 3), np.arange(12) % 10
        buffer = io.BytesIO()
        stored = {"X": images.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]}
        scipy.io.savemat(buffer, stored, do_compression=True)
        files[f"{split}_32x32.mat"], truth[split] = buffer.getvalue(), (images, labels)
    return files, truth


def synthetic(name: str) -> tuple[dict[str, bytes], dict[str, tuple[np.ndarray, np.ndarray]]]:
    if name == "cifar10":
        members, truth = cifar_members()
        return {"cifar-10-binary.tar.gz": tar_gz(members)}, truth
    return svhn_files() if name == "svhn" else mnist_files()


def planted(monkeypatch, name: str, files: dict[str, bytes], address: str = "") -> None:
    """The catalogue's entry with these files' own sums, and perhaps at another address."""
    entry = CATALOGUE[name]
    assert set(entry.files) == set(files)
    sums = {file: f"md5:{hashlib.md5(data).hexdigest()}" for file, data in files.items()}
    monkeypatch.setitem(CATALOGUE, name, Entry(address or entry.address, sums, entry.read))


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def run(project, **changes: object) -> pd.DataFrame:
    values = project.values(
        PARAMS, **{f"download__{k}": v for k, v in {"attempts": 2, "deadline_seconds": 5.0, **changes}.items()}
    )
    download(values, project.paths)
    assert read_failures(project.paths.raw) == []
    return read_files(project.paths.raw).to_pandas()


def refused(project, **changes: object) -> PipelineError:
    with pytest.raises(PipelineError) as caught:
        run(project, **changes)
    assert "\n" not in str(caught.value) and not project.paths.raw.exists()
    return caught.value


def pixels(project, table: pd.DataFrame) -> np.ndarray:
    found = []
    for number, name in zip(table["archive"], table["path"], strict=True):
        with zipfile.ZipFile(project.paths.raw / f"images-{number:05d}.zip") as archive:
            found.append(np.asarray(Image.open(io.BytesIO(archive.read(name)))))
    return np.stack(found)


def same(project, table: pd.DataFrame, truth: dict[str, tuple[np.ndarray, np.ndarray]], names=None) -> None:
    assert list(table["split"].unique()) == list(truth)
    for split, (images, labels) in truth.items():
        rows = table[table["split"] == split]
        assert list(rows["label"]) == [names[n] if names else str(n) for n in labels]
        np.testing.assert_array_equal(pixels(project, rows), images)
    for path, label, split in zip(table["path"], table["label"], table["split"], strict=True):
        assert path.startswith(f"{split}/{label}/".lstrip("/")) and path.endswith(".png")


NAMES = {"fashion_mnist": catalogue.CLOTHES, "kmnist": catalogue.KUZUSHIJI, "cifar10": catalogue.CIFAR_CLASSES}


@pytest.mark.parametrize("name", list(CATALOGUE))
@pytest.mark.parametrize("kind", ["folder", "file", "http", "canonical"])
def test_catalogue_images_labels_and_splits_are_those_of_the_files(project, site, tmp_path, monkeypatch, name, kind):
    files, truth = synthetic(name)
    mirror = {"folder": str(tmp_path / "mirror"), "file": f"file://{tmp_path}/mirror", "http": site.url("/m/"), "canonical": ""}[
        kind
    ]
    planted(monkeypatch, name, files, site.url(f"/m/{name}"))
    fill(tmp_path / "mirror" / name, files)
    for file, data in files.items():
        site[f"/m/{name}/{file}"] = data
    table = run(project, source="catalogue", name=name, mirror=mirror)
    same(project, table, truth, NAMES.get(name))


def test_catalogue_is_what_the_parameters_offer():
    choices = SECTIONS["download"].__dataclass_fields__["name"].metadata["choices"]
    assert set(choices) == set(CATALOGUE)


def test_catalogue_every_file_has_a_published_sum_and_an_address():
    sums = [checksum for entry in CATALOGUE.values() for checksum in entry.files.values()]
    assert all(len(s.removeprefix("md5:")) == 32 or len(s.removeprefix("sha256:")) == 64 for s in sums)
    assert len(set(sums)) == len(sums)
    assert all(entry.address.startswith(("https://", "http://")) for entry in CATALOGUE.values())


def test_catalogue_wrong_sum_is_refused_before_anything_is_opened(project, tmp_path, monkeypatch):
    files, _ = mnist_files()
    planted(monkeypatch, "mnist", files)
    opened: list[object] = []
    entry = CATALOGUE["mnist"]
    monkeypatch.setitem(CATALOGUE, "mnist", Entry(entry.address, entry.files, lambda *a: opened.append(a)))
    wrong = files | {"t10k-labels-idx1-ubyte.gz": b"other"}
    fill(tmp_path / "mirror/mnist", wrong)
    error = refused(project, source="catalogue", name="mnist", mirror=str(tmp_path / "mirror"))
    assert isinstance(error, BadDataError) and "t10k-labels-idx1-ubyte.gz" in str(error) and "md5" in str(error)
    assert opened == []


def test_catalogue_mirror_without_the_file_is_input_missing(project, site, tmp_path):
    error = refused(project, source="catalogue", name="mnist", mirror=str(tmp_path))
    assert isinstance(error, InputMissingError) and "mnist/train-images-idx3-ubyte.gz" in str(error)
    error = refused(project, source="catalogue", name="mnist", mirror=site.url(""))
    assert isinstance(error, InputMissingError) and "download.mirror" in str(error)


def test_catalogue_without_a_network_is_unavailable_and_names_the_mirror(project, monkeypatch):
    entry = CATALOGUE["kmnist"]
    monkeypatch.setitem(CATALOGUE, "kmnist", Entry("http://127.0.0.1:1/kmnist", entry.files, entry.read))
    error = refused(project, source="catalogue", name="kmnist")
    assert isinstance(error, UnavailableError) and error.exit_code == 69 and "download.mirror" in str(error)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def raw_idx(head: bytes, body: bytes) -> bytes:
    return gzip.compress(head + body)


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "cut short|gzip|magic"),
        (b"no gzip", "gzip"),
        (idx(noise(0, 3, 4, 4))[:-20], "gzip"),
        (raw_idx(bytes((0, 0, 9, 3)), struct.pack(">3I", 1, 2, 2) + bytes(4)), "magic"),
        (raw_idx(bytes((0, 0, 8, 1)), struct.pack(">I", 4) + bytes(4)), "magic"),
        (raw_idx(bytes((0, 0, 8, 3)), b"\0\0"), "cut short"),
        (raw_idx(bytes((0, 0, 8, 3)), struct.pack(">3I", 2, 2, 2) + bytes(7)), "says: 8 values, found 7"),
        (raw_idx(bytes((0, 0, 8, 3)), struct.pack(">3I", 2, 2, 2) + bytes(9)), "found more"),
        (raw_idx(bytes((0, 0, 8, 3)), struct.pack(">3I", 2**32 - 1, 2**32 - 1, 9)), "impossible"),
        (raw_idx(bytes((0, 0, 8, 3)), struct.pack(">3I", 2**12, 2**10, 2**10)), "found 0"),
        (raw_idx(bytes((0, 0, 8, 3)), struct.pack(">3I", 0, 2, 2)), "impossible"),
    ],
)
def test_read_idx_damage_is_bad_data(tmp_path, data, part):
    with pytest.raises(BadDataError, match=part):
        arrays.read_idx(written(tmp_path / "a.gz", data), 3)


def test_idx_pair_of_other_lengths_or_labels_is_bad_data(tmp_path):
    images = written(tmp_path / "images.gz", idx(noise(0, 3, 4, 4)))
    with pytest.raises(BadDataError, match="4 labels for 3"):
        arrays.idx_pair(images, written(tmp_path / "labels.gz", idx(np.zeros(4, np.uint8))), 10)
    with pytest.raises(BadDataError, match="label 10, of 10"):
        arrays.idx_pair(images, written(tmp_path / "labels.gz", idx(np.array([0, 10, 1], np.uint8))), 10)


@pytest.mark.parametrize("fault", ["missing", "short", "label", "cut", "climbing"])
def test_pack_cifar_damage_is_bad_data(project, tmp_path, fault):
    members, _ = cifar_members()
    if fault == "missing":
        del members["data_batch_3.bin"]
    if fault == "short":
        members["data_batch_3.bin"] = members["data_batch_3.bin"][:-1]
    if fault == "label":
        members["data_batch_3.bin"] = b"\x0a" + members["data_batch_3.bin"][1:]
    if fault == "climbing":
        members["../../x.bin"] = b"x"
    data = tar_gz(members)
    origin = written(tmp_path / "cifar.tar.gz", data[: len(data) // 2] if fault == "cut" else data)
    part = {"missing": "lacks data_batch_3.bin", "short": "no multiple", "label": "label 10", "cut": "tar", "climbing": r"\.\."}
    values = SimpleNamespace(download=SimpleNamespace(max_members=100, max_gib=1.0))
    with RawWriter(project.root) as writer, pytest.raises(BadDataError, match=part[fault]):
        arrays.pack_cifar(origin, writer, catalogue.limits_of(values), catalogue.CIFAR_CLASSES)


def mat(**stored: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, stored)
    return buffer.getvalue()


GOOD_X, GOOD_Y = noise(0, 32, 32, 3, 2), np.array([[1], [10]], np.uint8)


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "readable"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "readable"),
        (mat(X=GOOD_X, y=GOOD_Y)[:-2000], "readable|no variable"),
        (mat(y=GOOD_Y, X=GOOD_X)[:-2000], "readable|no variable"),
        (mat(X=GOOD_X), "no variable y"),
        (mat(X=GOOD_X.astype(float), y=GOOD_Y), "float64"),
        (mat(X=GOOD_X[:, :, :2], y=GOOD_Y), "no SVHN"),
        (mat(X=GOOD_X, y=GOOD_Y[:1]), "no SVHN"),
        (mat(X=GOOD_X, y=np.array([[0], [11]], np.uint8)), "1 to 10"),
    ],
)
def test_pack_svhn_damage_is_bad_data(project, tmp_path, data, part):
    with RawWriter(project.root) as writer, pytest.raises(BadDataError, match=part):
        arrays.pack_svhn(written(tmp_path / "a.mat", data), writer, "train")
    assert writer.files == 0


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_read_mat_reads_what_scipy_wrote(tmp_path, compressed, kind):
    rng = np.random.default_rng(0)
    stored = {"long_name_of_an_array": rng.integers(0, 100, (3, 4, 2)).astype(kind), "a": np.arange(1).astype(kind)}
    others = {"text": "abc", "cell": np.array([1, "x"], object), "complex": np.array([1j]), "logical": np.array([True])}
    scipy.io.savemat(tmp_path / "a.mat", stored | others, do_compression=compressed)
    found = read_mat(tmp_path / "a.mat", 2**20)
    expected = scipy.io.loadmat(tmp_path / "a.mat")
    for name in stored:
        np.testing.assert_array_equal(found[name], expected[name])
        assert found[name].dtype == expected[name].dtype
    with pytest.raises(ValueError, match=r"impossible|too large"):
        read_mat(tmp_path / "a.mat", 10)


@pytest.mark.parametrize("compressed", [True, False])
def test_read_mat_any_damage_is_a_value_error_or_nothing(tmp_path, compressed):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"X": GOOD_X[:8, :8], "y": GOOD_Y}, do_compression=compressed)
    rng = np.random.default_rng(0)
    path = tmp_path / "a.mat"
    for _ in range(400):
        data = bytearray(buffer.getvalue())
        for place in rng.integers(0, len(data), 2):
            data[place] = rng.integers(0, 256)
        path.write_bytes(data[: rng.integers(0, len(data))] if rng.random() < 0.2 else data)
        with contextlib.suppress(ValueError):
            read_mat(path, 2**24)


def npz(path: Path, **stored: np.ndarray) -> Path:
    np.savez_compressed(path, **stored)
    return path


@pytest.mark.parametrize("layout", ["keras", "med", "plain"])
@pytest.mark.parametrize("shape", [(6, 9, 8), (6, 9, 8, 3), (6, 9, 8, 1)])
def test_path_npz_layouts_in_use_are_read(project, tmp_path, layout, shape):
    images, labels = noise(0, *shape), np.array([3, 1, 2, 3, 1, 2])
    stored = {
        "keras": {"x_train": images[:4], "y_train": labels[:4], "x_test": images[4:], "y_test": labels[4:]},
        "med": {
            "train_images": images[:4],
            "train_labels": labels[:4, None],
            "test_images": images[4:],
            "test_labels": labels[4:, None],
        },
        "plain": {"images": images, "labels": labels},
    }[layout]
    table = run(project, source="path", path=str(npz(tmp_path / "a.npz", **stored)))
    flat = images[..., 0] if shape[3:] == (1,) else images
    truth = {"": (flat, labels)} if layout == "plain" else {"train": (flat[:4], labels[:4]), "test": (flat[4:], labels[4:])}
    same(project, table, truth)


class Evil:
    """Unpickling this would leave a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_path_npz_that_is_a_bomb_is_bad_data(project, tmp_path):
    path = npz(tmp_path / "a.npz", x_train=np.zeros((2, 4096, 4096), np.uint8))
    assert "bombs" in str(refused(project, source="path", path=str(path)))


def test_path_npz_is_never_unpickled(project, tmp_path):
    path = npz(tmp_path / "a.npz", x_train=np.array([Evil(tmp_path / "mark")], object))
    assert refused(project, source="path", path=str(path)).exit_code == 65
    path = npz(tmp_path / "a.npz", x_train=noise(0, 1, 8, 8), y_train=np.array([Evil(tmp_path / "mark")], object))
    assert refused(project, source="path", path=str(path)).exit_code == 65
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "stored",
    [
        {"x_train": np.zeros((2, 8, 8))},
        {"x_train": noise(0, 2, 8)},
        {"x_train": noise(0, 2, 8, 8, 4)},
        {"x_train": noise(0, 2, 8, 8), "y_train": np.zeros(3, int)},
        {"x_train": noise(0, 2, 8, 8), "y_train": np.zeros(2)},
        {"weights": noise(0, 2, 8, 8)},
        {"x_train": noise(0, 0, 8, 8)},
    ],
    ids=["float", "flat", "four channels", "labels too many", "labels no whole numbers", "unknown name", "none"],
)
def test_path_npz_of_something_else_is_bad_data(project, tmp_path, stored):
    assert isinstance(refused(project, source="path", path=str(npz(tmp_path / "a.npz", **stored))), BadDataError)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_path_npz_cut_short_is_bad_data(project, tmp_path, share):
    path = npz(tmp_path / "a.npz", x_train=noise(0, 20, 16, 16))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert isinstance(refused(project, source="path", path=str(path)), BadDataError)


def test_path_npz_with_flipped_bytes_is_bad_data(project, tmp_path):
    path = npz(tmp_path / "a.npz", x_train=noise(0, 20, 16, 16))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert isinstance(refused(project, source="path", path=str(path)), BadDataError)


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def test_remote_archive_is_resumed_verified_and_packed(project, site, picture):
    data = zipped({f"cat/{i}.png": picture(i, 60, 60) for i in range(20)})
    site["/set.zip?v=1"] = in_turn(cut(data, 50_000, ETag='"1"'), ranged(data, '"1"'))
    table = run(project, source="remote", url=site.url("/set.zip?v=1"), checksum=f"sha256:{hashlib.sha256(data).hexdigest()}")
    assert list(table["path"]) == [f"cat/{i}.png" for i in range(20)]
    assert site.asked[1][1]["Range"] == "bytes=50000-"


def test_remote_npz_is_read(project, site, tmp_path):
    path = npz(tmp_path / "a.npz", x_train=noise(0, 4, 8, 8))
    site["/a.npz"] = path.read_bytes()
    table = run(project, source="remote", url=site.url("/a.npz"), checksum=f"md5:{hashlib.md5(path.read_bytes()).hexdigest()}")
    same_images = pixels(project, table)
    np.testing.assert_array_equal(same_images, noise(0, 4, 8, 8))


def test_remote_wrong_sum_is_refused_before_it_is_opened(project, site, picture):
    site["/set.zip"] = zipped({"1.png": picture(1)})
    error = refused(project, source="remote", url=site.url("/set.zip"), checksum=f"sha256:{'0' * 64}")
    assert isinstance(error, BadDataError) and "sha256 is" in str(error)


def test_remote_page_instead_of_an_archive_is_named(project, site):
    site["/set.zip"] = b"<!doctype html><p>sign in"
    error = refused(project, source="remote", url=site.url("/set.zip"), checksum=f"sha256:{'0' * 64}")
    assert isinstance(error, BadDataError) and "web page" in str(error)


@pytest.mark.parametrize(("code", "kind"), [(404, InputMissingError), (403, BadDataError), (503, UnavailableError)])
def test_remote_status_has_its_exit_code(project, site, code, kind):
    site["/set.zip"] = status(code)
    error = refused(project, source="remote", url=site.url("/set.zip"), checksum=f"sha256:{'0' * 64}")
    assert type(error) is kind and str(code) in str(error)


def test_remote_hostile_archive_is_refused(project, site):
    data = zipped({"../../x.png": b"x"})
    site["/set.zip"] = data
    checksum = f"sha256:{hashlib.sha256(data).hexdigest()}"
    error = refused(project, source="remote", url=site.url("/set.zip"), checksum=checksum)
    assert "leads out of the archive" in str(error)


def test_remote_folder_of_a_store_keeps_its_folders(project, picture):
    store = fsspec.filesystem("memory")
    files = {f"{label}/{i}.png": picture(i) for i, label in enumerate(("dog", "cat", "cat"))}
    for name, data in files.items():
        store.pipe(f"/photos/all/{name}", data)
    store.pipe("/photos/other/no.png", b"no")
    table = run(project, source="remote", url="memory://photos/all/")
    assert list(table["path"]) == sorted(files)
    assert table.set_index("path")["sha256"].to_dict() == {n: hashlib.sha256(d).hexdigest() for n, d in files.items()}
    store.pipe("/photos/all/dog/0.png", picture(9))  # it changed: the kept copy is not used
    again = run(project, source="remote", url="memory://photos/all/").set_index("path")
    assert again.loc["dog/0.png", "sha256"] == hashlib.sha256(picture(9)).hexdigest()


def test_remote_empty_folder_of_a_store_is_input_missing(project):
    error = refused(project, source="remote", url="memory://photos-none/all")
    assert error.exit_code in (66, 69)


def test_digits_are_those_of_scikit_learn(project):
    table = run(project, source="digits")
    digits = load_digits()
    assert list(table["label"]) == [str(n) for n in digits.target]
    assert (table["split"] == "").all()
    np.testing.assert_allclose(pixels(project, table) / 255 * 16, digits.images, atol=16 / 255 / 2 + 1e-9)


def test_digits_same_bytes_each_time(project):
    hashes = []
    for _ in range(2):
        run(project, source="digits")
        hashes.append((project.paths.raw / MANIFEST).read_bytes())
    assert hashes[0] == hashes[1]
