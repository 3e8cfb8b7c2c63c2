"""A run's timeline in a real browser: pointing at one panel shows what every panel has at that step."""

import plotly.io
import pytest
from told_runs import STORY, told_run

from circuit_lab.report.panels.runs import run_panels


@pytest.mark.slow
@pytest.mark.parametrize("panel", [1, 3])
def test_pointing_at_one_panel_shows_all_of_them(browser, tmp_path, panel):
    run = told_run(**STORY)
    missing = tuple(p for p in run.timeline if (p.step, p.quantity) != (40, "hop 1, ID"))
    figure = run_panels(run.model_copy(update={"timeline": missing}))["Timeline"]["timeline"]
    path = tmp_path / "run.html"
    path.write_text(plotly.io.to_html(figure, include_plotlyjs=True), encoding="utf-8")
    page = browser.new_page(viewport={"width": 1000, "height": 1400})
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector("rect.nsewdrag")
    box = page.query_selector_all("rect.nsewdrag")[panel].bounding_box()
    # Steps are 10 to 50, so 40 is at about three quarters; anywhere near it will do.
    page.mouse.move(box["x"] + 0.72 * box["width"], box["y"] + 0.6 * box["height"])
    page.wait_for_selector(".hoverlayer .legendtext")
    page.wait_for_function("document.querySelector('.hoverlayer .legendtitletext').textContent === 'step 40'")
    said = [text.text_content() for text in page.query_selector_all(".hoverlayer .legendtext")]
    page.close()
    assert "verdict : semi grokked (confidence 0.50)" in said
    assert any(line.startswith("OOD : 0.900 [0.860, 0.940], n = 100") for line in said)
    assert "mediation, training : 0.900 [0.860, 0.940], n = 100" in said
    assert "hop 1, ID : nothing to measure" in said
    assert len(said) == 1 + 11 and errors == []  # one line each, all of this step
