"""Verify: a flipped bit anywhere, a missing file and an index that does not fit are found; what is whole is called so."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import BadDataError, InputMissingError
from pipeline.paths import INDEX
from pipeline.preprocess import PARAMS, preprocess
from pipeline.verify import verify
from vae.files import write_manifest

SMALL = {"base__image_size": 8, "preprocess__val_fraction": 0.3, "preprocess__test_fraction": 0.3}


@pytest.fixture
def made(project, picture):
    project.raw({f"{i}.png": picture(i) for i in range(60)})
    preprocess(project.values(PARAMS, **SMALL), project.paths)
    return project


def test_verify_calls_whole_what_is_whole_and_says_what_is_not_there(made, capsys):
    verify(made.paths)
    said = capsys.readouterr().out
    assert "data/raw: whole" in said and "data/processed: whole" in said and "models/vae: not there" in said


def test_verify_without_any_artefact_says_what_to_do(project):
    with pytest.raises(InputMissingError, match="make run"):
        verify(project.paths)


def test_verify_finds_one_flipped_bit_in_any_file(made):
    files = [p for p in made.paths.root.glob("data/**/*") if p.is_file() and p.stat().st_size]
    assert len(files) > 8
    rng = np.random.default_rng(0)
    for path in files:
        data = path.read_bytes()
        broken = bytearray(data)
        broken[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.unlink()  # not in place: the last run's memory is another name of the same bytes
        path.write_bytes(broken)
        with pytest.raises(BadDataError) as caught:
            verify(made.paths)
        assert path.parent.relative_to(made.root).parts[1] in str(caught.value) and "dvc repro --force" in str(caught.value)
        path.write_bytes(data)
    verify(made.paths)


def test_verify_names_every_damaged_artefact(made):
    (made.paths.raw / "images-00000.zip").unlink()
    (made.paths.processed / "rejected.csv").unlink()
    with pytest.raises(BadDataError) as caught:
        verify(made.paths)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2 and "single-item download" in lines[0] and "single-item preprocess" in lines[1]


def test_verify_finds_an_index_that_does_not_fit_its_shards(made):
    path = made.paths.processed / INDEX
    table = pq.read_table(path)
    path.unlink()
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), path)
    write_manifest(made.paths.processed)  # the hashes fit: only the count tells
    with pytest.raises(BadDataError, match="61 rows, the shards hold 60 images"):
        verify(made.paths)
