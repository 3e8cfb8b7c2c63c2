"""What can be proved about a split: training items among the test queries, uses of OOD facts, chance, a hash.

Everything is computed from the finished queries, not from how they were chosen.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuit_lab.tasks.queries import NO_FACT, Queries, SplitCertificate


def mark_in_training(queries: Queries, training: Queries) -> Queries:
    """The same queries with `in_training` set by comparing their tokens with those of the training items."""
    return replace(queries, in_training=is_training_item(queries, training))


def is_training_item(queries: Queries, training: Queries) -> Bool[Tensor, " n"]:
    """Whether each query's tokens are those of some training item."""
    return _are_rows_of(queries.tokens, training.tokens)


def _are_rows_of(queries: Int[Tensor, "n n_columns"], table: Int[Tensor, "m n_columns"]) -> Bool[Tensor, " n"]:
    """Whether each row occurs in the table."""
    base = 1 + max(int(part.numpy().max(initial=0)) for part in (queries, table))
    wanted, keys = _keys(queries, base), np.sort(_keys(table, base))
    if len(keys) == 0:
        return torch.zeros(len(wanted), dtype=torch.bool)
    # Five times faster than np.isin at a million training items.
    return torch.from_numpy(keys[np.searchsorted(keys, wanted).clip(max=len(keys) - 1)] == wanted)


def _keys(tokens: Int[Tensor, "n n_columns"], base: int) -> Int[np.ndarray, " n"]:
    """One integer per row of tokens, equal exactly where the rows are."""
    assert base ** tokens.shape[1] < 2**63, "a query's key must fit 64 bits"
    place_values = base ** np.arange(tokens.shape[1], dtype=np.int64)
    return tokens.numpy() @ place_values


def chance_accuracy(queries: Queries, training: Queries, *, n_answers: int) -> float:
    """Accuracy of the best answer that ignores the question.

    The larger of guessing, 1 / n_answers, and always giving the most frequent answer among the training
    items of the same number of hops (of equally frequent ones, the one that is right most often here).

    Args:
        queries: A split, all of one number of hops.
        training: All training items.
        n_answers: Tokens that could be the answer: the entities of a two-hop task.

    Returns:
        A share in (0, 1].
    """
    if len(queries) == 0:
        return 1 / n_answers
    same_hops = training.answer[n_hops(training) == n_hops(queries)[0]].numpy()
    n_tokens = 1 + max(same_hops.max(initial=0), int(queries.answer.max()))
    frequency = np.bincount(same_hops, minlength=n_tokens)
    right = np.bincount(queries.answer.numpy(), minlength=n_tokens)
    most_frequent = (frequency == frequency.max()) & (frequency > 0)
    return max(1 / n_answers, float(right[most_frequent].max(initial=0)) / len(queries))


def n_hops(queries: Queries) -> Int[Tensor, " n"]:
    """Number of facts each query chains."""
    return (queries.facts != NO_FACT).sum(dim=1)


def certify(
    *,
    facts: Int[Tensor, "n_facts 3"],
    is_ood: Bool[Tensor, " n_facts"],
    splits: Mapping[str, Queries],
    training: Queries,
    held_out: Sequence[str],
) -> SplitCertificate:
    """Count what a certificate states.

    Args:
        facts: The fact table.
        is_ood: Which facts are OOD.
        splits: The splits by name.
        training: All training items.
        held_out: Names of the splits that must not be in training.

    Returns:
        The certificate; it is clean when no query of a held-out split is a training item.
    """
    return _certificate(
        {"facts": facts, "is_ood": is_ood},
        splits,
        training,
        held_out,
        ood_fact_uses=_ood_fact_uses(training, is_ood),
        n_mirrored={},
    )


def certify_pairs(
    *, splits: Mapping[str, Queries], training: Queries, held_out: Sequence[str], n_mirrored: Mapping[str, int]
) -> SplitCertificate:
    """Count what a certificate of a task on pairs (a, b) states.

    Args:
        splits: The splits by name.
        training: All training items.
        held_out: Names of the splits that must not be in training.
        n_mirrored: What `is_mirrored` counts per split.

    Returns:
        The certificate; it is clean when no query of a held-out split is a training item.
    """
    return _certificate({}, splits, training, held_out, ood_fact_uses={}, n_mirrored=n_mirrored)


