"""Pearson's and Spearman's correlation over cells, of many draws at once."""

import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor


def pearson_and_spearman(a: Float[Tensor, "draws cells"], b: Float[Tensor, "draws cells"]) -> Float[Tensor, "draws 2"]:
    """Both coefficients of each draw, in [-1, 1]; NaN where a side is constant. Ties get their mean rank.

    Args:
        a: Values of each cell.
        b: The others', in the same order.

    Returns:
        Pearson's, then Spearman's.

    >>> cells = torch.tensor([[1.0, 2.0, 4.0]])
    >>> pearson_and_spearman(cells, cells**2)
    tensor([[0.9897, 1.0000]])
    """
    ranks = [torch.from_numpy(rankdata(side.numpy(), axis=1)).to(side) for side in (a, b)]
    return torch.stack([_pearson(a, b), _pearson(*ranks)], dim=1)


def _pearson(a: Float[Tensor, "draws cells"], b: Float[Tensor, "draws cells"]) -> Float[Tensor, " draws"]:
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
