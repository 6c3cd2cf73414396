"""A critic beside the likelihood: decoders that draw what looks real, not the mean of all that it could be. N images, D latents.

The critic tells images from reconstructions, patch by patch (Isola et al., Image-to-Image Translation with
Conditional Adversarial Networks, 2017), by the hinge loss (Lim and Ye, Geometric GAN, 2017). The decoder is pushed to where the critic
cannot, and to the critic's own features of the image (Larsen et al., Autoencoding beyond pixels using a learned similarity metric, 2016).

How hard it is pushed adapts, as in Esser, Rombach, Ommer (Taming Transformers, 2021, eq. 7), but of each image by itself, at the decoder's
output instead of its last layer: the push is ``adversary_weight`` times as long as the pull of the distortion. So every term is a sum over
images, and goes through processes, parts and shards as all gradients do. Critic and decoder move at the same time, by the gradients of one
backward pass; the critic's loss does not reach the decoder, nor the decoder's the critic.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae.config import FitConfig
from vae.models.base import VAE, Output, norm
from vae.objective import begun
from vae.optim import learning_rate

HALVINGS = 3  # a patch is 8x8 pixels, and sees 30
LEAK = 0.2
BETAS = (0.5, 0.99)
LEAST_LENGTH = 1e-8
SEED = 0xC1


class Critic(nn.Module):
    """Scores of patches (N, H / 8, W / 8), more for what looks real, and the features of each layer, by which it came to them."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(HALVINGS)]
        layers = [nn.Sequential(nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(LEAK))]
        for before, after in pairwise(widths):
            halve = nn.Conv2d(before, after, 4, stride=2, padding=1)
            layers.append(nn.Sequential(halve, norm(after), nn.LeakyReLU(LEAK)))
        self.layers, self.score = nn.ModuleList(layers), nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, x_NCHW: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        for layer in self.layers:
            x_NCHW = layer(x_NCHW)
            features.append(x_NCHW)
        return self.score(x_NCHW).squeeze(1), features


def _per_image(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1)


def _length(gradient: Tensor) -> Tensor:
    """Of each image's, (N, 1, 1, 1)."""
    return gradient.flatten(1).norm(dim=1)[:, None, None, None]


class Contest(nn.Module):
    """A model and its critic: called as the model is, and told whether the contest is on.

    What it returns has the terms of the model; ``penalty`` makes, by its gradients, the critic learn and pushes the decoder: as a
    number it means nothing. ``critic_N`` is the critic's hinge loss: 2 of one that knows nothing, 0 of one that is always right.
    ValueError for a model of two levels, whose drawn grey gives it away.
    """

    def __init__(self, model: VAE, config: FitConfig, channels: int) -> None:
        super().__init__()
        if model.likelihood.binary:
            raise ValueError("adversary_weight above 0: not with likelihood bernoulli, whose two levels no drawn image has")
        self.model, self._config = model, config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed ^ SEED)
            self.critic = Critic(channels, config.critic_width).to(next(model.parameters()).device)
        self.optimizer = torch.optim.AdamW(
            self.critic.parameters(), lr=config.critic_learning_rate, betas=BETAS, weight_decay=0.0, fused=True
        )

    def forward(
        self,
        x_NCHW: Tensor,
        noise_ND: Tensor,
        label_N: Tensor | None = None,
        seen_NCHW: Tensor | None = None,
        after_NCHW: Tensor | None = None,
        contested: bool = False,
    ) -> Output:
        terms = self.model(x_NCHW, noise_ND, label_N, seen_NCHW, after_NCHW)
        if not contested:  # gradients are shared in ways that want one of every parameter: here zeros
            penalty, critic_N = 0.0 * sum(p.sum() for p in self.critic.parameters()), None
        else:
            assert terms.output_NCHW is not None
            penalty, critic_N = self._contest(x_NCHW, terms.distortion_N, terms.output_NCHW)
        return replace(terms, penalty=penalty + (0.0 if terms.penalty is None else terms.penalty), critic_N=critic_N)

    def _contest(self, x_NCHW: Tensor, distortion_N: Tensor, copied_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """What the gradients are of, and the critic's loss of each image."""
        config = self._config
        (pull_NCHW,) = torch.autograd.grad(distortion_N.sum(), copied_NCHW, retain_graph=True)
        output_NCHW = copied_NCHW.detach().requires_grad_()
        score, features = self.critic(torch.cat([x_NCHW, self.model.likelihood.mean(output_NCHW)]))
        real, copied = score.chunk(2)
        critic_N = _per_image(F.relu(1 - real)) + _per_image(F.relu(1 + copied))
        wanted = -_per_image(copied).sum()
        if config.feature_weight:
            for every in features:
                of_real, of_copied = every.chunk(2)
                wanted = wanted + config.feature_weight * _per_image((of_real - of_copied).abs()).sum()
        (push_NCHW,) = torch.autograd.grad(wanted, output_NCHW, retain_graph=True)
        length_N111 = config.adversary_weight * _length(pull_NCHW)
        push_NCHW = push_NCHW * length_N111 / _length(push_NCHW).clamp_min(LEAST_LENGTH)
        return critic_N.sum() + (copied_NCHW * push_NCHW).sum(), critic_N

    def finite(self) -> bool:
        """Whether the critic's gradients are; on every rank alike, as they are those of the whole batch."""
        return bool(torch.stack([p.grad.isfinite().all() for p in self.critic.parameters() if p.grad is not None]).all())

    def move(self, images_seen: int) -> None:
        """Take the critic's step; before the contest has begun there is none."""
        if begun(images_seen, self._config):
            rate = learning_rate(images_seen, self._config) / self._config.learning_rate
            self.optimizer.param_groups[0]["lr"] = rate * self._config.critic_learning_rate
            self.optimizer.step()
