"""HyperBand on a real Ray: a search ends, whatever happens in the moment in which the last trial of a bracket is waited for.

The faults are planted by files that the trials leave for each other, so each test is the same moment every time. A search is a process
of its own, which is this file run as a script.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pipeline.search import halving
from searches import patience, told_by, wait_for

LAST = 2  # reports of a trial that is not stopped


def search(fault: str, signs: Path) -> dict:
    """Two trials of a bracket: the reports of those that came to their end, how many failed, and whether it had to be given up."""
    import ray
    from ray import tune

    class Trial(tune.Trainable):
        """Number 0 is the first to have reported all; number 1 does so, or fails, while that one pauses, or once it is paused."""

        def setup(self, config: dict) -> None:
            self.number, self.steps = config["number"], 0

        def step(self) -> dict:
            self.steps += 1
            if self.steps == LAST and self.number == 1:
                wait_for(signs / ("pausing" if fault == "slow checkpoint" else "paused"))
                if fault == "failure":
                    raise RuntimeError("planted")
            return {"score": self.number}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            (Path(checkpoint_dir) / "steps").write_text(str(self.steps))
            if self.steps == LAST and self.number == 0 and fault == "slow checkpoint":
                (signs / "pausing").touch()
                wait_for(signs / "ended 1")

        def load_checkpoint(self, checkpoint_dir: str) -> None:
            self.steps = int((Path(checkpoint_dir) / "steps").read_text())

        def cleanup(self) -> None:
            if self.number == 0:
                (signs / "paused").touch()
            (signs / f"ended {self.number}").touch()

    patient = patience()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    found = tune.Tuner(
        Trial,
        param_space={"number": tune.grid_search([0, 1])},
        tune_config=tune.TuneConfig(metric="score", mode="max", scheduler=halving()(max_t=LAST, reduction_factor=2)),
        run_config=tune.RunConfig(name="search", storage_path=str(signs / "ray"), verbose=0, stop=patient),
    ).fit()
    reports = {each.config["number"]: each.metrics["training_iteration"] for each in found if each.error is None}
    return {"reports": sorted(reports.items()), "failed": len(found.errors), "given_up": patient.lost}


@pytest.mark.parametrize(
    ("fault", "reports", "failed"), [("slow checkpoint", [[0, LAST], [1, LAST]], 0), ("failure", [[0, LAST]], 1)]
)
def test_search_ends_when_the_last_trial_of_a_bracket_ends(tmp_path: Path, fault: str, reports: list, failed: int) -> None:
    assert told_by(__file__, fault, str(tmp_path)) == {"reports": reports, "failed": failed, "given_up": False}


if __name__ == "__main__":
    print(json.dumps(search(sys.argv[1], Path(sys.argv[2]))))
