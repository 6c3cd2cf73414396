"""gradients: the levels of exactness, across ranks, restarts and world sizes, by the hash of everything that is trained."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from configs import fit_config, model_config
from ranks import side_by_side
from vae import shared_sum
from vae.config import FitConfig, ModelConfig
from vae.data import ImageShards, ShardWriter, save_following, save_labels
from vae.errors import ResumeRefusedError, StoppedError
from vae.gradients import Gradients
from vae.models import build
from vae.trainer import fit

# More than a megabyte of parameters, so that DistributedDataParallel has several buckets to add in one order or another.
MODEL = model_config(widths=(48,), hidden_units=512)
CODES = model_config(name="vq", latent_dim=2)  # with statistics that follow the whole batch
FIT = fit_config(
    beta=1.5,
    global_batch_size=24,
    total_images=16 * 24,
    learning_rate=1e-3,
    validate_every_images=8 * 24,
    checkpoint_every_images=160 * 24,
)
ELASTIC = replace(FIT, exactness="elastic")
CRITIC = {"adversary_weight": 0.5, "adversary_start_share": 0.4, "feature_weight": 0.5, "critic_width": 4}
TOLD = model_config(widths=(8,), classes=3)
LEVELS = (
    ("resume", FIT, MODEL),
    ("resume, network", FIT, MODEL),
    ("elastic", ELASTIC, MODEL),
    ("resume, codes", FIT, CODES),
    ("elastic, codes", ELASTIC, CODES),
    ("resume, classes", FIT, TOLD),
    ("elastic, classes", ELASTIC, TOLD),
    ("resume, noisy", replace(FIT, denoise_levels=60.0), model_config(widths=(8,))),
    ("elastic, films", replace(ELASTIC, smoothness=3.0), model_config(widths=(8,))),
    ("resume, critic", replace(FIT, **CRITIC), model_config(widths=(8,))),
    ("elastic, critic", replace(ELASTIC, **CRITIC), model_config(widths=(8,))),
    ("elastic, noisy", replace(ELASTIC, denoise_levels=60.0), model_config(widths=(8,))),
)
NETWORK = "resume, network"  # as of ranks that share no memory
LAST = "step-00000016"


def _hash(checkpoints: Path) -> str:
    files = sorted((checkpoints / LAST).glob("*.safetensors"))
    return " ".join(f"{file.stem} {hashlib.sha256(file.read_bytes()).hexdigest()[:12]}" for file in files)


def _run(images: ImageShards, config: FitConfig, checkpoints: Path, stop: bool = False, model: ModelConfig = MODEL) -> dict:
    """A training to its end, or to the first poll after half of it; what this rank saw of it."""
    reports: list[dict] = []
    try:
        fitted = fit(
            model, config, images, images, checkpoints=checkpoints, should_stop=lambda: stop,
            on_report=lambda metrics, _: reports.append({k: v for k, v in metrics.items() if k != "images_per_second"}),
        )  # fmt: skip
    except StoppedError:
        return {}
    except ResumeRefusedError as error:
        return {"refused": str(error)}
    finally:
        if dist.is_initialized():
            dist.barrier()  # rank 0 writes; new processes would start long after it, these do not
    flat = torch.cat([value.flatten() for value in fitted.model.state_dict().values()])
    return {"reports": reports, "weights": hashlib.sha256(flat.numpy().tobytes()).hexdigest(), "files": _hash(checkpoints)}


def _worker(number: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    root = Path(folder)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting-{size}", rank=number, world_size=size)
    images, found = ImageShards(root / "shards"), {}
    for name, config, model in LEVELS:
        place = root / f"{name}-{size}"
        with pytest.MonkeyPatch.context() as patch:
            if name == NETWORK:
                patch.setattr(shared_sum, "MEMORY", root / "nowhere")
            found[name] = _run(images, config, place / "straight", model=model)
            _run(images, config, place / "cut", stop=True, model=model)
            found[f"{name} cut"] = _run(images, config, place / "cut", model=model)
    if size == 2:  # goes on with what three ranks began
        found["elastic from 3"] = _run(images, ELASTIC, root / "elastic-from-3")
        found["resume from 3"] = _run(images, FIT, root / "resume-from-3")
    if size == 3:
        _run(images, ELASTIC, root / "elastic-from-3", stop=True)
        _run(images, FIT, root / "resume-from-3", stop=True)
    (root / f"outcome-{size}-{number}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict]]:
    """For each world size what each rank came to; three ranks come first, and two go on from their checkpoints."""
    root = tmp_path_factory.mktemp("ranks")
    writer = ShardWriter(root / "shards", (8, 8, 1), 30)
    for image in np.random.default_rng(0).integers(0, 256, (100, 2, 2, 1), np.uint8).repeat(4, 1).repeat(4, 2):
        writer.add(image)
    writer.close()
    save_labels(root / "shards", np.arange(100) % 3)
    save_following(root / "shards", np.where(np.arange(100) % 10 == 9, -1, np.arange(100) + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        for size in (3, 2, 1, 4, 6):
            side_by_side(_worker, size, str(root))
    return {size: [json.loads((root / f"outcome-{size}-{n}.json").read_text()) for n in range(size)] for size in (1, 2, 3, 4, 6)}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("level", [name for name, _, _ in LEVELS])
def test_stopped_and_resumed_training_is_that_of_the_uninterrupted_run(outcomes: dict, size: int, level: str) -> None:
    for rank in outcomes[size]:
        assert rank[f"{level} cut"]["files"] == rank[level]["files"]
        assert rank[f"{level} cut"]["reports"][-1] == rank[level]["reports"][-1]


@pytest.mark.parametrize("size", [2, 3, 4, 6])
def test_all_ranks_have_the_same_weights_and_reports(outcomes: dict, size: int) -> None:
    first, *others = outcomes[size]
    assert all(other == first for other in others)


@pytest.mark.parametrize("size", [2, 3, 4, 6])
@pytest.mark.parametrize("level", [name for name, _, _ in LEVELS if name.startswith("elastic")])
def test_elastic_is_the_same_bits_at_every_world_size(outcomes: dict, size: int, level: str) -> None:
    assert outcomes[size][0][level] == outcomes[1][0][level]


@pytest.mark.parametrize("size", [2, 3, 4, 6])
def test_resume_level_is_the_same_training_at_every_world_size_but_for_rounding(outcomes: dict, size: int) -> None:
    many, one = outcomes[size][0]["resume"]["reports"], outcomes[1][0]["resume"]["reports"]
    for ours, theirs in zip(many, one, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_elastic_begun_by_three_ranks_and_finished_by_two_is_the_same_bits(outcomes: dict) -> None:
    assert outcomes[2][0]["elastic from 3"]["files"] == outcomes[1][0]["elastic"]["files"]


def test_two_ranks_come_to_the_same_bits_with_and_without_shared_memory(outcomes: dict) -> None:
    assert outcomes[2][0][NETWORK]["files"] == outcomes[2][0]["resume"]["files"]
    assert outcomes[3][0][NETWORK]["files"] != outcomes[3][0]["resume"]["files"]  # two ways indeed


def test_resume_level_refuses_another_world_size_on_every_rank(outcomes: dict) -> None:
    for rank in outcomes[2]:
        assert "world_size: 3 before, 2 now" in rank["resume from 3"]["refused"]


def _gradient(config: FitConfig) -> torch.Tensor:
    torch.manual_seed(0)
    model = build(MODEL)
    x_NCHW, noise_ND = torch.rand(24, 1, 8, 8) * 2 - 1, torch.randn(24, 3)
    gradients = Gradients(model, config)
    for number in range(len(gradients.parts)):
        with gradients.part(number) as rows:
            terms = gradients.forward(x_NCHW[rows], noise_ND[rows])
            gradients.backward(terms.distortion_N.sum() + terms.rate_ND.sum())
    gradients.reduce()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    "change", [{"micro_batch_size": 7}, {"micro_batch_size": 24}, {"exactness": "elastic"}, {"exactness": "elastic", "virtual_shards": 5}]
)  # fmt: skip
def test_gradient_is_that_of_the_whole_batch_however_it_is_cut(change: dict) -> None:
    whole, cut = _gradient(FIT), _gradient(replace(FIT, **change))
    assert float((cut - whole).norm() / whole.norm()) < 1e-5


@pytest.mark.parametrize("config", [FIT, replace(FIT, micro_batch_size=5), replace(ELASTIC, virtual_shards=7)])
def test_parts_are_the_batch_without_gap_or_overlap(config: FitConfig) -> None:
    parts = Gradients(nn.Linear(2, 2), config).parts
    assert [i for rows in parts for i in range(rows.start, rows.stop)] == list(range(24))
    lengths = {rows.stop - rows.start for rows in parts}
    assert max(lengths) - min(lengths) <= 1 and max(lengths) <= (config.micro_batch_size or 24)


def test_recompute_changes_no_bit() -> None:
    torch.manual_seed(0)
    plain, lean = build(MODEL), build(MODEL)
    lean.load_state_dict(plain.state_dict())
    lean.recompute = True
    x_NCHW, noise_ND = torch.rand(24, 1, 8, 8) * 2 - 1, torch.randn(24, 3)
    for model in (plain, lean):
        terms = model(x_NCHW, noise_ND)
        (terms.distortion_N.sum() + terms.rate_ND.sum()).backward()
    for one, other in zip(plain.parameters(), lean.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("level", ["resume", "elastic"])
def test_infinite_loss_with_finite_gradients_becomes_a_gradient_that_every_rank_sees(level: str) -> None:
    model = nn.Linear(2, 1)
    gradients = Gradients(model, replace(FIT, exactness=level))
    for number in range(len(gradients.parts)):
        with gradients.part(number):
            offset = float("inf") if number == 0 else 0.0  # a constant: it has no gradient of its own
            gradients.backward(gradients.forward(torch.ones(1, 2)).sum() + offset)
    gradients.reduce()
    assert all(p.grad.isnan().all() for p in model.parameters())
