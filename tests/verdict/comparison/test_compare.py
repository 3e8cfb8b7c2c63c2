"""Two checkpoints side by side: known pairs of nets, and the rules on answers made by hand."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from circuit_lab.nets.controls.modular import cosine_network, lookup_table
from circuit_lab.nets.controls.perturb import rotated
from circuit_lab.nets.controls.two_hop import bridge_at_h, fact_table_read_twice, hidden_bridge, triple_table
from circuit_lab.tasks import ModularConfig, TwoHopConfig, build_task
from circuit_lab.verdict import Verdict, diagnose
from circuit_lab.verdict.comparison.compare import compare, compare_diagnosed
from circuit_lab.verdict.comparison.differences import compare_numbers
from circuit_lab.verdict.comparison.intervals import Hits
from circuit_lab.verdict.comparison.modular_path import _by_frequencies
from circuit_lab.verdict.comparison.paired_queries import Side, ask_the_same, paired_hits
from circuit_lab.verdict.comparison.path import (
    PATH_THRESHOLDS,
    PathEvidence,
    have_same_weights,
    only_one_through_circuit,
)
from circuit_lab.verdict.subject import find_subject

TABLE_SPLITS = ("train_inferred", "test_id", "test_ood")


def generator():
    return torch.Generator().manual_seed(4)


def two_hop_net(name, task):
    facts, d_vocab = task.facts, task.d_vocab
    listed = [task.splits[split] for split in TABLE_SPLITS]
    triples = torch.cat([torch.cat([q.tokens, q.answer[:, None]], dim=1) for q in listed])
    nets = {
        "circuit": lambda: fact_table_read_twice(facts, d_vocab=d_vocab),
        "rotated circuit": lambda: rotated(fact_table_read_twice(facts, d_vocab=d_vocab), generator=generator()),
        "hidden bridge": lambda: hidden_bridge(facts, d_vocab=d_vocab, generator=generator()),
        "bridge at h": lambda: bridge_at_h(facts, d_vocab=d_vocab),
        "second hop fails": lambda: fact_table_read_twice(facts, second_read=facts[~task.is_ood], d_vocab=d_vocab),
        "table": lambda: triple_table(facts, triples, d_vocab=d_vocab),
        "rotated table": lambda: rotated(triple_table(facts, triples, d_vocab=d_vocab), generator=generator()),
    }
    return nets[name]()


def side_of(net, task):
    return Side(find_subject((net, task), device="cpu"), diagnose((net, task)))


@pytest.fixture(scope="module")
def sides(small_task):
    """Each net diagnosed once."""
    made = {}

    def side(name):
        if name not in made:
            made[name] = side_of(two_hop_net(name, small_task), small_task)
        return made[name]

    return side


def differences_of(comparison, **where):
    frame = comparison.frame()
    for column, value in where.items():
        frame = frame[frame[column] == value]
    return frame


def test_a_net_with_itself(sides):
    comparison = compare_diagnosed(sides("circuit"), sides("circuit"), seed=0)
    frame = comparison.frame()
    measured = frame[frame["a"].notna()]  # a circuit has no wrong answers whose failing hop could be named
    assert set(frame["name"]) - set(measured["name"]) <= {
        f"wrong answers that fail the {n} hop" for n in ("first", "second")
    }
    assert (measured["difference"] == 0).all() and not frame["excludes_zero"].any()
    assert (comparison.same_path, comparison.n_excluding_zero) == ("yes", 0)
    assert comparison.reasons[0] == "The two nets have the same weights."
    inside = frame[frame["low"].notna()]
    assert comparison.n_differences == len(inside) > 30
    assert ((inside["low"] <= 0) & (inside["high"] >= 0)).all()


@pytest.mark.slow
def test_a_net_with_its_rotated_copy(sides):
    """Other weights, the same function, in other coordinates: the interchange through a map finds it out."""
    comparison = compare_diagnosed(sides("circuit"), sides("rotated circuit"), seed=0)
    assert comparison.same_path == "yes" and comparison.n_excluding_zero == 0
    lent = comparison.path_frame().set_index("name")
    for name in ("A follows the state of B", "B follows the state of A"):
        assert lent.loc[name, "value"] > 0.97 and lent.loc[name, "control"] < 0.2


@pytest.mark.slow
def test_a_circuit_with_a_table(sides):
    comparison = compare_diagnosed(sides("circuit"), sides("table"), seed=0)
    assert comparison.same_path == "no"
    assert "the right answers of A go through its bridge (1.00" in comparison.reasons[0]
    assert "those of B do not (0.00" in comparison.reasons[0]
    through = differences_of(comparison, name="right answers through the bridge", split="test_ood").iloc[0]
    assert (through["a"], through["b"], through["difference"], through["method"]) == (1.0, 0.0, -1.0, "paired")
    assert through["excludes_zero"] and through["high"] < -0.95
    right = differences_of(comparison, name="accuracy", split="test_ood").iloc[0]
    assert (right["difference"], right["excludes_zero"], right["method"]) == (0.0, False, "paired")
    shortcut = differences_of(comparison, name="outcome: shortcut", split="test_ood").iloc[0]
    assert shortcut["a"] == 0.0 and shortcut["b"] > 0.8 and shortcut["n_a"] == 154  # a few cannot be tested


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "answer", "reason"),
    [
        ("hidden bridge", "yes", "each net's bridge states do the other's work"),
        ("second hop fails", "yes", "On queries that both answer right"),
        ("bridge at h", "no", "neither does where the other does"),
    ],
)
def test_circuits_with_other_circuits(sides, other, answer, reason):
    """Both ways round: which is A does not matter."""
    for names in (("circuit", other), (other, "circuit")):
        comparison = compare_diagnosed(*map(sides, names), seed=0)
        assert comparison.same_path == answer and reason in comparison.reasons[0], names


@pytest.mark.slow
def test_two_tables_cannot_be_told_apart(sides):
    """There is no bridge to exchange; in other coordinates even the same table is not recognised."""
    comparison = compare_diagnosed(sides("table"), sides("rotated table"), seed=0)
    assert comparison.same_path == "cannot tell" and "tables are not told apart" in comparison.reasons[0]
    assert comparison.n_excluding_zero == 0


@pytest.mark.slow
def test_compare_takes_what_diagnose_takes_and_leaves_it_as_it_was(small_task):
    circuit = two_hop_net("circuit", small_task).train()
    other_task = build_task(TwoHopConfig(n_entities=14, n_relations=6, out_degree=6, ood_share=0.4, seed=1))
    before = torch.get_rng_state()
    comparison = compare((circuit, small_task), (two_hop_net("circuit", other_task), other_task), seed=3)
    assert torch.equal(before, torch.get_rng_state()) and circuit.training
    assert (comparison.seed, comparison.a.seed, comparison.b.verdict) == (3, 3, Verdict.TRUE_CIRCUIT)
    assert comparison.same_path == "cannot tell" and "no state can be exchanged" in comparison.reasons[0]
    assert "ask different questions" in comparison.warnings[0]
    methods = set(comparison.frame()["method"])
    assert methods <= {"independent", "none"} and "independent" in methods
    read = json.loads(comparison.to_json())
    assert (read["same_path"], read["n_differences"]) == ("cannot tell", comparison.n_differences)
    assert read["a"]["verdict"] == "true_circuit" and len(read["differences"]) == len(comparison.frame())


P = 43


def modular_task(**changes):
    return build_task(ModularConfig(**{"p": P, "train_share": 0.4, **changes}))


def cosines(*frequencies):
    return cosine_network(P, frequencies=frequencies)


def modular_net(name, task):
    table = lookup_table(P, task.pairs.tokens[:, :2], task.pairs.answer)
    nets = {
        "turned 1 4 9 20": lambda: rotated(cosines(20, 9, 4, 1), generator=generator()),
        "table": lambda: table,
        "turned table": lambda: rotated(table, generator=generator()),
    }
    return nets[name]() if name in nets else cosines(*map(int, name.split()))


@pytest.fixture(scope="module")
def modular_sides():
    """Each net diagnosed once: cosine networks by their frequencies, and tables."""
    task, made = modular_task(), {}

    def side(name):
        if name not in made:
            made[name] = side_of(modular_net(name, task), task)
        return made[name]

    return side


@pytest.mark.parametrize(
    ("names", "answer", "reason"),
    [
        (("1 4 9 20", "1 4 9 20"), "yes", "The two nets have the same weights."),
        pytest.param(
            *(("1 4 9 20", "turned 1 4 9 20"), "yes", "Both answer through the same frequencies."),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *(("1 4 9 20", "1 4 9 16"), "yes", "Both answer through the same frequencies."), marks=pytest.mark.slow
        ),
        pytest.param(
            *(("1 4 9 20", "1 4 7 16"), "cannot tell", "Their frequencies are shared in part"), marks=pytest.mark.slow
        ),
        (("1 4 9 20", "2 5 7 20"), "no", "Same algorithm, other frequencies"),
        pytest.param(*(("1 4 9 20", "table"), "no", "those of B do not"), marks=pytest.mark.slow),
        pytest.param(
            *(("table", "1 4 9 20"), "no", "the right answers of B go through its key frequencies"),
            marks=pytest.mark.slow,
        ),
        pytest.param(*(("table", "turned table"), "cannot tell", "tables are not told apart"), marks=pytest.mark.slow),
    ],
)
def test_modular_paths(modular_sides, names, answer, reason):
    comparison = compare_diagnosed(*map(modular_sides, names), seed=0)
    assert comparison.same_path == answer and reason in comparison.reasons[0], comparison.reasons


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("1 4 9 20", "2 5 7 20"), 1 / 4),
        pytest.param(("1 4 9 20", "1 4 9 16"), 3 / 4, marks=pytest.mark.slow),
        pytest.param(("1 4 9 20", "1 4 7 16"), 2 / 4, marks=pytest.mark.slow),
        pytest.param(("1 4 9 16", "2 5 7 20"), 0, marks=pytest.mark.slow),
    ],
)
def test_shared_energy_by_hand(modular_sides, names, expected):
    """Of four frequencies of equal energy, so many in common."""
    comparison = compare_diagnosed(*map(modular_sides, names), seed=0)
    row = comparison.path_frame().set_index("name").loc["shared generalising energy"]
    assert row["value"] == pytest.approx(expected, abs=0.03)
    assert row["low"] - 0.01 <= row["value"] <= row["high"] + 0.01 and row["high"] - row["low"] < 0.15
    keys = next(reason for reason in comparison.reasons if reason.startswith("Key frequencies"))
    shared = set(keys.rpartition("they share ")[2].rstrip(".").split(", "))
    assert shared == (set.intersection(*(set(name.split()) for name in names)) or {"none"})


@pytest.mark.parametrize(
    ("low", "high", "answer"),
    [(0.61, 0.9, "yes"), (0.59, 0.9, "cannot tell"), (0.3, 0.41, "cannot tell"), (0.3, 0.39, "no")],
)
def test_shared_energy_that_straddles_a_threshold(modular_sides, low, high, answer):
    shared = PathEvidence("shared generalising energy", "", (low + high) / 2, low, high, 100, None, "", True)
    names = "1 4 9 20", "2 5 7 20"
    found = _by_frequencies(*map(modular_sides, names), shared, PATH_THRESHOLDS)
    assert found.same_path == answer and "they share" in found.reasons[2]


@pytest.mark.slow
def test_modular_circuits_of_other_moduli_stand_side_by_side(modular_sides):
    task = modular_task(p=41)
    other = side_of(cosine_network(41, frequencies=[1, 4, 9, 16]), task)
    comparison = compare_diagnosed(modular_sides("1 4 9 20"), other, seed=0)
    assert comparison.same_path == "cannot tell" and "different operations" in comparison.reasons[0]
    assert "shared generalising energy" not in set(comparison.path_frame()["name"])
    assert "paired" not in set(comparison.frame()["method"]) and comparison.n_differences > 5


def test_families_that_have_nothing_in_common(small_task):
    task = modular_task()
    with pytest.raises(ValueError, match="nothing can be compared: the first is a net for a TwoHopTask, the second"):
        compare((two_hop_net("circuit", small_task), small_task), (cosines(1, 4, 9), task))


# differences, on rows made by hand


def with_values(diagnosis, **changes):
    """The diagnosis with its `test_ood` accuracy row changed."""
    evidence = tuple(
        row if (row.name, row.split) != ("accuracy", "test_ood") else type(row)(**{**vars(row), **changes})
        for row in diagnosis.evidence
    )
    return diagnosis.model_copy(update={"evidence": evidence})


def test_hits_that_do_not_give_the_stated_share_are_not_used(sides):
    """Someone else's answers, or another sample, must not pass for those behind a number."""
    a = sides("circuit")
    hits = paired_hits(a, a, next(e for e in a.diagnosis.evidence if (e.name, e.split) == ("accuracy", "test_ood")))
    assert hits is not None and hits.a.n == 154

    def method(diagnosis):
        rows = compare_numbers(diagnosis, a.diagnosis, lambda _: hits, may_be_same_queries=True)
        return next(row.method for row in rows if (row.name, row.split) == ("accuracy", "test_ood"))

    assert method(a.diagnosis) == "paired"
    assert method(with_values(a.diagnosis, value=0.9, low=0.8)) == "half-widths added"
    assert method(with_values(a.diagnosis, value=0.5, low=0.4, n=308)) == "half-widths added"
    assert method(with_values(a.diagnosis, low=None)) == "none"


