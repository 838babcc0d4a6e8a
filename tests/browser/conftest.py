"""A headless Chromium of the distribution's, and a real server for it to open."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import ExitStack

import pytest
from litestar import Litestar
from playwright.sync_api import Browser, sync_playwright

from tests.browser.serving import FLAGS, NAMES, chromium, serving


# Not for the session: while Playwright's sync API is open its event loop counts as running: no async test starts.
@pytest.fixture(scope="module")
def browser() -> Generator[Browser, None, None]:
    """Chromium, for a module without async tests. Where there is none they are skipped, but in CI they fail."""
    path = chromium()
    if path is None:
        reason = f"no Chromium: install the distribution's package ({', '.join(NAMES)}) or set CHROMIUM_PATH"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def serve() -> Generator[Callable[..., str], None, None]:
    """Serves an app until the test's end, in a thread, at a free loopback port: ``serve(app)`` is its URL."""
    with ExitStack() as servers:

        def start(app: Litestar, *, root_path: str = "") -> str:
            return servers.enter_context(serving(app, root_path))

        yield start
