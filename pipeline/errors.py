"""Errors that a person can act on: one sentence (what, where, what to do) and a documented exit code (sysexits.h)."""

from __future__ import annotations

import errno

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}  # a person's to mend, not ours


class PipelineError(Exception):
    """Base of all expected failures; ``exit_code`` is what the process returns."""

    exit_code = 70


class BadDataError(PipelineError):
    """The input is there but cannot be used."""

    exit_code = 65


class InputMissingError(PipelineError):
    """A file or folder that was named does not exist or holds nothing."""

    exit_code = 66


class UnavailableError(PipelineError):
    """A service (MLflow, a Ray cluster) does not answer."""

    exit_code = 69


class TrainingFailedError(PipelineError):
    """Training or search ended without a usable model."""

    exit_code = 70


class CannotWriteError(PipelineError):
    """No room or no permission where an output belongs."""

    exit_code = 73


class TemporaryError(PipelineError):
    """Another process holds what this one needs; the same command works later."""

    exit_code = 75


class BadConfigError(PipelineError):
    """params.yaml or the cluster profile is wrong, or asks for more than there is."""

    exit_code = 78
