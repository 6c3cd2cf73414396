"""HyperBand on a real Ray: a search ends, whatever happens in the moment in which the last trial of a bracket is waited for.

The faults are planted by files that the trials leave for each other, so each test is the same moment every time.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import ray
from ray import tune

from pipeline.search import halving

PATIENCE_SECONDS = 90.0
LAST = 2  # reports of a trial that is not stopped


def wait_for(sign: Path) -> None:
    for _ in range(int(PATIENCE_SECONDS / 0.02)):
        if sign.exists():
            return
        time.sleep(0.02)
    raise TimeoutError(sign)


class Trial(tune.Trainable):
    """Number 0 is the first to have reported all; number 1 does so, or fails, while that one pauses, or once it is paused."""

    def setup(self, config: dict) -> None:
        self.number, self.fault, self.signs, self.steps = config["number"], config["fault"], Path(config["signs"]), 0

    def step(self) -> dict:
        self.steps += 1
        if self.steps == LAST and self.number == 1:
            wait_for(self.signs / ("pausing" if self.fault == "slow checkpoint" else "paused"))
            if self.fault == "failure":
                raise RuntimeError("planted")
        return {"score": self.number}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        (Path(checkpoint_dir) / "steps").write_text(str(self.steps))
        if self.steps == LAST and self.number == 0 and self.fault == "slow checkpoint":
            (self.signs / "pausing").touch()
            wait_for(self.signs / "ended 1")

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        self.steps = int((Path(checkpoint_dir) / "steps").read_text())

    def cleanup(self) -> None:
        if self.number == 0:
            (self.signs / "paused").touch()
        (self.signs / f"ended {self.number}").touch()


class Patience(tune.Stopper):
    """Ends a search that does not end."""

    def __init__(self) -> None:
        self.begun, self.lost = time.monotonic(), False

    def __call__(self, trial_id: str, result: dict) -> bool:
        return False

    def stop_all(self) -> bool:
        self.lost = time.monotonic() > self.begun + PATIENCE_SECONDS
        return self.lost


@pytest.fixture(scope="module")
def cluster():
    here = {"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}  # where the workers find this module
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=here)
    yield
    ray.shutdown()


@pytest.mark.parametrize("fault", ["slow checkpoint", "failure"])
def test_search_ends_when_the_last_trial_of_a_bracket_ends(cluster: None, tmp_path: Path, fault: str) -> None:
    patience = Patience()
    found = tune.Tuner(
        Trial,
        param_space={"number": tune.grid_search([0, 1]), "fault": fault, "signs": str(tmp_path)},
        tune_config=tune.TuneConfig(metric="score", mode="max", scheduler=halving()(max_t=LAST, reduction_factor=2)),
        run_config=tune.RunConfig(name="search", storage_path=str(tmp_path / "ray"), verbose=0, stop=patience),
    ).fit()
    assert not patience.lost
    reported = {each.config["number"]: each.metrics["training_iteration"] for each in found if each.error is None}
    assert reported == ({0: LAST, 1: LAST} if fault == "slow checkpoint" else {0: LAST})
    assert len(found.errors) == (fault == "failure")
