"""The whole pipeline on little data, with the real DVC, Ray and MLflow, as a person would run it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from PIL import Image

from sftp import sftp_server
from vae.artefact import load_artefact
from vae.files import read_json, read_manifest
from workspace import Workspace, free_port, one_line

CANARIES = {
    name: f"canary{number}{name.lower().replace('_', '')}" for number, name in enumerate((
        "NPM_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
        "AZURE_STORAGE_KEY", "GOOGLE_API_KEY", "VAELINE_WEBHOOK", "HF_TOKEN", "DATABASE_PASSWORD",
    ))
}  # fmt: skip
STAGES = ("download", "preprocess", "augment", "extractor", "tune", "train", "evaluate", "register", "report")
METRICS = ("elbo_nats", "nll_nats", "bits_per_dim", "fcd", "psnr_db", "active_units")


def _executed(output: str) -> list[str]:
    """The stages that a repro ran, in order."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def _tree_hash(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace in which the main job has run once."""
    workspace = Workspace(tmp_path_factory.mktemp("whole") / "project")
    assert workspace.run("git", "init", "-q").returncode == 0
    result = workspace.run(sys.executable, "-m", "pipeline.run", **CANARIES)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "@champion is version 1" in result.stdout
    (workspace.root / "printed").write_text(result.stdout + result.stderr)
    return workspace


def test_no_secret_of_the_environment_is_in_what_a_run_leaves(done: Workspace) -> None:
    """Files of the workspace with its caches and MLflow's store, what was printed; and what Ray keeps of its sessions is private."""

    def told(place: Path) -> set[Path]:
        files = [path for path in place.rglob("*") if path.is_file() and not path.is_symlink()]
        return {path for path in files if any(canary.encode() in path.read_bytes() for canary in CANARIES.values())}

    assert told(done.root) == set()
    # Ray writes the environment of some workers into the log of its agent: nobody else may read that.
    logs = {path for place in Path("/tmp/ray").glob("session_2*") for path in told(place)}
    assert all(path.stat().st_mode & 0o077 == 0 for path in logs), logs
    tables = [str(pd.read_parquet(path).to_dict()) for path in done.root.rglob("*.parquet")]  # columns are packed
    assert tables and not any(canary in table for table in tables for canary in CANARIES.values())


def test_run_leaves_metrics_pictures_and_a_clean_tree(done: Workspace) -> None:
    metrics = json.loads((done.root / "reports/evaluate/metrics.json").read_text())
    assert all(isinstance(metrics[name], int | float) for name in METRICS)
    # The bound of one sample is never above the importance-weighted one by more than sampling noise.
    assert metrics["nll_nats"] <= -metrics["elbo_nats"] + 5 * metrics["nll_standard_error_nats"] + 1
    assert metrics["bits_per_dim"] == pytest.approx(metrics["nll_nats"] / np.log(2) / (16 * 16 * 3))
    for name in ("samples", "reconstructions", "interpolations", "traversals"):
        with Image.open(done.root / f"reports/evaluate/{name}.png") as picture:
            assert np.asarray(picture).std() > 1
    changed = done.run("git", "add", "-A", "--dry-run").stdout
    assert "data/processed" not in changed
    assert "mlflow.db" not in changed
    assert ".work" not in changed


def test_search_stopped_bad_trials_early_and_chose_the_best(done: Workspace) -> None:
    trials = pd.read_csv(done.root / "reports/tune/trials.csv")
    best = json.loads((done.root / "reports/tune/best.json").read_text())
    assert len(trials) == 4
    assert (trials["state"] == "completed").any()
    assert (trials["state"] == "stopped early").any()
    completed = trials[trials["state"] == "completed"]
    assert best["score"] == pytest.approx(completed["score"].min())
    config = json.loads((done.root / "models/vae/config.json").read_text())
    assert config["model"]["latent_dim"] == best["latent_dim"]


def test_nothing_to_do_runs_no_stage(done: Workspace) -> None:
    result = done.run("dvc", "repro")
    assert result.returncode == 0, result.stderr
    assert _executed(result.stdout) == []


