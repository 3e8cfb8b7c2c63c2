"""The site: its links resolve, the glossary and the map are whole, and it builds and works without a network."""

import ast
import functools
import html
import importlib.util
import inspect
import json
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from circuit_lab.verdict import Verdict
from circuit_lab.verdict.modular.outcomes import Outcome as ModularOutcome
from circuit_lab.verdict.two_hop.outcomes import Outcome as TwoHopOutcome

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
GENERATED = {"quickstart_notebook.md": "quickstart.ipynb"}
"""Pages that the build makes of a notebook under another name."""


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nav_pages(entries) -> list[str]:
    values = [value for entry in entries for value in (entry.values() if isinstance(entry, dict) else [entry])]
    return [page for value in values for page in (nav_pages(value) if isinstance(value, list) else [value])]


def source_of(page: str) -> Path:
    """What a page of the site is made from."""
    if page.startswith("analyses/"):
        return ROOT / page
    notebook = DOCS / GENERATED.get(page, page.replace(".md", ".ipynb"))
    return notebook if notebook.is_file() else DOCS / page


def test_every_page_is_in_the_navigation_and_every_entry_exists():
    nav = nav_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert [page for page in nav if not source_of(page).is_file()] == []
    in_docs = {path.relative_to(DOCS).as_posix() for path in PAGES}
    assert in_docs - set(nav) == set() and len(nav) == len(set(nav))
    assert {path.name for path in DOCS.glob("*.ipynb")} == {source_of(p).name for p in nav} & {
        path.name for path in DOCS.glob("*.ipynb")
    }


def broken_links(text: str, folder: Path) -> list[str]:
    inside = [link for link in LINK.findall(text) if not re.match(r"https?:|#", link)]
    return [link for link in inside if not (folder / link.partition("#")[0]).exists()]


@pytest.mark.parametrize("path", [*PAGES, ROOT / "README.md"], ids=lambda path: path.name)
def test_links_resolve(path):
    """In the repository, where pages are read too; the build checks them in the site."""
    assert broken_links(path.read_text(), path.parent) == []


def test_a_broken_link_is_seen():
    assert broken_links("see [this](nowhere.md#part) and [that](index.md), ![no](x.png)", DOCS) == ["nowhere.md#part"]


def glossary_terms() -> set[str]:
    rows = re.findall(r"^\| (.+?) \| .+ \|$", (DOCS / "glossary.md").read_text(), flags=re.MULTILINE)
    return {term for row in rows for term in re.findall(r"`([^`]+)`", row)}


def test_the_glossary_has_every_verdict_outcome_evidence_and_split():
    terms = glossary_terms()
    assert {*map(str, Verdict), *map(str, ModularOutcome), *map(str, TwoHopOutcome)} <= terms
    committed = [json.loads(path.read_text()) for path in (ROOT / "models").glob("*/metrics.json")]
    assert {diagnosis["family"] for diagnosis in committed} == {"two_hop", "modular"}
    rows = [row for diagnosis in committed for row in diagnosis["evidence"]]
    assert len({row["name"] for row in rows}) > 20
    assert {row["name"] for row in rows} <= terms
    assert {row["split"].partition(" (")[0] for row in rows} <= terms


def test_the_glossary_names_no_evidence_that_is_not_there():
    """What stands in its tables of evidence is what a diagnosis gives."""
    committed = [json.loads(path.read_text()) for path in (ROOT / "models").glob("*/metrics.json")]
    given = {row["name"] for diagnosis in committed for row in diagnosis["evidence"]}
    text = (DOCS / "glossary.md").read_text()
    tables = re.findall(r"^## Evidence: .*?\n(.*?)(?=^## )", text, flags=re.MULTILINE | re.DOTALL)
    named = {name for table in tables for name in re.findall(r"^\| `([^`]+)` \|", table, flags=re.MULTILINE)}
    assert len(tables) == 2 and named == given


def test_the_map_names_every_module_and_is_what_its_script_writes():
    code_map = load_script("code_map")
    page = (DOCS / "map.md").read_text()
    assert page == code_map.page(), "a module's first line changed; run `make docs`"
    for module in (ROOT / "circuit_lab").rglob("*.py"):
        folder = module.parent.relative_to(ROOT).as_posix()
        section = page.split(f"## `{folder}/`\n")[1].partition("\n## ")[0]
        first = ast.get_docstring(ast.parse(module.read_text())).splitlines()[0].replace("|", "\\|")
        assert first.replace("<", "&lt;") in section, module
        assert module.name == "__init__.py" or f"| `{module.name}` |" in section, module


