"""Nets whose mechanism is wired by hand: the diagnosis names each, and no impostor passes for a circuit.

Each impostor passes some of the four readings (held-out accuracy, explained logits, concentration, ablation); the
parametrisation says which reading catches it.
"""

import math

import pytest
import torch

from circuit_lab.nets.controls.modular import cosine_network, lookup_table, mixture
from circuit_lab.tasks import ModularConfig, build_task
from circuit_lab.verdict import Verdict, diagnose

P = 31
FREQUENCIES = [1, 4, 6, 11]


@pytest.fixture(scope="module")
def task():
    return build_task(ModularConfig(p=P, train_share=0.5))


def table_of(queries, **options):
    return lookup_table(P, queries.tokens[:, :2], queries.answer, **options)


def readings(diagnosis):
    """The four deciding readings, by their short names."""
    rows = {(e.name, e.split): e.value for e in diagnosis.evidence if e.decides}
    return {
        "accuracy": rows["accuracy", "test_unmirrored"],
        "explained": rows["trig energy share", "test_unmirrored"],
        "concentration": rows["frequency concentration", "test_unmirrored"],
        "circuit": rows["right answers through the key frequencies", "test_unmirrored"],
    }


@pytest.mark.parametrize("frequencies", [FREQUENCIES, [3, 8], [2, 5, 7]])
def test_a_cosine_network_is_a_true_circuit(task, frequencies):
    diagnosis = diagnose((cosine_network(P, frequencies=frequencies), task))
    assert diagnosis.verdict == Verdict.TRUE_CIRCUIT, diagnosis.reasons
    assert set(diagnosis.measurements.decomposition.key_frequencies) == {str(k) for k in frequencies}


def test_a_single_frequency_has_margins_too_thin_for_its_control(task):
    """The right answer leads by 1 - cos(2 pi / 31) = .02 of the logit: a random plane may break it as well."""
    diagnosis = diagnose((cosine_network(P, frequencies=[3]), task))
    assert diagnosis.verdict in (Verdict.TRUE_CIRCUIT, Verdict.INCONCLUSIVE), diagnosis.reasons


@pytest.mark.parametrize("seed", range(3))
def test_random_heights_make_no_circuit_of_a_table_of_all_pairs(task, seed):
    """Right on every held-out pair, its logits nearly all in the generalising part: concentration catches it."""
    generator = torch.Generator().manual_seed(seed)
    heights = 10 + 10 * torch.rand(len(task.pairs), generator=generator)
    diagnosis = diagnose((table_of(task.pairs, heights=heights), task))
    assert diagnosis.verdict == Verdict.FAKE_GROKKING
    found = readings(diagnosis)
    assert found["accuracy"] == 1 and found["explained"] > 0.9 and found["concentration"] < 0.1


def test_a_flat_table_of_all_pairs_is_fake_grokking(task):
    diagnosis = diagnose((table_of(task.pairs), task))
    assert diagnosis.verdict == Verdict.FAKE_GROKKING
    assert readings(diagnosis)["explained"] > 0.999  # a delta is a sum of all cosines


def test_a_table_that_writes_few_frequencies_is_caught_at_its_inputs(task):
    """One neuron per pair, whose output is turned into two cosines: accuracy, logits, spectrum and answer-side ablation
    are a circuit's, but the inputs are read as single tokens."""
    net = table_of(task.pairs)
    c = torch.arange(P)
    waves = sum(torch.cos(2 * math.pi * k * (c[:, None] - c[None]) / P) for k in (1, 5))
    with torch.no_grad():
        net.unembed.W_U.copy_(net.unembed.W_U @ waves)
    diagnosis = diagnose((net, task))
    assert diagnosis.verdict == Verdict.FAKE_GROKKING
    found = readings(diagnosis)
    assert found["accuracy"] == 1 and found["explained"] > 0.99 and found["concentration"] > 0.8
    assert found["circuit"] == 0
    ablation = diagnosis.measurements.ablations["test"].frame().set_index("site")
    assert ablation.loc["answer", "without_key"] < 0.1 and ablation.loc["answer", "without_random"] > 0.8
    assert ablation.loc["inputs", "without_key"] > 0.9


def test_a_table_of_the_training_pairs_memorises_although_naively_its_logits_look_generalising(task):
    """Trap 1: fitted on all pairs the energy share is the trained share, and that part's argmax is always right."""
    diagnosis = diagnose((table_of(task.training), task))
    assert diagnosis.verdict == Verdict.MEMORISING and diagnosis.confidence == 1
    naive = diagnosis.measurements.decomposition_of_all
    assert naive.splits["all"].energy_share == pytest.approx(len(task.training) / len(task.pairs), abs=1e-3)
    assert int(naive.generalising.argmax()) == 0  # right on every pair, held-out ones included
    assert readings(diagnosis)["explained"] < 0.05


def test_a_memoriser_that_treats_a_and_b_alike_is_not_flattered_by_mirrored_pairs(task):
    queries, test = task.pairs, task.splits["test"]
    known = {(a, b) for a, b in task.training.tokens[:, :2].tolist()}
    rows = torch.tensor([(a, b) in known or (b, a) in known for a, b in queries.tokens[:, :2].tolist()])
    net = table_of(queries[rows])
    diagnosis = diagnose((net, task))
    accuracy = {split.split: split.accuracy for split in diagnosis.outcomes}
    assert accuracy["test"] > 0.4 and len(test) > 2 * len(task.splits["test_unmirrored"]) * 0.9
    assert diagnosis.verdict == Verdict.MEMORISING


@pytest.mark.parametrize("labels", ["random", "random_commutative"])
def test_tables_of_random_labels_memorise(labels):
    task = build_task(ModularConfig(p=P, train_share=0.5, labels=labels))
    assert diagnose((table_of(task.training), task)).verdict == Verdict.MEMORISING


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_circuit_whose_held_out_answers_a_table_decides_is_no_true_circuit(task, share):
    rows = torch.randperm(len(task.pairs), generator=torch.Generator().manual_seed(0))[: int(share * len(task.pairs))]
    listed = task.pairs[rows]
    net = mixture(P, frequencies=FREQUENCIES, pairs=listed.tokens[:, :2], answers=listed.answer, table_height=400.0)
    assert diagnose((net, task)).verdict in (Verdict.FAKE_GROKKING, Verdict.SEMI_GROKKED)


@pytest.mark.parametrize(
    "operation", [pytest.param("a-b", marks=pytest.mark.slow), "a*b", pytest.param("a/b", marks=pytest.mark.slow)]
)
def test_tables_for_other_operations_are_named(operation):
    task = build_task(ModularConfig(operation=operation, p=P, train_share=0.5))
    assert diagnose((table_of(task.pairs), task)).verdict == Verdict.FAKE_GROKKING
    assert diagnose((table_of(task.training), task)).verdict == Verdict.MEMORISING
