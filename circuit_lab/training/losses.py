"""Losses: cross-entropy of the answer, after softmax or after stablemax.

Stablemax (Prieto et al. 2025, arXiv 2501.04697) normalises s(x) in place of exp(x):

    s(x) = x + 1 for x >= 0,  1 / (1 - x) for x < 0.

So log s(x) = sign(x) log(1 + |x|), and stablemax is the softmax of log s(x): one cross-entropy serves both losses.
Written so, no branch divides by 0 and the gradient is finite everywhere, 1 / (1 + |x|).
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

LossName = Literal["cross_entropy", "stablemax"]


def log_s(logits: Float[Tensor, "n d_vocab_out"]) -> Float[Tensor, "n d_vocab_out"]:
    """Logarithm of stablemax's s, elementwise.

    >>> log_s(torch.tensor([[0.0, 1.0, -1.0]])).exp()
    tensor([[1.0000, 2.0000, 0.5000]])
    """
    # Clamped, for a branch that is not taken must not make a NaN that its gradient of 0 does not remove.
    return torch.where(logits >= 0, logits.clamp(min=0).log1p(), -(-logits).clamp(min=0).log1p())


LOG_WEIGHTS: Mapping[LossName, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"cross_entropy": lambda logits: logits, "stablemax": log_s}
)
"""Of each loss, the logarithm of what it normalises to probabilities, up to a constant per row."""


def answer_loss(
    logits: Float[Tensor, "n d_vocab_out"],
    answer: Int[Tensor, " n"],
    *,
    loss: LossName,
    dtype: torch.dtype,
    reduction: Literal["mean", "none"],
    scale: float = 1.0,
) -> Float[Tensor, "..."]:
    """The loss of each row's answer.

    Args:
        logits: Of any type.
        answer: Token ids.
        loss: Which.
        dtype: Type in which it is computed.
        reduction: "mean" over the rows, or "none".
        scale: The loss is of the logits times this.

    Returns:
        Negative log-probability of the answer, in nats, >= 0: a number, or one per row.
    """
    logits = logits.to(dtype) if scale == 1 else logits.to(dtype) * scale
    return F.cross_entropy(LOG_WEIGHTS[loss](logits), answer, reduction=reduction)