def test_a_module_without_docstring_is_named(tmp_path):
    (tmp_path / "silent.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="silent.py has no docstring"):
        load_script("code_map").first_line(tmp_path / "silent.py")


def test_a_notebook_page_escapes_what_is_printed_and_keeps_figures_as_data(tmp_path):
    notebook = {
        "cells": [
            {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# Title"},
            {
                "cell_type": "code",
                "id": "b",
                "metadata": {},
                "execution_count": 1,
                "source": "x < 1",
                "outputs": [
                    {"output_type": "stream", "name": "stdout", "text": "<b>1</b>"},
                    {
                        "output_type": "display_data",
                        "metadata": {},
                        "data": {"application/vnd.plotly.v1+json": {"data": [], "layout": {"t": "</script><b>"}}},
                    },
                ],
            },
        ],
        "metadata": {},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (tmp_path / "n.ipynb").write_text(json.dumps(notebook))
    hooks = load_script("hooks")
    page = hooks.notebook_page(tmp_path / "n.ipynb", "n.ipynb")
    assert page.startswith("# Title\n") and "```python\nx < 1\n```" in page
    place = re.search(r"notebook-output-\S+-place", page)[0]
    shown = hooks.on_page_content(f"<p>{place}</p>")
    assert html.escape("<b>1</b>") in shown and "<b>" not in shown
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', shown)
    assert json.loads(data) == {"data": [], "layout": {"t": "</script><b>"}}


class Loaded(HTMLParser):
    """Addresses that a page loads from, and where its links go."""

    def __init__(self, page):
        super().__init__()
        self.loaded, self.links = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag in ("script", "img", "iframe") and attributes.get("src"):
            self.loaded.append(attributes["src"])
        if tag == "link" and attributes.get("rel") != "canonical" and attributes.get("href"):
            self.loaded.append(attributes["href"])
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The strict build, with every connection refused."""
    out = tmp_path_factory.mktemp("site")
    code = (
        "import socket, sys\n"
        "def refuse(*args, **kwargs): raise OSError('no network here')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from mkdocs.__main__ import cli\n"
        f"cli(['build', '--strict', '--quiet', '--site-dir', {str(out)!r}])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return out


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        found = Loaded(page.read_text())
        assert [address for address in found.loaded if re.match(r"(https?:)?//", address)] == [], page
        inside = [link.partition("#")[0] for link in found.links if not re.match(r"https?:|#|mailto:", link)]
        if page.name != "404.html":
            assert [link for link in inside if link and not (page.parent / link).exists()] == [], page


@pytest.mark.slow
def test_the_reference_has_the_public_names(site):
    import circuit_lab
    from circuit_lab import exporters, importers, measures, verdict

    for package in (measures, verdict, importers, exporters):
        page = (site / "api" / f"{package.__name__.rpartition('.')[2]}.html").read_text()
        # Constants and aliases are there where they have a docstring.
        named = {name: getattr(package, name) for name in package.__all__}
        documented = [name for name, value in named.items() if inspect.isclass(value) or inspect.isfunction(value)]
        assert len(documented) > 5
        ids = set(re.findall(r'id="(circuit_lab[\w.]*)"', page))
        # The function `diagnose` has the name of its module, and stands there under both.
        found = [
            f"{package.__name__}.{name}" in ids or f"{package.__name__}.{name}.{name}" in ids for name in documented
        ]
        assert [name for name, there in zip(documented, found, strict=True) if not there] == [], package.__name__
    page = (site / "api" / "circuit_lab.html").read_text()
    elsewhere = {"diagnose", "exporters", "importers", "measures", "nets", "report", "tasks", "training", "verdict"}
    assert [name for name in set(circuit_lab.__all__) - elsewhere if f'id="circuit_lab.{name}"' not in page] == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["file", "http"])
def test_search_and_figures_work_in_a_browser_without_a_network(site, browser, scheme):
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(site))
    handler.log_message = lambda *_: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        start = site.as_uri() if scheme == "file" else f"http://127.0.0.1:{server.server_port}"
        page = browser.new_page()
        errors, requested = [], []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requested.append(request.url))
        page.goto(f"{start}/quickstart_notebook.html")
        page.wait_for_selector(".plotly-figure .main-svg")
        page.goto(f"{start}/index.html")
        page.locator("input.md-search__input").click()
        page.locator("input.md-search__input").press_sequentially("bridge entity")
        page.wait_for_selector(".md-search-result__item a", timeout=20_000)
        found = page.locator(".md-search-result__item a").evaluate_all("links => links.map(link => link.href)")
        page.close()
        server.shutdown()
    assert any("glossary" in link for link in found)
    assert errors == []
    assert [url for url in requested if not url.startswith((start, "data:", "blob:", "about:"))] == []
