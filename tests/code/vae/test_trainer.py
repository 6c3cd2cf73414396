"""trainer: it learns, resumes to the bit, and stops before a bad step; what two ranks do is in test_distributed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from vae import gradients, losses, run
from vae.config import FitConfig, ModelConfig
from vae.data import ImageShards, ShardWriter
from vae.errors import NonFiniteError, StepError, StoppedError
from vae.models import build
from vae.models.base import Output
from vae.models.conv import ConvVAE
from vae.optim import learning_rate
from vae.trainer import fit

Report = dict[str, float]


class PlannedError(RuntimeError):
    """What a test raises on purpose."""


class Recorder:
    """Collects the reports of one or several runs, without what depends on the clock."""

    def __init__(self) -> None:
        self.reports: list[Report] = []

    def __call__(self, metrics: Report, averaged: nn.Module) -> None:
        assert metrics["images_per_second"] > 0
        self.reports.append({k: v for k, v in metrics.items() if k != "images_per_second"})

    def by_step(self) -> dict[float, Report]:
        """One report per step; a report that is given twice must say the same twice."""
        found: dict[float, Report] = {}
        for report in self.reports:
            assert found.setdefault(report["step"], report) == report
        return found


def stop_at_poll(number: int) -> Callable[[], bool]:
    """A should_stop that says so the ``number``-th time it is asked."""
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == number

    return should_stop


def write_shards(directory: Path, images: np.ndarray) -> None:
    writer = ShardWriter(directory, images.shape[1:], 30)
    for image in images:
        writer.add(image)
    writer.close()


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_files(one: Path, other: Path) -> None:
    for name in ("model.safetensors", "ema.safetensors"):
        a, b = load_file(one / name), load_file(other / name)
        assert a.keys() == b.keys()
        for key in a:
            assert torch.equal(a[key], b[key]), (name, key)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Every model that the trainer builds: the trained one first, then the averaged one."""
    built: list[nn.Module] = []

    def keeping(config: ModelConfig) -> nn.Module:
        built.append(build(config))
        return built[-1]

    monkeypatch.setattr(run, "build", keeping)
    return built


def test_fit_improves_the_bound_on_structured_images(model_config: ModelConfig, fit_config: FitConfig, tmp_path: Path) -> None:
    # Either the upper or the lower half is bright: one bit an image.
    images = np.full((160, 8, 8, 1), 30, np.uint8)
    images[::2, :4] = 220
    images[1::2, 4:] = 220
    for name, some in (("train", images[:128]), ("val", images[128:])):
        write_shards(tmp_path / name, some)
    recorder = Recorder()
    config = replace(fit_config, learning_rate=0.02, total_images=200 * 16, validate_every_images=50 * 16)
    fitted = fit(model_config, config, ImageShards(tmp_path / "train"), ImageShards(tmp_path / "val"), on_report=recorder)
    assert fitted.step == 200 and not fitted.model.training
    assert [report["step"] for report in recorder.reports] == [50, 100, 150, 200]
    bounds = [report["val_elbo_nats"] for report in recorder.reports]
    assert bounds[-1] > bounds[0] + 20
    # Far better than a normal density of the right spread for each pixel alone, and it uses the latents for that bit.
    levels = images.std() * np.sqrt(2 * np.pi * np.e)
    assert bounds[-1] > -64 * np.log(levels) + 50
    assert recorder.reports[-1]["val_rate_nats"] > 0.9 * np.log(2)


def test_fit_report_terms_add_up_and_count_images(model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards) -> None:
    recorder = Recorder()
    fit(model_config, replace(fit_config, total_images=200), shards, shards, on_report=recorder)  # 13 steps: the last is a part
    assert [(r["step"], r["images"]) for r in recorder.reports] == [(10, 160), (13, 208)]
    for report in recorder.reports:
        for prefix in ("", "val_"):
            total = report[f"{prefix}distortion_nats"] + report[f"{prefix}rate_nats"]
            assert report[f"{prefix}elbo_nats"] == pytest.approx(-total, rel=1e-9)


def test_fit_training_metrics_are_the_mean_since_the_last_report(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards
) -> None:
    each, all_at_once = Recorder(), Recorder()
    config = replace(fit_config, total_images=160)
    fit(model_config, replace(config, validate_every_images=16), shards, shards, on_report=each)
    fit(model_config, config, shards, shards, on_report=all_at_once)
    assert len(each.reports) == 10 and len(all_at_once.reports) == 1
    for name in ("elbo_nats", "distortion_nats", "rate_nats"):
        assert all_at_once.reports[0][name] == pytest.approx(np.mean([r[name] for r in each.reports]), rel=1e-9)


