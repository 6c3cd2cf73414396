"""How well frames are drawn that lie between others, beside a cross-fade: what a model of films is asked for. N images.

Of test films the frame in the middle of two is drawn from these two alone (vae/inbetween.py), and compared with the frame that was
there; also as the model alone draws it. What the model makes of that frame itself is the most that this can reach.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pipeline.scores import Scores
from vae.artefact import Generator
from vae.data import ImageShards, evenly
from vae.inbetween import Ways, ways
from vae.metrics.terms import mean_psnr_db
from vae.pictures import grid, save_png

TABLE, PICTURE = "films.csv", "films.png"
MOST, SHOWN, GAPS, DRAWN_GAP = 500, 12, (2, 4, 8, 16), 8  # pairs of frames, and how many steps they lie apart
log = logging.getLogger("pipeline.film_scores")


def triples(following_N: np.ndarray, gap: int) -> np.ndarray:
    """First, middle and last image (., 3) of all stretches of ``gap`` steps within a film."""
    ahead_N = [np.arange(len(following_N))]
    for _ in range(gap):
        last_N = ahead_N[-1]
        ahead_N.append(np.where(last_N < 0, -1, following_N[last_N]))
    found = np.stack([ahead_N[0], ahead_N[gap // 2], ahead_N[gap]], 1)
    return found[found[:, 2] >= 0]


def between(generator: Generator, first_NHWC: np.ndarray, last_NHWC: np.ndarray, label_N: torch.Tensor | None) -> Ways:
    """What lies in the middle between each of the first and its last."""
    number_N, labels = torch.arange(len(first_NHWC)), None if label_N is None else label_N.repeat(2)
    both = np.concatenate([first_NHWC, last_NHWC])
    return ways(generator, both, number_N, number_N + len(number_N), torch.full((len(number_N),), 0.5), labels)


def write(generator: Generator, test: ImageShards, report: Path) -> Scores:
    """The table, the picture, and as scores those of every other frame; nothing of images that are no films."""
    if test.following_N is None or not len(triples(test.following_N, GAPS[0])):
        return {}
    rows, shown = [], []
    for gap in GAPS:
        found = triples(test.following_N, gap)
        if not len(found):
            break
        found = found[evenly(len(found), MOST)]
        first, middle, last = (test.gather(found[:, place]) for place in range(3))
        label_N = test.labels(found[:, 1]) if generator.config.classes else None
        drawn = between(generator, first, last, label_N)
        pictures = {
            "fade": ((first.astype(np.uint16) + last + 1) // 2).astype(np.uint8),
            "inbetween": drawn.carried_FHWC,
            "redraw": drawn.redrawn_FHWC,
            "reconstruction": generator.reconstruct(middle, label_N),
        }
        rows += [{"gap": gap, "way": way, "psnr_db": mean_psnr_db(images, middle)} for way, images in pictures.items()]
        if gap <= DRAWN_GAP:
            shown = [first, middle, last, pictures["fade"], pictures["inbetween"]]
    log.info("frames between others %s", ", ".join(f"{row['gap']} {row['way']} {row['psnr_db']:.1f} dB" for row in rows))
    table = pd.DataFrame(rows)
    table.to_csv(report / TABLE, index=False)
    places = evenly(len(shown[0]), SHOWN)
    picture = np.concatenate([images[places] for images in shown])
    save_png(grid(picture, columns=len(places), mode=generator.contract["mode"]), report / PICTURE)
    nearest = table[table["gap"] == GAPS[0]].set_index("way")["psnr_db"]
    return {"film_psnr_db": float(nearest["inbetween"]), "film_fade_psnr_db": float(nearest["fade"])}
