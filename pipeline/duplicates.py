"""Groups of images that show the same picture: re-encoded, resized, mirrored. No pair of all images is looked at twice.

First a 64-bit perceptual hash proposes pairs: the signs of the lowest frequencies of the cosine transform (the idea of pHash:
Zauner 2010). Images are sorted by the hash, four times, each time turned by 16 bits, and compared with the next WINDOW; that is
linear in their number. Then the pixels decide, for one side may be a little softer than the other. N images, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

SIDE, FREQUENCIES = 32, 8  # pixels that are transformed; frequencies kept in each direction
BANDS, BAND_BITS, WINDOW, RADIUS_BITS = 4, 16, 64, 5
COARSE_SIDE = 16
# 1 - correlation of the two pictures, coarse or in full (with the better blur): at most this. Digits that different people
# wrote differ by more than the first pair, re-encodings and resizes by less (benchmarks/duplicates.py). An image that has few
# candidates lies in no such crowd, and the hash alone has said much: the second pair.
CROWDED, ALONE = (0.0045, 0.0125), (0.0145, 0.025)
FEW_CANDIDATES = 4
HOPELESS = 0.08
BLURS_PIXELS = (0.0, 0.6, 0.9, 1.2)
MAX_BRIGHTNESS_LEVELS, MAX_CONTRAST_RATIO = 12.0, 1.25  # correlation sees neither
BLOCK_PAIRS = 4096
MOST_KEPT_PAIRS = 2**22  # about 20 MB on the disk: of more, images of one kind, the next run looks at all again

Gather = Callable[[np.ndarray], np.ndarray]  # indices -> float32 luminance (len, H, W)


def shrink_matrix(source: int, target: int) -> np.ndarray:
    """float32 (target, source): area averages; linear interpolation where there is less than is wanted."""
    weights = np.zeros((target, source), np.float32)
    if target >= source:
        places = (np.arange(target) + 0.5) * source / target - 0.5
        for i, place in enumerate(places):
            low = int(np.floor(place))
            for j, share in ((low, 1 - (place - low)), (low + 1, place - low)):
                weights[i, min(max(j, 0), source - 1)] += share
        return weights
    scale = source / target
    for i in range(target):
        for j in range(int(i * scale), min(source, int(np.ceil((i + 1) * scale)))):
            weights[i, j] = max(0.0, min((i + 1) * scale, j + 1) - max(i * scale, j)) / scale
    return weights


def _frequencies() -> list[tuple[int, int]]:
    """(vertical, horizontal) frequencies in the order of the hash's bits: the lowest first, so that the first band is the one
    that survives in soft pictures, whose high frequencies are noise."""
    every = [(u, v) for u in range(FREQUENCIES) for v in range(FREQUENCIES) if u + v]
    return sorted(every, key=lambda uv: (sum(uv), uv[0]))


# Left to right turned over, a cosine of odd horizontal frequency changes its sign and the others stay.
_BITS = _frequencies()
MIRROR_MASK = np.uint64(sum(1 << (63 - i) for i, (_, v) in enumerate(_BITS) if v % 2))


def perceptual_hash(light_NHW: np.ndarray) -> np.ndarray:
    """uint64 (N,): one bit per frequency, whether its coefficient is positive. Alike pictures differ in few bits."""
    points = np.arange(SIDE) + 0.5
    cosines = np.cos(np.pi / SIDE * np.outer(np.arange(FREQUENCIES), points)).astype(np.float32)
    rows, columns = (cosines @ shrink_matrix(n, SIDE) for n in light_NHW.shape[1:])
    coefficients = rows @ light_NHW @ columns.T
    hashes = np.zeros(len(light_NHW), np.uint64)
    for i, (u, v) in enumerate(_BITS):
        hashes |= (coefficients[:, u, v] > 0).astype(np.uint64) << np.uint64(63 - i)
    return hashes


def candidates(hashes_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (P, 2) of alike hashes, first < second, and bool (P,): whether the second is to be mirrored. In a fixed order.

    Hashes that agree in one band and differ in at most RADIUS_BITS are found, unless more than WINDOW lie between them.
    """
    count = len(hashes_N)
    both = np.concatenate([hashes_N, hashes_N ^ MIRROR_MASK])  # a mirrored image is another one, numbered from count
    found = [np.zeros(0, np.int64)]
    for band in range(BANDS):
        shift = np.uint64(BAND_BITS * band)
        turned = both << shift | both >> (np.uint64(64) - shift) if band else both
        order = np.argsort(turned, kind="stable")
        turned = turned[order]
        key = turned >> np.uint64(64 - BAND_BITS)
        for step in range(1, min(WINDOW, len(both) - 1) + 1):
            near = np.flatnonzero(key[step:] == key[:-step])
            if not len(near):
                break
            near = near[np.bitwise_count(turned[near] ^ turned[near + step]) <= RADIUS_BITS]
            a, b = np.minimum(order[near], order[near + step]), np.maximum(order[near], order[near + step])
            keep = (a < count) & (a != b - count)  # not both mirrored, and not an image with itself
            a, b = a[keep], b[keep]
            mirrored = b >= count
            b = b - count * mirrored
            found.append((np.minimum(a, b) * count + np.maximum(a, b)) * 2 + mirrored)
    pairs = np.unique(np.concatenate(found))
    numbers = pairs // 2
    return np.stack([numbers // max(count, 1), numbers % max(count, 1)], 1), (pairs % 2).astype(bool)


def _normalised(light_PHW: np.ndarray) -> np.ndarray:
    flat = light_PHW.reshape(len(light_PHW), light_PHW.shape[1] * light_PHW.shape[2])
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _differences(a_PHW: np.ndarray, b_PHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """1 - correlation (P,) of each pair: coarse, and in full with the one or the other blurred as suits best.

    Both are infinite where brightness or contrast (of the coarse pictures) differ; the second where the first is HOPELESS.
    """
    from scipy.ndimage import gaussian_filter  # not above: 0.1 s, which a set without candidates does without

    rows, columns = (shrink_matrix(n, COARSE_SIDE) for n in a_PHW.shape[1:])
    small_a, small_b = rows @ a_PHW @ columns.T, rows @ b_PHW @ columns.T
    coarse = 1 - (_normalised(small_a) * _normalised(small_b)).sum(1)
    # A level more, because uniform pictures have no contrast.
    spread_a, spread_b = small_a.std((1, 2)) + 1, small_b.std((1, 2)) + 1
    other = np.abs(small_a.mean((1, 2)) - small_b.mean((1, 2))) > MAX_BRIGHTNESS_LEVELS
    other |= np.maximum(spread_a, spread_b) > MAX_CONTRAST_RATIO * np.minimum(spread_a, spread_b)
    coarse[other] = np.inf
    full = np.full(len(a_PHW), np.inf, np.float32)
    hopeful = np.flatnonzero(coarse <= HOPELESS)
    a_PHW, b_PHW = a_PHW[hopeful], b_PHW[hopeful]
    plain_a, plain_b = _normalised(a_PHW), _normalised(b_PHW)
    for sigma in BLURS_PIXELS:
        soft_a, soft_b = (_normalised(gaussian_filter(x, (0, sigma, sigma))) if sigma else _normalised(x) for x in (a_PHW, b_PHW))
        best = 1 - np.maximum((soft_a * plain_b).sum(1), (plain_a * soft_b).sum(1))
        full[hopeful] = np.minimum(full[hopeful], best)
    return coarse, full


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK_PAIRS) for start in range(0, count, BLOCK_PAIRS))


class Verdicts(NamedTuple):
    """What was found of pairs that were looked at: whether they show the same picture by the limits in a crowd, and by those alone.

    int64 (P, 2) of the two images, bool (P,) whether the second one was mirrored, and the two answers, bool (P,).
    """

    pairs_P2: np.ndarray
    mirrored_P: np.ndarray
    crowded_P: np.ndarray
    alone_P: np.ndarray

    def codes(self, base: int) -> np.ndarray:
        """A number for each pair in this order, of images numbered below ``base``: what was found depends on it and the pixels alone."""
        return (self.pairs_P2[:, 0] * base + self.pairs_P2[:, 1]) * 2 + self.mirrored_P

    def near_pairs(self) -> np.ndarray:
        """Pairs (Q, 2), ascending, that show the same picture."""
        few = (np.bincount(self.pairs_P2.ravel()) <= FEW_CANDIDATES)[self.pairs_P2].any(1)
        return np.unique(self.pairs_P2[np.where(few, self.alone_P, self.crowded_P)], axis=0)

    def to_keep(self) -> Verdicts:
        """These, for the next run; none where there are too many."""
        return self if len(self.pairs_P2) <= MOST_KEPT_PAIRS else NOTHING

    def renumbered(self, number_N: np.ndarray) -> Verdicts:
        """These on images that are numbered otherwise now; those on images whose new number is -1 are gone."""
        pairs = number_N[self.pairs_P2]
        there = (pairs >= 0).all(1)
        return Verdicts(pairs[there], *(answers[there] for answers in self[1:]))


NOTHING = Verdicts(np.zeros((0, 2), np.int64), *np.zeros((3, 0), bool))


def lookup(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """For each of ``wanted`` its place in ``known`` (any, where it stands twice), or -1; both are numbers, or both bytes."""
    if not len(known):
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(known, kind="stable")
    at = np.minimum(np.searchsorted(known, wanted, sorter=order), len(known) - 1)
    return np.where(known[order[at]] == wanted, order[at], -1)


def _known(pairs: Verdicts, places_N: np.ndarray, before: Verdicts) -> np.ndarray:
    """Fill in what was found ``before`` of pairs of images at these places; returns which are left to look at."""
    there = pairs._replace(pairs_P2=places_N[pairs.pairs_P2])
    base = max(int(places_N.max(initial=0)), int(before.pairs_P2.max(initial=0))) + 1
    at = lookup(before.codes(base), there.codes(base))
    again = np.flatnonzero(at >= 0)
    pairs.crowded_P[again], pairs.alone_P[again] = before.crowded_P[at[again]], before.alone_P[at[again]]
    return np.flatnonzero(at < 0)


def look(hashes_N: np.ndarray, gather: Gather, places_N: np.ndarray | None = None, before: Verdicts | None = None) -> Verdicts:
    """What hashes propose, judged by the pixels; pairs of which something was found ``before``, by the images' places, are not read."""
    pairs, mirrored = candidates(hashes_N)
    found = Verdicts(pairs, mirrored, *np.zeros((2, len(pairs)), bool))
    left = np.arange(len(pairs))
    if before is not None and places_N is not None:
        left = _known(found, places_N, before)
    for block in _blocks(len(left)):
        chosen = left[block]
        a, b = gather(pairs[chosen, 0]), gather(pairs[chosen, 1])
        b[mirrored[chosen]] = b[mirrored[chosen], :, ::-1]
        coarse, full = _differences(a, b)
        for same, limits in ((found.crowded_P, CROWDED), (found.alone_P, ALONE)):
            same[chosen] = (coarse <= limits[0]) | (full <= limits[1])
    return found


def groups(count: int, pairs_P2: np.ndarray) -> np.ndarray:
    """int (N,): images that pairs connect, directly or through others, have the same number."""
    if not len(pairs_P2):
        return np.arange(count)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(pairs_P2), np.int8)
    graph = coo_array((ones, (pairs_P2[:, 0], pairs_P2[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1]
