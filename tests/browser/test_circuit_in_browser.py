"""The circuit diagram in a browser: what hover, focus, click, keys, tabs and slider show is what the data says."""

import json
from types import SimpleNamespace

import pytest

from circuit_lab.report.circuit_diagram import circuit_panel
from circuit_lab.report.scripts import STATIC, own_scripts
from circuit_lab.report.templating import template
from circuit_lab.verdict.exhibits import gather_exhibits

LOCATED = "#c1 .circuit .node.located"


@pytest.fixture(scope="module")
def page_path(two_hop_control, modular_control, tmp_path_factory):
    """A page that holds nothing but two diagrams, the two-hop one in `#c1` and the modular one in `#c2`."""
    panels = {
        section: circuit_panel(diagnosis, gather_exhibits(diagnosis))
        for section, diagnosis in (("c1", two_hop_control), ("c2", modular_control))
    }
    parts = [
        f"<section id='{section}'>{template('circuit.html').render(section=SimpleNamespace(circuit=panel))}"
        f"<script type='application/json' id='{section}-data'>{json.dumps({'circuit': panel['data']})}</script>"
        "</section>"
        for section, panel in panels.items()
    ]
    mount = (
        "for (const section of document.querySelectorAll('section'))"
        " CircuitLab.mountCircuit(section, JSON.parse(section.querySelector('script').textContent).circuit);"
    )
    scripts = [script.text for script in own_scripts() if script.name.startswith(("elements.js", "circuit/"))]
    path = tmp_path_factory.mktemp("circuit") / "circuit.html"
    path.write_text(
        "<!doctype html><meta charset='utf-8'><meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<style>{(STATIC / 'report.css').read_text()}{(STATIC / 'circuit.css').read_text()}</style><main>"
        + "".join(parts)
        + "</main>"
        + "".join(f"<script>{script}</script>" for script in [*scripts, mount])
    )
    return path


@pytest.fixture
def page(open_report, page_path):
    return open_report(page_path)


def data_of(page, section):
    return json.loads(page.locator(f"#{section}-data").text_content())["circuit"]


def choose(page, name, label, section="c1"):
    page.locator(f"#{section} .circuit-choice label", has_text=label).filter(has=page.locator(f"[name={name}]")).click()


def cell_of(data, node, test, split):
    """rate, low, high, control, n, n_transplants."""
    tests, splits = [one["id"] for one in data["tests"]], data["splits"]
    return data["nodes"][node]["effects"][tests.index(test) * len(splits) + splits.index(split)]


def tip_says(page, section, cell):
    """The tooltip has the number, its interval, the control and n."""
    rate, low, high, control, n = cell[:5]
    text = page.locator(f"#{section} .circuit-tip").inner_text()
    assert f"{rate:.3f}, 95 % interval {low:.3f} to {high:.3f}" in text, text
    assert f"control {control:.3f}" in text and f"n = {n} " in text, text
    return text


def test_hover_shows_number_interval_control_and_n(page):
    data = data_of(page, "c1")
    node = page.locator(LOCATED).first
    tip = page.locator("#c1 .circuit-tip")
    assert tip.is_hidden()
    node.hover()
    text = tip_says(page, "c1", cell_of(data, node.get_attribute("data-id"), "hop1", data["split"]))
    assert data["tests"][0]["done"] in text and data["tests"][0]["control"] in text
    page.mouse.move(2, 2)
    assert tip.is_hidden()


@pytest.mark.slow
def test_focus_says_the_same_as_hover(page):
    node = page.locator(LOCATED).first
    node.focus()
    lines = page.locator("#c1 .circuit-tip").inner_text().split("\n")
    assert node.get_attribute("aria-label") == ". ".join(lines)
    assert (node.get_attribute("role"), node.get_attribute("tabindex")) == ("button", "0")


