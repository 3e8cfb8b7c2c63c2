"""The report as a reader uses it, in a browser without a network: navigation, themes, the evidence table, printing."""

import csv
import io
import json
import re
from dataclasses import replace

import pandas as pd
import pytest
import torch

from circuit_lab.nets.controls.two_hop import fact_table_read_twice, triple_table
from circuit_lab.report import write_report
from circuit_lab.report.evidence_table import recomputing_line
from circuit_lab.verdict import diagnose

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>')


PHONE_AND_DARK = [("light", 390), ("dark", 1280), ("dark", 390)]


@pytest.fixture(scope="session")
def table_control(small_task):
    """A net that memorises, beside `two_hop_control`."""
    trained = small_task.splits["train_inferred"]
    triples = torch.cat([trained.tokens, trained.answer[:, None]], dim=1)
    return diagnose((triple_table(small_task.facts, triples, d_vocab=small_task.d_vocab), small_task))


@pytest.fixture(scope="session")
def three_reports(two_hop_control, table_control, modular_control, tmp_path_factory):
    """Two two-hop nets, `#c1` and `#c2`, which also stand side by side, and a modular one, `#c3`."""
    path = tmp_path_factory.mktemp("report") / "three.html"
    return write_report([two_hop_control, table_control, modular_control], path, link_scripts=True)


@pytest.fixture(scope="session")
def hostile_report(small_task, tmp_path_factory):
    """A report whose token names and source are scripts."""
    vocab = [name + HOSTILE[i % 2] if name.startswith("<e_") else name for i, name in enumerate(small_task.vocab)]
    task = replace(small_task, vocab=tuple(vocab))
    diagnosis = diagnose((fact_table_read_twice(task.facts, d_vocab=task.d_vocab), task))
    diagnosis = diagnosis.model_copy(update={"source": HOSTILE[0], "step": 1, "warnings": HOSTILE})
    return write_report([diagnosis, diagnosis], tmp_path_factory.mktemp("report") / "hostile.html")


def all_views(page):
    return page.eval_on_selector_all(".view", "views => views.map(v => v.id)")


def go_to(page, anchor):
    page.evaluate("id => { location.hash = id }", anchor)
    page.wait_for_function(
        "id => document.getElementById(id).closest('.view').classList.contains('current')", arg=anchor
    )


def draw_all(page):
    """Scroll through the view, so that every figure comes into sight."""
    page.evaluate(
        """async () => {
            for (const figure of document.querySelectorAll('.view.current .figure')) {
                figure.scrollIntoView();
                for (let i = 0; i < 500 && !figure.querySelector('.main-svg'); i += 1)
                    await new Promise(done => setTimeout(done, 20));
                if (!figure.querySelector('.main-svg')) throw new Error(`${figure.dataset.figure} is not drawn`);
            }
        }"""
    )


def wider_than_the_page(page):
    """What reaches beyond the right edge without a box of its own that scrolls."""
    return page.evaluate(
        """() => {
            const width = document.documentElement.clientWidth;
            const boxed = (e) => e.closest('.scroll, svg, [style*="overflow"]') !== null || inScroller(e);
            const inScroller = (e) => {
                for (let p = e.parentElement; p; p = p.parentElement)
                    if (['auto', 'scroll', 'hidden', 'clip'].includes(getComputedStyle(p).overflowX)) return true;
                return false;
            };
            const wide = [...document.querySelectorAll('.view.current *, .bar *, nav *')].filter((e) => {
                const box = e.getBoundingClientRect();
                return box.width > 0 && box.right > width + 1 && !boxed(e);
            });
            return [document.documentElement.scrollWidth > width ? 'the page scrolls sideways' : '',
                    ...wide.map(e => e.outerHTML.slice(0, 120))].filter(Boolean);
        }"""
    )


@pytest.mark.parametrize(
    ("colour_scheme", "width"),
    [("light", 1280), *(pytest.param(*other, marks=pytest.mark.slow) for other in PHONE_AND_DARK)],
)
def test_every_view_draws_and_nothing_is_wider_than_the_page(open_report, three_reports, width, colour_scheme):
    """Console errors and requests are seen by `open_report` itself."""
    page = open_report(three_reports, width, colour_scheme=colour_scheme)
    views = all_views(page)
    assert views == ["overview", "together-two_hop", "c1", "c2", "c3"]
    for view in views:
        go_to(page, view)
        draw_all(page)
        assert wider_than_the_page(page) == [], view
    assert page.locator(".view:visible").count() == 1


