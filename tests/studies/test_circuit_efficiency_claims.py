"""What the studies of circuit efficiency read from measurements: planted numbers come back, doubtful ones do not."""

import math

import numpy as np
import pandas as pd
import pytest

from circuit_lab.studies import find_study
from circuit_lab.studies.accuracy_by_size import ACCURACY, BEFORE, midpoint, points
from circuit_lab.studies.pure_nets import GENERALISING, LOGIT, MEMORISING, NORM_AT, norm_curve, pure_nets

ROTE = MEMORISING["random"]
SIZES = [77, 150, 299, 599]


def value_of(study, claim):
    (found,) = (each.value for each in find_study(study).claims if each.name == claim)
    return found


def nets(condition, norm_of, sizes, *, seed=0, pure=1.0):
    """Rows of one net per size and decay, with a norm that is a function of the size."""
    return pd.DataFrame(
        {"condition": condition, "seed": seed, "n_train": size, "weight_decay": decay, "split": "train"}
        | {"step": 10_000, "quantity": quantity, "value": value, "n": size, "low": math.nan, "high": math.nan}
        for size in sizes
        for decay in (0.6, 1.0)
        for quantity, value in {NORM_AT: norm_of(size), LOGIT: 50.0, "pure": pure}.items()
    )


def accuracies(condition, accuracy_of, *, before=None, seed=0):
    rows = []
    for size, accuracy in accuracy_of.items():
        values = {ACCURACY: accuracy} | ({} if before is None else {BEFORE: before})
        rows += [
            {"condition": condition, "seed": seed, "n_train": size, "quantity": name, "value": value, "step": 10_000}
            for name, value in values.items()
        ]
    return pd.DataFrame(rows)


def test_an_impure_net_and_one_that_has_no_norm_are_left_out():
    rows = pd.concat(
        [
            nets(ROTE, lambda _: 20.0, SIZES[:1]),
            nets(ROTE, lambda _: 30.0, SIZES[1:2], pure=0.0),
            nets(ROTE, lambda _: math.nan, SIZES[2:3]),
        ]
    )
    assert pure_nets(rows, ROTE)["n_train"].unique().tolist() == [77]
    assert pure_nets(rows, GENERALISING).empty and norm_curve(rows, GENERALISING) is None


def test_the_curve_is_the_mean_over_seeds():
    rows = pd.concat([nets(ROTE, lambda _, s=seed: 10.0 + s, SIZES, seed=seed) for seed in range(3)])
    curve = norm_curve(rows, ROTE)
    assert curve is not None
    assert curve.norm.tolist() == pytest.approx([11.0] * 4) and curve.n_train.tolist() == SIZES


def test_slopes_of_planted_power_laws():
    rows = pd.concat(
        [nets(ROTE, lambda size: 3 * size**0.3, SIZES), nets(GENERALISING, lambda size: 40 * size**-0.05, [300, 1741])]
    )
    rows.loc[(rows["weight_decay"] == 0.6) & (rows["quantity"] == NORM_AT), "value"] *= 1.5
    rows = rows[~((rows["n_train"] == 77) & (rows["weight_decay"] == 0.6))]  # fewer sizes, all of larger norm
    read = {name: value_of("efficiency", name)(rows) for name in (
        "memorising_costs_more_with_more_pairs", "generalising_costs_the_same", "memorising_is_steeper",
    )}  # fmt: skip
    assert list(read.values()) == pytest.approx([0.3, -0.05, 0.35])


def test_sizes_that_lie_close_together_have_no_slope():
    rows = nets(GENERALISING, lambda size: size**2.0, [1741, 2263])
    assert math.isnan(value_of("efficiency", "generalising_costs_the_same")(rows))


def test_children_of_a_parent_that_had_not_grokked_are_left_out():
    rows = pd.concat(
        [accuracies("a", {100: 0.1, 200: 0.9}, before=1.0), accuracies("a", {100: 0.5}, before=0.5, seed=1)]
    )
    assert points(rows, "a")["seed"].unique().tolist() == [0]


@pytest.mark.parametrize(
    ("accuracy", "expected"), [({100: 0.9, 200: 1.0}, (0.0, 100.0)), ({100: 0.0, 200: 0.1}, (200.0, math.inf))]
)
def test_a_midpoint_beyond_the_sizes_is_known_from_one_side(accuracy, expected):
    assert midpoint(accuracies("a", accuracy), "a") == expected


