"""The panels of a two-hop report show the numbers of the diagnosis and its exhibits, with n, intervals and controls."""

import dataclasses

import pandas as pd
import pytest

from circuit_lab.measures import OutputSite, Place, Site, SiteRate
from circuit_lab.nets.controls.two_hop import fact_table_read_twice, split_bridge
from circuit_lab.report.figures.site_effects import site_effects_figure
from circuit_lab.report.panels.two_hop import two_hop_panels
from circuit_lab.verdict import diagnose
from circuit_lab.verdict.diagnosis import Diagnosis
from circuit_lab.verdict.exhibits import gather_exhibits


@pytest.fixture(scope="module")
def diagnosis(small_task):
    return diagnose((fact_table_read_twice(small_task.facts, d_vocab=small_task.d_vocab), small_task))


@pytest.fixture(scope="module")
def exhibits(diagnosis):
    return gather_exhibits(diagnosis)


@pytest.fixture(scope="module")
def panels(diagnosis, exhibits):
    return two_hop_panels(diagnosis, exhibits)


def title(figure):
    return figure.layout.title.text.replace("<br>", " ")


def test_groups_and_names_in_reading_order(panels):
    splits = ("train-inferred", "test-id", "hop1-ood", "hop2-ood", "test-ood")
    assert {group: list(figures) for group, figures in panels.items()} == {
        "Outcomes": ["outcomes"],
        "Transplants": [*(f"site-effects-{split}" for split in splits), "site-rates"],
        "Lens": ["bridge-lens-test-id", "bridge-lens-test-ood"],
        "Patching": ["patching-h", "patching-r1", "patching-r2", "edges-h", "edges-r1", "edges-r2"],
        "Attention": ["attention"],
        "Geometry": ["geometry"],
    }


def test_without_measurements_there_are_outcomes_alone(diagnosis):
    read = Diagnosis.model_validate_json(diagnosis.to_json())
    panels = two_hop_panels(read, None)
    assert {group: list(figures) for group, figures in panels.items()} == {"Outcomes": ["outcomes"]}
    bars = {bar.name: list(bar.x) for bar in panels["Outcomes"]["outcomes"].data}
    assert bars["circuit"] == [split.shares["circuit"] for split in diagnosis.outcomes]


def test_what_could_not_be_measured_leaves_no_empty_group(diagnosis, exhibits):
    bare = dataclasses.replace(exhibits, edges=None, patching={}, heads=None, geometry=None)
    assert list(two_hop_panels(diagnosis, bare)) == ["Outcomes", "Transplants", "Lens"]
    no_stages = dataclasses.replace(bare, site_effects=bare.site_effects.iloc[:0])
    assert list(two_hop_panels(diagnosis, no_stages)["Transplants"])[-1] == "site-rates"


def test_edges_are_shown_at_each_position(panels):
    at_r1 = panels["Patching"]["edges-r1"]
    assert title(at_r1).endswith("(n = 48), at r1")
    (grid,) = at_r1.data
    cell = list(grid.y).index("mlp 0"), list(grid.x).index("attn 1")
    assert grid.z[cell] == pytest.approx(56.0)  # from -28 to 28 logits: the bridge is the whole difference
    assert panels["Patching"]["edges-h"].data[0].z[cell] == 0.0


def test_names_are_short_where_a_small_page_has_no_room(diagnosis, exhibits, panels):
    outputs = OutputSite((Place(0, "attn_out", 1), Place(0, "mlp_out", 1)))
    candidates = (*diagnosis.measurements.located.candidates, SiteRate(outputs, 0.5, 0.5, 79))
    located = dataclasses.replace(diagnosis.measurements.located, candidates=candidates)
    more = dataclasses.replace(diagnosis.measurements, located=located)
    figure = two_hop_panels(diagnosis.model_copy(update={"measurements": more}), exhibits)["Transplants"]["site-rates"]
    assert list(figure.layout.yaxis.tickvals)[-1] == "attn_out 0 & mlp_out 0" == figure.data[0].y[-1]
    assert list(figure.layout.yaxis.ticktext) == ["resid_post 0", "2 outputs"]
    assert list(panels["Geometry"]["geometry"].layout.xaxis2.ticktext) == ["e", "0", "1"]


