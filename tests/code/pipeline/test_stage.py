"""Stage: every failure is one line for a person, a documented exit code and failure.json."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import errors, stage
from pipeline.paths import Paths
from vae.files import DamagedError, write_manifest

ROOT = Path(__file__).resolve().parents[3]
# A stage whose work is the code in the first argument.
PROBE = """
import os, signal, sys
from pipeline import stage
work = sys.argv.pop(1)
stage.main("probe", ("base.seed",), lambda values, paths: exec(work), "a stage for tests")
"""


def start(folder: Path, work: str, *arguments: str) -> subprocess.Popen:
    every = {k: v for k, v in os.environ.items() if k != "VAELINE_DEBUG"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROBE, work, *arguments]
    return subprocess.Popen(command, cwd=folder, env=every, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(folder: Path, work: str, *arguments: str) -> tuple[int, str]:
    process = start(folder, work, *arguments)
    _, stderr = process.communicate(timeout=120)
    return process.returncode, stderr


def recorded(folder: Path) -> dict:
    return json.loads((folder / ".work" / stage.FAILURE_FILE).read_text())


def test_stage_bad_parameters_exit_78_with_every_line_and_record(project):
    text = project.text.replace("seed: 0", "seed: -3").replace("copies: 1", "copys: 1")
    project.paths.params.write_text(text)
    code, stderr = run(project.root, "pass")
    assert code == 78
    assert all(line.startswith("probe: error: params.yaml:") for line in stderr.splitlines())
    assert len(stderr.splitlines()) == 3 and "did you mean 'copies'?" in stderr
    failure = recorded(project.root)
    assert (failure["stage"], failure["exit_code"]) == ("probe", 78)
    assert failure["message"].splitlines() == [line.removeprefix("probe: error: ") for line in stderr.splitlines()]


def test_stage_without_params_file_exits_66(tmp_path):
    code, stderr = run(tmp_path, "pass")
    assert code == 66
    assert len(stderr.splitlines()) == 1 and "params.yaml does not exist" in stderr


def test_stage_unknown_exception_exits_70_in_one_line_and_with_traceback_under_debug(project):
    work = "raise ZeroDivisionError('two\\nlines')"
    code, stderr = run(project.root, work)
    assert code == 70 and recorded(project.root)["exit_code"] == 70
    assert stderr == "probe: error: ZeroDivisionError: two lines (run with --debug for the traceback)\n"
    code, stderr = run(project.root, work, "--debug")
    assert code == 70
    assert "Traceback (most recent call last)" in stderr
    assert stderr.splitlines()[-1].startswith("probe: error: ZeroDivisionError")


def test_stage_lock_held_by_another_process_exits_75(project):
    held = stage.lock("probe", project.paths)
    code, stderr = run(project.root, "raise SystemExit(99)")
    assert held is not None
    assert code == 75
    assert "already running" in stderr and recorded(project.root)["exit_code"] == 75


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stage_stopped_by_signal_unwinds_and_exits_as_documented(project, number, code):
    work = "try:\n print('ready', flush=True)\n signal.pause()\nfinally:\n open('unwound', 'w').close()"
    process = start(project.root, work)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code == recorded(project.root)["exit_code"]
    assert (project.root / "unwound").exists()
    assert "Traceback" not in stderr and "stopped by" in stderr


def test_stage_success_exits_0_and_gives_the_lock_back(project):
    code, stderr = run(project.root, "print(values.base.seed)")
    assert code == 0 and "done in" in stderr
    assert stage.lock("probe", project.paths) is not None
    assert not (project.paths.work / stage.FAILURE_FILE).exists()


def test_stage_damaged_input_exits_65(workspace):
    raw = workspace.root / "data/raw"
    raw.mkdir(parents=True)
    (raw / "images.zip").write_bytes(b"x")
    write_manifest(raw)
    (raw / "images.zip").write_bytes(b"xx")
    done = workspace.stage("preprocess")
    assert done.returncode == 65, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("preprocess: error: ") and "images.zip has 2 bytes" in line and "dvc repro" in line
    assert recorded(workspace.root)["exit_code"] == 65


def test_lock_second_holder_in_a_row_is_refused_until_the_first_lets_go(tmp_path):
    first = stage.lock("train", Paths(tmp_path))
    with pytest.raises(errors.TemporaryError, match="stage train is already running"):
        stage.lock("train", Paths(tmp_path))
    assert stage.lock("tune", Paths(tmp_path)) is not None  # another stage is free
    del first
    assert stage.lock("train", Paths(tmp_path)) is not None
    assert (tmp_path / ".work/train.lock").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.BadDataError("x"), 65),
        (DamagedError("x"), 65),
        (errors.InputMissingError("x"), 66),
        (errors.UnavailableError("x"), 69),
        (errors.TrainingFailedError("x"), 70),
        (errors.CannotWriteError("x"), 73),
        (errors.TemporaryError("x"), 75),
        (errors.BadConfigError("x"), 78),
        (OSError(errno.ENOSPC, "No space left on device", "/data/raw"), 73),
        (OSError(errno.EROFS, "Read-only file system", "/data/raw"), 73),
        (PermissionError(errno.EACCES, "Permission denied", "/data/raw"), 73),
        (OSError(errno.EDQUOT, "Quota exceeded"), 73),
        (KeyboardInterrupt(), 130),
        (stage.Terminated(), 143),
        (ValueError("x"), 70),
        (FileNotFoundError(errno.ENOENT, "No such file", "/gone"), 70),
        (MemoryError(), 70),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_explain_every_failure_has_its_documented_code(error, code):
    message, returned = stage.explain(error)
    assert returned == code
    assert message.strip() and "\n" not in message


def test_explain_no_room_names_the_place_and_the_remedy():
    message, _ = stage.explain(OSError(errno.ENOSPC, "No space left on device", "/data/raw"))
    assert "/data/raw" in message and "No space left on device" in message and "free some space" in message


def test_guarded_full_device_is_73_with_one_line_and_record(tmp_path, capsys):
    def work() -> None:
        with Path("/dev/full").open("wb", buffering=0) as stream:
            stream.write(b"x")

    assert stage.guarded("download", work, debug=False, record=tmp_path / "work/failure.json") == 73
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("download: error: cannot write")
    assert json.loads((tmp_path / "work/failure.json").read_text())["exit_code"] == 73


def test_guarded_record_that_cannot_be_written_hides_nothing(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")

    def work() -> None:
        raise errors.BadDataError("the reason")

    assert stage.guarded("x", work, debug=False, record=tmp_path / "file/failure.json") == 65
    assert capsys.readouterr().err == "x: error: the reason\n"


def test_guarded_exit_of_the_work_passes_through():
    with pytest.raises(SystemExit) as caught:
        stage.guarded("x", lambda: sys.exit(2), debug=False)
    assert caught.value.code == 2


def test_guarded_success_is_0_and_leaves_no_record(tmp_path):
    assert stage.guarded("x", lambda: None, debug=False, record=tmp_path / "failure.json") == 0
    assert not (tmp_path / "failure.json").exists()
