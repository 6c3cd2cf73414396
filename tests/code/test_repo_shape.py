"""The house keeps its shape: imports run one way, the graph of stages is told once and truly, files stay readable."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib

import pytest
import yaml

from closure import imported
from pipeline import params
from pipeline.paths import _PLACES
from workspace import ROOT

STAGES = ("download", "preprocess", "augment", "extractor", "tune", "train", "evaluate", "register", "report")
MOST_LINES = 250
GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())
HEAVY = ("ray", "mlflow", "dvc", "yaml")


@pytest.mark.parametrize("stage", STAGES)
def test_deps_of_stage_cover_every_module_it_imports(stage: str) -> None:
    listed = {d for d in GRAPH["stages"][stage]["deps"] if d.endswith((".py", ".jinja"))}
    assert listed == set(imported(stage)), f"{stage}: `make deps` writes its code into dvc.yaml"


@pytest.mark.parametrize("stage", STAGES)
def test_params_of_stage_are_the_keys_that_its_module_declares(stage: str) -> None:
    # load() hands a stage these keys and no others, so what is declared is all that it can read.
    declared = importlib.import_module(f"pipeline.{stage}").PARAMS
    assert sorted(GRAPH["stages"][stage]["params"]) == sorted(declared)


def test_loaded_params_hold_only_declared_keys() -> None:
    values = params.load(ROOT / "params.yaml", ("base.seed", "train"))
    assert set(vars(values)) == {"base", "train"}
    assert set(vars(values.base)) == {"seed"}


def test_stages_are_modules_and_sections_of_the_same_name() -> None:
    assert tuple(GRAPH["stages"]) == STAGES
    for stage in STAGES:
        assert GRAPH["stages"][stage]["cmd"] == f"python -m pipeline.{stage}"
        assert stage in params.SECTIONS


def test_outs_and_artefact_deps_are_paths_of_the_workspace() -> None:
    known = {place for place in _PLACES.values()}
    for stage, told in GRAPH["stages"].items():
        for out in told["outs"]:
            assert out in known, f"{stage}: {out} is not in pipeline/paths.py"
        for dep in told["deps"]:
            inside = any(dep == place or dep.startswith(place + "/") for place in known)
            assert dep.endswith((".py", ".jinja")) or dep == "${download.path}" or inside, (
                f"{stage}: {dep} is not in pipeline/paths.py"
            )


def test_every_report_a_stage_reads_is_made_by_an_earlier_one() -> None:
    made: set[str] = set()
    for told in GRAPH["stages"].values():
        for dep in told["deps"]:
            if dep.startswith(("data/", "models/", "reports/")):
                assert any(dep == out or dep.startswith(out + "/") for out in made), dep
        made |= set(told["outs"])


def test_vae_imports_without_ray_mlflow_dvc_or_yaml() -> None:
    files = sorted((ROOT / "vae").rglob("*.py"))
    modules = [".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in files]
    block = "; ".join(f"sys.modules[{name!r}] = None" for name in HEAVY)
    code = f"import sys; {block}; import importlib; [importlib.import_module(m) for m in {modules!r}]"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["vae.data", "vae.decode", "vae.pictures", "pipeline.verify"])
def test_what_only_packs_or_looks_at_images_needs_no_torch(module: str) -> None:
    code = f"import sys; sys.modules['torch'] = None; import {module}"  # a second of each, and 200 MiB
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["params", "group"])
def test_what_every_command_or_worker_imports_needs_no_pandas(module: str) -> None:
    code = f"import sys; sys.modules['pandas'] = None; import pipeline.{module}"  # half a second of each
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("mlflow", {"tracking.py", "registry.py", "pyfunc.py", "use_champion.py", "migrate.py"}),
        (
            "ray",
            {
                "cluster.py",
                "nodes.py",
                "group.py",
                "ingest.py",
                "plan.py",
                "trial.py",
                "search.py",
                "population.py",
                "deployment.py",
                "serve.py",
                "submit.py",
            },
        ),
        ("yaml", {"params.py"}),
        ("matplotlib", {"plots.py", "search_plots.py"}),
    ],
)
def test_package_is_imported_only_where_it_belongs(package: str, allowed: set[str]) -> None:
    users = set()
    for path in (ROOT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            if any(name.split(".")[0] == package for name in names):
                users.add(path.name)
    assert users <= allowed


def test_ray_is_imported_only_when_it_is_used() -> None:
    """It reads its settings when it is imported: whoever imports it earlier than `cluster.connected` sets them loses the token."""
    early = []
    for path in [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        for node in ast.parse(path.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            early += [path.name for name in names if name.split(".")[0] == "ray"]
    assert set(early) == {"deployment.py"}  # which is imported only by a server, once Ray runs


def test_nothing_loads_pickle() -> None:
    for path in [*(ROOT / "vae").rglob("*.py"), *(ROOT / "pipeline").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not {a.name.split(".")[0] for a in node.names} & {"pickle", "cloudpickle", "joblib", "dill"}, path
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert keywords.get("weights_only") == "True", path


def test_files_can_be_held_in_the_head() -> None:
    long = {}
    for path in [*(ROOT / "vae").rglob("*.py"), *(ROOT / "pipeline").rglob("*.py")]:
        lines = len(path.read_text().splitlines())
        if lines > MOST_LINES:
            long[path.name] = lines
    assert not long


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"] + project["optional-dependencies"]["export"]
    names = {spec.split("[")[0].split(">")[0].split("=")[0].strip().lower() for spec in wanted}
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert names - {project["name"]} <= pinned  # dev asks for the project's own extra


def test_packages_that_are_installed_are_those_that_there_are() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = [
        ".".join(path.parent.relative_to(ROOT).parts) for top in ("vae", "pipeline") for path in (ROOT / top).rglob("__init__.py")
    ]
    assert sorted(listed) == sorted(found)


def test_tables_of_the_documents_are_those_of_the_measured_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    tables = importlib.import_module("benchmarks.tables")
    for path, of_path in tables.TABLES.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        for name, table in of_path.items():
            assert tables.rewritten(text, name, table()) == text, f"{path}: python -m benchmarks.tables"
    with pytest.raises(ValueError, match="0 tables 'other'"):
        tables.rewritten("nothing", "other", "")
