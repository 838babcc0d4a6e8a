"""A headless Chromium of the distribution's, and a real server for it to open."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager

import pytest
import uvicorn
from litestar import Litestar
from playwright.sync_api import Browser, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


# Not for the session: while Playwright's sync API is open its event loop counts as running: no async test starts.
@pytest.fixture(scope="module")
def browser() -> Generator[Browser, None, None]:
    """Chromium, for a module without async tests. Where there is none they are skipped, but in CI they fail."""
    path = os.environ.get("CHROMIUM_PATH") or next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        reason = f"no Chromium: install the distribution's package ({', '.join(_NAMES)}) or set CHROMIUM_PATH"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def serve() -> Generator[Callable[..., str], None, None]:
    """Serves an app until the test's end, in a thread, at a free loopback port: ``serve(app)`` is its URL."""
    with ExitStack() as servers:

        def start(app: Litestar, *, root_path: str = "") -> str:
            return servers.enter_context(_serving(app, root_path))

        yield start


@contextmanager
def _serving(app: Litestar, root_path: str) -> Generator[str, None, None]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, root_path=root_path, log_config=None, lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while thread.is_alive() and not server.started:
            thread.join(0.01)
        assert server.started, "the app did not start; its log says why"
        try:
            yield f"http://localhost:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "the server did not stop"
