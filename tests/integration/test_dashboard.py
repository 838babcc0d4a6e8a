"""The dashboard at /saq: who gets in, what it shows, and what it never does."""

from __future__ import annotations

import asyncio
import gzip
import logging
import re
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urljoin

import httpx
import pytest
from litestar import Litestar, Request, get
from litestar.config.compression import CompressionConfig
from litestar.config.cors import CORSConfig
from litestar.config.csrf import CSRFConfig
from litestar.connection import ASGIConnection
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult
from litestar.testing import TestClient
from litestar.types import ASGIApp, Receive, Scope, Send
from saq.job import Job, Status

from litestar_tasks import DashboardConfig, Registry, TasksConfig, TasksPlugin
from litestar_tasks.dashboard import announce
from litestar_tasks.dashboard.redaction import Redactor
from litestar_tasks.exceptions import QueueUnavailableError
from litestar_tasks.queues.memory import MemoryQueue
from litestar_tasks.redaction import masked_text
from tests.integration.shop import HTML, OWN_FORM, SCRIPT, SECRET, Tags, anybody, links, nobody, running

EVERYTHING = [
    ("GET", "/saq"),
    ("GET", "/saq/"),
    ("GET", "/saq/queues/default"),
    ("GET", "/saq/queues/default/jobs/job-1"),
    ("GET", "/saq/api/queues"),
    ("GET", "/saq/api/queues/default"),
    ("GET", "/saq/api/queues/default/jobs/job-1"),
    ("POST", "/saq/api/queues/default/jobs/job-1/retry"),
    ("POST", "/saq/api/queues/default/jobs/job-1/abort"),
    ("POST", "/saq/queues/default/jobs/job-1/retry"),
    ("GET", "/saq/health"),
    ("GET", "/saq/static/style.css"),
    ("GET", "/saq/static/live.js"),
    ("GET", "/saq/static/nothing"),
    ("GET", "/saq/queues"),
    ("GET", "/saq/no/such/page"),
    ("HEAD", "/saq"),
    ("POST", "/saq"),
    ("PUT", "/saq/api/queues"),
    ("PATCH", "/saq/health"),
    ("DELETE", "/saq/queues/default/jobs/job-1"),
]


# ------------------------------------------------------------------------------------------------ who gets in


async def test_without_guards_and_outside_debug_every_request_is_refused() -> None:
    async with running(guards=()) as shop, shop.at() as client:
        for method, path in (*EVERYTHING, ("OPTIONS", "/saq"), ("OPTIONS", "/saq/health")):
            assert (await client.request(method, path, headers=SCRIPT)).status_code == 403, path


def test_a_closed_dashboard_refuses_also_while_the_app_is_not_started() -> None:
    registry = Registry("shop")
    app = Litestar(plugins=[TasksPlugin(TasksConfig(registry=registry, broker_url="memory://"))], debug=False)
    assert TestClient(app).get("/saq").status_code == 403


async def test_the_refusal_says_how_to_open_it_to_people_and_to_scripts() -> None:
    async with running(guards=()) as shop, shop.at() as client:
        page = await client.get("/saq", headers=HTML)
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "DashboardConfig(guards=[…])" in page.text
        assert "LITESTAR_DEBUG=1" in page.text
        answer = (await client.get("/saq/api/queues", headers=HTML)).json()
        assert answer["status_code"] == 403
        assert "DashboardConfig(guards=[…])" in answer["detail"]


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
async def test_in_debug_mode_it_is_open_to_this_machine(peer: str) -> None:
    async with running(guards=(), debug=True) as shop, shop.at(peer) as client:
        await shop.job()
        for method, path in EVERYTHING[:7]:
            assert (await client.request(method, path)).status_code == 200, path


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000", "[::1]"]
)
async def test_in_debug_mode_it_answers_to_the_names_of_this_machine(host: str) -> None:
    async with running(guards=(), debug=True) as shop, shop.at() as client:
        assert (await client.get("/saq", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "peer", ["10.0.0.7", "192.168.1.5", "8.8.8.8", "2001:db8::1", "::ffff:10.0.0.7", "testclient", None]
)
async def test_in_debug_mode_other_machines_are_refused(peer: str | None) -> None:
    async with running(guards=(), debug=True) as shop, shop.at(peer) as client:
        answer = await client.get("/saq")
        assert answer.status_code == 403
        assert "this machine only" in answer.json()["detail"]


@pytest.mark.parametrize(
    "header",
    [
        {"x-forwarded-for": "127.0.0.1"},
        {"x-forwarded-for": ""},
        {"x-forwarded-host": "localhost"},
        {"x-forwarded-proto": "https"},
        {"forwarded": "for=127.0.0.1"},
        {"x-real-ip": "127.0.0.1"},
        {"via": "1.1 proxy"},
        {"cf-connecting-ip": "127.0.0.1"},
    ],
)
async def test_in_debug_mode_a_proxy_on_this_machine_opens_it_to_nobody(header: dict[str, str]) -> None:
    async with running(guards=(), debug=True) as shop, shop.at() as client:
        assert (await client.get("/saq", headers=header)).status_code == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.7", ""]
)
async def test_in_debug_mode_a_foreign_name_for_this_machine_is_refused(host: str) -> None:
    """DNS rebinding: evil.example resolves to 127.0.0.1, so its page is the same origin to the browser."""
    async with running(guards=(), debug=True) as shop, shop.at() as client:
        headers = {"host": host, "sec-fetch-site": "same-origin"}
        assert (await client.get("/saq/api/queues", headers=headers)).status_code == 403


