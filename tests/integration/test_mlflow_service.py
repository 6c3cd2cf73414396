"""MLflow as a service, with real PostgreSQL: login, hosts, artefacts, moving to it, backups, and a database that goes away."""

from __future__ import annotations

import base64
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import psycopg2
import pytest

from mlflow_service import SECRETS, Service
from pipeline import ledger
from pipeline.paths import Paths
from pipeline.registry import Registry
from pipeline.tracking import Tracker
from postgres import programs
from saved import saved_model
from vae.artefact import load_artefact
from vae.files import read_json
from workspace import LONG, ROOT, Workspace, one_line

INFRA = ROOT / "infra/mlflow"
MIGRATE = (sys.executable, "-m", "pipeline.migrate")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    found = Service(tmp_path_factory.mktemp("service"))
    with found.serving():
        yield found
    found.end()


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Service]:
    """A service whose server has never run."""
    (tmp_path / "service").mkdir()
    found = Service(tmp_path / "service")
    yield found
    found.end()


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace whose SQLite store has three versions, the second one champion, and a run with metrics."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workspace = Workspace(tmp_path / "filled")
    registry = Registry.here(Paths(workspace.root))
    for number in (1, 2, 3):
        run = registry.tracker.run(f"m{number}")
        folder = tmp_path / f"m{number}"
        registry.add(run, folder, saved_model(folder, seed=number), {"fcd": number / 2}, {"vaeline.promoted": "false"})
        for step in range(5):
            registry.tracker.client.log_metric(run, "loss", step + number / 10, step=step)
    ledger.promote_by_hand(registry, Paths(workspace.root), "1", "")
    ledger.promote_by_hand(registry, Paths(workspace.root), "2", "better")
    return workspace


