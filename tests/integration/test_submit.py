"""Jobs of the pipeline on a real Ray cluster of two nodes: log, exit code, interruption, and results that come back."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import submit
from pipeline.errors import UnavailableError
from raylets import cluster
from vae.files import read_json
from web_server import Site, send, whole
from workspace import ROOT, Workspace, free_port, one_line

SUBMIT = (sys.executable, "-m", "pipeline.submit")
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a-token-of-the-tests-0123456789"}
WIDE = "address: auto\nworkers: 2\ncpus_per_worker: 1\ngpus_per_worker: 0\nthreads_per_worker: 1\nplacement: STRICT_SPREAD\n"
AGENT_PORT = 52365  # where `ray start` puts an agent that is told nothing (Ray 2.60, _private/ray_constants.py)
MOST_SHIPPED_BYTES = 10 * 2**20
SECONDS = 60


class Jobs:
    """A head with its dashboard and a second node, each of one CPU."""

    def __init__(self, address: str, port: int, folder: Path) -> None:
        self.address, self.url, self.folder = address, f"http://127.0.0.1:{port}", folder

    def ask(self, path: str) -> dict:
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {TOKEN['RAY_AUTH_TOKEN']}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def state(self, job: str) -> str:
        return self.ask(f"/api/jobs/{job}")["status"]


@pytest.fixture(scope="module")
def other_ray() -> Iterator[None]:
    """What the agent of another Ray on this machine does: it holds the port that is the default of all."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind(("127.0.0.1", AGENT_PORT))
            held.listen()
        except OSError:  # there is another
            pass
        yield


@pytest.fixture(scope="module")
def jobs(other_ray) -> Iterator[Jobs]:
    # Not below pytest's own folder: the path of a socket has 107 bytes at most, and the dashboard's have long names.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as short:
        folder, port = Path(short) / "t", free_port()
        with cluster(folder, TOKEN, 2, dashboard=port) as (address, _):
            found = Jobs(address, port, folder)
            deadline = time.monotonic() + SECONDS
            while True:
                try:
                    found.ask("/api/jobs/")
                    break
                except OSError:
                    assert time.monotonic() < deadline, "the dashboard does not come up"
                    time.sleep(0.2)
            yield found


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "project")