async def test_debug_mode_is_asked_at_each_request() -> None:
    async with running(guards=(), debug=False) as shop, shop.at() as client:
        shop.app.debug = True
        assert (await client.get("/saq")).status_code == 200
        shop.app.debug = False
        assert (await client.get("/saq")).status_code == 403


@pytest.mark.parametrize("debug", [True, False])
@pytest.mark.parametrize("peer", ["127.0.0.1", "10.0.0.7", "testclient", None])
@pytest.mark.parametrize("header", [{}, {"x-forwarded-for": "8.8.8.8", "host": "shop.example"}])
async def test_guards_decide_alone(debug: bool, peer: str | None, header: dict[str, str]) -> None:
    async with running(guards=[anybody], debug=debug) as shop, shop.at(peer) as client:
        assert (await client.get("/saq", headers=header)).status_code == 200
    async with running(guards=[nobody], debug=debug) as shop, shop.at(peer) as client:
        for method, path in EVERYTHING:
            assert (await client.request(method, path, headers=header | SCRIPT)).status_code == 401


async def test_every_guard_must_agree() -> None:
    async with running(guards=[anybody, nobody]) as shop, shop.at() as client:
        assert (await client.get("/saq")).status_code == 401


async def test_test_clients_come_in_by_guards() -> None:
    async with running() as shop, shop.at("testclient") as client:
        assert (await client.get("/saq/health")).json()["status"] == "ok"


def test_the_log_says_that_it_is_open_when_it_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "litestar_tasks.dashboard")
    announce(DashboardConfig(), Litestar(debug=False, logging_config=None))
    announce(DashboardConfig(guards=[anybody]), Litestar(debug=True, logging_config=None))
    assert not caplog.messages
    announce(DashboardConfig(path="jobs"), Litestar(debug=True, logging_config=None))
    assert caplog.messages == ["dashboard is open at /jobs to this machine, because debug is on"]


# ------------------------------------------------------------------------------------------------ other sites


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        (OWN_FORM, True),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "same-origin", "origin": "null"}, True),  # with a Referrer-Policy that hides it
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": ""}, False),
        ({"sec-fetch-site": "cross-site", "origin": "http://localhost:8000"} | SCRIPT, False),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, False),
        ({"origin": "http://localhost:8000"}, True),
        ({"origin": "http://LOCALHOST:8000"}, True),
        ({"origin": "http://localhost:3000"}, False),
        ({"origin": "http://localhost"}, False),
        ({"origin": "https://evil.example"}, False),
        ({"origin": "https://evil.example"} | SCRIPT, False),
        ({"origin": "null"} | SCRIPT, False),
        ({"origin": "http://localhost:port"} | SCRIPT, False),
        ({"origin": "https://shop.example", "host": "shop.example"}, True),  # TLS ends at a proxy
        ({"origin": "https://shop.example", "host": "shop.example:443"}, True),
        ({"origin": "http://shop.example", "host": "shop.example:443"}, False),
        ({}, False),
        ({"content-type": "application/x-www-form-urlencoded"}, False),
        ({"content-type": "multipart/form-data; boundary=x"}, False),
        ({"content-type": "text/plain"}, False),
        ({"content-type": "text/plain; application/json"}, False),
        ({"content-type": "application/json"}, True),
        ({"content-type": "Application/JSON; charset=utf-8"}, True),
    ],
)
async def test_a_post_has_to_come_from_the_dashboards_own_pages(headers: dict[str, str], allowed: bool) -> None:
    async with running() as shop, shop.at() as client:
        await shop.job()
        for path, done in (
            ("/saq/api/queues/default/jobs/job-1/retry", 202),
            ("/saq/queues/default/jobs/job-1/retry", 303),
        ):
            answer = await client.post(path, headers=headers)
            assert answer.status_code == (done if allowed else 403)
            await shop.queue.wait("job-1", 5)


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"sec-fetch-site": "none", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, True),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, True),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, False),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}, False),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "script"}, False),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "cors", "origin": "http://localhost:3000"}, False),
        ({"origin": "https://evil.example"}, False),
    ],
)
async def test_other_sites_cannot_read_it_even_if_cors_lets_them_read_the_app(
    headers: dict[str, str], allowed: bool
) -> None:
    cors = CORSConfig(allow_origins=["*"], allow_credentials=True)
    async with running(guards=(), debug=True, cors_config=cors) as shop, shop.at() as client:
        answer = await client.get("/saq/api/queues", headers=headers)
        assert answer.status_code == (200 if allowed else 403)
        assert ("default" in answer.text) is allowed