def test_a_number_of_no_queries_has_no_difference(sides):
    a = sides("circuit").diagnosis
    empty = with_values(a, value=None, low=0.0, high=1.0, n=0)
    rows = compare_numbers(a, empty, lambda _: None, may_be_same_queries=True)
    row = next(row for row in rows if (row.name, row.split) == ("accuracy", "test_ood"))
    assert (row.difference, row.low, row.method, row.excludes_zero) == (None, None, "none", False)


def with_outcomes(side, split, outcomes):
    """The same net with these outcomes on one split, and no other split."""
    queries = {split: pd.DataFrame({"outcome": np.repeat(list(outcomes), list(outcomes.values()))})}
    diagnosis = side.diagnosis.model_copy(update={"measurements": SimpleNamespace(queries=queries)})
    return Side(side.subject, diagnosis)


@pytest.mark.parametrize(
    ("of_a", "of_b", "apart"),
    [
        ({"circuit": 90, "shortcut": 10}, {"circuit": 10, "shortcut": 90}, "AB"),
        ({"circuit": 10, "shortcut": 90}, {"circuit": 90, "shortcut": 10}, "BA"),
        ({"circuit": 65, "shortcut": 35}, {"circuit": 10, "shortcut": 90}, None),  # its interval reaches below .6
        ({"circuit": 90, "shortcut": 10}, {"circuit": 35, "shortcut": 65}, None),  # its interval reaches above .4
        ({"circuit": 90, "shortcut": 10}, {"no_circuit": 100}, None),  # no right answer, hence no path to compare
    ],
)
def test_only_one_through_the_circuit(sides, of_a, of_b, apart):
    a, b = (with_outcomes(sides("circuit"), "test_ood", outcomes) for outcomes in (of_a, of_b))
    found = only_one_through_circuit(a, b, mostly=0.6, mostly_not=0.4, circuit="bridge")
    if apart is None:
        assert found is None
    else:
        assert found.startswith(f"On test_ood, the right answers of {apart[0]} go through its bridge (0.90")


