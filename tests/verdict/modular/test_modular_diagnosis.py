"""Diagnoses of modular nets: every operation, the form of the result, warnings, reports."""

import json
import math

import pytest
import torch

from circuit_lab.nets import SharedTransformerConfig, build_net
from circuit_lab.report import (
    frequency_ablation_figure,
    frequency_spectrum_figure,
    logit_parts_figure,
)
from circuit_lab.tasks import ModularConfig, build_task
from circuit_lab.training import reference_model
from circuit_lab.verdict import Verdict, diagnose

OPERATIONS = ("a+b", "a-b", "a*b", "a/b", "a^2+b^2", "a^2+ab+b^2", "a^2+ab+b^2+a", "S5: ab", "S5: aba", "S5: aba^-1")


def random_net(task, **changes):
    config = {
        "layer_map": (0,), "d_model": 24, "n_heads": 3, "d_mlp": 20, "act_fn": "relu", "normalization_type": None,
        "d_vocab": task.d_vocab, "d_vocab_out": task.d_vocab_out, "n_ctx": task.n_ctx,
    }  # fmt: skip
    return build_net(SharedTransformerConfig(**(config | changes))).eval()


@pytest.fixture(scope="module")
def grokked():
    return diagnose("modular-grokked")


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("layer_map", [(0,), pytest.param((0, 0), marks=pytest.mark.slow)])
def test_a_net_with_random_weights_is_untrained_on_every_operation(operation, layer_map):
    task = build_task(ModularConfig(operation=operation, p=None if "S5" in operation else 13, train_share=0.6))
    diagnosis = diagnose((random_net(task, layer_map=layer_map), task), max_queries_per_split=300)
    assert diagnosis.verdict == Verdict.UNTRAINED
    assert not any(split.shares["circuit"] for split in diagnosis.outcomes)
    undefined = operation in ("a^2+ab+b^2", "a^2+ab+b^2+a", "S5: aba", "S5: aba^-1")
    assert any("inputs are not defined for" in warning for warning in diagnosis.warnings) is undefined


def test_shares_confidence_and_query_tables_agree(grokked):
    assert grokked.family == "modular" and grokked.task.startswith("ModularTask(a+b mod 59")
    assert sum(grokked.candidates.values()) == pytest.approx(1)
    for split in grokked.outcomes:
        table = grokked.measurements.queries[split.split]
        assert (len(table), float(table["right"].mean())) == (split.n, split.accuracy)
        counted = table["outcome"].value_counts(normalize=True).to_dict()
        assert {k: v for k, v in split.shares.items() if v} == pytest.approx(counted)


def test_every_number_has_its_interval_around_it_and_a_unit(grokked):
    frame = grokked.frame()
    with_interval = frame[frame["low"].notna()]
    assert len(with_interval) >= len(frame) - 15
    assert ((with_interval["low"] <= with_interval["value"]) & (with_interval["value"] <= with_interval["high"])).all()
    assert set(frame["unit"]) >= {"share", "logits"}
    decides = frame[frame["decides"]].set_index("name")["split"].to_dict()
    assert decides.pop("accuracy") in ("train", "test_unmirrored")
    assert set(decides.values()) == {"test_unmirrored"}
    assert json.loads(grokked.to_json())["evidence"][0]["unit"] == "share"


def test_the_evidence_repeats_what_the_measures_say(grokked):
    rows = {(e.name, e.split, e.site): e for e in grokked.evidence}
    parts = grokked.measurements.decomposition.splits["train"]
    assert rows["correct logit, remaining part", "train", ""].value == parts.correct_logit_remaining
    site = grokked.measurements.ablations["test"].sites["inputs"]
    row = next(e for (name, split, s), e in rows.items() if (name, split) == ("right without key frequencies", "test"))
    assert row.value == float(site.right_without.double().mean()) and row.control == pytest.approx(site.control_rate)


@pytest.mark.slow
def test_seeds_change_the_random_subspaces_and_not_the_verdict(grokked):
    again = diagnose("modular-grokked", seed=7)
    assert again.verdict == grokked.verdict
    first, second = (d.measurements.queries["test"] for d in (grokked, again))
    assert not first.equals(second)  # other pairs were set aside to name the frequencies
    memoriser = [diagnose("modular-memorising", seed=seed).measurements.ablations["train"] for seed in (0, 7)]
    first, second = (ablation.sites["inputs"].right_without_random for ablation in memoriser)
    assert not torch.equal(first, second)
    same = diagnose("modular-grokked")
    assert same.to_json() == grokked.to_json()


def test_mirrors_are_warned_of_where_they_flatter_a_memoriser():
    warnings = diagnose("modular-memorising").warnings
    assert any("counts pairs whose mirror (b, a) is in training (40% of them)" in warning for warning in warnings)


def test_with_mirrors_alone_left_over_the_test_split_decides_and_a_warning_says_so():
    checkpoint = reference_model("modular-grokked")
    task = build_task(ModularConfig(p=59, n_train=59 * 59 - 3))
    assert len(task.splits["test_unmirrored"]) == 0
    diagnosis = diagnose((checkpoint.net, task))
    assert diagnosis.warnings[0].startswith("Every held-out pair has its mirror (b, a) in training")
    assert diagnosis.verdict == Verdict.INCONCLUSIVE  # three pairs carry no verdict


def test_large_splits_are_sampled_and_said_so():
    checkpoint = reference_model("modular-grokked")
    diagnosis = diagnose((checkpoint.net, checkpoint.task), max_queries_per_split=200)
    assert {s.split: (s.n, s.n_in_split) for s in diagnosis.outcomes}["test"] == (200, 1566)
    assert "test: read on a sample of 200 of 1566 pairs." in diagnosis.warnings


def test_the_figures_carry_numbers_n_and_chance(grokked):
    measured = grokked.measurements
    bars, table = frequency_spectrum_figure(measured.decomposition).data
    assert sum(bars.y) == pytest.approx(1) and list(table.y) == pytest.approx([1 / 29] * 29)
    ablation = frequency_ablation_figure(measured.ablations["test"], split="test", chance=1 / 59)
    assert "n = 1566" in ablation.layout.title.text and "chance 0.017" in ablation.layout.annotations[0].text
    generalising, remaining = logit_parts_figure(measured.decomposition).data
    assert generalising.y[0] + remaining.y[0] == pytest.approx(measured.decomposition.splits["train"].correct_logit)
    assert math.isclose(remaining.y[2], 0, abs_tol=1e-9)
