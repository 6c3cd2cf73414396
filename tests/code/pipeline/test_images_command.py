"""Images: what a look at one's own pictures suggests, and params.yaml after it."""

from __future__ import annotations

import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline import images, params
from pipeline.errors import BadConfigError, BadDataError, InputMissingError, PipelineError
from pipeline.images import look, use


@pytest.fixture
def folder(tmp_path, picture):
    """``folder(name, sizes, mode)``: a folder of noise images, one per size."""

    def make(name: str, sizes: list[tuple[int, int]], mode: str = "RGB") -> Path:
        (tmp_path / name).mkdir()
        for i, (width, height) in enumerate(sizes):
            (tmp_path / name / f"{i:03d}.png").write_bytes(picture(i, width, height, mode))
        return tmp_path / name

    return make


def written(project) -> dict:
    """params.yaml, checked as the stages do."""
    text = project.paths.params.read_text()
    params.check(text, "params.yaml")
    return yaml.safe_load(text)


def test_use_small_grey_squares_keep_their_size_and_mode(project, folder):
    origin = folder("digits", [(28, 28)] * 12, "L")
    use(str(origin), project.paths)
    now = written(project)
    assert (now["base"]["mode"], now["base"]["image_size"]) == ("L", 28)
    assert now["download"]["source"] == "path" and now["download"]["path"] == str(origin)
    assert now["register"]["name"] == "digits" and now["augment"]["copies"] == 0 and not now["augment"]["on_the_fly"]


@pytest.mark.parametrize(
    ("sizes", "side"),
    [
        ([(40, 50), (60, 41), (45, 45)], 32),
        ([(640, 480), (300, 900), (200, 200)], 64),
        ([(64, 64)] * 3, 64),
        ([(63, 63)] * 3, 32),
        ([(30, 30)] * 3, 32),  # does not divide by the model's strides
        ([(28, 29), (28, 28), (28, 28)], 32),  # not all square
    ],
)
def test_use_photographs_get_one_of_the_offered_sizes(project, folder, sizes, side):
    use(str(folder("Photos 2024", sizes)), project.paths)
    now = written(project)
    assert (now["base"]["mode"], now["base"]["image_size"]) == ("RGB", side)
    assert now["register"]["name"] == "photos-2024"


def test_use_one_coloured_picture_among_grey_ones_makes_it_colour(project, folder, picture):
    origin = folder("mixed", [(28, 28)] * 5, "L")
    (origin / "colour.png").write_bytes(picture(9, 28, 28))
    use(str(origin), project.paths)
    assert written(project)["base"]["mode"] == "RGB"


def test_use_few_images_rank_the_search_by_the_bound(project, folder, monkeypatch):
    origin = folder("few", [(28, 28)] * 6)
    monkeypatch.setattr(images, "FEW_IMAGES", 6)
    assert "tune.score" not in use(str(origin), project.paths)
    assert written(project)["tune"]["score"] == "fcd"
    project.paths.params.write_text(project.text)
    monkeypatch.setattr(images, "FEW_IMAGES", 7)
    assert use(str(origin), project.paths)["tune.score"] == "elbo_nats"
    assert written(project)["tune"]["score"] == "elbo_nats"


def test_use_twice_changes_nothing_even_what_was_edited_since(project, folder):
    origin = folder("digits", [(28, 28)] * 4, "L")
    use(str(origin), project.paths)
    text = params.edited(project.paths.params.read_text(), {"base.image_size": 16, "augment.copies": 3})
    project.paths.params.write_text(text)
    assert use(str(origin), project.paths) == {}
    assert project.paths.params.read_text() == text


def test_use_changes_the_lines_it_reports_and_no_other(project, folder):
    changed = use(str(folder("digits", [(28, 28)] * 4, "L")), project.paths)
    before, after = project.text.splitlines(), project.paths.params.read_text().splitlines()
    assert len(before) == len(after)
    different = {new.split(":")[0].strip() for old, new in zip(before, after, strict=True) if old != new}
    assert different <= {key.split(".")[1] for key in changed}
    assert [line.split("#")[1:] for line in before] == [line.split("#")[1:] for line in after]


