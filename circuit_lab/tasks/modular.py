"""Modular arithmetic and permutations: every pair (a, b), a random training subset, held-out pairs, labels.

Sources: Power et al. 2022 (arXiv 2201.02177) for the operations; Varma et al. 2023 (arXiv 2309.02390) for training
subsets of D pairs and for random labels, on which a net can only memorise.

| split | pairs |
|---|---|
| train | the training items |
| test | all others |
| test_unmirrored | those of `test` for which (b, a) with the same answer is no training item either |

The last is the stricter test: a net whose attention treats a and b alike answers mirrored pairs right from memory.

Where nobody knows which pairs were trained on there is one split, `all`, with every pair, and there are no training
items: nothing can be called held out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from circuit_lab.tasks.certificate import (
    certify_pairs,
    certify_unknown_split,
    chance_accuracy,
    is_mirrored,
    mark_in_training,
)
from circuit_lab.tasks.groups import AnswerGroup, additive_group, multiplicative_group, symmetric_group
from circuit_lab.tasks.modular_config import ModularConfig
from circuit_lab.tasks.modular_splits import drawn_rows
from circuit_lab.tasks.queries import Queries, SplitCertificate
from circuit_lab.tasks.stable_random import Purpose, raw_draws

MODULAR_SPLITS = ("train", "test", "test_unmirrored")
ALL_PAIRS = "all"
"""The only split of a task whose training pairs nobody knows."""


@dataclass(frozen=True, eq=False, repr=False)
class ModularTask:
    """A modular-arithmetic (or S5) task, ready to train on and to diagnose with.

    Attributes:
        config: What the task was built from.
        group: The group of the right answers, with its characters.
        pairs: Every pair in order of (a, b). `intermediates["result"]` is the operation's own answer, from which
            `answer` differs under random labels.
        splits: The splits of `MODULAR_SPLITS`; of an unknown split `ALL_PAIRS` alone.
        training: The training items, as in `splits["train"]`; none where the split is unknown.
        chance: Per split, the accuracy of the best answer that ignores the question, in (0, 1].
        certificate: Counts that prove that the held-out pairs are held out, or that the split is unknown.
    """

    config: ModularConfig
    group: AnswerGroup
    pairs: Queries
    splits: Mapping[str, Queries]
    training: Queries
    chance: Mapping[str, float]
    certificate: SplitCertificate

    @classmethod
    def from_config(cls, config: ModularConfig) -> "ModularTask":
        """Build the task that `config` describes; equal configs give equal tasks on every machine.

        >>> ModularTask.from_config(ModularConfig(p=59, train_share=0.4))
        ModularTask(a+b mod 59, 1393 of 3481 pairs in training, 1255 unmirrored test pairs, true labels)
        """
        group = _answer_group(config)
        pairs = _all_pairs(config, group)
        rows = _training_rows(config, pairs)
        if rows is None:
            return cls._of_unknown_split(config, group, pairs)
        is_trained = torch.zeros(len(pairs), dtype=torch.bool)
        is_trained[rows] = True
        training = replace(pairs[is_trained], in_training=torch.ones(len(rows), dtype=torch.bool))
        test = pairs[~is_trained]
        splits = {"train": training, "test": test, "test_unmirrored": test[~is_mirrored(test, training)]}
        return cls(
            config=config,
            group=group,
            pairs=mark_in_training(pairs, training),
            splits=MappingProxyType(splits),
            training=training,
            chance=MappingProxyType(
                {name: chance_accuracy(split, training, n_answers=config.n_elements) for name, split in splits.items()}
            ),
            certificate=certify_pairs(
                splits=splits,
                training=training,
                held_out=("test", "test_unmirrored"),
                n_mirrored={name: int(is_mirrored(split, training).sum()) for name, split in splits.items()},
            ),
        )

    @classmethod
    def _of_unknown_split(cls, config: ModularConfig, group: AnswerGroup, pairs: Queries) -> "ModularTask":
        splits = {ALL_PAIRS: pairs}
        # Any pair may be a training pair, so the most frequent answer is counted over all of them.
        chance = chance_accuracy(pairs, pairs, n_answers=config.n_elements)
        return cls(
            config=config,
            group=group,
            pairs=pairs,
            splits=MappingProxyType(splits),
            training=pairs[:0],
            chance=MappingProxyType({ALL_PAIRS: chance}),
            certificate=certify_unknown_split(splits=splits),
        )

    @property
    def d_vocab(self) -> int:
        """Number of input tokens: the elements and "="."""
        return self.config.n_elements + 1

    @property
    def d_vocab_out(self) -> int:
        """Number of output tokens: the elements."""
        return self.config.n_elements

    @property
    def n_ctx(self) -> int:
        """Positions of a query: a, b, =."""
        return 3

    def __repr__(self) -> str:
        modulus = "" if self.config.is_permutation else f" mod {self.config.p}"
        if not self.certificate.is_known:
            return (
                f"ModularTask({self.config.operation}{modulus}, {len(self.pairs)} pairs, which of them are in training "
                f"is not known, {self.config.labels} labels)"
            )
        return (
            f"ModularTask({self.config.operation}{modulus}, {len(self.training)} of {len(self.pairs)} pairs in "
            f"training, {len(self.splits['test_unmirrored'])} unmirrored test pairs, {self.config.labels} labels)"
        )


def _training_rows(config: ModularConfig, pairs: Queries) -> Int[Tensor, " n_train"] | None:
    """Places of the training pairs in the list of all; None where nobody knows them."""
    if config.split == "unknown":
        return None
    if config.train_pairs is not None:
        index = pairs.tokens[:, 0] * config.n_elements + pairs.tokens[:, 1]
        return torch.searchsorted(index, torch.tensor(config.train_pairs))
    n_train = config.n_training_pairs
    assert n_train is not None
    return drawn_rows(config.split, len(pairs), n_train, seed=config.seed)


def _answer_group(config: ModularConfig) -> AnswerGroup:
    if config.is_permutation:
        return symmetric_group()
    return (multiplicative_group if config.operation in ("a*b", "a/b") else additive_group)(config.n_elements)


def _all_pairs(config: ModularConfig, group: AnswerGroup) -> Queries:
    n = config.n_elements
    a, b = torch.cartesian_prod(torch.arange(n), torch.arange(n)).unbind(1)
    if config.operation == "a/b":
        a, b = a[b != 0], b[b != 0]
    result = _results(config, group, a, b)
    return Queries(
        tokens=torch.stack([a, b, torch.full_like(a, n)], dim=1),
        answer=_labels(config, a, b, result),
        answer_position=torch.full_like(a, 2),
        facts=torch.empty(len(a), 0, dtype=torch.long),
        in_training=torch.zeros(len(a), dtype=torch.bool),
        position_names=("a", "b", "="),
        intermediates=MappingProxyType({"result": result}),
    )


def _results(
    config: ModularConfig, group: AnswerGroup, a: Int[Tensor, " n"], b: Int[Tensor, " n"]
) -> Int[Tensor, " n"]:
    """What the operation makes of each pair."""
    if config.is_permutation:
        last = {"S5: ab": b, "S5: aba^-1": group.product[b, group.inverse[a]], "S5: aba": group.product[b, a]}
        return group.product[a, last[config.operation]]
    p = config.n_elements
    formulas = {
        "a+b": lambda: a + b,
        "a-b": lambda: a - b,
        "a*b": lambda: a * b,
        "a/b": lambda: a * torch.tensor([pow(int(x), -1, p) for x in b]),
        "a^2+b^2": lambda: a * a + b * b,
        "a^2+ab+b^2": lambda: a * a + a * b + b * b,
        "a^2+ab+b^2+a": lambda: a * a + a * b + b * b + a,
    }
    return formulas[config.operation]() % p


def _labels(
    config: ModularConfig, a: Int[Tensor, " n"], b: Int[Tensor, " n"], result: Int[Tensor, " n"]
) -> Int[Tensor, " n"]:
    """The answers to be learnt: the results, or a random number for each pair (or unordered pair)."""
    if config.labels == "true":
        return result
    n = config.n_elements
    draws = raw_draws(n * n, seed=config.label_seed, purpose=Purpose.RANDOM_LABELS) % np.uint64(n)
    table = torch.from_numpy(draws.astype(np.int64)).view(n, n)
    if config.labels == "random_commutative":
        a, b = torch.minimum(a, b), torch.maximum(a, b)
    return table[a, b]
