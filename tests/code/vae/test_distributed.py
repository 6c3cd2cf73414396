"""distributed: one process and two look the same, in the primitives and through a whole ``fit``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from test_augment_policy import POLICY, keys
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from configs import fit_config, model_config
from ranks import side_by_side
from vae import run
from vae.augment import OnTheFly
from vae.config import ModelConfig
from vae.data import ImageShards, ShardWriter
from vae.distributed import all_reduce_sum, default_device, own_rows, rank, world_size
from vae.errors import NonFiniteError, StoppedError
from vae.gradients import Gradients
from vae.models import build
from vae.trainer import fit

MODEL = model_config(widths=(8,))
FIT = fit_config(beta=1.5, total_images=320, learning_rate=1e-3, checkpoint_every_images=160)
ON_THE_FLY = OnTheFly(POLICY, keys(50), "L")
Report = dict[str, float]


class Recorder:
    """Collects the reports of a run, without what depends on the clock; one for each step."""

    def __init__(self) -> None:
        self.by_step: dict[float, Report] = {}

    def __call__(self, metrics: Report, averaged: nn.Module) -> None:
        self.by_step[metrics["step"]] = {k: v for k, v in metrics.items() if k != "images_per_second"}

    @property
    def reports(self) -> list[Report]:
        return list(self.by_step.values())


def _primitives(number: int) -> dict:
    values = torch.tensor([1.0, 10.0]) * (number + 1)
    total, rows = all_reduce_sum(values), own_rows(6)
    torch.manual_seed(number)  # each rank starts from other weights: wrapping must make them one
    gradients = Gradients(nn.Linear(2, 1), replace(FIT, global_batch_size=2))
    wrapped = gradients.forward
    with gradients.part(0):
        gradients.backward(wrapped(torch.full((1, 2), float(number + 1))).sum())
    gradients.reduce()
    return {
        "rank": rank(), "world": world_size(), "values": values.tolist(), "total": total.tolist(), "rows": [rows.start, rows.stop],
        "wrapped": isinstance(wrapped, DistributedDataParallel), "weight": wrapped.module.weight.tolist(),
        "weight_gradient": wrapped.module.weight.grad.tolist(),
    }  # fmt: skip


def _gradient_of_one_step(images: ImageShards) -> dict[str, torch.Tensor]:
    built: list[nn.Module] = []

    def keeping(config: ModelConfig) -> nn.Module:
        built.append(build(config))
        return built[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "build", keeping)
        fit(MODEL, replace(FIT, total_images=FIT.global_batch_size), images, images)
    return {name: p.grad for name, p in built[0].named_parameters()}


def _stopped_and_resumed(images: ImageShards, checkpoints: Path, asked_to_stop: bool) -> tuple[dict, nn.Module]:
    """One of the ranks is asked to stop, at every poll of the first run; then the run goes on to its end."""
    recorder, outcome = Recorder(), {}
    try:
        fit(MODEL, FIT, images, images, checkpoints=checkpoints, on_report=recorder, should_stop=lambda: asked_to_stop)
    except StoppedError as error:
        outcome["stopped"] = str(error)
    dist.barrier()  # rank 0 writes the checkpoint; new processes would start long after it, these do not
    fitted = fit(MODEL, FIT, images, images, checkpoints=checkpoints, on_report=recorder)
    return outcome | {"resumed": recorder.reports}, fitted.model


def _with_a_nan(images: ImageShards, mine: bool) -> dict:
    def poisoned(config: ModelConfig) -> nn.Module:
        model = build(config)
        if mine:
            model.register_forward_hook(
                lambda module, inputs, terms: replace(terms, distortion_N=terms.distortion_N * float("nan"))
            )
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "build", poisoned)
        try:
            fit(MODEL, FIT, images, images)
        except NonFiniteError as error:
            return {"non_finite": str(error)}
    return {}


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def _worker(number: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    root = Path(folder)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=size)
    images, outcome, last = ImageShards(root / "shards"), _primitives(number), number == size - 1
    _save(_gradient_of_one_step(images), root / f"gradient-{number}.safetensors")
    resumed, model = _stopped_and_resumed(images, root / "checkpoints", asked_to_stop=last)
    _save(model.state_dict(), root / f"resumed-{number}.safetensors")
    recorder = Recorder()
    _save(fit(MODEL, FIT, images, images, on_report=recorder).model.state_dict(), root / f"straight-{number}.safetensors")
    _save(fit(MODEL, FIT, images, images, augment=ON_THE_FLY).model.state_dict(), root / f"varied-{number}.safetensors")
    outcome |= resumed | {"straight": recorder.reports} | _with_a_nan(images, mine=last)
    (root / f"outcome-{number}.json").write_text(json.dumps(outcome))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what two ranks came to: one start of processes for all tests, since that is what takes the time."""
    root = tmp_path_factory.mktemp("two_ranks")
    writer = ShardWriter(root / "shards", (8, 8, 1), 30)
    for image in np.random.default_rng(0).integers(0, 256, (50, 2, 2, 1), np.uint8).repeat(4, 1).repeat(4, 2):
        writer.add(image)
    writer.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        side_by_side(_worker, 2, str(root))
    return root


