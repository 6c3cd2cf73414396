"""Scores of evaluate that compare sets of images, or the latents of one, each beside what real images score: docs/metrics.md.

N images, D features or latents. A score for which there are too few images is None, and the log says why.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import cache, partial
from types import SimpleNamespace
from typing import NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.errors import BadDataError
from pipeline.kept_moments import known
from pipeline.paths import Paths
from vae.artefact import Generator
from vae.data import ImageShards, evenly
from vae.extractor import Extractor
from vae.files import MANIFEST, sha256_file
from vae.images import to_model_range, to_uint8
from vae.metrics.frechet import Moments, TooFewSamplesError, frechet_distance, minimum_samples, moments
from vae.metrics.inception import FEATURE_DIM, InceptionFeatures, WeightsError, load_inception
from vae.metrics.kernel import kernel_distance
from vae.metrics.latents import aggregate_posterior
from vae.metrics.manifold import density_and_coverage
from vae.noise import image_states, step_noise
from vae.operations import blur, noise
from vae.order import stream_indices
from vae.pictures import shown

BLUR_SIGMA_PIXELS, BLUR_RADIUS_PIXELS = 1.0, 3
NOISE_LEVELS = 16.0  # standard deviation, of 256
log = logging.getLogger("pipeline.scores")
Scores = dict[str, float | None]


class Featured(NamedTuple):
    """Images (N, H, W, C), uint8, and what the extractor sees in them (N, D)."""

    images_NHWC: np.ndarray
    features_ND: Tensor

    @classmethod
    def by(cls, network: Extractor, images_NHWC: np.ndarray) -> Self:
        return cls(images_NHWC, network.features(images_NHWC))


def _each(computed: dict[str, Callable[[], float]]) -> Scores:
    """Each score, or None; one line of the log for each reason."""
    found: Scores = {}
    reasons: dict[str, list[str]] = {}
    for name, score in computed.items():
        try:
            found[name] = score()
        except TooFewSamplesError as error:
            found[name] = None
            reasons.setdefault(str(error), []).append(name)
    for reason, names in reasons.items():
        log.warning("no %s: %s", ", ".join(names), reason)
    return found


def blurred(images_NHWC: np.ndarray) -> Tensor:
    """uint8 images under a Gaussian of 1 pixel's deviation, in each stored channel."""
    x_NCHW = (to_model_range(torch.from_numpy(images_NHWC)) + 1) / 2
    return to_uint8(2 * blur(x_NCHW, torch.full((len(x_NCHW),), BLUR_SIGMA_PIXELS), BLUR_RADIUS_PIXELS) - 1)


def noised(images_NHWC: np.ndarray, seed: int) -> Tensor:
    """uint8 images with normal noise of 16 levels' deviation, in each stored channel."""
    x_NCHW = (to_model_range(torch.from_numpy(images_NHWC)) + 1) / 2
    states_N = image_states(seed, np.arange(len(x_NCHW)), np.zeros(len(x_NCHW), np.int64))
    return to_uint8(2 * noise(x_NCHW, torch.full((len(x_NCHW),), NOISE_LEVELS / 255), states_N) - 1)


def standard_normal(generator: Generator, samples: int, seed: int) -> np.ndarray:
    """Images of latents from N(0, I), the prior of the bound, whatever density was fitted afterwards."""
    z_ND = torch.randn(samples, generator.config.latent_dim, generator=torch.Generator().manual_seed(seed))
    return generator.decode(z_ND, generator.classes(samples, seed))


def spread(features_ND: Tensor, count: int) -> Tensor:
    """``count`` rows at equal distances, as ``ImageShards.spread`` takes them."""
    return features_ND[torch.from_numpy(evenly(len(features_ND), count))]


def feature_scores(
    values: SimpleNamespace,
    generator: Generator,
    drawn: Featured,
    unseen: Featured,
    networks: tuple[Extractor, Extractor],
    paths: Paths,
) -> Scores:
    """FCD, kernel distance, density and coverage of samples against unseen images; and what real or spoilt images score there.

    The second network gives its opinion on FCD: what one overlooks, another may see.
    """
    network, second = networks
    test, train = ImageShards(paths.processed / "test"), ImageShards(paths.processed / "train")
    samples, seed = values.evaluate.samples, values.base.seed
    (drawn_NHWC, generated_ND), (test_NHWC, test_ND) = drawn, unseen
    train_NHWC, train_ND = Featured.by(network, train.spread(samples))
    halves = network.features(train.gather(stream_indices(len(train), seed, 0, min(2 * samples, len(train))))).tensor_split(2)
    known, label_N = test.labelled(samples)
    real_moments = cache(lambda: moments(test_ND))
    second_moments = cache(lambda: moments(second.features(test_NHWC)))

    def distance(features_ND: Tensor) -> float:
        return frechet_distance(real_moments(), moments(features_ND))

    def second_distance(images_NHWC: np.ndarray) -> float:
        return frechet_distance(second_moments(), moments(second.features(images_NHWC)))

    def halved() -> float:
        return frechet_distance(*(moments(half_ND) for half_ND in halves))

    of_the_bound: dict[str, Callable[[], float]] = {}
    if generator.prior.name != "normal":  # else it is ``fcd``
        of_the_bound["fcd_standard_normal"] = lambda: distance(network.features(standard_normal(generator, samples, seed)))
    count = min(len(test_ND), len(generated_ND), len(train_ND))  # coverage compares equal counts only
    generated_kernel = cache(lambda: kernel_distance(test_ND, generated_ND, seed))
    generated_manifold = cache(lambda: density_and_coverage(spread(test_ND, count), generated_ND[:count]))
    real_manifold = cache(lambda: density_and_coverage(spread(test_ND, count), spread(train_ND, count)))
    return _each(
        {
            "fcd": lambda: distance(generated_ND),
            "fcd_real_floor": lambda: distance(train_ND),
            "fcd_second": lambda: second_distance(drawn_NHWC),
            "fcd_second_real_floor": lambda: second_distance(train_NHWC),
            "fcd_half_floor": halved,
            **of_the_bound,
            "fcd_reconstructions": lambda: distance(network.features(generator.reconstruct(known, label_N))),
            "fcd_blurred": lambda: distance(network.features(blurred(known))),
            "fcd_noised": lambda: distance(network.features(noised(known, seed))),
            "kid": lambda: generated_kernel().value,
            "kid_standard_error": lambda: generated_kernel().standard_error,
            "kid_real_floor": lambda: kernel_distance(test_ND, train_ND, seed).value,
            "density": lambda: generated_manifold().density,
            "density_real": lambda: real_manifold().density,
            "coverage": lambda: generated_manifold().coverage,
            "coverage_real": lambda: real_manifold().coverage,
            "precision": lambda: generated_manifold().precision,
            "precision_real": lambda: real_manifold().precision,
        }
    )


