"""The history at /saq: jobs that the broker has forgotten, found, shown and run again; and what it does not show."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

import httpx
import pytest
from litestar.exceptions import PermissionDeniedException
from sqlalchemy import text

from litestar_tasks import Constant, JobHandle, JobNotFoundError
from litestar_tasks.outbox.history import HistoryJob, JobHistory
from litestar_tasks.queues.memory import MemoryQueue
from tests.integration.conftest import eventually
from tests.integration.shop import HTML, OWN_FORM, SCRIPT, SECRET, Running, Tags, running
from tests.integration.test_dashboard import OUR_TAGS, PAYLOADS, SECRETS, silent, unreachable
from tests.servers import PostgresServer, postgres_binaries

FORM = OWN_FORM | HTML
JOBS = "/saq/api/history/jobs"


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'app.sqlite3'}"


async def done(shop: Running, task: str, *, key: str = "", status: str = "complete", **kwargs: Any) -> HistoryJob:
    """Run a job, and wait until the history says how it has ended."""
    call = shop.queue.registry.get_task(task)
    handle = await (call.using(key=key) if key else call).enqueue(**kwargs)
    return await recorded(shop, handle.id, status)


async def recorded(shop: Running, id: str, status: str) -> HistoryJob:
    async def is_there() -> bool:
        try:
            return (await shop.history.job(id)).status == status
        except JobNotFoundError:
            return False

    await eventually(is_there)
    return await shop.history.job(id)


async def sql(shop: Running, statement: str, **values: Any) -> None:
    async with shop.database.get_engine().begin() as connection:
        await connection.execute(text(statement), values)


async def gap(shop: Running, name: str, ago: float, reason: str = "it was away") -> None:
    """Something that could not be recorded, so many hours ago."""
    moment = int((time.time() - ago * 3600) * 1000)
    await sql(
        shop,
        "INSERT INTO litestar_tasks_history_gaps (id, since, until, lost, process, reason) "
        "VALUES (:name, :since, :until, 1234, 'web-1:7', :reason)",
        name=name, since=moment - 60_000, until=moment, reason=reason,
    )  # fmt: skip


def place(job: HistoryJob | JobHandle[Any]) -> str:
    return f"/history/jobs/{quote(job.id, safe='')}"


def text_of(page: httpx.Response) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page.text))


def after(answer: httpx.Response) -> str:
    """Where a form leads."""
    return urljoin(str(answer.url), answer.headers["location"])


# ------------------------------------------------------------------------------------------------ where there is none


async def test_without_a_history_nothing_points_to_one() -> None:
    async with running(dashboard={"openapi": True}) as shop, shop.at() as client:
        await shop.job()
        for path in ("", "/jobs", "/jobs?state=failed&task=add", "/queues/default/jobs/job-1", "/no/such/page",
                     "/queues/default/jobs/nothing"):  # fmt: skip
            page = (await client.get(f"/saq{path}", headers=HTML)).text.replace('id="i-history"', "")
            assert "history" not in page.lower()
        for path in ("/history", "/history/jobs/x", "/api/history/jobs", "/api/history/gaps"):
            answer = await client.get(f"/saq{path}", headers=HTML)
            assert answer.status_code == 404
            assert "TasksConfig(history=HistoryConfig())" in answer.text
        assert not [path for path in (await client.get("/schema/openapi.json")).json()["paths"] if "history" in path]


# ------------------------------------------------------------------------------------------------ finding


async def test_recorded_jobs_are_found_by_task_queue_status_tag_time_text_and_id(database: str) -> None:
    async with running(history=database) as shop, shop.at() as client:
        one = await done(shop, "fail", key="one", status="failed", why="the moon")
        two = await done(shop, "add", key="two", a="the sun")
        mail = await done(shop, "mail", key="three", to="ada")
        old = await done(shop, "add", key="old", a=0)
        await sql(shop, "UPDATE litestar_tasks_history SET enqueued = enqueued - 172800000 WHERE id = :id", id=old.id)
        await sql(shop, "UPDATE litestar_tasks_history SET tag = 'blue' WHERE id = :id", id=two.id)

        async def found(**params: str) -> list[str]:
            jobs = (await client.get(JOBS, params=params)).json()["jobs"]
            page = await client.get("/saq/history", params=params, headers=HTML)
            if page.status_code == 200:
                shown = re.findall(r'title="([^"]+)">[^<]', page.text)
                assert [job["id"] for job in jobs] == [id for id in shown if id.startswith("saq:job:")]
            return [job["id"].rpartition(":")[2] for job in jobs]

        assert await found() == ["three", "two", "one", "old"]
        assert await found(task="add") == ["two", "old"]
        assert await found(queue="emails") == ["three"]
        assert await found(status="failed") == ["one"]
        assert await found(tag="blue") == ["two"]
        assert await found(q="MOON") == ["one"]
        assert await found(since="36h") == ["three", "two", "one"]
        assert await found(until="1d") == ["old"]
        assert await found(since="2020-01-01", until="2020-01-02T09:00+01:00") == []
        page = await client.get("/saq/history", params={"q": mail.id}, headers=HTML)
        assert (page.status_code, after(page)) == (303, f"http://localhost:8000/saq{place(mail)}")
        assert (await client.get(JOBS, params={"q": mail.id})).json()["jobs"][0]["id"] == mail.id
        row = (await client.get(JOBS, params={"q": "moon"})).json()["jobs"][0]
        assert (row["id"], row["error"], row["queue"]) == (one.id, "RuntimeError: the moon", "default")
        for wrong in ("status=lost", "since=yesterday", "cursor=%25", "limit=0", "since=1h&until=2h"):
            assert (await client.get(f"{JOBS}?{wrong}")).status_code == 400
        page = await client.get("/saq/history?since=yesterday&task=add", headers=HTML)
        assert page.status_code == 400
        assert "&#39;yesterday&#39;; give a moment such as 2026-01-31T09:00Z, or an age such as 45m" in page.text
        assert 'value="yesterday"' in page.text, "what was typed can be mended"
        assert "No recorded job matches" in text_of(await client.get("/saq/history?tag=red", headers=HTML))


async def test_recorded_jobs_are_paged_without_a_gap_or_a_double(database: str) -> None:
    async with running(history=database) as shop, shop.at() as client:
        for number in range(13):
            await shop.job("add", key=f"{number}", kwargs={"a": number})
        await shop.history.flush()
        seen, cursor = list[str](), ""
        while True:
            answer = (await client.get(JOBS, params={"limit": "4", "cursor": cursor})).json()
            assert len(answer["jobs"]) <= 4
            seen += [job["id"] for job in answer["jobs"]]
            if not (cursor := answer["cursor"]):
                break
        assert len(seen) == len(set(seen)) == 13


async def test_pages_of_recorded_jobs_are_turned_on_and_back(database: str) -> None:
    async with running(history=database) as shop, shop.at() as client:
        assert "Nothing is recorded yet." in text_of(await client.get("/saq/history", headers=HTML))
        for number in range(51):
            await shop.job("add", key=f"job-{number}")
        await shop.history.flush()
        first = await client.get("/saq/history?task=add", headers=HTML)
        assert "First page" not in first.text
        last = await client.get(link_of(first, "Next page"), headers=HTML)
        assert last.text.count('<tr id="life-') == 1
        assert "job-0" in last.text
        for back in ("Previous page", "First page"):
            again = await client.get(link_of(last, back), headers=HTML)
            assert re.findall('<tr id="([^"]+)"', again.text) == re.findall('<tr id="([^"]+)"', first.text)


def link_of(page: httpx.Response, words: str) -> str:
    """Where a link with these words leads."""
    (found,) = re.findall(rf'href="([^"]*)"[^>]*>(?:<svg.*?</svg>)? ?{words}', page.text)
    return urljoin(str(page.url), unescape(found))


# ------------------------------------------------------------------------------------------------ one job


async def test_a_recorded_job_shows_its_attempts_arguments_and_error(database: str) -> None:
    async with running(history=database) as shop, shop.at() as client:
        call = shop.queue.registry.get_task("fail").using(max_attempts=2, backoff=Constant(0), tag="blue", priority=3)
        job = await recorded(shop, (await call.enqueue(why="the moon is wrong")).id, "failed")
        page = await client.get(f"/saq{place(job)}", headers=HTML)
        said = text_of(page)
        for part in ("the moon is wrong", "Failed, to be retried", "blue", "Attempts2", "Priority3", "took", job.id):
            assert part in said
        assert "RuntimeError: the moon is wrong" in said
        found = (await client.get(f"/saq/api{place(job)}")).json()["job"]
        assert [one["outcome"] for one in found["history"]] == ["retry", "failed"]
        assert found["arguments"] == [["why", "the moon is wrong"]]
        assert found["traceback"]["error"] == "RuntimeError: the moon is wrong"
        good = await done(shop, "add", a="seven")
        assert '"sum": "seven"' in (await client.get(f"/saq/api{place(good)}")).json()["job"]["result"]
        nothing = await client.get("/saq/history/jobs/saq:job:default:x", headers=HTML)
        assert nothing.status_code == 404
        assert "The history does not know it" in nothing.text


async def test_a_job_that_the_broker_has_forgotten_is_found_from_its_old_address(database: str) -> None:
    async with running(history=database) as shop, shop.at() as client:
        job = await done(shop, "add", key="a/b c", a="seven")
        live = f"/saq/queues/default/jobs/{quote('a/b c', safe='')}"
        page = await client.get(live, headers=HTML)
        (link,) = [link for link in Tags(page.text).links if "/history/jobs/" in link]
        past = await client.get(urljoin(str(page.url), link), headers=HTML)
        assert "seven" in past.text
        assert any("jobs/a%2Fb%20c" in link and "queues" in link for link in Tags(past.text).links)
        await shop.queue.delete("a/b c")
        for address in (live, f"/saq/queues/default/jobs/{quote(job.id, safe='')}"):
            gone = await client.get(address, headers=HTML)
            assert gone.status_code == 404
            assert "The broker has forgotten this job" in gone.text
            (link,) = [link for link in Tags(gone.text).links if "/history/jobs/" in link]
            past = await client.get(urljoin(str(gone.url), link), headers=HTML)
            assert past.status_code == 200
            assert not any("queues/default/jobs" in link for link in Tags(past.text).links)
        never = await client.get("/saq/queues/default/jobs/never", headers=HTML)
        assert never.status_code == 404
        assert "/history/jobs/" not in never.text
        listed = await client.get("/saq/jobs?state=complete&task=add&q=seven", headers=HTML)
        (link,) = [link for link in Tags(listed.text).links if "history?" in link]
        assert "seven" in (await client.get(urljoin(str(listed.url), link), headers=HTML)).text


async def test_each_life_of_a_job_is_shown_and_run_again_as_it_was(database: str) -> None:
    async with running(history=database) as shop, shop.at() as client:
        for number in range(2):
            await shop.queue.delete("key")
            await shop.queue.registry.get_task("add").using(key="key").enqueue(a=f"value {number}")
            await shop.queue.wait("key", 10)
            await shop.history.flush()
        job = await shop.history.job(shop.queue.job_id("key"))
        rows = (await client.get(JOBS)).json()["jobs"]
        assert [row["kwargs"] for row in rows] == ['{"a": "value 1"}', '{"a": "value 0"}']
        for row in rows:
            shown = (await client.get(f"/saq/api{place(job)}?life={row['life']}")).json()["job"]
            assert shown["kwargs"] == row["kwargs"]
        assert (await client.get(f"/saq/api{place(job)}?life=17")).status_code == 404
        page = await client.get(f"/saq{place(job)}?life={rows[1]['life']}", headers=HTML)
        assert "Its lives" in page.text
        assert "value 0" in page.text
        (action,) = [form for form in Tags(page.text).forms if "/rerun" in form]
        answer = await client.post(urljoin(str(page.url), action), headers=FORM)
        again = await shop.queue.wait(after(answer).partition("?")[0].rpartition("/")[2], 10)
        assert again is not None
        assert again.kwargs == {"a": "value 0"}


# ------------------------------------------------------------------------------------------------ running again


async def test_a_recorded_job_runs_again_as_a_new_one_and_the_log_says_who_did_it(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "litestar_tasks.dashboard")
    async with running(history=database) as shop, shop.at() as client:
        job = await done(shop, "add", key="old", a="seven")
        await shop.queue.delete("old")
        answer = await client.post(f"/saq{place(job)}/rerun", headers=FORM)
        page = await client.get(after(answer), headers=HTML)
        assert "The job was enqueued." in page.text
        key = after(answer).partition("?")[0].rpartition("/")[2]
        again = await shop.queue.wait(key, 10)
        assert again is not None
        assert (again.result, again.meta["parent"]) == ({"sum": "seven"}, job.id)
        assert f"job {job.id!r} (task 'add') was run again from the history as {key!r} (queue 'default')" in caplog.text
        assert caplog.text.count(" by 127.0.0.1") == 1
        answer = await client.post(f"/saq/api{place(job)}/rerun", json={"kwargs": {"a": "eight"}})
        assert answer.status_code == 201
        again = await shop.queue.wait(answer.json()["key"], 10)
        assert again is not None
        assert again.result == {"sum": "eight"}
        assert caplog.text.count(" by 127.0.0.1") == 2


async def test_it_runs_again_with_other_arguments_and_what_was_withheld_is_asked_for(database: str) -> None:
    async with running(history=database) as shop, shop.at() as client:
        call = {"days": 3, "to": ["a@b.c"], "password": SECRET, "pin": SECRET}
        job = await done(shop, "report", key="old", **call)
        assert job.withheld == ("password",)
        page = await client.get(f"/saq{place(job)}", headers=HTML)
        assert SECRET not in page.text
        assert Tags(page.text).forms == [], "not without what is withheld"
        assert "has to be given" in text_of(page)
        at_once = await client.post(f"/saq{place(job)}/rerun", headers=FORM)
        assert at_once.status_code == 422
        assert "does not hold password" in at_once.text
        page = await client.get(f"/saq{place(job)}/rerun", headers=HTML)
        assert SECRET not in page.text
        assert "The history does not hold it" in page.text
        form = {"edited": "1", "arg.days": "30", "arg.kind": "long", "arg.to": "", "arg.password": "", "arg.pin": "***"}
        refused = await client.post(f"/saq{place(job)}/rerun", data=form, headers=FORM)
        assert refused.status_code == 422
        assert "so give it again" in refused.text
        assert 'value="30"' in refused.text, "what was typed stays"
        form["arg.password"] = "another"
        answer = await client.post(f"/saq{place(job)}/rerun", data=form, headers=FORM)
        assert answer.status_code == 303
        again = await shop.queue.wait(after(answer).partition("?")[0].rpartition("/")[2], 10)
        assert again is not None
        opened = shop.queue.registry.get_task("report").opened(again.kwargs)
        # What was emptied is left to its default; what is hidden, and was left as it is, stays what it was.
        assert opened == {"days": 30, "kind": "long", "password": "another", "pin": SECRET}
        assert SECRET not in str(again.kwargs)
        answer = await client.post(f"/saq/api{place(job)}/rerun", json={})
        assert answer.status_code == 400
        assert "does not hold password" in answer.json()["detail"]


async def test_what_has_not_ended_or_has_no_task_does_not_run_again(database: str) -> None:
    async with running(history=database) as shop, shop.at() as client:
        later = await shop.queue.registry.get_task("add").using(delay=600).enqueue(a=1)
        await recorded(shop, later.id, "scheduled")
        page = await client.get(f"/saq{place(later)}", headers=HTML)
        assert "The broker says that it is scheduled now" in text_of(page)
        assert "/rerun" not in page.text
        for prefix in ("/saq", "/saq/api"):
            answer = await client.post(f"{prefix}{place(later)}/rerun", headers=FORM | SCRIPT, content=b"{}")
            assert answer.status_code == 409
            assert "has not ended" in answer.text
        await later.abort("enough")
        gone = await done(shop, "add", a=1)
        await sql(shop, "UPDATE litestar_tasks_history SET task = 'removed' WHERE id = :id", id=gone.id)
        page = await client.get(f"/saq{place(gone)}", headers=HTML)
        assert "No task removed is registered here" in text_of(page)
        assert "/rerun" not in page.text
        assert (await client.get(f"/saq{place(gone)}/rerun", headers=HTML)).status_code == 409
        assert (await client.post(f"/saq/api{place(gone)}/rerun", headers=SCRIPT)).status_code == 409


async def only_ada(connection: Any, _: Any) -> None:
    if connection.headers.get("x-user") != "ada":
        raise PermissionDeniedException("Only Ada may.")


@pytest.mark.parametrize("dashboard", [{"read_only": True}, {"acting_guards": [only_ada]}], ids=["nobody", "some"])
async def test_who_may_only_look_runs_nothing_again(dashboard: dict[str, Any], database: str) -> None:
    async with running(history=database, dashboard=dashboard) as shop, shop.at() as client:
        job = await done(shop, "add", a=1)
        for path in ("/history", place(job)):
            page = await client.get(f"/saq{path}", headers=HTML)
            assert page.status_code == 200
            assert 'method="post"' not in page.text
            assert "/rerun" not in page.text
        for prefix in ("/saq", "/saq/api"):
            assert (await client.post(f"{prefix}{place(job)}/rerun", headers=SCRIPT)).status_code == 403
        client.headers["x-user"] = "ada"
        expected = 403 if "read_only" in dashboard else 201
        assert (await client.post(f"/saq/api{place(job)}/rerun", headers=SCRIPT)).status_code == expected
        other_site = {"sec-fetch-site": "cross-site"} | SCRIPT
        assert (await client.post(f"/saq/api{place(job)}/rerun", headers=other_site)).status_code == 403


# ------------------------------------------------------------------------------------------------ secrets and markup


@pytest.mark.parametrize("payload", SECRETS[::3], ids=lambda payload: next(iter(payload)))
async def test_secrets_do_not_leave_the_history(payload: dict[str, Any], database: str) -> None:
    async with running(history=database) as shop, shop.at() as client:
        one = await done(shop, "echo", value=payload)
        value = next(iter(payload.values()))
        two = await done(shop, "fail", status="failed", why=value if isinstance(value, str) and value != SECRET else "")
        for path in ("/history", place(one), f"{place(one)}/rerun", place(two)):
            for prefix in ("/saq", "/saq/api"):
                assert SECRET not in (await client.get(prefix + path, headers=HTML)).text


async def test_what_the_dashboards_own_patterns_find_is_hidden_and_cannot_be_searched_for(database: str) -> None:
    patterns = {"redact": ["customer_ref", r"CUST-\d+"]}
    async with running(history=database, dashboard=patterns) as shop, shop.at() as client:
        ref = {"customer_ref": SECRET, "note": "for CUST-4711"}
        one = await done(shop, "echo", value=ref)
        many = await done(shop, "echo", value=[ref, [{"n": n} for n in range(900)]])
        two = await done(shop, "fail", status="failed", why="CUST-4711 is away")
        await sql(shop, "UPDATE litestar_tasks_history SET tag = 'CUST-4711'")
        await gap(shop, "g", 0.1, reason="CUST-4711 pulled the plug")
        for path in ("/history", place(one), place(many), place(two), "/history/gaps", "/history/jobs"):
            for prefix in ("/saq", "/saq/api"):
                answer = (await client.get(prefix + path, headers=HTML)).text
                assert SECRET not in answer
                assert "4711" not in answer
        assert "is away" in (await client.get(f"/saq{place(two)}", headers=HTML)).text

        async def found(words: str) -> list[str]:
            return [job["id"] for job in (await client.get(JOBS, params={"q": words})).json()["jobs"]]

        for part in (SECRET, SECRET[:4], "CUST-4711", "4711"):
            assert await found(part) == []
        assert await found("IS AWAY") == [two.id]
        assert two.id.rpartition(":")[2] in (await client.get("/saq/history?q=is+away", headers=HTML)).text


@pytest.mark.parametrize("payload", PAYLOADS[::2], ids=["props", "sel", "name"])
async def test_what_is_recorded_stays_text(payload: dict[str, Any], database: str) -> None:
    async with running(history=database) as shop, shop.at() as client:
        markup = "</td><script>x</script>"
        one = await done(shop, "echo", key=f"{markup}1", value=payload)
        two = await done(shop, "fail", key=f"{markup}2", status="failed", why=str(payload))
        await sql(shop, "UPDATE litestar_tasks_history SET tag = :it, correlation = :it, parent = :it", it=markup)
        await sql(shop, "UPDATE litestar_tasks_history SET reason = :it, worker = :it", it=markup)
        await gap(shop, "g", 0.1, reason=markup)
        for path in ("/history", place(one), place(two), f"{place(two)}/rerun", f"/history?q={quote(markup)}",
                     f"/history?since={quote(markup)}&task={quote(markup)}&queue={quote(markup)}"):  # fmt: skip
            page = (await client.get(f"/saq{path}", headers=HTML)).text
            tags = Tags(page)
            assert tags.names <= OUR_TAGS | {"u"}
            assert not [name for name in tags.attributes if name.startswith("on") or name in ("style", "srcdoc")]
            assert page.count("<script") == 1


# ------------------------------------------------------------------------------------------------ gaps and outages


async def test_what_could_not_be_recorded_is_said(database: str) -> None:
    async with running(history=database) as shop, shop.at() as client:
        await done(shop, "add")
        assert "missing here" not in (await client.get("/saq/history", headers=HTML)).text
        await gap(shop, "late", 1)
        await gap(shop, "early", 48, reason="the disk was full")
        said = text_of(await client.get("/saq/history", headers=HTML))
        assert "2 468 changes of jobs are missing here" in said
        assert "by web-1:7: the disk was full" in said
        said = text_of(await client.get("/saq/history?since=24h", headers=HTML))
        assert "1 234 changes of jobs are missing here" in said
        assert "missing here" not in text_of(await client.get("/saq/history?since=72h&until=50h", headers=HTML))
        gaps = (await client.get("/saq/api/history/gaps")).json()["gaps"]
        assert [(one["lost"], one["reason"]) for one in gaps] == [(1234, "it was away"), (1234, "the disk was full")]


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    if postgres_binaries() is None:
        if os.environ.get("CI"):
            pytest.fail("Postgres is not installed")
        pytest.skip("Postgres is not installed on this machine")
    server = PostgresServer()
    yield server
    server.close()


async def test_a_database_that_is_away_takes_only_the_history_with_it(
    postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "litestar_tasks.dashboard")
    url = postgres.create_database().replace("postgresql://", "postgresql+asyncpg://")
    async with running(history=url) as shop, shop.at() as client:
        job = await done(shop, "add", key="job-1")
        assert (await client.get("/saq/history", headers=HTML)).status_code == 200
        postgres.kill()
        for path in ("/history", f"{place(job)}", f"{place(job)}/rerun"):
            page = await client.get(f"/saq{path}", headers=HTML)
            assert page.status_code == 503
            assert "The history&#39;s database does not answer" in page.text
            assert "Jobs go on without it" in page.text
            assert not any(word in page.text for word in ("Traceback", ".py", "asyncpg", "sqlalchemy"))
        answer = await client.get(JOBS)
        assert (answer.status_code, answer.json()["status_code"]) == (503, 503)
        assert (await client.post(f"/saq/api{place(job)}/rerun", headers=SCRIPT)).status_code == 503
        for path in ("", "/jobs", "/queues/default/jobs/job-1"):
            assert (await client.get(f"/saq{path}", headers=HTML)).status_code == 200
        assert (await client.get("/saq/queues/default/jobs/nothing", headers=HTML)).status_code == 404
        assert caplog.text.count("the history's database does not answer") == 1
        postgres.start()

        async def is_back() -> bool:
            return (await client.get("/saq/history", headers=HTML)).status_code == 200

        await eventually(is_back)


async def test_a_table_that_is_missing_is_said_too(database: str) -> None:
    async with running(history=database) as shop, shop.at() as client:
        await sql(shop, "DROP TABLE litestar_tasks_history")
        page = await client.get("/saq/history", headers=HTML)
        assert page.status_code == 503
        assert "its tables are missing" in page.text


async def test_a_search_that_takes_too_long_says_how_to_narrow_it(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("litestar_tasks.dashboard.archive._DEADLINE", 0.05)
    monkeypatch.setattr(JobHistory, "search", silent)
    async with running(history=database) as shop, shop.at() as client:
        page = await client.get("/saq/history?q=needle", headers=HTML)
        assert page.status_code == 503
        assert "narrow the search" in page.text


@pytest.mark.parametrize("failure", [unreachable, silent])
async def test_the_history_is_read_while_the_broker_is_away(
    failure: Any, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("litestar_tasks.dashboard.recorded._PATIENCE", 0.05)
    async with running(history=database) as shop, shop.at() as client:
        job = await done(shop, "add", a="seven")
        for name in ("status", "counts", "job", "page"):
            monkeypatch.setattr(MemoryQueue, name, failure)
        assert "seven" in (await client.get("/saq/history", headers=HTML)).text
        page = await client.get(f"/saq{place(job)}", headers=HTML)
        assert page.status_code == 200
        assert "seven" in page.text
        monkeypatch.undo()


# ------------------------------------------------------------------------------------------------ schema, where it is


async def test_the_history_is_in_the_openapi_schema_when_asked_for(database: str) -> None:
    async with running(history=database, dashboard={"openapi": True}) as shop, shop.at() as client:
        schema = (await client.get("/schema/openapi.json")).json()
        paths = {path: item for path, item in schema["paths"].items() if "/history/" in path}
        assert paths.keys() == {JOBS, f"{JOBS}/{{key}}", f"{JOBS}/{{key}}/rerun", "/saq/api/history/gaps"}
        for path, item in paths.items():
            for method in item:
                url = re.sub(r"\{\w+\}", "nothing", path)
                assert (await client.request(method.upper(), url, headers=SCRIPT)).status_code in (200, 404)


async def test_links_of_the_history_hold_under_a_root_path(database: str) -> None:
    async with running(history=database, path="/admin/saq") as shop, shop.at(root_path="/shop") as client:
        await done(shop, "add", key="a/b c?d")
        start = "http://localhost:8000/shop/admin/saq/history"
        todo, seen = [start, f"{start}/"], set[str]()
        while todo:
            url = todo.pop()
            if url in seen or "/history" not in url:
                continue
            seen.add(url)
            answer = await client.get(url, headers=HTML)
            assert answer.status_code == 200, url
            todo += [urljoin(url, link.replace("&amp;", "&")) for link in Tags(answer.text).links]
        assert any("a%2Fb%20c%3Fd/rerun" in url for url in seen)
