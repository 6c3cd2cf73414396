"""listing: what is new in the input, without a byte stored or a link fetched."""

from __future__ import annotations

import hashlib
import zipfile

import fsspec
import pytest

from pipeline.download import PARAMS, download
from pipeline.errors import BadDataError, InputMissingError
from pipeline.listing import Sample, changes


@pytest.fixture
def brought(project, picture):
    """A workspace that has downloaded five pictures of a folder; returns (its parameters, the folder)."""
    folder = project.root / "pictures"
    (folder / "cats").mkdir(parents=True)
    for number in range(5):
        (folder / f"cats/{number}.png").write_bytes(picture(number))
    values = project.values(PARAMS, download__source="path", download__path=str(folder))
    download(values, project.paths)
    return values, folder


def test_input_that_stayed_has_no_changes(project, brought):
    values, folder = brought
    (folder / "cats/0.png").touch()
    found = changes(values, project.paths)
    assert (found.known, found.new, found.gone, found.share) == (5, [], 0, 0.0)


def test_new_gone_and_changed_files_are_told_by_their_content(project, brought, picture):
    values, folder = brought
    before = changes(values, project.paths).sha256
    (folder / "cats/0.png").rename(folder / "cats/moved.png")  # the same picture
    (folder / "cats/1.png").write_bytes(picture(99))  # one gone and one new
    (folder / "cats/2.png").unlink()
    (folder / "dog.png").write_bytes(picture(7))
    found = changes(values, project.paths)
    assert (found.known, found.new, found.gone) == (5, ["cats/1.png", "dog.png"], 2)
    assert found.share == pytest.approx(4 / 5) and found.sha256 != before


def test_content_of_new_files_is_kept_and_no_other(project, brought, picture, tmp_path):
    values, folder = brought
    for number in range(5, 60):
        (folder / f"{number}.png").write_bytes(picture(number))
    expected = sorted((picture(n) for n in range(5, 60)), key=lambda content: hashlib.sha256(content).hexdigest())[:20]
    kept = tmp_path / "kept"
    kept.mkdir()
    sample = Sample(kept, 20)
    assert len(changes(values, project.paths, sample.keep).new) == 55
    assert list(sample.contents()) == expected
    assert len(list(kept.iterdir())) == 20


def test_archive_is_read_member_by_member(project, picture, tmp_path):
    archive = tmp_path / "all.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        stream.writestr("a.png", picture(1))
    values = project.values(PARAMS, download__source="path", download__path=str(archive))
    download(values, project.paths)
    with zipfile.ZipFile(archive, "a") as stream:
        stream.writestr("b.png", picture(2))
    found = changes(values, project.paths)
    assert (found.known, found.new, found.gone) == (1, ["b.png"], 0)
    archive.write_bytes(b"no archive")
    with pytest.raises(BadDataError):
        changes(values, project.paths)
    archive.unlink()
    with pytest.raises(InputMissingError):
        changes(values, project.paths)


def test_list_of_links_is_known_by_its_rows_alone(project, picture, tmp_path):
    (tmp_path / "a.png").write_bytes(picture(1))
    links = tmp_path / "links.csv"
    links.write_text("url\na.png\nhttp://127.0.0.1:1/never.png\n")
    values = project.values(
        PARAMS, download__source="manifest", download__path=str(links), download__attempts=1, download__deadline_seconds=1.0
    )
    download(values, project.paths)
    assert changes(values, project.paths).share == 0  # what could not be brought is nothing new either
    links.write_text("url\na.png\nhttp://127.0.0.1:1/another.png\n")
    found = changes(values, project.paths)
    assert (found.known, len(found.new), found.gone) == (2, 1, 1)


def test_folder_of_an_object_store_is_listed(project, picture):
    store = fsspec.filesystem("memory")
    store.pipe("/listed/all/1.png", picture(1))
    values = project.values(PARAMS, download__source="remote", download__url="memory://listed/all/")
    download(values, project.paths)
    store.pipe("/listed/all/2.png", picture(2))
    assert changes(values, project.paths).new == ["2.png"]


def test_images_that_are_made_here_never_change(project):
    values = project.values(PARAMS, download__source="sprites", download__sprite_images=100)
    download(values, project.paths)
    assert changes(values, project.paths) is None
