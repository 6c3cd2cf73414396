"""What looks make of pictures: ``python -m benchmarks.looks`` draws docs/results/looks.png from eight images of CIFAR-10."""

from __future__ import annotations

import numpy as np
from PIL import Image

from benchmarks.case import unpacked
from benchmarks.rows import RESULTS
from vae.looks import LOOKS, looked
from vae.pictures import grid, save_png

SHOWN = 8


def main() -> None:
    """A row for each look."""
    names, images = unpacked("cifar10")
    test = images[[name.startswith("test") for name in names]]
    some = test[np.linspace(0, len(test) - 1, SHOWN).round().astype(int)]
    rows = [np.stack([np.asarray(looked(Image.fromarray(image), look)) for image in some]) for look in LOOKS]
    save_png(grid(np.concatenate(rows), columns=SHOWN, mode="RGB"), RESULTS / "looks.png")


if __name__ == "__main__":
    main()