def test_midpoints_beyond_the_sizes_do_not_make_decays_agree():
    flat = dict.fromkeys((100, 200, 400), 1.0)
    turning = {100: 0.0, 200: 0.5, 400: 1.0}
    spread = value_of("ungrokking", "decay_does_not_move_it")

    def rows(*curves):
        pairs = zip((0.6, 1, 1.8), curves, strict=True)
        return pd.concat([accuracies(f"a+b, decay {decay:g}", curve, before=1.0) for decay, curve in pairs])

    assert spread(rows(turning, turning, turning)) == pytest.approx(1.0)
    assert math.isnan(spread(rows(flat, flat, flat))), "all turn somewhere below 100"
    assert spread(rows(turning, flat, turning)) == pytest.approx(2.0, rel=0.05), "200 over at most 100: not the same"


def test_midpoint_without_nets():
    assert all(map(math.isnan, midpoint(accuracies("a", {100: 0.9}, before=0.1), "a")))


def test_three_critical_sizes_and_their_ratios():
    """Norms cross at 400; ungrokking turns at 200, from scratch at 800."""
    down, up = "grokked, trained on with D pairs", "from scratch with D pairs"
    sizes = [100, 141, 200, 283, 400, 567, 800]
    rows = pd.concat(
        [
            nets(ROTE, lambda size: 26 * (size / 400) ** 0.3, [100, 200, 400, 800]),
            nets(GENERALISING, lambda _: 26.0, [1741, 2263]),
            accuracies(down, {size: float(1 / (1 + (200 / size) ** 8)) for size in sizes}, before=1.0),
            accuracies(up, {size: float(1 / (1 + (800 / size) ** 8)) for size in [400, 567, 800, 1131, 1600]}),
        ]
    )
    efficient = value_of("critical_dataset_size", "ungrokking_is_where_efficiency_turns")(rows)
    assert efficient == pytest.approx(2.0, rel=0.02)
    assert value_of("critical_dataset_size", "hysteresis")(rows) == pytest.approx(4.0, rel=0.02)
    at_567 = 1 / (1 + (200 / 567) ** 8) - 1 / (1 + (800 / 567) ** 8)
    assert value_of("critical_dataset_size", "history_decides")(rows) == pytest.approx(at_567, abs=0.01)

    figure = find_study("critical_dataset_size").figures["three_sizes"](rows)
    (label,) = (note for note in figure.layout.annotations if "equal efficiency" in note.text)
    assert label.x == pytest.approx(math.log10(400), abs=0.01), "words on a logarithmic axis"
    assert [shape.x0 for shape in figure.layout.shapes] == pytest.approx([400, 400], rel=0.02)


def test_a_midpoint_beyond_the_sizes_decides_hysteresis_from_one_side_only():
    down, up = "grokked, trained on with D pairs", "from scratch with D pairs"
    hysteresis = value_of("critical_dataset_size", "hysteresis")
    never, always, turning = {400: 0.0, 800: 0.1}, {400: 1.0, 800: 1.0}, {100: 0.0, 200: 0.5, 400: 1.0}
    at_least = pd.concat([accuracies(down, turning, before=1.0), accuracies(up, never)])
    assert hysteresis(at_least) == pytest.approx(4.0, rel=0.05), "more than 800 over 200"
    ungrokking_is_later = pd.concat([accuracies(down, {50: 0.0, 100: 0.1}, before=1.0), accuracies(up, turning)])
    assert math.isnan(hysteresis(ungrokking_is_later)), "200 over more than 100 may be 2 or less than 1"
    assert math.isnan(hysteresis(pd.concat([accuracies(down, always, before=1.0), accuracies(up, always)])))


def test_curves_that_do_not_cross_leave_the_ratio_untested():
    rows = pd.concat(
        [
            nets(ROTE, lambda _: 20.0, [100, 800]),
            nets(GENERALISING, lambda _: 26.0, [1741]),
            accuracies("grokked, trained on with D pairs", {100: 0.0, 200: 1.0}, before=1.0),
        ]
    )
    assert math.isnan(value_of("critical_dataset_size", "ungrokking_is_where_efficiency_turns")(rows))


def run_of(condition, curve, *, n=500):
    steps = range(0, 25_001, 100)
    return pd.DataFrame(
        {"condition": condition, "seed": 0, "step": step, "quantity": ACCURACY, "split": "test_unmirrored"}
        | {"value": float(np.interp(step, *curve)), "n": n}
        for step in steps
    )


