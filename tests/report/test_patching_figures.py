"""Figures of activation patching and causal tracing: what they draw is what the results say."""

from dataclasses import replace

import pytest
import torch
from small_nets import make_net, make_tokens

from circuit_lab.measures.intervals import MeanInterval
from circuit_lab.measures.patching.activation_patching import activation_patching
from circuit_lab.measures.patching.causal_tracing import CausalTracing, StateEffects
from circuit_lab.measures.patching.query_pairs import QueryPairs
from circuit_lab.report.figures.patching import activation_patching_figure, causal_tracing_figure
from circuit_lab.tasks import queries_from_tokens


@pytest.fixture(scope="module")
def pairs():
    answers = torch.arange(12).view(2, 6)
    queries = [
        queries_from_tokens(make_tokens(6, seed=seed), answers[seed - 1], position_names="abcd") for seed in (1, 2)
    ]
    return QueryPairs(*queries, "a")


@pytest.mark.parametrize(
    ("kind", "positions", "shape", "corner"),
    [
        ("resid", "each", (4, 4), ("resid_post 2", "d")),
        ("resid", "all", (4, 1), ("resid_post 2", "all")),
        ("z", "each", (9, 4), ("z 2.2", "d")),
        ("z", "all", (3, 3), ("z 2", "head 2")),
        ("pattern_entry", "each", (9, 16), ("pattern_entry 2.2", "d to d")),
        ("pattern_entry", "all", (3, 12), ("pattern_entry 2", "head 2 to d")),
    ],
)
def test_rows_and_columns_of_a_grid(pairs, kind, positions, shape, corner):
    result = activation_patching(make_net(), pairs, kind=kind, positions=positions)
    figure = activation_patching_figure(result, metric="kl", show="mean")
    (trace,) = figure.data
    assert trace.z.shape == shape
    assert (trace.y[-1], trace.x[-1]) == corner
    last = result.metric("kl").mean(-1).flatten()[-1]
    assert trace.z[-1, -1] == pytest.approx(float(last))


def test_which_cell_is_drawn_where(pairs):
    """Head 1 of layer 2 at position c, by its labels."""
    result = activation_patching(make_net(), pairs, kind="z", direction="noising")
    share = result.recovered("kl")
    figure = activation_patching_figure(result, metric="kl")
    (trace,) = figure.data
    row, column = list(trace.y).index("z 2.1"), list(trace.x).index("c")
    assert trace.z[row, column] == pytest.approx(float(share.mean[2, 2, 1]))
    interval = f"{float(share.low[2, 2, 1]):.3f} to {float(share.high[2, 2, 1]):.3f}"
    assert trace.customdata[row, column] == f"95 % interval {interval}"
    assert trace.zmin == -trace.zmax
    title = figure.layout.title.text
    assert "Noising patches of z, changed: a" in title and "recovered share of kl" in title
    assert f"n = 6; clean 0.00, corrupt {float(result.corrupt[4].mean()):.2f}" in title


def test_a_share_of_no_difference_is_refused(pairs):
    result = activation_patching(make_net(), pairs, kind="resid")
    same = replace(result, clean=result.corrupt)
    with pytest.raises(ValueError, match='the two runs do not differ in rank, .* give show="mean"'):
        activation_patching_figure(same, metric="rank")
    figure = activation_patching_figure(same, metric="accuracy", show="mean")
    assert (figure.data[0].zmin, figure.data[0].zmax) == (0, 1)
    with pytest.raises(ValueError, match="show must be"):
        activation_patching_figure(result, show="both")


def interval(values, width=0.1):
    mean = torch.tensor(values)
    return MeanInterval(mean=mean, low=mean - width, high=mean + width)


@pytest.fixture(scope="module")
def tracing():
    """A chain: h at the embedding, r1 after layer 0, r2 after layer 1."""
    lost = interval([[0.9, 0.1, 0.2], [0.0, 0.8, 0.3], [0.0, 0.0, 1.0]])
    effects = tuple(
        StateEffects(change, lost, interval([[-0.5] * 3] * 3), n=7 + i, n_wrong=1, n_dropped=2)
        for i, change in enumerate(("h", "same_bridge"))
    )
    lens = interval([[0.1, 0.9, 1.0], [0.2, 0.3, 0.4]], width=0.05)
    return CausalTracing(
        sites=("embed", "resid_post 0", "resid_post 1"),
        position_names=("h", "r1", "r2"),
        effects=effects,
        lens_mrr=lens,
        n_lens=9,
        mrr_chance=0.25,
        threshold=0.5,
        causal=True,
        reads=((), (0,), (1,)),
    )


def test_causal_tracing(tracing):
    figure = causal_tracing_figure(tracing, split="test_id")
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    assert len(maps) == 2 and maps[0].z[1, 1] == pytest.approx(0.8)
    assert maps[0].customdata[1, 1] == "95 % interval 0.700 to 0.900"
    edges = [trace for trace in figure.data if trace.type == "scatter" and trace.line.width == 4]
    assert edges[0].x == ("h", "r1", None, "r1", "r2", None)
    assert edges[0].y == ("embed", "resid_post 0", None, "resid_post 0", "resid_post 1", None)
    assert edges[1].x == ()  # the placebo's states are no part of the circuit
    lines = {trace.name: trace for trace in figure.data if trace.name}
    assert lines["b at r1"].y == pytest.approx([0.1, 0.9, 1.0])
    assert lines["r2 at r2"].error_y.arrayminus == pytest.approx([0.05, 0.05, 0.05])
    assert set(lines["chance"].y) == {0.25}
    titles = [annotation.text for annotation in figure.layout.annotations]
    assert titles[:2] == ["h changed<br>n = 7", "placebo: same bridge<br>n = 8"]
    assert "test_id" in figure.layout.title.text and "n = 9, corroborates only" in figure.layout.title.text
