"""Download: data/raw is whole, described by its manifest, or as it was."""

from __future__ import annotations

import json

import pytest

from pipeline import download as module
from pipeline.download import PARAMS, download
from pipeline.errors import CannotWriteError, InputMissingError
from vae.files import DamagedError, read_manifest


def contents(folder) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_download_sprites_manifest_describes_what_is_there(project):
    download(project.values(PARAMS, download__sprite_images=150), project.paths)
    facts = read_manifest(project.paths.raw)
    assert facts == {"files": 150, "failed": 0}
    manifest = json.loads((project.paths.raw / "MANIFEST.json").read_text())
    assert set(manifest["files"]) == {"images-00000.zip", "files.parquet", "failed.csv"}


def test_download_same_parameters_same_bytes(project):
    values = project.values(PARAMS, download__sprite_images=110)
    download(values, project.paths)
    first = contents(project.paths.raw)
    download(values, project.paths)
    assert contents(project.paths.raw) == first


def test_download_own_images_replace_the_sprites(project, tmp_path, picture):
    download(project.values(PARAMS, download__sprite_images=100), project.paths)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/1.png").write_bytes(picture(1))
    download(project.values(PARAMS, download__source="path", download__path=str(tmp_path / "photos")), project.paths)
    assert set(contents(project.paths.raw)) == {"images-00000.zip", "files.parquet", "failed.csv", "MANIFEST.json"}
    assert read_manifest(project.paths.raw) == {"files": 1, "failed": 0}


def test_download_failure_leaves_the_old_data_and_no_part(project, tmp_path):
    download(project.values(PARAMS, download__sprite_images=100), project.paths)
    before = contents(project.paths.raw.parent)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputMissingError):
        download(project.values(PARAMS, download__source="path", download__path=str(tmp_path / "empty")), project.paths)
    assert contents(project.paths.raw.parent) == before
    assert [p.name for p in project.paths.raw.parent.iterdir()] == ["raw"]


def test_download_without_room_stops_before_it_writes(project, monkeypatch):
    monkeypatch.setattr(module, "SPARE_BYTES", 2**60)
    with pytest.raises(CannotWriteError, match="free some space") as caught:
        download(project.values(PARAMS), project.paths)
    assert caught.value.exit_code == 73
    assert not project.paths.raw.parent.exists()


def test_download_damage_is_found_by_the_manifest(project):
    download(project.values(PARAMS, download__sprite_images=100), project.paths)
    archive = project.paths.raw / "images-00000.zip"
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(data)
    with pytest.raises(DamagedError, match=r"images-00000\.zip"):
        read_manifest(project.paths.raw)
