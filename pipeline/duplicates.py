"""Groups of images that show the same picture: re-encoded, resized, mirrored. No pair of all images is looked at twice.

First a 64-bit perceptual hash proposes pairs: the signs of the lowest frequencies of the cosine transform (the idea of pHash:
Zauner 2010). Images are sorted by the hash, four times, each time turned by 16 bits, and compared with the next WINDOW; that is
linear in their number. Then the pixels decide, for one side may be a little softer than the other. N images, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

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
    rows, columns = (shrink_matrix(n, COARSE_SIDE) for n in a_PHW.shape[1:])
    small_a, small_b = rows @ a_PHW @ columns.T, rows @ b_PHW @ columns.T
    coarse = 1 - (_normalised(small_a) * _normalised(small_b)).sum(1)
    # A level more, because uniform pictures have no contrast.
    spread_a, spread_b = small_a.std((1, 2)) + 1, small_b.std((1, 2)) + 1
    other = np.abs(small_a.mean((1, 2)) - small_b.mean((1, 2))) > MAX_BRIGHTNESS_LEVELS
    other |= np.maximum(spread_a, spread_b) > MAX_CONTRAST_RATIO * np.minimum(spread_a, spread_b)
    coarse[other] = np.inf
    from scipy.ndimage import gaussian_filter  # not above: 0.1 s, which a set without such pairs does without

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


def near_pairs(hashes_N: np.ndarray, gather: Gather) -> np.ndarray:
    """Pairs (P, 2) of images that show the same picture, by hash and then by pixels."""
    pairs, mirrored = candidates(hashes_N)
    crowd = np.bincount(pairs.ravel(), minlength=len(hashes_N))
    same = np.zeros(len(pairs), bool)
    for block in _blocks(len(pairs)):
        a, b = gather(pairs[block, 0]), gather(pairs[block, 1])
        b[mirrored[block]] = b[mirrored[block], :, ::-1]
        coarse, full = _differences(a, b)
        few = (crowd[pairs[block]] <= FEW_CANDIDATES).any(1)
        limits = np.where(few[:, None], ALONE, CROWDED)
        same[block] = (coarse <= limits[:, 0]) | (full <= limits[:, 1])
    return np.unique(pairs[same], axis=0)


def groups(count: int, pairs_P2: np.ndarray) -> np.ndarray:
    """int (N,): images that pairs connect, directly or through others, have the same number."""
    if not len(pairs_P2):
        return np.arange(count)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(pairs_P2), np.int8)
    graph = coo_array((ones, (pairs_P2[:, 0], pairs_P2[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1]
