"""The dashboard in a real Chromium: what people do there, and what a stranger's arguments cannot do."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from advanced_alchemy.extensions.litestar import EngineConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar, post
from litestar.config.compression import CompressionConfig
from litestar.config.csrf import CSRFConfig
from litestar.params import FromPath, JSONBody
from playwright.sync_api import Browser, Page, expect
from saq.job import Job

from litestar_tasks import (
    INJECTED,
    CurrentJob,
    DashboardConfig,
    HistoryConfig,
    QueueConfig,
    Registry,
    TasksConfig,
    TasksPlugin,
)
from litestar_tasks.dashboard import BasicAuth
from tests.browser.believable import shop_day
from tests.browser.screenshots import PAGES

pytestmark = pytest.mark.browser

AXE: Final = (Path(__file__).parent / "vendor" / "axe.min.js").read_text("utf-8")
SECRET = "hunter2-SECRET"
PWNED = "document.title = 'PWNED'; window.pwned = true"
PAYLOADS: list[dict[str, Any]] = [
    {"props": {"innerHTML": f'<img src="x" onerror="{PWNED}">'}},
    {"attrs": {"onclick": PWNED, "onmouseover": PWNED, "style": "position: fixed; inset: 0"}},
    {"sel": "iframe", "data": {"attrs": {"srcdoc": f"<script>parent.{PWNED}</script>"}}},
    {"value": f'</pre></code><script>{PWNED}</script><svg onload="{PWNED}"><img src=x onerror="{PWNED}">'},
]


def shop(
    *, dashboard: DashboardConfig | None = None, debug: bool = True, history: Path | None = None, **options: Any
) -> Litestar:
    """An app in debug mode, with no guards, that lets anybody enqueue anything; ``history`` is its database's file."""
    registry = Registry("shop", allow_local=True)
    steps = asyncio.Queue[int]()

    @registry.task
    async def track(*, value: Any) -> Any:
        return value

    @registry.task
    async def fail(*, why: str) -> None:
        raise RuntimeError(why)

    @registry.task
    async def wait() -> None:
        await asyncio.sleep(60)

    @registry.task
    async def report(*, days: int, team: str = "all") -> dict[str, int]:
        """Mail the team what was sold."""
        if days < 1:
            raise ValueError(f"there is no report of {days} days")
        return {"days": days}

    @registry.task
    async def import_rows(*, rows: int, job: CurrentJob = INJECTED) -> int:
        done = 0
        while done < rows:
            done += await steps.get()
            await job.log(f"imported {done} rows")
            await job.set_progress(done / rows, f"row {done} of {rows}")
        return done

    @registry.scheduled_task(cron="0 3 * * *", timezone="Europe/Berlin", queue="emails")
    async def mail(*, to: str = "team@example.com") -> None: ...

    plugin = TasksPlugin(
        TasksConfig(
            registry=registry,
            broker_url="memory://",
            queue_configs=[QueueConfig(name="default", shutdown_grace_period_s=0)],
            in_process_worker=True,
            dashboard=dashboard or DashboardConfig(),
            history=HistoryConfig() if history else None,
        )
    )
    database = SQLAlchemyAsyncConfig(
        connection_string=f"sqlite+aiosqlite:///{history}",
        bind_key="browser",  # away from the reference app's models
        create_all=True,
        engine_config=EngineConfig(pool_size=5),
    )

    @asynccontextmanager
    async def closed(_: Litestar) -> AsyncIterator[None]:
        yield
        await database.get_engine().dispose()  # Advanced Alchemy forgets it, from a process's second app on

    @post("/track/{function:str}", exclude_from_csrf=True)
    async def enqueue(function: FromPath[str], data: JSONBody[dict[str, Any]]) -> dict[str, str]:
        key, meta = data.pop("key"), {"tag": data.pop("tag")} if "tag" in data else {}
        await plugin.get_queue("default").enqueue(Job(function=function, key=key, kwargs=data, meta=meta))
        return {"key": key}

    @post("/import-goes-on", exclude_from_csrf=True)
    async def go_on(data: JSONBody[dict[str, int]]) -> None:
        steps.put_nowait(data["rows"])

    @post("/forget/{key:str}", exclude_from_csrf=True)
    async def forget(key: FromPath[str]) -> None:
        """What the broker does in the course of time."""
        await plugin.get_history().flush()
        await plugin.get_queue("default").delete(key)

    plugins = [plugin, SQLAlchemyPlugin(database)] if history else [plugin]
    lifespan = [closed] if history else []
    return Litestar(
        [enqueue, go_on, forget], plugins=plugins, lifespan=lifespan, debug=debug, logging_config=None, **options
    )


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open pages look again after less than a second: nobody wants to wait for tests."""
    monkeypatch.setattr("litestar_tasks.dashboard.answers.interval", lambda _: 0.4)


def look_again(page: Page) -> None:
    """Wait until the page has asked for itself twice, and shows what it got."""
    for _ in range(3):  # the answer to the second one is shown before the third one is asked for
        with page.expect_request(page.url):
            pass


@pytest.fixture
def page(browser: Browser, serve: Serve) -> Generator[Page, None, None]:
    """A page, closed before what serves it: nothing may have run that is not ours, or have been blocked or missing."""
    said: list[str] = []
    with browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: said.append(message.text) if "status of 4" not in message.text else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        yield page
        page.wait_for_load_state()
        assert not page.evaluate("window.pwned")
    assert not said


Serve = Callable[..., str]


def test_find_why_last_nights_report_failed_and_run_it_again_with_other_arguments(page: Page, serve: Serve) -> None:
    url = serve(shop())
    httpx.post(f"{url}/track/report", json={"key": "nightly", "days": 0, "team": "sales"})
    page.goto(f"{url}/saq")
    failed = page.get_by_role("heading", name="Failed last").locator("xpath=ancestor::section")
    failed.get_by_role("link", name="report").click()
    expect(page.locator(".raised")).to_have_text("ValueError: there is no report of 0 days")
    expect(page.locator(".source .here").last).to_contain_text('raise ValueError(f"there is no report of')
    page.get_by_role("link", name="Retry with other arguments").click()
    expect(page.get_by_label("team")).to_have_value("sales")
    page.get_by_label("days").fill("many")
    page.get_by_role("button", name="Enqueue").click()
    expect(page.get_by_role("alert")).to_contain_text("days")
    expect(page.get_by_label("days")).to_have_value("many")
    page.get_by_label("days").fill("7")
    page.get_by_role("button", name="Enqueue").click()
    expect(page.get_by_text("The job was enqueued.")).to_be_visible()
    expect(page.locator("h1 .badge")).to_have_text("complete")
    expect(page.get_by_label("Result")).to_contain_text('"days": 7')
    page.get_by_role("link", name="nightly").click()
    expect(page.locator("h1 .badge")).to_have_text("failed")


def test_run_again_what_the_broker_has_long_forgotten(page: Page, serve: Serve, tmp_path: Path) -> None:
    url = serve(shop(history=tmp_path / "app.sqlite3"))
    httpx.post(f"{url}/track/report", json={"key": "in-march", "days": 0, "team": "sales"})
    page.goto(f"{url}/saq/queues/default/jobs/in-march")
    expect(page.locator("h1 .badge")).to_have_text("failed")
    httpx.post(f"{url}/forget/in-march")
    page.reload()
    expect(page.get_by_role("heading", name="The broker has forgotten this job")).to_be_visible()
    page.get_by_role("link", name="See it in the history").click()
    expect(page.locator(".raised")).to_have_text("ValueError: there is no report of 0 days")
    page.get_by_role("link", name="Run again with other arguments").click()
    expect(page.get_by_label("team")).to_have_value("sales")
    page.get_by_label("days").fill("many")
    page.get_by_role("button", name="Enqueue").click()
    expect(page.get_by_role("alert")).to_contain_text("days")
    page.get_by_label("days").fill("7")
    page.get_by_role("button", name="Enqueue").click()
    expect(page.get_by_text("The job was enqueued.")).to_be_visible()
    expect(page.locator("h1 .badge")).to_have_text("complete")
    expect(page.get_by_label("Result")).to_contain_text('"days": 7')


def test_search_the_history_without_javascript(browser: Browser, serve: Serve, tmp_path: Path) -> None:
    url = serve(shop(history=tmp_path / "app.sqlite3"))
    for number in range(3):
        httpx.post(f"{url}/track/fail", json={"key": f"job-{number}", "why": f"rain, number {number}"})
    httpx.post(f"{url}/forget/nothing")  # what was noted is written
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"{url}/saq")
        page.get_by_role("link", name="History").click()
        expect(page.locator("tbody tr")).to_have_count(3)
        page.get_by_label("Id or text").fill("number 1")
        page.get_by_label("Since").fill("24h")
        page.get_by_role("button", name="Search").click()
        expect(page.locator("tbody tr")).to_have_count(1)
        page.get_by_role("link", name="job-1").click()
        expect(page.get_by_role("heading", name="fail")).to_be_visible()
        expect(page.get_by_text("rain, number 1").first).to_be_visible()


def test_pause_a_schedule_change_it_and_run_it_now(page: Page, serve: Serve) -> None:
    url = serve(shop())
    page.goto(f"{url}/saq")
    page.get_by_role("link", name="Schedules").click()
    page.get_by_role("button", name="Pause mail").click()
    expect(page.locator("#paused")).to_contain_text("Paused by 127.0.0.1")
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("The schedule fires again.")).to_be_visible()  # the page that was left may say so first
    page.get_by_label("Cron expression").fill("nonsense")
    page.get_by_role("button", name="Change").click()
    expect(page.get_by_role("alert")).to_contain_text("nonsense")
    page.get_by_label("Cron expression").fill("30 4 * * *")
    page.get_by_role("button", name="Change").click()
    expect(page.locator("#changed")).to_contain_text("The code declares 0 3 * * *")
    page.get_by_role("button", name="Reset to the code's").click()
    expect(page.get_by_label("Cron expression")).to_have_value("0 3 * * *")
    page.get_by_role("button", name="Run now").click()
    expect(page.locator("h1 .badge")).to_have_text("complete")


def test_follow_a_running_import(page: Page, serve: Serve) -> None:
    url = serve(shop())
    httpx.post(f"{url}/track/import_rows", json={"key": "import", "rows": 300})
    page.goto(f"{url}/saq/queues/default/jobs/import")
    expect(page.locator("h1 .badge")).to_have_text("active")
    page.get_by_text("All of it as text").or_(page.get_by_role("heading", name="About")).first.focus()
    for done in (120, 300):
        httpx.post(f"{url}/import-goes-on", json={"rows": done if done == 120 else 180})
        expect(page.get_by_text(f"imported {done} rows")).to_be_visible()
        if done == 120:
            expect(page.locator(".running strong")).to_have_text("40 %")
            expect(page.get_by_text("row 120 of 300")).to_be_visible()
    expect(page.locator("h1 .badge")).to_have_text("complete")


def test_watch_throughput(page: Page, serve: Serve) -> None:
    page.goto(f"{serve(shop_day())}/saq")
    chart = page.get_by_role("img", name=re.compile("^Attempts that ended in the last hour"))
    expect(chart).to_be_visible()
    assert chart.locator("rect.good").count() > 30
    page.get_by_role("link", name="Last day").click()
    expect(page.get_by_role("img", name=re.compile("^Attempts that ended in the last day"))).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("^Wait in the last day"))).to_be_visible()


def test_retry_two_hundred_failures_at_once(page: Page, serve: Serve) -> None:
    url = serve(shop())
    with httpx.Client() as client:
        for number in range(200):
            client.post(f"{url}/track/fail", json={"key": f"job-{number}", "why": "the mail server is away"})
    page.goto(f"{url}/saq/jobs?state=failed")
    expect(page.get_by_text("All that match (200):")).to_be_visible()
    page.get_by_role("button", name="Delete all…").hover()
    page.get_by_role("button", name="Retry all…").click()
    expect(page.get_by_role("heading", name="Retry 200 failed jobs?")).to_be_visible()
    page.get_by_label("To confirm, type the number 200").fill("20")
    page.get_by_role("button", name="Retry 200").click()
    expect(page.get_by_text("Nothing was done")).to_be_visible()
    page.get_by_label("To confirm, type the number 200").fill("200")
    page.get_by_role("button", name="Retry 200").click()
    expect(page.get_by_text("200 jobs were sent to run again.")).to_be_visible()
    jobs = httpx.get(f"{url}/saq/api/jobs?state=failed&limit=500").json()["jobs"]
    assert len(jobs) <= 200


def test_choose_some_jobs_and_delete_them(page: Page, serve: Serve) -> None:
    url = serve(shop())
    page.goto(f"{url}/saq/jobs?state=failed")
    for number in range(3):
        httpx.post(f"{url}/track/fail", json={"key": f"job-{number}", "why": "rain"})
    look_again(page)  # rows that came after the page can be chosen, too
    expect(page.locator("tbody tr")).to_have_count(3)
    page.get_by_label("fail job-1").check()
    expect(page.get_by_text("Selected (1):")).to_be_visible()
    httpx.post(f"{url}/track/fail", json={"key": "new", "why": "rain"})
    look_again(page)  # what was chosen stays as it was
    expect(page.get_by_label("fail job-1")).to_be_checked()
    expect(page.get_by_text("Selected (1):")).to_be_visible()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_text("1 job was deleted.")).to_be_visible()
    expect(page.locator("tbody tr")).to_have_count(3)
    expect(page.get_by_label("fail job-1")).to_have_count(0)
    page.get_by_label("Select all").check()
    expect(page.get_by_text("Selected (3):")).to_be_visible()


def test_enqueue_a_task_from_its_form(page: Page, serve: Serve) -> None:
    url = serve(shop())
    page.goto(f"{url}/saq/tasks")
    page.get_by_role("link", name="report").click()
    expect(page.get_by_text("Mail the team what was sold.")).to_be_visible()
    expect(page.get_by_label("days")).to_be_visible()
    page.get_by_label("days").fill("3")
    look_again(page)  # what was typed stays
    expect(page.get_by_label("days")).to_have_value("3")
    page.get_by_role("button", name="Enqueue").click()
    expect(page.locator("h1 .badge")).to_have_text("complete")


def test_pause_a_queue_and_see_who_did(page: Page, serve: Serve) -> None:
    url = serve(shop())
    page.goto(f"{url}/saq/queues")
    page.get_by_role("button", name="Pause default").click()
    expect(page.get_by_text("Nothing is started until it is resumed.")).to_be_visible()
    page.get_by_role("link", name="Overview").click()
    expect(page.get_by_text("Queue default is paused by 127.0.0.1")).to_be_visible()


def test_be_refused_without_credentials(browser: Browser, serve: Serve) -> None:
    url = serve(shop(dashboard=DashboardConfig(guards=[BasicAuth({"ada": "correct-horse"})]), debug=False))
    with browser.new_context() as context:
        page = context.new_page()
        answer = page.request.get(f"{url}/saq", headers={"accept": "text/html"})
        assert answer.status == 401
        assert "This needs a name and a password." in answer.text()
    with browser.new_context(http_credentials={"username": "ada", "password": "correct-horse"}) as context:
        page = context.new_page()
        page.goto(f"{url}/saq")
        expect(page.get_by_role("heading", name="Overview")).to_be_visible()


def test_a_closed_dashboard_says_how_to_open_it(browser: Browser, serve: Serve) -> None:
    url = serve(shop(debug=False))
    with browser.new_context() as context:
        page = context.new_page()
        answer = page.goto(f"{url}/saq")
        assert answer is not None
        assert answer.status == 403
        expect(page.get_by_text("DashboardConfig(guards=[…])")).to_be_visible()


def test_see_no_secret(page: Page, serve: Serve, tmp_path: Path) -> None:
    url = serve(shop(dashboard=DashboardConfig(redact=["customer_ref"]), history=tmp_path / "app.sqlite3"))
    arguments = {"password": SECRET, "nested": {"api_key": SECRET, "customer_ref": SECRET}}
    httpx.post(f"{url}/track/track", json={"key": "argument", "value": arguments})
    httpx.post(f"{url}/track/fail", json={"key": "error", "why": f"redis://user:{SECRET}@host said no"})
    httpx.post(f"{url}/forget/nothing")  # what was noted is written
    past = [f"/history/jobs/saq:job:default:{key}" for key in ("argument", "argument/rerun", "error")]
    for path in ("", "/jobs?state=complete", "/jobs?state=failed", "/queues/default", "/queues/default/jobs/argument",
                 "/queues/default/jobs/argument/copies", "/queues/default/jobs/error", "/history", *past):  # fmt: skip
        page.goto(f"{url}/saq{path}")
        assert SECRET not in page.content()


@pytest.mark.parametrize("payload", PAYLOADS, ids=["props", "attrs", "sel", "markup"])
def test_a_strangers_arguments_stay_text(page: Page, serve: Serve, payload: dict[str, Any], tmp_path: Path) -> None:
    url = serve(shop(history=tmp_path / "app.sqlite3"))
    markup = f'<img src=x onerror="{PWNED}">'
    httpx.post(f"{url}/track/track", json={"key": "argument", **payload})
    httpx.post(f"{url}/track/track", json={"key": "result", "value": payload, "tag": markup})
    httpx.post(f"{url}/track/fail", json={"key": "error", "why": str(payload)})
    httpx.post(f"{url}/track/fail", json={"key": markup, "why": markup, "tag": markup})
    httpx.post(f"{url}/forget/nothing")  # what was noted is written
    jobs = [f"/queues/default/jobs/{key}" for key in ("argument", "result", "error")]
    jobs += ["/history", *(f"/history/jobs/saq:job:default:{key}" for key in ("argument", "result", "error"))]
    for path in ("", "/jobs?state=complete", "/jobs?state=failed", "/queues/default", "/tasks/fail", *jobs,
                 "/queues/default/jobs/result/copies", "/jobs?state=failed&q=%3Cimg%20src"):  # fmt: skip
        page.goto(f"{url}/saq{path}")
        assert "SAQ" in page.title()
        for element in page.locator("td, pre, .brief li").all()[:12]:
            element.hover(force=True)
        assert page.title() != "PWNED"
        assert page.evaluate("window.pwned") is None
        assert (
            page.locator("main img, main iframe, main script, main [style], main [onclick], main [onload]").count() == 0
        )


@pytest.mark.parametrize(
    "options",
    [{}, {"csrf_config": CSRFConfig(secret="s" * 32), "compression_config": CompressionConfig("gzip", minimum_size=1)}],
    ids=["plain", "with CSRF tokens and compression"],
)
def test_buttons_abort_and_retry(page: Page, serve: Serve, options: dict[str, Any]) -> None:
    url = serve(shop(**options))
    httpx.post(f"{url}/track/wait", json={"key": "a/b c%"})
    page.goto(f"{url}/saq/jobs?state=active")
    page.get_by_role("link", name="a/b c%").click()
    badge = page.locator("h1 .badge")
    expect(badge).to_have_text("active")
    page.get_by_role("button", name="Abort").click()
    expect(badge).to_have_text("aborted")
    expect(page.get_by_text("aborted from the dashboard by 127.0.0.1")).to_be_visible()
    page.get_by_role("button", name="Retry").click()
    expect(badge).to_have_text("active")


def test_the_page_follows_what_happens_and_keeps_what_was_opened(page: Page, serve: Serve) -> None:
    url = serve(shop())
    page.goto(f"{url}/saq/jobs?state=complete")
    expect(page.get_by_text("There are no jobs yet.")).to_be_visible()
    httpx.post(f"{url}/track/track", json={"key": "new-one", "value": "<b>bold</b>"})
    expect(page.get_by_role("link", name="new-one")).to_be_visible()
    httpx.post(f"{url}/track/fail", json={"key": "broken", "why": "rain"})
    page.goto(f"{url}/saq/queues/default/jobs/broken")
    opened = page.locator("#trace-text")
    opened.locator("summary").click()
    look_again(page)
    expect(opened).to_have_attribute("open", "")
    page.get_by_role("button", name="Live").click()
    expect(page.get_by_role("button", name="Stopped")).to_be_visible()


def test_a_hidden_tab_asks_nothing(browser: Browser, serve: Serve) -> None:
    url = serve(shop())
    with browser.new_context() as context:
        page = context.new_page()
        page.add_init_script("Object.defineProperty(document, 'hidden', { get: () => window.away === true })")
        page.goto(f"{url}/saq")
        with page.expect_request(f"{url}/saq"):
            pass
        asked: list[str] = []
        page.evaluate("window.away = true; document.dispatchEvent(new Event('visibilitychange'))")
        page.wait_for_timeout(500)  # for what was on its way
        page.on("request", lambda request: asked.append(request.url))
        page.wait_for_timeout(1_500)  # several looks
        assert asked == []
        with page.expect_request(f"{url}/saq"):
            page.evaluate("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")


def test_other_sites_can_neither_read_it_nor_press_its_buttons(browser: Browser, serve: Serve) -> None:
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
        assert "403" in page.locator("main").inner_text()
    status = httpx.get(f"{url}/saq/api/queues/default/jobs/job-1").json()["job"]["status"]
    assert status == "active"


def test_it_works_under_a_root_path(page: Page, serve: Serve) -> None:
    url = serve(shop(), root_path="/shop")
    httpx.post(f"{url}/track/fail", json={"key": "job-1", "why": "rain"})
    # uvicorn puts the root path before what it is sent, as behind a proxy that took it off.
    page.goto(f"{url}/saq")
    page.get_by_role("link", name="Jobs").click()
    page.get_by_role("link", name="job-1").click()
    expect(page.get_by_text("RuntimeError: rain").first).to_be_visible()
    page.get_by_role("button", name="Retry", exact=True).click()
    expect(page.get_by_text("RuntimeError: rain").first).to_be_visible()


def test_without_javascript_it_works_too(browser: Browser, serve: Serve) -> None:
    url = serve(shop())
    for number in range(3):
        httpx.post(f"{url}/track/fail", json={"key": f"job-{number}", "why": "rain"})
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"{url}/saq/jobs?state=failed")
        page.get_by_label("Id or text").fill("job-1")
        page.get_by_role("button", name="Search").click()
        expect(page.get_by_role("heading", name="fail")).to_be_visible()
        page.get_by_role("button", name="Retry", exact=True).click()
        expect(page.get_by_text("The job runs again.")).to_be_visible()
        page.goto(f"{url}/saq/jobs?state=failed")
        page.get_by_label("fail job-2").check()
        page.get_by_role("button", name="Delete", exact=True).click()
        expect(page.get_by_text("1 job was deleted.")).to_be_visible()


def test_turn_the_pages_of_a_list_back_without_javascript(browser: Browser, serve: Serve) -> None:
    url = serve(shop())
    with httpx.Client() as client:
        for number in range(101):
            client.post(f"{url}/track/track", json={"key": f"job-{number:03}", "value": number}).raise_for_status()
        deadline = time.monotonic() + 15
        while client.get(f"{url}/saq/api/queues/default").json()["queue"]["counts"]["complete"] < 101:
            assert time.monotonic() < deadline
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"{url}/saq/jobs?state=complete&order=oldest")
        rows = page.locator("table.jobs tbody tr")
        expect(page.get_by_role("link", name="Previous page")).to_have_count(0)
        pages = []
        for wanted in (50, 50, 1):
            expect(rows).to_have_count(wanted)
            pages.append(page.locator("td.jobkey").all_inner_texts())
            if wanted == 50:
                with page.expect_navigation():
                    page.get_by_role("link", name="Next page").click()
        expect(page.get_by_role("link", name="Next page")).to_have_count(0)
        for before in pages[1::-1]:
            with page.expect_navigation():
                page.get_by_role("link", name="Previous page").click()
            expect(rows).to_have_count(50)
            assert page.locator("td.jobkey").all_inner_texts() == before
        expect(page.get_by_role("link", name="Previous page")).to_have_count(0)


# ------------------------------------------------------------------------------------------------ for everybody

FORMS: Final = {
    "run again": f"{PAGES['recorded']}/rerun",
    "not recorded": "/history/jobs/nothing",
    "nothing recorded": "/history?task=nothing",
    "no moment": "/history?since=yesterday",
    "forgotten": "/queues/default/jobs/weekly-report-2026-W43",
    "copy": "/queues/default/jobs/weekly-report-2026-W47/copies",
    "purge": "/queues/emails/purge",
    "schedule": "/schedules/weekly_report",
    "new schedule": "/schedules/new",
    "nothing found": "/jobs?state=failed&task=nothing",
    "nothing here": "/no/such/page",
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360], ids=["desktop", "phone"])
def test_every_page_is_accessible_and_fits(browser: Browser, serve: Serve, scheme: Any, width: int) -> None:
    """By axe's rules for WCAG 2.2 AA and good practice: contrast, names, labels, landmarks, order of headings, …"""
    rules = "{}" if scheme == "light" else "{runOnly: ['color-contrast']}"  # a scheme changes nothing else
    url = serve(shop_day())
    with browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800}, bypass_csp=True) as context:
        page = context.new_page()
        for name, path in {**PAGES, **FORMS}.items():
            page.goto(f"{url}/saq{path}")
            page.add_script_tag(content=AXE)
            found = page.evaluate(f"async () => (await axe.run({rules})).violations")
            problems = [(one["id"], [node["html"][:200] for node in one["nodes"]][:3]) for one in found]
            assert not problems, f"{name}: {problems}"
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is too wide"