@pytest.mark.parametrize("name", ["it's: a #1 'folder'", "写真 ü", "- dash", "{x}", "&y"])
def test_use_odd_folder_names_are_written_so_that_they_are_read_back(project, folder, name):
    origin = folder(name, [(32, 32)] * 3)
    use(str(origin), project.paths)
    now = written(project)
    assert now["download"]["path"] == str(origin)
    assert now["register"]["name"]


def test_use_name_without_letters_becomes_images(project, folder):
    use(str(folder("写真", [(32, 32)] * 3)), project.paths)
    assert written(project)["register"]["name"] == "images"


def test_use_invalid_parameters_are_refused_and_kept(project, folder):
    text = project.text.replace("seed: 0", "seed: none")
    project.paths.params.write_text(text)
    with pytest.raises(BadConfigError):
        use(str(folder("digits", [(28, 28)] * 3)), project.paths)
    assert project.paths.params.read_text() == text


def test_use_images_too_small_for_any_model_still_leave_valid_parameters(project, folder):
    use(str(folder("tiny", [(4, 4)] * 3)), project.paths)
    assert written(project)["base"]["image_size"] >= 8


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("nowhere", None, InputMissingError),
        ("empty", {}, InputMissingError),
        ("text", {"a.txt": b"no image"}, BadDataError),
        ("a.rar", b"Rar!", BadDataError),
        ("a.zip", b"no zip", BadDataError),
        ("a.tar.gz", b"no tar", BadDataError),
        ("a.csv", b"name,number\nx,1\n", BadDataError),
        ("a.csv", b"url\n", InputMissingError),
        ("a.parquet", b"no table", BadDataError),
        ("a.npz", b"no arrays", BadDataError),
    ],
)
def test_use_input_that_cannot_be_used_is_refused_and_nothing_written(project, tmp_path, name, content, kind):
    origin = tmp_path / name
    if isinstance(content, bytes):
        origin.write_bytes(content)
    elif content is not None:
        origin.mkdir()
        for file, data in content.items():
            (origin / file).write_bytes(data)
    with pytest.raises(PipelineError) as caught:
        use(str(origin), project.paths)
    assert type(caught.value) is kind and caught.value.exit_code == (66 if kind is InputMissingError else 65)
    assert origin.name in str(caught.value)
    assert project.paths.params.read_text() == project.text


def test_look_archives_show_what_the_folder_shows(folder):
    origin = folder("digits", [(28, 28)] * 7 + [(20, 30)], "L")
    archive, tar = origin.with_suffix(".zip"), origin.with_suffix(".tar.gz")
    with zipfile.ZipFile(archive, "w") as opened:
        for file in origin.iterdir():
            opened.write(file, file.name)
    with tarfile.open(tar, "w:gz") as opened:
        opened.add(origin, ".")
    assert look(archive) == look(tar) == look(origin) == images.Look(8, True, None, 28)


def test_look_samples_are_spread_over_all_files(folder, monkeypatch):
    origin = folder("many", [(28, 28)] * 20 + [(40, 40)] * 20)
    monkeypatch.setattr(images, "LOOKED_AT", 4)
    seen = look(origin)
    assert seen.files == 40 and seen.square_side is None and 28 < seen.short_side < 40


def test_look_a_broken_file_among_good_ones_is_no_obstacle(folder):
    origin = folder("some", [(28, 28)] * 3)
    (origin / "000.png").write_bytes(b"broken")
    assert look(origin).square_side == 28


