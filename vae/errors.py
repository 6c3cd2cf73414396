"""How a training can end other than well."""

from __future__ import annotations


class NonFiniteError(RuntimeError):
    """A loss or gradient is not finite; raised on every rank before the optimizer step, with step and terms."""


class StoppedError(RuntimeError):
    """Asked to stop: the current step is done and, where a directory was given, checkpointed."""


class StepError(RuntimeError):
    """Anything else that a step raised: ``step`` says which, ``__cause__`` what."""

    def __init__(self, step: int, cause: Exception) -> None:
        super().__init__(f"step {step}: {type(cause).__name__}: {cause}")
        self.step = step


class ResumeRefusedError(ValueError):
    """A checkpoint cannot be gone on from: the message shows each difference, before and now."""