def test_mlflow_holds_run_trials_curves_pictures_and_champion(done: Workspace) -> None:
    code = """
import json, sys, mlflow
mlflow.set_tracking_uri(sys.argv[1]); client = mlflow.MlflowClient()
e = client.get_experiment_by_name("vaeline")
runs = client.search_runs([e.experiment_id], max_results=100)
train = [r for r in runs if r.info.run_name == "train"][0]; tune = [r for r in runs if r.info.run_name == "tune"][0]
v = client.get_model_version_by_alias("sprites", "champion")
walk = lambda p: [x for a in client.list_artifacts(train.info.run_id, p) for x in ([a.path] if not a.is_dir else walk(a.path))]
print(json.dumps({
  "trials": sum(r.data.tags.get("mlflow.parentRunId") == tune.info.run_id for r in runs),
  "status": [r.info.status for r in runs], "curve": len(client.get_metric_history(train.info.run_id, "val_elbo_nats")),
  "metrics": train.data.metrics, "artifacts": walk("evaluate"), "version": v.version, "tags": v.tags}))
"""
    result = done.run(sys.executable, "-c", code, f"sqlite:///{done.root / 'mlflow.db'}")
    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout.splitlines()[-1])
    assert seen["trials"] == 4
    assert set(seen["status"]) == {"FINISHED"}
    assert seen["curve"] == len(pd.read_csv(done.root / "reports/train/curves.csv"))
    assert {"elbo_nats", "distortion_nats", "rate_nats", "learning_rate", "images_per_second", "test_fcd"} <= set(seen["metrics"])
    assert "evaluate/samples.png" in seen["artifacts"]
    assert {"vaeline.git_commit", "vaeline.params_sha256", "vaeline.data_manifest_sha256"} <= set(seen["tags"])


def test_registered_model_loads_alone_and_draws_the_same_images_for_the_same_seed(done: Workspace, tmp_path: Path) -> None:
    # No project in the working directory or on the path: code comes from the artefact. Ray and DVC are blocked.
    code = """
import sys
for name in ("ray", "dvc", "pipeline"): sys.modules[name] = None
import os; os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
import mlflow, numpy as np, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/sprites@champion")
ask = pd.DataFrame({"n": [16], "seed": [0]})
a, b, c = model.predict(ask), model.predict(ask), model.predict(pd.DataFrame({"n": [16], "seed": [1]}))
assert a.shape == (16, 16, 16, 3) and a.dtype == np.uint8
assert (a == b).all() and (a != c).any()
cold = model.predict(pd.DataFrame({"n": [2], "seed": [0]}), params={"temperature": 0.0})
texts = model.predict(ask, params={"png": True})
copies = model.predict(pd.DataFrame({"image": texts}), params={"op": "reconstruct"})
assert copies.shape == a.shape and len(model.predict(pd.DataFrame({"image": texts}), params={"op": "score"})) == 16
way = model.predict(pd.DataFrame({"image": texts[:1], "other": texts[1:2]}), params={"op": "interpolate", "steps": 5})
assert abs(way[[0, 4]].astype(int) - copies[:2]).max() <= 1
z = model.predict(pd.DataFrame({"image": texts[:2]}), params={"op": "encode"})
assert (model.predict(pd.DataFrame({"latents": z.astype(float).tolist()}), params={"op": "decode"}) == copies[:2]).all()
np.save(sys.argv[2], a)
"""
    target = tmp_path / "drawn.npy"
    environment = {"PYTHONPATH": ""}
    result = Workspace.run(done, sys.executable, "-c", code, f"sqlite:///{done.root / 'mlflow.db'}", str(target), **environment)
    assert result.returncode == 0, result.stderr
    assert np.load(target).std() > 1


def test_report_of_a_version_is_the_page_that_the_stage_made(done: Workspace) -> None:
    result = done.run("vae", "report", "-o", "page.html")
    assert result.returncode == 0, result.stderr
    assert (done.root / "page.html").read_text() == (done.root / "reports" / "report.html").read_text()


