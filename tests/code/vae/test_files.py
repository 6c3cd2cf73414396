"""files: whole or absent, and every damage is found."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from vae import files
from vae.files import (
    MANIFEST,
    DamagedError,
    canonical_json,
    read_json,
    read_manifest,
    remove_directory,
    replaced_directory,
    sha256_file,
    sources_sha256,
    write_manifest,
    write_text,
)

MEMBERS = {"a.bin": bytes(range(40)), "empty": b"", "below/b.txt": b"weights\n"}


class PlannedError(RuntimeError):
    """What a test raises on purpose."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    root = tmp_path / "kept"
    for name, content in MEMBERS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    write_manifest(root, step=7, name="x")
    return root


def test_write_manifest_records_sizes_and_hashes_of_every_file_below(directory: Path) -> None:
    manifest = json.loads((directory / MANIFEST).read_text())
    assert manifest["files"] == {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)} for name, content in MEMBERS.items()
    }
    assert manifest["facts"] == {"step": 7, "name": "x"}


def test_write_manifest_twice_gives_the_same_hash_of_itself(directory: Path) -> None:
    first = sha256_file(directory / MANIFEST)
    assert write_manifest(directory, name="x", step=7) == first == hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest()


def test_write_manifest_takes_hashes_that_are_known_and_reads_no_such_file(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (directory / MANIFEST).read_bytes()
    known = {name: hashlib.sha256(content).hexdigest() for name, content in MEMBERS.items()}
    name, touched = next(iter(known)), []
    read, sync = files.sha256_file, files.fsync_path
    monkeypatch.setattr(files, "sha256_file", lambda path: touched.append(path) or read(path))
    monkeypatch.setattr(files, "fsync_path", lambda path: touched.append(path) or sync(path))
    write_manifest(directory, known={name: known[name], "not there": "x"}, step=7, name="x")
    assert (directory / MANIFEST).read_bytes() == before
    assert {directory / other for other in MEMBERS if other != name} <= {*touched} and directory / name not in touched
    (directory / name).write_bytes(b"damaged" + MEMBERS[name])
    write_manifest(directory, known=known)
    with pytest.raises(DamagedError, match="differs from the sha256"):
        read_manifest(directory)


def test_read_manifest_whole_directory_returns_its_facts(directory: Path) -> None:
    assert read_manifest(directory) == {"step": 7, "name": "x"}


@pytest.mark.parametrize("name", [n for n, content in MEMBERS.items() if content])
def test_read_manifest_any_flipped_byte_is_found_and_its_file_named(directory: Path, name: str) -> None:
    for position in range(len(MEMBERS[name])):
        damaged = bytearray(MEMBERS[name])
        damaged[position] ^= 1 << (position % 8)
        (directory / name).write_bytes(damaged)
        with pytest.raises(DamagedError, match=name):
            read_manifest(directory)
    (directory / name).write_bytes(MEMBERS[name])
    read_manifest(directory)


@pytest.mark.parametrize("name", [n for n, content in MEMBERS.items() if content])
@pytest.mark.parametrize("hashes", [True, False])
def test_read_manifest_any_truncation_is_found(directory: Path, name: str, hashes: bool) -> None:
    for length in range(len(MEMBERS[name])):
        (directory / name).write_bytes(MEMBERS[name][:length])
        with pytest.raises(DamagedError, match=rf"{name} has {length} bytes, its manifest says {len(MEMBERS[name])}"):
            read_manifest(directory, hashes=hashes)


@pytest.mark.parametrize("name", MEMBERS)
def test_read_manifest_extra_bytes_are_found(directory: Path, name: str) -> None:
    with (directory / name).open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(DamagedError, match=name):
        read_manifest(directory, hashes=False)


@pytest.mark.parametrize("name", [*MEMBERS, MANIFEST])
def test_read_manifest_missing_file_is_found(directory: Path, name: str) -> None:
    (directory / name).unlink()
    with pytest.raises(DamagedError, match=f"{name} is missing.*dvc repro"):
        read_manifest(directory)


def test_read_manifest_directory_in_the_place_of_a_file_is_found(directory: Path) -> None:
    (directory / "a.bin").unlink()
    (directory / "a.bin").mkdir()
    with pytest.raises(DamagedError, match=r"a\.bin"):
        read_manifest(directory)


def test_read_manifest_truncated_manifest_is_damage_at_any_length(directory: Path) -> None:
    whole = (directory / MANIFEST).read_bytes()
    for length in range(len(whole)):
        (directory / MANIFEST).write_bytes(whole[:length])
        with pytest.raises(DamagedError):
            read_manifest(directory)


def test_read_manifest_any_flipped_byte_of_the_manifest_is_damage(directory: Path) -> None:
    whole = (directory / MANIFEST).read_bytes()
    escaped, trusted = set(), []
    for position in range(len(whole)):
        (directory / MANIFEST).write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        try:
            read_manifest(directory)
            trusted.append(position)
        except DamagedError:
            pass
        except Exception as error:
            escaped.add(f"{type(error).__name__}: {error}")
    assert not escaped
    assert not trusted


@pytest.mark.parametrize(
    "text", ["[]", "{}", "3", "null", '{"files": []}', '{"files": {"a.bin": 3}, "facts": {}}', '{"files": {}}']
)
def test_read_manifest_json_of_another_form_is_damage(directory: Path, text: str) -> None:
    (directory / MANIFEST).write_text(text)
    with pytest.raises(DamagedError):
        read_manifest(directory)


def test_read_manifest_looks_at_the_hashes_of_the_files_named(directory: Path) -> None:
    (directory / "a.bin").write_bytes(bytes(40))
    others = [name for name in MEMBERS if name != "a.bin"]
    assert read_manifest(directory, hashes=others)["step"] == read_manifest(directory, hashes=())["step"] == 7
    with pytest.raises(DamagedError, match=r"a\.bin"):
        read_manifest(directory, hashes=["a.bin"])


def test_read_manifest_without_hashes_checks_sizes_only(directory: Path) -> None:
    (directory / "a.bin").write_bytes(bytes(40))
    assert read_manifest(directory, hashes=False)["step"] == 7
    with pytest.raises(DamagedError):
        read_manifest(directory)


def interrupted(final: Path) -> None:
    """Replace a directory and fail half way."""
    with replaced_directory(final) as beside:
        (beside / "new").write_text("half")
        raise PlannedError


def test_replaced_directory_success_replaces_all_of_the_old(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "final"
    for content in ("one", "two"):
        with replaced_directory(final) as beside:
            assert beside.parent == final.parent and not any(beside.iterdir())
            (beside / content).write_text(content)
    assert [p.name for p in final.iterdir()] == ["two"]
    assert [p.name for p in final.parent.iterdir()] == ["final"]


def test_replaced_directory_exception_leaves_the_old_and_nothing_beside(tmp_path: Path) -> None:
    final = tmp_path / "final"
    final.mkdir()
    (final / "old").write_text("kept")
    with pytest.raises(PlannedError):
        interrupted(final)
    assert (final / "old").read_text() == "kept"
    assert [p.name for p in tmp_path.iterdir()] == ["final"]


def test_replaced_directory_exception_without_an_old_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(PlannedError):
        interrupted(tmp_path / "final")
    assert not any(tmp_path.iterdir())


def test_replaced_directory_failing_rename_leaves_the_old(tmp_path: Path) -> None:
    # The new directory vanishes before it is renamed (a clean-up, a full remount): the old one must still have its name.
    final = tmp_path / "final"
    final.mkdir()
    (final / "old").write_text("kept")
    with pytest.raises(FileNotFoundError), replaced_directory(final) as beside:
        shutil.rmtree(beside)
    assert (final / "old").read_text() == "kept"


def test_replaced_directory_leftover_of_a_crash_is_not_taken_over(tmp_path: Path) -> None:
    final = tmp_path / "final"
    with replaced_directory(final) as beside:
        name = beside.name
    (tmp_path / name).mkdir()
    (tmp_path / name / "stale").write_text("half of an earlier run")
    with replaced_directory(final) as beside:
        (beside / "new").write_text("whole")
    assert [p.name for p in final.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["final"]


def test_write_text_replaces_the_file_instead_of_writing_into_it(tmp_path: Path) -> None:
    path, held = tmp_path / "new" / "f.txt", tmp_path / "held"
    write_text(path, "old text")
    os.link(path, held)  # a reader that holds the old file
    write_text(path, "new")
    assert path.read_text() == "new"
    assert held.read_text() == "old text"


def test_write_text_failure_leaves_the_old_and_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "f.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "x" * 100_000 + "\ud800")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f.txt"]


def test_canonical_json_is_one_text_for_any_order_of_keys(tmp_path: Path) -> None:
    text = canonical_json({"b": [1, {"d": 1, "c": 2}], "a": 0.1})
    assert text == canonical_json({"a": 0.1, "b": [1, {"c": 2, "d": 1}]})
    write_text(tmp_path / "v.json", text)
    assert read_json(tmp_path / "v.json") == {"a": 0.1, "b": [1, {"c": 2, "d": 1}]}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_canonical_json_refuses_what_json_cannot_say(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"loss": value})


def test_remove_directory_killed_in_the_middle_leaves_no_part_under_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    with monkeypatch.context() as patch:
        patch.setattr("vae.files.shutil.rmtree", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            remove_directory(tmp_path / "a")
    assert not (tmp_path / "a").exists() and list(tmp_path.iterdir()) != [tmp_path / "b"]
    remove_directory(tmp_path / "b")
    assert not list(tmp_path.iterdir())  # what was left of the first is gone too


def test_sources_sha256_is_of_names_and_bytes_and_of_nothing_else(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder / "inner").mkdir(parents=True)
        (tmp_path / folder / "inner/a.py").write_text("1")
        (tmp_path / folder / "b.py").write_text("2")
    one, two = tmp_path / "one", tmp_path / "two"
    assert sources_sha256(one) == sources_sha256(two) != sources_sha256(one, two)
    (one / "notes.txt").write_text("no code")
    assert sources_sha256(one) == sources_sha256(two)
    (one / "b.py").write_text("3")
    assert sources_sha256(one) != sources_sha256(two)
    (one / "b.py").write_text("2")
    (one / "b.py").rename(one / "c.py")
    assert sources_sha256(one) != sources_sha256(two)
