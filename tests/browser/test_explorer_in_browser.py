"""The query explorer in a browser: queries are found and chosen, and its numbers are those of the exhibits."""

import json
from types import SimpleNamespace

import pytest
from explorer_cases import HOSTILE, QUERIES, by_hand

from circuit_lab.report.query_explorer import explorer_panel
from circuit_lab.report.scripts import STATIC, libraries, own_scripts
from circuit_lab.report.templating import template

SYMBOL = {"bridge": "◆", "answer": "★"}


@pytest.fixture(scope="module")
def exhibits():
    return by_hand()[1]


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    """A page that holds nothing but the explorer; figures are kept instead of drawn."""
    panel = json.dumps(explorer_panel(*by_hand()))
    circuitsvis = next(script.text for script in libraries() if script.name.startswith("circuitsvis"))
    scripts = [
        circuitsvis,
        "window.CircuitLab = { draw: (element, figure) => { window.figure = figure; }, theme: () => 'light' };",
        *(script.text for script in own_scripts() if script.name.startswith(("elements.js", "explorer/"))),
        "document.addEventListener('DOMContentLoaded', () => CircuitLab.mountExplorer("
        f"document.getElementById('c1'), {panel}, {{}}));",
    ]
    path = tmp_path_factory.mktemp("explorer") / "explorer.html"
    path.write_text(
        "<!doctype html><meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<style>{(STATIC / 'report.css').read_text()}{(STATIC / 'explorer.css').read_text()}</style>"
        + "".join(f"<script>{script}</script>" for script in scripts)
        + "<section id='c1'>"
        + template("explorer.html").render(section=SimpleNamespace(explorer={}))
        + "</section>",
        encoding="utf-8",
    )
    return path


def wait_for(page, query: int) -> None:
    """Until everything of a query is drawn."""
    page.wait_for_selector(f".explorer-query[data-query='{query}'] .explorer-lens")


def listed(page) -> list[int]:
    return [int(option.get_attribute("id").rsplit("-", 1)[1]) for option in page.query_selector_all("[role=option]")]


def percent(share: float) -> str:
    return f"{round(100 * share)} %" if round(100 * share) else "<1 %"


@pytest.mark.slow
def test_the_details_show_the_numbers_of_the_exhibits(open_report, page_path, exhibits):
    page = open_report(page_path, hash="#c1-query-1")
    wait_for(page, 1)
    assert page.inner_text(".explorer-words h4") == "Query 1 of test_ood: second hop failure"
    chips = [chip.inner_text().split("\n")[-1] for chip in page.query_selector_all(".explorer-chip")]
    assert chips == ["dan kay", "boss", "parent", "eve", HOSTILE, "ann"]
    assert "First hop: dan kay, boss → eve." in page.inner_text(".explorer-words")
    assert "not in training" in page.inner_text(".explorer-words")
    rows = page.query_selector_all(".explorer-lens tbody tr")
    assert [row.query_selector("th").inner_text() for row in rows] == ["resid_post 1", "resid_post 0", "embed"]
    buttons = iter([button for row in reversed(rows) for button in row.query_selector_all("button")])
    for _, cell in exhibits.lens.query_frame(1).iterrows():
        button = next(buttons)
        top = cell["top_tokens"][0]
        marks = [SYMBOL[name] for name in ("bridge", "answer") if QUERIES.loc[1, name] == top]
        marks += ["▲"] if top == QUERIES.loc[1, "predicted"] else []
        name = exhibits.vocab[top]
        assert button.query_selector(".explorer-cell-top").text_content() == "".join(
            [*marks, " " if marks else "", name]
        )
        assert button.query_selector(".explorer-number").inner_text() == percent(cell["top_probabilities"][0])
        ranks = button.query_selector(".explorer-ranks").inner_text()
        assert ranks == f"◆{cell['rank_bridge']} ★{cell['rank_answer']}"


@pytest.mark.slow
def test_a_cell_shows_its_top_five_and_stays_when_clicked(open_report, page_path, exhibits):
    page = open_report(page_path)
    wait_for(page, 0)
    cell = exhibits.lens.query_frame(0).iloc[3 + 2]  # resid_post 0 at r2: the middle row, the last column
    button = page.locator(".explorer-lens button").nth(5)
    button.hover()
    items = page.locator(".explorer-card li")
    assert items.locator("bdi").all_text_contents() == [exhibits.vocab[token] for token in cell["top_tokens"]]
    shown = items.locator(".explorer-number").all_inner_texts()
    assert shown == [percent(probability) for probability in cell["top_probabilities"]]
    page.mouse.move(5, 5)
    assert page.locator(".explorer-card").count() == 0
    button.click()
    page.mouse.move(5, 5)
    assert page.inner_text(".explorer-card h6") == "resid_post 0 @ r2 (pinned)"
    assert f"★ answer: rank {cell['rank_answer']}" in page.inner_text(".explorer-card")
    button.focus()
    page.keyboard.press("ArrowUp")
    assert page.locator(".explorer-card h6").all_inner_texts() == ["resid_post 1 @ r2", "resid_post 0 @ r2 (pinned)"]


