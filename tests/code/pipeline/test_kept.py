"""What the last run of download brought is taken over: the same bytes as from nothing, and nothing unchanged is opened."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import random
import shutil
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from PIL import Image

from pipeline import download as module
from pipeline import kept, raw
from pipeline.download import PARAMS, download
from pipeline.errors import BadDataError, CannotWriteError
from pipeline.follower import Follower
from pipeline.paths import Paths
from pipeline.preprocess import PARAMS as PREPROCESS
from pipeline.preprocess import preprocess
from pipeline.raw import RawWriter, Unopened, Unreadable, read_failures, read_files
from pipeline.sources import archive, folder, path
from pipeline.verify import verify
from vae import files as files_module
from vae.files import DamagedError, read_json, read_manifest, replaced_directory, write_manifest

KINDS = ("folder", "zip")


@pytest.fixture(autouse=True)
def small_archives(monkeypatch):
    """Some files in an archive, and row groups that end elsewhere."""
    for name, value in {
        "TARGET_FILES": 6,
        "TARGET_BYTES": 4000,
        "MOST_FILES": 9,
        "MOST_BYTES": 3000,
        "ROW_GROUP_FILES": 7,
    }.items():
        monkeypatch.setattr(raw, name, value)
    monkeypatch.setattr(files_module, "fsync_path", lambda _: None)  # a thousand small archives


@pytest.fixture
def settled(monkeypatch):
    """Files that were written just now may be trusted: no test of these writes one twice within a tick of the clock."""
    monkeypatch.setattr(folder, "SETTLED_NS", -(10**12))


def contents(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@dataclass(frozen=True)
class File:
    """One file of a source that is made up, or with a reason a failure that the source itself names."""

    name: str
    data: bytes = b""
    stamp: str = ""
    label: str = ""
    split: str = ""
    reason: str = ""
    readable: bool = True


def feed(writer: RawWriter, files: list[File], opened: Counter[str]) -> None:
    for file in files:

        @contextlib.contextmanager
        def content(file: File = file) -> Iterator[io.BytesIO]:
            opened[file.name] += 1
            if not file.readable:
                raise Unreadable("corrupt", "not to be read")
            yield io.BytesIO(file.data)

        if file.reason:
            writer.fail(file.name, file.reason, "named by its source")
        else:
            writer.add(file.name, Unopened(content, file.stamp), label=file.label, split=file.split)


def bring(paths: Paths, files: list[File]) -> Counter[str]:
    """data/raw as stage download would fill it; returns how often each file was opened."""
    opened: Counter[str] = Counter()
    last = kept.load(paths)
    with replaced_directory(paths.raw) as directory:
        with Follower(directory, last) as writer:
            feed(writer, files, opened)
        write_manifest(directory, known=writer.known, files=writer.files, failed=writer.failures)
    kept.keep(paths, writer.stamps)
    assert writer.files == read_files(paths.raw).num_rows and writer.failures == len(read_failures(paths.raw))
    read_manifest(paths.raw)
    return opened


def from_nothing(directory: Path, files: list[File]) -> tuple[dict[str, bytes], RawWriter]:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    with RawWriter(directory) as writer:
        feed(writer, files, Counter())
    write_manifest(directory, files=writer.files, failed=writer.failures)
    return contents(directory), writer


def edited(files: list[File], rng: random.Random, serial: Iterator[int]) -> list[File]:
    """Some changes as people make them."""
    files = list(files)
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        kind = rng.randrange(9)
        at = rng.randrange(len(files) + 1) if rng.random() < 0.8 else rng.choice((0, len(files)))
        number = next(serial)
        if kind < 3 or not files:
            files[at:at] = [
                File(f"{rng.choice('abc')}/{number + i}.png", rng.randbytes(rng.randrange(900)), f"stamp {number + i}")
                for i in range(rng.choice((1, 1, 12)))
            ]
            for _ in range(11):  # as many numbers as files
                next(serial)
            continue
        at = min(at, len(files) - 1)
        file = files[at]
        if kind == 3:
            del files[at : at + rng.choice((1, 1, 12))]
        elif kind == 4:
            files[at] = replace(file, name=f"renamed {number}")
        elif kind == 5:
            files[at] = replace(file, data=rng.randbytes(len(file.data)), stamp=f"stamp {number}")
        elif kind == 6:
            files[at] = replace(file, label=rng.choice(("", "cat")), split=rng.choice(("", "test")))
        elif kind == 7:
            files[at] = replace(file, stamp=rng.choice(("", f"stamp {number}")), readable=rng.random() < 0.5, reason="")
            if files[at].stamp == file.stamp:
                files[at] = replace(files[at], readable=file.readable)
        else:  # moved, named by its source, or there twice
            moved = files.pop(at)
            files.insert(rng.randrange(len(files) + 1), moved)
            files.insert(rng.randrange(len(files) + 1), rng.choice((moved, File(f"link {number}", reason="link"))))
    return files


@pytest.mark.parametrize("seed", range(6))
def test_taken_over_is_byte_for_byte_what_comes_from_nothing(project, tmp_path, seed):
    rng, serial = random.Random(seed), iter(range(10**6))
    files = [File(f"a/{i:03d}.png", rng.randbytes(rng.randrange(900)), f"first {i}") for i in range(rng.choice((0, 1, 40, 120)))]
    for _ in range(20):
        opened = bring(project.paths, files)
        expected, _ = from_nothing(tmp_path / "expected", files)
        assert contents(project.paths.raw) == expected
        assert not {name: count for name, count in opened.items() if count > [file.name for file in files].count(name)}
        again = bring(project.paths, files)
        assert contents(project.paths.raw) == expected
        trusted = {file.name for file in files if file.stamp and file.readable}
        if all(file.stamp and file.readable for file in files if not file.reason) and len({f.name for f in files}) == len(files):
            assert not set(again) & trusted
        files = edited(files, rng, serial)


def test_counters_and_order_of_failures_are_those_of_a_run_from_nothing(project, tmp_path):
    """Of an archive that has to be written after all, a file may not be readable any more; and what its source names comes in turn."""
    files = [File(f"{i}.png", bytes([i]) * 100, f"stamp {i}") for i in range(60)]
    bring(project.paths, files)
    files = [f for i, file in enumerate(files) for f in (file, File(f"link {i}", reason="link"))]
    files[40] = replace(files[40], stamp="another", data=b"changed")  # its archive is written anew, and with it those before it
    files[38] = replace(files[38], readable=False)  # with the stamp that it had
    files.insert(42, files[2])  # a name that is there already
    files[81] = replace(files[81], readable=False)
    files.insert(82, replace(files[81], readable=True, stamp="second"))  # the first one that can be read counts
    expected, plain = from_nothing(tmp_path / "expected", files)
    opened: Counter[str] = Counter()
    (tmp_path / "found").mkdir()
    with Follower(tmp_path / "found", kept.load(project.paths)) as writer:
        feed(writer, files, opened)
    write_manifest(tmp_path / "found", known=writer.known, files=writer.files, failed=writer.failures)
    assert contents(tmp_path / "found") == expected
    for name in ("files", "failures", "reasons", "first_failure"):
        assert getattr(writer, name) == getattr(plain, name)
    assert plain.reasons == {"link": 60, "corrupt": 2, "duplicate_name": 1}
    assert writer.taken_over > 40 and sum(opened.values()) < 20


def test_one_more_file_changes_its_own_archive_and_no_other(project):
    files = [File(f"{i:03d}.png", bytes([i]) * 50, f"stamp {i}") for i in range(200)]
    bring(project.paths, files)
    for at in (0, 90, 200):
        opened = bring(project.paths, [*files[:at], File(f"new {at}", b"new", "new"), *files[at:]])
        assert opened[f"new {at}"] == 1 and sum(opened.values()) <= 2 * raw.MOST_FILES
        bring(project.paths, files)


def test_failure_of_the_source_opens_nothing_that_was_put_off(project, tmp_path):
    files = [File(f"{i:03d}.png", bytes([i]) * 50, f"stamp {i}") for i in range(20)]
    bring(project.paths, files)
    opened: Counter[str] = Counter()
    (tmp_path / "found").mkdir()

    def fed_in_part() -> None:
        with Follower(tmp_path / "found", kept.load(project.paths)) as writer:
            feed(writer, files[:2], opened)
            raise BadDataError("no more")

    with pytest.raises(BadDataError):
        fed_in_part()
    assert not opened


class Input:
    """A folder, or a zip of what is in it, that a person edits; ``brought`` runs the stage twice, on top of the last run and anew."""

    def __init__(self, project, kind: str) -> None:
        self.project, self.kind, self.folder = project, kind, project.root / "photos"
        for i in range(60):
            self.write(f"{'abc'[i % 3]}/{i:03d}.jpg", f"picture {i}".encode() * (i % 17))

    def write(self, name: str, data: bytes) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(data)

    def values(self, **changes: object):
        origin = self.folder if self.kind == "folder" else self.project.root / "photos.zip"
        if self.kind == "zip":
            with zipfile.ZipFile(origin, "w", zipfile.ZIP_DEFLATED) as stream:
                for file in sorted(self.folder.rglob("*")):
                    if file.is_file():
                        stream.writestr(zipfile.ZipInfo(file.relative_to(self.folder).as_posix()), file.read_bytes())
        return self.project.values(PARAMS, download__source="path", download__path=str(origin), **changes)

    def brought(self, **changes: object) -> dict[str, bytes]:
        values = self.values(**changes)
        download(values, self.project.paths)
        anew = Paths(self.project.root / "anew")
        shutil.rmtree(anew.root, ignore_errors=True)
        anew.root.mkdir()
        download(values, anew)
        found = contents(self.project.paths.raw)
        assert found == contents(anew.raw)
        return found


@pytest.fixture(params=KINDS)
def given(request, project, settled) -> Input:
    return Input(project, request.param)


def opening(monkeypatch) -> list[str]:
    """The names of the input's files that are opened from now on."""
    names: list[str] = []
    of_folder, of_zip = path.open_regular, archive.zipfile.ZipFile.open

    def open_regular(place):
        names.append(str(place).partition("photos/")[2])
        return of_folder(place)

    def open_member(self, member, mode="r", **options):
        if mode == "r":
            names.append(member.filename)
        return of_zip(self, member, mode, **options)

    monkeypatch.setattr(path, "open_regular", open_regular)
    monkeypatch.setattr(archive.zipfile.ZipFile, "open", open_member)
    return names


