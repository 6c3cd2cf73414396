"""commit: what git says of the workspace, and what shipped code brings instead of a repository."""

from __future__ import annotations

import subprocess

import pytest

from pipeline.commit import COMMIT_VARIABLE, DIRTY_VARIABLE, as_environment, commit


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    monkeypatch.delenv(COMMIT_VARIABLE, raising=False)
    monkeypatch.delenv(DIRTY_VARIABLE, raising=False)


def git(project, *arguments: str) -> str:
    command = ["git", "-C", str(project.root), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_commit_and_changes_but_for_the_lock(project):
    assert commit(project.paths) == ("", False) and as_environment(project.paths) == {}
    git(project, "init", "-q")
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "x")
    head = git(project, "rev-parse", "HEAD")
    assert commit(project.paths) == (head, False)
    project.paths.dvc_lock.write_text("x")  # every run writes it
    assert commit(project.paths) == (head, False)
    (project.root / "more.py").write_text("x")
    assert commit(project.paths) == (head, True)
    assert as_environment(project.paths) == {COMMIT_VARIABLE: head, DIRTY_VARIABLE: "true"}


def test_shipped_code_brings_its_commit(project, monkeypatch):
    for name, value in {COMMIT_VARIABLE: "abc", DIRTY_VARIABLE: "true"}.items():
        monkeypatch.setenv(name, value)
    assert commit(project.paths) == ("abc", True)