def test_fit_same_seed_gives_the_same_bits_whatever_the_global_generator(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards
) -> None:
    config = replace(fit_config, total_images=160)
    results = []
    for global_seed, seed in ((1, 3), (2, 3), (1, 4)):
        torch.manual_seed(global_seed)
        results.append(weights(fit(model_config, replace(config, seed=seed), shards, shards).model))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert not all(torch.equal(results[0][name], results[2][name]) for name in results[0])


def test_fit_begins_from_given_weights_and_a_restart_does_not_begin_again(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, tmp_path: Path
) -> None:
    torch.manual_seed(99)
    initial = weights(build(model_config))
    still = replace(fit_config, total_images=fit_config.global_batch_size, learning_rate=1e-12, warmup_images=0)
    for name, value in fit(model_config, still, shards, shards, initial=initial).model.state_dict().items():
        torch.testing.assert_close(value, initial[name], atol=1e-9, rtol=0)
    straight = fit(model_config, fit_config, shards, shards, initial=initial)
    with pytest.raises(StoppedError):
        fit(
            model_config, fit_config, shards, shards, checkpoints=tmp_path, initial=initial, should_stop=stop_at_poll(2),
        )  # fmt: skip
    resumed = fit(model_config, fit_config, shards, shards, checkpoints=tmp_path, initial=initial)
    anew = fit(model_config, fit_config, shards, shards)
    assert all(torch.equal(value, resumed.model.state_dict()[name]) for name, value in straight.model.state_dict().items())
    assert not all(torch.equal(value, anew.model.state_dict()[name]) for name, value in straight.model.state_dict().items())


@pytest.mark.parametrize("polls", [1, 2, 4])
def test_fit_stopped_between_reports_and_resumed_equals_the_uninterrupted_run(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, tmp_path: Path, polls: int
) -> None:
    # Stops after step 8, 16 or 32: none is a report (every 10), 8 lies before the first checkpoint by count (every 15).
    straight, cut = Recorder(), Recorder()
    whole = fit(model_config, fit_config, shards, shards, checkpoints=tmp_path / "whole", on_report=straight)
    with pytest.raises(StoppedError, match=f"step {8 * polls} of 40"):
        fit(
            model_config, fit_config, shards, shards, checkpoints=tmp_path / "cut", on_report=cut, should_stop=stop_at_poll(polls)
        )
    resumed = fit(model_config, fit_config, shards, shards, checkpoints=tmp_path / "cut", on_report=cut)
    assert resumed.step == whole.step == 40
    assert_same_files(tmp_path / "cut/step-00000040", tmp_path / "whole/step-00000040")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    assert cut.by_step() == straight.by_step()
    assert sorted(straight.by_step()) == [10, 20, 30, 40]


@pytest.mark.parametrize("step", [10, 30, 40])
def test_fit_crashed_while_reporting_and_resumed_equals_the_uninterrupted_run(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, tmp_path: Path, step: int
) -> None:
    # Step 10 has no checkpoint, 30 has one beside its report, 40 is the end: the report that was lost must be given again.
    straight, cut = Recorder(), Recorder()
    fit(model_config, fit_config, shards, shards, checkpoints=tmp_path / "whole", on_report=straight)

    def crash(metrics: Report, averaged: nn.Module) -> None:
        if metrics["step"] == step:
            raise PlannedError
        cut(metrics, averaged)

    with pytest.raises(PlannedError):
        fit(model_config, fit_config, shards, shards, checkpoints=tmp_path / "cut", on_report=crash)
    fit(model_config, fit_config, shards, shards, checkpoints=tmp_path / "cut", on_report=cut)
    assert_same_files(tmp_path / "cut/step-00000040", tmp_path / "whole/step-00000040")
    assert cut.by_step() == straight.by_step()