async def test_buttons_work_with_litestars_csrf_protection_on() -> None:
    async with running(csrf_config=CSRFConfig(secret="s" * 32)) as shop, shop.at() as client:
        await shop.job()
        assert (await client.get("/saq/queues/default/jobs/job-1", headers=HTML)).status_code == 200
        answer = await client.post("/saq/queues/default/jobs/job-1/retry", headers=OWN_FORM)
        assert answer.status_code == 303
        assert (await client.post("/saq/api/queues/default/jobs/job-1/abort", headers=SCRIPT)).status_code in (202, 409)
        answer = await client.post("/saq/queues/default/jobs/job-1/retry", headers={"origin": "https://evil.example"})
        assert answer.status_code == 403


async def test_every_response_carries_the_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    def complete(answer: httpx.Response) -> int:
        policy = answer.headers["content-security-policy"]
        assert policy == (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
            "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
        )
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "same-origin"
        a_file = answer.status_code == 200 and "/static/" in str(answer.url)
        assert answer.headers["cache-control"] == ("private, no-cache" if a_file else "no-store")
        return answer.status_code

    for guards, expected in (
        ((), {403, 204}),
        ((nobody,), {401, 204}),
        ((anybody,), {200, 202, 303, 404, 405, 409, 204}),
    ):
        async with running(guards=guards) as shop, shop.at() as client:
            await shop.job()
            seen = [complete(await client.request(*one, headers=SCRIPT | HTML)) for one in EVERYTHING]
            seen.append(complete(await client.options("/saq")))
            assert set(seen) <= expected

    async def broken(self: MemoryQueue, *args: Any, **options: Any) -> Any:
        raise QueueUnavailableError("default", "gone")

    monkeypatch.setattr(MemoryQueue, "counts", broken)
    async with running(worker=False) as shop, shop.at() as client:
        assert complete(await client.get("/saq")) == 503


# ------------------------------------------------------------------------------------------------ what it shows


async def test_the_first_page_shows_the_queues_and_what_failed() -> None:
    async with running() as shop, shop.at() as client:
        await shop.job("fail")
        page = (await client.get("/saq", headers=HTML)).text
        assert "default" in page
        assert "emails" in page
        assert "RuntimeError: no reason" in page
        await shop.job("wait", key="running", end=False)
        await shop.until("running", "active")
        await shop.job("add", key="later", end=False, scheduled=int(time.time()) + 3600)
        queues = {queue["name"]: queue for queue in (await client.get("/saq/api/queues")).json()["queues"]}
        counts = {name: queues["default"][name] for name in ("active", "queued", "scheduled")}
        assert counts == {"active": 1, "queued": 0, "scheduled": 1}
        assert queues["default"]["workers"] == queues["emails"]["workers"] == 1


async def test_jobs_are_listed_by_state() -> None:
    async with running() as shop, shop.at() as client:
        await shop.job("add", key="done")
        await shop.job("fail", key="broken")
        await shop.job("wait", key="running", end=False)
        await shop.until("running", "active")
        await shop.job("add", key="later", end=False, scheduled=int(time.time()) + 3600)
        await shop.job("add", key="stopped", end=False, scheduled=int(time.time()) + 3600)
        await shop.queue.cancel("stopped", "enough")
        for state, key in (
            ("complete", "done"),
            ("failed", "broken"),
            ("active", "running"),
            ("scheduled", "later"),
            ("aborted", "stopped"),
        ):
            jobs = (await client.get(f"/saq/api/jobs?state={state}")).json()["jobs"]
            assert [(job["key"], job["status"]) for job in jobs] == [(key, state)]
            page = (await client.get(f"/saq/jobs?state={state}", headers=HTML)).text
            assert links_to_jobs(page) == [key]


def links_to_jobs(page: str) -> list[str]:
    found = re.findall(r'href="[^"]*/jobs/([^"/]+)" title', page)
    return list(dict.fromkeys(found))


