"""The page: complete, offline, small, safe against names from elsewhere. What a browser does with it: tests/browser.

The figures, circuits and explorers are stand-ins here; their own tests are elsewhere.
"""

import base64
import hashlib
import json
import re
import zlib
from html import unescape

import numpy as np
import plotly.graph_objects as go
import pytest
from told_runs import STORY, told_run

import circuit_lab.report.circuit_diagram
import circuit_lab.report.panels
import circuit_lab.report.query_explorer
import circuit_lab.verdict.exhibits
from circuit_lab.nets.controls.two_hop import fact_table_read_twice
from circuit_lab.report import bridge_lens_figure, outcomes_figure, site_rates_figure, write_report
from circuit_lab.report.figure_json import packed, page_figure
from circuit_lab.report.scripts import SCRIPTS_FOLDER, STATIC, inlinable, libraries
from circuit_lab.verdict import Comparison, Diagnosis, Verdict, diagnose

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def diagnosis(small_task):
    return diagnose((fact_table_read_twice(small_task.facts, d_vocab=small_task.d_vocab), small_task))


@pytest.fixture
def stand_ins(monkeypatch):
    """One figure, and a circuit and an explorer without content."""
    figures = {"Outcomes": {"outcomes": go.Figure(go.Bar(x=[0.123456], y=["<b>"]), {"title": "Told<br>n = 3"})}}
    monkeypatch.setattr(circuit_lab.verdict.exhibits, "gather_exhibits", lambda _: None)
    monkeypatch.setattr(circuit_lab.report.circuit_diagram, "circuit_panel", lambda *_: None)
    monkeypatch.setattr(circuit_lab.report.query_explorer, "explorer_panel", lambda *_: {"vocab": [HOSTILE]})
    monkeypatch.setattr(circuit_lab.report.panels, "panel_figures", lambda *_: figures)


def page_of(items, folder, **options):
    return write_report(items, folder / "page.html", **options).read_text(encoding="utf-8")


def data_of(page, section):
    block = re.search(rf'<script type="application/json" id="{section}-data">(.*?)</script>', page, re.DOTALL)
    assert block is not None
    data = json.loads(block[1])
    return json.loads(zlib.decompress(base64.b64decode(data["deflated"]))) if "deflated" in data else data


def visible(page):
    """The words of the page: no scripts, no styles, no tags."""
    return " ".join(unescape(re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL)).split())


def test_the_top_says_the_verdict_what_decides_it_and_the_certificate(diagnosis, stand_ins, tmp_path):
    words = visible(page_of([diagnosis], tmp_path / "new"))
    order = [
        diagnosis.reasons[0],
        "true circuit confidence 1.00 : the share of bootstrap resamples",
        "What decides it",
        *diagnosis.reasons[1:4],
        "Split certificate: clean",
        "Task hash",
        "Every number that was used",
    ]
    assert [words.index(part) for part in order] == sorted(words.index(part) for part in order)


def test_every_row_of_evidence_is_there_with_all_its_digits_and_every_sentence_leads_to_its_rows(
    diagnosis, stand_ins, tmp_path
):
    page = page_of([diagnosis], tmp_path)
    for i, row in enumerate(diagnosis.evidence):
        cells = re.search(rf'<tr id="c1-e{i}".*?</tr>', page, re.DOTALL)[0]
        assert row.name in unescape(cells) and f"<td>{row.n}</td>" in cells
        for value in (row.value, row.low, row.control):
            assert f'data-value="{"" if value is None else value}"' in cells
    assert f'id="c1-e{len(diagnosis.evidence)}"' not in page
    for words, rows in zip(diagnosis.reasons, diagnosis.rests_on, strict=True):
        assert f'<a class="cites" href="#c1-e{rows[0]}" data-rows="{" ".join(map(str, rows))}">{words}</a>' in page


def test_inconclusive_and_warnings_are_said(diagnosis, stand_ins, tmp_path):
    told = diagnosis.model_copy(
        update={
            "verdict": Verdict.INCONCLUSIVE,
            "confidence": 0.6,
            "candidates": {"true_circuit": 0.6, "semi_grokked": 0.4},
            "warnings": ("Mind this.",),
        }
    )
    words = visible(page_of([told], tmp_path))
    assert "confidence 0.60 : the share of bootstrap resamples of the queries that give the most frequent" in words
    assert "true circuit 0.600, semi grokked 0.400" in words and "Warning. Mind this." in words


