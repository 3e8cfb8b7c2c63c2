"""Pictures of demo/report.html for the README: a circuit and a query in the explorer.

Run by `make screenshots`, with Debian's chromium and the network blocked.
"""

import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "demo" / "report.html"
IMAGES = ROOT / "docs" / "images"
PICTURES = {
    "report_circuit.png": ("two-hop-true-circuit", "circuit"),
    "report_explorer.png": ("two-hop-second-hop-failure", "explorer"),
}
"""File -> the checkpoint, and the part of its section that it shows, whose id is `<section>-<part>`."""
WIDTH, HEIGHT = 1280, 960
ROOM_ABOVE = 70
"""Pixels at the top of the window that the page's bar covers."""
MAX_BYTES = 300_000
CHROMIUM = "/usr/bin/chromium"


def main() -> None:
    """Write the pictures.

    Raises:
        ValueError: If the report is not there, lacks a part, or a picture is too large for a repository.
    """
    if not REPORT.is_file():
        raise ValueError(f"no report at {REPORT}: run `make demo` first")
    IMAGES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.route("http*://**", lambda route: route.abort())
        page.goto(REPORT.as_uri())
        for name, (checkpoint, part) in PICTURES.items():
            link = page.locator("#contents li > a:not(.parts a)", has_text=checkpoint)
            link.click()
            size = _picture(page, f"{link.get_attribute('href')}-{part}", IMAGES / name)
            sys.stdout.write(f"{name}: {size // 1000} kB\n")
        browser.close()


def _picture(page: Page, selector: str, path: Path) -> int:
    """Write a picture of the window with one part of the page at its top; its size in bytes."""
    element = page.locator(selector)
    if element.count() != 1:
        raise ValueError(f"{REPORT} has {element.count()} elements {selector}, wanted one")
    if not element.is_visible():
        raise ValueError(f"{selector} is hidden in {REPORT}")
    element.evaluate(f"part => scrollTo(0, part.getBoundingClientRect().top + scrollY - {ROOM_ABOVE})")
    page.wait_for_timeout(1500)  # figures are drawn when they come into view
    page.screenshot(path=path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{path} has {size} bytes, more than {MAX_BYTES}; show less of the page")
    return size


if __name__ == "__main__":
    main()
