"""Agreement of estimated with exact effects: scipy's correlations, a bootstrap by loop, and two impostors."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from small_nets import make_net, make_tokens
from transformer_lens.utilities.statistics import derive_generator

from circuit_lab.measures.attribution.attribution_agreement import (
    attribution_agreement,
    edge_agreement,
    node_agreement,
)
from circuit_lab.measures.attribution.attribution_patching import NODE_AXES, attribution_patching
from circuit_lab.measures.attribution.edge_attribution import edge_attribution_patching
from circuit_lab.measures.attribution.edges import all_edges
from circuit_lab.measures.attribution.path_patching import path_patching
from circuit_lab.measures.patching.activation_patching import activation_patching
from circuit_lab.measures.patching.query_pairs import QueryPairs
from circuit_lab.tasks import queries_from_tokens


def random_effects(n_cells=(3, 4), n=20, *, noise=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    exact = torch.randn(*n_cells, 1, generator=generator) + 0.3 * torch.randn(*n_cells, n, generator=generator)
    return (exact + noise * torch.randn(*n_cells, 1, generator=generator)).double(), exact.double()


def names(n):
    return [f"cell {i}" for i in range(n)]


def value(agreement, statistic, group="all", column="value"):
    frame = agreement.frame().set_index(["group", "statistic"])
    return frame.loc[(group, statistic), column]


def test_by_hand():
    """Five cells of two queries. Exact means 4, -3, 2, 0, 1; estimated 2, 1, -8, 0, 1.

    The fourth cell's exact effects are -1 and 1, so 0 is in its interval: 4 cells have a sign, of which the first and
    the last agree. The two largest exact effects are cells 0 and 1, the two largest estimates cells 2 and 0.
    """
    exact = torch.tensor([[3.0, 5.0], [-3.0, -3.0], [1.5, 2.5], [-1.0, 1.0], [1.0, 1.0]])
    approximate = torch.tensor([[2.0, 2.0], [0.0, 2.0], [-8.0, -8.0], [0.0, 0.0], [1.0, 1.0]])
    agreement = attribution_agreement(approximate, exact, labels=list("abcde"), groups=["x", "x", "x", "y", "y"])
    assert value(agreement, "sign_agreement") == 0.5
    assert value(agreement, "sign_agreement", column="n_cells") == 4
    by_group = [value(agreement, "sign_agreement", group) for group in "xy"]
    assert by_group == pytest.approx([1 / 3, 1])
    # Exact ranks 5, 1, 4, 2, 3; estimated ranks 5, 3.5, 1, 2, 3.5: products of deviations sum to 2, squares to 10, 9.5.
    assert value(agreement, "spearman") == pytest.approx(2 / 95**0.5)
    assert np.isnan(value(agreement, "pearson", "y"))  # two points
    missed = agreement.missed(2)
    assert list(missed["cell"]) == ["b"] and tuple(missed.loc[0, ["exact_rank", "approximate_rank"]]) == (2, 3)
    assert agreement.missed(5).empty
    assert list(agreement.cells_frame()["cell"]) == list("abced")
    assert agreement.groups == ("all", "x", "y") and agreement.n == 2


def test_correlations_equal_scipy():
    approximate, exact = random_effects()
    approximate[0, 1] = approximate[2, 2]  # a tie
    agreement = attribution_agreement(approximate, exact, labels=names(12), groups=["a"] * 5 + ["b"] * 7)
    for group, rows in (("all", slice(None)), ("a", slice(0, 5)), ("b", slice(5, None))):
        x, y = (side.mean(-1).flatten()[rows].numpy() for side in (approximate, exact))
        assert value(agreement, "pearson", group) == pytest.approx(pearsonr(x, y).statistic, abs=1e-12)
        assert value(agreement, "spearman", group) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


def test_intervals_are_a_bootstrap_over_queries():
    approximate, exact = random_effects(n=9)
    agreement = attribution_agreement(approximate, exact, labels=names(12), n_resamples=80, seed=4)
    drawn = torch.randint(0, 9, (80, 9), generator=derive_generator(4, "bootstrap", "agreement"))
    draws = []
    for rows in drawn:
        x, y = (side[..., rows].mean(-1).flatten().numpy() for side in (approximate, exact))
        draws.append((pearsonr(x, y).statistic, spearmanr(x, y).statistic))
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    for i, statistic in enumerate(("pearson", "spearman")):
        assert value(agreement, statistic, column="low") == pytest.approx(low[i], abs=1e-12)
        assert value(agreement, statistic, column="high") == pytest.approx(high[i], abs=1e-12)
        assert low[i] < value(agreement, statistic) < high[i]


def test_equal_and_unrelated_effects():
    _, exact = random_effects((40,))
    same = attribution_agreement(3 * exact, exact, labels=names(40))
    assert same.values[:, 0].tolist() == pytest.approx([1, 1, 1]) and same.missed(10).empty
    opposite = attribution_agreement(-exact, exact, labels=names(40))
    assert opposite.values[:, 0].tolist() == pytest.approx([-1, -1, 0]) and opposite.missed(10).empty
    shuffled = exact[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    unrelated = attribution_agreement(shuffled, exact, labels=names(40))
    assert unrelated.values[:2, 0].abs().max() < 0.35 and 0.2 < unrelated.values[2, 0] < 0.8
    assert len(unrelated.missed(10)) > 4


def test_a_side_that_does_not_vary_has_no_correlation():
    _, exact = random_effects((6,))
    flat = attribution_agreement(torch.zeros_like(exact), exact, labels=names(6))
    assert flat.values[:2, 0].isnan().all() and flat.low[:2, 0].isnan().all() and flat.values[2, 0] == 0


def test_idle_cells_are_left_out():
    """Cells that are 0 on both sides would raise a rank correlation; those that are 0 on one side count."""
    approximate, exact = random_effects((6,))
    plain = attribution_agreement(approximate, exact, labels=names(6))
    idle = torch.zeros(30, 20, dtype=torch.float64)
    rounding = 1e-7 * torch.ones_like(idle)
    padded = attribution_agreement(torch.cat([approximate, idle]), torch.cat([exact, rounding]), labels=names(36))
    torch.testing.assert_close(padded.values, plain.values)
    assert padded.n_cells.tolist() == [6] and len(padded.cells_frame()) == 36
    one_sided = attribution_agreement(torch.cat([approximate, idle]), torch.cat([exact, idle + 0.1]), labels=names(36))
    assert one_sided.n_cells.tolist() == [36] and one_sided.values[2, 0] < 0.2


def test_order_of_cells_and_global_randomness_do_not_matter():
    approximate, exact = random_effects()
    state = torch.get_rng_state()
    agreement = attribution_agreement(approximate, exact, labels=names(12))
    turned = attribution_agreement(approximate.flip(0), exact.flip(0), labels=names(12))
    torch.testing.assert_close(turned.values, agreement.values)
    torch.testing.assert_close(turned.low, agreement.low)
    assert torch.equal(torch.get_rng_state(), state)


def make_pairs(n=6):
    clean, corrupt = make_tokens(n, seed=1), make_tokens(n, seed=2)
    answers = make_tokens(n, seed=3, n_ctx=2, d_vocab=13)
    return QueryPairs(
        *(queries_from_tokens(t, a) for t, a in ((clean, answers[:, 0]), (corrupt, answers[:, 1]))), "all"
    )


def test_edges():
    net, pairs = make_net(), make_pairs()
    edges = all_edges(net)[::3]
    exact = path_patching(net, pairs, edges=edges, positions="each")
    approximate = edge_attribution_patching(net, pairs, edges=edges, positions="each", metric="probability")
    agreement = edge_agreement(approximate, exact)
    x, y = (side.mean(-1).flatten().numpy() for side in (approximate.effects, exact.effects("probability")))
    moved = np.abs(y) > 1e-12
    assert value(agreement, "pearson") == pytest.approx(pearsonr(x[moved], y[moved]).statistic, abs=1e-9)
    assert len(x) == len(agreement.labels) == 4 * len(edges)
    assert value(agreement, "pearson") > 0.5  # a random net is nearly linear
    assert set(agreement.groups) == {"all", "q", "k", "v", "mlp", "logits"}
    into_logits = sum(edge.reader.kind == "logits" for edge in edges) * 4
    # The logits are read at one position, and of the others nothing comes through.
    assert value(agreement, "pearson", "logits", "n_cells") == into_logits // 4
    assert f"{edges[2].label} @ 3" in agreement.labels


def test_nodes():
    net, pairs = make_net(), make_pairs()
    approximate = attribution_patching(net, pairs, kinds=["z", "mlp_out", "resid_pre"])
    exact = {kind: 2 * approximate.effects[kind] for kind in ("mlp_out", "z")}
    agreement = node_agreement(approximate, exact)
    assert agreement.values[:2].flatten().tolist() == pytest.approx([1] * 6)
    assert agreement.groups == ("all", "mlp_out", "z") and agreement.labels[:2] == ("mlp_out 0 @ 0", "mlp_out 0 @ 1")
    assert agreement.n_cells.tolist() == [9 + 27, 9, 27]  # at the last layer only the answer's position is read
    cells = agreement.cells_frame().set_index("cell")
    assert cells.loc["z 2.1 @ 3", "exact"] == pytest.approx(2 * float(approximate.effects["z"][2, 3, 1].mean()))


def test_bad_input():
    approximate, exact = random_effects()
    with pytest.raises(ValueError, match="got 11 labels and 11 groups for 12 cells"):
        attribution_agreement(approximate, exact, labels=names(11), groups=names(11))
    with pytest.raises(ValueError, match=r"needs cells and queries, got effects of shape \[3, 4, 0\]"):
        attribution_agreement(approximate[..., :0], exact[..., :0], labels=names(12))
    net, pairs = make_net(), make_pairs()
    edges = all_edges(net)[:4]
    exact, attributed = path_patching(net, pairs, edges=edges), edge_attribution_patching(net, pairs, edges=edges)
    for other in (
        edge_attribution_patching(net, pairs, edges=edges[::-1]),
        edge_attribution_patching(net, pairs, edges=edges, positions="each"),
        edge_attribution_patching(net, pairs, edges=edges, direction="noising"),
    ):
        with pytest.raises(ValueError, match="must be of the same edges, positions and direction"):
            edge_agreement(other, exact)
    for part in (pairs[:3], pairs[torch.arange(5, -1, -1)]):
        with pytest.raises(ValueError, match="must be of the same query pairs"):
            edge_agreement(attributed, path_patching(net, part, edges=edges))
    nodes = attribution_patching(net, pairs, kinds=["z"])
    with pytest.raises(ValueError, match="'mlp_out' was not attributed; there are z"):
        node_agreement(nodes, {"mlp_out": exact.values[0, :, :, 0]})
    with pytest.raises(ValueError, match=r"'z' has cells and queries \[3, 4, 3, 2\] on the exact side, \[3, 4, 3, 6\]"):
        node_agreement(nodes, {"z": nodes.effects["z"][..., :2]})


def test_nodes_have_the_cells_of_activation_patching():
    """Between runs that hardly differ the estimate is exact, cell by cell."""
    net, queries = make_net(), make_pairs().clean
    noise = 1e-4 * torch.randn(6, 4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pairs = QueryPairs(queries, queries, "noise", noise)
    kinds = [kind for kind in NODE_AXES if kind != "pos_mlp_out"]
    approximate = attribution_patching(net, pairs, kinds=kinds, metric="probability")
    results = [activation_patching(net, pairs, kind=kind) for kind in kinds]
    exact = {result.kind: result.values[1] - result.corrupt[1] for result in results}  # of the second metric
    for kind, effects in exact.items():
        scale = float(effects.abs().max())
        torch.testing.assert_close(approximate.effects[kind], effects, rtol=0, atol=1e-3 * scale)
        assert scale > 1e-8
    assert node_agreement(approximate, exact).values[:, 0].min() > 0.999
