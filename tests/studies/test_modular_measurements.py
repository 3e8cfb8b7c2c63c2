"""Measurements of nets of modular arithmetic, against their checkpoints and metrics read by hand."""

import math

import pytest

from circuit_lab.measures import logit_efficiency, predicted_answers, weight_norms
from circuit_lab.studies import Lab
from circuit_lab.studies.accuracy_by_size import ACCURACY, BEFORE, HELD_OUT, accuracy_rows
from circuit_lab.studies.circuit_efficiency import memorising, retrained
from circuit_lab.studies.modular_metrics import PROBABILITY, metric_rows
from circuit_lab.studies.pure_nets import COMMON_LOGIT, LOGIT, NORM, NORM_AT, net_rows
from circuit_lab.studies.runs import train_runs
from circuit_lab.training import load_checkpoint, read_metrics

CHILD, ROTE = retrained(0, share=0.23), memorising(0, "random", share=0.172)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A net trained on half of the pairs modulo 11, one trained on from it with fewer, and one of random labels."""
    folder = tmp_path_factory.mktemp("runs")
    train_runs([CHILD, ROTE], folder, scale="smoke", device="cpu", progress=False)
    return Lab("smoke", folder)


def share_right(net, queries):
    return float((predicted_answers(net, queries) == queries.answer).double().mean())


def value(rows, quantity, split=None):
    chosen = rows[(rows["quantity"] == quantity) & ((rows["split"] == split) if split else True)]
    return float(chosen["value"].iloc[-1])


def test_a_retrained_net_is_asked_what_its_parent_was_not_trained_on(lab):
    child, parent = load_checkpoint(lab.last(CHILD)), load_checkpoint(lab.last(CHILD.parent))
    asked = parent.task.splits[HELD_OUT]
    assert len(asked) < len(child.task.splits[HELD_OUT]), "the child's own would count pairs that the parent had learnt"
    found = accuracy_rows(lab, CHILD, "a", weight_decay=1.0)
    assert value(found, ACCURACY) == pytest.approx(share_right(child.net, asked))
    assert value(found, BEFORE) == pytest.approx(share_right(parent.net, asked))
    assert set(found[found["split"] == HELD_OUT]["n"]) == {len(asked)}
    assert found["n_train"].unique().tolist() == [len(child.task.training)]


def test_what_a_nets_norm_buys(lab):
    checkpoint = load_checkpoint(lab.last(ROTE))
    found = net_rows(lab, ROTE, "rote")
    assert value(found, LOGIT) == logit_efficiency(checkpoint.net, checkpoint.task.training).correct_logit
    assert value(found, NORM) == pytest.approx(weight_norms(checkpoint.net).total)
    assert value(found, "pure") == 0.0, "after 27 steps it does not know its labels"
    assert math.isnan(value(found, NORM_AT)), f"its logits are far from {COMMON_LOGIT}"
    assert found["weight_decay"].unique().tolist() == [1.0]


def test_metrics_as_measurements(lab):
    found, records = metric_rows(lab, ROTE, "rote"), read_metrics(lab.folder(ROTE))
    for quantity, split, key in ((ACCURACY, HELD_OUT, "accuracy"), ("train accuracy", "train", "accuracy")):
        rows = found[found["quantity"] == quantity]
        assert rows["value"].tolist() == [record[f"{key}/{split}"] for record in records]
        assert ((rows["low"] <= rows["value"]) & (rows["value"] <= rows["high"])).all()
    assert value(found, PROBABILITY, "train") == pytest.approx(math.exp(-records[-1]["loss/train"]))
    assert value(found, NORM) == records[-1]["weight_norm"]