def test_model_is_exported_where_it_keeps_its_bounds_and_refused_where_it_does_not(done: Workspace) -> None:
    for form in ("onnx", "torch-export", "safetensors"):
        result = done.run("vae", "export", "--to", form)
        assert result.returncode == 0, result.stderr
        assert [line.split()[0] for line in result.stdout.splitlines()[:3]] == ["form", "pytorch", form]
    runs = onnxruntime.InferenceSession(done.root / "export-onnx" / "decoder.onnx", providers=["CPUExecutionProvider"])
    generator = load_artefact(done.root / "export-safetensors")
    z_ND = generator.latents(5, 0)
    (found,) = runs.run(None, {"latents": z_ND.numpy()})
    assert np.abs(found - generator.model.sample(z_ND).numpy()).max() <= 1e-4
    told = read_json(done.root / "export-onnx" / "export.json")
    assert told["misses"] == [] and [row["form"] for row in told["rows"]] == ["pytorch", "onnx"]
    read_manifest(done.root / "export-onnx")
    # A model of seconds is not 3.5 times smaller in integers: its weights are few.
    refused = done.run("vae", "export", "--to", "int8", "-o", "small")
    assert (
        refused.returncode == 70
        and "nothing is written: int8 is" in refused.stderr.splitlines()[-1]
        and not (done.root / "small").exists()
    )
    forced = done.run("vae", "export", "--to", "int8", "-o", "small", "--force")
    assert forced.returncode == 0 and "written by --force" in forced.stdout, forced.stderr
    assert {path.name for path in (done.root / "small").iterdir()} == {
        "decoder.onnx", "encoder.onnx", "config.json", "prior.safetensors", "export.json", "MANIFEST.json",
    }  # fmt: skip
    again = done.run("vae", "export", "--to", "safetensors")  # an export is replaced
    assert again.returncode == 0, again.stderr
    for place in ("data", "models/vae", "data/processed"):  # whatever else has a manifest is not
        before = _tree_hash(done.root / place)
        unknown = done.run("vae", "export", "--to", "safetensors", "-o", place)
        assert unknown.returncode == 65 and "is no export, which alone is replaced" in unknown.stderr
        assert _tree_hash(done.root / place) == before


@pytest.mark.slow
def test_model_is_served_by_mlflow_and_answers_the_documented_requests(done: Workspace) -> None:
    port, log = free_port(), done.root / "serve.log"
    command = [
        "mlflow",
        "models",
        "serve",
        "-m",
        "models:/sprites@champion",
        "--env-manager",
        "local",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
    ]
    environment = done._environment({"MLFLOW_TRACKING_URI": f"sqlite:///{done.root / 'mlflow.db'}"})
    with log.open("w") as stream:
        process = subprocess.Popen(command, cwd=done.root, env=environment, stdout=stream, stderr=stream, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)

        def asked(rows: list[dict], **params: object) -> list:
            body = json.dumps({"dataframe_records": rows, "params": params}).encode()
            request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["predictions"]

        texts = asked([{"n": 2, "seed": 0}], png=True)
        assert [Image.open(io.BytesIO(base64.b64decode(text))).size for text in texts] == [(16, 16)] * 2
        assert np.array(asked([{"image": text} for text in texts], op="reconstruct")).shape == (2, 16, 16, 3)
        assert np.isfinite(asked([{"image": text} for text in texts], op="score")).all()
        with pytest.raises(urllib.error.HTTPError) as caught:
            asked([{"n": 10**9, "seed": 0}])
        assert caught.value.code == 400
        assert len(asked([{"n": 1, "seed": 0}])) == 1  # it is still there
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def test_no_file_of_the_registered_model_is_a_pickle(done: Workspace) -> None:
    files = [p for p in (done.root / "mlartifacts").rglob("*") if p.is_file() and "models" in p.parts]
    assert files
    for path in files:
        assert path.suffix not in (".pkl", ".pickle", ".pt", ".pth", ".joblib"), path
        assert not path.read_bytes().startswith((b"\x80\x04", b"\x80\x05", b"PK\x03\x04")), path


