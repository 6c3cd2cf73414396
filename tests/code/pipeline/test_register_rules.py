"""Register's rules: what a version says about where it came from. Who becomes champion: test_promotion."""

from __future__ import annotations

import re
import subprocess

import pytest

from pipeline.register import lineage
from vae.files import sha256_file, write_manifest

FOLDERS = ("processed", "extractor", "model")


@pytest.fixture
def filled(project):
    """A workspace with the three artefacts that a version is made of."""
    for name in FOLDERS:
        folder = getattr(project.paths, name)
        folder.mkdir(parents=True)
        (folder / "content").write_text(name)
        write_manifest(folder)
    return project


def git(project, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", "-C", project.root, *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_lineage_names_data_parameters_model_extractor_and_code(filled):
    tags = lineage(filled.paths)
    assert set(tags) == {
        "vaeline.git_commit",
        "vaeline.git_dirty",
        "vaeline.params_sha256",
        "vaeline.data_manifest_sha256",
        "vaeline.extractor_manifest_sha256",
        "vaeline.model_manifest_sha256",
        "vaeline.environment_sha256",
        "vaeline.python",
        "vaeline.torch",
    }
    assert all(isinstance(value, str) and value for value in tags.values())
    assert tags["vaeline.params_sha256"] == sha256_file(filled.paths.params)
    assert tags["vaeline.data_manifest_sha256"] == sha256_file(filled.paths.processed / "MANIFEST.json")
    assert len({value for name, value in tags.items() if name.endswith("sha256")}) == 5


def test_lineage_outside_a_repository_says_unknown(filled):
    assert lineage(filled.paths)["vaeline.git_commit"] == "unknown"


@pytest.mark.parametrize("changed", [*FOLDERS, "params"])
def test_lineage_shows_what_changed(filled, changed):
    before = lineage(filled.paths)
    if changed == "params":
        filled.paths.params.write_text(filled.text + "# more\n")
    else:
        folder = getattr(filled.paths, changed)
        (folder / "content").write_text("other")
        write_manifest(folder)
    after = lineage(filled.paths)
    different = [name for name in after if after[name] != before[name]]
    name = {"processed": "data_manifest", "extractor": "extractor_manifest", "model": "model_manifest"}.get(changed, changed)
    assert different == [f"vaeline.{name}_sha256"]


def test_lineage_in_a_repository_names_the_commit_and_whether_it_is_all(filled):
    git(filled, "init", "-q")
    (filled.root / "dvc.lock").write_text("a")
    git(filled, "add", ".")
    git(filled, "commit", "-qm", "one")
    clean = lineage(filled.paths)
    assert re.fullmatch("[0-9a-f]{40}", clean["vaeline.git_commit"]) and clean["vaeline.git_commit"] == git(
        filled, "rev-parse", "HEAD"
    )
    assert clean["vaeline.git_dirty"] == "false"
    (filled.root / "dvc.lock").write_text("b")  # DVC writes it while the stages run
    assert lineage(filled.paths)["vaeline.git_dirty"] == "false"
    assert (
        lineage(filled.paths)["vaeline.dvc_lock_sha256"]
        == sha256_file(filled.root / "dvc.lock")
        != clean["vaeline.dvc_lock_sha256"]
    )
    filled.paths.params.write_text(filled.text + "# more\n")
    assert lineage(filled.paths)["vaeline.git_dirty"] == "true"
