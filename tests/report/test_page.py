"""The page: complete, offline, and safe against names from elsewhere."""

import re

import pytest

from circuit_lab.nets.controls.two_hop import fact_table_read_twice
from circuit_lab.report import bridge_lens_figure, outcomes_figure, site_rates_figure, write_report
from circuit_lab.verdict import diagnose


@pytest.fixture(scope="module")
def diagnosis(small_task):
    return diagnose((fact_table_read_twice(small_task.facts, d_vocab=small_task.d_vocab), small_task))


def test_the_page_shows_the_verdict_and_every_row_of_evidence(diagnosis, tmp_path):
    page = diagnosis.report(tmp_path / "new" / "page.html").read_text()
    assert "<h2>true_circuit: a net and its task, in memory</h2>" in page
    assert page.count('<td class="text long">') == len(diagnosis.evidence)
    assert diagnosis.certificate.task_hash in page


def test_the_page_loads_nothing_from_elsewhere(diagnosis, tmp_path):
    page = diagnosis.report(tmp_path / "page.html").read_text()
    without_plotly = re.sub(r"<script>.*?</script>", "", page, count=1, flags=re.DOTALL)
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!#)", without_plotly)


def test_names_from_elsewhere_stay_text(diagnosis, tmp_path):
    nasty = diagnosis.model_copy(update={"source": "<script>alert(1)</script>"})
    page = write_report([nasty], tmp_path / "page.html").read_text()
    assert "<script>alert(1)" not in page and "&lt;script&gt;alert(1)" in page
    assert "<script>alert(1)" not in nasty._repr_html_()


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


def test_bad_targets_are_refused(diagnosis, tmp_path):
    with pytest.raises(ValueError, match="it is a folder; name a file such as"):
        write_report([diagnosis], tmp_path)
    with pytest.raises(ValueError, match="at least one diagnosis, got none"):
        write_report([], tmp_path / "page.html")
