"""The form of a diagnosis: JSON and its schema, frames, evidence, reports."""

import json
import re

import pandas as pd
import pytest

from circuit_lab.nets.controls.two_hop import fact_table_read_twice, triple_table
from circuit_lab.tasks import TwoHopConfig, build_task
from circuit_lab.training import reference_model, reference_models
from circuit_lab.verdict import SCHEMA_PATH, Diagnosis, Verdict, diagnose, diagnosis_schema
from circuit_lab.verdict.two_hop.outcomes import Outcome


@pytest.fixture(scope="module")
def diagnosis(small_task):
    return diagnose((fact_table_read_twice(small_task.facts, d_vocab=small_task.d_vocab), small_task), seed=11)


@pytest.mark.slow
def test_a_loaded_checkpoint_and_its_name_give_the_same_diagnosis():
    checkpoint = reference_model("modular-memorising")
    loaded, named = diagnose(checkpoint), diagnose("modular-memorising")
    assert (loaded.source, named.source) == (str(checkpoint.path), "modular-memorising")
    assert loaded.step == named.step == checkpoint.step
    pd.testing.assert_frame_equal(loaded.frame(), named.frame())


def test_the_published_schema_is_that_of_the_code():
    assert SCHEMA_PATH.read_text() == diagnosis_schema(), (
        "python -c 'from circuit_lab.verdict import *; SCHEMA_PATH.write_text(diagnosis_schema())'"
    )


def test_json_has_the_fields_of_the_schema(diagnosis):
    record, schema = json.loads(diagnosis.to_json()), json.loads(diagnosis_schema())
    assert set(record) == set(schema["properties"])
    assert set(record["evidence"][0]) == set(schema["$defs"]["Evidence"]["properties"])
    assert record["verdict"] == "true_circuit" and record["seed"] == 11
    assert record["verdict"] in schema["$defs"]["Verdict"]["enum"]
    assert "measurements" not in record


def test_outcome_shares_are_those_of_the_query_tables(diagnosis):
    for split in diagnosis.outcomes:
        table = diagnosis.measurements.queries[split.split]
        assert len(table) == split.n and split.accuracy == table["right"].mean()
        assert sum(split.shares.values()) == pytest.approx(1)
        counted = table["outcome"].value_counts(normalize=True)
        assert {k: v for k, v in split.shares.items() if v} == pytest.approx(counted.to_dict())


def test_every_row_of_evidence_has_its_interval_around_its_value(diagnosis):
    frame = diagnosis.frame()
    assert {"accuracy", "hop1", "hop2", "interchange", "bridge_found"} <= set(frame["name"])
    assert list(frame[frame["low"].isna()]["name"]) == ["weight norm"]  # of the weights, not of a sample
    measured = frame[(frame["n"] > 0) & frame["low"].notna()]
    assert ((measured["low"] <= measured["value"] + 1e-9) & (measured["value"] <= measured["high"] + 1e-9)).all()
    assert not frame[frame["name"].str.contains("lens|bridge_found|resolves")]["decides"].any()
    accuracy = frame[frame["name"] == "accuracy"].set_index("split")
    assert (accuracy.loc["test_ood", "control"], accuracy.loc["test_ood", "n"]) == (
        pytest.approx(0.0519, abs=1e-3),
        154,
    )


STATED = re.compile(r"([\d.]+) \[[\d., ]+\], n = (\d+)")


@pytest.mark.parametrize("name", reference_models())
def test_every_sentence_that_states_a_number_rests_on_the_row_that_has_it(name):
    """The recorded diagnoses: of each mechanism, and read back from JSON."""
    kept = Diagnosis.model_validate_json((reference_models()[name] / "metrics.json").read_text())
    assert len(kept.rests_on) == len(kept.reasons)
    rows = [[kept.evidence[row] for row in of_reason] for of_reason in kept.rests_on]
    assert rows[0], "the verdict itself rests on every number that was compared"
    for reason, behind in zip(kept.reasons, rows, strict=True):
        for value, n in STATED.findall(reason):
            assert (value, n) in {(f"{row.value:.2f}", str(row.n)) for row in behind}, reason
    assert {(row.name, row.split) for row in rows[0]} <= {(r.name, r.split) for r in kept.evidence if r.decides}