def test_only_the_view_in_sight_draws_its_figures_and_links_lead_deep(open_report, control_report):
    page = open_report(control_report, hash="#c2-evidence")
    page.wait_for_selector("#c2-evidence table")
    assert page.locator(".view:visible").get_attribute("id") == "c2"
    assert page.locator("#c1 .main-svg").count() == 0
    top = page.locator("#c2-evidence").evaluate("e => e.getBoundingClientRect().top")
    assert 0 <= top < 200
    assert page.locator("nav a[aria-current=page]").get_attribute("href") == "#c2"
    assert page.locator("nav a[aria-current=location]").get_attribute("href") == "#c2-evidence"


@pytest.mark.slow
def test_the_theme_is_the_systems_until_it_is_chosen_and_figures_follow(open_report, control_report):
    page = open_report(control_report, hash="#c1", colour_scheme="dark")
    draw_all(page)

    def looks():
        return page.evaluate(
            """() => [CircuitLab.theme(), getComputedStyle(document.body).backgroundColor,
                      getComputedStyle(document.querySelector('#c1 .figure .xtick text')).fill]"""
        )

    page.evaluate(
        "() => { window.changes = []; document.addEventListener('circuitlab:theme', e => changes.push(e.detail)) }"
    )
    dark = looks()
    button = page.get_by_role("button", name="Theme")
    button.click()
    light = looks()
    assert button.inner_text() == "Theme: light" and (dark[0], light[0]) == ("dark", "light")
    assert dark[1] != light[1] and dark[2] != light[2]
    button.click()
    assert button.inner_text() == "Theme: dark" and looks() == dark
    button.click()
    assert button.inner_text() == "Theme: auto" and looks() == dark
    page.emulate_media(color_scheme="light")
    page.wait_for_function("() => changes.length === 3")
    assert looks() == light and page.evaluate("changes") == ["light", "dark", "light"]