def test_plateaus_are_counted_by_size_and_by_kind():
    conditions = [f"{share:g} of the pairs" for share in (0.23, 0.28, 0.325, 0.36, 0.4)]
    curves = [
        ([0, 25_000], [0.02, 0.02]),
        ([0, 5000, 5100, 25_000], [0.02, 0.02, 0.4, 0.4]),
        ([0, 5000, 5100, 15_000, 15_100, 25_000], [0.02, 0.02, 0.6, 0.6, 1.0, 1.0]),
        ([0, 5000, 9000, 25_000], [0.02, 0.02, 1.0, 1.0]),
        ([0, 1000, 2000, 25_000], [0.02, 0.02, 1.0, 1.0]),
    ]
    rows = pd.concat([run_of(*each) for each in zip(conditions, curves, strict=True)])
    read = {claim.name: claim.value(rows) for claim in find_study("semi_grokking").claims}
    assert read == {"accuracy_stops_half_way": 2.0, "some_end_half_way": 1.0, "often_transient": 0.5}


def test_without_plateaus_nothing_is_transient():
    conditions = [f"{share:g} of the pairs" for share in (0.23, 0.28, 0.325, 0.36, 0.4)]
    rows = pd.concat([run_of(condition, ([0, 25_000], [0.02, 0.02])) for condition in conditions])
    read = {claim.name: claim.value(rows) for claim in find_study("semi_grokking").claims}
    assert read["accuracy_stops_half_way"] == read["some_end_half_way"] == 0.0 and math.isnan(read["often_transient"])


def ablation(condition, *, known, solved, norm=30.0):
    """A run of 9,000 steps that knows its training pairs at one step and solves the others at another, or never."""
    rows = []
    for step in range(0, 9001, 50):
        rows += [
            {"step": step, "quantity": "train accuracy", "split": "train", "value": float(step >= known)},
            {"step": step, "quantity": ACCURACY, "split": "test_unmirrored", "value": float(step >= solved)},
            {"step": step, "quantity": "norm", "split": "all weights", "value": norm + min(step, 1000) / 100},
            {"step": step, "quantity": "softmax collapse", "split": "train", "value": 0.7},
        ]
    return pd.DataFrame(rows).assign(condition=condition, seed=0)


def test_delays_and_their_ratios_in_the_ablations():
    never = 10**9
    rows = pd.concat(
        [
            ablation("AdamW, decay 1", known=400, solved=3000),
            ablation("no decay", known=400, solved=never),
            ablation("no decay, loss in float32", known=400, solved=never),
            ablation("L2 in the loss", known=400, solved=1000),
            ablation("norm fixed", known=400, solved=800),
            ablation("larger norm fixed", known=300, solved=4500),
            ablation("norm fixed, logits times 4", known=250, solved=1000),
            ablation("norm fixed, logits times 0.25", known=500, solved=never),
        ]
    )
    assert {claim.name: claim.value(rows) for claim in find_study("ablations").claims} == pytest.approx(
        {
            "there_is_a_delay": 7.5,
            "without_decay_it_is_longer": 3.0,
            "float32_collapses": 0.7,
            "and_stalls": 0.0,
            "l2_in_the_loss_groks": 1.0,
            "the_norm_falls_before": 1.0,
            "held_at_a_small_norm_there_is_no_delay": 2.0,
            "held_at_a_larger_norm_it_is_longer": 7.5,
            "a_larger_output_scale_delays": (1000 / 250) / (9000 / 500),
        }
    )


def test_a_run_that_never_solves_counts_where_that_decides():
    def read(**settings):
        rows = ablation("norm fixed", **settings)
        return value_of("ablations", "held_at_a_small_norm_there_is_no_delay")(rows)

    assert read(known=400, solved=10**9) == 22.5, "longer than 9,000 steps: a delay, which refutes the claim"
    assert math.isnan(read(known=4000, solved=10**9)), "9,000 / 4,000 or more may be above 3 or not"
    assert math.isnan(read(known=10**9, solved=10**9))
    assert math.isnan(value_of("ablations", "the_norm_falls_before")(ablation("AdamW, decay 1", known=1, solved=10**9)))


def test_speeds_are_compared_at_one_probability():
    def learning(condition, split, step_learnt):
        steps = range(0, 3001, 10)
        values = [min(1.0, 0.9 * step / step_learnt) for step in steps]
        place = {"condition": condition, "split": split, "quantity": "probability of the answer", "seed": 0}
        return pd.DataFrame({"step": step, "value": value} | place for step, value in zip(steps, values, strict=True))

    rows = pd.concat(
        [
            learning("random labels of 0.4 of the pairs", "train", 400),
            learning("true labels of 0.65 of the pairs", "test_unmirrored", 1200),
            learning("true labels of 0.8 of the pairs", "test_unmirrored", 400),
        ]
    )
    read = [claim.value(rows) for claim in find_study("speed_of_learning").claims]
    assert read == pytest.approx([3.0, 1.0])
