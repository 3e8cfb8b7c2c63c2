"""Several checkpoints side by side: the differences that `compare` states, for every choice of the reference."""

import pytest
import torch

from circuit_lab.nets.controls.modular import cosine_network, lookup_table
from circuit_lab.nets.controls.two_hop import fact_table_read_twice, triple_table
from circuit_lab.tasks import ModularConfig, TwoHopConfig, build_task
from circuit_lab.verdict import Diagnosis, diagnose
from circuit_lab.verdict.comparison.compare import compare_diagnosed
from circuit_lab.verdict.comparison.paired_queries import Side
from circuit_lab.verdict.comparison.side_by_side import FALSE_ALARMS, side_by_side


@pytest.fixture(scope="module")
def circuit(small_task):
    return diagnose((fact_table_read_twice(small_task.facts, d_vocab=small_task.d_vocab), small_task))


@pytest.fixture(scope="module")
def table(small_task):
    trained = small_task.splits["train_inferred"]
    triples = torch.cat([trained.tokens, trained.answer[:, None]], dim=1)
    return diagnose((triple_table(small_task.facts, triples, d_vocab=small_task.d_vocab), small_task))


@pytest.fixture(scope="module")
def modular():
    return diagnose((cosine_network(23, frequencies=[1, 4, 9]), build_task(ModularConfig(p=23, train_share=0.4))))


def from_json(diagnosis):
    return Diagnosis.model_validate_json(diagnosis.to_json())


def row_of(table, name, split):
    return next(i for i, number in enumerate(table.numbers) if (number.name, number.split) == (name, split))


def test_families_stand_apart_and_one_alone_has_nothing_beside_it(circuit, table, modular):
    (found,) = side_by_side([modular, circuit, table])
    assert found.family == "two_hop" and found.diagnoses == (circuit, table)
    assert side_by_side([circuit, modular]) == ()


def test_rows_are_the_deciding_numbers_and_all_accuracies(circuit, table):
    (found,) = side_by_side([circuit, table])
    shown = [(number.name, number.split) for number in found.numbers]
    assert len(set(shown)) == len(shown)
    wanted = {(e.name, e.split) for e in circuit.evidence if not e.site and (e.decides or e.name == "accuracy")}
    assert set(shown) == wanted and ("accuracy", "hop1_ood") in wanted
    number = found.numbers[row_of(found, "accuracy", "test_ood")]
    assert number.decides and number.values == (
        circuit.number("accuracy", "test_ood"),
        table.number("accuracy", "test_ood"),
    )


def test_differences_are_those_of_compare(modular):
    task = modular.measurements.subject.task
    listed = task.training
    diagnoses = (modular, diagnose((lookup_table(23, listed.tokens[:, :2], listed.answer), task)))
    (found,) = side_by_side(diagnoses)
    sides = [Side(d.measurements.subject, d) for d in diagnoses]
    compared = {(d.name, d.split, d.site): d for d in compare_diagnosed(*sides, seed=0).differences}
    for i, number in enumerate(found.numbers):
        assert found.differences[0, 1][i] == compared[number.name, number.split, ""]
    methods = {found.numbers[i].name: d.method for i, d in enumerate(found.differences[0, 1]) if d is not None}
    assert methods["accuracy"] == "paired"


def test_the_reference_turns_every_difference_around(circuit, table):
    (found,) = side_by_side([circuit, table])
    (turned,) = side_by_side([table, circuit])
    for i, number in enumerate(found.numbers):
        j = row_of(turned, number.name, number.split)
        mine, its = found.differences[1, 0][i], turned.differences[0, 1][j]
        assert (mine.difference, mine.method, mine.n_a, mine.n_b) == (its.difference, its.method, its.n_a, its.n_b)
        for end in ("low", "high"):
            assert getattr(mine, end) == pytest.approx(getattr(its, end), abs=1e-12)
    ood = row_of(found, "accuracy", "test_ood")
    assert found.differences[0, 1][ood].difference == -1.0 and found.differences[0, 1][ood].high < -0.9
    assert found.differences[1, 0][ood].difference == 1.0 and found.differences[1, 0][ood].low > 0.9


def test_it_counts_what_excludes_zero(circuit, table):
    same, other = side_by_side([circuit, circuit])[0], side_by_side([circuit, table])[0]
    assert same.n_excluding_zero(0) == 0 < same.n_looked_at(0)
    listed = [d for d in other.differences[0, 1] if d is not None]
    assert other.n_excluding_zero(0) == other.n_excluding_zero(1) == sum(d.excludes_zero for d in listed) > 3
    assert other.n_looked_at(0) == sum(d.low is not None for d in listed) <= len(listed)
    assert FALSE_ALARMS == 0.05


def test_read_from_json_the_half_widths_are_added_for_nothing_is_known_by_query(circuit, table):
    (found,) = side_by_side([from_json(circuit), from_json(table)])
    assert found.asks_the_same[0, 1] is None
    difference = found.differences[0, 1][row_of(found, "accuracy", "test_ood")]
    a, b = (d.number("accuracy", "test_ood") for d in (circuit, table))
    assert difference.method == "half-widths added"
    assert difference.high == pytest.approx(-1 + (a.value - a.low) + (b.high - b.value))


def test_other_questions_are_independent_samples(circuit, small_task):
    other = build_task(
        TwoHopConfig(n_entities=20, n_relations=8, out_degree=8, ood_share=0.34, test_id_share=0.15, seed=4)
    )
    elsewhere = diagnose((fact_table_read_twice(other.facts, d_vocab=other.d_vocab), other))
    (found,) = side_by_side([circuit, elsewhere])
    assert found.asks_the_same[1, 0] is False
    assert found.differences[0, 1][row_of(found, "accuracy", "test_ood")].method == "independent"


def test_nets_are_left_in_their_mode(circuit, table):
    net = circuit.measurements.subject.net.train()
    side_by_side([circuit, circuit, table])
    assert net.training
    net.eval()
