"""The command vae: what it writes is what the model says, and whatever is wrong is one line and an exit code."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from pipeline import ledger
from pipeline.cli import data, doctor, models, numbers, registry, sample
from pipeline.cli.app import app
from pipeline.paths import INDEX, Paths
from pipeline.registry import Registry
from pipeline.tracking import Tracker
from saved import saved_model
from vae.artefact import load_artefact, save_artefact
from vae.data import ShardWriter
from vae.denoise import averaged, denoised
from vae.files import MANIFEST, sha256_file, write_manifest
from vae.pictures import GAP_PIXELS

sample.add_to(app)
models.add_to(app)
numbers.add_to(app)
doctor.add_to(app)
app.add_typer(registry.app, name="registry")
app.add_typer(data.app, name="data")
app.command()(registry.report)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder to be in, with the model ``m`` and one of three classes, ``k``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it, and another test's store would be found
    saved_model(tmp_path / "m")
    saved_model(tmp_path / "k", classes=3)
    return tmp_path


def vae(*arguments: str, given: bytes | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=given)


def refused(result: Result, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    lines = [line for line in result.stderr.splitlines() if ": error: " in line]
    assert lines and "Traceback" not in result.output
    assert all(word in "\n".join(lines) for word in words), result.stderr


def picture(path: Path, size: tuple[int, int] = (20, 16), mode: str = "RGB", seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3)).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def test_sample_writes_what_the_generator_draws_in_every_form(here):
    expected = load_artefact(here / "m").sample(10, 3)
    for out in ("a.npz", "a.png", "b.png", "a.gif", "a.webp", "folder"):
        assert vae("sample", "10", "-m", "m", "--seed", "3", "-o", out).exit_code == 0
    with np.load(here / "a.npz") as stored:
        np.testing.assert_array_equal(stored["images"], expected)
    assert (here / "a.png").read_bytes() == (here / "b.png").read_bytes()
    assert Image.open(here / "a.png").size == (8 * 10 + 2, 2 * 10 + 2)  # eight columns, two rows, gaps of two pixels
    assert Image.open(here / "a.gif").n_frames == Image.open(here / "a.webp").n_frames == 10
    files = sorted((here / "folder").iterdir())
    assert len(files) == 10
    for file, image in zip(files, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(file)), image)
    result = vae("sample", "10", "-m", "m", "--seed", "3", "-o", "-")
    assert result.stdout_bytes == (here / "a.png").read_bytes()
    vae("sample", "10", "-m", "m", "--seed", "4", "-o", "b.png")
    assert (here / "a.png").read_bytes() != (here / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("sample", "0", "-m", "m"), 78, ("n is 0: 1 to 100000",)),
        (("sample", "1000000000", "-m", "m"), 78, ("n is 1000000000",)),
        (("sample", "-m", "m", "--temperature", "-1"), 78, ("--temperature is -1",)),
        (("sample", "-m", "m", "--temperature", "nan"), 78, ("--temperature is nan",)),
        (("sample", "-m", "m", "--label", "ape"), 78, ("unknown label 'ape'", "the model has no classes")),
        (("sample", "-m", "k", "--label", "aep"), 78, ("unknown label 'aep'", "did you mean 'ape'?")),
        (("sample", "-m", "m", "-o", "a.bmp"), 78, (".bmp is not written", ".webp")),
        (("sample", "-m", "no/such:thing"), 78, ("names no model",)),
        (("sample", "-m", "champion"), 66, ("params.yaml does not exist", "models:/cats@champion")),
        (("sample", "-m", "models:/cats@champion"), 66, ("models:/cats has no version or alias 'champion'",)),
        (("reconstruct", "no.png", "-m", "m"), 66, ("no.png does not exist",)),
        (
            ("reconstruct", "m/config.json", "m/MANIFEST.json", "-m", "m"),
            65,
            ("config.json cannot be used", "MANIFEST.json cannot be used"),
        ),
        (("decode", "no.npz", "-m", "m"), 66, ("no.npz does not exist",)),
        (("encode", "m", "-m", "m", "-o", "a.csv"), 78, ("latents are written as .npz or .parquet",)),
    ],
)
def test_what_cannot_be_done_is_one_line_and_a_code(here, arguments, code, words):
    before = sorted(path.name for path in here.iterdir())
    refused(vae(*arguments), code, *words)
    assert sorted(path.name for path in here.iterdir() if not path.name.startswith("ml") and path.name != ".work") == before


def test_label_is_asked_for_and_given(here):
    drawn = [vae("sample", "6", "-m", "k", "--label", label, "-o", "-").stdout_bytes for label in ("ape", "bee", "ape")]
    assert drawn[0] == drawn[2]
    picture(here / "a.png")
    refused(vae("reconstruct", "a.png", "-m", "k"), 78, "--label is needed", "ape, bee, cat")
    assert vae("reconstruct", "a.png", "-m", "k", "--label", "cat", "-o", "b.png").exit_code == 0


def test_reconstruct_takes_pictures_of_any_size_and_mode_also_from_standard_input(here):
    (here / "in").mkdir()
    for number, (size, mode) in enumerate([((8, 8), "RGB"), ((30, 20), "L"), ((20, 30), "RGBA"), ((9, 9), "P")]):
        picture(here / "in" / f"{number}.png", size, mode, number)
    picture(here / "in" / "4.jpg", (64, 48), seed=4)
    assert vae("reconstruct", "in", "-m", "m", "-o", "out.npz").exit_code == 0
    assert vae("reconstruct", "in", "-m", "m", "-o", "out.png").exit_code == 0
    generator = load_artefact(here / "m")
    with np.load(here / "out.npz") as stored:
        copies = stored["images"]
    first = np.asarray(Image.open(here / "in/0.png"))
    np.testing.assert_array_equal(copies[:1], generator.reconstruct(first[None]))
    sheet = np.asarray(Image.open(here / "out.png"))
    assert sheet.shape == (2 * 10 + 2, 5 * 10 + 2, 3)
    np.testing.assert_array_equal(sheet[2:10, 2:10], first)
    np.testing.assert_array_equal(sheet[12:20, 42:50], copies[4])
    piped = vae("reconstruct", "-", "-m", "m", "-o", "-", given=(here / "in/0.png").read_bytes())
    seen = np.asarray(Image.open(io.BytesIO(piped.stdout_bytes)))
    np.testing.assert_array_equal(seen[12:20, 2:10], copies[0])


def test_more_pictures_than_columns_stand_above_their_copies(here):
    (here / "in").mkdir()
    for number in range(11):
        picture(here / "in" / f"{number:02d}.png", (8, 8), seed=number)
    assert vae("reconstruct", "in", "-m", "m", "-o", "out.png").exit_code == 0
    sheet = np.asarray(Image.open(here / "out.png"))
    assert sheet.shape == (4 * 10 + 2, 8 * 10 + 2, 3)
    np.testing.assert_array_equal(sheet[22:30, 22:30], np.asarray(Image.open(here / "in/10.png")))
    assert (sheet[22:, 32:] == 255).all()  # the rest of the last rows


def test_interpolation_goes_from_one_copy_to_the_other(here):
    for name, seed in (("a.png", 1), ("b.png", 2)):
        picture(here / name, (8, 8), seed=seed)
    generator = load_artefact(here / "m")
    ends = generator.reconstruct(np.stack([np.asarray(Image.open(here / name)) for name in ("a.png", "b.png")]))
    for way in ((), ("--linear",)):
        assert vae("interpolate", "a.png", "b.png", "-m", "m", "--steps", "5", "-o", "way.npz", *way).exit_code == 0
        with np.load(here / "way.npz") as stored:
            images = stored["images"]
        assert images.shape == (5, 8, 8, 3)
        assert np.abs(images[[0, -1]].astype(int) - ends).max() <= 1  # the great circle's ends are rounded
    assert vae("interpolate", "a.png", "b.png", "-m", "m", "--steps", "1").exit_code == 2


def test_traversal_moves_the_latents_that_were_named(here):
    picture(here / "a.png", (8, 8))
    assert vae("traverse", "a.png", "-m", "m", "--dimensions", "0,2", "--steps", "4", "-o", "t.npz").exit_code == 0
    generator = load_artefact(here / "m")
    (z_D,), _ = generator.encode(np.asarray(Image.open(here / "a.png"))[None])
    z_ND = z_D.repeat(8, 1)
    z_ND[:4, 0], z_ND[4:, 2] = torch.linspace(-3, 3, 4), torch.linspace(-3, 3, 4)
    with np.load(here / "t.npz") as stored:
        np.testing.assert_array_equal(stored["images"], generator.decode(z_ND))
    refused(vae("traverse", "a.png", "-m", "m", "--dimensions", "0,3,x"), 78, "3, x are none of the model's latents 0 to 2")


def test_latents_go_out_and_come_back(here):
    picture(here / "a.png", (8, 8))
    assert vae("encode", "a.png", "a.png", "-m", "m", "-o", "z.npz").exit_code == 0
    assert vae("decode", "z.npz", "-m", "m", "-o", "back.npz").exit_code == 0
    with np.load(here / "z.npz") as latents, np.load(here / "back.npz") as back:
        assert latents["names"].tolist() == ["a.png", "a.png"] and latents["mean"].shape == latents["log_variance"].shape == (
            2,
            3,
        )
        expected = load_artefact(here / "m").reconstruct(np.asarray(Image.open(here / "a.png"))[None])
        np.testing.assert_array_equal(back["images"][1:], expected)
    wrong = {"wide.npz": {"mean": np.zeros((2, 4))}, "nan.npz": {"latents": np.full((1, 3), np.nan)}, "other.npz": {"x": 1}}
    for name, content in wrong.items():
        np.savez(here / name, **content)
        refused(vae("decode", name, "-m", "m"), 65, "holds no finite array mean or latents of (1 to 100000, 3)")
    np.savez(here / "evil.npz", mean=np.array([Evil()], object))
    refused(vae("decode", "evil.npz", "-m", "m"), 65, "is no file of numbers")
    assert not (here / "ran").exists()


class Evil:
    """Unpickled, it leaves a file."""

    def __reduce__(self):
        return (open, ("ran", "w"))


def test_score_ranks_the_unlikely_first(here):
    (here / "in").mkdir()
    for number in range(5):
        picture(here / "in" / f"{number}.png", (8, 8), seed=number)
    pixels = np.stack([np.asarray(Image.open(here / "in" / f"{number}.png")) for number in range(5)])
    bound = load_artefact(here / "m").bound(pixels, seed=2).tolist()
    found = json.loads(vae("score", "in", "-m", "m", "--seed", "2", "--json").stdout)
    assert [each["elbo_nats"] for each in found] == sorted(bound)
    assert {each["image"]: each["elbo_nats"] for each in found} == {f"in/{n}.png": value for n, value in enumerate(bound)}
    lines = vae("score", "in", "-m", "m", "--seed", "2").stdout.splitlines()
    assert [line.split()[-1] for line in lines] == [each["image"] for each in found]


def test_denoise_writes_what_explains_the_pictures(here):
    generator = load_artefact(here / "m")
    noise = np.random.default_rng(0).normal(0, 20, (3, 8, 8, 3))
    noisy = (generator.sample(3, 0) + noise).clip(0, 255).astype(np.uint8)
    for number, image in enumerate(noisy):
        Image.fromarray(image).save(here / f"{number}.png")
    names = ["0.png", "1.png", "2.png"]
    assert vae("denoise", *names, "-m", "m", "--sigma", "20", "-o", "a.npz").exit_code == 0
    with np.load(here / "a.npz") as stored:
        np.testing.assert_array_equal(stored["images"], denoised(generator, noisy, np.full(3, 20.0)))
    told = vae("denoise", *names, "-m", "m", "-o", "a.png")
    assert told.exit_code == 0 and told.stderr.count("levels of noise estimated in") == 3
    assert Image.open(here / "a.png").size == (3 * 10 + 2, 2 * 10 + 2)  # each above its result
    refused(vae("denoise", "0.png", "-m", "m", "--sigma", "0"), 78, "0.5 to 255 levels")


def test_denoise_by_a_model_that_was_trained_for_it(here):
    generator = saved_model(here / "d", denoise_levels=40.0)
    noisy = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    for number, image in enumerate(noisy):
        Image.fromarray(image).save(here / f"{number}.png")
    assert vae("denoise", "0.png", "1.png", "-m", "d", "--sigma", "40", "--samples", "6", "-o", "a.npz").exit_code == 0
    with np.load(here / "a.npz") as stored:
        np.testing.assert_array_equal(stored["images"], averaged(generator, noisy, 6))
    told = vae("denoise", "0.png", "-m", "d", "-o", "a.png")
    assert told.exit_code == 0 and "more than the 40 that the model has learned" in told.stderr  # every pixel is noise
    refused(vae("denoise", "0.png", "-m", "d", "--sigma", "41"), 78, "sigma is 41: this model was trained for noise of up to 40")
    assert vae("denoise", "0.png", "-m", "d", "--samples", "0").exit_code == 2


def test_latents_go_into_a_table_and_back(here):
    for number in range(3):
        picture(here / f"{number}.png", (8, 8), seed=number)
    names = ["0.png", "1.png", "2.png"]
    for out in ("z.npz", "z.parquet"):
        assert vae("encode", *names, "-m", "m", "-o", out).exit_code == 0
        assert vae("decode", out, "-m", "m", "-o", f"{out}.images.npz").exit_code == 0
    table = pd.read_parquet(here / "z.parquet")
    assert table["name"].tolist() == names
    with np.load(here / "z.npz") as stored:
        for kind in ("mean", "log_variance"):
            np.testing.assert_array_equal(table[[f"{kind}_{d}" for d in range(3)]].to_numpy(), stored[kind])
    with np.load(here / "z.npz.images.npz") as first, np.load(here / "z.parquet.images.npz") as second:
        np.testing.assert_array_equal(first["images"], second["images"])
    table.drop(columns="mean_1").to_parquet(here / "gap.parquet")
    refused(vae("decode", "gap.parquet", "-m", "m"), 65, "gap.parquet")
    (here / "no.parquet").write_bytes(b"PAR1 no")
    refused(vae("decode", "no.parquet", "-m", "m"), 65, "no.parquet is no file of numbers")


def test_nearest_tells_and_draws_training_images(here):
    train = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3)).astype(np.uint8)  # those of saved_model
    Image.fromarray(train[7]).save(here / "seven.png")
    expected = load_artefact(here / "m").nearest(train[7:8], count=3)[0]
    (row,) = json.loads(vae("nearest", "seven.png", "-m", "m", "--count", "3", "--json").stdout)
    assert row == {"image": "seven.png", "nearest": [{"name": n, "distance": d} for n, d in expected.tolist()]}
    assert row["nearest"][0]["name"] == "07.png"  # at a distance of rounding: the others were encoded in a larger batch
    lines = vae("nearest", "seven.png", "-m", "m", "--count", "3").stdout.splitlines()
    assert lines[0] == "seven.png" and [line.split()[-1] for line in lines[1:]] == expected["name"].tolist()
    refused(vae("nearest", "seven.png", "-m", "m", "-o", "a.gif"), 78, "draws a .png")
    refused(vae("nearest", "seven.png", "-m", "m", "-o", "a.png"), 66, "do not lie in")
    paths = Paths(here)
    writer = ShardWriter(paths.processed / "train", (8, 8, 3), 25)
    writer.add_all(train)
    writer.close()
    table = {"path": ["other.png", *(f"{i:02d}.png" for i in range(60))], "split": ["test"] + ["train"] * 60}
    pd.DataFrame(table).to_parquet(paths.processed / INDEX)
    write_manifest(paths.processed)
    generator = load_artefact(here / "m")
    generator.contract["data_manifest"] = sha256_file(paths.processed / MANIFEST)
    (here / "ours").mkdir()
    save_artefact(here / "ours", generator)
    assert vae("nearest", "seven.png", "-m", "ours", "--count", "3", "-o", "a.png").exit_code == 0
    drawn = np.asarray(Image.open(here / "a.png"))
    for column, place in enumerate(["07.png", *expected["name"]]):
        left = GAP_PIXELS + column * (8 + GAP_PIXELS)
        np.testing.assert_array_equal(drawn[GAP_PIXELS:][:8, left : left + 8], train[int(place[:2])])


def test_damaged_model_is_told(here):
    (here / "m/prior.safetensors").write_bytes(b"x")
    refused(vae("sample", "-m", "m"), 65, "prior.safetensors")


def test_registry_commands_tell_and_do(project, monkeypatch):
    monkeypatch.chdir(project.root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    refused(vae("registry", "versions"), 66, "models:/sprites has no versions")
    refused(vae("registry", "history"), 66, "models:/sprites does not exist")
    tracker = Tracker(Paths.here())
    tracker.client.create_registered_model("sprites")
    known = Registry(tracker, "sprites")
    for _ in range(3):
        tracker.client.create_model_version("sprites", "file:///nowhere", tags={"vaeline.decision": "because"})
    for version in ("1", "2"):
        assert f"-> {version}" in vae("registry", "promote", version, "--reason", "it smiles").stdout
    rows = json.loads(vae("registry", "versions", "--json").stdout)
    assert [row["version"] for row in rows if row["champion"]] == [2]
    assert [row["decision"] for row in rows] == ["it smiles"] * 2 + ["because"]
    assert "* 2" in vae("registry", "versions").stdout
    assert "champion 2 -> 1" in vae("registry", "rollback").stdout
    assert "champion 2 -> 1" in vae("registry", "rollback").stdout and known.champion() == "1"
    told = json.loads(vae("registry", "history", "--json").stdout)
    assert (
        [entry["event"] for entry in told]
        == ["promoted", "promoted", "rolled back"]
        == [e["event"] for e in ledger.history(known)]
    )
    assert "it smiles" in vae("registry", "history").stdout
    assert vae("registry", "gc", "--keep", "2").stdout.strip() == "0 versions would be deleted (with --really)"
    tracker.client.create_model_version("sprites", "file:///nowhere")
    assert vae("registry", "gc", "--keep", "2").stdout.strip() == "1 versions would be deleted (with --really): 2"
    assert vae("registry", "gc", "--keep", "2", "--really").stdout.strip() == "1 versions deleted: 2"
    assert known.versions() == ["1", "3", "4"]


def test_doctor_says_what_is_wrong_and_what_to_do(project, monkeypatch):
    monkeypatch.chdir(project.root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found = {check["name"]: check for check in json.loads(vae("doctor", "--json").stdout)}
    assert {"Python", "packages", "free disk", "params.yaml", "MLflow"} <= set(found) and found["Python"]["well"]
    project.paths.params.write_text(project.text.replace("seed: ", "sed: ", 1))
    result = vae("doctor")
    assert result.exit_code == 69 and "WRONG  params.yaml" in result.stdout and "base.sed" in result.stdout


def test_store_of_another_mlflow_and_a_file_that_is_no_store_are_told_as_that(project, monkeypatch):
    monkeypatch.chdir(project.root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Tracker(project.paths)
    with contextlib.closing(sqlite3.connect(project.paths.mlflow_database)) as store:
        store.execute("update alembic_version set version_num = '451aebb31d03'")  # of MLflow 1
        store.commit()
    code = "from pipeline.cli.app import main; main()"  # MLflow keeps what it knows of a store: another process
    command = [sys.executable, "-c", code, "registry", "versions"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 69 and "another version of MLflow: copy it, then `mlflow db upgrade sqlite:" in done.stderr
    project.paths.mlflow_database.write_bytes(b"no database" * 1000)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 69 and "cannot be used" in done.stderr and "Traceback" not in done.stderr


def test_data_is_looked_at_used_and_checked(project, monkeypatch):
    monkeypatch.chdir(project.root)
    folder = project.root / "photos"
    folder.mkdir()
    for seed in range(4):
        picture(folder / f"{seed}.png", (40, 40), seed=seed)
    told = vae("data", "look", "photos")
    assert told.exit_code == 0 and "4 files, in colour, all 40 x 40 pixels" in told.output
    before = project.paths.params.read_text()
    used = vae("data", "use", str(folder))
    assert "params.yaml: download.source = path" in used.output and project.paths.params.read_text() != before
    assert "uses them already" in vae("data", "use", str(folder)).output
    refused(vae("data", "look", "nowhere"), 66, "nowhere")
    refused(vae("data", "verify"), 66, "no artefact in")


def test_doctor_names_a_port_that_is_in_use(project, monkeypatch):
    monkeypatch.chdir(project.root)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setattr("pipeline.serve.PORT", other.getsockname()[1])
        (ports,) = (check for check in json.loads(vae("doctor", "--json").stdout) if check["name"] == "ports")
        assert f"{other.getsockname()[1]} is in use: `vae serve --port" in ports["found"]
