"""What a service is started with; every replica gets it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Options:
    """Limits are of one replica."""

    root: Path  # of the workspace
    model: str  # as on the command line
    hosts: tuple[str, ...]  # names under which a browser may ask
    threads: int
    device: str = "cpu"  # of the network
    token_file: Path | None = None
    most_images: int = 4096  # of one answer
    most_bytes: int = 32 * 2**20  # of one request
    most_waiting: int = 256  # requests that are being answered
    most_bytes_waiting: int = 256 * 2**20  # of their bodies
    seconds: float = 30.0  # for one answer
    poll_seconds: float = 2.0  # between looks at the alias

    def token(self) -> str:
        """What a request must bear; '' where any may ask. Read where it is used: it travels in no message."""
        return self.token_file.read_text(encoding="utf-8").strip() if self.token_file else ""