def test_edited_input_gives_the_bytes_of_a_run_from_nothing(given):
    edits: list[Callable[[], object]] = [
        lambda: given.write("a/000 before.jpg", b"first"),
        lambda: given.write("b/middle.jpg", b"between"),
        lambda: given.write("z/last.jpg", b"last"),
        lambda: (given.folder / "a/030.jpg").unlink(),
        lambda: (given.folder / "b/031.jpg").rename(given.folder / "b/999.jpg"),
        lambda: given.write("c/032.jpg", (given.folder / "c/032.jpg").read_bytes()[::-1]),
        lambda: (given.folder / "a").rename(given.folder / "moved"),
        lambda: given.write("huge.jpg", bytes(10_000)),
        lambda: shutil.rmtree(given.folder / "b"),
        lambda: None,
    ]
    given.brought()
    for edit in edits:
        edit()
        given.brought()


def test_nothing_is_opened_again_where_nothing_changed(given, monkeypatch, caplog):
    values = given.values()
    download(values, given.project.paths)
    before, names = contents(given.project.paths.raw), opening(monkeypatch)
    caplog.set_level(logging.INFO, "pipeline.download")
    download(values, given.project.paths)
    assert contents(given.project.paths.raw) == before and names == []
    assert "60 files are those of the last run, 0 were read" in caplog.text


