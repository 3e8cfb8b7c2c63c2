"""Reports in a real browser: Debian's chromium driven by playwright, with every network request refused.

`open_report` opens a page (a path, or items that `write_report` takes) and, when the test ends, holds it to what every
report promises: no error on the console, none in a script, and no request that leaves the machine.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from circuit_lab.nets.controls.modular import cosine_network
from circuit_lab.nets.controls.two_hop import fact_table_read_twice
from circuit_lab.tasks import ModularConfig, build_task
from circuit_lab.verdict import diagnose

_LOCAL = ("file:", "data:", "blob:", "about:")
HEIGHT = 900


@pytest.fixture(scope="session")
def two_hop_control(small_task):
    """The diagnosis of a wired two-hop circuit: `true_circuit`."""
    return diagnose((fact_table_read_twice(small_task.facts, d_vocab=small_task.d_vocab), small_task))


@pytest.fixture(scope="session")
def modular_control():
    """The diagnosis of a wired modular circuit: `true_circuit`."""
    task = build_task(ModularConfig(p=23, train_share=0.4))
    return diagnose((cosine_network(23, frequencies=[1, 4, 9]), task))


@pytest.fixture(scope="session")
def control_report(two_hop_control, modular_control, tmp_path_factory) -> Path:
    """A page over both: the two-hop circuit is `#c1`, the modular one `#c2`."""
    from circuit_lab.report import write_report

    return write_report([two_hop_control, modular_control], tmp_path_factory.mktemp("report") / "controls.html")


class Watch:
    """What a page said and asked for that it should not have."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []

    def attach(self, page) -> None:
        page.on("console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(_LOCAL) else self.requests.append(r.url))
        page.on("requestfailed", lambda r: self.errors.append(f"{r.url}: {r.failure}"))


def _only_files(route) -> None:
    if route.request.url.startswith(_LOCAL):
        route.continue_()
    else:
        route.abort()


@pytest.fixture
def open_report(browser, tmp_path) -> Iterator[Callable]:
    """`open_report(path_or_items, width=1280, hash="", colour_scheme="light") -> page`."""
    from circuit_lab.report import write_report

    contexts, watch = [], Watch()

    def open_one(report, width: int = 1280, *, hash: str = "", colour_scheme: str = "light"):
        if not isinstance(report, str | Path):
            report = write_report(report, tmp_path / f"report{len(contexts)}.html")
        context = browser.new_context(
            viewport={"width": width, "height": HEIGHT}, color_scheme=colour_scheme, accept_downloads=True
        )
        contexts.append(context)
        context.route("**/*", _only_files)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.watch = watch
        watch.attach(page)
        page.goto(Path(report).resolve().as_uri() + hash)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert watch.errors == [], "the page wrote to the console or failed"
    assert watch.requests == [], "the page asked for something outside itself"
