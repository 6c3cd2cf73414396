"""What each tensor of a model is for, so that another model of other sizes can begin from it: vae/transfer.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from torch import nn

# What the numbers along an axis count. Where two models differ in one of these, transfer knows what to do with it.
UNITS: Final = "units"  # channels of a hidden layer, latents: the ones that both have are taken, in their order
CHANNELS_IN: Final = "channels in"  # of a picture that is looked at
CHANNELS_OUT: Final = "channels out"  # of a picture that is made
SIDE_IN: Final = "side in"  # height or width of a grid that is looked at
SIDE_OUT: Final = "side out"
FIXED: Final = "fixed"  # nothing can be done


Axes = tuple[tuple[tuple[str, int], ...], ...]  # each a product of (what it counts, how many), slowest first


@dataclass(frozen=True)
class Place:
    """Of one tensor: a ``key`` that is the same in a model of other sizes, what its axes are made of, and where it lies.

    ``depth``: layers between it and the latents.
    """

    key: str
    axes: Axes
    depth: int = 0


def key_of(owner: str, module: nn.Module, rest: str) -> str:
    """Of a module's tensor, ``rest`` being its name in there: modules of another kind have other keys."""
    return f"{owner} {type(module).__name__}{rest}"


def plain(key: str, shape: tuple[int, ...], depth: int = 0) -> Place:
    """Of a tensor whose first two axes count units, and the others, of a kernel, are fixed."""
    kinds = [UNITS, UNITS, *[FIXED] * (len(shape) - 2)]
    return Place(key, tuple(((kind, size),) for kind, size in zip(kinds, shape, strict=False)), depth)
