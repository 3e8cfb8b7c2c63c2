"""What the phase diagram reads: planted boundaries come back, and corners are the runs of other studies."""

import math

import pandas as pd
import pytest

from circuit_lab.studies import find_study
from circuit_lab.studies.recipes import recipe_of

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
