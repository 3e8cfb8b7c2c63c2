"""Accuracy and loss of every split."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from circuit_lab.nets import HookedNet, HookedSharedTransformer, Prefixes, PrefixTree, in_eval_mode, queries_at_once
from circuit_lab.tasks import Task
from circuit_lab.training.losses import LossName, answer_loss

LARGEST_EVALUATED = 2048
"""Queries of one forward pass at most; wide nets take fewer. Activations of more do not fit in a processor's cache."""


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
        batch_size: Queries per forward pass at most; wide nets take fewer.

    Returns:
        Split name -> score, and "training" for all training items together, if any are known.
    """
    asked = evaluated_queries(task)
    if len(asked) == 0:
        return {}
    options = {"loss": loss, "loss_dtype": loss_dtype, "logit_scale": logit_scale, "batch_size": batch_size}
    with in_eval_mode(net):
        read = read_queries(net, asked, len(asked), **options)
    return {name: read.score(rows) for name, rows in asked.rows.items()}


@dataclass(frozen=True, eq=False)
class EvaluatedQueries:
    """The queries of all splits, each once: splits overlap, and queries begin alike.

    Attributes:
        tokens: Token ids.
        answer: Answers.
        answer_position: Where they are asked for.
        rows: Split name -> its queries among these, as often as they stand there.
    """

    tokens: Int[Tensor, "n pos"]
    answer: Int[Tensor, " n"]
    answer_position: Int[Tensor, " n"]
    rows: Mapping[str, Int[Tensor, " n_split"]]
    _prefixes: dict[tuple[int, int], Prefixes] = field(default_factory=dict, init=False)

    def __len__(self) -> int:
        return len(self.tokens)

    def prefixes(self, start: int, stop: int) -> Prefixes:
        """The prefixes of those from `start` to `stop`, which are kept: checkpoint after checkpoint is asked them."""
        if (start, stop) not in self._prefixes:
            self._prefixes[start, stop] = self._prefix_tree.prefixes_of(torch.arange(start, stop))
        return self._prefixes[start, stop]

    @cached_property
    def _prefix_tree(self) -> PrefixTree:
        return PrefixTree(self.tokens, self.answer_position)


_OF_TASK: WeakKeyDictionary[Task, EvaluatedQueries] = WeakKeyDictionary()


def evaluated_queries(task: Task) -> EvaluatedQueries:
    """What `split_scores` asks.

    Args:
        task: The task; its queries are kept as long as it is.

    Returns:
        The queries of "training", if any are known, and of every split that has some.
    """
    if task not in _OF_TASK:
        _OF_TASK[task] = _gathered(task)
    return _OF_TASK[task]


def _gathered(task: Task) -> EvaluatedQueries:
    splits = {"training": task.training, **task.splits}
    columns = [torch.column_stack([q.tokens, q.answer_position, q.answer]) for q in splits.values()]
    distinct, place = torch.unique(torch.cat(columns), dim=0, return_inverse=True)
    places = place.split([len(queries) for queries in splits.values()])
    return EvaluatedQueries(
        tokens=distinct[:, :-2],
        answer_position=distinct[:, -2],
        answer=distinct[:, -1],
        rows=MappingProxyType({name: rows for name, rows in zip(splits, places, strict=True) if len(rows)}),
    )


@dataclass(frozen=True, eq=False)
class QueryReadings:
    """What a net says to some queries, on the CPU.

    Attributes:
        is_right: Whether the top token is the answer.
        loss: Negative log-probability of the answer, in nats.
    """

    is_right: Bool[Tensor, " n"]
    loss: Float64[Tensor, " n"]

    def score(self, rows: Int[Tensor, " n_split"]) -> SplitScore:
        """The score of those at `rows`, at least one."""
        is_right, loss = self.is_right[rows].double(), self.loss[rows]
        collapsed = (loss == 0).double()
        return SplitScore(float(is_right.mean()), float(loss.mean()), float(collapsed.mean()), len(rows))


@torch.no_grad()
def read_queries(
    net: HookedNet,
    asked: EvaluatedQueries,
    n: int,
    *,
    loss: LossName,
    loss_dtype: torch.dtype,
    logit_scale: float = 1.0,
    batch_size: int,
) -> QueryReadings:
    """Ask the first of the queries, with the net in the mode it is in.

    Args:
        net: The net.
        asked: The queries.
        n: How many, at least one.
        loss: As of `split_scores`, like the others.
        loss_dtype: Type in which the loss is computed.
        logit_scale: The loss is of the logits times this.
        batch_size: Queries per forward pass at most; wide nets take fewer.

    Returns:
        A reading per query.
    """
    is_right, losses = [], []
    size = queries_at_once(net, asked.tokens.shape[1], at_most=batch_size)
    for start in range(0, n, size):
        stop = min(start + size, n)
        logits = _logits(net, asked, start, stop)
        answer = asked.answer[start:stop].to(logits.device)
        is_right.append((logits.argmax(-1) == answer).cpu())
        of_each = answer_loss(logits, answer, loss=loss, dtype=loss_dtype, reduction="none", scale=logit_scale)
        losses.append(of_each.cpu().double())
    return QueryReadings(is_right=torch.cat(is_right), loss=torch.cat(losses))


def _logits(net: HookedNet, asked: EvaluatedQueries, start: int, stop: int) -> Float[Tensor, "n d_vocab_out"]:
    n_pos = asked.tokens.shape[1]
    if isinstance(net, HookedSharedTransformer) and net.gains_by_prefixes(n_pos) and not net.has_hooks:
        return net.logits_of_prefixes(asked.prefixes(start, stop))
    return net(asked.tokens[start:stop], answer_only=True, answer_position=asked.answer_position[start:stop])