def test_in_a_systems_own_colours_signs_are_lines(browser: Browser, serve: Serve) -> None:
    url = serve(shop_day())
    with browser.new_context(forced_colors="active") as context:
        page = context.new_page()
        page.goto(f"{url}/saq/queues/default/jobs/campaign-31")
        here, there = (page.get_by_role("link", name=name).first for name in ("Jobs", "Queues"))
        background = "(one) => getComputedStyle(one).backgroundColor"
        assert here.evaluate(background) != there.evaluate(background)
        assert page.locator("progress").first.evaluate("(one) => getComputedStyle(one).borderTopStyle") == "solid"


def test_legends_of_charts_take_one_line(browser: Browser, serve: Serve) -> None:
    url = serve(shop_day())
    with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        page = context.new_page()
        page.goto(f"{url}/saq")
        tops = "(all) => all.map((one) => new Set([...one.querySelectorAll('.key')].map((key) => key.offsetTop)).size)"
        assert page.locator("figcaption").evaluate_all(tops) == [1, 1, 1]


def test_on_a_phone_the_jobs_come_before_the_filters(browser: Browser, serve: Serve) -> None:
    url = serve(shop_day())
    with browser.new_context(viewport={"width": 390, "height": 844}) as context:
        page = context.new_page()
        page.goto(f"{url}/saq/jobs?state=failed")
        expect(page.get_by_role("link", name="Shop")).to_be_visible()
        expect(page.locator("select[name=task]")).to_be_hidden()
        expect(page.get_by_role("checkbox", name="send_campaign_mail").first).to_be_in_viewport()
        page.get_by_text("Filter", exact=True).click()
        page.locator("select[name=task]").select_option("send_receipt")
        expect(page).to_have_url(re.compile("task=send_receipt"))
        expect(page.locator("select[name=task]")).to_be_visible()  # what is used stays open
        page.set_viewport_size({"width": 1280, "height": 800})
        expect(page.get_by_text("Filter", exact=True)).to_be_hidden()
        expect(page.locator("select[name=task]")).to_be_visible()


