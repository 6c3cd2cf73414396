"""Moments of real images through a large network, kept between runs: the network's minutes are paid once for each set of images.

Kept in .work/reference under the hash of what decides them: the network's weights and the manifest of the images.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vae.distributed import rank
from vae.files import canonical_json, replaced_file
from vae.metrics.frechet import Moments

log = logging.getLogger("pipeline.kept_moments")


def known(folder: Path, facts: Mapping[str, str], compute: Callable[[], Moments]) -> Moments:
    """The moments that ``facts`` decide: read, or computed and kept. A file that cannot be read is made anew."""
    path = folder / f"{hashlib.sha256(canonical_json(facts).encode()).hexdigest()[:32]}.safetensors"
    try:
        tensors = load_file(path)
        return Moments(tensors["mean_D"], tensors["cov_DD"], int(tensors["count"]))
    except FileNotFoundError:
        pass
    except (SafetensorError, KeyError, OSError) as error:
        log.warning("%s cannot be read (%s): computed anew", path, error)
    found = compute()
    if rank() > 0:  # ranks that share the work have all found the same
        return found
    tensors = {"mean_D": found.mean_D, "cov_DD": found.cov_DD, "count": torch.tensor(found.count)}
    with replaced_file(path) as beside:
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, beside)
    return found