def test_folder_that_moved_and_zip_that_was_copied_are_the_same(given, monkeypatch):
    download(given.values(), given.project.paths)
    names = opening(monkeypatch)
    before = contents(given.project.paths.raw)
    given.folder = given.folder.rename(given.project.root / "elsewhere")
    download(given.values(), given.project.paths)
    assert contents(given.project.paths.raw) == before and names == []


def test_of_a_grown_input_few_are_opened(given, monkeypatch):
    given.brought()
    given.write("b/new.jpg", b"new")
    values, names = given.values(), opening(monkeypatch)
    download(values, given.project.paths)
    assert "b/new.jpg" in names and len(names) == len(set(names)) <= raw.MOST_FILES


def test_changed_file_of_the_same_length_and_time_is_read(project, settled, monkeypatch):
    given = Input(project, "folder")
    given.brought()
    file = given.folder / "c/032.jpg"
    known, data = file.stat(), file.read_bytes()
    file.write_bytes(data[::-1])
    os.utime(file, ns=(known.st_atime_ns, known.st_mtime_ns))
    given.brought()  # by the time of the change of its inode, which nobody can set
    with zipfile.ZipFile(next(z for z in sorted(project.paths.raw.glob("*.zip")) if b"c/032.jpg" in z.read_bytes())) as found:
        assert found.read("c/032.jpg") == data[::-1] != data


