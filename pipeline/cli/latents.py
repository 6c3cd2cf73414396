"""Files of latents: .npz (mean, log_variance, names) or .parquet (name, mean_0, ..., log_variance_0, ...). N images, D latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.errors import BadConfigError, BadDataError, InputMissingError
from vae.answers import MOST_IMAGES

SUFFIXES = (".npz", ".parquet")


def check_latents_output(out: str) -> None:
    """BadConfigError where no such file is written, told before any work."""
    if Path(out).suffix.lower() not in SUFFIXES:
        raise BadConfigError(f"--out {out}: latents are written as {' or '.join(SUFFIXES)}")


def write_latents(out: str, names: list[str], mean_ND: Tensor, log_variance_ND: Tensor) -> None:
    """Write both arrays under the names of their pictures."""
    if Path(out).suffix.lower() == ".npz":
        np.savez_compressed(out, mean=mean_ND.numpy(), log_variance=log_variance_ND.numpy(), names=np.array(names))
        return
    both = {"mean": mean_ND, "log_variance": log_variance_ND}
    columns = {f"{name}_{d}": each_ND[:, d].numpy() for name, each_ND in both.items() for d in range(each_ND.shape[1])}
    pd.DataFrame({"name": names} | columns).to_parquet(out, index=False)


def read_latents(path: Path, latent_dim: int) -> Tensor:
    """The array mean or latents, float32 (N, D); BadDataError where there is none of that size, InputMissingError without a file."""
    if not path.is_file():
        raise InputMissingError(f"{path} does not exist: `vae encode` writes such a file")
    try:
        z_ND = _of_table(path) if path.suffix.lower() == ".parquet" else _of_arrays(path)
    except (ValueError, OSError, pa.ArrowException) as error:
        raise BadDataError(f"{path} is no file of numbers, .npz or .parquet ({' '.join(str(error).split())[:120]})") from None
    if z_ND.ndim != 2 or z_ND.shape[1] != latent_dim or not 1 <= len(z_ND) <= MOST_IMAGES or not np.isfinite(z_ND).all():
        raise BadDataError(
            f"{path} holds no finite array mean or latents of (1 to {MOST_IMAGES}, {latent_dim}), but {z_ND.shape}"
        )
    return torch.from_numpy(z_ND)


def _of_arrays(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as stored:
        name = next((name for name in ("latents", "mean") if name in stored), "")
        return np.asarray(stored[name], np.float32) if name else np.zeros(0, np.float32)


def _of_table(path: Path) -> np.ndarray:
    table = pd.read_parquet(path)
    columns = [f"mean_{d}" for d in range(sum(str(name).startswith("mean_") for name in table.columns))]
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ValueError(f"columns {', '.join(missing[:5])} are missing")
    return np.ascontiguousarray(table[columns].to_numpy(np.float32))
