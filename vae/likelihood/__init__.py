"""What the decoder's output says about the observed image: log-probabilities in nats per image.

Each likelihood is a module with ``log_prob(output, x_NCHW) -> (N,)`` over what is really observed (256 levels, or two),
``mean(output)`` and ``sample(output, generator)`` (N, C, H, W) in model range, ``output_channels`` that it wants of the decoder,
``binary`` (whether images are binarised first), and ``problem(image_shape)``: why it cannot model such images, or None.
Where it is not fixed the spread is learned, so the balance of distortion and rate is calibrated by the data instead of set by
hand (Rybkin, Daniilidis, Levine: Simple and Effective VAE Training with Calibrated Decoders, 2021).
"""

from __future__ import annotations

from vae.likelihood.bernoulli import Bernoulli, binarised
from vae.likelihood.binned import DiscretizedGaussian, DiscretizedLogistic, FixedGaussian
from vae.likelihood.mixture import LogisticMixture

LIKELIHOODS = {
    "logistic": DiscretizedLogistic,
    "gaussian": DiscretizedGaussian,
    "gaussian_fixed": FixedGaussian,
    "logistic_mixture": LogisticMixture,
    "bernoulli": Bernoulli,
}

__all__ = ["LIKELIHOODS", "binarised"]