async def test_a_job_shows_its_arguments_result_and_error() -> None:
    async with running() as shop, shop.at() as client:
        await shop.job("add", key="done", kwargs={"a": "seven"}, meta={"tag": "blue"})
        await shop.job("fail", key="broken", kwargs={"why": "the moon is wrong"})
        done = (await client.get("/saq/queues/default/jobs/done", headers=HTML)).text
        assert all(part in done for part in ("seven", "sum", "blue", "complete"))
        broken = (await client.get("/saq/queues/default/jobs/broken", headers=HTML)).text
        assert "RuntimeError: the moon is wrong" in broken
        assert "Traceback" in broken


async def test_a_job_opens_by_its_id_too() -> None:
    async with running() as shop, shop.at() as client:
        job = await shop.job()
        assert (await client.get(f"/saq/queues/default/jobs/{quote(job.id, safe='')}")).status_code == 200


PLAIN_KEYS = ["a/b", "a b", "100%", "ü?x=1&y#z", "a\\b", "retry", "<b>", "'\""]
# Of these nobody can tell the parts once a server has decoded the path.
HARD_KEYS = ["/a//b/", "a%2Fb", "../../health", "x/retry"]


def as_sent(app: ASGIApp) -> ASGIApp:
    return app


def without_raw_path(app: ASGIApp) -> ASGIApp:
    """A server that sends the decoded path alone, as ASGI allows it to."""

    async def stripped(scope: Scope, receive: Receive, send: Send) -> None:
        scope["raw_path"] = b""
        await app(scope, receive, send)

    return stripped


@pytest.mark.parametrize(
    ("key", "through"),
    [*((key, as_sent) for key in PLAIN_KEYS + HARD_KEYS), *((key, without_raw_path) for key in PLAIN_KEYS)],
)
async def test_jobs_open_and_obey_whatever_their_key_is(key: str, through: Callable[[ASGIApp], ASGIApp]) -> None:
    async with running() as shop, shop.at(through=through) as client:
        await shop.job(key=key)
        encoded = quote(key, safe="")
        page = await client.get("/saq/jobs?state=complete", headers=HTML)
        link = next(link for link in links(page.text) if f"/jobs/{encoded}" in link)
        assert (await client.get(urljoin(str(page.url), link), headers=HTML)).status_code == 200
        assert (await client.get(f"/saq/api/queues/default/jobs/{encoded}")).json()["job"]["key"] == key
        answer = await client.post(f"/saq/queues/default/jobs/{encoded}/retry", headers=OWN_FORM, follow_redirects=True)
        assert answer.status_code == 200
        await shop.queue.wait(key, 5)
        answer = await client.post(f"/saq/api/queues/default/jobs/{encoded}/abort", headers=SCRIPT)
        assert answer.status_code == 409


async def test_unknown_things_are_not_found_and_say_what_there_is() -> None:
    async with running() as shop, shop.at() as client:
        for path in ("queues/nope", "queues/nope/jobs/x", "queues/default/jobs/x", "static/../app.js", "nothing"):
            for prefix in ("/saq/", "/saq/api/"):
                assert (await client.get(prefix + path, headers=HTML)).status_code == 404
        assert "default, emails" in (await client.get("/saq/api/queues/nope")).json()["detail"]
        assert "<script>alert" not in (await client.get("/saq/queues/%3Cscript%3Ealert(1)", headers=HTML)).text
        answer = await client.put("/saq/api/queues", headers=SCRIPT)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


async def test_it_is_not_in_the_openapi_schema() -> None:
    @get("/mine")
    async def mine() -> None: ...

    async with running(route_handlers=[mine]) as shop:
        assert list(shop.app.openapi_schema.paths or {}) == ["/mine"]


# ------------------------------------------------------------------------------------------------ markup stays text

