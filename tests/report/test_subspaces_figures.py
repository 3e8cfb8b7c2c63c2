"""Figures of subspaces: each shows its result's numbers, n, chance and controls, and calls no net."""

import pytest
import torch
from full_world import D_VOCAB, make_world

from circuit_lab.measures.readings.cka import lens_site_cka
from circuit_lab.measures.readings.geometry import bridge_geometry
from circuit_lab.measures.sites import Site
from circuit_lab.measures.subspaces.cross_interchange import cross_interchange
from circuit_lab.measures.subspaces.das import SUBSPACES, DasBudget, bridge_das
from circuit_lab.measures.subspaces.path_identity import PathIdentity, grid_similarity, site_overlap
from circuit_lab.measures.two_hop.locate import LocatedSites, SiteRate
from circuit_lab.nets.controls.two_hop import fact_table_read_twice
from circuit_lab.report.figures.geometry import geometry_figure
from circuit_lab.report.figures.subspaces import cka_figure, das_figure, path_identity_figure

FACTS, QUERIES = make_world()


@pytest.fixture(scope="module")
def net():
    return fact_table_read_twice(FACTS, d_vocab=D_VOCAB)


@pytest.fixture(scope="module")
def das(net):
    stages, budget = ["embed", "resid_post 0"], DasBudget(epochs=1)
    return bridge_das(net, QUERIES, QUERIES, stages=stages, position="r1", ranks=(2, 4), n_pairs=200, budget=budget)


@pytest.mark.parametrize("pairs", ["held_out", "train"])
def test_das_figure(das, pairs):
    figure = das_figure(das, pairs=pairs)
    frame = das.frame()
    frame = frame[frame["pairs"] == pairs]
    assert {bar.name for bar in figure.data} == set(SUBSPACES)
    for index, bar in enumerate(figure.data):
        stage = das.stages[index // len(SUBSPACES)]
        rows = frame[(frame["stage"] == stage) & (frame["subspace"] == bar.name)]
        assert list(bar.x) == ["2", "4"] and list(bar.y) == list(rows["accuracy"])
        assert list(bar.error_y.array) == pytest.approx(list(rows["high"] - rows["accuracy"]))
        assert list(bar.error_y.arrayminus) == pytest.approx(list(rows["accuracy"] - rows["low"]))
    title, n = figure.layout.title.text, frame["n"].iloc[0]
    chance = frame["chance"].iloc[0]
    assert f"n = {n} " in title and f"chance {chance:.3f}" in title
    assert pairs.replace("_", "-").removesuffix("-").replace("train", "training") in title
    assert all(line.y0 == chance for line in figure.layout.shapes) and len(figure.layout.shapes) == 2
    assert [a.text for a in figure.layout.annotations] == ["embed @ r1", "resid_post 0 @ r1"]


def test_das_figure_of_unknown_pairs(das):
    with pytest.raises(ValueError, match="pairs must be one of held_out, train, got 'test'"):
        das_figure(das, pairs="test")


@pytest.mark.parametrize("states", ["raw", "centred"])
def test_geometry_figure(net, states):
    geometry = bridge_geometry(net, {"one": QUERIES[::2], "two": QUERIES[1::2]}, n_resamples=20)
    figure = geometry_figure(geometry, states=states)
    frame = geometry.frame()
    bands, lines = figure.data[::2], figure.data[1::2]
    assert len(lines) == 3 * 3 * 3 and "corroborates only" in figure.layout.title.text
    assert f"of {states} states" in figure.layout.title.text
    line = lines[2 * 9 + 1 * 3 + 1]  # third position, second pair of splits, second kind
    rows = frame[
        (frame["states"] == states)
        & (frame["position"] == "r2")
        & (frame["split_a"] == "one")
        & (frame["split_b"] == "two")
        & (frame["pairs"] == "between")
    ]
    assert line.name == f"between, one x two ({int(geometry.n_bridges[1])} bridges)"
    assert list(line.x) == list(geometry.stages) and list(line.y) == list(rows["cosine"])
    assert list(bands[2 * 9 + 1 * 3 + 1].y) == [*rows["high"], *reversed(list(rows["low"]))]
    with pytest.raises(ValueError, match="states must be one of raw, centred, got 'normed'"):
        geometry_figure(geometry, states="normed")


def test_cka_figure(net):
    cka = lens_site_cka(net, QUERIES, position="r1")
    figure = cka_figure(cka)
    assert torch.equal(torch.tensor(figure.data[0].z), cka.cka)
    assert "at r1 (n = 60 distinct" in figure.layout.title.text
    assert f"{float(cka.low[0, 1]):.2f}" in figure.data[0].customdata[0][1]
    assert f"{float(cka.permuted[0, 1]):.2f}" in figure.data[0].customdata[0][1]


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def identity(net):
    candidates = tuple(SiteRate(Site("resid_post 0", (i,)), 0.9 - 0.2 * i, 0.9 - 0.2 * i, 100) for i in range(3))
    sites = LocatedSites((candidates[0].site,), True, candidates, ("h", "r1", "r2"))
    site = {"stage_a": "resid_post 0", "stage_b": "resid_post 0", "position": "r1"}
    return PathIdentity(
        "net A",
        "net B",
        grids=grid_similarity(draw(5, 9, seed=0), draw(5, 8, seed=1), untrained=draw(5, 7, seed=2)),
        sites=site_overlap(sites, sites),
        interchange=cross_interchange(net, net, QUERIES, QUERIES, **site, n_pairs=100),
    )


def test_path_identity_figure(identity):
    figure = path_identity_figure(identity)
    frame = identity.frame()
    measured = {part: frame[frame["part"] == part] for part in ("grids", "sites", "interchange")}
    for bar, part in ((figure.data[0], "grids"), (figure.data[2], "sites"), (figure.data[4], "interchange")):
        assert list(bar.y) == list(measured[part]["value"])
    grids = measured["grids"]
    assert list(figure.data[1].base) == list(grids["permuted_low"])
    assert list(figure.data[1].base + figure.data[1].y) == pytest.approx(list(grids["permuted_high"]))
    assert figure.data[3].y[0] == pytest.approx(identity.sites.chance_jaccard)
    assert set(figure.data[5].y) == {identity.interchange.chance}
    title = figure.layout.title.text
    assert "net A against net B" in title and "5 cells of 9 and 8 queries" in title
    assert f"{identity.interchange.hits.shape[1]} pairs" in title


def test_a_path_identity_in_part(identity):
    """What was not measured has no panel."""
    figure = path_identity_figure(PathIdentity("a", "b", sites=identity.sites))
    assert len(figure.layout.annotations) == 1 and len(figure.data) == 2
    assert all(bar.showlegend for bar in figure.data)
