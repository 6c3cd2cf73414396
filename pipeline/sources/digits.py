"""The real handwritten digits that scikit-learn ships (Alpaydin and Kaynak 1998): 1797 pictures of 8 x 8, without a network."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from pipeline.raw import RawWriter
from pipeline.sources.arrays import write_images

LEVELS = 16  # of the shipped values, 0 to 16


def pack(values: SimpleNamespace, writer: RawWriter) -> None:
    """Write every digit as a grey PNG named label/number."""
    from sklearn.datasets import load_digits  # a second of time and much memory, which no other source should pay

    digits = load_digits()
    write_images(writer, np.round(digits.images * (255 / LEVELS)).astype(np.uint8), digits.target, "")
