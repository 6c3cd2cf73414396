"""Section ``download`` of params.yaml, whose values depend on each other more than those of the others do."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vae.schema import field

REMOTE_SCHEMES = ("https", "http", "s3", "gs", "az", "abfs", "memory")
REMOTE_FILES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".npz")


@dataclass(frozen=True, kw_only=True)
class Download:
    source: str = field(choices=("sprites", "path", "digits", "manifest", "catalogue", "remote", "moving_sprites"))
    path: str
    animation_frames: bool
    sprite_images: int = field(low=100, high=10_000_000)
    name: str = field(choices=("mnist", "fashion_mnist", "kmnist", "cifar10", "svhn"))
    mirror: str
    url: str
    checksum: str
    url_column: str
    label_column: str
    split_column: str
    sha256_column: str
    connections_per_host: int = field(low=1, high=64)
    attempts: int = field(low=1, high=20)
    deadline_seconds: float = field(above=0, high=86400)
    max_members: int = field(low=1)
    max_gib: float = field(above=0)

    def problems(self) -> list[tuple[str, str]]:
        found = []
        if self.source in ("path", "manifest") and not self.path:
            found.append(("path", f"is empty, but download.source is {self.source}: name a folder, archive or list"))
        if "://" in self.path:
            found.append(("path", "is an address: set download.source to remote and give it in download.url"))
        elif self.source == "manifest" and not self.path.lower().endswith((".csv", ".parquet")):
            found.append(("path", f"{self.path!r} is no list: a manifest is a .csv or .parquet file"))
        if self.source == "manifest" and not self.url_column:
            found.append(("url_column", "is empty, but download.source is manifest: name the column of links or paths"))
        if self.animation_frames and self.source in ("manifest", "catalogue", "remote"):
            found.append(
                ("animation_frames", f"is for download.source path, not {self.source}: bring the animations into a folder")
            )
        for key in ("url", "mirror"):
            if "@" in getattr(self, key).partition("://")[2].partition("/")[0]:
                found.append((key, "has a user or password in it: credentials come from the environment alone"))
        if self.checksum and not re.fullmatch("sha256:[0-9a-fA-F]{64}|md5:[0-9a-fA-F]{32}", self.checksum):
            found.append(("checksum", f"{self.checksum!r} is neither sha256: and 64 hexadecimal digits nor md5: and 32"))
        secret = any(key == "url" for key, _ in found)  # the messages below repeat the address
        return found + (self._remote_problems() if self.source == "remote" and not secret else [])

    def _remote_problems(self) -> list[tuple[str, str]]:
        is_file = self.url.partition("?")[0].lower().endswith(REMOTE_FILES)
        if self.url.partition("://")[0] not in REMOTE_SCHEMES or "://" not in self.url:
            return [("url", f"{self.url!r} does not begin with one of {', '.join(f'{s}://' for s in REMOTE_SCHEMES)}")]
        if self.url.startswith("http") and not is_file:
            return [("url", f"{self.url!r} names no file of a known kind: {', '.join(REMOTE_FILES)}")]
        if is_file and not self.checksum:
            return [
                ("checksum", "is empty: a file from elsewhere needs its sha256: or md5: sum, so that a wrong one is not opened")
            ]
        return []
