"""Figures and page of a calibration: they show the result's numbers, n, intervals and lines, and compute nothing."""

import re
from dataclasses import replace

import numpy as np
import pytest
from calibration_records import readings, record

from circuit_lab.report.calibration_page import calibration_readme, write_calibration
from circuit_lab.report.figure_files import _with_stable_ids
from circuit_lab.report.figures.calibration import (
    calibration_figures,
    confusion_figure,
    degradation_figure,
    reliability_figure,
    threshold_figure,
)
from circuit_lab.verdict.calibration import Perturbation, Settings, summarise

TRUE, FAKE, MEMO = "true_circuit", "fake_grokking", "memorising"


def half(held_out):
    """Five controls, one of them misjudged and one unsure; one of them rotated, noisy and with fewer queries."""
    sure = [record(TRUE, TRUE, name=f"{held_out}/true{i}", readings=readings(through=0.9)) for i in range(2)]
    table = record(FAKE, FAKE, name=f"{held_out}/fake", readings=readings(through=0.1))
    wrong = record(MEMO, TRUE, name=f"{held_out}/wrong", kind="memorising", confidence=0.8)
    unsure = record(
        TRUE, "inconclusive", name=f"{held_out}/unsure", confidence=0.6, candidates={TRUE: 0.6, "semi_grokked": 0.4}
    )
    rotated = record(
        TRUE, TRUE, name=f"{held_out}/true0/r", kind="perturbed", perturbation=Perturbation(sure[0].name, "rotation")
    )
    noisy = [
        record(
            None,
            verdict,
            name=f"{held_out}/true0/n{std}",
            kind="perturbed",
            scored=False,
            perturbation=Perturbation(sure[0].name, "noise", std),
        )
        for std, verdict in ((0.1, TRUE), (0.5, "untrained"))
    ]
    fewer = record(TRUE, "inconclusive", name=sure[0].name, settings=Settings(max_queries_per_split=50))
    made = [*sure, table, wrong, unsure, rotated, *noisy, fewer]
    return [r.model_copy(update={"held_out": held_out}) for r in made]


@pytest.fixture(scope="module")
def calibration():
    return summarise([*half(False), *half(True)])


def title_of(figure):
    return figure.layout.title.text.replace("<br>", " ")


def test_confusion_figure(calibration):
    figure = confusion_figure(calibration.known_answer, title="Controls")
    heat, matrix = figure.data[0], calibration.known_answer[0].confusion
    assert np.array_equal(np.where(heat.text == "", "0", heat.text).astype(int), np.array(matrix.counts))
    assert np.allclose(heat.z, np.array(matrix.counts) / np.array(matrix.counts).sum(1, keepdims=True))
    assert list(heat.y) == ["memorising (1)", "fake grokking (1)", "true circuit (3)"]
    f1 = calibration.known_answer[0].macro_f1
    notes = [note.text for note in figure.layout.annotations]
    assert f"macro-F1 {f1.value:.3f} [{f1.low:.3f}, {f1.high:.3f}]" in notes[0] and "n = 5" in notes[0]
    assert "Controls" in title_of(figure)


def test_reliability_figure(calibration):
    identity, development, held_out = reliability_figure(calibration.known_answer).data
    assert list(identity.x) == list(identity.y) == [0, 1]
    bins = [b for b in calibration.known_answer[0].reliability.bins if b.right.n]
    assert list(development.x) == [b.confidence for b in bins] and list(development.y) == [b.right.value for b in bins]
    assert development.error_y.array[0] == pytest.approx(bins[0].right.high - bins[0].right.value)
    assert [int(text) for text in development.text] == [b.right.n for b in bins] and "held-out" in held_out.name


def test_degradation_figure(calibration):
    figure = degradation_figure(calibration.noise, title="Noise", unit="share")
    right = figure.data[0]
    assert list(right.y) == [1.0, 1.0, 0.0] and list(right.x) == ["0<br>n = 1", "0.1<br>n = 1", "0.5<br>n = 1"]
    chance = next(trace for trace in figure.data if trace.name.startswith("chance"))
    assert list(chance.y) == [1.0, 1.0, 1.0]
    queries = degradation_figure(calibration.queries, title="Queries", unit="queries")
    assert list(queries.data[0].x) == ["50<br>n = 1", "all<br>n = 1"] and list(queries.data[1].y) == [1.0, 0.0]


