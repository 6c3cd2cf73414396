"""The probability of each code given those before it. N batch, P places in their order, K codes, C channels.

A transformer with causal attention (Vaswani et al., Attention Is All You Need, 2017; normalised first, as in Radford et al. 2019).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae.models.blocks import OfClass

HEAD_CHANNELS = 16
Cache = list[tuple[Tensor, Tensor]]  # keys and values of each layer so far, (N, heads, places, channels)


class _Layer(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // HEAD_CHANNELS)
        self.norm, self.second_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.query_key_value, self.join = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.wider = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))

    def forward(self, x_NPC: Tensor, before: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """``before``: keys and values of the places before these, of which there is one then; returned with these added."""
        parts = self.query_key_value(self.norm(x_NPC)).chunk(3, dim=2)
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        if before is not None:
            key, value = torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
        joined = F.scaled_dot_product_attention(query, key, value, is_causal=before is None)
        x_NPC = x_NPC + self.join(joined.transpose(1, 2).flatten(2))
        return x_NPC + self.wider(self.second_norm(x_NPC)), (key, value)


class CausalPrior(nn.Module):
    """log p(k_p | k_<p) over codes at ``places`` places; uniform before training."""

    def __init__(self, codes: int, places: int, channels: int, layers: int, classes: int) -> None:
        super().__init__()
        self.start = nn.Parameter(0.02 * torch.randn(1, 1, channels))
        self.of_class = OfClass(classes, channels)
        self.code = nn.Embedding(codes, channels)
        self.place = nn.Parameter(0.02 * torch.randn(places, channels))
        self.layers = nn.ModuleList(_Layer(channels) for _ in range(layers))
        self.norm, self.out = nn.LayerNorm(channels), nn.Linear(channels, codes)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def begin(self, count: int, label_N: Tensor | None) -> Tensor:
        """What stands before the first code (N, 1, C): the classes, where there are any."""
        return self.of_class(self.start[0].expand(count, -1), label_N)[:, None]

    def forward(self, index_NP: Tensor, first_N1C: Tensor) -> Tensor:
        """Logits of all places at once, float32 (N, P, K): those of place p see the codes before it, and what ``begin`` gave."""
        x_NPC = torch.cat([first_N1C, self.code(index_NP[:, :-1])], 1) + self.place
        for layer in self.layers:
            x_NPC, _ = layer(x_NPC)
        return self.out(self.norm(x_NPC)).float()

    def next(self, before_N1C: Tensor, place: int, cache: Cache) -> Tensor:
        """Logits of one place, float32 (N, K), from what stands before it (``begin``, then ``code``) and ``cache``.

        ``cache`` is an empty list at place 0, and is brought up to date.
        """
        x_N1C = before_N1C + self.place[place]
        for i, layer in enumerate(self.layers):
            x_N1C, kept = layer(x_N1C, cache[i] if place else None)
            if place:
                cache[i] = kept
            else:
                cache.append(kept)
        return self.out(self.norm(x_N1C[:, 0])).float()