def submitted(workspace: Workspace, jobs: Jobs, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return workspace.run(*SUBMIT, "--address", jobs.url, *arguments, **(TOKEN | environment))


def test_job_runs_in_the_workspace_with_its_log_here_and_its_exit_code_ours(jobs, workspace):
    code = "import os, sys; print('this is', os.getcwd()); print('and more', file=sys.stderr); sys.exit(65)"
    done = submitted(workspace, jobs, "--", sys.executable, "-c", code, VAELINE_CLUSTER="infra/ray/one-gpu.yaml")
    assert done.returncode == 65, done.stderr
    assert f"this is {workspace.root}" in done.stderr and "and more" in done.stderr
    assert submitted(workspace, jobs, "--", "true").returncode == 0


def test_environment_of_a_job_has_no_secret(jobs, workspace):
    canaries = {
        "MLFLOW_TRACKING_URI": "https://u:canary-1@host",
        "VAELINE_WEBHOOK": "https://canary-2",
        "AWS_SECRET_ACCESS_KEY": "canary-3",
    }
    done = submitted(workspace, jobs, "--detach", "--", "true", **canaries)
    assert done.returncode == 0, done.stderr
    assert "canary" not in json.dumps(jobs.ask("/api/jobs/")) and "canary" not in done.stdout + done.stderr


def _interrupted(workspace: Workspace, jobs: Jobs, *arguments: str) -> tuple[str, subprocess.Popen]:
    """A job that has begun and waits for the file ``end``, and whoever submitted it, interrupted."""
    wait = "import time, pathlib; print('begun', flush=True)\nwhile not pathlib.Path('end').exists(): time.sleep(0.05)"
    process = subprocess.Popen(
        [*SUBMIT, "--address", jobs.url, *arguments, "--", sys.executable, "-c", wait], cwd=workspace.root,
        env=workspace._environment(TOKEN), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    job, seen = "", ""
    for line in process.stderr:
        seen += line
        if "| job " in line:
            job = line.partition("| job ")[2].partition(":")[0]
        if line.startswith("begun"):
            break
    assert job, seen
    process.send_signal(signal.SIGINT)
    return job, process


def test_interruption_leaves_the_job_and_it_can_be_followed_again(jobs, workspace):
    job, process = _interrupted(workspace, jobs)
    told, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 130 and f"--attach {job}" in told and jobs.state(job) == "RUNNING"
    (workspace.root / "end").touch()
    assert submitted(workspace, jobs, "--attach", job).returncode == 0
    assert jobs.state(job) == "SUCCEEDED"


def test_interruption_ends_the_job_where_that_is_asked(jobs, workspace):
    job, process = _interrupted(workspace, jobs, "--on-interrupt", "cancel")
    process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    deadline = time.monotonic() + SECONDS
    while jobs.state(job) != "STOPPED":
        assert time.monotonic() < deadline, jobs.state(job)
        time.sleep(0.1)
    at_work = [p for p in Path("/proc").glob("[0-9]*") if _cwd(p) == str(workspace.root)]
    assert not at_work  # no orphan


def _cwd(process: Path) -> str:
    try:
        return os.readlink(process / "cwd")
    except OSError:
        return ""


def test_what_is_wrong_with_a_cluster_is_one_line_and_a_code(jobs, workspace):
    nobody = workspace.run(*SUBMIT, "--address", f"http://127.0.0.1:{free_port()}", **TOKEN)
    assert nobody.returncode == 69 and "no Ray cluster takes jobs at" in one_line(nobody, "submit")
    wrong = workspace.run(*SUBMIT, "--address", jobs.url, **(TOKEN | {"RAY_AUTH_TOKEN": "another-token-of-32-characters--"}))
    assert wrong.returncode == 69 and "RAY_AUTH_TOKEN" in one_line(wrong, "submit")
    with Site() as site:
        site["/api/version"] = whole(
            b'{"version": "4", "ray_version": "2.9.9", "ray_commit": "x"}', Content_Type="application/json"
        )
        old = workspace.run(*SUBMIT, "--address", site.url(""), **TOKEN)
    assert old.returncode == 78 and f"the cluster runs Ray 2.9.9, this machine {version('ray')}" in one_line(old, "submit")


def _handed_over(url: str) -> None:
    """In a process of its own: Ray keeps the first token that it reads, and a later test of the process would have it."""
    submit.AGAIN_SECONDS = 0.01
    client = submit._client(url)
    submit._take(client, entrypoint="true", submission_id="soon")
    submit.AGENT_SECONDS = 0.1
    with pytest.raises(UnavailableError, match="the cluster takes no jobs"):
        submit._take(client, entrypoint="true", submission_id="never")
    with pytest.raises(RuntimeError, match="something else"):
        submit._take(client, entrypoint="true", submission_id="broken")


def test_cluster_that_has_no_agent_for_jobs_yet_is_asked_again(monkeypatch):
    none = (500, b"No available agent to submit job, please try again later.")
    answers = {
        "soon": [none, none, (200, b'{"job_id": "a", "submission_id": "soon"}')],
        "never": [none],
        "broken": [(500, b"something else")],
    }
    asked = []

    def jobs(handler) -> None:
        asked.append(json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))["submission_id"])
        left = answers[asked[-1]]
        send(handler, *(left.pop(0) if len(left) > 1 else left[0]), Content_Type="application/json")

    for name, value in TOKEN.items():
        monkeypatch.setenv(name, value)
    with Site() as site:
        told = f'{{"version": "4", "ray_version": "{version("ray")}", "ray_commit": "x"}}'
        site["/api/version"], site["/api/jobs/"] = whole(told.encode(), Content_Type="application/json"), jobs
        process = get_context("spawn").Process(target=_handed_over, args=(site.url(""),))
        process.start()
        process.join(SECONDS)
        assert process.exitcode == 0
    assert asked.count("soon") == 3 and asked.count("never") > 1 and asked.count("broken") == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whole_pipeline_on_the_cluster_comes_back_into_this_workspace(jobs, tmp_path):
    """The cluster sees neither the images nor this workspace: a storage, and its own workspace that both nodes see."""
    here = Workspace(tmp_path / "here")
    (here.root / ".rayignore").write_text((ROOT / ".rayignore").read_text() + "/pictures/\n")
    (here.root / "pictures").mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (400, 16, 16, 3)).astype(np.uint8)):
        Image.fromarray(pixels).save(here.root / f"pictures/{number}.png")
    here.set({"download.source": "path", "download.path": "pictures", "tune.trials": 2, "tune.rungs": 1})
    (here.root / "infra/ray/two.yaml").write_text(WIDE)
    assert here.run("git", "init", "-q").returncode == 0
    assert here.run(sys.executable, "-m", "dvc", "repro", "download").returncode == 0
    there, storage = tmp_path / "there", tmp_path / "storage"
    done = here.run(
        *SUBMIT, "--address", jobs.url, "--workspace", str(there), "--storage", str(storage), timeout=800,
        VAELINE_CLUSTER="infra/ray/two.yaml", **TOKEN,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (there / "pictures").exists() and "Running stage 'download'" not in done.stderr
    assert read_json(here.root / "reports/train/run.json")["workers"] == 2
    for name in ("models/vae/model.safetensors", "reports/report.html", "dvc.lock"):
        assert (here.root / name).read_bytes() == (there / name).read_bytes()
    status = here.run(sys.executable, "-m", "dvc", "status")
    assert "up to date" in status.stdout, status.stdout
    shipped = jobs.folder.glob("session_latest/runtime_resources/working_dir_files/_ray_pkg_*")
    sizes = [sum(file.stat().st_size for file in each.rglob("*") if file.is_file()) for each in shipped if each.is_dir()]
    assert sizes and max(sizes) < MOST_SHIPPED_BYTES