def test_the_same_weights_however_initialised(small_task):
    net = two_hop_net("circuit", small_task)
    again, other = two_hop_net("circuit", small_task), two_hop_net("circuit", small_task)
    with torch.no_grad():
        next(iter(other.parameters())).view(-1)[0] += 1e-3
    assert have_same_weights(net, again) and not have_same_weights(net, other)
    assert not have_same_weights(net, two_hop_net("second hop fails", small_task))


def test_who_is_asked_the_same(sides, modular_sides):
    two_hop, modular = sides("circuit"), modular_sides("1 4 9 20")
    other_facts = replace(two_hop.subject.task, facts=two_hop.subject.task.facts.roll(1, 0))
    assert ask_the_same(two_hop, two_hop) and ask_the_same(modular, modular)
    assert not ask_the_same(two_hop, Side(replace(two_hop.subject, task=other_facts), two_hop.diagnosis))
    assert not ask_the_same(two_hop, modular)


def test_hits_count_only_what_is_counted():
    hits = Hits(np.array([True, True, False, True]), np.array([True, False, True, True]))
    assert (hits.n_true, hits.n) == (2, 3)
    assert hits.residuals.tolist() == pytest.approx([1 / 3, 0, -2 / 3, 1 / 3])


def test_thresholds_are_symmetric_and_in_range():
    values = vars(PATH_THRESHOLDS)
    assert all(0 < value < 1 for value in values.values())
    assert values["shared_frequencies"] + values["other_frequencies"] == pytest.approx(1)