def test_stamps_of_files_written_just_now_are_not_trusted(project, monkeypatch):
    given = Input(project, "folder")
    os.utime(given.folder / "a/000.jpg", (1, 1))  # an old time, set just now
    assert {entry.stamp for entry in folder.walk(given.folder)} == {""}
    download(given.values(), project.paths)
    assert not (project.paths.work / kept.FOLDER).exists()
    later = time.time_ns() + folder.SETTLED_NS + 10**8
    os.utime(given.folder / "a/003.jpg", ns=(later, later))
    monkeypatch.setattr(time, "time_ns", lambda: later)
    stamps = {entry.path: entry.stamp for entry in folder.walk(given.folder)}
    assert [name for name, stamp in stamps.items() if not stamp] == ["a/003.jpg"]
    assert len(set(stamps.values())) == 60


def flip(file: Path, quietly: bool = False) -> None:
    """Another bit in the midst of a file, in place; ``quietly`` as a disk does it, which leaves the times alone."""
    known, data = file.stat(), bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    with file.open("r+b") as stream:
        stream.write(data)
    if quietly:
        os.utime(file, ns=(known.st_atime_ns, known.st_mtime_ns))


def removed(keeper: Path) -> None:
    (keeper / "images-00001.zip").unlink()


def cut(keeper: Path) -> None:
    data = (keeper / "images-00001.zip").read_bytes()
    (keeper / "images-00001.zip").unlink()
    (keeper / "images-00001.zip").write_bytes(data[:-10])


def exchanged(keeper: Path) -> None:
    """The same bytes and times, but another file."""
    known, data = (keeper / "images-00001.zip").stat(), (keeper / "images-00001.zip").read_bytes()
    (keeper / "other").write_bytes(data)
    (keeper / "other").replace(keeper / "images-00001.zip")
    os.utime(keeper / "images-00001.zip", ns=(known.st_atime_ns, known.st_mtime_ns))


def of_another_version(keeper: Path) -> None:
    facts = read_json(keeper / kept.FACTS)
    (keeper / kept.FACTS).write_text(json.dumps(facts | {"key": "of last year"}))


def of_another_shape(keeper: Path) -> None:
    facts = read_json(keeper / kept.FACTS)
    (keeper / kept.FACTS).write_text(json.dumps({"key": facts["key"], "archives": ["images-00000.zip"]}))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing archive": removed,
    "cut archive": cut,
    "archive written to": lambda keeper: flip(keeper / "images-00001.zip"),
    "archive exchanged": exchanged,
    "broken stamps": lambda keeper: flip(keeper / kept.STAMPS, quietly=True),
    "no stamps": lambda keeper: (keeper / kept.STAMPS).unlink(),
    "broken table": lambda keeper: flip(keeper / raw.FILES, quietly=True),
    "broken manifest": lambda keeper: flip(keeper / "MANIFEST.json", quietly=True),
    "no manifest": lambda keeper: (keeper / "MANIFEST.json").unlink(),
    "broken facts": lambda keeper: (keeper / kept.FACTS).write_text("{"),
    "facts are no object": lambda keeper: (keeper / kept.FACTS).write_text("[]"),
    "no facts": lambda keeper: (keeper / kept.FACTS).unlink(),
    "another shape": of_another_shape,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_keeper_is_told_and_not_used(given, monkeypatch, caplog, damage):
    before = given.brought()
    shutil.rmtree(given.project.paths.raw)  # as DVC does it; what is damaged in place would be its data, too
    DAMAGE[damage](given.project.paths.work / kept.FOLDER)
    values, names = given.values(), opening(monkeypatch)
    download(values, given.project.paths)
    assert contents(given.project.paths.raw) == before and len(names) == 60
    assert "what the last run brought cannot be used again" in caplog.text
    names.clear()
    download(values, given.project.paths)
    assert names == []


