"""state: a checkpoint comes back exactly or is passed over."""

from __future__ import annotations

import logging
import os
import pathlib
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vae import state as state_module
from vae.config import FitConfig, ModelConfig
from vae.files import MANIFEST, write_manifest
from vae.models import ConvVAE, build
from vae.optim import Ema, build_optimizer
from vae.state import Progress, Saver, Snapshot, load_checkpoint, newest_checkpoint, write_checkpoint

MEMBERS = ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"]
Parts = tuple[ConvVAE, Ema, torch.optim.Optimizer]


def make(model_config: ModelConfig, fit_config: FitConfig, seed: int, steps: int = 0) -> Parts:
    torch.manual_seed(seed)
    model = build(model_config)
    parts = model, Ema(model, 0.5), build_optimizer(model, fit_config)
    advance(parts, 0, steps)
    return parts


def save_checkpoint(root: Path, progress: Progress, *parts: object) -> Path:
    return write_checkpoint(root, Snapshot.take(progress, *parts))


def advance(parts: Parts, start: int, stop: int) -> None:
    model, ema, optimizer = parts
    for step in range(start, stop):
        generator = torch.Generator().manual_seed(step)
        terms = model(torch.rand(4, 1, 8, 8, generator=generator) * 2 - 1, torch.randn(4, 3, generator=generator))
        optimizer.zero_grad()
        (terms.distortion_N.sum() + terms.rate_ND.sum()).backward()
        optimizer.step()
        ema.update(step)


@pytest.fixture
def parts(model_config: ModelConfig, fit_config: FitConfig) -> Parts:
    return make(model_config, fit_config, seed=1, steps=3)


@pytest.fixture
def root(tmp_path: Path, parts: Parts) -> Path:
    """Checkpoints of steps 3 and 5."""
    save_checkpoint(tmp_path / "c", Progress(step=3), *parts)
    save_checkpoint(tmp_path / "c", Progress(step=5), *parts)
    return tmp_path / "c"


def names(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir())


def test_checkpoint_round_trip_is_exact(tmp_path: Path, parts: Parts, model_config: ModelConfig, fit_config: FitConfig) -> None:
    progress = Progress(step=3, sums=[0.1, -2.5e17, 1 / 3], report={"step": 3, "elbo_nats": -1 / 7})
    saved = save_checkpoint(tmp_path, progress, *parts)
    other = make(model_config, fit_config, seed=2)
    assert newest_checkpoint(tmp_path) == saved
    assert load_checkpoint(saved, *other) == progress
    for name, value in parts[0].state_dict().items():
        assert torch.equal(other[0].state_dict()[name], value)
        assert torch.equal(other[1].shadow[name], parts[1].shadow[name])
    assert other[2].state_dict()["param_groups"] == parts[2].state_dict()["param_groups"]


def test_checkpoint_training_goes_on_as_if_never_saved(
    tmp_path: Path, parts: Parts, model_config: ModelConfig, fit_config: FitConfig
) -> None:
    other = make(model_config, fit_config, seed=2)
    load_checkpoint(save_checkpoint(tmp_path, Progress(step=3), *parts), *other)
    for each in (parts, other):
        advance(each, 3, 6)
    for name, value in parts[0].state_dict().items():
        assert torch.equal(other[0].state_dict()[name], value), name
        assert torch.equal(other[1].shadow[name], parts[1].shadow[name]), name


def test_newest_checkpoint_empty_or_absent_root_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "absent") is None


def test_newest_checkpoint_is_by_step_not_by_time(root: Path, parts: Parts) -> None:
    for path in root.iterdir():
        os.utime(path, (0, 0) if path.name == "step-00000005" else None)
    assert newest_checkpoint(root).name == "step-00000005"


