"""Two-hop composition: facts, splits, training items, chance and certificate, built from a seed.

Source: [He] arXiv 2601.09049, the data of [Wang] arXiv 2405.15071. Facts are drawn as there: each entity has
`out_degree` distinct relations, each to one uniformly random tail. A query is ID or OOD on each hop as that hop's fact
is.

| split | hop 1 | hop 2 | in training? |
|---|---|---|---|
| atomic_id, atomic_ood | a single fact | | always |
| train_inferred | ID | ID | yes |
| test_id | ID | ID | no, held out |
| hop1_ood | OOD | ID | what augmentation adds |
| hop2_ood | ID | OOD | what augmentation adds |
| test_ood | OOD | OOD | never, unless `leaked_share` > 0 |

With `shuffled_answers` every two-hop query, of whatever split, has the answer of another: the best accuracy on a split
that is not in training is chance, and with `leaked_share` = 1 `test_ood` can be answered rightly, by rote alone. Atomic
facts keep their tails, `facts` and `intermediates["bridge"]` are still those of the composition that is asked, and the
certificate, which counts queries and not answers, is that of the unshuffled task but for its hash.

Deviations from the released code, which rounds to nearest: held-out, OOD, augmented and leaked shares are rounded
up; and `phi` larger than the available queries allow is an error, where that code silently keeps all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import floor
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuit_lab.errors import InputError
from circuit_lab.tasks.augmentation import augmentation_rows
from circuit_lab.tasks.certificate import certify, chance_accuracy, mark_in_training
from circuit_lab.tasks.fact_graph import FactGraph
from circuit_lab.tasks.natural_language_config import NaturalLanguageConfig
from circuit_lab.tasks.queries import Queries, SplitCertificate, concatenate
from circuit_lab.tasks.stable_random import Purpose, permutation, raw_draws, rounded_share
from circuit_lab.tasks.two_hop_config import TwoHopConfig, TwoHopFolderConfig

PAD = "<pad>"
ENTITY_PREFIX = "<e_"
RELATION_PREFIX = "<r_"
TWO_HOP_SPLITS = ("atomic_id", "atomic_ood", "train_inferred", "test_id", "hop1_ood", "hop2_ood", "test_ood")
"""The splits of a two-hop task, in the order in which they are stored."""
HELD_OUT_SPLITS = ("test_id", "test_ood")
"""The splits that no training item may come from."""


@dataclass(frozen=True, eq=False, repr=False)
class TwoHopTask:
    """A two-hop task, ready to train on and to diagnose with.

    Attributes:
        config: What the task was built or read from.
        vocab: Token of each token id.
        facts: Token ids (h, r, t), sorted by (h, r).
        is_ood: True for the OOD facts.
        splits: The seven splits of `TWO_HOP_SPLITS`, in that order.
        training: Every training item: atomic facts, `train_inferred`, augmentation, leaked queries.
        chance: Per split, the accuracy of the best answer that ignores the question, in (0, 1].
        certificate: Counts that prove, or disprove, that the held-out splits are held out.
    """

    config: TwoHopConfig | TwoHopFolderConfig | NaturalLanguageConfig
    vocab: tuple[str, ...]
    facts: Int[Tensor, "n_facts 3"]
    is_ood: Bool[Tensor, " n_facts"]
    splits: Mapping[str, Queries]
    training: Queries
    chance: Mapping[str, float]
    certificate: SplitCertificate

    @classmethod
    def from_config(cls, config: TwoHopConfig) -> "TwoHopTask":
        """Build the task that `config` describes; equal configs give equal tasks on every machine.

        >>> task = TwoHopTask.from_config(TwoHopConfig(n_entities=30, n_relations=10, out_degree=10, ood_share=0.1))
        >>> task
        TwoHopTask(30 entities, 300 facts of which 30 OOD, 2695 training items, 34 test_ood, clean)
        """
        graph = _draw_graph(config)
        return assemble_task(config, _vocab(config), graph, select_queries(config, graph))

    @property
    def d_vocab(self) -> int:
        """Number of tokens."""
        return len(self.vocab)

    @property
    def d_vocab_out(self) -> int:
        """Number of output tokens: all of them."""
        return len(self.vocab)

    @property
    def n_ctx(self) -> int:
        """Positions of a query."""
        return self.training.tokens.shape[1]

    @property
    def pad_token(self) -> int:
        """Token id that fills an atomic query's third position."""
        return self.vocab.index(PAD)

    @property
    def n_entities(self) -> int:
        """Number of entities in the vocabulary."""
        return _count_entities(self.vocab)

    def __repr__(self) -> str:
        is_shuffled = isinstance(self.config, TwoHopConfig) and self.config.shuffled_answers
        return (
            f"TwoHopTask({self.n_entities} entities, {len(self.facts)} facts of which {int(self.is_ood.sum())} OOD, "
            f"{len(self.training)} training items, {len(self.splits['test_ood'])} test_ood, "
            f"{'clean' if self.certificate.is_clean else 'LEAKED'}{', shuffled answers' if is_shuffled else ''})"
        )


