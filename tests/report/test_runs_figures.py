"""The timeline of a run: what is drawn is what the diagnosis says."""

import pytest
from told_runs import STORY, told_run

from circuit_lab.report.figures import run_timeline_figure


@pytest.fixture(scope="module")
def run():
    return told_run(**STORY)


def test_lines_bands_marks_and_thresholds_are_those_of_the_run(run):
    figure = run_timeline_figure(run)
    lines = {trace.name: trace for trace in figure.data if trace.name is not None}
    frame = run.frame()
    assert set(lines) == set(frame["quantity"])
    assert list(lines["OOD"].x) == [10, 20, 30, 40, 50] and list(lines["OOD"].y) == list(STORY["OOD"])
    assert lines["OOD"].customdata[3] == "0.900 [0.860, 0.940], n = 100"
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert len(bands) == len(lines) and list(bands[0].y)[:2] == pytest.approx([0.46, 0.95])
    marks = {trace.customdata[0]: trace for trace in figure.data if trace.mode == "markers"}
    assert len(marks) == sum(crossing.step is not None for crossing in run.crossings)
    mark = marks["there (threshold 0.60): step 30 (after 20, by 30)"]
    assert (mark.x[0], mark.y[0]) == (30, 0.6)
    assert (mark.error_x.array[0], mark.error_x.arrayminus[0], mark.marker.symbol) == (0, 10, "star")
    drawn = {shape.y0 for shape in figure.layout.shapes}
    assert drawn == {crossing.threshold for crossing in run.crossings}
    assert "Yes: the circuit was there by step 30" in figure.layout.title.text.replace("<br>", " ")


def test_what_is_not_certain_has_an_open_star_and_a_missing_number_is_said(run):
    uncertain = run.crossing("OOD", "solved").__class__("OOD", "solved", 0.8, 40, 30, None, ())
    missing = [p if p.step != 20 else type(p)(20, p.quantity, None, None, None, 0, 0.8, "share") for p in run.timeline]
    figure = run_timeline_figure(run.model_copy(update={"crossings": (uncertain,), "timeline": tuple(missing)}))
    (mark,) = [trace for trace in figure.data if trace.mode == "markers"]
    assert (mark.marker.symbol, mark.error_x.array[0]) == ("star-open", 10)
    (line,) = [trace for trace in figure.data if trace.name == "OOD"]
    assert line.customdata[1] == "nothing to measure"


def test_every_unit_has_a_panel_and_long_runs_a_log_scale(run):
    norm = [type(p)(p.step, "weight norm", 30.0, None, None, 100, None, "norm") for p in run.timeline[:1]]
    figure = run_timeline_figure(run.model_copy(update={"timeline": (*run.timeline, *norm)}))
    titles = {axis.title.text for axis in (figure.layout.yaxis, figure.layout.yaxis2)}
    assert titles == {"share", "norm"} and figure.layout.xaxis.type == "linear"
    far = [*run.verdicts[:-1], type(run.verdicts[0])(9000, run.verdicts[0].verdict, 0.5, "c", "0")]
    assert run_timeline_figure(run.model_copy(update={"verdicts": tuple(far)})).layout.xaxis.type == "log"