@pytest.mark.parametrize("name", MEMBERS)
def test_newest_checkpoint_flipped_byte_is_passed_over_and_reported(
    root: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = root / "step-00000005" / name
    whole = path.read_bytes()
    for position in {0, len(whole) // 2, len(whole) - 1}:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert newest_checkpoint(root).name == "step-00000003"
        assert name in caplog.text
    path.write_bytes(whole)
    assert newest_checkpoint(root).name == "step-00000005"


@pytest.mark.parametrize("name", [*MEMBERS, MANIFEST])
def test_newest_checkpoint_truncated_or_missing_file_is_passed_over(root: Path, name: str) -> None:
    path = root / "step-00000005" / name
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole[:length])
        assert newest_checkpoint(root).name == "step-00000003"
    path.unlink()
    assert newest_checkpoint(root).name == "step-00000003"


def test_newest_checkpoint_flipped_byte_of_the_manifest_never_stops_the_search(root: Path) -> None:
    path = root / "step-00000005" / MANIFEST
    whole = path.read_bytes()
    escaped, trusted = [], []
    for position in range(0, len(whole), 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        try:
            if newest_checkpoint(root).name != "step-00000003":
                trusted.append(position)
        except Exception as error:
            escaped.append((position, repr(error)))
    assert not escaped
    assert not trusted


def test_newest_checkpoint_all_damaged_is_none(root: Path) -> None:
    for directory in root.iterdir():
        (directory / "state.json").write_text("{}")
    assert newest_checkpoint(root) is None


def test_newest_checkpoint_half_written_directory_is_not_seen(root: Path, parts: Parts) -> None:
    # What a crash within save_checkpoint leaves: the hidden directory beside.
    (root / "step-00000005").rename(root / ".step-00000009.part")
    assert newest_checkpoint(root).name == "step-00000003"


def test_save_checkpoint_keeps_the_newest_two(root: Path, parts: Parts) -> None:
    for step in (7, 11, 100):
        save_checkpoint(root, Progress(step=step), *parts)
    assert names(root) == ["step-00000011", "step-00000100"]


def test_save_checkpoint_same_step_again_replaces_it(root: Path, parts: Parts) -> None:
    (root / "step-00000005" / "ema.safetensors").write_bytes(b"damaged")
    save_checkpoint(root, Progress(step=5), *parts)
    assert newest_checkpoint(root).name == "step-00000005"
    assert names(root) == ["step-00000003", "step-00000005"]


def test_save_checkpoint_just_written_survives_beside_damaged_newer_ones(root: Path, parts: Parts) -> None:
    # Both checkpoints of a run are damaged, so it starts anew: its first checkpoint must not fall to the retention rule.
    for directory in root.iterdir():
        (directory / "state.json").write_text("{}")
    written = save_checkpoint(root, Progress(step=2), *parts)
    assert newest_checkpoint(root) == written


class _Payload:
    """Unpickling this makes a directory: the trace of code that ran."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("name", [n for n in MEMBERS if n != "state.json"])
def test_load_checkpoint_pickled_code_does_not_run_even_with_a_fitting_manifest(
    root: Path, tmp_path: Path, parts: Parts, name: str
) -> None:
    trace, directory = tmp_path / "ran", root / "step-00000005"
    torch.save({"state": _Payload(trace)}, directory / name)
    write_manifest(directory, step=5)
    with pytest.raises(Exception, match=r"Weights only|[Hh]eader"):
        load_checkpoint(directory, *parts)
    assert not trace.exists()
    with (directory / name).open("rb") as stream:
        torch.load(stream, weights_only=False)  # the payload is live: without the guard it does run
    assert trace.exists()


def test_checkpoint_of_another_model_is_refused(root: Path, model_config: ModelConfig, fit_config: FitConfig) -> None:
    other = make(replace(model_config, latent_dim=5), fit_config, seed=0)
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_checkpoint(root / "step-00000005", *other)


def test_write_checkpoint_keeps_the_best_beside_the_newest(root: Path, parts: Parts) -> None:
    for step in (7, 11, 100):
        save_checkpoint(root, Progress(step=step, best_step=5), *parts)
    assert names(root) == ["step-00000005", "step-00000011", "step-00000100"]


def test_snapshot_is_not_touched_by_the_training_that_goes_on(parts: Parts) -> None:
    snapshot = Snapshot.take(Progress(step=3), *parts)
    before = {file: {k: v.clone() for k, v in tensors.items()} for file, tensors in snapshot.tensors.items()}
    advance(parts, 3, 6)
    for file, tensors in snapshot.tensors.items():
        assert tensors and all(torch.equal(before[file][k], v) for k, v in tensors.items())


def test_saver_writes_in_order_and_what_fails_comes_with_the_next_call(tmp_path: Path, parts: Parts) -> None:
    saver = Saver(tmp_path / "c", keep=2)
    for step in (1, 2, 3):
        saver.save(Progress(step=step), *parts)
    saver.wait()
    assert names(tmp_path / "c") == ["step-00000002", "step-00000003"]
    shutil.rmtree(tmp_path / "c")
    (tmp_path / "c").write_text("a file in the folder's place")
    saver.save(Progress(step=4), *parts)
    with pytest.raises(OSError, match="c"):
        saver.save(Progress(step=5), *parts)
    saver.close()


CRASH_POINTS = ("vae.state.save_file", "vae.state.write_text", "vae.state.write_manifest", "pathlib.Path.rename")


@pytest.mark.parametrize("point", CRASH_POINTS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_a_checkpoint_is_written_the_one_before_is_trusted(root: Path, parts: Parts, point: str, when: str) -> None:
    # A process of its own that ends at once, without unwinding, before or after the call.
    pid = os.fork()
    if pid == 0:
        with pytest.MonkeyPatch.context() as patch:
            module, name = point.rsplit(".", 1)
            owner = pathlib.Path if module == "pathlib.Path" else state_module
            real = getattr(owner, name)

            def dying(*arguments: object, **named: object) -> object:
                if when == "before":
                    os._exit(0)
                real(*arguments, **named)
                os._exit(0)

            patch.setattr(owner, name, dying)
            save_checkpoint(root, Progress(step=9), *parts)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    done = point == "pathlib.Path.rename" and when == "after"
    assert newest_checkpoint(root).name == ("step-00000009" if done else "step-00000005")
    save_checkpoint(root, Progress(step=9), *parts)  # what was left behind is in nobody's way
    assert newest_checkpoint(root).name == "step-00000009"


@pytest.mark.parametrize("name", [*MEMBERS, MANIFEST])
def test_newest_checkpoint_any_of_a_hundred_random_flips_and_cuts_is_found(root: Path, name: str) -> None:
    path, rng = root / "step-00000005" / name, random.Random(0)
    whole = path.read_bytes()
    for _ in range(100):
        position, bit = rng.randrange(len(whole)), rng.randrange(8)
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :])
        assert newest_checkpoint(root).name == "step-00000003", (position, bit)
        path.write_bytes(whole[: rng.randrange(len(whole))])
        assert newest_checkpoint(root).name == "step-00000003"
    path.write_bytes(whole)
    assert newest_checkpoint(root).name == "step-00000005"
