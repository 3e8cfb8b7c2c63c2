"""The decomposition of [Varma] and the losses of [Nanda], formula by formula, on the cube of logits of a + b mod p."""

from math import pi

import torch
from torch import Tensor
from torch.nn import functional as F


def decomposition(
    logits: Tensor, fitted: Tensor, splits: dict[str, Tensor]
) -> tuple[Tensor, dict[str, dict[str, float]]]:
    """The coefficients of cos(2 pi k (a + b - c) / p), fitted on pairs that are held out, and what both parts say.

    `logits` are [p, p, p] for a, b and the output c; `fitted` and the splits are masks over the pairs.
    """
    p = len(logits)
    a, b, c = torch.meshgrid(*3 * [torch.arange(p)], indexing="ij")
    centred = logits - logits.mean(dim=-1, keepdim=True)
    coefficients, generalising, distance = [], torch.zeros_like(centred), (a + b - c) % p
    for k in range(1, (p - 1) // 2 + 1):
        cosine = torch.cos(2 * pi * k * torch.arange(p).double() / p)[distance]
        coefficient = (centred * cosine)[fitted].sum() / cosine.square()[fitted].sum()
        generalising += coefficient * cosine
        coefficients.append(coefficient)
    remaining, answer = centred - generalising, (a + b)[:, :, 0] % p
    parts = {"loss": centred, "loss_generalising": generalising, "loss_remaining": remaining}
    read = {}
    for name, pairs in splits.items():
        losses = {part: F.cross_entropy(values[pairs], answer[pairs]) for part, values in parts.items()}
        share = 1 - remaining[pairs].square().sum() / centred[pairs].square().sum()
        read[name] = {part: float(loss) for part, loss in losses.items()} | {"energy_share": float(share)}
    return torch.stack(coefficients), read


def key_frequency_losses(logits: Tensor, keys: list[int], splits: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    """Restricted and excluded loss of each split, from the unit waves cos and sin of (a + b) over all pairs."""
    p = len(logits)
    a, b = torch.meshgrid(*2 * [torch.arange(p)], indexing="ij")
    answer, key_part = (a + b) % p, torch.zeros_like(logits)
    for k in keys:
        for wave in (torch.cos, torch.sin):
            direction = wave(2 * pi * k * (a + b).double() / p)
            direction /= direction.norm()
            key_part += direction[:, :, None] * torch.einsum("ab,abc->c", direction, logits)
    restricted = key_part + (logits - key_part).mean(dim=(0, 1))
    excluded = logits - key_part
    return {
        name: tuple(float(F.cross_entropy(values[pairs], answer[pairs])) for values in (restricted, excluded))
        for name, pairs in splits.items()
    }