def effects(rate=0.5, control=0.1):
    """Two stages, positions and all tests, by hand; only one site is located."""
    rows = [
        {
            "split": split,
            "test": test,
            "stage": stage,
            "position": position,
            "located": (stage, position) == ("resid_post 1", "b"),
            "rate": rate + number / 100,
            "low": rate - 0.2,
            "high": rate + 0.25,
            "n": 10 + (test == "hop2"),
            "n_transplants": 31,
            "control": control,
        }
        for split in ("train", "test")
        for stage in ("resid_post 0", "resid_post 1")
        for position in ("a", "b")
        for number, test in enumerate(("hop1", "hop2", "interchange"))
    ]
    return pd.DataFrame(rows)


def test_site_effects_figure_by_hand():
    frame = effects()
    frame.loc[frame["split"] == "train", "rate"] = 0.9
    figure = site_effects_figure(frame, split="test")
    assert [(t.name, t.xaxis) for t in figure.data] == [
        (name, axis) for axis in ("x", "x2") for name in ("hop 1", "hop 2", "interchange", "its control")
    ]
    hop2_at_b = figure.data[5]
    assert list(hop2_at_b.x) == [0.51, 0.51] and list(hop2_at_b.y) == [0.0, 1.0]
    assert list(hop2_at_b.error_x.arrayminus) == pytest.approx([0.21] * 2)
    assert list(hop2_at_b.error_x.array) == pytest.approx([0.24] * 2)
    assert list(hop2_at_b.customdata[1]) == ["resid_post 1", 0.3, 0.75, 0.1]
    assert "hop 2 at %{customdata[0]} @ b" in hop2_at_b.hovertemplate
    assert "n = 11 queries, 31 transplants" in hop2_at_b.hovertemplate
    assert list(figure.data[7].x) == [0.1] * 6 and sorted(figure.data[7].y) == pytest.approx(
        [-0.26, 0.0, 0.26, 0.74, 1.0, 1.26]
    )
    (band,) = figure.layout.shapes
    assert (band.xref, band.yref, band.y0, band.y1) == ("x2", "y2", 0.5, 1.5)
    assert list(figure.layout.yaxis.ticktext) == ["resid_post 0", "resid_post 1"]
    assert [note.text for note in figure.layout.annotations] == ["a", "b"]
    assert "on test: share of queries" in title(figure) and "(n = 10 to 11), and control" in title(figure)
    assert sum(trace.showlegend for trace in figure.data) == 4


def test_site_effects_of_an_unknown_split_are_refused():
    with pytest.raises(ValueError, match="no site effects on 'valid'; there are some on train, test"):
        site_effects_figure(effects(), split="valid")


def test_sites_of_several_positions_come_from_the_evidence(diagnosis, exhibits):
    joint = Site("resid_post 0", (0, 1))
    located = dataclasses.replace(diagnosis.measurements.located, sites=(joint,))
    moved = diagnosis.model_copy(
        update={
            "measurements": dataclasses.replace(diagnosis.measurements, located=located),
            "evidence": tuple(
                dataclasses.replace(row, site="resid_post 0 @ h+r1") if row.site == "resid_post 0 @ r1" else row
                for row in diagnosis.evidence
            ),
        }
    )
    single = dataclasses.replace(exhibits, site_effects=exhibits.site_effects.assign(located=False))
    figure = two_hop_panels(moved, single)["Transplants"]["site-effects-test-ood"]
    number = moved.number("hop2", "test_ood", "resid_post 0 @ h+r1")
    (hop2,) = [trace for trace in figure.data if (trace.name, trace.xaxis) == ("hop 2", "x4")]
    assert (list(hop2.x), hop2.customdata[0][1]) == ([number.value], number.low)
    assert f"n = {number.n} queries" in hop2.hovertemplate and number.n > 32
    assert [(band.xref, band.yref) for band in figure.layout.shapes] == [("x4", "y4")]


@pytest.mark.slow
def test_located_sites_of_several_positions_stand_beside_the_single_ones(small_task):
    diagnosis = diagnose((split_bridge(small_task.facts, d_vocab=small_task.d_vocab), small_task), n_partners=3)
    assert diagnosis.sites == ("resid_post 0 @ h+r1",)
    figure = two_hop_panels(diagnosis, gather_exhibits(diagnosis))["Transplants"]["site-effects-test-ood"]
    assert [note.text for note in figure.layout.annotations] == ["h", "r1", "r2", "h+r1"]
    joint = {trace.name: trace for trace in figure.data if trace.xaxis == "x4"}
    number = diagnosis.number("hop1", "test_ood", "resid_post 0 @ h+r1")
    assert list(joint["hop 1"].x) == [number.value] == [1.0]
    assert f"n = {number.n} queries" in joint["hop 1"].hovertemplate
    (band,) = figure.layout.shapes
    assert band.xref == "x4"
