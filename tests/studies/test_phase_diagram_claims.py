"""What the phase diagram reads: planted boundaries come back, and corners are the runs of other studies."""

import math
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from circuit_lab.studies import find_study
from circuit_lab.studies.recipes import recipe_of
from circuit_lab.tasks import build_task

STUDY = find_study("phase_diagram")
RATIOS = (0.0, 0.25, 0.5, 1.0)


def measured(accuracy_of, *, nets=("universal", "standard")):
    """One seed whose test_ood accuracy is a function of both ratios; a true circuit from .8 on."""
    rows = []
    for net in nets:
        for hop1 in RATIOS:
            for hop2 in RATIOS:
                name, value = f"{net}, hop 1 {hop1:g}, hop 2 {hop2:g}", accuracy_of(hop1, hop2)
                rows += [
                    {"condition": name, "quantity": "accuracy", "split": "test_ood", "value": value},
                    {
                        "condition": name,
                        "quantity": "verdict true_circuit",
                        "split": "all",
                        "value": float(value >= 0.8),
                    },
                ]
    return pd.DataFrame(rows).assign(step=12_000, seed=0)


def read(rows):
    return {claim.name: claim.value(rows) for claim in STUDY.claims}


def test_a_net_that_follows_hop_2_alone():
    found = read(measured(lambda _, hop2: hop2))
    assert found["universal_more_hop1_generalises_more"] == pytest.approx(0.0)
    assert found["universal_more_hop2_generalises_more"] == pytest.approx(1.0)
    assert found["standard_hop2_matters_more"] == pytest.approx(1.0)
    assert found["there_is_a_boundary"] == pytest.approx(0.25)


def test_both_hops_alike():
    found = read(measured(lambda hop1, hop2: (hop1 + hop2) / 2))
    assert found["universal_more_hop1_generalises_more"] == pytest.approx(found["universal_more_hop2_generalises_more"])
    assert found["universal_hop2_matters_more"] == 0.0
    assert found["there_is_a_boundary"] == pytest.approx(1 / 16)


def test_what_is_shown_is_pooled_over_queries_and_averaged_over_nets():
    """In every net .9 of 20 and .6 of 10 queries with a hop-2 fact that is shown, .2 of 40 without."""
    told = {"neither fact": (0.2, 40), "the hop-2 fact alone": (0.9, 20), "both facts": (0.6, 10)}
    rows = [
        {
            "condition": f"universal, hop 1 {hop1}, hop 2 {hop2}",
            "quantity": f"accuracy, {group}",
            "value": value,
            "n": n,
        }
        for hop1, hop2 in ((0, 0.25), (1, 0.5), (0, 1))
        for group, (value, n) in told.items()
    ]
    rows = pd.DataFrame(rows).assign(step=12_000, seed=0, split="test_ood")
    found = read(rows)
    assert found["universal_composes_what_is_shown"] == pytest.approx((18 + 6) / 30 - 0.2)
    assert math.isnan(found["standard_composes_what_is_shown"])
    boxes = STUDY.figures["by_facts"](rows).data
    counts = {"neither fact": 2, "hop-1<br>alone": 0, "hop-2<br>alone": 2, "both facts": 2}
    assert [box.name for box in boxes[:4]] == [f"{group}<br>{n} nets" for group, n in counts.items()]
    assert list(boxes[3].y) == [0.6, 0.6]
    every = rows["condition"].str.endswith("hop 2 0.5") & (rows["quantity"] == "accuracy, both facts")
    rows.loc[every, "value"] = 0.0
    assert read(rows)["universal_composes_what_is_shown"] == pytest.approx((0.8 + 0.6) / 2 - 0.2)


def test_queries_are_told_apart_by_the_facts_that_training_composes(monkeypatch):
    """Here a net answers what has a hop-2 fact that is shown, as told by the tokens of the training queries."""
    run = next(run for run in STUDY.runs(0) if run.name == "universal/augmented/hop1=0.5/hop2=0.5")
    task = build_task(recipe_of(run, "small").task)
    composed = [
        query for query, last in zip(task.training.tokens, task.training.answer_position, strict=True) if last == 2
    ]
    bridge = {(int(h), int(r)): int(b) for h, r, b in _facts(task)}
    first = {(int(h), int(r1)) for h, r1, _ in composed}
    second = {(bridge[int(h), int(r1)], int(r2)) for h, r1, r2 in composed}
    asked = task.splits["test_ood"]
    told = [((int(h), int(r1)) in first, (bridge[int(h), int(r1)], int(r2)) in second) for h, r1, r2 in asked.tokens]
    right = torch.tensor([has_second for _, has_second in told])
    functions = STUDY.measure.__globals__
    monkeypatch.setitem(functions, "predicted_answers", lambda *_: torch.where(right, asked.answer, -1))
    rows = functions["shown_rows"](SimpleNamespace(task=task, net=None)).set_index("quantity")
    names = ("neither fact", "the hop-1 fact alone", "the hop-2 fact alone", "both facts")
    for name, group in zip(names, ((False, False), (True, False), (False, True), (True, True)), strict=True):
        assert rows.loc[f"accuracy, {name}", "n"] == told.count(group) > 0
        assert rows.loc[f"accuracy, {name}", "value"] == float(group[1])


def _facts(task):
    atomic = [task.splits["atomic_id"], task.splits["atomic_ood"]]
    return [(h, r, b) for queries in atomic for (h, r, *_), b in zip(queries.tokens, queries.answer, strict=True)]


def test_a_flat_map_tells_nothing_about_ratios_and_a_missing_net_nothing_at_all():
    assert math.isnan(read(measured(lambda *_: 0.5))["universal_more_hop1_generalises_more"])
    found = read(measured(lambda hop1, hop2: hop1 * hop2, nets=("universal",)))
    assert math.isnan(found["standard_more_hop2_generalises_more"]) and math.isnan(found["standard_hop2_matters_more"])


def test_corners_are_the_runs_of_other_studies_and_every_cell_has_its_ratios():
    runs = STUDY.runs(0)
    assert len({run.place for run in runs}) == 32
    shared = {run.place for name in ("augmentation_regimes", "no_sharing") for run in find_study(name).runs(0)}
    assert len([run for run in runs if run.place in shared]) == 7
    by_name = {run.name: recipe_of(run, "small") for run in runs}
    hops = by_name["standard/augmented/hop1=0.25/hop2=0"].task.hop_augmentations
    assert [(hop.ratio, hop.samples_per_fact) for hop in hops] == [(0.25, 18), (0.0, 0)]
    assert by_name["universal/both_full"].task.regime == "both_full"
    assert by_name["standard/augmented/hop1=0.5/hop2=1"].net["layer_map"] == [0, 1, 2, 3]


def test_the_figure_shows_means_and_tells_verdicts_of_every_cell():
    seeds = [measured(lambda hop1, hop2, s=seed: max(hop1 * hop2 - 0.3 * s, 0)).assign(seed=seed) for seed in (0, 1)]
    accuracy, true, onset, *_ = STUDY.figures["boundary"](pd.concat(seeds)).data
    assert accuracy.z[3][3] == pytest.approx((1.0 + 0.7) / 2) and accuracy.z[0][3] == 0.0
    assert true.z[3][3] == 0.5 and true.customdata[3][3] == "1 true circuit" and true.customdata[0][0] == ""
    assert onset.z[3][3] == 12_000 and math.isnan(onset.z[0][0])
