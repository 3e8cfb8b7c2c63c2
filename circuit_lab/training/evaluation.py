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
        n: Queries.
    """

    accuracy: float
    loss: float
    n: int


def split_scores(net: HookedNet, task: Task, *, batch_size: int = 4096) -> dict[str, SplitScore]:
    """Score every split of a task that has queries, whole.

    Args:
        net: The net; its train or eval mode and the random state stay as they are.
        task: The task.
        batch_size: Queries per forward pass; bounds memory.

    Returns:
        Split name -> score, and "training" for all training items together.
    """
    was_training = net.training
    net.eval()
    try:
        splits = {"training": task.training, **task.splits}
        return {name: _score(net, queries, batch_size) for name, queries in splits.items() if len(queries)}
    finally:
        net.train(was_training)


@torch.no_grad()
def _score(net: HookedNet, queries: Queries, batch_size: int) -> SplitScore:
    n_right, loss = 0, 0.0
    for start in range(0, len(queries), batch_size):
        batch = queries[start : start + batch_size]
        logits = net(batch.tokens, answer_only=True, answer_position=batch.answer_position)
        answer = batch.answer.to(logits.device)
        n_right += int((logits.argmax(-1) == answer).sum())
        loss += float(F.cross_entropy(logits, answer, reduction="sum"))
    return SplitScore(accuracy=n_right / len(queries), loss=loss / len(queries), n=len(queries))
