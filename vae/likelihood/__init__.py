"""What the decoder's output says about the observed image: log-probabilities in nats per image.

One line each; what they have in common is ``vae/likelihood/base.py``. Where it is not fixed the spread is learned, so the balance
of distortion and rate is calibrated by the data instead of set by hand (Rybkin, Daniilidis, Levine: Simple and Effective VAE
Training with Calibrated Decoders, 2021).
"""

from __future__ import annotations

from vae.likelihood.base import Likelihood
from vae.likelihood.bernoulli import Bernoulli, binarised
from vae.likelihood.binned import DiscretizedGaussian, DiscretizedLogistic, FixedGaussian, OptimalGaussian
from vae.likelihood.mixture import LogisticMixture

LIKELIHOODS: dict[str, type[Likelihood]] = {
    "logistic": DiscretizedLogistic,
    "gaussian": DiscretizedGaussian,
    "gaussian_optimal": OptimalGaussian,
    "gaussian_fixed": FixedGaussian,
    "logistic_mixture": LogisticMixture,
    "bernoulli": Bernoulli,
}

__all__ = ["LIKELIHOODS", "binarised"]