@pytest.mark.slow
def test_texts_have_contrast_in_both_themes(open_report, control_report):
    """WCAG AA: 4.5 to 1 for the colours of text on both backgrounds."""
    for scheme in ("light", "dark"):
        page = open_report(control_report, colour_scheme=scheme)
        colours = page.evaluate(
            """() => Object.fromEntries(['bg', 'fg', 'muted', 'panel', 'accent', 'warn', 'good', 'bad', 'marked'].map(
                name => [name, getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()]))"""
        )
        for ground in ("bg", "panel"):
            for text in ("fg", "muted", "accent", "warn", "good", "bad"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (scheme, text, ground)
        assert contrast(colours["fg"], colours["marked"]) >= 4.5


def contrast(a, b):
    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_by_hand():
    assert contrast("#000000", "#ffffff") == pytest.approx(21) and contrast("#777777", "#ffffff") < 4.5


def marked(page):
    return sorted(int(i.split("-e")[1]) for i in page.eval_on_selector_all("tr.cited", "rows => rows.map(r => r.id)"))


@pytest.mark.slow
def test_a_sentence_leads_to_its_rows_and_marks_them(open_report, control_report, two_hop_control):
    page = open_report(control_report, hash="#c1")
    for words, rows in zip(two_hop_control.reasons, two_hop_control.rests_on, strict=True):
        page.get_by_role("link", name=words).first.click()
        page.wait_for_function("id => document.activeElement.id === id", arg=f"c1-e{rows[0]}")
        assert marked(page) == sorted(rows)
        assert page.locator(f"#c1-e{rows[0]}").evaluate(
            "r => { const b = r.getBoundingClientRect(); return b.top > 0 && b.bottom < innerHeight }"
        )
    first = two_hop_control.reasons[0]
    page.get_by_role("link", name=first).first.click()
    page.get_by_role("button", name="Show only the 2 marked rows").click()
    assert page.locator("#c1-evidence tbody tr:visible").count() == 2
    page.get_by_role("button", name="Show all rows").click()
    assert page.locator("#c1-evidence tbody tr:visible").count() == len(two_hop_control.evidence)


def column(page, number):
    return page.eval_on_selector_all(
        "#c1-evidence tbody tr",
        "(rows, n) => rows.filter(r => !r.hidden).map(r => r.cells[n].dataset.value ?? r.cells[n].textContent)",
        number,
    )


def test_the_table_sorts_both_ways_and_back_and_filters(open_report, control_report, two_hop_control):
    page = open_report(control_report, hash="#c1-evidence")
    as_given = column(page, 0)
    heading = page.locator("#c1-evidence th", has_text="control")
    button = heading.get_by_role("button")
    button.click()
    assert heading.get_attribute("aria-sort") == "ascending"
    values = [float(v) for v in column(page, 7) if v]
    assert values == sorted(values) and len(set(values)) > 3
    assert set(column(page, 7)[len(values) :]) == {""}, "what is not measured comes last"
    button.click()
    values = [float(v) for v in column(page, 7)[: len(values)]]
    assert heading.get_attribute("aria-sort") == "descending" and values == sorted(values, reverse=True)
    page.locator("#c1-evidence th", has_text="measure").get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "none" and column(page, 0) == sorted(as_given, key=str.lower)
    for _ in range(2):
        page.locator("#c1-evidence th", has_text="measure").get_by_role("button").press("Enter")
    assert column(page, 0) == as_given
    page.locator("#c1").get_by_label("Filter").fill("HOP1 test_ood")
    wanted = [e for e in two_hop_control.evidence if e.name == "hop1" and e.split == "test_ood"]
    assert len(column(page, 0)) == len(wanted) > 0
    assert page.locator("#c1 .evidence-count").inner_text() == f"{len(wanted)} of {len(two_hop_control.evidence)} rows"


def downloaded(page, name):
    with page.expect_download() as download:
        page.locator(".view.current").get_by_role("button", name=name).click()
    return download.value.suggested_filename, download.value.path().read_bytes().decode()


@pytest.mark.parametrize("section", ["c1", pytest.param("c2", marks=pytest.mark.slow)])
def test_downloads_are_the_evidence_of_the_diagnosis(
    open_report, control_report, two_hop_control, modular_control, section
):
    diagnosis = {"c1": two_hop_control, "c2": modular_control}[section]
    page = open_report(control_report, hash=f"#{section}")
    page.locator(f"#{section}-evidence th", has_text="value").get_by_role("button").click()  # the order must not matter
    wanted = json.loads(diagnosis.to_json())["evidence"]
    name, text = downloaded(page, "Download JSON")
    assert name == "evidence-a-net-and-its-task-in-memory.json" and json.loads(text) == wanted
    _, text = downloaded(page, "Download CSV")
    frame = pd.read_csv(
        io.StringIO(text), keep_default_na=False, na_values={c: [""] for c in ("value", "low", "high", "control")}
    )
    for i, row in enumerate(wanted):
        for field, value in row.items():
            assert pd.isna(frame[field][i]) if value is None else frame[field][i] == value, (i, field)
    assert len(frame) == len(wanted) and list(frame.columns) == list(wanted[0])


@pytest.mark.slow
def test_csv_is_quoted_and_runs_no_formula(open_report, two_hop_control):
    rows = list(two_hop_control.evidence[:3])
    rows[0] = replace(rows[0], split='=HYPERLINK("x")', compared_with='a "b", c\nd')
    rows[1] = replace(rows[1], split="-2+3", value=-0.25)
    told = two_hop_control.model_copy(update={"evidence": tuple(rows), "rests_on": ((0,), (), (), ())})
    page = open_report([told])
    _, text = downloaded(page, "Download CSV")
    found = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["split"] for row in found[:2]] == ['\'=HYPERLINK("x")', "'-2+3"]
    assert found[0]["compared_with"] == 'a "b", c\nd' and found[1]["value"] == "-0.25"
    _, text = downloaded(page, "Download JSON")
    assert json.loads(text)[0]["split"] == '=HYPERLINK("x")'


@pytest.mark.slow
def test_the_lines_of_python_are_those_that_tests_run_and_are_copied(open_report, control_report, two_hop_control):
    page = open_report(control_report, hash="#c1-e7")
    shown = page.eval_on_selector_all("#c1-evidence td:last-child code", "codes => codes.map(c => c.textContent)")
    assert shown == [recomputing_line(two_hop_control, row) for row in two_hop_control.evidence]
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    row = page.locator("#c1-e7")
    row.get_by_role("button").click()
    page.wait_for_selector('#c1-e7 button:text("Copied")')
    assert page.evaluate("navigator.clipboard.readText()") == row.locator("code").inner_text()
    assert row.locator("code").inner_text() == 'circuit_lab.diagnose((net, task)).number("accuracy", "test_ood")'


@pytest.mark.slow
def test_the_reference_changes_the_differences(open_report, three_reports):
    page = open_report(three_reports, hash="#together-two_hop")
    row = page.locator("tr[data-number]", has_text=re.compile(r"accuracy\s*test_ood"))

    def shown():
        return [cell.inner_text() for cell in row.locator(".difference").all()]

    assert shown()[0] == "" and shown()[1].startswith("−1.000 [−1.000, ") and shown()[1].endswith("p *")
    count = page.locator(".together-count").inner_text()
    assert re.match(r"\d+ of \d+ differences exclude 0 \(marked \*\); of equal nets about 0\.\d would by chance", count)
    page.get_by_label("Differences to").select_option(index=1)
    assert shown()[1] == "" and shown()[0].startswith("+1.000 [") and shown()[0].endswith("p *")