@pytest.mark.timeout(20)
def test_look_fifo_and_links_are_left_alone(folder, tmp_path):
    origin = folder("some", [(28, 28)] * 3)
    os.mkfifo(origin / "pipe.png")
    (origin / "link.png").symlink_to(tmp_path / "elsewhere.png")
    assert look(origin).files == 3


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_use_list_of_links_selects_the_manifest_source_and_its_columns(project, tmp_path, kind):
    path = tmp_path / f"my links.{kind}"
    table = pd.DataFrame({"Image_URL": ["http://127.0.0.1:1/1.png"] * 3, "class": ["a"] * 3, "sha256": [""] * 3})
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    before = written(project)["base"]
    changed = use(str(path), project.paths)
    now = written(project)
    download = now["download"]
    assert (download["source"], download["path"], download["url_column"]) == ("manifest", str(path), "Image_URL")
    assert (download["label_column"], download["split_column"], download["sha256_column"]) == ("class", "", "sha256")
    assert now["base"] == before and "base.mode" not in changed  # nobody was asked, so nothing is known
    assert now["register"]["name"] == "my-links"
    assert use(str(path), project.paths) == {}


def test_use_list_of_paths_is_looked_at(project, folder):
    origin = folder("digits", [(28, 28)] * 4, "L")
    (origin.parent / "list.csv").write_text("path\n" + "".join(f"digits/{i:03d}.png\n" for i in range(4)))
    use(str(origin.parent / "list.csv"), project.paths)
    now = written(project)
    assert (now["base"]["mode"], now["base"]["image_size"], now["download"]["url_column"]) == ("L", 28, "path")


def test_look_damaged_member_of_a_zip_is_no_obstacle_and_a_hostile_one_is_named(folder):
    origin = folder("digits", [(28, 28)] * 4)
    archive = origin.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as opened:
        for file in sorted(origin.iterdir()):
            opened.write(file, file.name)
    data = bytearray(archive.read_bytes())
    data[data.index(b"PK\x03\x04")] ^= 1  # the first one's own header
    archive.write_bytes(data)
    assert look(archive) == images.Look(4, False, 28, 28)
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("../../x.png", b"x")
    with pytest.raises(BadDataError, match="leads out of the archive"):
        look(archive)


@pytest.mark.parametrize(("shape", "seen"), [((9, 28, 28), (9, True, 28, 28)), ((4, 20, 30, 3), (4, False, None, 20))])
def test_use_arrays_are_known_by_their_headers(project, tmp_path, shape, seen):
    np.savez(tmp_path / "My set.npz", x_train=np.zeros(shape, np.uint8))
    assert look(tmp_path / "My set.npz") == images.Look(*seen)
    use(str(tmp_path / "My set.npz"), project.paths)
    assert written(project)["register"]["name"] == "my-set" and written(project)["download"]["source"] == "path"


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning", "error::ResourceWarning")
def test_look_leaves_no_file_open(folder):
    origin = folder("digits", [(28, 28)] * 3)
    archive, tar = origin.with_suffix(".zip"), origin.with_suffix(".tar.gz")
    with zipfile.ZipFile(archive, "w") as opened:
        opened.write(origin / "000.png", "0.png")
    with tarfile.open(tar, "w:gz") as opened:
        opened.add(origin, ".")
    before = set(os.listdir("/proc/self/fd"))
    for path in (archive, tar, origin):
        look(path)
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tgz"])
def test_suggest_name_of_an_archive_is_its_stem(tmp_path, suffix):
    seen = images.Look(10, True, 28, 28)
    assert images.suggest(tmp_path / f"My.Set{suffix}", seen, 4)["register.name"] == "my-set"


def test_suggest_latents_of_a_training_without_search_are_the_most_of_one_with(tmp_path):
    for seen in (images.Look(10_000, True, 28, 28), images.Look(10_000, False, None, 300)):
        values = images.suggest(tmp_path, seen, 4)
        assert values["train.latent_dim"] == values["tune.latent_dim_max"] > values["tune.latent_dim_min"]