def test_several_checkpoints_have_an_overview_and_stand_side_by_side(diagnosis, stand_ins, tmp_path):
    other = diagnosis.model_copy(update={"source": "the other"})
    page = page_of([diagnosis, other], tmp_path)
    assert all(f'href="#{anchor}"' in page for anchor in ("overview", "together-two_hop", "c1", "c2", "c2-evidence"))
    data = data_of(page, "together-two_hop")
    assert data["differences"][0][0] is None and data["excluding_zero"] == [0, 0]
    n = len(re.findall("<tr data-number", page))
    assert len(data["differences"][0][1]) == n > 6
    accuracy = data["differences"][1][0][0]
    assert accuracy[0] == 0 and accuracy[1] < 0 < accuracy[2] and accuracy[3] == "paired"
    alone = page_of([diagnosis], tmp_path)
    assert 'id="overview"' not in alone and "together-two_hop" not in alone


def test_a_run_shows_its_answers_crossings_phases_alarms_and_verdicts(diagnosis, tmp_path):
    run = told_run("3 of 10 test_ood queries are training items", **STORY)
    words = visible(page_of([run], tmp_path))
    for part in (
        "Was the circuit there before OOD accuracy rose? Yes: the circuit was there",
        "Alarm, ungrokked, step 50. OOD accuracy was certainly solved",
        "memorisation steps 10 to 30",
        "OOD solved 0.80 40 30 40 no",
        "50 semi grokked 0.50 0.990",
        "Split certificate: leaked",
    ):
        assert part in words, part


def test_a_comparison_brings_both_checkpoints(diagnosis, stand_ins, tmp_path):
    comparison = Comparison(
        a=diagnosis,
        b=diagnosis.model_copy(update={"source": "the other"}),
        differences=(),
        same_path="cannot tell",
        reasons=("Told so.", "And so."),
        path=(),
        warnings=("Mind this.",),
        seed=0,
    )
    page = comparison.report(tmp_path / "page.html").read_text()
    words = visible(page)
    assert "Same path: cannot tell. Told so. And so. Warning. Mind this." in words
    assert all(f'<section class="view checkpoint" id="{section}"' in page for section in ("c1", "c2"))
    assert "0 of 0 differences looked at exclude 0" in words


def test_a_diagnosis_read_from_json_has_no_net_to_show_and_says_so(diagnosis, tmp_path):
    read = Diagnosis.model_validate_json(diagnosis.to_json())
    words = visible(page_of([read], tmp_path))
    assert "There is no diagram: this diagnosis no longer holds its net." in words
    assert diagnosis.reasons[1] in words


def test_the_page_loads_nothing_from_elsewhere_and_runs_no_script_but_its_own(diagnosis, stand_ins, tmp_path):
    page = page_of([diagnosis], tmp_path)
    policy = unescape(re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1])
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["connect-src"] == "'none'" and "unsafe" not in rules["script-src"]
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == len([*STATIC.rglob("*.js")]) + len(libraries()) and len(page) < 7e6
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in rules["script-src"].split()
    rest = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!#)", rest) and "@import" not in rest and "url(" not in rest


def test_linked_scripts_lie_beside_a_small_page(diagnosis, stand_ins, tmp_path):
    page = page_of([diagnosis], tmp_path, link_scripts=True)
    assert len(page) < 1e6
    linked = re.findall(r'<script src="([^"]*)"></script>', page)
    assert linked == [f"{SCRIPTS_FOLDER}/{library.name}" for library in libraries()] and len(linked) == 2
    assert [(tmp_path / name).stat().st_size > 1e6 for name in linked] == [True, True]


def test_names_from_elsewhere_stay_text(diagnosis, stand_ins, tmp_path):
    nasty = diagnosis.model_copy(update={"source": HOSTILE, "step": 1, "task": HOSTILE, "warnings": (HOSTILE,)})
    page = page_of([nasty, nasty], tmp_path)
    assert HOSTILE not in page and "&lt;script&gt;alert(1)" in page
    assert data_of(page, "c1")["explorer"]["vocab"] == [HOSTILE]
    assert HOSTILE not in nasty._repr_html_() and "<script" not in nasty._repr_html_()


