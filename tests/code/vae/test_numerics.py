"""numerics: what a resumed run says about another configuration, other data, other code and another machine."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vae import numerics as module
from vae.config import FitConfig, ModelConfig
from vae.data import ImageShards
from vae.errors import ResumeRefusedError, StoppedError
from vae.numerics import check_numerics, differences, numerics
from vae.trainer import fit

HERE = {"torch": "2.13.0", "threads": 1, "processor": "AVX512", "device": "cpu", "world_size": 2, "order_of_sums": "ranks"}


def test_numerics_name_what_decides_the_bits() -> None:
    assert numerics(torch.device("cpu"), "ranks").keys() == HERE.keys()


def test_differences_name_each_key_with_both_values() -> None:
    before = {"fit": {"beta": 1.0, "widths": (1, 2)}, "code": "a", "gone": 1}
    now = {"fit": {"beta": 2.0, "widths": [1, 2]}, "code": "a", "new": None}
    assert differences(before, now) == [
        "fit.beta: 1.0 before, 2.0 now", "gone: 1 before, 'nothing' now", "new: 'nothing' before, None now",
    ]  # fmt: skip


@pytest.mark.parametrize("key", HERE)
@pytest.mark.parametrize("level", ["off", "run", "resume", "elastic"])
def test_other_numerics_are_told_or_refused_as_the_level_asks(
    fit_config: FitConfig, key: str, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    now, config = HERE | {key: "another"}, replace(fit_config, exactness=level)
    check_numerics(HERE, HERE, config)
    if level in ("off", "run"):
        with caplog.at_level(logging.WARNING):
            check_numerics(HERE, now, config)
        assert key in caplog.text and "not bit for bit" in caplog.text
    elif level == "elastic" and key == "world_size":
        check_numerics(HERE, now, config)
    else:
        with pytest.raises(ResumeRefusedError, match=rf"{key}: .* before, 'another' now.*--fresh"):
            check_numerics(HERE, now, config)


@pytest.fixture
def begun(model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, tmp_path: Path) -> Path:
    """Checkpoints of a training that was stopped, with the identity of its data."""
    with pytest.raises(StoppedError):
        fit(
            model_config, fit_config, shards, shards, checkpoints=tmp_path / "c", identity={"data": {"processed": "abc"}},
            should_stop=lambda: True,
        )  # fmt: skip
    return tmp_path / "c"


def test_fit_refuses_another_configuration_and_other_data_and_shows_both(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, begun: Path
) -> None:
    before = {path.name for path in begun.iterdir()}
    with pytest.raises(ResumeRefusedError) as refused:
        fit(
            replace(model_config, latent_dim=4), replace(fit_config, learning_rate=0.5), shards, shards, checkpoints=begun,
            identity={"data": {"processed": "def"}},
        )  # fmt: skip
    for part in ("model.latent_dim: 3 before, 4 now", "fit.learning_rate: 0.002 before, 0.5 now", "'abc' before, 'def' now"):
        assert part in str(refused.value)
    assert {path.name for path in begun.iterdir()} == before


def test_fit_on_another_processor_is_refused_at_level_resume(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.torch.backends.cpu, "get_cpu_capability", lambda: "another")
    with pytest.raises(ResumeRefusedError, match=r"processor: .* before, 'another' now"):
        fit(model_config, fit_config, shards, shards, checkpoints=begun, identity={"data": {"processed": "abc"}})


def test_fit_without_checkpoints_takes_any_identity(
    model_config: ModelConfig, fit_config: FitConfig, shards: ImageShards, tmp_path: Path
) -> None:
    config = replace(fit_config, total_images=32)
    (tmp_path / "identity.json").write_text('{"fit": "another"}')  # of a run that never came to a checkpoint
    assert fit(model_config, config, shards, shards, checkpoints=tmp_path).step == 2