@pytest.mark.slow
def test_choosing_test_and_split_recolours_and_renumbers(page):
    data = data_of(page, "c1")
    nodes = page.locator("#c1 .circuit .node.state:not(.plain)")
    seen = set()
    for test, label in (("hop2", "hop 2"), ("interchange", "interchange"), ("hop1", "hop 1")):
        choose(page, "test", label)
        for split in ("test_id", "test_ood"):
            choose(page, "split", split)
            for node in nodes.all():
                rate = cell_of(data, node.get_attribute("data-id"), test, split)[0]
                shown = node.locator(".value").text_content()
                seen.add(shown)
                assert float(shown) == pytest.approx(rate, abs=0.00501)
                assert f"v{int(rate * 10 + 0.5)}" in node.get_attribute("class").split()
            accuracy = data["nodes"]["answer"]["accuracy"][data["splits"].index(split)][0]
            assert float(page.locator("#c1 .node.answer .value").text_content()) == pytest.approx(accuracy, abs=0.00501)
    assert len(seen) > 1


@pytest.mark.slow
def test_colours_differ_by_level(page):
    fills = page.locator("#c1 .circuit .node.state:not(.plain) .box").evaluate_all(
        "boxes => boxes.map(b => [b.parentNode.getAttribute('class').match(/v\\d+/)[0], getComputedStyle(b).fill])"
    )
    colour_of = dict(fills)
    assert len(colour_of) > 1 and len(set(colour_of.values())) == len(colour_of)
    assert all(colour_of[name] == colour for name, colour in fills)


@pytest.mark.slow
def test_click_opens_the_panel_with_all_there_is(page):
    data = data_of(page, "c1")
    node = page.locator(LOCATED).first
    node_id = node.get_attribute("data-id")
    node.click()
    panel = page.locator("#c1 .circuit-panel")
    assert panel.locator("h4").inner_text() == data["nodes"][node_id]["name"]
    rows = panel.get_by_role("table", name="Transplants").locator("tbody tr:not(.group)")
    expected = [
        [split, f"{cell[0]:.3f}", f"{cell[3]:.3f}", str(cell[4])]
        for test in ("hop1", "hop2", "interchange")
        for split in data["splits"]
        for cell in [cell_of(data, node_id, test, split)]
    ]
    found = [row.locator("th, td").all_inner_texts() for row in rows.all()]
    assert [[cells[0], cells[1], cells[3], cells[4]] for cells in found] == expected
    current = panel.get_by_role("table", name="Transplants").locator("tr.current th")
    assert current.all_inner_texts() == [data["split"]]
    lens = panel.get_by_role("table", name="Logit lens").locator("tbody tr").all()
    assert [row.locator("td").first.inner_text() for row in lens] == [
        f"{cell[0]:.3f}" for cell in data["nodes"][node_id]["lens"]
    ]
    attention = panel.get_by_role("table", name="Attention").locator("tbody tr").all()
    assert attention[-1].locator("th").inner_text() == "uniform"
    assert panel.get_by_role("table", name="Activation patching").locator("tbody tr").count() == len(data["patching"])


@pytest.mark.slow
@pytest.mark.parametrize("key", ["Enter", " "])
def test_keys_open_and_escape_closes_where_one_was(page, key):
    node = page.locator(LOCATED).first
    node.focus()
    page.keyboard.press(key)
    panel = page.locator("#c1 .circuit-panel")
    assert panel.is_visible() and panel.locator("h4").evaluate("h => h === document.activeElement")
    page.keyboard.press("Escape")
    assert panel.is_hidden() and node.evaluate("n => n === document.activeElement")


@pytest.mark.slow
def test_the_open_panel_follows_the_split(page):
    page.locator(LOCATED).first.click()
    choose(page, "split", "test_id")
    current = page.locator("#c1 .circuit-panel").get_by_role("table", name="Transplants").locator("tr.current th")
    assert current.all_inner_texts() == ["test_id"]