def outcomes(root: Path) -> list[dict]:
    return [json.loads((root / f"outcome-{number}.json").read_text()) for number in range(2)]


def tensors(root: Path, name: str) -> list[dict[str, torch.Tensor]]:
    return [load_file(root / f"{name}-{number}.safetensors") for number in range(2)]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def relative_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    one, other = (torch.cat([each[name].double().flatten() for name in sorted(a)]) for each in (a, b))
    return float((one - other).norm() / other.norm())


def test_one_process_is_rank_zero_of_one() -> None:
    assert (rank(), world_size()) == (0, 1)
    assert own_rows(7) == slice(0, 7)
    model = nn.Linear(2, 2)
    assert Gradients(model, FIT).forward is model
    assert default_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_all_reduce_sum_of_one_process_is_a_new_tensor() -> None:
    values = torch.ones(3)
    all_reduce_sum(values).add_(1)
    assert values.tolist() == [1, 1, 1]


def test_two_ranks_share_sums_and_divide_rows(two_ranks: Path) -> None:
    first, second = outcomes(two_ranks)
    assert [first["rank"], second["rank"]] == [0, 1] and first["world"] == second["world"] == 2
    assert first["total"] == second["total"] == [3, 30]
    assert [first["values"], second["values"]] == [[1, 10], [2, 20]]  # the summands are left as they were
    assert [first["rows"], second["rows"]] == [[0, 3], [3, 6]]


def test_two_ranks_wrapped_model_has_one_set_of_weights_and_mean_gradients(two_ranks: Path) -> None:
    first, second = outcomes(two_ranks)
    assert first["wrapped"] and second["wrapped"]
    assert first["weight"] == second["weight"]
    assert first["weight_gradient"] == second["weight_gradient"] == [[1.5, 1.5]]  # the mean of 1 and 2


def test_two_ranks_fit_gradient_equals_that_of_one(two_ranks: Path) -> None:
    first, second = tensors(two_ranks, "gradient")
    assert same(first, second)
    assert relative_difference(first, _gradient_of_one_step(ImageShards(two_ranks / "shards"))) < 1e-5


def test_two_ranks_fit_weights_and_metrics_equal_those_of_one(two_ranks: Path) -> None:
    images, recorder = ImageShards(two_ranks / "shards"), Recorder()
    alone = fit(MODEL, FIT, images, images, on_report=recorder).model.state_dict()
    first, second = tensors(two_ranks, "straight")
    assert same(first, second)
    assert relative_difference(first, alone) < 1e-5
    reports = [outcome["straight"] for outcome in outcomes(two_ranks)]
    assert reports[0] == reports[1] and len(reports[0]) == len(recorder.reports) == 2
    for ours, theirs in zip(recorder.reports, reports[0], strict=True):
        assert theirs == pytest.approx(ours, rel=1e-4)


def test_two_ranks_augment_on_the_fly_as_one_does(two_ranks: Path) -> None:
    images = ImageShards(two_ranks / "shards")
    alone = fit(MODEL, FIT, images, images, augment=ON_THE_FLY).model.state_dict()
    first, second = tensors(two_ranks, "varied")
    assert same(first, second)
    assert relative_difference(first, alone) < 1e-5
    assert relative_difference(first, tensors(two_ranks, "straight")[0]) > 1e-3


def test_two_ranks_one_asked_to_stop_stops_both_and_resumes_to_the_same_bits(two_ranks: Path) -> None:
    for outcome in outcomes(two_ranks):
        assert outcome["stopped"] == "stopped after step 8 of 20"
        assert outcome["resumed"] == outcome["straight"]
    for resumed, straight in zip(tensors(two_ranks, "resumed"), tensors(two_ranks, "straight"), strict=True):
        assert same(resumed, straight)


def test_two_ranks_one_with_a_nan_stops_both(two_ranks: Path) -> None:
    for outcome in outcomes(two_ranks):
        assert "at step 0" in outcome["non_finite"]