def test_changed_parameter_reruns_exactly_the_stages_that_read_it(done: Workspace) -> None:
    before = (done.root / "params.yaml").read_text()
    expected = {
        "evaluate.importance_samples": ["evaluate", "register", "report"],
        "train.max_failures": ["train", "evaluate", "register", "report"],
        "augment.flip_probability": ["augment", "tune", "train", "evaluate", "register", "report"],
        "extractor.learning_rate": ["extractor", "tune", "train", "evaluate", "register", "report"],
        "preprocess.min_side_pixels": list(STAGES[1:]),
    }
    try:
        for key, stages in expected.items():
            done.set({key: 7 if "min_side" in key or "samples" in key or "failures" in key else 0.01})
            status = json.loads(done.run("dvc", "status", "--json").stdout)
            reading = {stage for stage, changes in status.items() if any("params.yaml" in str(change) for change in changes)}
            # DVC's status names the stages whose own inputs changed; what follows from them, it reruns where outputs differ.
            assert reading <= set(stages), (key, reading)
            assert stages[0] in reading
            (done.root / "params.yaml").write_text(before)
    finally:
        (done.root / "params.yaml").write_text(before)


def test_second_training_is_a_challenger_and_the_better_one_is_champion(done: Workspace) -> None:
    done.set({"train.total_images": 96, "train.validate_every_images": 96, "train.use_tuned": False})
    result = done.run("dvc", "repro")
    assert result.returncode == 0, result.stdout + result.stderr
    assert _executed(result.stdout) == ["train", "evaluate", "register", "report"]
    decision = json.loads((done.root / "reports/register/decision.json").read_text())
    assert decision["version"] == 2
    assert decision["previous_champion"] == 1
    assert decision["promoted"] == (decision["interval"][1] < 0)
    assert decision["difference"] == pytest.approx(decision["challenger_fcd"] - decision["champion_fcd"])
    history = [json.loads(line) for line in (done.root / "reports/register/history.jsonl").read_text().splitlines()]
    assert [entry["version"] for entry in history] == [1, 2] and history[0]["event"] == "promoted"
    assert len({entry["holdout_sha256"] for entry in history}) == 1
    assert decision["champion"] == (2 if decision["promoted"] else 1)
    compared = done.stage("compare", "1", "champion" if decision["promoted"] else "2")
    assert compared.returncode == 0 and "| fcd |" in compared.stdout, compared.stderr
    page = (done.root / "reports/compare/1-2.html").read_text()
    assert page.count("data:image/png") == 3 and "version 2" in page
    missing = done.stage("compare", "1", "7")
    assert missing.returncode == 66 and "no version or alias '7'" in one_line(missing, "compare")


def test_report_is_one_page_in_the_workspace_the_run_and_the_version(done: Workspace) -> None:
    page = (done.root / "reports/report.html").read_text()
    assert "sprites, version" in page and "https://" not in page and "http://" not in page
    copies = [path for path in (done.root / "mlartifacts").rglob("report.html") if path.read_text() == page]
    assert {path.parent.name for path in copies} >= {"artifacts", "2"}


def test_lost_store_is_filled_again(done: Workspace) -> None:
    for leftover in done.root.glob("mlflow.db*"):
        leftover.unlink()
    result = done.run(sys.executable, "-m", "pipeline.run")
    assert result.returncode == 0, result.stdout + result.stderr
    assert _executed(result.stdout) == ["register", "report"]
    assert "@champion is version 1" in result.stdout


@pytest.mark.slow
def test_repro_twice_from_clean_gives_the_same_bytes_and_metrics(tmp_path: Path) -> None:
    seen = []
    for attempt in ("one", "two"):
        workspace = Workspace(tmp_path / attempt)
        workspace.run("git", "init", "-q")
        result = workspace.run(sys.executable, "-m", "pipeline.run")
        assert result.returncode == 0, result.stdout + result.stderr
        data = {**_tree_hash(workspace.root / "data/processed"), **_tree_hash(workspace.root / "data/augmented")}
        model = _tree_hash(workspace.root / "models")
        metrics = (workspace.root / "reports/evaluate/metrics.json").read_text()
        best = (workspace.root / "reports/tune/best.json").read_text()
        seen.append((data, model, metrics, best))
        shutil.rmtree(workspace.root)
    assert seen[0] == seen[1]


