"""Stage augment: copies of training images only, each a function of (seed, hash, number), and a sheet that shows the policy."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from configs import fit_config, model_config
from pipeline import augment as augment_stage
from pipeline import preprocess as preprocess_stage
from pipeline.augment import PARAMS, SHEET_GAP, SHEET_LABEL, SHEET_POLICY_ROWS, augment, draw_sheet, sheet_rows, variations
from pipeline.job import Job, execute, on_the_fly
from pipeline.paths import INDEX
from vae.augment import COLOUR_ONLY, OPERATIONS, augmented, image_keys
from vae.data import ImageShards, ShardWriter
from vae.files import DamagedError, read_json, read_manifest, write_manifest

EVERYTHING = {"augment__copies": 2, "augment__noise_probability": 1.0} | {
    f"augment__{name}_probability": 0.5 for name in OPERATIONS if name != "noise"
}


@pytest.fixture
def prepared(project, picture):
    """A workspace after stage preprocess, 90 images of 8x8 pixels."""
    project.raw({f"{i:03d}.png": picture(i, 8, 8) for i in range(90)})
    changes = {"base__image_size": 8, "preprocess__val_fraction": 0.3, "preprocess__test_fraction": 0.3}
    preprocess_stage.preprocess(project.values(preprocess_stage.PARAMS, **changes), project.paths)
    return project


def copies(project) -> dict[tuple[str, int], bytes]:
    """Pixels of every copy by (hash of the original, number)."""
    index = pd.read_parquet(project.paths.augmented / INDEX)
    shards = {name: np.load(project.paths.augmented / "train" / name) for name in index["shard"].unique()}
    return {(r.sha256, r.copy): shards[r.shard][r.row].tobytes() for r in index.itertuples(index=False)}


def test_augment_makes_copies_of_training_images_only(prepared):
    augment(prepared.values(PARAMS, **EVERYTHING), prepared.paths)
    index = pd.read_parquet(prepared.paths.processed / INDEX)
    training = set(index.loc[index["split"] == "train", "sha256"])
    assert set(copies(prepared)) == {(sha, copy) for sha in training for copy in range(2)}
    facts = read_manifest(prepared.paths.augmented)
    assert facts == {"copies": 2, "images": 2 * len(training)}
    assert len(ImageShards(prepared.paths.augmented / "train")) == 2 * len(training)
    assert sorted(p.name for p in prepared.paths.augmented.iterdir()) == ["MANIFEST.json", "index.parquet", "train"]
    metrics = read_json(prepared.paths.augment_report / "metrics.json")
    assert metrics == {"originals": len(training), "augmented": 2 * len(training)}


def test_augment_copy_belongs_to_the_original_that_the_index_names(prepared):
    augment(prepared.values(PARAMS, augment__copies=1, augment__flip_probability=1.0), prepared.paths)
    index = pd.read_parquet(prepared.paths.processed / INDEX)
    rows = index[index["split"] == "train"]
    originals = dict(zip(rows["sha256"], ImageShards(prepared.paths.processed / "train").slice(0, len(rows)), strict=True))
    for (sha, _), pixels in copies(prepared).items():
        assert pixels == originals[sha][:, ::-1].tobytes()


def test_augment_copies_do_not_depend_on_the_order_of_the_originals(prepared):
    values = prepared.values(PARAMS, **EVERYTHING)
    augment(values, prepared.paths)
    before = copies(prepared)
    folder = prepared.paths.processed
    index = pd.read_parquet(folder / INDEX)
    train = index[index["split"] == "train"]
    order = np.random.default_rng(0).permutation(len(train))
    images = ImageShards(folder / "train").gather(order)
    for shard in (folder / "train").glob("*.npy"):
        shard.unlink()
    writer = ShardWriter(folder / "train", (8, 8, 3), 17)
    for image in images[:-3]:  # three originals less: the others' copies stay the same
        writer.add(image)
    writer.close()
    pd.concat([index[index["split"] != "train"], train.iloc[order[:-3]]]).to_parquet(folder / INDEX)
    write_manifest(folder, mode="RGB")
    augment(values, prepared.paths)
    after = copies(prepared)
    assert len(after) == len(before) - 6
    assert after == {key: before[key] for key in after}


def test_augment_same_seed_same_bytes_other_seed_other_pixels(prepared):
    results = []
    for seed in (1, 1, 2):
        augment(prepared.values(PARAMS, base__seed=seed, **EVERYTHING), prepared.paths)
        files = sorted(p for p in prepared.paths.augmented.rglob("*") if p.is_file())
        results.append(([p.read_bytes() for p in files], copies(prepared)))
    assert results[0][0] == results[1][0]
    assert all(results[0][1][key] != results[2][1][key] for key in results[0][1])


def test_augment_more_copies_leave_the_first_as_they_were(prepared):
    augment(prepared.values(PARAMS, **EVERYTHING), prepared.paths)
    two = copies(prepared)
    augment(prepared.values(PARAMS, **(EVERYTHING | {"augment__copies": 3})), prepared.paths)
    three = copies(prepared)
    assert len(three) == 1.5 * len(two) and {key: three[key] for key in two} == two


@pytest.mark.parametrize("nothing", [{"augment__copies": 0}, {"augment__copies": 3, "augment__on_the_fly": True}])
def test_augment_no_copies_or_on_the_fly_leaves_no_shard_but_manifest_index_and_sheet(prepared, nothing):
    augment(prepared.values(PARAMS, **nothing), prepared.paths)
    assert list(prepared.paths.augmented.rglob("*.npy")) == []
    assert read_manifest(prepared.paths.augmented) == {"copies": 0, "images": 0}
    assert len(pd.read_parquet(prepared.paths.augmented / INDEX)) == 0
    with Image.open(prepared.paths.augment_report / "augment.png") as sheet:
        assert sheet.width > 8 * 8


def test_augment_damaged_input_is_refused_and_nothing_written(prepared):
    shard = next((prepared.paths.processed / "train").glob("*.npy"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamagedError, match=r"shard-00000\.npy"):
        augment(prepared.values(PARAMS), prepared.paths)
    assert not prepared.paths.augmented.exists()


def training_images(project) -> tuple[list[str], np.ndarray]:
    """Hashes and pixels of the training images, in stored order."""
    index = pd.read_parquet(project.paths.processed / INDEX)
    shards = ImageShards(project.paths.processed / "train")
    return index.loc[index["split"] == "train", "sha256"].tolist(), shards.slice(0, len(shards))


def test_augment_copies_are_what_the_policy_makes_of_each_image_alone(prepared):
    values = prepared.values(PARAMS, base__seed=4, **EVERYTHING)
    augment(values, prepared.paths)
    made, (hashes, images) = copies(prepared), training_images(prepared)
    assert len(made) == 2 * len(hashes)
    for sha, image in zip(hashes, images, strict=True):
        for copy in range(2):
            x = torch.from_numpy(image).permute(2, 0, 1)[None]
            alone = augmented(x, image_keys([sha]), np.array([copy]), config=values.augment.policy, seed=4, mode="RGB")
            assert alone[0].permute(1, 2, 0).numpy().tobytes() == made[sha, copy]
    assert len(set(made.values())) == len(made)


def test_augment_size_of_its_batches_changes_no_byte(prepared, monkeypatch):
    results = []
    for size in (256, 7, 1):
        monkeypatch.setattr(augment_stage, "BATCH_IMAGES", size)
        augment(prepared.values(PARAMS, **EVERYTHING), prepared.paths)
        results.append([p.read_bytes() for p in sorted(prepared.paths.augmented.rglob("*")) if p.is_file()])
    assert results[0] == results[1] == results[2]


def test_augment_validation_and_test_images_stay_as_they_were(prepared):
    def held_out() -> dict[str, bytes]:
        files = [p for p in sorted(prepared.paths.processed.rglob("*")) if p.is_file()]
        return {str(p): p.read_bytes() for p in files}

    before = held_out()
    augment(prepared.values(PARAMS, **EVERYTHING), prepared.paths)
    assert held_out() == before
    assert [p.name for p in prepared.paths.augmented.iterdir() if p.is_dir()] == ["train"]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_sheet_has_a_row_for_each_operation_alone_and_for_the_whole_policy(prepared, mode):
    policy = prepared.values(PARAMS, augment__rotate_probability=0.25).augment.policy
    rows = sheet_rows(policy, mode)
    expected = [name.replace("_", " ") for name in OPERATIONS if mode == "RGB" or name not in COLOUR_ONLY]
    assert [title for title, *_ in rows] == ["original", *expected, *["the whole policy"] * SHEET_POLICY_ROWS]
    for title, note, shown, _ in rows[1 : len(expected) + 1]:
        often = {name: value for name, value in asdict(shown).items() if name.endswith("_probability") and value}
        assert often == {title.replace(" ", "_") + "_probability": 1.0}
        assert note.endswith({"rotate": "25% of images", "flip": "50% of images"}.get(title, "off"))
    assert all(shown == policy for _, _, shown, _ in rows[len(expected) + 1 :])
    assert [copy for *_, copy in rows[len(expected) + 1 :]] == list(range(SHEET_POLICY_ROWS))


@pytest.mark.parametrize(("mode", "shape"), [("L", (8, 8, 1)), ("RGB", (20, 9, 3)), ("RGBA", (9, 30, 4)), ("HSV", (150, 90, 3))])
def test_sheet_shows_pictures_of_any_mode_and_shape_each_in_its_place(prepared, mode, shape):
    images = np.full((4, *shape), 90, np.uint8)
    images[:, : shape[0] // 2] = 200
    if mode == "RGBA":
        images[..., 3] = 255
    keys = np.arange(4, dtype=np.uint64)
    sheet = np.asarray(draw_sheet(images, keys, prepared.values(PARAMS).augment.policy, 0, mode))
    rows = len(sheet_rows(prepared.values(PARAMS).augment.policy, mode))
    pictures = np.abs(sheet[:, SHEET_LABEL:].astype(int) - 255).max(2) > 5  # labels lie to the left of them
    bands = np.flatnonzero(np.diff(np.r_[False, pictures.any(1)].astype(int)) == 1)
    columns = np.flatnonzero(np.diff(np.r_[False, pictures.any(0)].astype(int)) == 1)
    assert len(bands) == rows and len(columns) == 4


def test_sheet_rows_are_the_pictures_that_their_policies_make(prepared):
    policy = prepared.values(PARAMS, augment__rotate_probability=1.0).augment.policy
    images = np.random.default_rng(0).integers(0, 256, (8, 72, 72, 3), np.uint8)
    keys = np.arange(8, dtype=np.uint64)
    sheet = np.asarray(draw_sheet(images, keys, policy, 3, "RGB"))
    for row, (_, _, shown, copy) in enumerate(sheet_rows(policy, "RGB")):
        for column, made in enumerate(variations(images, keys, np.full(8, copy), shown, 3, "RGB")):
            top, left = row * (72 + SHEET_GAP) + SHEET_GAP, SHEET_LABEL + column * (72 + SHEET_GAP)
            np.testing.assert_array_equal(sheet[top : top + 72, left : left + 72], made)


def job_of(project, section, state) -> Job:
    """A short training on the prepared images, as tune and train put it together."""
    fit = fit_config(
        global_batch_size=8,
        total_images=160,
        warmup_images=16,
        beta_start=1.0,
        beta_anneal_share=0.0,
        validate_every_images=80,
        checkpoint_every_images=80,
    )
    model = model_config(image_shape=(8, 8, 3), widths=(8,))
    state.mkdir()
    return Job(
        model=model, fit=fit, train_directories=(str(project.paths.processed / "train"),),
        val_directory=str(project.paths.processed / "val"), state_directory=str(state), threads=1, identity={},
        augment=on_the_fly(section, project.paths.processed, "RGB"),
    )  # fmt: skip


def test_job_on_the_fly_trains_on_the_policys_pictures_after_a_trip_as_plain_data(prepared, tmp_path):
    flags = {"augment__flip_probability": 1.0}
    off = prepared.values(PARAMS, **flags).augment
    on = prepared.values(PARAMS, augment__on_the_fly=True, **flags).augment
    plain, varied = job_of(prepared, off, tmp_path / "off"), job_of(prepared, on, tmp_path / "on")
    assert plain.augment is None and Job.from_dict(varied.to_dict()) == varied
    one, other = (execute(Job.from_dict(job.to_dict())).model.state_dict() for job in (plain, varied))
    assert not all(torch.equal(one[name], other[name]) for name in one)
    # The same training on images that were mirrored before it must be the same training.
    hashes, images = training_images(prepared)
    writer = ShardWriter(tmp_path / "mirrored", (8, 8, 3), 1000)
    for image in images[:, :, ::-1]:
        writer.add(image)
    writer.close()
    mirrored = Job(**(vars(job_of(prepared, off, tmp_path / "before")) | {"train_directories": (str(tmp_path / "mirrored"),)}))
    third = execute(mirrored).model.state_dict()
    assert len(hashes) > 16 and all(torch.equal(third[name], other[name]) for name in other)


def test_augment_colour_operations_on_grey_images_are_warned_of(project, picture, caplog):
    project.raw({f"{i:03d}.png": picture(i, 8, 8, "L") for i in range(60)})
    grey = {"base__image_size": 8, "base__mode": "L", "preprocess__val_fraction": 0.3, "preprocess__test_fraction": 0.3}
    preprocess_stage.preprocess(project.values(preprocess_stage.PARAMS, **grey), project.paths)
    augment(project.values(PARAMS, augment__hue_probability=0.5, augment__blur_probability=0.5), project.paths)
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
        "without effect on greyscale images (base.mode L): augment.hue_probability"
    ]
    assert ImageShards(project.paths.augmented / "train").image_shape == (8, 8, 1)
