"""One chromium for all tests of a process: two of playwright's would not stand each other."""

import os
import shutil

import pytest

REQUIRED = os.environ.get("CIRCUIT_LAB_REQUIRE_BROWSER") == "1"
"""Set where the browser tests must not be skipped (by `.ci/run`)."""
_NAMES = ("chromium", "chromium-browser", "google-chrome")


def _missing(reason: str):
    """Skip for want of a browser; fail where one is required."""
    if REQUIRED:
        pytest.fail(f"CIRCUIT_LAB_REQUIRE_BROWSER=1, and {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser():
    """One chromium for all tests of a process."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        _missing("playwright is not installed: pip install 'circuit-lab[dev]'")
    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, _NAMES)), None)
        try:
            launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        except Error as error:
            _missing(f"there is no chromium that starts: {str(error).splitlines()[0]}")
        yield launched
        launched.close()