def _photos(root: Path) -> None:
    """A folder as phones and scanners leave it: sizes, modes and formats mixed, some files no images at all."""
    rng = np.random.default_rng(0)
    root.mkdir()
    for number in range(120):
        height, width = rng.integers(20, 90, 2)
        smooth = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        picture = Image.fromarray(smooth).resize((int(width), int(height)), Image.Resampling.BICUBIC)
        mode, suffix = [("RGB", "jpg"), ("L", "png"), ("RGBA", "png"), ("CMYK", "jpg"), ("P", "gif")][number % 5]
        picture.convert(mode).save(root / f"photo {number}.{suffix}")
    (root / "notes.txt").write_text("no image")
    (root / "empty.png").touch()
    (root / ".DS_Store").write_bytes(b"x")


def test_folder_of_mixed_photos_becomes_a_champion(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "project")
    workspace.run("git", "init", "-q")
    _photos(tmp_path / "my photos")
    # Too few images for the Fréchet distance: the search ranks by the bound, evaluate refuses the score and says so.
    result = workspace.run(sys.executable, "-m", "pipeline.run", "--images", str(tmp_path / "my photos"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "models:/my-photos@champion is version 1" in result.stdout
    report = json.loads((workspace.root / "reports/preprocess/metrics.json").read_text())
    assert (report["seen"], report["accepted"], report["rejected"], report["skipped"]) == (123, 120, 2, 1)
    reasons = pd.read_csv(workspace.root / "data/processed/rejected.csv").set_index("path")["reason"]
    assert reasons.to_dict() == {"empty.png": "empty_file", "notes.txt": "not_an_image"}
    metrics = json.loads((workspace.root / "reports/evaluate/metrics.json").read_text())
    assert metrics["elbo_nats"] < 0
    again = workspace.run(sys.executable, "-m", "pipeline.run", "--images", str(tmp_path / "my photos"))
    assert again.returncode == 0
    assert _executed(again.stdout) == []


def test_run_passes_on_the_exit_code_of_the_stage_that_failed(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "project")
    workspace.run("git", "init", "-q")
    (tmp_path / "texts").mkdir()
    for number in range(3):
        (tmp_path / "texts" / f"{number}.png").write_text("no image")
    workspace.set({"download.source": "path", "download.path": str(tmp_path / "texts")})
    result = workspace.run(sys.executable, "-m", "pipeline.run")
    assert result.returncode == 65
    assert "3 files, all rejected (3 not_an_image)" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (workspace.root / "data/processed").exists()


@contextmanager
def _remote(kind: str, folder: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The address of a DVC remote, and what each clone has to set for it by itself."""
    if kind == "folder":
        yield str(folder), ()
        return
    with sftp_server(folder) as (port, key):
        yield f"ssh://team@127.0.0.1:{port}/store", ("remote", "modify", "--local", "team", "keyfile", str(key))


@pytest.mark.parametrize("kind", ["folder", "ssh"])
def test_second_clone_pulls_from_the_remote_and_has_nothing_to_do(done: Workspace, tmp_path: Path, kind: str) -> None:
    with _remote(kind, tmp_path / "remote") as (address, own):
        _second_clone(done, tmp_path, address, own)
    assert any(path.is_file() for path in (tmp_path / "remote").rglob("files/md5/*/*"))


def _second_clone(done: Workspace, tmp_path: Path, address: str, own: tuple[str, ...]) -> None:
    first = done.copied(tmp_path / "first")
    assert first.run(sys.executable, "-m", "dvc", "remote", "add", "-d", "team", address).returncode == 0
    assert not own or first.run(sys.executable, "-m", "dvc", *own).returncode == 0
    pushed = first.run(sys.executable, "-m", "dvc", "push")
    assert pushed.returncode == 0, pushed.stderr
    commit = ("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "a run")
    assert first.run("git", "add", "-A").returncode == first.run(*commit).returncode == 0
    second = Workspace.__new__(Workspace)
    second.root = tmp_path / "second"
    assert first.run("git", "clone", "-q", str(first.root), str(second.root)).returncode == 0
    assert not own or second.run(sys.executable, "-m", "dvc", *own).returncode == 0
    pulled = second.run(sys.executable, "-m", "dvc", "pull")
    assert pulled.returncode == 0, pulled.stderr
    repro = second.run(sys.executable, "-m", "dvc", "repro")
    assert repro.returncode == 0 and _executed(repro.stdout) == []
    assert second.weights_sha256() == first.weights_sha256()
    assert not (second.root / "mlflow.db").exists()  # the registry is MLflow's to share