PAYLOADS: list[dict[str, Any]] = [
    {"props": {"innerHTML": "<img src=x onerror=\"document.title='PWNED'\">"}},
    {"attrs": {"onmouseover": "document.title='PWNED'", "style": "position:fixed;inset:0"}},
    {"sel": "iframe", "data": {"attrs": {"srcdoc": "<script>parent.document.title='PWNED'</script>"}}},
    {"a": "</pre></code><script>document.title='PWNED'</script>"},
    {"</script><script>document.title='PWNED'</script>": "\"' onload=x"},
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=["props", "attrs", "sel", "element", "name"])
async def test_arguments_results_and_errors_are_strings_and_stay_text(payload: dict[str, Any]) -> None:
    async with running() as shop, shop.at() as client:
        await shop.job("echo", key="done", kwargs={"value": payload}, meta=payload)
        await shop.job("echo", key="stray", kwargs=payload)
        await shop.job("fail", key="broken", kwargs={"why": str(payload)})
        await shop.job("</td><script>x</script>", key="<script>y</script>", end=False, scheduled=int(time.time()) + 99)
        jobs = [
            job
            for state in ("complete", "failed", "scheduled")
            for job in (await client.get(f"/saq/api/jobs?state={state}")).json()["jobs"]
        ]
        assert len(jobs) == 4
        assert {type(value) for job in jobs for value in job.values()} <= {str, int, float, type(None)}
        for path in (
            "",
            "/jobs?state=complete",
            "/jobs?state=failed",
            "/jobs?state=scheduled",
            "/queues/default",
            "/queues/default/jobs/done",
            "/queues/default/jobs/done/copies",
            "/queues/default/jobs/stray",
            "/queues/default/jobs/broken",
        ):
            page = (await client.get(f"/saq{path}", headers=HTML)).text
            tags = Tags(page)
            assert tags.names <= OUR_TAGS
            assert not [name for name in tags.attributes if name.startswith("on") or name in ("style", "srcdoc")]
            assert page.count("<script") == 1


OUR_TAGS = set(
    re.findall(
        r"\w+",
        "html head meta title link script body header nav ul ol li a main aside section figure figcaption h1 h2 table "
        "thead tbody tr th td code p div span strong form label input select option textarea button details summary dl "
        "dt dd progress meter pre time svg symbol path rect circle use g defs pattern polyline",
    )
)


# ------------------------------------------------------------------------------------------------ no secrets

SECRETS: list[dict[str, Any]] = [
    {"password": SECRET},
    {"userPassword": SECRET},
    {"a": [{"deep": {"API_KEY": SECRET}}]},
    {"card": {"number": SECRET, "cvc": SECRET}},
    {"authorization": ["Bearer", SECRET]},
    {"access-token": SECRET},
    {"clientSecret": SECRET},
    {"PIN": SECRET},
    {"headers": {"Cookie": f"session={SECRET}"}},
    {"url": f"redis://user:{SECRET}@host:6379/0"},
    {"url": f"postgresql+asyncpg://:{SECRET}/w#r@d@db/x"},
    {"url": f"https://{SECRET}@sentry.example/7"},
    {"note": f"called with password={SECRET}, and more"},
    {"note": f'{{"api_key": "{SECRET}", "n": 1}}'},
    {"note": f"--- Authorization: Token {SECRET}"},
    {"note": "sk_live_" + SECRET},
    {f"redis://user:{SECRET}@host": 1},
]