def certify_unknown_split(*, splits: Mapping[str, Queries]) -> SplitCertificate:
    """State that nobody knows which queries were trained on.

    Args:
        splits: The queries by name.

    Returns:
        A certificate that counts the queries and nothing of training; it proves nothing, so it is not clean.
    """
    nothing = next(iter(splits.values()))[:0]
    return _certificate({}, splits, nothing, (), ood_fact_uses={}, n_mirrored={}, is_known=False)


def is_mirrored(queries: Queries, training: Queries) -> Bool[Tensor, " n"]:
    """Whether (b, a) with the same answer is a training item although (a, b) is none.

    A net whose attention treats a and b alike answers such a query right from memory.
    """
    swapped = queries.tokens[:, [1, 0, *range(2, queries.tokens.shape[1])]]
    mirrored = _are_rows_of(_with_answer(swapped, queries), _with_answer(training.tokens, training))
    return mirrored & ~is_training_item(queries, training)


def _with_answer(tokens: Int[Tensor, "n n_ctx"], queries: Queries) -> Int[Tensor, "n n_columns"]:
    return torch.cat([tokens, queries.answer[:, None]], dim=1)


def _certificate(
    structure: Mapping[str, Tensor],
    splits: Mapping[str, Queries],
    training: Queries,
    held_out: Sequence[str],
    *,
    ood_fact_uses: Mapping[str, Mapping[str, float]],
    n_mirrored: Mapping[str, int],
    is_known: bool = True,
) -> SplitCertificate:
    n_queries = {name: len(queries) for name, queries in splits.items()}
    n_in_training = {
        name: int(is_training_item(queries, training).sum()) for name, queries in splits.items() if is_known
    }
    return SplitCertificate(
        n_queries=n_queries,
        n_in_training=n_in_training,
        ood_fact_uses=ood_fact_uses,
        n_mirrored=n_mirrored,
        leaks=tuple(
            f"{n_in_training[name]} of {n_queries[name]} {name} queries are training items "
            f"({100 * n_in_training[name] / n_queries[name]:.0f} %): the test set leaked"
            for name in held_out
            if n_in_training[name] > 0
        ),
        task_hash=_task_hash(structure, splits, training),
        is_known=is_known,
    )


def _ood_fact_uses(training: Queries, is_ood: Bool[Tensor, " n_facts"]) -> dict[str, dict[str, float]]:
    """Minimum, median and maximum, over OOD facts, of the two-hop training items that use one, per hop."""
    composed = training.facts[n_hops(training) == 2]
    uses = {}
    for hop in range(training.facts.shape[1]):
        counts = torch.bincount(composed[:, hop], minlength=len(is_ood))[is_ood].numpy()
        if len(counts) == 0:
            counts = np.zeros(1, dtype=np.int64)
        uses[f"hop{hop + 1}"] = {
            "min": float(counts.min()),
            "median": float(np.median(counts)),
            "max": float(counts.max()),
        }
    return uses


def _task_hash(structure: Mapping[str, Tensor], splits: Mapping[str, Queries], training: Queries) -> str:
    """SHA-256 over names, shapes and values, the same on every machine."""
    digest = hashlib.sha256()

    def add(name: str, values: Tensor) -> None:
        digest.update(f"{name}{tuple(values.shape)}".encode())
        digest.update(np.ascontiguousarray(values.numpy().astype("<i8")).data)

    for name, values in structure.items():
        add(name, values)
    for split, queries in [*splits.items(), ("training", training)]:
        for name in ("tokens", "answer", "answer_position", "facts", "in_training"):
            add(f"{split}.{name}", getattr(queries, name))
        for name, values in sorted(queries.intermediates.items()):
            add(f"{split}.intermediates.{name}", values)
    return digest.hexdigest()
