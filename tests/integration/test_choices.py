"""Every model, prior and some objective, from images to a registered version that draws."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import load_file

from workspace import Workspace, one_line

VAE = "from pipeline.cli.app import main; main()"
DRAW = "from pipeline import reference; from pipeline.paths import Paths; print(reference.kept('champion', Paths.here()))"


def test_model_that_is_told_labels_draws_the_one_that_it_is_asked_for(workspace: Workspace) -> None:
    workspace.set({"download.source": "digits", "base.mode": "L", "fit.class_conditional": True, "fit.beta_start": 0.1,
                   "train.use_tuned": False, "train.latent_dim": 2, "augment.copies": 1, "tune.trials": 2})  # fmt: skip
    for stage in ("download", "preprocess", "augment", "extractor", "tune", "train", "evaluate", "register"):
        result = workspace.stage(stage)
        assert result.returncode == 0, result.stderr
    metrics = json.loads((workspace.root / "reports/evaluate/metrics.json").read_text())
    assert 0 <= metrics["class_accuracy"] <= 1 and metrics["class_accuracy_real"] > 0.2
    picture, drawn = workspace.root / ".work/champion.png", {}
    for label in ("0", "1"):
        result = workspace.stage("use_champion", "4", "--label", label)
        assert result.returncode == 0 and "drew 4 images" in result.stdout, result.stderr
        drawn[label] = picture.read_bytes()
    assert drawn["0"] != drawn["1"]
    wrong = workspace.stage("use_champion", "4", "--label", "10")
    assert wrong.returncode == 78 and "unknown label '10'" in one_line(wrong, "use_champion")


def test_films_from_rendered_clips_to_frames_between_frames(workspace: Workspace) -> None:
    workspace.set({"download.source": "moving_sprites", "download.sprite_images": 1000, "preprocess.split_by": "folder",
                   "augment.copies": 0, "fit.smoothness": 5.0, "train.use_tuned": False, "train.latent_dim": 3,
                   "tune.trials": 2})  # fmt: skip
    for stage in ("download", "preprocess", "augment", "extractor", "tune", "train", "evaluate", "register"):
        result = workspace.stage(stage)
        assert result.returncode == 0, result.stderr
    metrics = json.loads((workspace.root / "reports/evaluate/metrics.json").read_text())
    assert 5 < metrics["film_psnr_db"] < 60 and 5 < metrics["film_fade_psnr_db"] < 60
    result = workspace.run(sys.executable, "-m", "pipeline.verify")
    assert result.returncode == 0, result.stderr
    drawn = workspace.stage("use_champion", "4")
    assert drawn.returncode == 0, drawn.stderr
    sheet = Image.open(workspace.root / ".work/champion.png").convert("L")
    (workspace.root / "film").mkdir()
    for number in range(3):
        sheet.crop((2 + 10 * number, 2, 10 + 10 * number, 10)).save(workspace.root / f"film/{number}.png")
    tweened = workspace.run(sys.executable, "-c", VAE, "inbetween", "film", "--frames", "3", "-o", "slow.gif")
    assert tweened.returncode == 0, tweened.stderr
    assert Image.open(workspace.root / "slow.gif").n_frames == 9


def test_critic_takes_part_in_search_and_training_and_stays_at_home(ready: Workspace) -> None:
    ready.set({"fit.adversary_weight": 0.5, "fit.adversary_start_share": 0.5, "fit.feature_weight": 1.0, "fit.critic_width": 4,
               "tune.trials": 2})  # fmt: skip
    for stage in ("tune", "train", "evaluate", "register"):
        result = ready.stage(stage)
        assert result.returncode == 0, result.stderr
    curves = pd.read_csv(ready.root / "reports/train/curves.csv")
    losses = dict(zip(curves["images"] / curves["images"].max(), curves["critic_loss"], strict=True))
    assert all((loss > 0) == (share > 0.5) for share, loss in losses.items()), losses
    assert 0 < losses[1.0] < 3
    champion = Path(ready.run(sys.executable, "-c", DRAW).stdout.strip())
    names = {name for path in champion.glob("*.safetensors") for name in load_file(path)}
    assert names and not any("critic" in name for name in names)


def test_private_training_reaches_the_registry_with_its_epsilon(ready: Workspace) -> None:
    ready.set({"train.epsilon": 8.0, "train.known_images": 0, "train.attribute_steps": 0, "fit.class_conditional": True,
               "fit.prior": "normal", "augment.copies": 0, "train.use_tuned": False, "train.latent_dim": 2})  # fmt: skip
    for stage in ("augment", "train", "evaluate", "register"):
        result = ready.stage(stage)
        assert result.returncode == 0, result.stderr
    told = ready.run(sys.executable, "-c", VAE, "privacy", "--json")
    assert told.returncode == 0, told.stderr
    privacy = json.loads(told.stdout)
    assert 7.5 < privacy["epsilon"] <= 8.0 and privacy["noise_multiplier"] > 0 and privacy["model"].startswith("models:/")
    lineage = json.loads((ready.root / "reports/register/lineage.json").read_text())
    assert float(lineage["vaeline.privacy_epsilon"]) == privacy["epsilon"]
    curves = (ready.root / "reports/train/curves.csv").read_text().splitlines()[0].split(",")
    assert "val_elbo_nats" in curves and "elbo_nats" not in curves
    assert not list((ready.root / ".work").rglob("key"))  # who has it can take the noise away again
    champion = Path(ready.run(sys.executable, "-c", DRAW).stdout.strip())
    assert not [path.name for path in champion.iterdir() if path.name.startswith(("known", "attributes", "tables"))]


def _compressed(ready: Workspace, metrics: dict[str, float]) -> None:
    """The champion makes pictures of its own size small, and gives them back; and evaluate has measured it."""
    assert metrics["codec_lossless_bytes"] > 0 and (ready.root / "reports/evaluate/codec.png").exists()
    for arguments in (
        ("sample", "3", "-o", "some"),
        ("compress", "some", "--lossless", "-o", "some.vaec"),
        ("decompress", "some.vaec", "-o", "again"),
        ("compress", "some", "-o", "fewer.vaec"),
        ("decompress", "fewer.vaec", "-o", "like"),
    ):
        done = ready.run(sys.executable, "-c", VAE, *arguments)
        assert done.returncode == 0, done.stderr
    for path in sorted((ready.root / "some").iterdir()):
        with Image.open(path) as first, Image.open(ready.root / "again" / path.name) as again:
            assert first.tobytes() == again.tobytes()
    assert len(list((ready.root / "like").iterdir())) == 3


@pytest.mark.parametrize(
    ("model", "prior", "likelihood", "objective", "denoise_levels"),
    [
        ("ladder", "normal", "logistic_mixture", "importance", 40.0),
        pytest.param("vq", "normal", "logistic", "elbo", 40.0, marks=pytest.mark.slow),
        pytest.param("resnet", "flow", "gaussian", "tc", 0.0, marks=pytest.mark.slow),
        pytest.param("conv", "second_stage", "gaussian_fixed", "deterministic", 0.0, marks=pytest.mark.slow),
        pytest.param("resnet", "mixture", "logistic", "mmd", 40.0, marks=pytest.mark.slow),
    ],
)
def test_choice_of_model_reaches_the_registry(
    ready: Workspace, model: str, prior: str, likelihood: str, objective: str, denoise_levels: float
) -> None:
    samples = 2 if objective == "importance" else 1
    ready.set({"fit.model": model, "fit.prior": prior, "fit.likelihood": likelihood, "fit.objective": objective,
               "fit.importance_samples": samples, "fit.prior_steps": 50, "fit.beta_start": 0.1, "train.latent_dim": 2,
               "fit.denoise_levels": denoise_levels, "train.coding_images": 0 if model == "vq" else 200})  # fmt: skip
    for stage in ("train", "evaluate", "register"):
        result = ready.stage(stage)
        assert result.returncode == 0, result.stderr
    metrics = json.loads((ready.root / "reports/evaluate/metrics.json").read_text())
    assert metrics["fcd"] > 0 and metrics["nll_nats"] <= -metrics["elbo_nats"] + 5
    drawn = ready.stage("use_champion", "4")
    assert drawn.returncode == 0 and "drew 4 images" in drawn.stdout, drawn.stderr
    picture = ready.root / ".work/champion.png"
    denoised = ready.run(sys.executable, "-c", VAE, "denoise", str(picture), "-o", "clean.png")
    assert denoised.returncode == 0, denoised.stderr
    if model != "vq":
        _compressed(ready, metrics)
    assert ("denoise_psnr_db" in metrics) == (ready.root / "reports/evaluate/denoise.png").exists() == (denoise_levels > 0)
