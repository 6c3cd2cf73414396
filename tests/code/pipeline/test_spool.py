"""Spool: each step once, whatever happened to the file or the process."""

from __future__ import annotations

import json

import pytest

from pipeline.spool import SpoolReader, SpoolWriter, read


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "spool.jsonl"


def test_writer_record_is_one_line_that_reads_back(path):
    writer = SpoolWriter(path)
    records = [{"step": 1, "loss": 0.1, "text": "ü\n\u2028"}, {"step": 5, "loss": -1e-30}]
    assert all(writer.append(record) for record in records)
    assert path.read_bytes().count(b"\n") == 2
    assert read(path) == records


def test_writer_step_that_is_there_is_dropped(path):
    writer = SpoolWriter(path)
    assert [writer.append({"step": step, "x": i}) for i, step in enumerate([0, 1, 1, 0, 2])] == [True, True, False, False, True]
    assert [(r["step"], r["x"]) for r in read(path)] == [(0, 0), (1, 1), (2, 4)]


def test_writer_that_comes_back_goes_on_after_the_last_step(path):
    SpoolWriter(path).append({"step": 3})
    again = SpoolWriter(path)
    assert again.last_step == 3
    assert not again.append({"step": 3})
    assert again.append({"step": 4})
    assert [r["step"] for r in read(path)] == [3, 4]


@pytest.mark.parametrize("torn", [b'{"step": 2, "lo', b'{"step": 2}', b"{", b"\xff"])
def test_writer_torn_last_line_is_ignored_and_repaired(path, torn):
    SpoolWriter(path).append({"step": 1})
    with path.open("ab") as stream:
        stream.write(torn)
    assert read(path) == [{"step": 1}]
    writer = SpoolWriter(path)
    assert path.read_bytes() == b'{"step": 1}\n'
    assert writer.append({"step": 2, "loss": 1.0})
    assert read(path) == [{"step": 1}, {"step": 2, "loss": 1.0}]


@pytest.mark.parametrize("content", [b"", b'{"step": 9'])
def test_writer_file_without_a_whole_line_starts_anew(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    writer = SpoolWriter(path)
    assert writer.last_step == -1 and writer.append({"step": 0})
    assert read(path) == [{"step": 0}]


def test_read_missing_file_is_empty(path):
    assert read(path) == [] and SpoolReader(path).records() == []


def test_reader_gives_each_record_once_as_it_comes(path):
    reader, writer = SpoolReader(path), SpoolWriter(path)
    assert reader.records() == []
    writer.append({"step": 0})
    writer.append({"step": 1})
    assert [r["step"] for r in reader.records()] == [0, 1]
    assert reader.records() == []
    writer.append({"step": 2})
    assert [r["step"] for r in reader.records()] == [2]


def test_reader_waits_for_the_end_of_a_line(path):
    reader = SpoolReader(path)
    line = json.dumps({"step": 0, "text": "é"}, ensure_ascii=False).encode() + b"\n"
    path.parent.mkdir()
    got = []
    for i in range(len(line)):  # the file grows byte by byte
        with path.open("ab") as stream:
            stream.write(line[i : i + 1])
        got.append(reader.records())
    assert got == [[]] * (len(line) - 1) + [[{"step": 0, "text": "é"}]]


def test_reader_survives_the_repair_of_a_torn_line(path):
    writer, reader = SpoolWriter(path), SpoolReader(path)
    writer.append({"step": 0})
    with path.open("ab") as stream:
        stream.write(b'{"step": 1, "to')
    assert [r["step"] for r in reader.records()] == [0]
    SpoolWriter(path).append({"step": 1})
    assert [r["step"] for r in reader.records()] == [1]