@pytest.mark.parametrize("payload", SECRETS, ids=lambda payload: next(iter(payload)))
async def test_secrets_do_not_leave_the_server(payload: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    async with running() as shop, shop.at() as client:
        await shop.job("echo", key="done", kwargs={"value": payload}, meta=payload)
        await shop.job("echo", key="stray", kwargs=payload)
        text = next(iter(payload.values()))
        if isinstance(text, str) and text != SECRET:
            await shop.job("fail", key="broken", kwargs={"why": text})
        caplog.clear()
        jobs = [f"/queues/default/jobs/{key}" for key in ("done", "stray", "broken")]
        for path in ("", "/queues/default", *jobs):
            for prefix in ("/saq", "/saq/api"):
                assert SECRET not in (await client.get(prefix + path, headers=HTML)).text
        await client.post("/saq/api/queues/default/jobs/done/retry", headers=SCRIPT)
        assert SECRET not in "".join(
            record.getMessage() for record in caplog.records if record.name == "litestar_tasks.dashboard"
        )


@pytest.mark.parametrize(
    "text",
    [
        "author: Ada, passport-sized, discard nothing, spinning pins",
        "a@b.c wrote to http://host:80/path?x=1",
        "basic understanding of things",
        'File "/app/tasks.py", line 3, in run',
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert masked_text(text) == text
    assert Redactor().shown({"author": text, "discard": 1, "cardinality": 2}, 1_000).count("***") == 0


def test_long_values_are_cut_and_secrets_at_the_cut_are_not() -> None:
    assert len(Redactor().shown({"a": "x" * 100_000}, 2_000)) < 2_300
    assert "(100000 characters)" in Redactor().shown({"a": "x" * 100_000}, 2_000)
    assert len(Redactor().shown(["x"] * 100_000, 2_000)) < 10_000
    assert len(Redactor().shown({str(n): {"y": n} for n in range(100_000)}, 2_000)) < 10_000
    for before in range(1_960, 2_001):
        assert "SECRET" not in Redactor().shown("x" * before + f" redis://user:{SECRET}@host", 2_000)
    lines = "\n".join(f"  at {number}" for number in range(10_000))
    assert (
        Redactor()
        .end(f"{lines}\npassword={SECRET}\nValueError: last", 2_000)
        .endswith("password=***\nValueError: last")
    )
    for after in range(1_960, 2_001):
        assert "SECRET" not in Redactor().end(f"first line\npassword={SECRET}\n" + "x" * after, 2_000)


def test_deep_values_end_somewhere() -> None:
    deep: Any = "bottom"
    for _ in range(500):
        deep = [deep]
    assert "…" in Redactor().shown(deep, 2_000)


@pytest.mark.parametrize(
    "part",
    ["a", "a.", "a://b:", "secret", "eyJ-", "eyJaaaaaaaa.", "-----BEGIN PRIVATE KEY-----", "secret=\"", 'secret=\\"',
     "bearer ", "http://a", "api-key-", "cookie=", "password\\", "://a:", "a://@", "sk_live_", "secret ", "\t", "-"],
)  # fmt: skip
def test_no_text_keeps_the_event_loop_busy(part: str) -> None:
    text = part * (64_000 // len(part))
    started = time.perf_counter()
    masked_text(text)
    assert time.perf_counter() - started < 2


async def test_values_that_json_or_utf8_have_no_form_for_are_shown_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def half(self: MemoryQueue, key: str) -> Job:
        odd = {"a\ud800": "b\ud800", "nan": float("nan")}
        return Job("f\ud800", odd, self, "k\ud800", error="e\ud800", progress=float("nan"), queued=float("inf"))  # type: ignore[arg-type]

    monkeypatch.setattr(MemoryQueue, "job", half)
    async with running(worker=False) as shop, shop.at() as client:
        for prefix in ("/saq", "/saq/api"):
            assert (await client.get(f"{prefix}/queues/default/jobs/x", headers=HTML)).status_code == 200


# ------------------------------------------------------------------------------------------------ what it does


async def test_a_job_that_ended_can_be_retried() -> None:
    async with running() as shop, shop.at() as client:
        await shop.job("wait", key="again", end=False)
        await shop.until("again", "active")
        await shop.queue.cancel("again", "enough")
        await shop.until("again", "aborted")
        answer = await client.post("/saq/api/queues/default/jobs/again/retry", headers=SCRIPT)
        assert (answer.status_code, answer.json()["key"]) == (202, "again")
        await shop.until("again", "active")
        shop.gate.set()
        await shop.until("again", "complete")


async def test_a_job_that_has_not_ended_cannot_be_retried() -> None:
    async with running() as shop, shop.at() as client:
        await shop.job("wait", key="running", end=False)
        await shop.until("running", "active")
        await shop.job("add", key="later", end=False, scheduled=int(time.time()) + 3600)
        for key in ("running", "later"):
            answer = await client.post(f"/saq/api/queues/default/jobs/{key}/retry", headers=SCRIPT)
            assert answer.status_code == 409
            assert "only a job that has ended can be retried" in answer.json()["detail"]
            page = await client.post(f"/saq/queues/default/jobs/{key}/retry", headers=OWN_FORM | HTML)
            assert page.status_code == 409
            assert "only a job that has ended" in page.text
        assert await shop.queue.status("running") == "active"
        assert await shop.queue.status("later") == "scheduled"
        assert "Retry" not in (await client.get("/saq/queues/default/jobs/running", headers=HTML)).text


async def test_a_job_is_not_retried_while_another_one_like_it_waits() -> None:
    async with running() as shop, shop.at() as client:
        alike = {"lock": {"name": "a" * 32, "until": "finished"}}
        await shop.job("wait", key="first", end=False, meta=alike)
        await shop.until("first", "active")
        await shop.queue.cancel("first", "enough")
        await shop.until("first", "aborted")
        await shop.job("wait", key="second", end=False, meta=alike)
        for path, headers in (("api/", SCRIPT), ("", OWN_FORM | HTML)):
            answer = await client.post(f"/saq/{path}queues/default/jobs/first/retry", headers=headers)
            assert answer.status_code == 409
            assert "another one like it waits or runs" in answer.text
        shop.gate.set()
        await shop.until("second", "complete")
        answer = await client.post("/saq/api/queues/default/jobs/first/retry", headers=SCRIPT)
        assert answer.status_code == 202


async def test_who_is_second_to_retry_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def taken(self: MemoryQueue, key: str) -> bool:
        return False

    async with running() as shop, shop.at() as client:
        await shop.job()
        monkeypatch.setattr(MemoryQueue, "rerun", taken)
        assert (await client.post("/saq/api/queues/default/jobs/job-1/retry", headers=SCRIPT)).status_code == 409


async def test_a_job_that_waits_or_runs_can_be_aborted() -> None:
    async with running() as shop, shop.at() as client:
        await shop.job("wait", key="running", end=False)
        await shop.until("running", "active")
        await shop.job("add", key="later", end=False, scheduled=int(time.time()) + 3600)
        for key in ("running", "later"):
            page = (await client.get(f"/saq/queues/default/jobs/{key}", headers=HTML)).text
            assert "Abort" in page
            answer = await client.post(f"/saq/queues/default/jobs/{key}/abort", headers=OWN_FORM)
            assert answer.status_code == 303
            ended = await shop.queue.wait(key, 5)
            assert ended is not None
            assert ended.status is Status.ABORTED
        answer = await client.post("/saq/api/queues/default/jobs/later/abort", headers=SCRIPT)
        assert answer.status_code == 409
        assert "has ended already" in answer.json()["detail"]


class Login(AbstractAuthenticationMiddleware):
    async def authenticate_request(self, connection: ASGIConnection[Any, Any, Any, Any]) -> AuthenticationResult:
        return AuthenticationResult(SimpleNamespace(username="ada\nforged", password=SECRET), None)


@pytest.mark.parametrize(
    ("middleware", "who"), [([], "by 127.0.0.1"), ([Login], r"by 'ada\nforged' at 127.0.0.1")], ids=["nobody", "user"]
)
async def test_actions_are_logged_with_who_did_them(
    middleware: list[Any], who: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "litestar_tasks.dashboard")
    async with running(middleware=middleware) as shop, shop.at() as client:
        await shop.job(key="a\nb")
        await shop.job("wait", key="running", end=False)
        await client.post("/saq/api/queues/default/jobs/a%0Ab/retry", headers=SCRIPT)
        await client.post("/saq/queues/default/jobs/running/abort", headers=OWN_FORM)
    said = [record.getMessage() for record in caplog.records if record.name == "litestar_tasks.dashboard"]
    assert said == [
        rf"job 'a\nb' (task 'add', queue 'default') was retried {who}",
        f"job 'running' (task 'wait', queue 'default') was aborted {who}",
    ]


# ------------------------------------------------------------------------------------------------ health and outages


async def unreachable(self: MemoryQueue, *args: Any, **options: Any) -> Any:
    raise ConnectionError(f"Error 111 connecting to redis://user:{SECRET}@host:6379")


async def defective(self: MemoryQueue, *args: Any, **options: Any) -> Any:
    raise KeyError(f"password={SECRET}")


async def silent(self: MemoryQueue, *args: Any, **options: Any) -> Any:
    await asyncio.sleep(60)


async def test_health_tells_a_lost_broker_from_missing_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as shop, shop.at() as client:
        answer = await client.get("/saq/health", headers=HTML)
        assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    async with running(worker=False) as shop, shop.at() as client:
        answer = await client.get("/saq/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "no workers")
        assert answer.json()["queues"] == {"default": "no workers", "emails": "no workers"}
        await shop.queue.worker_info("w", "default")  # as a worker of stock SAQ reports
        assert (await client.get("/saq/health")).json() == {
            "status": "no workers",
            "queues": {"default": "ok", "emails": "no workers"},
        }
        monkeypatch.setattr(MemoryQueue, "workers", unreachable)
        answer = await client.get("/saq/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "broker unreachable")
        assert SECRET not in answer.text


@pytest.mark.parametrize(("failure", "status"), [(unreachable, 503), (silent, 503), (defective, 500)])
@pytest.mark.parametrize("debug", [True, False])
async def test_failures_are_small_sentences_without_internals(
    failure: Callable[..., Awaitable[Any]],
    status: int,
    debug: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if failure is silent:
        monkeypatch.setattr("litestar_tasks.dashboard.asking._DEADLINE", 0.05)
    async with running(debug=debug) as shop, shop.at() as client:
        await shop.job()
        for name in ("counts", "page", "job", "cancel"):
            monkeypatch.setattr(MemoryQueue, name, failure)
        for path in (
            "",
            "/queues/default",
            "/queues/default/jobs/job-1",
            "/jobs",
            "/workers",
            "/api/queues",
            "/api/jobs",
            "/api/queues/default/jobs/job-1",
        ):
            answer = await client.get(f"/saq{path}", headers=HTML)
            assert answer.status_code == status
            assert "default" in answer.text or "emails" in answer.text
            assert not any(word in answer.text for word in (SECRET, "Traceback", "MemoryQueue", ".py", "KeyError"))
        answer = await client.post("/saq/api/queues/default/jobs/job-1/abort", headers=SCRIPT)
        assert answer.status_code == status
        monkeypatch.undo()
    dashboard = [record.getMessage() for record in caplog.records if record.name == "litestar_tasks.dashboard"]
    assert bool(dashboard) is (status == 500), "an outage is the queue's to log"
    assert SECRET not in "".join(dashboard)


async def test_a_defect_of_the_dashboard_itself_shows_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def defect(request: Request[Any, Any, Any]) -> str:
        raise KeyError("inside")

    monkeypatch.setattr("litestar_tasks.dashboard.actions.who", defect)
    async with running(debug=True) as shop, shop.at() as client:
        await shop.job()
        answer = await client.post("/saq/queues/default/jobs/job-1/retry", headers=OWN_FORM | HTML)
        assert answer.status_code == 500
        assert "inside" not in answer.text
        assert "KeyError: 'inside'" in caplog.text


# ------------------------------------------------------------------------------------------------ where it is


def under(prefix: str) -> Callable[[ASGIApp], ASGIApp]:
    """A proxy that takes a prefix off, and does not say so."""

    def strip(app: ASGIApp) -> ASGIApp:
        async def proxied(scope: Scope, receive: Receive, send: Send) -> None:
            assert scope["path"].startswith(prefix)
            scope["path"] = scope["path"].removeprefix(prefix)
            scope["raw_path"] = scope["raw_path"].removeprefix(prefix.encode())
            await app(scope, receive, send)

        return proxied

    return strip


@pytest.mark.parametrize(
    ("prefix", "options"),
    [
        ("", {}),
        ("/shop", {"root_path": "/shop"}),  # uvicorn --root-path, or a mount: the path holds the prefix
        ("/shop", {"root_path": "/shop", "through": under("/shop")}),  # other servers, and Litestar's TestClient
        ("/shop", {"through": under("/shop")}),
        ("/saq", {"root_path": "/saq"}),
    ],
    ids=["none", "root_path", "root_path apart", "stripped", "same name"],
)
@pytest.mark.parametrize("path", ["/saq", "/admin/saq", "admin/saq/", "/jobs of the shop"])
async def test_every_link_and_button_leads_somewhere_under_any_prefix(
    prefix: str, options: dict[str, Any], path: str
) -> None:
    async with running(path=path) as shop, shop.at(**options) as client:
        await shop.job(key="a/b c")
        start = "http://localhost:8000" + prefix + quote("/" + path.strip("/"))
        for start_at in (start, start + "/"):
            todo, seen, buttons = [start_at], set[str](), set[str]()
            while todo:
                url = todo.pop()
                if url in seen or "range=" in url:
                    continue
                seen.add(url)
                answer = await client.get(url, headers=HTML)
                assert answer.status_code in (200, 303), url
                if "text/html" in answer.headers.get("content-type", ""):
                    tags = Tags(answer.text)
                    todo += [urljoin(url, link).partition("#")[0] for link in tags.links if not link.startswith("#")]
                    buttons |= {urljoin(url, form) for form in tags.forms}
            assert all(url.startswith(start) for url in seen | buttons)
            assert {url.partition("?")[0].rpartition("/")[2] for url in seen} >= {
                "style.css", "live.js", "jobs", "tasks", "workers", "default", "emails", "a%2Fb%20c", "copies", "fail",
            }  # fmt: skip
            (retry,) = (button for button in buttons if button.endswith("/retry") and "a%2Fb%20c" in button)
            done = await client.post(retry, headers=OWN_FORM)
            assert done.status_code == 303
            back = urljoin(retry, done.headers["location"])
            assert back.partition("?")[0] == retry.removesuffix("/retry")
            assert (await client.get(back, headers=HTML)).status_code == 200
            await shop.queue.wait("a/b c", 5)


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
async def test_pages_and_files_are_compressed_once_or_not_at_all(encoding: str) -> None:
    config = CompressionConfig(backend="gzip", minimum_size=1)
    async with running(compression_config=config) as shop, shop.at() as client:
        for path in ("", "/static/style.css", "/static/live.js", "/api/queues"):
            async with client.stream("GET", f"/saq{path}", headers=HTML | {"accept-encoding": encoding}) as answer:
                raw = b"".join([chunk async for chunk in answer.aiter_raw()])
            assert answer.headers.get("content-encoding", "identity") == encoding
            text = (gzip.decompress(raw) if encoding == "gzip" else raw).decode()
            assert any(word in text for word in ("<main", "font:", "use strict", "queues"))


async def test_the_apps_own_handlers_do_not_change_it() -> None:
    def teapot(request: Request[Any, Any, Any], error: Exception) -> Any:
        raise AssertionError("not the app's business")

    async with running(exception_handlers={Exception: teapot}) as shop, shop.at() as client:
        assert (await client.get("/saq/nothing", headers=HTML)).status_code == 404
