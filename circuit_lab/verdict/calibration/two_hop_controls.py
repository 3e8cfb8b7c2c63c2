"""Two-hop controls: nets wired by hand, whose verdict follows from what was wired."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from circuit_lab.nets import HookedSharedTransformer
from circuit_lab.nets.controls.two_hop import (
    bridge_at_h,
    bridge_at_r2,
    duplicate_paths,
    fact_table_read_twice,
    hidden_bridge,
    pair_through_r1,
    split_bridge,
    triple_table,
)
from circuit_lab.tasks import TwoHopConfig, TwoHopTask
from circuit_lab.verdict.calibration.controls import Control
from circuit_lab.verdict.calibration.families import Draw, controls_of, drawn
from circuit_lab.verdict.calibration.two_hop_families import (
    EVERY,
    LARGE_TASKS,
    NATURAL_TASKS,
    TASKS,
    TESTED,
    TwoHopFamily,
    Wire,
    training_triples,
    triples_of,
)
from circuit_lab.verdict.calibration.two_hop_mixtures import mixtures
from circuit_lab.verdict.verdicts import Verdict


def two_hop_controls() -> Iterator[Control]:
    """Every wired two-hop control, in a fixed order."""
    for family in (*_circuits(), *_tables(), *_failures(), *_random_labels(), *mixtures()):
        yield from controls_of(family)


def _shuffled(tasks: Sequence[TwoHopConfig]) -> tuple[TwoHopConfig, ...]:
    return tuple(config.model_copy(update={"shuffled_answers": True}) for config in tasks)


def _circuits() -> Iterator[TwoHopFamily]:
    circuit = partial(TwoHopFamily, truth=Verdict.TRUE_CIRCUIT)
    yield circuit(
        "shared_table",
        "One fact table in a shared block is read for the bridge, and one layer later for the answer.",
        wire=lambda task, _: fact_table_read_twice(task.facts, d_vocab=task.d_vocab),
    )
    yield circuit(
        "unshared_tables",
        "A standard transformer holds the facts twice, and each layer reads its own copy.",
        wire=lambda task, _: fact_table_read_twice(task.facts, d_vocab=task.d_vocab, shared=False),
    )
    yield circuit(
        "hidden_bridge",
        "The bridge is handed on in a rotated basis that the unembedding cannot read.",
        wire=lambda task, draw: hidden_bridge(task.facts, d_vocab=task.d_vocab, generator=draw),
    )
    yield circuit(
        "bridge_at_h",
        "A bidirectional net finds the bridge at h's position and hands it on from there.",
        wire=lambda task, _: bridge_at_h(task.facts, d_vocab=task.d_vocab),
    )
    yield circuit(
        "bridge_at_r2",
        "The bridge is found at r2's own position, beside r2's token, and read there one layer later.",
        wire=lambda task, _: bridge_at_r2(task.facts, d_vocab=task.d_vocab),
    )
    yield circuit(
        "split_bridge",
        "Half of the bridge's code is handed on at h's position and half at r1's; both are needed.",
        wire=lambda task, _: split_bridge(task.facts, d_vocab=task.d_vocab),
    )
    yield circuit(
        "duplicate_paths",
        "The bridge is found three times and the second read goes by majority: one path restores what another loses.",
        wire=lambda task, _: duplicate_paths(task.facts, d_vocab=task.d_vocab),
    )


def _tables() -> Iterator[TwoHopFamily]:
    def over(*splits: str, unused_bridge: bool = False) -> Wire:
        return lambda task, _: triple_table(
            task.facts, _listed(task, splits), d_vocab=task.d_vocab, unused_bridge=unused_bridge
        )

    fake = partial(TwoHopFamily, truth=Verdict.FAKE_GROKKING)
    memorising = partial(TwoHopFamily, truth=Verdict.MEMORISING, kind="memorising")
    yield fake("test_table", "One neuron for each training and test triple.", wire=over(*TESTED))
    yield fake("full_table", "One neuron for each triple of every split.", wire=over(*EVERY))
    yield fake(
        "unused_bridge",
        "One neuron for each training and test triple, beside a bridge that the lens reads and no layer does.",
        wire=over(*TESTED, unused_bridge=True),
    )
    yield fake(
        "pair_through_r1",
        "No bridge: the pair (h, r1) is carried whole through r1's position to a table of every triple.",
        wire=lambda task, _: pair_through_r1(task.facts, triples_of(task, EVERY), d_vocab=task.d_vocab),
    )
    yield memorising("training_table", "One neuron for each training triple.", wire=over())
    yield memorising(
        "training_table_unused_bridge",
        "One neuron for each training triple, beside a bridge that no layer reads.",
        wire=over(unused_bridge=True),
    )
    yield memorising(
        "pair_through_r1_training",
        "The pair (h, r1) is carried whole to a table of the training triples.",
        wire=lambda task, _: pair_through_r1(task.facts, training_triples(task), d_vocab=task.d_vocab),
    )
    yield memorising(
        "test_id_table",
        "One neuron for each triple of training and of test_id: no verdict but never a circuit.",
        truth=None,
        wire=over("test_id"),
    )
    yield TwoHopFamily(
        "wrong_table",
        "One neuron for each training triple, which writes the answer of another triple.",
        truth=Verdict.UNTRAINED,
        kind="untrained",
        wire=_wrong_table,
    )


def _listed(task: TwoHopTask, splits: Sequence[str]) -> Int[Tensor, "n 4"]:
    """Each triple of training and of the named splits, once."""
    return torch.cat([training_triples(task), *(triples_of(task, [name]) for name in splits)]).unique(dim=0)


def _wrong_table(task: TwoHopTask, draw: Draw) -> HookedSharedTransformer:
    triples = training_triples(task)
    triples[:, 3] = triples[torch.randperm(len(triples), generator=draw), 3]
    return triple_table(task.facts, triples, d_vocab=task.d_vocab)


def _failures() -> Iterator[TwoHopFamily]:
    def reads(first: float | None, second: float | None) -> Wire:
        return partial(_reads, shares=(first, second))

    failure = partial(TwoHopFamily, tasks=NATURAL_TASKS)
    yield failure(
        "second_read_id",
        "Both reads of the circuit work, but the second table lacks the OOD facts.",
        Verdict.SECOND_HOP_FAILURE,
        reads(None, 0.0),
    )
    yield failure(
        "second_read_part",
        "The second table has one in five of the OOD facts, the first all of them.",
        Verdict.SECOND_HOP_FAILURE,
        reads(None, 0.2),
    )
    yield failure(
        "first_read_id",
        "The first table hands on no bridge for OOD facts, the second has them all.",
        Verdict.FIRST_HOP_FAILURE,
        reads(0.0, None),
    )
    yield failure(
        "first_read_part",
        "The first table hands on a bridge for one in five of the OOD facts, the second has them all.",
        Verdict.FIRST_HOP_FAILURE,
        reads(0.2, None),
    )
    yield failure(
        "both_reads_id",
        "Neither table serves the OOD facts in two-hop queries.",
        Verdict.ID_CIRCUIT,
        reads(0.0, 0.0),
    )
    yield failure(
        "mixed_failures",
        "One half of the OOD facts serves the first read alone, the other half the second alone.",
        Verdict.ID_CIRCUIT,
        _mixed_failures,
        tasks=LARGE_TASKS,
    )


def _reads(task: TwoHopTask, draw: Draw, *, shares: tuple[float | None, float | None]) -> HookedSharedTransformer:
    """The circuit whose two reads have the ID facts and a share of the OOD facts each; None for a full table."""
    tables = [
        None if share is None else task.facts[~task.is_ood | drawn(len(task.facts), share, draw)] for share in shares
    ]
    return fact_table_read_twice(task.facts, d_vocab=task.d_vocab, first_read=tables[0], second_read=tables[1])


def _mixed_failures(task: TwoHopTask, draw: Draw) -> HookedSharedTransformer:
    first = drawn(len(task.facts), 0.5, draw)
    tables = [task.facts[~task.is_ood | half] for half in (first, ~first)]
    return fact_table_read_twice(task.facts, d_vocab=task.d_vocab, first_read=tables[0], second_read=tables[1])


def _random_labels() -> Iterator[TwoHopFamily]:
    def over(*splits: str) -> Wire:
        return lambda task, _: triple_table(task.facts, _listed(task, splits), d_vocab=task.d_vocab)

    shuffled = partial(TwoHopFamily, kind="random_labels", tasks=_shuffled(TASKS))
    yield shuffled(
        "shuffled_training_table",
        "Answers are shuffled; one neuron for each training triple.",
        Verdict.MEMORISING,
        over(),
    )
    yield shuffled(
        "shuffled_full_table",
        "Answers are shuffled; one neuron for each triple of every split.",
        Verdict.FAKE_GROKKING,
        over(*EVERY),
    )
    yield shuffled(
        "shuffled_circuit",
        "Answers are shuffled; the net composes the facts, which is no longer what is asked.",
        Verdict.UNTRAINED,
        lambda task, _: fact_table_read_twice(task.facts, d_vocab=task.d_vocab),
    )
