"""The timeline of a run: what is drawn is what the diagnosis says."""

from itertools import pairwise

import pytest
from told_runs import STORY, told_run

from circuit_lab.report.figures import run_timeline_figure
from circuit_lab.report.figures.runs import VERDICT_MARKS
from circuit_lab.report.panels.runs import run_panels
from circuit_lab.verdict import RunDiagnosis, Verdict
from circuit_lab.verdict.runs import Phase, Phases, StepVerdict

STEPS = [10, 20, 30, 40, 50]


@pytest.fixture(scope="module")
def run():
    return told_run(**STORY)


def traces_of(figure, name):
    return [trace for trace in figure.data if trace.name == name]


def hover_of(figure, name):
    """What is said of a quantity at each step."""
    (trace,) = [trace for trace in traces_of(figure, name) if trace.hovertemplate is not None]
    assert name in trace.hovertemplate
    return dict(zip(trace.x, trace.customdata, strict=True))


def test_lines_bands_marks_and_thresholds_are_those_of_the_run(run):
    figure = run_timeline_figure(run)
    lines = {trace.name: trace for trace in figure.data if trace.mode == "lines+markers"}
    assert set(lines) == set(run.frame()["quantity"])
    assert list(lines["OOD"].x) == STEPS and list(lines["OOD"].y) == list(STORY["OOD"])
    assert hover_of(figure, "OOD")[40].startswith("0.900 [0.860, 0.940], n = 100<br>solved (threshold 0.80): step 40")
    assert hover_of(figure, "OOD")[50] == "0.300 [0.260, 0.340], n = 100"
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert len(bands) == len(lines) and list(bands[0].y)[:2] == pytest.approx([0.46, 0.95])
    marks = [trace for trace in figure.data if trace.error_x.array is not None]
    assert len(marks) == sum(crossing.step is not None for crossing in run.crossings)
    (mark,) = [m for m in marks if m.legendgroup == "mediation, training" and m.y[0] == 0.6]
    assert mark.x[0] == 30
    assert (mark.error_x.array[0], mark.error_x.arrayminus[0], mark.marker.symbol) == (0, 10, "star")
    drawn = {shape.y0 for shape in figure.layout.shapes}
    assert drawn == {crossing.threshold for crossing in run.crossings}
    assert "Yes: the circuit was there by step 30" in figure.layout.title.text.replace("<br>", " ")


def test_what_is_not_certain_has_an_open_star_and_a_missing_number_is_said(run):
    uncertain = run.crossing("OOD", "solved").__class__("OOD", "solved", 0.8, 40, 30, None, ())
    missing = [p if p.step != 20 else type(p)(20, p.quantity, None, None, None, 0, 0.8, "share") for p in run.timeline]
    figure = run_timeline_figure(run.model_copy(update={"crossings": (uncertain,), "timeline": tuple(missing)}))
    (mark,) = [trace for trace in figure.data if trace.error_x.array is not None]
    assert (mark.marker.symbol, mark.error_x.array[0]) == ("star-open", 10)
    assert hover_of(figure, "OOD")[20] == "nothing to measure"


def test_a_step_without_a_number_says_so_and_nothing_is_drawn_there(run):
    """Of another step's point nothing may be shown in its place."""
    points = tuple(p for p in run.timeline if (p.step, p.quantity) != (30, "ID"))
    figure = run_timeline_figure(run.model_copy(update={"timeline": points}))
    said = hover_of(figure, "ID")
    assert list(said) == STEPS and said[30] == "nothing to measure" and said[40].startswith("0.900")
    line, carrier = traces_of(figure, "ID")
    assert list(line.x) == [10, 20, 40, 50] and line.hoverinfo == "skip" and carrier.marker.opacity == 0


def test_every_unit_has_a_panel_and_long_runs_a_log_scale(run):
    norm = [type(p)(p.step, "weight norm", 30.0, None, None, 100, None, "norm") for p in run.timeline[:1]]
    figure = run_timeline_figure(run.model_copy(update={"timeline": (*run.timeline, *norm)}))
    axes = [getattr(figure.layout, f"yaxis{i}") for i in (2, 3, 4, 5)]
    assert [axis.title.text for axis in axes] == ["accuracy (share)", "hops (share)", "circuit (share)", "norm"]
    assert figure.layout.xaxis.type == "linear" and figure.layout.xaxis.anchor == "y5"
    domains = [figure.layout.yaxis.domain, *(axis.domain for axis in axes)]
    assert all(above[0] > below[1] for above, below in pairwise(domains))
    far = [*run.verdicts[:-1], type(run.verdicts[0])(9000, run.verdicts[0].verdict, 0.5, "c", "0")]
    assert run_timeline_figure(run.model_copy(update={"verdicts": tuple(far)})).layout.xaxis.type == "log"


def test_all_panels_share_one_axis_and_every_step_has_its_words(run):
    """What linked hover needs: plotly.js joins subplots of one x axis."""
    figure = run_timeline_figure(run)
    assert {trace.xaxis for trace in figure.data} <= {None, "x"} and {trace.yaxis for trace in figure.data} > {
        "y2",
        "y4",
    }
    assert (figure.layout.hovermode, figure.layout.hoversubplots) == ("x unified", "axis")
    speaking = [trace for trace in figure.data if trace.hoverinfo != "skip"]
    assert {trace.name for trace in speaking} == {"verdict", *run.frame()["quantity"]}
    assert all(list(trace.x) == STEPS and len(trace.customdata) == 5 for trace in speaking)


def test_the_strip_shows_verdicts_and_phases(run):
    verdicts = ("untrained", "memorising", "id_circuit", "true_circuit", "true_circuit")
    told = run.model_copy(
        update={
            "verdicts": tuple(
                StepVerdict(step, Verdict(v), 0.9, "c", "0") for step, v in zip(STEPS, verdicts, strict=True)
            ),
            "phases": Phases(Phase(10, 30, True, "learnt"), None, Phase(30, 50, False, "rises")),
        }
    )
    figure = run_timeline_figure(told)
    (true,) = traces_of(figure, "true circuit")
    assert (list(true.x), set(true.y), true.marker.symbol) == ([40, 50], {"verdict"}, "star")
    said = hover_of(figure, "verdict")
    assert said[10] == "untrained (confidence 0.90)<br>memorisation, steps 10 to 30: learnt"
    assert said[30] == (
        "id circuit (confidence 0.90)<br>memorisation, steps 10 to 30: learnt"
        "<br>clean-up, steps 30 to 50 or later: rises"
    )
    bars = {trace.y[0]: trace for trace in figure.data if trace.line.width == 10}
    assert {name: (*bar.x, bar.line.dash) for name, bar in bars.items()} == {
        "memorisation": (10, 30, "solid"),
        "clean-up": (30, 50, "dot"),
    }
    assert list(figure.layout.yaxis.categoryarray) == ["clean-up", "memorisation", "verdict"]


def test_every_verdict_has_a_mark_of_its_own():
    assert set(VERDICT_MARKS) == set(Verdict) and len(set(VERDICT_MARKS.values())) == len(Verdict)


def test_a_run_read_from_json_has_the_same_panel(run):
    read = RunDiagnosis.model_validate_json(run.to_json())
    (panels,) = run_panels(read).values()
    assert panels["timeline"].to_json() == run_timeline_figure(run).to_json()