def test_bad_targets_are_refused_before_anything_is_measured(diagnosis, tmp_path, monkeypatch):
    def gather(diagnosis):
        raise AssertionError("measured")

    monkeypatch.setattr(circuit_lab.verdict.exhibits, "gather_exhibits", gather)
    with pytest.raises(ValueError, match="it is a folder; name a file such as"):
        write_report([diagnosis], tmp_path)
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ValueError, match="file is a file, not a folder"):
        write_report([diagnosis], tmp_path / "file" / "page.html")
    with pytest.raises(ValueError, match="at least one diagnosis, got none"):
        write_report([], tmp_path / "page.html")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_fails_while_measuring_leaves_the_old_page(diagnosis, tmp_path, monkeypatch):
    def gather(diagnosis):
        raise RuntimeError("no memory")

    monkeypatch.setattr(circuit_lab.verdict.exhibits, "gather_exhibits", gather)
    path = tmp_path / "page.html"
    path.write_text("the old page")
    with pytest.raises(RuntimeError, match="no memory"):
        write_report([diagnosis], path, link_scripts=True)
    assert path.read_text() == "the old page" and list(tmp_path.iterdir()) == [path]


def test_a_figure_becomes_small_json():
    z = np.linspace(-2.0, 2.0, 600).reshape(20, 30)
    z[3, 4] = np.nan
    figure = go.Figure(go.Heatmap(z=z, x=np.arange(30) / 7), {"title": "One", "margin": {"t": 120}, "height": 500})
    made = page_figure("f", figure)
    (trace,) = made.json["data"]
    assert made.title == ("One",) and "template" not in made.json["layout"] and "title" not in made.json["layout"]
    assert made.json["layout"]["height"] == made.height == 500 - (120 - made.json["layout"]["margin"]["t"])
    assert trace["x"][1] == 0.1429 and len(json.dumps(trace["z"])) < 3 * z.size
    restored = unpacked(trace["z"])
    assert np.isnan(restored[3, 4]) and np.nanmax(np.abs(restored - z)) <= 4 / 1000 / 2 + 1e-9
    json.dumps(made.json, allow_nan=False)


def unpacked(array):
    numbers = np.frombuffer(base64.b64decode(array["packed"]), dtype={8: "u1", 16: "<u2"}[array["bits"]])
    missing = 2 ** array["bits"] - 1
    values = np.where(numbers == missing, np.nan, array["low"] + numbers * array["step"])
    return values.reshape(array["shape"])


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((2, 3)),
        np.full(4, np.nan),
        np.arange(-3, 200),
        np.array([True, False]),
        np.array([0.1, 0.7, 0.3, np.nan]),
        np.geomspace(1, 9, 5),
    ],
)
def test_packed_arrays_come_back(values):
    even = len(values) != 5  # a geometric series is not evenly spaced
    assert np.allclose(unpacked(packed(values)), values, rtol=0, atol=1e-9 if even else 8 / 1000 / 2, equal_nan=True)
    assert packed(values)["bits"] == (8 if even else 16)


def test_titles_lose_the_breaks_that_only_want_of_room_made():
    sentence = "a word " * 30
    title = go.Figure(layout={"title": "<br>".join([*wrapped_lines(sentence), "its own line"])})
    assert page_figure("f", title).title == (sentence.strip(), "its own line")


def wrapped_lines(sentence):
    from circuit_lab.report.figures.style import wrapped

    lines = wrapped(sentence).split("<br>")
    assert len(lines) > 2
    return lines


def test_a_script_cannot_end_its_element_early():
    code = "a = '</script><!--</SCRIPT>';\r\nb = 1\n//# sourceMappingURL=x.map\n"
    assert inlinable(code) == "a = '<\\/script><!--<\\/SCRIPT>';\nb = 1"
    assert not any("</script" in library.text.lower() for library in libraries())


def test_figures_carry_the_numbers_n_and_chance(diagnosis):
    bars = {trace.name: list(trace.x) for trace in outcomes_figure(diagnosis).data}
    assert bars["circuit"] == [split.shares["circuit"] for split in diagnosis.outcomes]
    located = diagnosis.measurements.located
    assert "n = 79, threshold<br>0.25" in site_rates_figure(located).layout.title.text
    assert site_rates_figure(located).data[0].z[0][1] == 1.0  # resid_post 0 @ r1
    lens = diagnosis.measurements.lens["test_ood"]
    figure = bridge_lens_figure(lens, split="test_ood")
    assert "n = 154, chance 0.034" in figure.layout.title.text
    assert figure.data[0].z.tolist() == lens.bridge_top1.tolist()