@dataclass(frozen=True, eq=False)
class Selection:
    """Which facts and compositions go where, as ascending rows of a `FactGraph`.

    Attributes:
        training_facts: Facts that are atomic training items.
        training_pairs: Compositions that are training items.
        test_id: Held-out ID-ID compositions.
        test_ood: OOD-OOD compositions that are tested.
    """

    training_facts: Int[np.ndarray, " n_training_facts"]
    training_pairs: Int[np.ndarray, " n_training_pairs"]
    test_id: Int[np.ndarray, " n_test_id"]
    test_ood: Int[np.ndarray, " n_test_ood"]


def assemble_task(
    config: TwoHopConfig | TwoHopFolderConfig, vocab: tuple[str, ...], graph: FactGraph, selection: Selection
) -> TwoHopTask:
    """Turn rows into queries, mark the training items, and certify the result."""
    kinds = {
        "id": graph.pair_rows(hop1_ood=False, hop2_ood=False),
        "hop1_ood": graph.pair_rows(hop1_ood=True, hop2_ood=False),
        "hop2_ood": graph.pair_rows(hop1_ood=False, hop2_ood=True),
        "both_ood": graph.pair_rows(hop1_ood=True, hop2_ood=True),
    }
    training_pairs = [np.intersect1d(rows, selection.training_pairs, assume_unique=True) for rows in kinds.values()]
    training = _training_items(graph, selection.training_facts, training_pairs)
    splits = {
        "atomic_id": graph.atomic_queries(np.flatnonzero(~graph.is_ood)),
        "atomic_ood": graph.atomic_queries(np.flatnonzero(graph.is_ood)),
        "train_inferred": graph.two_hop_queries(training_pairs[0]),
        "test_id": graph.two_hop_queries(selection.test_id),
        "hop1_ood": graph.two_hop_queries(kinds["hop1_ood"]),
        "hop2_ood": graph.two_hop_queries(kinds["hop2_ood"]),
        "test_ood": graph.two_hop_queries(selection.test_ood),
    }
    assert tuple(splits) == TWO_HOP_SPLITS
    splits = {name: mark_in_training(queries, training) for name, queries in splits.items()}
    facts, is_ood = torch.from_numpy(graph.facts), torch.from_numpy(graph.is_ood)
    n_entities = _count_entities(vocab)
    return TwoHopTask(
        config=config,
        vocab=vocab,
        facts=facts,
        is_ood=is_ood,
        splits=MappingProxyType(splits),
        training=training,
        chance=MappingProxyType(
            {name: chance_accuracy(split, training, n_answers=n_entities) for name, split in splits.items()}
        ),
        certificate=certify(facts=facts, is_ood=is_ood, splits=splits, training=training, held_out=HELD_OUT_SPLITS),
    )


def _training_items(
    graph: FactGraph, fact_rows: Int[np.ndarray, " n_facts"], pair_rows: list[Int[np.ndarray, " _"]]
) -> Queries:
    """Atomic items, ID facts first, then the compositions, all marked as training items."""
    fact_rows = fact_rows[np.argsort(graph.is_ood[fact_rows], kind="stable")]
    training = concatenate([graph.atomic_queries(fact_rows), *(graph.two_hop_queries(rows) for rows in pair_rows)])
    return replace(training, in_training=torch.ones(len(training), dtype=torch.bool))


def _count_entities(vocab: tuple[str, ...]) -> int:
    return sum(token.startswith(ENTITY_PREFIX) for token in vocab)


def _vocab(config: TwoHopConfig) -> tuple[str, ...]:
    entities = [f"{ENTITY_PREFIX}{entity}>" for entity in range(config.n_entities)]
    relations = [f"{RELATION_PREFIX}{relation}>" for relation in range(config.n_relations)]
    return (*entities, *relations, PAD)