def test_fit_averaged_model_of_a_repeated_report_is_that_of_the_first(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, tmp_path: Path
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    for _ in range(2):
        fit(
            model_config,
            fit_config,
            shards,
            shards,
            checkpoints=tmp_path,
            on_report=lambda metrics, model: seen.append(weights(model)),
        )
    assert len(seen) == 5  # four reports, and the last one again
    assert all(torch.equal(seen[-1][name], seen[-2][name]) for name in seen[-1])


def test_fit_newest_checkpoint_damaged_resumes_from_the_one_before_to_the_same_end(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, tmp_path: Path
) -> None:
    fit(model_config, fit_config, shards, shards, checkpoints=tmp_path / "whole")
    fit(model_config, fit_config, shards, shards, checkpoints=tmp_path / "cut")
    (tmp_path / "cut/step-00000040/model.safetensors").write_bytes(b"damaged")
    recorder = Recorder()
    fit(model_config, fit_config, shards, shards, checkpoints=tmp_path / "cut", on_report=recorder)
    assert sorted(recorder.by_step()) == [30, 40]  # it went on from step 30
    assert_same_files(tmp_path / "cut/step-00000040", tmp_path / "whole/step-00000040")


def test_fit_without_checkpoints_stops_too(model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards) -> None:
    with pytest.raises(StoppedError):
        fit(model_config, fit_config, shards, shards, should_stop=lambda: True)


def test_fit_every_parameter_gets_a_gradient_and_moves(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, captured: list[nn.Module]
) -> None:
    # No decay, which would move a weight without a gradient.
    config = replace(fit_config, total_images=32, weight_decay=0.0)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        before = weights(build(model_config))
    fit(model_config, config, shards, shards)
    for name, parameter in captured[0].named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        assert not torch.equal(parameter.detach(), before[name]), name


@pytest.mark.parametrize("likelihood", ["logistic", "gaussian", "bernoulli"])
def test_fit_any_likelihood_and_bfloat16_lowers_the_loss(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, likelihood: str
) -> None:
    for precision in ("float32", "bfloat16"):
        recorder = Recorder()
        config = replace(fit_config, precision=precision, total_images=60 * 16, validate_every_images=10 * 16)
        fit(replace(model_config, likelihood=likelihood), config, shards, shards, on_report=recorder)
        bounds = [report["val_elbo_nats"] for report in recorder.reports]
        assert bounds[-1] > bounds[0] and np.isfinite(bounds).all()


def test_fit_poisoned_parameter_stops_before_the_step(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[nn.Module] = []

    def poisoned(config: ModelConfig) -> nn.Module:
        model = build(config)
        model.get_parameter("encoder.1.bias").data[0] = float("nan")
        built.append(model)
        return model

    monkeypatch.setattr(run, "build", poisoned)
    with torch.random.fork_rng():
        torch.manual_seed(fit_config.seed)
        before = weights(build(model_config))
    with pytest.raises(NonFiniteError, match=r"at step 0\b.*distortion nan.*fit.learning_rate"):
        fit(model_config, fit_config, shards, shards)
    for name, value in before.items():
        if name != "encoder.1.bias":
            assert torch.equal(built[0].state_dict()[name], value), name


def test_fit_diverging_run_stops_with_its_step_and_leaves_finite_weights(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, captured: list[nn.Module], tmp_path: Path
) -> None:
    # Outside of what a configuration may say: each step moves every weight by about 1e12.
    config = replace(fit_config, learning_rate=1e12, warmup_images=0)
    with pytest.raises(NonFiniteError, match=r"at step [1-9]"):
        fit(model_config, config, shards, shards, checkpoints=tmp_path / "checkpoints")
    assert all(p.isfinite().all() for p in captured[0].parameters())  # the bad step was not taken
    assert not any((tmp_path / "checkpoints").glob("step-*"))


class _InfiniteLoss(ConvVAE):
    """A loss that is infinite while its gradient is finite: a constant was added to the terms."""

    def forward(self, *batch: torch.Tensor | None) -> Output:
        terms = super().forward(*batch)
        return replace(terms, distortion_N=terms.distortion_N + float("inf"))


def test_fit_infinite_loss_with_finite_gradient_stops_too(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "build", _InfiniteLoss)
    with pytest.raises(NonFiniteError, match="at step 0"):
        fit(model_config, fit_config, shards, shards)


def test_fit_batch_that_does_not_divide_by_the_workers_is_refused(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "world_size", lambda: 3)
    with pytest.raises(ValueError, match=r"global_batch_size 16 does not divide by 3 workers.*cluster profile.*1, 2, 4, 8, 16"):
        fit(model_config, fit_config, shards, shards)
    monkeypatch.setattr(gradients, "world_size", lambda: 5)
    with pytest.raises(ValueError, match="virtual_shards 12 does not divide by 5 workers"):
        fit(model_config, replace(fit_config, exactness="elastic"), shards, shards)


def test_fit_larger_beta_buys_a_lower_rate(model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards) -> None:
    rates = []
    for beta in (0.2, 20.0):
        recorder = Recorder()
        fit(model_config, replace(fit_config, beta=beta, total_images=80 * 16), shards, shards, on_report=recorder)
        rates.append(recorder.reports[-1]["val_rate_nats"])
    assert rates[1] < 0.7 * rates[0]


def test_fit_uses_the_schedule_and_reports_the_rate_of_the_last_step(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[float] = []
    step = torch.optim.AdamW.step

    def noting(self: torch.optim.AdamW, *arguments: object) -> object:
        used.append(self.param_groups[0]["lr"])
        assert {group["lr"] for group in self.param_groups} == {used[-1]}
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", noting)
    recorder = Recorder()
    fit(model_config, fit_config, shards, shards, on_report=recorder)
    assert used == [learning_rate(n * 16, fit_config) for n in range(40)]
    assert [report["learning_rate"] for report in recorder.reports] == [used[n - 1] for n in (10, 20, 30, 40)]


def test_fit_gradient_is_clipped_to_its_norm(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, captured: list[nn.Module]
) -> None:
    fit(model_config, replace(fit_config, clip_norm=0.5, total_images=16), shards, shards)
    norm = torch.stack([p.grad.square().sum() for p in captured[0].parameters()]).sum().sqrt()
    assert float(norm) == pytest.approx(0.5, rel=1e-4)


def test_fit_stops_early_with_the_best_model(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The bound that is judged by is given: it rises twice and falls from then on.
    given = iter([-10.0, -5.0, -6.0, -7.0, -8.0])
    monkeypatch.setattr(run, "bound", lambda *_: {"elbo_nats": next(given), "distortion_nats": 1.0, "rate_nats": 0.0})
    seen: dict[float, dict[str, torch.Tensor]] = {}
    config = replace(fit_config, total_images=1600, patience_reports=2)
    fitted = fit(
        model_config, config, shards, shards, checkpoints=tmp_path,
        on_report=lambda metrics, model: seen.update({metrics["step"]: weights(model)}),
    )  # fmt: skip
    assert fitted.step == 40 and list(seen) == [10, 20, 30, 40]
    for name, value in fitted.model.state_dict().items():
        assert torch.equal(value, seen[20][name])
    again = fit(model_config, config, shards, shards, checkpoints=tmp_path)  # finished: nothing is left to do
    assert again.step == 40 and all(torch.equal(v, seen[20][k]) for k, v in again.model.state_dict().items())


def test_fit_patience_without_checkpoints_is_refused(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards
) -> None:
    with pytest.raises(ValueError, match="patience_reports needs checkpoints"):
        fit(model_config, replace(fit_config, patience_reports=1), shards, shards)


def test_fit_skips_as_many_bad_steps_as_it_may_and_then_stops_with_the_last_good_checkpoint(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, bad = losses.step_noise, {5, 17, 25}
    monkeypatch.setattr(
        losses, "step_noise", lambda seed, step, *rest: real(seed, step, *rest) * (math.nan if step in bad else 1)
    )
    recorder = Recorder()
    config = replace(fit_config, skip_nonfinite_steps=2)
    with pytest.raises(NonFiniteError, match=r"at step 25.*last good checkpoint: step 20"):
        fit(model_config, config, shards, shards, checkpoints=tmp_path, on_report=recorder)
    assert [report["skipped_steps"] for report in recorder.reports] == [1, 2]
    assert all(math.isfinite(value) for report in recorder.reports for value in report.values())


def test_fit_error_in_a_step_says_which(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = losses.Objective.draw

    def buggy(self: losses.Objective, step: int, *rest: int) -> losses.Draws:
        if step == 7:
            raise PlannedError("a bug")
        return real(self, step, *rest)

    monkeypatch.setattr(losses.Objective, "draw", buggy)
    with pytest.raises(StepError, match=r"step 7: PlannedError: a bug") as caught:
        fit(model_config, fit_config, shards, shards)
    assert caught.value.step == 7 and isinstance(caught.value.__cause__, PlannedError)
