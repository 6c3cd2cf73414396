"""reproduce: a registered version is made again from what it says of itself, to the byte; and one that says too little is refused."""

from __future__ import annotations

import sys

import pytest

from workspace import Workspace, one_line


def git(workspace: Workspace, *arguments: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    result = workspace.run("git", *identity, *arguments)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_version_is_made_again_to_the_byte_and_a_changed_one_is_told(workspace: Workspace) -> None:
    git(workspace, "init", "-q")
    git(workspace, "add", ".")
    git(workspace, "commit", "-qm", "one")
    result = workspace.run(sys.executable, "-m", "pipeline.run", timeout=600)
    assert result.returncode == 0, result.stderr
    again = workspace.stage("reproduce", "champion")
    assert again.returncode == 0 and "are the same to the byte" in again.stdout, again.stdout + again.stderr
    workspace.set({"train.total_images": 320})  # of which no commit knows
    result = workspace.run(sys.executable, "-m", "pipeline.run", timeout=600)
    assert result.returncode == 0, result.stderr
    refused = workspace.stage("reproduce", "2")
    assert refused.returncode == 65 and "with changes to commit" in one_line(refused, "reproduce")
    missing = workspace.stage("reproduce", "7")
    assert missing.returncode == 66 and "no version or alias '7'" in one_line(missing, "reproduce")