def test_threshold_figure(calibration):
    figure = threshold_figure(calibration.thresholds)
    scan = calibration.thresholds[3]
    assert list(figure.data[3].x) == list(scan.values) and list(figure.data[3].y) == list(scan.f1)
    plateau, used = figure.layout.shapes[6:8]
    assert (plateau.x0, plateau.x1, used.x0) == (scan.best_low, scan.best_high, scan.in_use)
    assert f"n = {scan.n}" in title_of(figure) and "development half" in title_of(figure)


def test_readme_states_every_score(calibration):
    text = calibration_readme(calibration, images=("confusion",))
    held_out = calibration.known_answer[1]
    assert f"{held_out.macro_f1.value:.3f} [{held_out.macro_f1.low:.3f}, {held_out.macro_f1.high:.3f}], n = 5" in text
    assert "1 of 1, at most 100.00 %" in text and "![Confusion matrices of both halves](confusion.svg)" in text
    assert "| True/wrong | held-out | memorising | true_circuit | 0.80 | true_circuit 0.80 |" in text
    assert "noise.svg" not in text and "\n\n\n\n" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    widths = {line.count("|") for line in rows if "two-hop | `" in line}
    assert len(widths) == 1 and len([r for r in rows if "two-hop | `" in r]) == len(calibration.thresholds)


def test_tables_of_the_readme_are_whole(calibration):
    """A row has as many cells as its table's first line, and a blank line stands before every table."""
    lines, width = calibration_readme(calibration).splitlines(), None
    for above, line in zip(["", *lines], lines, strict=False):
        if not line.startswith("|"):
            width = None
            continue
        if width is None:
            assert above == "", line
            width = line.count("|")
        assert line.count("|") == width, line


def test_trained_controls_have_tables_of_their_own(calibration):
    trained = [r.model_copy(update={"family": "trained/two_hop"}) for r in half(True)[:5]]
    both = summarise([*half(False), *trained])
    assert "## Trained controls" in calibration_readme(both) and "## Trained" not in calibration_readme(calibration)
    assert "confusion_trained" in calibration_figures(both) and both.known_answer[1].macro_f1.n == 0


def test_a_page_without_svg(calibration, tmp_path):
    written = write_calibration(calibration, tmp_path / "a" / "b", svg=False)
    assert [path.name for path in written] == ["calibration.json", "README.md", "figures.html"]
    page = written[2].read_text()
    assert page.count("plotly-graph-div") == len(calibration_figures(calibration))
    assert "cdn." not in page.split("<body>")[1]
    assert "Figures: `figures.html`" in written[1].read_text()
    assert "<h1>How far the verdicts can be trusted</h1>" in written[2].read_text(encoding="utf-8")


def test_svg_without_its_library_is_one_clear_error(calibration, tmp_path, monkeypatch):
    def no_kaleido(*_, **__):
        raise ValueError("\nImage export requires the Kaleido package\n")

    monkeypatch.setattr("plotly.graph_objects.Figure.to_image", no_kaleido)
    with pytest.raises(ValueError, match="cannot draw confusion.svg: Image export .* pip install 'circuit-lab"):
        write_calibration(calibration, tmp_path, svg=True)


def test_random_ids_of_a_drawing_are_numbered():
    drawn = b'<defs id="defs-56f012"/><p id="clip56f012xy"/><g class="trace0d8bbd" clip="#clip56f012xy" d="M56f012"/>'
    other = drawn.replace(b"56f012x", b"d369f6x").replace(b"defs-56f012", b"defs-d369f6").replace(b"0d8bbd", b"a1b2c3")
    assert _with_stable_ids(drawn) == _with_stable_ids(other) != drawn
    assert b"M56f012" in _with_stable_ids(drawn) and re.search(rb"clip000000xy.*clip000000xy", _with_stable_ids(drawn))


def test_figures_do_not_change_what_they_draw(calibration):
    before = calibration.to_json()
    calibration_figures(calibration)
    assert calibration.to_json() == before and replace(calibration) == calibration