STOP: Final = """() => {
    const one = document.activeElement
    if (one === document.body || one === document.documentElement) return null
    const fresh = !seen.has(one)
    seen.add(one)
    return { fresh, html: one.outerHTML.slice(0, 200), outline: getComputedStyle(one).outlineStyle }
}"""


def test_tab_goes_once_through_a_page_and_shows_where_it_is(page: Page, serve: Serve) -> None:
    url = serve(shop_day())
    page.add_init_script("sessionStorage.setItem('live', 'off'); window.seen = new Set()")
    for name in ("overview", "jobs", "job", "task", "schedules", "history", "recorded"):
        page.goto(f"{url}/saq{PAGES[name]}")
        stops = 0
        page.keyboard.press("Tab")
        # Behind the last one browsers go to their own controls; a headless one has none, and begins anew.
        while (stop := page.evaluate(STOP)) is not None and not (stops and 'class="skip"' in stop["html"]):
            assert stop["fresh"], f"{name} leads back to {stop['html']}"
            assert stop["outline"] == "solid", f"{name}: {stop['html']}"
            stops += 1
            page.keyboard.press("Tab")
        assert stops > 9, name


def test_the_keyboard_reaches_everything_and_shows_where_it_is(page: Page, serve: Serve) -> None:
    page.goto(f"{serve(shop_day())}/saq/jobs?state=failed")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator("main :focus")).to_have_count(1)
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