def test_a_number_is_found_by_name_split_and_site(diagnosis):
    for row in diagnosis.evidence:
        assert diagnosis.number(row.name, row.split, row.site) == row
    with pytest.raises(ValueError, match=r"no evidence 'accuracy' on 'test_odd'; 'accuracy' is there for .*'test_ood'"):
        diagnosis.number("accuracy", "test_odd")
    with pytest.raises(ValueError, match=r"no evidence 'acuracy' on 'test_ood'; there are 'accuracy', "):
        diagnosis.number("acuracy", "test_ood")


def test_evidence_is_not_read_on_the_locating_queries(small_task, diagnosis):
    n_training = len(small_task.splits["train_inferred"])
    n_located = diagnosis.measurements.located.candidates[0].n
    assert len(diagnosis.measurements.queries["train_inferred"]) <= n_training - n_located


def test_a_leaked_test_set_is_named_in_the_warnings():
    task = build_task(
        TwoHopConfig(n_entities=20, n_relations=8, out_degree=8, ood_share=0.34, test_id_share=0.15, leaked_share=1.0)
    )
    rows = [task.splits[name] for name in ("train_inferred", "test_ood")]
    from torch import cat

    net = triple_table(task.facts, cat([cat([q.tokens, q.answer[:, None]], dim=1) for q in rows]), d_vocab=task.d_vocab)
    diagnosis = diagnose((net, task), n_partners=3, max_queries_per_split=100)
    assert diagnosis.verdict == Verdict.FAKE_GROKKING
    assert not diagnosis.certificate.clean
    assert "test set leaked" in diagnosis.warnings[0] and "(100 %)" in diagnosis.warnings[0]


def test_what_cannot_be_diagnosed_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no such file or folder"):
        diagnose(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="device 'tpu' is not available"):
        diagnose(reference_models()["two-hop-shortcut"], device="tpu")


def test_large_splits_are_sampled_and_said_so(small_task):
    net = fact_table_read_twice(small_task.facts, d_vocab=small_task.d_vocab)
    diagnosis = diagnose((net, small_task), max_queries_per_split=50)
    assert {s.split: (s.n, s.n_in_split) for s in diagnosis.outcomes}["test_ood"] == (50, 154)
    assert any("test_ood: read on a sample of 50 of 154" in warning for warning in diagnosis.warnings)


def test_too_few_test_queries_are_inconclusive():
    """A perfect circuit on a handful of test_ood queries: the interval reaches below the threshold."""
    task = build_task(
        TwoHopConfig(n_entities=20, n_relations=8, out_degree=8, ood_share=0.08, test_id_share=0.15, seed=2)
    )
    assert 1 <= len(task.splits["test_ood"]) <= 12
    diagnosis = diagnose((fact_table_read_twice(task.facts, d_vocab=task.d_vocab), task))
    assert diagnosis.verdict == Verdict.INCONCLUSIVE
    assert "By point values alone it would be true_circuit." in diagnosis.reasons


def test_frames_and_notebook_display(diagnosis):
    assert repr(diagnosis) == "<Diagnosis of a net and its task, in memory: true_circuit, confidence 1.00>"
    outcomes = diagnosis.outcome_frame()
    assert isinstance(outcomes, pd.DataFrame) and set(map(str, Outcome)) < set(outcomes.columns)
    html = diagnosis._repr_html_()
    assert "true_circuit" in html and "<script" not in html


@pytest.mark.slow
def test_seeds_change_partners_and_not_the_verdict(small_task):
    net = fact_table_read_twice(small_task.facts, d_vocab=small_task.d_vocab)
    assert {diagnose((net, small_task), seed=seed).verdict for seed in range(3)} == {Verdict.TRUE_CIRCUIT}
