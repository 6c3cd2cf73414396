"""What is wrong with a model, if anything, by its scores: a named finding each, the numbers that say so, and the parameter to change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

COLLAPSED_NATS = 0.5  # of rate: less than one bit for all latents together
IGNORED_SHARE = 0.1  # of the rate: latents that cost so much more than they help are not looked at
HOLE_FACTOR = 5.0  # of the reconstructions' distance; a hole is only called so where it also weighs half of a visible blur
NEAR_SHARE = 0.25  # of samples, where 0.05 is expected
HEALTHY = "healthy"
COLLAPSED, IGNORED, UNDERFIT, HOLE, MEMORISED = FINDINGS = (
    "collapsed", "decoder ignores z", "underfit", "prior hole", "memorised",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """``name`` of a fault (or ``healthy``), the ``evidence`` in numbers, and the ``remedy``: which parameter to change, and how."""

    name: str
    evidence: str
    remedy: str


def _latents(m: Mapping[str, float | None]) -> Finding | None:
    rate, gain = m["rate_nats"], m["shuffled_gain_nats"]
    assert rate is not None and gain is not None
    if rate < COLLAPSED_NATS:
        return Finding(
            COLLAPSED,
            f"the rate is {rate:.3g} nats: the posterior is the prior, whatever the image",
            "a lower train.beta (or tune.beta_max), or fit.beta_start below beta; of a ladder also fit.free_bits_nats",
        )
    if gain < IGNORED_SHARE * rate:
        return Finding(
            IGNORED,
            f"latents cost {rate:.4g} nats, but an image is only {gain:.3g} nats likelier with its own than with another's",
            "fit.beta_start 0.1 with fit.beta_anneal_share 0.5, or a narrower decoder (fit.widths)",
        )
    return None


def _quality(m: Mapping[str, float | None], prior: str) -> list[Finding]:
    fcd, copies, blurred = m["fcd"], m["fcd_reconstructions"], m["fcd_blurred"]
    if fcd is None or copies is None or blurred is None:
        return []
    found = []
    if copies > blurred:
        found.append(
            Finding(
                UNDERFIT,
                f"reconstructions are at FCD {copies:.3g}, test images under a blur of one pixel at {blurred:.3g}",
                "more train.total_images, wider fit.widths, a lower beta, or a larger latent dimension",
            )
        )
    if fcd > HOLE_FACTOR * copies and fcd > 0.5 * blurred:
        first = {"normal": "fit.prior mixture, ", "mixture": "more images or fit.mixture_components, "}.get(prior, "")
        found.append(
            Finding(
                HOLE,
                f"samples are at FCD {fcd:.3g}, reconstructions at {copies:.3g}: what is drawn from the prior {prior} decodes worse "
                "than what is encoded",
                f"{first}a higher beta, a smaller latent dimension, or another fit.prior (docs/samplers.md compares them)",
            )
        )
    return found


def diagnose(metrics: Mapping[str, float | None], prior: str) -> list[Finding]:
    """The faults, the gravest first; one finding ``healthy`` where there is none. ``prior``: the name of what is sampled."""
    faulty = _latents(metrics)
    found = ([faulty] if faulty else []) + _quality(metrics, prior)
    near = metrics.get("near_share")
    if near is not None and near > NEAR_SHARE:
        found.append(
            Finding(
                MEMORISED,
                f"{near:.0%} of the samples lie nearer to a training image than 95 % of test images do (expected: 5 %)",
                "more images or augment.copies, a higher beta, fewer fit.mixture_components",
            )
        )
    if found:
        return found
    return [Finding(HEALTHY, "no collapse, no hole in the prior, the decoder uses its latents", "")]