@torch.no_grad()
def aggregate_scores(values: SimpleNamespace, generator: Generator, test: ImageShards) -> Scores:
    """The aggregate posterior of test images against N(0, I); None for a hierarchy."""
    names = {"aggregate_kl_nats": "kl_nats", "aggregate_moment_gap_nats": "moment_gap_nats"}
    names |= {"mutual_information_nats": "mutual_information_nats"}
    images, label_N = test.labelled(values.evaluate.samples)
    if not generator.model.vector_latents:  # each layer's posterior depends on the sample of those above it
        log.warning("no %s: the posterior of a hierarchy is no normal distribution", ", ".join(names))
        return dict.fromkeys(names)
    mean_ND, logvar_ND = generator.encode(images, label_N)
    noise_ND = step_noise(values.base.seed, 0, (len(mean_ND), mean_ND.shape[1]), mean_ND.device)
    aggregate = cache(lambda: aggregate_posterior(mean_ND, logvar_ND, noise_ND))

    def score(field: str) -> float:
        return getattr(aggregate(), field)

    found = _each({name: partial(score, field) for name, field in names.items()})
    # Near the ceiling more is known than so few images can show.
    return found | {"mutual_information_ceiling_nats": math.log(len(images))}


def label_scores(
    network: Extractor,
    drawn: tuple[np.ndarray, Tensor | None],
    unseen: tuple[np.ndarray, Tensor | None],
    train: ImageShards,
    labels: list[str],
) -> tuple[Scores, pd.DataFrame | None]:
    """What the network, which was taught the ``labels``, takes samples for, and test images: and the shares of each as a table.

    ``label_distance``: whether some labels are drawn too often, the total variation distance of both; beside it that of as many
    training images. ``class_accuracy``: the share of samples taken for the class that was asked for (``drawn``'s second part, None
    where the model is told none), and of test images taken for theirs. Nothing where the network was taught no labels.
    """
    if network.config.task != "labels":
        return {}, None
    asked_N, label_N = drawn[1], unseen[1]
    of_drawn, of_test, of_train = (network.told(images).cpu() for images in (drawn[0], unseen[0], train.spread(len(drawn[0]))))

    def shares(told_N: Tensor) -> np.ndarray:
        return np.bincount(told_N.numpy(), minlength=len(labels)) / len(told_N)

    def right(told_N: Tensor, known_N: Tensor) -> float:
        return (told_N == known_N).sum().item() / len(known_N)

    test, made, real = shares(of_test), shares(of_drawn), shares(of_train)
    found: Scores = {
        "label_distance": float(np.abs(made - test).sum() / 2),
        "label_distance_real": float(np.abs(real - test).sum() / 2),
    }
    if asked_N is not None:
        assert label_N is not None  # tune, train or the model itself would have refused
        found |= {"class_accuracy": right(of_drawn, asked_N), "class_accuracy_real": right(of_test, label_N)}
    return found, pd.DataFrame({"test": test, "samples": made}, index=pd.Index(labels, name="label"))


def inception(values: SimpleNamespace, paths: Paths) -> InceptionFeatures | None:
    """The network of FID, if params.yaml names its weights; BadDataError where the file cannot be used."""
    section = values.evaluate
    if not section.inception_weights:
        return None
    try:
        return load_inception(paths.root / section.inception_weights, section.inception_sha256)
    except WeightsError as error:
        raise BadDataError(f"{error} in evaluate.inception_weights and evaluate.inception_sha256 of params.yaml") from None


def fid_scores(values: SimpleNamespace, drawn_NHWC: np.ndarray, network: InceptionFeatures, mode: str, paths: Paths) -> Scores:
    """FID of ``drawn_NHWC`` to all test images, each shown as RGB."""
    test = ImageShards(paths.processed / "test")
    facts = {
        "weights": values.evaluate.inception_sha256, "images": sha256_file(paths.processed / MANIFEST), "split": "test", "mode": mode,
    }  # fmt: skip

    def seen(images_NHWC: np.ndarray) -> Moments:
        return moments(network.features(np.require(shown(images_NHWC, mode), requirements="W")))  # Pillow's are read-only

    def score() -> float:
        fewest, needed = min(len(test), len(drawn_NHWC)), minimum_samples(FEATURE_DIM)
        if fewest < needed:  # before minutes of convolutions, not after
            raise TooFewSamplesError(f"FID needs {needed} test images and evaluate.samples, there are {fewest}")
        real = known(paths.work / "reference", facts, lambda: seen(test.slice(0, len(test))))
        return frechet_distance(real, seen(drawn_NHWC))

    return _each({"fid": score})
