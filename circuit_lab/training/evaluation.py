"""Accuracy and loss of every split."""

from dataclasses import dataclass

import torch

from circuit_lab.nets import HookedNet
from circuit_lab.tasks import Queries, Task
from circuit_lab.training.losses import LossName, answer_loss

LARGEST_EVALUATED = 4096
"""Queries of one forward pass; bounds memory."""


@dataclass(frozen=True)
class SplitScore:
    """How a net does on a split.

    Attributes:
        accuracy: Share of queries whose top token is the answer, in [0, 1].
        loss: Mean negative log-probability of the answer, in nats, >= 0.
        collapsed: Share of queries whose loss is exactly 0 in the type it was computed in, in [0, 1]: the answer's
            probability has rounded to 1, and the right answer is no longer pushed up ("softmax collapse": Prieto et al.
            2025, arXiv 2501.04697). Stablemax is made so that this needs a logit of about 1e7 in float32, not 17.
        n: Queries.
    """

    accuracy: float
    loss: float
    collapsed: float
    n: int


def split_scores(
    net: HookedNet,
    task: Task,
    *,
    loss: LossName = "cross_entropy",
    loss_dtype: torch.dtype = torch.float32,
    logit_scale: float = 1.0,
    batch_size: int = LARGEST_EVALUATED,
) -> dict[str, SplitScore]:
    """Score every split of a task that has queries, whole.

    Args:
        net: The net; its train or eval mode and the random state stay as they are.
        task: The task.
        loss: How logits become probabilities.
        loss_dtype: Type in which the loss is computed.
        logit_scale: The loss is of the logits times this.
        batch_size: Queries per forward pass; bounds memory.

    Returns:
        Split name -> score, and "training" for all training items together, if any are known.
    """
    was_training = net.training
    net.eval()
    try:
        # A modular task's train split is all its training items: they are scored once.
        scored = {"training": task.training, **task.splits}
        scores: dict[str, SplitScore] = {}
        for name, queries in scored.items():
            if name != "training" and queries is task.training:
                scores[name] = scores["training"]
            elif len(queries):
                scores[name] = score(
                    net, queries, loss=loss, loss_dtype=loss_dtype, logit_scale=logit_scale, batch_size=batch_size
                )
        return scores
    finally:
        net.train(was_training)


@torch.no_grad()
def score(
    net: HookedNet,
    queries: Queries,
    *,
    loss: LossName,
    loss_dtype: torch.dtype,
    logit_scale: float = 1.0,
    batch_size: int,
) -> SplitScore:
    """Score some queries, at least one, with the net in the mode it is in; arguments as of `split_scores`."""
    n_right, n_collapsed, total = 0, 0, 0.0
    for start in range(0, len(queries), batch_size):
        batch = queries[start : start + batch_size]
        logits = net(batch.tokens, answer_only=True, answer_position=batch.answer_position)
        answer = batch.answer.to(logits.device)
        n_right += int((logits.argmax(-1) == answer).sum())
        losses = answer_loss(logits, answer, loss=loss, dtype=loss_dtype, reduction="none", scale=logit_scale)
        total += float(losses.sum())
        n_collapsed += int((losses == 0).sum())
    n = len(queries)
    return SplitScore(accuracy=n_right / n, loss=total / n, collapsed=n_collapsed / n, n=n)