def _draw_facts(config: TwoHopConfig) -> Int[np.ndarray, "n_facts 3"]:
    """Facts (h, r, t) sorted by (h, r); relation ids follow the entity ids."""
    n_entities, n_relations, out_degree = config.n_entities, config.n_relations, config.out_degree
    draws = raw_draws(n_entities * n_relations, seed=config.seed, purpose=Purpose.RELATIONS)
    shuffled_relations = np.argsort(draws.reshape(n_entities, n_relations), axis=1, kind="stable")
    relations = np.sort(shuffled_relations[:, :out_degree], axis=1).reshape(-1)
    heads = np.repeat(np.arange(n_entities), out_degree)
    tails = raw_draws(len(heads), seed=config.seed, purpose=Purpose.TAILS) % n_entities
    return np.stack([heads, n_entities + relations, tails.astype(np.int64)], axis=1)


def _draw_graph(config: TwoHopConfig) -> FactGraph:
    facts = _draw_facts(config)
    is_ood = np.zeros(len(facts), dtype=bool)
    order = permutation(len(facts), seed=config.seed, purpose=Purpose.OOD_FACTS)
    is_ood[order[: rounded_share(config.ood_share, len(facts))]] = True
    graph = FactGraph.from_facts(facts, is_ood, pad_token=config.n_entities + config.n_relations)
    if not config.shuffled_answers:
        return graph
    shuffle = permutation(len(graph.pairs), seed=config.seed, purpose=Purpose.SHUFFLED_ANSWERS)
    return replace(graph, answers=graph.answers[shuffle])


def select_queries(config: TwoHopConfig, graph: FactGraph) -> Selection:
    """Hold out `test_id`, then choose the training compositions."""
    id_pairs = graph.pair_rows(hop1_ood=False, hop2_ood=False)
    test_ood = graph.pair_rows(hop1_ood=True, hop2_ood=True)
    _refuse_empty_tests(config, graph, n_id_pairs=len(id_pairs), n_test_ood=len(test_ood))
    order = permutation(len(id_pairs), seed=config.seed, purpose=Purpose.TEST_ID)
    n_test_id = rounded_share(config.test_id_share, len(id_pairs))
    test_id, rest = np.sort(id_pairs[order[:n_test_id]]), np.sort(id_pairs[order[n_test_id:]])
    additions = [
        augmentation_rows(graph, augmentation, hop=hop, seed=config.seed)
        for hop, augmentation in enumerate(config.hop_augmentations)
    ]
    leaked_order = permutation(len(test_ood), seed=config.seed, purpose=Purpose.LEAKED)
    leaked = test_ood[leaked_order[: rounded_share(config.leaked_share, len(test_ood))]]
    train_inferred = _downsample(config, rest, n_id_facts=int((~graph.is_ood).sum()))
    return Selection(
        training_facts=np.arange(len(graph.facts)),
        training_pairs=np.sort(np.concatenate([train_inferred, *additions, leaked])),
        test_id=test_id,
        test_ood=test_ood,
    )


def _refuse_empty_tests(config: TwoHopConfig, graph: FactGraph, *, n_id_pairs: int, n_test_ood: int) -> None:
    counts = (
        f"(n_entities = {config.n_entities}, out_degree = {config.out_degree}, ood_share = {config.ood_share:g}, "
        f"seed = {config.seed}: {int(graph.is_ood.sum())} OOD facts of {len(graph.facts)})"
    )
    if n_test_ood == 0:
        raise InputError(
            f"test_ood is empty: no OOD fact continues another {counts}; raise ood_share, out_degree or n_entities"
        )
    if n_id_pairs < 2:
        raise InputError(
            f"test_id or train_inferred is empty: only {n_id_pairs} ID-ID queries exist {counts}; "
            "lower ood_share, or raise out_degree or n_entities"
        )


def _downsample(
    config: TwoHopConfig, available: Int[np.ndarray, " n"], *, n_id_facts: int
) -> Int[np.ndarray, " n_kept"]:
    """The ID-ID training queries: all that are available, or `phi` for each ID fact."""
    if config.phi is None:
        return available
    n_kept = rounded_share(config.phi, n_id_facts)
    if n_kept > len(available):
        largest_phi = floor(1000 * len(available) / n_id_facts) / 1000
        raise InputError(
            f"phi = {config.phi:g} asks for {n_kept} ID-ID training queries ({config.phi:g} x {n_id_facts} ID facts), "
            f"but only {len(available)} exist; set phi to at most {largest_phi:g}, or leave it out "
            "to keep all"
        )
    order = permutation(len(available), seed=config.seed, purpose=Purpose.TRAIN_INFERRED)
    return np.sort(available[order[:n_kept]])