def connected(service: Service, root: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The registry as this process sees it through the server."""
    for name, value in service.client.items():
        monkeypatch.setenv(name, value)
    return Registry(Tracker(Paths(root)), "sprites")


def asked(
    service: Service, path: str, host: str = "", login: tuple[str, str] | None = ("admin", SECRETS["admin_password"])
) -> int:
    """The status of a plain request, whose path is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{service.port}")
    if login:
        connection.putheader("Authorization", "Basic " + base64.b64encode(":".join(login).encode()).decode())
    connection.endheaders()
    return connection.getresponse().status


def test_login_is_needed_foreign_hosts_and_paths_out_of_the_artefacts_are_refused(service, tmp_path):
    runs = "/api/2.0/mlflow/experiments/search?max_results=1"
    assert asked(service, runs) == 200
    assert asked(service, runs, login=None) == 401 and asked(service, runs, login=("admin", "wrong")) == 401
    assert asked(service, runs, host="evil.example") == 403 and asked(service, runs, host=f"evil.example:{service.port}") == 403
    (service.folder / "secret.txt").write_text("x")
    for path in (
        "../secret.txt",
        "%2e%2e/secret.txt",
        "..%2fsecret.txt",
        "a/../../secret.txt",
        "%252e%252e/secret.txt",
        "/etc/passwd",
    ):
        assert asked(service, f"/api/2.0/mlflow-artifacts/artifacts/{path}") in (400, 404, 500), path
    workspace = Workspace(tmp_path / "project")
    wrong = service.client | {"MLFLOW_TRACKING_PASSWORD": "wrong"}
    done = workspace.run(sys.executable, "-m", "pipeline.run", **wrong)
    assert done.returncode == 69 and "MLFLOW_TRACKING_USERNAME" in one_line(done, "run") and "wrong" not in done.stderr


def test_passwords_are_in_no_command_line_and_files_are_private(service):
    told = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert not any(value in told for value in SECRETS.values())
    assert (service.folder / "state/auth.ini").stat().st_mode & 0o077 == 0
    nowhere = os.environ | service.settings | {"SECRETS": "/nowhere"}
    missing = subprocess.run(["sh", str(INFRA / "serve.sh")], env=nowhere, capture_output=True, text=True, check=False)
    assert missing.returncode == 66 and "/nowhere/database_password does not exist" in missing.stderr


def test_store_moves_to_the_server_with_its_runs_versions_and_aliases(filled, empty, monkeypatch):
    here = Registry.here(Paths(filled.root))
    champion = here.champion()
    before = {
        "history": ledger.history(here), "versions": here.versions(), "tags": {v: here.tags(v) for v in here.versions()},
        "runs": {r.info.run_id: r.data.metrics for r in here.tracker.client.search_runs([here.tracker.experiment_id])},
    }  # fmt: skip
    (metrics_run,) = [run for run, metrics in before["runs"].items() if metrics["loss"] == 4.2]
    told = [m.value for m in here.tracker.client.get_metric_history(metrics_run, "loss")]
    drawn = load_artefact(here.fetch(champion, filled.root / "a")).sample(4, 0)
    target = empty.database.uri.replace("postgresql:", "postgresql+psycopg2:")
    arguments = (*MIGRATE, "--artifacts", str(empty.artifacts))
    done = filled.run(*arguments, MLFLOW_BACKEND_STORE_URI=target)
    assert done.returncode == 0 and "moved 3 runs" in done.stdout, done.stderr
    again = filled.run(*arguments, MLFLOW_BACKEND_STORE_URI=target)
    assert again.returncode == 73 and "is not empty" in one_line(again, "migrate")
    elsewhere = filled.run(*MIGRATE, "--artifacts", str(empty.folder / "other"), MLFLOW_BACKEND_STORE_URI=target)
    assert elsewhere.returncode == 73 and "has runs already" in one_line(elsewhere, "migrate")
    with empty.serving():
        there = connected(empty, filled.root, monkeypatch)
        assert there.champion() == champion == "2"
        assert ledger.history(there) == before["history"] and there.versions() == before["versions"]
        assert {v: there.tags(v) for v in there.versions()} == before["tags"]
        runs = there.tracker.client.search_runs([there.tracker.experiment_id])
        assert {r.info.run_id: r.data.metrics for r in runs} == before["runs"]
        assert [m.value for m in there.tracker.client.get_metric_history(metrics_run, "loss")] == told
        np.testing.assert_array_equal(load_artefact(there.fetch(champion, filled.root / "b")).sample(4, 0), drawn)
        # Life goes on: new rows take numbers that are free, and the ledger its next record.
        folder = filled.root / "m4"
        version = there.add(there.tracker.run("m4"), folder, saved_model(folder, seed=4), {}, {})
        assert version == "4"
        assert ledger.promote_by_hand(there, Paths(filled.root), version, "")["number"] == len(before["history"])
        assert ledger.rollback(there, Paths(filled.root))["champion_after"] == 2


def test_what_cannot_be_moved_is_told_and_nothing_was_copied(filled, empty):
    arguments = (*MIGRATE, "--artifacts", str(empty.artifacts))
    for address, code, words in (
        ("", 78, "is not set"),
        ("nonsense", 78, "is no address of a database"),
        (f"postgresql+psycopg2://mlflow:s3cret@127.0.0.1:{empty.database.port}/mlflow", 69, "cannot be used"),
    ):
        done = filled.run(*arguments, MLFLOW_BACKEND_STORE_URI=address)
        assert done.returncode == code and words in one_line(done, "migrate") and "s3cret" not in done.stderr
    nothing = Workspace(filled.root / "nothing")
    done = nothing.run(*arguments, MLFLOW_BACKEND_STORE_URI="sqlite:////tmp/x")
    assert done.returncode == 66
    assert not empty.artifacts.exists()


def script(name: str, service: Service, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {
        "PATH": f"{programs()}:{os.environ['PATH']}", "DATABASE_URI": service.database.uri, "ARTIFACTS": str(service.artifacts),
    }  # fmt: skip
    return subprocess.run(
        ["sh", str(INFRA / name), *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_backup_of_a_running_server_restores_the_same_champion(service, empty, tmp_path, monkeypatch):
    registry = connected(service, tmp_path, monkeypatch)
    for seed in (1, 2):
        folder = tmp_path / f"m{seed}"
        version = registry.add(registry.tracker.run("m"), folder, saved_model(folder, seed=seed), {}, {})
        ledger.promote_by_hand(registry, Paths(tmp_path), version, "")
    champion, history = registry.champion(), ledger.history(registry)
    drawn = load_artefact(registry.fetch(champion, tmp_path / "a")).sample(4, 0)
    kept = script("backup.sh", service, str(tmp_path / "kept"))
    assert kept.returncode == 0, kept.stderr
    backup = kept.stdout.strip()
    assert oct(Path(backup).stat().st_mode & 0o777) == "0o700"
    assert script("restore.sh", service, backup).returncode == 73  # into what is in use: never
    restored = script("restore.sh", empty, backup)
    assert restored.returncode == 0, restored.stderr
    with empty.serving():
        there = connected(empty, tmp_path, monkeypatch)
        assert there.champion() == champion and ledger.history(there) == history
        np.testing.assert_array_equal(load_artefact(there.fetch(champion, tmp_path / "b")).sample(4, 0), drawn)
    with (Path(backup) / "database.dump").open("r+b") as stream:
        stream.seek(500)
        stream.write(b"?")
    damaged = script("restore.sh", empty, backup)
    assert damaged.returncode == 65 and "is damaged" in damaged.stderr


def test_old_backups_go_and_the_newest_stay(service, tmp_path):
    for day in range(1, 20):
        (tmp_path / f"kept/202601{day:02d}T000000Z").mkdir(parents=True)
    assert script("backup.sh", service, str(tmp_path / "kept")).returncode == 0
    left = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert len(left) == 14 and left[0] == "20260107T000000Z"


def test_compose_file_is_what_the_specification_takes_and_closed(tmp_path):
    import yaml

    path = INFRA / "compose.yaml"
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    assert subprocess.run([*check, str(path)], capture_output=True, timeout=60, check=False).returncode == 0
    (tmp_path / "broken.yaml").write_text(path.read_text().replace("healthcheck:", "healthchek:"))
    assert subprocess.run([*check, str(tmp_path / "broken.yaml")], capture_output=True, timeout=60, check=False).returncode != 0
    told = yaml.safe_load(path.read_text())
    for name, each in told["services"].items():
        assert each["read_only"] is True and each["cap_drop"] == ["ALL"] and each["security_opt"] == ["no-new-privileges:true"]
        assert int(each["user"].split(":")[0]) > 0 and "healthcheck" in each and "mem_limit" in each
        assert all(str(port).startswith("127.0.0.1:") for port in each.get("ports", [])), name
        assert ":" in each["image"] and not each["image"].endswith(":latest")
        assert not any(word in json.dumps(each.get("environment", {})) for word in SECRETS.values())
        assert set(each["secrets"]) <= set(SECRETS)
    assert told["networks"]["inside"]["internal"] is True and told["services"]["database"]["networks"] == ["inside"]
    assert all(each["file"].startswith("secrets/") for each in told["secrets"].values())
    ignored = subprocess.run(["git", "check-ignore", "-q", "infra/mlflow/secrets/admin_password"], cwd=ROOT, check=False)
    assert ignored.returncode == 0


WAYS = ("fast", "immediate", "kill")


def away(service: Service, how: str) -> None:
    service.database.stop(how)
    time.sleep(1)  # how long it is away
    service.database.start()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_whole_pipeline_loses_nothing_while_the_database_goes_away(empty, tmp_path, monkeypatch):
    """Restarted, crashed and killed while metrics are logged; then the same, each while a version is registered."""
    workspace = Workspace(tmp_path / "project")
    workspace.set(LONG)
    assert workspace.run("git", "init", "-q").returncode == 0
    with empty.serving():
        process = workspace.start("pipeline.run", **empty.client)
        deadline = time.monotonic() + 600
        for how in WAYS:
            before = len(spooled(workspace))
            while len(spooled(workspace)) == before:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
            away(empty, how)
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0 and "Traceback" not in output, output
        registry = connected(empty, workspace.root, monkeypatch)
        assert registry.champion() == "1"
        curves = pd.read_csv(workspace.root / "reports/train/curves.csv")
        run = read_json(workspace.root / "reports/train/run.json")["run_id"]
        told = registry.tracker.client.get_metric_history(run, "val_elbo_nats")
        assert sorted((m.step, m.value) for m in told) == sorted(zip(curves["step"], curves["val_elbo_nats"], strict=True))

        for how in WAYS:
            known = len(registry.tracker.client.search_logged_models([registry.tracker.experiment_id]))
            process = workspace.start("pipeline.register", **empty.client)
            while len(registry.tracker.client.search_logged_models([registry.tracker.experiment_id])) == known:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
            away(empty, how)
            output, _ = process.communicate(timeout=300)
            assert process.returncode in (0, 69) and "Traceback" not in output, output
            if process.returncode:
                again = workspace.stage("register", **empty.client)
                assert again.returncode == 0, again.stderr
        history = ledger.history(registry)
        assert [entry["number"] for entry in history] == list(range(len(history)))
        assert registry.undecided() == [] and registry.champion() == str(history[-1]["champion_after"])
        assert {str(entry["version"]) for entry in history} == set(registry.versions())
        load_artefact(registry.fetch(registry.champion(), tmp_path / "champion"))


def spooled(workspace: Workspace) -> list[str]:
    """The reports of the training so far."""
    return [line for path in (workspace.root / ".work/train").glob("*.jsonl") for line in path.read_text().splitlines()]


def test_rows_are_what_postgres_says(service):
    """The server keeps nothing to itself: what it answers lies in PostgreSQL."""
    with psycopg2.connect(service.database.uri) as connection, connection.cursor() as cursor:
        cursor.execute("select count(*) from experiments")
        assert cursor.fetchone()[0] >= 1