def test_keeper_of_another_version_or_of_other_limits_is_not_used(given, monkeypatch):
    given.brought()
    of_another_version(given.project.paths.work / kept.FOLDER)
    with monkeypatch.context() as patched:
        names = opening(patched)
        download(given.values(), given.project.paths)
        assert len(names) == 60
    monkeypatch.setattr(raw, "TARGET_FILES", 4)
    given.brought()
    names = opening(monkeypatch)
    download(given.values(), given.project.paths)
    assert names == []


@pytest.mark.parametrize("finder", ["verify", "preprocess"])
def test_bit_that_flipped_on_the_disk_is_found_as_ever_and_not_taken_over_again(project, picture, monkeypatch, settled, finder):
    given = Input(project, "folder")
    shutil.rmtree(given.folder)
    for i in range(60):
        given.write(f"{i:03d}.png", picture(i))
    before = given.brought()
    values = given.values()
    shutil.rmtree(project.paths.raw)
    flip(project.paths.work / kept.FOLDER / "images-00002.zip", quietly=True)
    download(values, project.paths)  # does not look at what it takes over, but blesses nothing
    after = contents(project.paths.raw)
    assert [name for name in before if before[name] != after[name]] == ["images-00002.zip"]
    for _ in range(2):
        if finder == "verify":
            with pytest.raises(BadDataError, match=r"images-00002\.zip differs from the sha256"):
                verify(project.paths)
        else:
            with pytest.raises(DamagedError, match=r"images-00002\.zip differs from the sha256"):
                preprocess(project.values(PREPROCESS, base__image_size=8), project.paths)
    shutil.rmtree(project.paths.raw)  # the remedy that is told
    download(values, project.paths)
    assert contents(project.paths.raw) == before
    verify(project.paths)


def test_other_use_of_animations_does_not_mix(given):
    buffer = io.BytesIO()
    frames = [Image.new("L", (4, 4), shade) for shade in (0, 90, 200)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    for name in ("a/001.gif", "b/900.gif"):
        given.write(name, buffer.getvalue())
    plain = given.brought(download__animation_frames=False)
    split = given.brought(download__animation_frames=True)
    assert plain != split and b"b/900.gif/000002.png" in b"".join(split.values())
    given.write("c/new.jpg", b"new")
    given.brought(download__animation_frames=True)
    (given.folder / "c/new.jpg").unlink()
    assert given.brought(download__animation_frames=False) == plain


def test_where_links_are_impossible_everything_is_copied(given, monkeypatch):
    before = given.brought()

    def link(*_: object, **__: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", link)
    assert given.brought() == before
    shutil.rmtree(given.project.paths.work / kept.FOLDER)
    assert given.brought() == before and not (given.project.paths.work / kept.FOLDER).exists()


def test_source_that_tells_no_stamps_leaves_no_keeper(given):
    before = given.brought()
    download(given.project.values(PARAMS, download__sprite_images=100), given.project.paths)
    assert not (given.project.paths.work / kept.FOLDER).exists()
    assert given.brought() == before


def test_room_is_needed_for_what_is_new(project, settled, monkeypatch):
    given = Input(project, "folder")
    given.write("large.jpg", bytes(2**20))
    values = given.values()
    usage = shutil.disk_usage(project.root)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=module.SPARE_BYTES + 2**19))
    with pytest.raises(CannotWriteError, match="free some space"):
        download(values, project.paths)
    with monkeypatch.context() as patched:
        patched.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=2**40))
        download(values, project.paths)
    given.write("b/new.jpg", bytes(2**10))
    download(values, project.paths)
    given.write("b/too much.jpg", bytes(2**20))
    with pytest.raises(CannotWriteError, match="free some space"):
        download(values, project.paths)
