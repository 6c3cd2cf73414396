"""Bits as a stack (asymmetric numeral systems, Duda 2009; the library is constriction): what is pushed last is popped first.

To push a symbol of probability p makes the stack -log2 p bits higher; to pop one by the same probability takes it, and as many bits,
off. A stack of random bits therefore gives samples of any distribution, and takes them back.
"""

from __future__ import annotations

from collections.abc import Sequence

import constriction
import numpy as np
import torch
from torch import Tensor

from vae.noise import image_states, random_bits

REACH = 8  # standard deviations, of latents from their posterior mean
NORMAL = constriction.stream.model.QuantizedGaussian
CATEGORICAL = constriction.stream.model.Categorical
BERNOULLI = constriction.stream.model.Bernoulli


def supply(count: int) -> np.ndarray:
    """The lowest ``count`` words of a stack that is popped before anything was pushed, uint32: always the same random bits.

    The word that is popped first is that of number 0, and stands last: a highest word must not be 0, and this one is not.
    """
    state = image_states(0, np.zeros(1, np.int64), np.zeros(1, np.int64))
    bits = random_bits(state, max(1, count), 0xC0DE)[0, :count].numpy().view(np.uint64)
    return (bits >> np.uint64(32)).astype(np.uint32)[::-1].copy()


class Stack:
    """Words of 32 bits; ``lowest`` is how few of them there have been."""

    def __init__(self, words: np.ndarray) -> None:
        self._coder = constriction.stream.stack.AnsCoder(words)
        self.lowest = len(words)

    def words(self) -> np.ndarray:
        """All of it, uint32, the lowest first."""
        return self._coder.get_compressed()

    def push_normal(self, value: Tensor, mean: Tensor, std: Tensor, reach: int = REACH) -> None:
        """Whole numbers under normal densities, all three of one shape; each within ``reach`` standard deviations."""
        whole = mean.round()
        for bucket, most in reversed(_buckets(std, reach)):
            away = (value - whole)[bucket]
            self._coder.encode_reverse(
                _flat(away, np.int32), NORMAL(-most, most), _flat((mean - whole)[bucket]), _flat(std[bucket])
            )

    def pop_normal(self, mean: Tensor, std: Tensor, reach: int = REACH) -> Tensor:
        """The numbers that ``push_normal`` pushed last, int64."""
        whole, found = mean.round(), torch.zeros(mean.shape, dtype=torch.int64)
        for bucket, most in _buckets(std, reach):
            away = self._coder.decode(NORMAL(-most, most), _flat((mean - whole)[bucket]), _flat(std[bucket]))
            found[bucket] = torch.from_numpy(away.astype(np.int64)) + whole[bucket].long()
        self.lowest = min(self.lowest, self._coder.num_words())
        return found

    def push_bits(self, bit: Tensor, one: Tensor) -> None:
        """Zeros and ones; ``one`` is how likely a one is at each place."""
        self._coder.encode_reverse(_flat(bit, np.int32), BERNOULLI(perfect=False), _flat(one))

    def pop_bits(self, one: Tensor) -> Tensor:
        """What ``push_bits`` pushed last, int64, in the shape of ``one``."""
        found = self._coder.decode(BERNOULLI(perfect=False), _flat(one))
        return torch.from_numpy(found.astype(np.int64)).view(one.shape).to(one.device)

    def push_alike(self, symbol_N: np.ndarray, probability_K: Sequence[float] | np.ndarray) -> None:
        """Symbols 0 to K - 1, all under the same probabilities."""
        self._coder.encode_reverse(symbol_N.astype(np.int32), CATEGORICAL(np.asarray(probability_K), perfect=False))

    def pop_alike(self, count: int, probability_K: Sequence[float] | np.ndarray) -> np.ndarray:
        """What ``push_alike`` pushed last, int32 (count,)."""
        return self._coder.decode(CATEGORICAL(np.asarray(probability_K), perfect=False), count)

    @property
    def empty(self) -> bool:
        """Whether nothing is left that was pushed."""
        return self._coder.is_empty()


def _buckets(std: Tensor, reach: int) -> list[tuple[Tensor, int]]:
    """Which numbers have a standard deviation of 2, of 4, of 8, ... at most, and how far from their mean these may lie.

    The coder leaves some mass to every number in its range. What is drawn is one of these now and then: in a range that fits the
    density such a draw is like any other, in a wide one it is nonsense that costs hundreds of bits.
    """
    size = std.log2().ceil().clamp_min(1).long()
    return [(size == each, reach * 2**each) for each in size.unique().tolist()]


def _flat(values: Tensor, kind: type = np.float64) -> np.ndarray:
    return values.detach().cpu().flatten().numpy().astype(kind)
