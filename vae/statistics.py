"""Parameters that follow the data: moving means of what the batches say, moved by their gradients but not by the optimizer.

A step of size 1 - d down the gradient of 1/2 |s|^2 - s . t is the moving average s <- d s + (1 - d) t. So what follows the whole
batch needs no way of its own through processes, parts and shards: it takes that of all gradients.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

DECAY = 0.99  # of a step: the window is about 100 batches


def following_loss(own: Tensor, seen: Tensor, images: int) -> Tensor:
    """What makes ``own`` follow the mean over images of which ``seen`` is the sum; summed over images, its value means nothing."""
    return images * 0.5 * own.square().sum() - (own * seen.detach()).sum()


@torch.no_grad()
def follow(statistics: Iterable[nn.Parameter], step: int) -> None:
    """Take in the batch of optimizer step ``step``, whose gradients are there; the first ones count alike."""
    pace = max(1 - DECAY, 9 / (10 + step))
    for own in statistics:
        assert own.grad is not None, "a loss without what makes the statistics follow"
        own.sub_(pace * own.grad)
