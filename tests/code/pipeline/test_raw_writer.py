"""RawWriter: every file is in exactly one of the two tables, archives are bounded, and a file that fails leaves nothing."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline import raw
from pipeline.raw import RawWriter, Unreadable, read_failures, read_files


class Broken(io.BytesIO):
    """Some bytes, then no more."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() >= 10:
            raise Unreadable("cut", "after\n10 bytes")
        return super().read(10)


def test_add_archives_are_bounded_and_the_table_tells_where_each_file_is(tmp_path, monkeypatch):
    monkeypatch.setattr(raw, "MOST_FILES", 4)
    monkeypatch.setattr(raw, "MOST_BYTES", 250)
    files = {f"{i}.png": bytes([i]) * (100 if i < 6 else 1) for i in range(16)}
    with RawWriter(tmp_path) as writer:
        for name, data in files.items():
            assert writer.add(name, data, label=name[0], split="train", turn=len(data))
    table = read_files(tmp_path).to_pandas()
    assert list(table["path"]) == list(files) and list(table["archive"]) == sorted(table["archive"])
    assert table["archive"].value_counts().max() <= 4 and table["archive"].nunique() > 3
    for row in table.itertuples():
        with zipfile.ZipFile(tmp_path / f"images-{row.archive:05d}.zip") as archive:
            data = archive.read(row.path)
        assert data == files[row.path] and row.sha256 == hashlib.sha256(data).hexdigest() and row.bytes == len(data)
        assert (row.label, row.split, row.factor_turn) == (row.path[0], "train", len(data))


def archives(directory: Path, files: dict[str, bytes]) -> list[bytes]:
    directory.mkdir()
    with RawWriter(directory) as writer:
        for name, data in files.items():
            writer.add(name, io.BytesIO(data))
    return [path.read_bytes() for path in sorted(directory.glob("*.zip"))]


def test_archives_begin_where_names_and_lengths_say_so_whatever_else_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(raw, "TARGET_FILES", 20)
    monkeypatch.setattr(raw, "TARGET_BYTES", 10_000)
    files = {f"{i:04d}.png": bytes([i % 256]) * (i % 50) for i in range(1000)}
    whole = archives(tmp_path / "whole", files)
    assert 30 < len(whole) < 120  # 50 by the number of files, and some by their length
    del files["0500.png"]
    less = archives(tmp_path / "less", files)
    assert len(set(whole) ^ set(less)) <= 3
    more = archives(tmp_path / "more", {"0000 large.png": bytes(10_000)} | files)
    assert len(set(more) - set(less)) <= 2  # as long as the target: an archive begins with it


def test_table_is_the_same_bytes_wherever_archives_end(tmp_path, monkeypatch):
    monkeypatch.setattr(raw, "ROW_GROUP_FILES", 64)
    files = {f"{i:04d}.png": bytes([i % 256]) for i in range(500)}
    found = []
    for most in (500, 100, 7):
        monkeypatch.setattr(raw, "MOST_FILES", most)
        monkeypatch.setattr(raw, "TARGET_FILES", 2**31)
        archives(tmp_path / str(most), files)
        table = pq.read_table(tmp_path / str(most) / "files.parquet")
        assert table["archive"].to_pylist() == [i // most for i in range(500)]
        found.append(table.drop_columns("archive"))
        described = pq.read_metadata(tmp_path / str(most) / "files.parquet")
        assert [described.row_group(i).num_rows for i in range(described.num_row_groups)] == [64] * 7 + [52]
    assert found[0] == found[1] == found[2]


def test_add_large_file_goes_by_way_of_its_own_folder_and_leaves_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(raw, "SPOOL_BYTES", 1000)
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    with RawWriter(tmp_path) as writer:
        writer.add("a", io.BytesIO(bytes(5000)))
    assert {p.name for p in tmp_path.iterdir()} == {"images-00000.zip", "files.parquet", "failed.csv"}
    assert read_files(tmp_path).to_pylist()[0]["bytes"] == 5000


def test_add_what_breaks_while_it_is_read_is_a_failure_and_the_next_is_fine(tmp_path):
    with RawWriter(tmp_path) as writer:
        assert not writer.add("a", Broken(bytes(100)))
        assert writer.add("a", b"whole")  # the name was not used up
        assert not writer.add("a", b"again")
        writer.fail("b", "link", "x" * 500)
    assert [row["path"] for row in read_files(tmp_path).to_pylist()] == ["a"]
    assert [(p, r) for p, r, _ in read_failures(tmp_path)] == [("a", "cut"), ("a", "duplicate_name"), ("b", "link")]
    assert read_failures(tmp_path)[0][2] == "after 10 bytes" and writer.reasons == {"cut": 1, "duplicate_name": 1, "link": 1}
    assert writer.first_failure.startswith("a: after 10 bytes (cut)")
    with zipfile.ZipFile(tmp_path / "images-00000.zip") as archive:
        assert archive.namelist() == ["a"] and archive.testzip() is None


def test_writer_without_any_file_leaves_readable_tables(tmp_path):
    with RawWriter(tmp_path):
        pass
    assert read_files(tmp_path).num_rows == 0 and read_failures(tmp_path) == []


@pytest.mark.parametrize("name", ["a,b", 'a"b', "a\nb", "a\rb", "-a", " a ", "\udce9", "é" * 127, "=1+1"])
def test_names_of_any_kind_come_back_from_both_tables(tmp_path, name):
    with RawWriter(tmp_path) as writer:
        writer.add(name, b"1")
        writer.fail(name, "link", f"about {name}")
    assert read_files(tmp_path).to_pylist()[0]["path"] == read_failures(tmp_path)[0][0] == raw.safe_name(name)
