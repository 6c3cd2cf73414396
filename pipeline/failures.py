"""The same error at the same step twice is a bug that no restart mends: what workers write down so that the next ones stop."""

from __future__ import annotations

import shutil
from pathlib import Path

from vae.errors import StepError
from vae.files import canonical_json, read_json, write_text

VERDICT = "verdict.json"
# What a rank says when another one has gone: no error of its own, and good for a restart.
PEER_WORDS = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "process group", "timed out")


class Failures:
    """A folder with the last error of each rank, and the verdict once an error has come twice."""

    def __init__(self, state: Path) -> None:
        self._directory = state / "failures"

    def clear(self) -> None:
        """Forget all: a person has started the training again."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def note(self, rank: int, error: StepError) -> None:
        """Keep this rank's error; the same one at the same step again becomes the verdict."""
        cause = f"{type(error.__cause__).__name__}: {' '.join(str(error.__cause__).split())}"
        if any(word in cause.lower() for word in PEER_WORDS):
            return
        path, now = self._directory / f"rank-{rank}.json", {"step": error.step, "cause": cause}
        if path.exists() and read_json(path) == now:
            message = f"the same error twice at step {error.step} on rank {rank}, so no third try: {cause}"
            write_text(self._directory / VERDICT, canonical_json({"message": message}))
        write_text(path, canonical_json(now))

    def verdict(self) -> str | None:
        """Why there is no point in going on, or None."""
        path = self._directory / VERDICT
        return read_json(path)["message"] if path.exists() else None
