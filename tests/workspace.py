"""A workspace is a copy of the project's code in an empty folder, so that no test touches the checkout."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from pipeline import params

ROOT = Path(__file__).resolve().parent.parent
CODE = ("pipeline", "vae", "infra", "params.yaml", "dvc.yaml", ".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore")

# A pipeline of seconds: every stage does its real work on little data.
TINY = {
    "base.image_size": 16,
    "base.mode": "RGB",
    "download.sprite_images": 400,
    "preprocess.val_fraction": 0.3,
    "preprocess.test_fraction": 0.3,
    "extractor.total_images": 640,
    "extractor.feature_dim": 8,
    "extractor.width": 8,
    "extractor.second_width": 8,
    "fit.widths": [8, 16],
    "fit.hidden_units": 32,
    "fit.global_batch_size": 32,
    "fit.warmup_images": 64,
    "tune.trials": 4,
    "tune.rungs": 2,
    "tune.searcher": "sobol",
    "tune.scheduler": "hyperband",
    "tune.images_per_trial": 256,
    "tune.latent_dim_min": 2,
    "tune.latent_dim_max": 6,
    "tune.score_samples": 64,
    "train.total_images": 640,
    "train.validate_every_images": 320,
    "train.checkpoint_every_images": 320,
    "train.attribute_steps": 50,
    "fit.mixture_components": 2,
    "evaluate.samples": 128,
    "evaluate.importance_samples": 4,
    "evaluate.importance_images": 8,
    "register.gates": [],  # models of seconds pass none
}


WEIGHTS = "models/vae/model.safetensors"
START_SECONDS = 120
# 400 steps of 32 images: long enough to be hurt in the middle.
LONG = {"train.total_images": 12_800, "train.validate_every_images": 1280, "train.checkpoint_every_images": 640}


def free_port() -> int:
    """A port of this machine that nothing listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def one_line(result: subprocess.CompletedProcess, stage: str) -> str:
    """The stage's one error line; no traceback beside it."""
    assert "Traceback" not in result.stderr, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith(f"{stage}: error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


# Appended to the copy of vae/losses.py: the trainer, and nobody else, asks there once a step.
PLANTED = """

_calm = Objective.draw


def _planted(self, step, *rest):
    import os, signal
    from pathlib import Path
    from vae.distributed import rank

    left = sorted(Path({fault!r}).iterdir())
    if step == {step} and rank() == {rank} and left:
        left[0].unlink()
        if {what!r} == "bug":
            raise KeyError("a planted bug")
        os.kill(os.getpid(), signal.SIGKILL if {what!r} == "kill" else signal.SIGSTOP)
    return _calm(self, step, *rest)


Objective.draw = _planted
"""


class Workspace:
    """A copy of the project's code with tiny parameters; ``run`` starts a command there as a user would."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in CODE:
            source, target = ROOT / name, root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        # As on a cluster, wherever a test says nothing else: ranks that have to agree.
        shutil.copy(root / "infra/ray/two-processes.yaml", root / "infra/ray/laptop.yaml")
        self.set(TINY)

    def set(self, values: dict) -> None:
        """Change parameters."""
        path = self.root / "params.yaml"
        path.write_text(params.edited(path.read_text(), values))

    def plant(self, what: str, step: int, rank: int, times: int = 1) -> None:
        """Let a training worker come to harm before a step, so many times: kill, stop or bug."""
        fault = self.root / "fault"
        fault.mkdir(exist_ok=True)
        for number in range(times):
            (fault / f"{number}").touch()
        with (self.root / "vae/losses.py").open("a") as stream:
            stream.write(PLANTED.format(fault=str(fault), step=step, rank=rank, what=what))

    def keep_trials(self) -> None:
        """Let stage tune leave the states of its trials where they are."""
        path, line = self.root / "pipeline/tune.py", "    shutil.rmtree(template.state)\n"
        text = path.read_text()
        assert text.count(line) == 1
        path.write_text(text.replace(line, ""))

    def copied(self, root: Path) -> Workspace:
        """Another workspace with all that is in this one."""
        shutil.copytree(self.root, root, symlinks=True)
        copy = Workspace.__new__(Workspace)
        copy.root = root
        return copy

    def weights_sha256(self) -> str:
        """Of the trained model."""
        return hashlib.sha256((self.root / WEIGHTS).read_bytes()).hexdigest()

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        every = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS" and not k.startswith(("MLFLOW_", "VAELINE_"))}
        return every | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(self.root)} | more

    def run(self, *command: str, timeout: float = 540, **environment: str) -> subprocess.CompletedProcess:
        """Run ``python -m …`` or another command in the workspace."""
        return subprocess.run(
            command, cwd=self.root, env=self._environment(environment), capture_output=True, text=True, timeout=timeout, check=False
        )  # fmt: skip

    def stage(self, name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        """Run one stage."""
        return self.run(sys.executable, "-m", f"pipeline.{name}", *arguments, **environment)

    def start(self, module: str, *arguments: str, **environment: str) -> subprocess.Popen:
        """Start a command and leave it; all that it prints comes through ``stdout``."""
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments], cwd=self.root, env=self._environment(environment),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def start_training(self, **environment: str) -> subprocess.Popen:
        """Start the stage and wait until it has a checkpoint; all that it prints comes through ``stdout``."""
        process = self.start("pipeline.train", **environment)
        self.wait_for(".work/train/checkpoints/step-*/MANIFEST.json", process)
        return process

    def wait_for(self, pattern: str, process: subprocess.Popen) -> None:
        """Until the process has made such a file."""
        deadline = time.monotonic() + START_SECONDS
        while not list(self.root.glob(pattern)):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, f"no {pattern} came"
            time.sleep(0.02)
