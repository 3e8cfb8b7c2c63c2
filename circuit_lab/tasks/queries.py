"""What every task hands to the nets and the measures: queries, chance levels and a split certificate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

NO_FACT = -1
"""Stands in `Queries.facts` where a query has fewer hops than columns (an atomic query's second hop)."""


@dataclass(frozen=True, eq=False)
class Queries:
    """A batch of questions of one kind, with the values a right computation passes through.

    Attributes:
        tokens: Token ids, right-padded with the task's pad token.
        answer: Token id of the right answer.
        answer_position: Position whose logits give the answer.
        facts: Row of each hop's fact in the task's fact table; `NO_FACT` where there is no such hop.
        in_training: True where this very query is a training item; False where that is not so, or not known.
        intermediates: Token id of each intermediate value, `{"bridge": [n]}` for two-hop queries.
        position_names: What stands at each position, such as `("h", "r1", "r2")`.
    """

    tokens: Int[Tensor, "n n_ctx"]
    answer: Int[Tensor, " n"]
    answer_position: Int[Tensor, " n"]
    facts: Int[Tensor, "n n_hops"]
    in_training: Bool[Tensor, " n"]
    position_names: tuple[str, ...]
    intermediates: Mapping[str, Int[Tensor, " n"]] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        """Refuse fields whose lengths disagree."""
        n, n_ctx = self.tokens.shape
        lengths = {name: len(getattr(self, name)) for name in ("answer", "answer_position", "facts", "in_training")}
        lengths |= {f"intermediates[{name!r}]": len(value) for name, value in self.intermediates.items()}
        for name, length in lengths.items():
            if length != n:
                raise ValueError(f"Queries.{name} has {length} rows, but tokens has {n}; all must agree")
        if len(self.position_names) != n_ctx:
            raise ValueError(f"Queries.position_names names {len(self.position_names)} positions, tokens has {n_ctx}")

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: Tensor | slice) -> "Queries":
        """The queries at `rows` (a slice, an index tensor or a boolean mask), in that order."""
        return replace(
            self,
            tokens=self.tokens[rows],
            answer=self.answer[rows],
            answer_position=self.answer_position[rows],
            facts=self.facts[rows],
            in_training=self.in_training[rows],
            intermediates=MappingProxyType({name: value[rows] for name, value in self.intermediates.items()}),
        )

    def column(self, position: str) -> int:
        """Where a position stands.

        Args:
            position: Its name, one of `position_names`.

        Returns:
            The column of `tokens`.

        Raises:
            ValueError: If there is none of this name.
        """
        if position not in self.position_names:
            raise ValueError(f"position must be one of {', '.join(self.position_names)}, got {position!r}")
        return self.position_names.index(position)

    def tokens_at(self, position: str) -> Int[Tensor, " n"]:
        """Each query's token at the position of this name."""
        return self.tokens[:, self.column(position)]

    def sample(self, n: int, *, generator: torch.Generator) -> "Queries":
        """At most `n` of the queries, drawn without replacement, in their original order."""
        if n >= len(self):
            return self
        return self[torch.randperm(len(self), generator=generator)[:n].sort().values]

    def frame(self) -> pd.DataFrame:
        """One row per query: a column per position, the answer, the intermediates and `in_training`."""
        columns = {name: self.tokens[:, position].numpy() for position, name in enumerate(self.position_names)}
        columns |= {name: value.numpy() for name, value in self.intermediates.items()}
        columns |= {"answer": self.answer.numpy(), "in_training": self.in_training.numpy()}
        return pd.DataFrame(columns)


def queries_from_tokens(
    tokens: Int[Tensor, "n n_ctx"],
    answer: Int[Tensor, " n"],
    *,
    answer_position: Int[Tensor, " n"] | None = None,
    position_names: Sequence[str] | None = None,
    intermediates: Mapping[str, Int[Tensor, " n"]] | None = None,
) -> Queries:
    """Queries of a model whose task is not one of ours, such as prompts for GPT-2.

    Nothing is known of their facts, and none is marked as a training item.

    Args:
        tokens: Token ids, right-padded.
        answer: Token id of the right answer.
        answer_position: Position whose logits give the answer; the last by default.
        position_names: What stands at each position; "0", "1", ... by default.
        intermediates: Token id of each intermediate value, by name.

    Returns:
        The queries.

    >>> prompts = queries_from_tokens(torch.tensor([[4, 1], [4, 2]]), torch.tensor([7, 8]))
    >>> prompts.position_names, prompts.answer_position.tolist()
    (('0', '1'), [1, 1])
    """
    n, n_ctx = tokens.shape
    return Queries(
        tokens=tokens,
        answer=answer,
        answer_position=torch.full((n,), n_ctx - 1) if answer_position is None else answer_position,
        facts=torch.full((n, 1), NO_FACT),
        in_training=torch.zeros(n, dtype=torch.bool),
        position_names=tuple(map(str, range(n_ctx))) if position_names is None else tuple(position_names),
        intermediates=MappingProxyType(dict(intermediates or {})),
    )


def concatenate(parts: list[Queries]) -> Queries:
    """The queries of all parts, in order; intermediates that some part lacks are dropped."""
    shared = set.intersection(*(set(part.intermediates) for part in parts))
    return Queries(
        tokens=torch.cat([part.tokens for part in parts]),
        answer=torch.cat([part.answer for part in parts]),
        answer_position=torch.cat([part.answer_position for part in parts]),
        facts=torch.cat([part.facts for part in parts]),
        in_training=torch.cat([part.in_training for part in parts]),
        position_names=parts[0].position_names,
        intermediates=MappingProxyType(
            {name: torch.cat([part.intermediates[name] for part in parts]) for name in sorted(shared)}
        ),
    )


@dataclass(frozen=True)
class SplitCertificate:
    """Counts that prove, or disprove, that the test queries are compositions the training set lacks.

    Attributes:
        n_queries: Queries per split.
        n_in_training: Queries per split that are themselves training items; empty where the split is unknown.
        ood_fact_uses: Counts of training items by how often each OOD fact is used, per hop:
            `{"hop1": {"min": 0, "median": 0.0, "max": 0}, "hop2": ...}`; empty for tasks without facts.
        n_mirrored: Queries (a, b) per split that are no training item although (b, a) with the same answer is one;
            empty for tasks without such a symmetry, and where the split is unknown.
        leaks: One plain sentence per split that should be held out and is not; empty when clean.
        task_hash: SHA-256 of facts, splits and training items; equal hashes mean equal data.
        is_known: Whether it is known which queries were trained on; if not, the certificate proves nothing.
    """

    n_queries: Mapping[str, int]
    n_in_training: Mapping[str, int]
    ood_fact_uses: Mapping[str, Mapping[str, float]]
    n_mirrored: Mapping[str, int]
    leaks: tuple[str, ...]
    task_hash: str
    is_known: bool = True

    @property
    def is_clean(self) -> bool:
        """True when it is proved that no held-out query is a training item."""
        return self.is_known and not self.leaks
