"""Accuracy and loss of every split."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from circuit_lab.nets import HookedNet
from circuit_lab.tasks import Queries, Task


@dataclass(frozen=True)
class SplitScore:
    """How a net does on a split.

    Attributes:
        accuracy: Share of queries whose top token is the answer, in [0, 1].
        loss: Mean cross-entropy at the answer position, in nats, >= 0.
        collapsed: Share of queries whose loss is exactly 0 in the type it was computed in, in [0, 1]: the answer's
            probability has rounded to 1, and the right answer is no longer pushed up ("softmax collapse": Prieto et al.
            2025, arXiv 2501.04697).
        n: Queries.
    """

    accuracy: float
    loss: float
    collapsed: float
    n: int


def split_scores(
    net: HookedNet, task: Task, *, loss_dtype: torch.dtype = torch.float32, batch_size: int = 4096
) -> dict[str, SplitScore]:
    """Score every split of a task that has queries, whole.

    Args:
        net: The net; its train or eval mode and the random state stay as they are.
        task: The task.
        loss_dtype: Type in which log-softmax and loss are computed.
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
                scores[name] = _score(net, queries, loss_dtype, batch_size)
        return scores
    finally:
        net.train(was_training)


@torch.no_grad()
def _score(net: HookedNet, queries: Queries, loss_dtype: torch.dtype, batch_size: int) -> SplitScore:
    n_right, n_collapsed, loss = 0, 0, 0.0
    for start in range(0, len(queries), batch_size):
        batch = queries[start : start + batch_size]
        logits = net(batch.tokens, answer_only=True, answer_position=batch.answer_position)
        answer = batch.answer.to(logits.device)
        n_right += int((logits.argmax(-1) == answer).sum())
        losses = F.cross_entropy(logits.to(loss_dtype), answer, reduction="none")
        loss += float(losses.sum())
        n_collapsed += int((losses == 0).sum())
    n = len(queries)
    return SplitScore(accuracy=n_right / n, loss=loss / n, collapsed=n_collapsed / n, n=n)
