"""Training across two hosts, of which one is cut off in the middle: it goes on where there is room, to the same weights."""

from __future__ import annotations

import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from benchmarks.hosts import CABLE, permitted
from hosts import two_hosts
from workspace import LONG, START_SECONDS, Workspace, one_line

pytestmark = pytest.mark.skipif(not permitted(), reason="network namespaces are not permitted here")
PROFILE = f"""address: auto
workers: 2
cpus_per_worker: 1
gpus_per_worker: 0
threads_per_worker: 1
placement: SPREAD
silent_seconds: 30
environment: {{GLOO_SOCKET_IFNAME: {CABLE}}}
"""


def _token() -> dict[str, str]:
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}


def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="ray-"))  # sockets below it: a path may have 107 bytes


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_host_that_is_cut_off_is_left_and_the_weights_are_the_same(ready: Workspace, uninterrupted: str) -> None:
    ready.set(LONG)
    (ready.root / "infra/ray/hosts.yaml").write_text(PROFILE)
    token, folder = _token(), _folder()
    with two_hosts(folder, token) as hosts:
        environment = ready._environment(token | {"RAY_ADDRESS": hosts.ray_address, "VAELINE_CLUSTER": "infra/ray/hosts.yaml"})
        process = subprocess.Popen(
            hosts.on(0, sys.executable, "-m", "pipeline.train"), cwd=ready.root, env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while not list(ready.root.glob(".work/train/checkpoints/step-*/MANIFEST.json")):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "no checkpoint came"
            time.sleep(0.02)
        assert hosts.workers() == [0, 1]
        hosts.cut()
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    assert ready.weights_sha256() == uninterrupted


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_host_that_does_not_see_the_workspace_is_named(ready: Workspace) -> None:
    (ready.root / "infra/ray/hosts.yaml").write_text(PROFILE)
    token = _token()
    with two_hosts(_folder(), token, hidden=ready.root) as hosts:
        environment = ready._environment(token | {"RAY_ADDRESS": hosts.ray_address, "VAELINE_CLUSTER": "infra/ray/hosts.yaml"})
        command = hosts.on(0, sys.executable, "-m", "pipeline.train")
        done = subprocess.run(command, cwd=ready.root, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 78, done.stderr
    assert f"10.77.0.2 does not see {ready.root}" in one_line(done, "train")