@pytest.mark.slow
def test_the_line_figure_follows_bridge_and_answer(open_report, page_path, exhibits):
    page = open_report(page_path)
    wait_for(page, 0)
    traces = page.evaluate("window.figure.data")
    probability = exhibits.lens.probability[:, :, :, 0]
    for target, trace in enumerate(traces[:2]):
        best = int(probability[target].max(0).values.argmax())
        assert trace["name"] == f"{exhibits.lens.targets[target]} @ {exhibits.position_names[best]}"
        assert trace["x"] == list(exhibits.lens.sites)
        assert trace["y"] == [round(100 * share) for share in probability[target, :, best].tolist()]
    assert traces[2]["y"] == [12.5] * 3


@pytest.mark.slow
def test_queries_are_narrowed_by_split_and_outcome(open_report, page_path):
    page = open_report(page_path)
    wait_for(page, 0)
    assert listed(page) == [0, 1, 2]
    splits = page.locator("select[name=split] option").all_inner_texts()
    assert splits == ["all splits (3 of 347 shown)", "test_id (1 of 40 shown)", "test_ood (2 of 307 shown)"]
    page.select_option("select[name=split]", label="test_ood (2 of 307 shown)")
    wait_for(page, 1)
    assert listed(page) == [1, 2]
    outcomes = page.locator("select[name=outcome] option").all_inner_texts()
    assert outcomes == [
        "any outcome (2 of 307 shown)",
        "shortcut (1 of 7 shown)",
        "second hop failure (1 of 300 shown)",
    ]
    page.select_option("select[name=outcome]", label="shortcut (1 of 7 shown)")
    wait_for(page, 2)
    assert listed(page) == [2]
    assert page.inner_text(".explorer-count") == "1 of 3 queries match."


def test_queries_are_found_by_search(open_report, page_path):
    page = open_report(page_path)
    wait_for(page, 0)
    for words, found in [
        ("dan", [1]),
        ("EVE", [1]),  # a bridge, in any case
        ("right", [0, 2]),
        ("wrong kay", [1]),
        ("parent boss right", [0]),
        ("onerror", [1, 2]),
        ("bridge:a", [2]),
        ("ann", [0, 1, 2]),
        ("nobody", []),
    ]:
        page.fill("input[name=words]", words)
        assert listed(page) == found
    assert "No query matches" in page.inner_text(".explorer-count")
    page.fill("input[name=words]", "dan")
    wait_for(page, 1)


@pytest.mark.slow
def test_arrow_keys_choose_and_enter_goes_to_the_query(open_report, page_path):
    page = open_report(page_path)
    wait_for(page, 0)
    page.focus("input[name=words]")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    wait_for(page, 1)
    selected = page.locator("[role=option][aria-selected=true]")
    assert selected.get_attribute("id") == page.get_attribute(".explorer-list", "aria-activedescendant")
    assert page.url.endswith("#c1-query-1")
    page.keyboard.press("End")
    wait_for(page, 2)
    page.keyboard.press("Home")
    wait_for(page, 0)
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.className") == "explorer-query"


@pytest.mark.slow
def test_a_link_opens_its_query_whatever_is_filtered(open_report, page_path):
    page = open_report(page_path, hash="#c1-query-2")
    wait_for(page, 2)
    page.fill("input[name=words]", "dan")
    wait_for(page, 1)
    page.evaluate("location.hash = '#c1-query-0'")
    wait_for(page, 0)
    assert page.input_value("input[name=words]") == "" and listed(page) == [0, 1, 2]
    unknown = open_report(page_path, hash="#c1-query-77")
    wait_for(unknown, 0)


