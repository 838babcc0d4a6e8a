"""The dashboard in a real Chromium: what people see and click, and what a stranger's arguments cannot do there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any

import httpx
import pytest
from litestar import Litestar, post
from litestar.config.compression import CompressionConfig
from litestar.config.csrf import CSRFConfig
from litestar.params import FromPath, JSONBody
from playwright.sync_api import Browser, Page, expect
from saq.job import Job

from litestar_tasks import QueueConfig, Registry, TasksConfig, TasksPlugin

pytestmark = pytest.mark.browser

PWNED = "document.title = 'PWNED'; window.pwned = true"
PAYLOADS: list[dict[str, Any]] = [
    {"props": {"innerHTML": f'<img src="x" onerror="{PWNED}">'}},
    {"attrs": {"onclick": PWNED, "onmouseover": PWNED, "style": "position: fixed; inset: 0"}},
    {"sel": "iframe", "data": {"attrs": {"srcdoc": f"<script>parent.{PWNED}</script>"}}},
    {"value": f'</pre></code><script>{PWNED}</script><svg onload="{PWNED}"><img src=x onerror="{PWNED}">'},
]


def shop(**options: Any) -> Litestar:
    """An app in debug mode, with no guards, that lets anybody enqueue anything."""
    registry = Registry("shop", allow_local=True)

    @registry.task
    async def track(*, value: Any) -> Any:
        return value

    @registry.task
    async def fail(*, why: str) -> None:
        raise RuntimeError(why)

    @registry.task
    async def wait() -> None:
        await asyncio.sleep(60)

    @registry.task(queue="emails")
    async def mail(*, to: str) -> None: ...

    plugin = TasksPlugin(
        TasksConfig(
            registry=registry,
            broker_url="memory://",
            queue_configs=[QueueConfig(name="default", shutdown_grace_period_s=0)],
            in_process_worker=True,
        )
    )

    @post("/track/{function:str}", exclude_from_csrf=True)
    async def enqueue(function: FromPath[str], data: JSONBody[dict[str, Any]]) -> dict[str, str]:
        key = data.pop("key")
        await plugin.get_queue("default").enqueue(Job(function=function, key=key, kwargs=data))
        return {"key": key}

    return Litestar([enqueue], plugins=[plugin], debug=True, logging_config=None, **options)


@pytest.fixture
def page(browser: Browser) -> Generator[Page, None, None]:
    """A page; at the end nothing may have run that is not ours, and nothing may have been blocked or missing."""
    said: list[str] = []
    with browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("requestfailed", lambda request: said.append(request.url) if "live" not in page.url else None)
        yield page
        page.wait_for_load_state()
        assert not page.evaluate("window.pwned")
    assert not said


def test_a_person_finds_the_queues_and_the_job(page: Page, serve: Callable[..., str]) -> None:
    url = serve(shop())
    httpx.post(f"{url}/track/track", json={"key": "job-1", "value": "seven"})
    page.goto(f"{url}/saq")
    expect(page.get_by_role("heading", name="Queues")).to_be_visible()
    expect(page.get_by_role("link", name="emails")).to_be_visible()
    page.get_by_role("link", name="default").click()
    expect(page.get_by_role("heading", name="Queue default")).to_be_visible()
    page.get_by_role("link", name="job-1").click()
    expect(page.get_by_text('{"value": "seven"}')).to_be_visible()
    expect(page.locator("dd.complete")).to_have_text("complete")
    page.get_by_role("link", name="SAQ").click()
    expect(page.get_by_role("heading", name="Queues")).to_be_visible()


def test_the_page_follows_what_happens(page: Page, serve: Callable[..., str]) -> None:
    url = serve(shop())
    page.goto(f"{url}/saq")
    expect(page.get_by_text("No job waits or runs")).to_be_visible()
    httpx.post(f"{url}/track/track", json={"key": "new-one", "value": "<b>bold</b>"})
    expect(page.get_by_role("link", name="new-one")).to_be_visible()
    expect(page.get_by_text("<b>bold</b>")).to_be_visible()


@pytest.mark.parametrize(
    "options",
    [{}, {"csrf_config": CSRFConfig(secret="s" * 32), "compression_config": CompressionConfig("gzip", minimum_size=1)}],
    ids=["plain", "with CSRF tokens and compression"],
)
def test_buttons_abort_and_retry(page: Page, serve: Callable[..., str], options: dict[str, Any]) -> None:
    url = serve(shop(**options))
    httpx.post(f"{url}/track/wait", json={"key": "a/b c%"})
    page.goto(f"{url}/saq/queues/default")
    page.get_by_role("link", name="a/b c%").click()
    expect(page.locator("dd.active")).to_be_visible()
    page.get_by_role("button", name="Abort").click()
    expect(page.locator("dd.aborted")).to_be_visible()
    expect(page.get_by_text("aborted from the dashboard by 127.0.0.1")).to_be_visible()
    page.get_by_role("button", name="Retry").click()
    expect(page.locator("dd.active")).to_be_visible()
    page.get_by_role("button", name="Abort").click()
    expect(page.get_by_role("button", name="Retry")).to_be_visible()


@pytest.mark.parametrize("payload", PAYLOADS, ids=["props", "attrs", "sel", "markup"])
def test_a_strangers_arguments_stay_text(page: Page, serve: Callable[..., str], payload: dict[str, Any]) -> None:
    url = serve(shop())
    httpx.post(f"{url}/track/track", json={"key": "argument", **payload})
    httpx.post(f"{url}/track/track", json={"key": "result", "value": payload})
    httpx.post(f"{url}/track/fail", json={"key": "error", "why": str(payload)})
    httpx.post(f"{url}/track/track", json={"key": f'<img src=x onerror="{PWNED}">', **payload})
    for path in ("", "/queues/default", *(f"/queues/default/jobs/{key}" for key in ("argument", "result", "error"))):
        page.goto(f"{url}/saq{path}")
        title = page.title()
        assert "SAQ" in title
        for element in page.locator("td, pre").all()[:20]:
            element.hover(force=True)
        page.wait_for_timeout(100)
        assert page.title() == title
        assert page.evaluate("window.pwned") is None
        assert page.locator("main img, main iframe, main svg, main script, main [style], main [onclick]").count() == 0
        assert next(iter(payload)) in page.locator("main").inner_text()


def test_other_sites_can_neither_read_it_nor_press_its_buttons(browser: Browser, serve: Callable[..., str]) -> None:
    url = serve(shop())
    httpx.post(f"{url}/track/wait", json={"key": "job-1"})
    elsewhere = serve(shop()).replace("localhost", "127.0.0.1")  # another site to the browser, in the same debug mode
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{elsewhere}/schema/openapi.json")
        for options in ("{method: 'POST', mode: 'no-cors'}", "{mode: 'no-cors'}"):
            page.evaluate(f"fetch('{url}/saq/api/queues/default/jobs/job-1/abort', {options}).catch(() => 0)")
        with page.expect_navigation():
            page.evaluate(
                f"""() => {{
                    const form = document.createElement("form")
                    form.method = "post"
                    form.action = "{url}/saq/queues/default/jobs/job-1/abort"
                    document.documentElement.append(form)
                    form.submit()
                }}"""
            )
        assert "403" in page.locator("h1").inner_text()
    status = httpx.get(f"{url}/saq/api/queues/default/jobs/job-1").json()["job"]["status"]
    assert status == "active"


def test_it_works_under_a_root_path(page: Page, serve: Callable[..., str]) -> None:
    url = serve(shop(), root_path="/shop")
    httpx.post(f"{url}/track/fail", json={"key": "job-1", "why": "rain"})
    # uvicorn puts the root path before what it is sent, as behind a proxy that took it off.
    page.goto(f"{url}/saq")
    page.get_by_role("link", name="default").click()
    page.get_by_role("link", name="job-1").click()
    expect(page.get_by_text("RuntimeError: rain").first).to_be_visible()
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_text("RuntimeError: rain").first).to_be_visible()


def test_without_javascript_it_works_too(browser: Browser, serve: Callable[..., str]) -> None:
    url = serve(shop())
    httpx.post(f"{url}/track/fail", json={"key": "job-1", "why": "rain"})
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"{url}/saq/queues/default")
        page.get_by_role("link", name="job-1").click()
        page.get_by_role("button", name="Retry").click()
        expect(page.get_by_role("heading", name="job-1")).to_be_visible()
        while not page.get_by_role("button", name="Retry").is_visible():
            page.reload()
        expect(page.get_by_text("RuntimeError: rain").first).to_be_visible()


def test_a_closed_dashboard_says_how_to_open_it(browser: Browser, serve: Callable[..., str]) -> None:
    app = shop()
    app.debug = False
    url = serve(app)
    with browser.new_context() as context:
        page = context.new_page()
        answer = page.goto(f"{url}/saq")
        assert answer is not None
        assert answer.status == 403
        expect(page.get_by_text("DashboardConfig(guards=[…])")).to_be_visible()
