"""The logits of pairs (a, b), in the coordinates in which a right computation is the same for every pair.

1. Z[pair, c]: the logits at the answer position, in float64, centred over the outputs that are group elements. A
   constant added to all outputs changes no probability, yet it would count as energy that nothing explains.
2. With x the group element of the pair's result, Y[pair, d] = Z[pair, c] for the output c with x * c^-1 = d. So d = 0,
   the identity, is the right output, whatever the pair.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from circuit_lab.nets import HookedNet
from circuit_lab.tasks import NOT_IN_GROUP, AnswerGroup, Queries


@dataclass(frozen=True, eq=False)
class PairLogits:
    """Logits of some pairs, all of whose results are group elements.

    Attributes:
        queries: The pairs; those whose result is no group element (0 under multiplication) are left out.
        group: The group of the results.
        centred: Z, over group elements as outputs: `centred[pair, element]`.
        result: Group element of each pair's result.
        label: Group element of each pair's answer as trained, which differs from the result under random labels;
            `NOT_IN_GROUP` where it is none.
    """

    queries: Queries
    group: AnswerGroup
    centred: Float64[Tensor, "n order"]
    result: Int[Tensor, " n"]
    label: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.result)

    def __getitem__(self, rows: Tensor | slice) -> "PairLogits":
        """The pairs at `rows`, in that order."""
        return replace(
            self,
            queries=self.queries[rows],
            centred=self.centred[rows],
            result=self.result[rows],
            label=self.label[rows],
        )

    def aligned(self, rows: slice = slice(None)) -> Float64[Tensor, "m order"]:
        """Y of some rows; column 0 is the right output."""
        return self.centred[rows].gather(1, self._aligned_outputs[self.result[rows]])

    @cached_property
    def _aligned_outputs(self) -> Int[Tensor, "order order"]:
        """Per result x and column d, the output c with x * c^-1 = d, which is d^-1 * x."""
        return self.group.product[self.group.inverse].T.contiguous()


@torch.no_grad()
def answer_logits(net: HookedNet, queries: Queries, *, batch_size: int = 4096) -> Float64[Tensor, "n d_vocab_out"]:
    """Logits at the answer position, in float64, on the CPU.

    Args:
        net: A hooked net.
        queries: Queries.
        batch_size: Queries per forward pass; bounds memory.

    Returns:
        One row per query.
    """
    batches = (queries[start : start + batch_size] for start in range(0, len(queries), batch_size))
    rows = [net(q.tokens, answer_only=True, answer_position=q.answer_position).cpu().double() for q in batches]
    return torch.cat(rows) if rows else torch.empty(0, net.cfg.d_vocab_out, dtype=torch.float64)


def pair_logits(net: HookedNet, queries: Queries, group: AnswerGroup) -> PairLogits:
    """Answer pairs and centre their logits.

    Args:
        net: A hooked net.
        queries: Pairs of a modular task, with `intermediates["result"]`.
        group: The task's group.

    Returns:
        The centred logits of the pairs whose result is a group element.
    """
    return centred_pair_logits(answer_logits(net, queries), queries, group)


def centred_pair_logits(logits: Float64[Tensor, "n d_vocab_out"], queries: Queries, group: AnswerGroup) -> PairLogits:
    """The same from logits that are already there.

    Args:
        logits: A row per query.
        queries: Pairs of a modular task, with `intermediates["result"]`.
        group: The task's group.

    Returns:
        The centred logits of the pairs whose result is a group element.

    Raises:
        ValueError: If the queries have no results, or the logits are not finite or do not fit the group's outputs.
    """
    if "result" not in queries.intermediates:
        raise ValueError(
            f"pair logits need the pairs of a modular task; got queries with intermediates "
            f"{sorted(queries.intermediates)}"
        )
    if logits.shape != (len(queries), len(group.element_of_output)):
        raise ValueError(
            f"logits must be [{len(queries)}, {len(group.element_of_output)}] (pairs, outputs of {group.name}), "
            f"got {list(logits.shape)}"
        )
    n_bad = int((~logits.isfinite()).any(1).sum())
    if n_bad > 0:
        raise ValueError(
            f"logits of {n_bad} of {len(queries)} pairs are infinite or nan: the net's weights have blown up; "
            "diagnose an earlier checkpoint, or train with a lower learning rate"
        )
    result = group.element_of_output[queries.intermediates["result"]]
    kept = result != NOT_IN_GROUP
    of_elements = logits[kept][:, group.output_of_element]
    return PairLogits(
        queries=queries[kept],
        group=group,
        centred=of_elements - of_elements.mean(1, keepdim=True),
        result=result[kept],
        label=group.element_of_output[queries.answer[kept]],
    )