@pytest.mark.slow
def test_transplants_are_told_one_by_one(open_report, page_path):
    page = open_report(page_path)
    wait_for(page, 0)
    told = [line.replace("\n", " ") for line in page.locator(".explorer-plain").all_inner_texts()]
    assert told == [
        "the state of this query put into (dan kay, parent, parent): answered eve, wanted eve",
        "the state of this query put into (eve, boss, boss): answered ann, wanted dan kay",
        "the state of (eve, boss, boss) put into this query: answered cyd, wanted cyd",
        f"the state of (dan kay, parent, parent) put into this query: answered {HOSTILE}, wanted {HOSTILE}",
    ]
    symbols = page.locator(".explorer-symbol").all_inner_texts()
    assert [symbol[0] for symbol in symbols] == ["✓", "✗", "✓", "✓"]
    sites = page.locator(".explorer-site").all_inner_texts()
    assert sites[0] == "resid_post 0 @ r1: 5 of 6 transplants passed in the diagnosis. Others like them:"
    assert "5 of 6 at resid_post 0 @ r1" in page.inner_text(".explorer-checks")


@pytest.mark.slow
def test_attention_is_drawn_anew_for_each_query_and_nothing_piles_up(open_report, page_path, exhibits):
    page = open_report(page_path)
    wait_for(page, 0)
    page.wait_for_function(
        "document.querySelectorAll('.explorer canvas').length === 9"
    )  # 2 layers of 4 heads, one large
    seen = set()
    for key, query in (("End", 2), ("Home", 0), ("ArrowDown", 1)):
        page.focus(".explorer-list")
        page.keyboard.press(key)
        wait_for(page, query)
        page.wait_for_timeout(100)
        seen.add(page.evaluate("document.querySelector('#c1-head-large canvas').toDataURL()"))
    assert len(seen) == 3
    assert page.locator(".explorer canvas").count() == 9
    page.click("[aria-label^='layer 1, head 2']")
    weights = exhibits.attention[1, 1, 2]
    cells = page.locator(".explorer-attention td").all_inner_texts()
    lower = [cells[0], *cells[3:5], *cells[6:9]]
    expected = [100 * float(weights[to, place]) for to in range(3) for place in range(to + 1)]
    assert [float(cell) for cell in lower] == pytest.approx(expected, abs=1.0)
    assert [cells[1], cells[2], cells[5]] == ["", "", ""]
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    assert page.inner_text(".explorer-head-view h6").startswith("layer 1, head 1: r2 looks most at")


def test_mark_up_in_a_name_stays_text(open_report, page_path):
    page = open_report(page_path, hash="#c1-query-2")
    wait_for(page, 2)
    assert page.locator(".explorer-chip bdi").first.inner_text() == HOSTILE
    assert page.locator(".explorer img").count() == 0
    assert page.evaluate("window.hacked") is None


@pytest.mark.slow
def test_it_fits_a_narrow_screen_and_prints_the_query_alone(open_report, page_path):
    page = open_report(page_path, 390, hash="#c1-query-2")
    wait_for(page, 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.emulate_media(media="print")
    assert page.is_visible(".explorer-lens")
    assert not page.is_visible(".explorer-list") and not page.is_visible(".explorer-filters")


@pytest.mark.slow
def test_a_small_pattern_grows_again_with_its_room(open_report, page_path):
    page = open_report(page_path)
    wait_for(page, 0)
    width = "document.querySelector('#c1-head-large canvas')?.clientWidth ?? 0"
    page.wait_for_function(f"{width} > 200")
    whole = page.evaluate(width)
    page.set_viewport_size({"width": 240, "height": 900})
    page.wait_for_function(f"{width} < {whole - 50}")
    page.set_viewport_size({"width": 1280, "height": 900})
    page.wait_for_function(f"{width} === {whole}")


@pytest.mark.slow
def test_in_a_report_a_link_opens_the_checkpoint_and_the_query(open_report, control_report):
    page = open_report(control_report, hash="#c2-query-5")
    page.wait_for_selector("#c2 .explorer-query[data-query='5'] .explorer-lens")
    assert page.is_visible("#c2") and not page.is_visible("#c1")
    top = page.evaluate("document.querySelector('#c2-query-5').getBoundingClientRect().top")
    assert 0 <= top < 300
    page.wait_for_selector("#c2 .explorer-trajectory .main-svg")
    right = page.locator("#c2 .explorer-chip bdi").all_text_contents()
    a, b, equals, answer = (right[i] for i in range(4))
    assert (int(a) + int(b)) % 23 == int(answer) and equals == "="
    page.evaluate("location.hash = '#c1-query-2'")
    page.wait_for_selector("#c1 .explorer-query[data-query='2'] .explorer-lens")
    assert page.is_visible("#c1") and not page.is_visible("#c2")
