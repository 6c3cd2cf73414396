"""Animations on their way to data/raw: every frame becomes an image of its own, <file>/<number>.png."""

from __future__ import annotations

from pipeline.raw import Content, RawWriter, Unreadable, opened
from vae.decode import RejectedError
from vae.frames import SUFFIXES, Animation

NAME = "{:06d}.png"  # whatever a frame's form: what a file is is told by its content
MOST_BYTES = 2**29  # of one animation


class FrameWriter(RawWriter):
    """Hands on what it is given, but of a file with several pictures each of these; what cannot be read is a failure."""

    def __init__(self, writer: RawWriter) -> None:
        self._writer = writer

    def add(self, path: str, content: Content, *, label: str = "", split: str = "", **factors: float) -> bool:
        """Store one file, or its frames."""
        if not path.lower().endswith(SUFFIXES):
            return self._writer.add(path, content, label=label, split=split, **factors)
        try:
            with opened(content) as readable:
                data = readable.read(MOST_BYTES + 1)
            if len(data) > MOST_BYTES:
                raise Unreadable("file_too_large", f"an animation of more than {MOST_BYTES} bytes")
            if animation := _several(data):
                added = [
                    self._writer.add(f"{path}/{NAME.format(number)}", frame, label=label, split=split, **factors)
                    for number, frame in enumerate(animation.frames())
                ]
                return all(added)
        except (Unreadable, RejectedError) as error:  # of an animation that is broken later on, the frames before are there
            self.fail(path, error.reason, error.detail)
            return False
        return self._writer.add(path, data, label=label, split=split, **factors)

    def fail(self, path: str, reason: str, detail: str) -> None:
        """Name a file that could not be brought."""
        self._writer.fail(path, reason, detail)

    def close(self) -> None:
        """Whoever opened the other one closes it."""


def _several(data: bytes) -> Animation | None:
    """The file's pictures where it has more than one; what is no picture at all is told later, by stage preprocess."""
    try:
        found = Animation(data)
    except RejectedError as error:
        if error.reason in ("too_many_frames", "corrupt"):
            raise
        return None
    return found if found.count > 1 else None