@pytest.mark.slow
def test_slider_changes_the_number_of_edges(page):
    data = data_of(page, "c1")
    edges = data["edges"]["list"]
    slider, shown = page.locator("#c1 [name=edges]"), page.locator("#c1 .circuit-svg .edge:not(.off)")
    for n in (0, 1, len(edges), 3):
        slider.fill(str(n))
        assert shown.count() == n == page.locator("#c1 .edges .hit:not(.off)").count()
        said = page.locator("#c1 .circuit-threshold output").inner_text()
        assert f"the {n} strongest of {data['edges']['measured']}" in said
        if n > 0:
            assert f"≥ {abs(edges[n - 1][3]):g} logits" in said


@pytest.mark.slow
def test_an_edge_says_its_effect_on_focus_and_hover(page):
    effect, low, high = data_of(page, "c1")["edges"]["list"][0][3:]
    edge = page.locator("#c1 .edges .hit").first
    edge.focus()
    text = page.locator("#c1 .circuit-tip").inner_text()
    assert f"effect {effect:+g} logits" in text and f"{low:+g} to {high:+g}" in text and "control 0" in text
    assert f"n = {data_of(page, 'c1')['edges']['n']} pairs" in text and "Done:" in text
    page.locator(LOCATED).first.focus()
    edge.dispatch_event("pointerenter")
    assert page.locator("#c1 .circuit-tip").inner_text() == text


@pytest.mark.slow
def test_attention_can_be_hidden(page):
    looks = page.locator("#c1 .circuit .looks")
    assert looks.locator(".look").count() > 0 and looks.is_visible()
    page.locator("#c1 [name=looks]").uncheck()
    assert looks.is_hidden()


@pytest.mark.slow
def test_modular_nodes_say_the_ablation_and_follow_the_split(page):
    data = data_of(page, "c2")
    node = page.locator("#c2 .circuit .node").filter(has=page.locator(".ablated")).first
    site = data["nodes"][node.get_attribute("data-id")]["site"]
    for split in data["splits"]:
        page.locator(f"#c2 [name=split][value='{data['splits'].index(split)}']").check(force=True)
        cell = data["ablations"][site][data["splits"].index(split)]
        shown = [float(line.split()[1]) for line in node.locator(".ablated").all_text_contents()]
        assert shown == pytest.approx([cell[0], cell[5]], abs=0.00501)
        node.hover()
        tip_says(page, "c2", cell)
        page.mouse.move(2, 2)


@pytest.mark.slow
def test_modular_panel_names_the_key_frequencies_first(page):
    data = data_of(page, "c2")
    strip = page.locator("#c2 .circuit .node.strip").first
    strip.focus()
    page.keyboard.press("Enter")
    spectrum = data["spectra"][0]
    rows = page.locator("#c2 .circuit-panel").get_by_role("table", name="Spectrum").locator("tbody tr")
    shares = [float(row.locator("td").last.inner_text()) for row in rows.all()]
    assert shares == sorted(shares, reverse=True) and shares[0] == pytest.approx(max(spectrum["shares"]), abs=6e-4)
    key = {row.locator("th").inner_text() for row in rows.all() if "key" in row.locator("td").all_inner_texts()}
    assert key == {spectrum["frequencies"][i] for i in spectrum["key"]} and key


@pytest.mark.slow
@pytest.mark.parametrize("section", ["c1", "c2"])
def test_a_phone_scrolls_the_drawing_and_nothing_else(open_report, page_path, section):
    page = open_report(page_path, width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator(f"#{section} .circuit-drawing")
    assert box.evaluate("b => b.scrollWidth > b.clientWidth")
    page.locator(f"#{section} .circuit .node").last.click()
    panel, drawing = page.locator(f"#{section} .circuit-panel").bounding_box(), box.bounding_box()
    assert (
        panel["y"] >= drawing["y"] + drawing["height"] and page.evaluate("document.documentElement.scrollWidth") <= 390
    )


@pytest.mark.slow
def test_the_panel_stands_beside_the_drawing_on_a_screen(page):
    page.locator(LOCATED).first.click()
    panel = page.locator("#c1 .circuit-panel").bounding_box()
    drawing = page.locator("#c1 .circuit-drawing").bounding_box()
    assert panel["x"] >= drawing["x"] + drawing["width"]