@pytest.mark.slow
def test_it_is_used_by_keyboard_alone(open_report, control_report, two_hop_control):
    page = open_report(control_report)

    def tab_to(selector, limit=80):
        for _ in range(limit):
            page.keyboard.press("Tab")
            if page.evaluate("s => document.activeElement.matches(s)", selector):
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", f"{selector} has the focus and does not show it"
                return
        raise AssertionError(f"{selector} is not reached by Tab")

    tab_to(".skip")
    tab_to(".theme-button")
    tab_to('nav a[href="#c1"]')
    page.keyboard.press("Enter")
    page.wait_for_selector("#c1.current")
    assert page.evaluate("document.activeElement.id") == "c1"
    tab_to("#c1 h2 a.cites")
    page.keyboard.press("Enter")
    page.wait_for_selector("#c1 tr.cited")
    assert marked(page) == sorted(two_hop_control.rests_on[0])
    page.evaluate("document.querySelector('#c1-evidence').focus()")
    tab_to("#c1-evidence .evidence-filter")
    tab_to("#c1-evidence .download")
    tab_to("#c1-evidence th button")
    page.keyboard.press("Enter")
    assert page.locator("#c1-evidence th").first.get_attribute("aria-sort") == "ascending"


@pytest.mark.slow
def test_the_contents_open_and_close_on_a_phone(open_report, control_report):
    page = open_report(control_report, 390)
    button = page.get_by_role("button", name="Contents")
    assert not page.locator("nav").is_visible()
    button.click()
    assert page.locator("nav").is_visible() and button.get_attribute("aria-expanded") == "true"
    page.keyboard.press("Escape")
    assert not page.locator("nav").is_visible()
    button.click()
    page.locator('nav a[href="#c2"]').click()
    page.wait_for_selector("#c2.current")
    assert not page.locator("nav").is_visible()


@pytest.mark.slow
def test_names_from_elsewhere_stay_text(open_report, hostile_report):
    page = open_report(hostile_report)
    page.on("dialog", lambda dialog: page.watch.errors.append(f"a script ran: {dialog.message}"))
    for view in all_views(page):
        go_to(page, view)
        draw_all(page)
    assert page.locator("#c1 .source").inner_text() == f"{HOSTILE[0]}, step 1"
    assert page.evaluate("[...document.images].filter(i => i.getAttribute('src') === 'x').length") == 0
    assert page.evaluate("[...document.scripts].filter(s => s.textContent.startsWith('alert')).length") == 0
    assert HOSTILE[1] in page.locator("#c1").inner_text()


@pytest.mark.slow
@pytest.mark.parametrize("colour_scheme", ["light", "dark"])
def test_it_prints_what_is_shown_with_every_figure_in_light_colours(open_report, control_report, colour_scheme):
    page = open_report(control_report, hash="#c2", colour_scheme=colour_scheme)
    page.evaluate(
        """() => addEventListener('beforeprint', () => {
            const figures = [...document.querySelectorAll('#c2 .figure[data-figure]')];
            window.printed = { figures: figures.length, drawn: figures.filter(f => f.querySelector('.main-svg')).length,
                               theme: document.documentElement.dataset.theme,
                               wide: figures.filter(f => f.querySelector('.main-svg').clientWidth > 700).length };
        })"""
    )
    pdf = page.pdf(format="A4")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) > 2
    printed = page.evaluate("printed")
    assert printed["drawn"] == printed["figures"] > 2 and printed["wide"] == 0 and printed["theme"] == "light"
    assert page.evaluate("CircuitLab.theme()") == colour_scheme, "and afterwards it is as it was"
    page.emulate_media(media="print")
    assert page.locator("#c2 h2").is_visible() and not page.locator("nav, .bar").first.is_visible()
    assert page.locator("#c2-evidence tbody tr").last.is_visible()


@pytest.mark.slow
def test_linked_scripts_work_from_their_folder(open_report, two_hop_control, tmp_path):
    path = two_hop_control.report(tmp_path / "linked.html", link_scripts=True)
    page = open_report(path)
    draw_all(page)
    assert path.stat().st_size < 1e6 and (path.parent / "report_scripts").is_dir()
