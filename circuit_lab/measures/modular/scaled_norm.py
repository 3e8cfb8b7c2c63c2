"""The parameter norm at which a net, with all its weights scaled alike, gives a chosen logit.

Nets that are compared by their efficiency must be compared at one correct logit, and training ends at a logit of its
own. Weight decay, which Varma et al. 2023 (arXiv 2309.02390) vary to get several, need not move it: AdamW's update
vanishes where the gradient is below its eps, and that, not the decay, may end the growth of logits. Scaling moves one
and the same circuit along its own curve of logit over norm, exactly: the scaled net is run. It says nothing of how a
net that is trained to that logit would share its norm out, so the scale is kept near 1. The definition is ours.
"""

import math

import torch
from scipy.optimize import root_scalar
from torch.func import functional_call

from circuit_lab.measures.modular.norms import efficiency_of_logits, weight_norms
from circuit_lab.nets import HookedNet
from circuit_lab.tasks import Queries

LARGEST_SCALE = 1.5
"""Weights are scaled by at most this factor, up or down."""


def scaled_norm(net: HookedNet, queries: Queries, *, logit: float) -> float:
    """The norm of a net scaled to a correct logit.

    Args:
        net: A hooked net without norm layers, which would undo the scaling.
        queries: Whose mean correct logit, centred over outputs, is meant; at least one.
        logit: The correct logit to come to, > 0.

    Returns:
        The Euclidean norm of all weights, scaled by one factor so that the correct logit is `logit`; nan if the factor
        would have to be larger than `LARGEST_SCALE`, or smaller than its inverse.

    Raises:
        ValueError: If the net has norm layers, there are no queries, or `logit` is not positive.
    """
    if getattr(net.cfg, "normalization_type", "RMS") is not None:
        raise ValueError("scaling the weights of a net with norm layers does not scale its logits; give one without")
    if not 0 < logit < math.inf:
        raise ValueError(f"logit must be positive and finite, got {logit}")
    weights = {name: weight.detach() for name, weight in net.named_parameters()}
    options = {"answer_only": True, "answer_position": queries.answer_position}

    @torch.no_grad()
    def excess(log_scale: float) -> float:
        scaled = {name: weight * math.exp(log_scale) for name, weight in weights.items()}
        logits = functional_call(net, scaled, (queries.tokens,), options, tie_weights=True)
        return efficiency_of_logits(logits.double().cpu(), queries.answer, weight_norm=1.0).correct_logit - logit

    ends = -math.log(LARGEST_SCALE), math.log(LARGEST_SCALE)
    low, high = map(excess, ends)
    if low > 0 or high < 0:
        return math.nan
    log_scale = root_scalar(excess, bracket=ends, xtol=1e-6).root
    return weight_norms(net).total * math.exp(log_scale)
