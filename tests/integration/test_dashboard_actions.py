"""What people do on the dashboard: search, act on many jobs, enqueue, edit, pause; and who may not."""

from __future__ import annotations

import base64
import html
import logging
import re
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin

import httpx
import pytest
from litestar.exceptions import PermissionDeniedException

from litestar_tasks import ConfigurationError, DashboardConfig, TasksPlugin
from litestar_tasks.dashboard import BasicAuth
from litestar_tasks.dashboard.watch import interval
from litestar_tasks.queues.postgres.migrations import migrate
from litestar_tasks.queues.reports import WorkerReport
from tests.integration.conftest import Server, eventually
from tests.integration.shop import HTML, OWN_FORM, SCRIPT, SECRET, Running, running
from tests.servers import PostgresServer, postgres_binaries

FORM = OWN_FORM | HTML


async def failures(shop: Running, number: int, **fields: Any) -> None:
    for at in range(number):
        await shop.job("fail", key=f"broken-{at}", kwargs={"why": f"reason {at}"}, **fields)


def after(answer: httpx.Response) -> str:
    """Where a form leads."""
    return urljoin(str(answer.url), answer.headers["location"])


def text_of(page: httpx.Response) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page.text))


# ------------------------------------------------------------------------------------------------ who may act


async def only_ada(connection: Any, _: Any) -> None:
    if connection.headers.get("x-user") != "ada":
        raise PermissionDeniedException("Only Ada may.")


@pytest.mark.parametrize("dashboard", [{"read_only": True}, {"acting_guards": [only_ada]}], ids=["nobody", "some"])
async def test_who_may_only_look_sees_no_buttons_and_changes_nothing(dashboard: dict[str, Any]) -> None:
    async with running(dashboard=dashboard) as shop, shop.at() as client:
        await shop.job("fail")
        for path in ("", "/jobs", "/queues", "/queues/default", "/queues/default/jobs/job-1", "/tasks/add",
                     "/schedules", "/schedules/report", "/workers"):  # fmt: skip
            page = await client.get(f"/saq{path}", headers=HTML)
            assert page.status_code == 200
            assert 'method="post"' not in page.text
            assert "Read only" in page.text
        for path in ("/queues/default/jobs/job-1/retry", "/queues/default/pause", "/tasks/add/jobs", "/jobs/delete",
                     "/schedules/report/pause", "/api/queues/default/purge", "/api/jobs/retry"):  # fmt: skip
            assert (await client.post(f"/saq{path}", headers=SCRIPT)).status_code == 403
        assert await shop.queue.status("job-1") == "failed"
        assert await shop.queue.paused() is None


async def test_who_passes_the_acting_guards_acts() -> None:
    async with running(dashboard={"acting_guards": [only_ada]}) as shop, shop.at() as client:
        client.headers["x-user"] = "ada"
        assert 'method="post"' in (await client.get("/saq/queues", headers=HTML)).text
        assert (await client.post("/saq/queues/default/pause", headers=FORM)).status_code == 303
        assert await shop.queue.paused() is not None


def credentials(text: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(text.encode()).decode()}


async def test_basic_auth_lets_in_who_knows_a_name_and_its_password(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "litestar_tasks.dashboard")
    guard = BasicAuth({"ada": "correct-horse", "bob": "battery-stäple"})
    async with running(guards=[guard]) as shop, shop.at() as client:
        await shop.job()
        for wrong in ({}, credentials("ada:wrong"), credentials("ada"), credentials("ada:battery-stäple"),
                      credentials(":correct-horse"), {"authorization": "Basic %%%"}, {"authorization": "Basic /w=="},
                      {"authorization": "Bearer correct-horse"}):  # fmt: skip
            answer = await client.get("/saq", headers=HTML | wrong)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == 'Basic realm="tasks", charset="UTF-8"'
        for right in ("ada:correct-horse", "bob:battery-stäple"):
            assert (await client.get("/saq", headers=HTML | credentials(right))).status_code == 200
        await client.post("/saq/queues/default/pause", headers=FORM | credentials("bob:battery-stäple"))
        assert "queue 'default' was paused by 'bob' at 127.0.0.1" in caplog.text
    assert "correct-horse" not in caplog.text + repr(guard)


@pytest.mark.parametrize(
    ("users", "realm"), [({}, "x"), ({"": "long enough"}, "x"), ({"a:b": "long enough"}, "x"), ({"a": "short"}, "x"),
                         ({"a": "long enough"}, 'x"y'), ({"a": "long enough"}, "x\r\ny")],
)  # fmt: skip
def test_basic_auth_refuses_what_cannot_protect(users: Mapping[str, str], realm: str) -> None:
    with pytest.raises(ConfigurationError):
        BasicAuth(users, realm=realm)


# ------------------------------------------------------------------------------------------------ jobs


async def test_jobs_of_all_queues_are_paged_by_their_moments_without_a_gap_or_a_double() -> None:
    async with running() as shop, shop.at() as client:
        mails = shop.queues["emails"]
        for number in range(23):
            queue = shop.queue if number % 3 else mails
            await queue.enqueue("mail", to=f"{number}")
        for queue in shop.queues.values():
            await eventually(lambda queue=queue: _is_idle(queue))  # type: ignore[misc]  # mypy cannot infer the default
        seen: list[dict[str, Any]] = []
        cursor = ""
        while True:
            params = {"state": "complete", "limit": "4", "cursor": cursor}
            answer = (await client.get("/saq/api/jobs", params=params)).json()
            seen += answer["jobs"]
            if not (cursor := answer["cursor"]):
                break
        moments = [job["completed"] for job in seen]
        assert moments == sorted(moments, reverse=True)
        assert {job["kwargs"] for job in seen} == {f'{{"to": "{number}"}}' for number in range(23)}
        assert len(seen) == 23


@pytest.mark.parametrize("params", ["", "&order=oldest", "&q=mail", "&task=mail&since=1h"])
async def test_pages_are_turned_back_as_they_were_turned(params: str) -> None:
    async with running() as shop, shop.at() as client:
        for number in range(120):
            await shop.queues["emails" if number % 3 else "default"].enqueue("mail", to=f"{number}")
        for queue in shop.queues.values():
            await eventually(lambda queue=queue: _is_idle(queue))  # type: ignore[misc]  # mypy cannot infer the default
        page = await client.get(f"/saq/jobs?state=complete{params}", headers=HTML)
        assert turned(page, "prev") is None
        seen = [rows_of(page)]
        while (following := turned(page, "next")) is not None:
            page = await client.get(following, headers=HTML)
            seen.append(rows_of(page))
        assert len(seen) > 2
        assert len({row for rows in seen for row in rows}) == 120
        for rows in seen[-2::-1]:
            address = turned(page, "prev")
            assert address is not None
            page = await client.get(address, headers=HTML)
            assert rows_of(page) == rows
        assert turned(page, "prev") is None


def turned(page: httpx.Response, where: str) -> str | None:
    """Where the page before or the page behind is linked to."""
    found = re.search(rf'rel="{where}" href="([^"]+)"', page.text)
    return urljoin(str(page.url), html.unescape(found[1])) if found else None


def rows_of(page: httpx.Response) -> list[str]:
    return re.findall(r'<tr id="(job-[^"]+)"', page.text)


async def _is_idle(queue: Any) -> bool:
    counts = await queue.counts()
    return not (counts["queued"] or counts["active"])


async def test_jobs_are_found_by_task_tag_time_text_and_id() -> None:
    async with running() as shop, shop.at() as client:
        await shop.job("fail", key="one", kwargs={"why": "the moon"}, meta={"tag": "blue"})
        await shop.job("fail", key="two", kwargs={"why": "the sun"})
        await shop.job("report", key="three", kwargs={"days": -1})

        async def found(**params: str) -> set[str]:
            answer = await client.get("/saq/api/jobs", params={"state": "failed", **params})
            return {job["key"] for job in answer.json()["jobs"]}

        assert await found() == {"one", "two", "three"}
        assert await found(task="fail") == {"one", "two"}
        assert await found(tag="blue") == {"one"}
        assert await found(q="MOON") == {"one"}
        assert await found(q="two") == {"two"}
        assert await found(since="1h", queue="default") == {"one", "two", "three"}
        assert await found(until="2020-01-01T00:00Z") == set()
        assert await found(queue="emails") == set()
        page = await client.get("/saq/jobs?state=failed&q=two", headers=HTML)
        assert (page.status_code, page.headers["location"]) == (303, "./queues/default/jobs/two")
        for wrong in ("state=lost", "state=failed&since=yesterday", "state=failed&cursor=%25", "state=failed&limit=0",
                      "state=failed&since=2026-01-02&until=2026-01-01"):  # fmt: skip
            assert (await client.get(f"/saq/api/jobs?{wrong}")).status_code == 400


async def test_a_secret_cannot_be_searched_for() -> None:
    async with running() as shop, shop.at() as client:
        await shop.job("fail", key="one", kwargs={"why": f"password={SECRET}"})
        for part in (SECRET, SECRET[:4]):
            assert (await client.get("/saq/api/jobs", params={"state": "failed", "q": part})).json()["jobs"] == []


async def test_chosen_jobs_are_retried_deleted_and_aborted_together() -> None:
    async with running() as shop, shop.at() as client:
        await failures(shop, 3)
        chosen = {"state": "failed", "job": ["default/broken-0", "default/broken-2"]}
        done = await client.post("/saq/jobs/delete", data=chosen, headers=FORM)
        assert "2 jobs were deleted." in text_of(await client.get(after(done), headers=HTML))
        assert await shop.queue.status("broken-0") is None
        assert await shop.queue.status("broken-1") == "failed"
        done = await client.post("/saq/jobs/retry", data=chosen | {"job": "default/broken-0"}, headers=FORM)
        assert "done=retried.0.1" in done.headers["location"]
        nothing = await client.post("/saq/jobs/retry", data={"state": "failed"}, headers=FORM)
        assert nothing.status_code == 400
        assert "No job was selected" in nothing.text
        assert (await client.post("/saq/jobs/abort", data=chosen, headers=FORM)).status_code == 409


async def test_all_that_match_are_acted_on_once_their_number_was_typed() -> None:
    async with running() as shop, shop.at() as client:
        await failures(shop, 12)
        await shop.job("report", key="other", kwargs={"days": -1})
        search = {"state": "failed", "task": "fail"}
        asked = await client.post("/saq/jobs/delete", data=search | {"all": "1"}, headers=FORM)
        assert "Delete 12 failed jobs?" in text_of(asked)
        for typed in ("", "11", "all", "1_2"):
            form = search | {"expected": "12", "number": typed}
            refused = await client.post("/saq/jobs/delete/all", data=form, headers=FORM)
            assert refused.status_code == 422
            assert "Nothing was done" in text_of(refused)
        assert (await shop.queue.counts())["failed"] == 13
        form = search | {"expected": "12", "number": "12"}
        done = await client.post("/saq/jobs/delete/all", data=form, headers=FORM)
        assert (done.status_code, "done=deleted.12.0" in done.headers["location"]) == (303, True)
        assert (await shop.queue.counts())["failed"] == 1
        again = await client.post("/saq/jobs/delete", data=search | {"all": "1"}, headers=FORM)
        assert "done=none" in again.headers["location"]


async def test_an_operation_that_has_become_a_larger_one_is_asked_for_again() -> None:
    async with running() as shop, shop.at() as client:
        await failures(shop, 30)
        form = {"state": "failed", "expected": "2", "number": "2"}
        assert (await client.post("/saq/jobs/delete/all", data=form, headers=FORM)).status_code == 422
        assert (await shop.queue.counts())["failed"] == 30


async def test_an_operation_on_many_goes_on_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("litestar_tasks.dashboard.jobs._STEP", 3)
    monkeypatch.setattr("litestar_tasks.dashboard.jobs._BUDGET", -1.0)
    async with running() as shop, shop.at() as client:
        await failures(shop, 8)
        body: dict[str, Any] = {"search": {"state": "failed", "queue": "default"}}
        done, steps = 0, 0
        while True:
            answer = (await client.post("/saq/api/jobs/delete", json=body)).json()
            done, steps = done + answer["done"], steps + 1
            if not answer["places"]:
                break
            body["places"] = answer["places"]
        assert (done, steps) == (8, 3)


async def test_all_that_hold_a_text_are_acted_on() -> None:
    async with running() as shop, shop.at() as client:
        await failures(shop, 12)
        body = {"search": {"state": "failed", "q": "reason 1"}}
        assert (await client.post("/saq/api/jobs/delete", json=body)).json()["done"] == 3  # 1, 10, 11
        assert (await shop.queue.counts())["failed"] == 9


async def test_a_job_is_deleted_once_it_has_ended() -> None:
    async with running() as shop, shop.at() as client:
        await shop.job("add", key="later", end=False, scheduled=int(time.time()) + 3600)
        assert (await client.delete("/saq/api/queues/default/jobs/later", headers=SCRIPT)).status_code == 409
        await shop.queue.cancel("later", "enough")
        assert (await client.delete("/saq/api/queues/default/jobs/later", headers=SCRIPT)).status_code == 202
        assert await shop.queue.status("later") is None


# ------------------------------------------------------------------------------------------------ arguments


async def test_a_job_runs_again_with_other_arguments_as_a_new_one_that_names_its_parent() -> None:
    async with running() as shop, shop.at() as client:
        task = shop.queue.registry.get_task("report")
        call = {"days": -1, "to": ["a@b.c"], "password": SECRET, "pin": SECRET}
        handle = await task.using(key="old").enqueue(**call)
        old = await shop.queue.wait("old", 10)
        assert old is not None
        assert old.id == handle.id
        page = await client.get("/saq/queues/default/jobs/old/copies", headers=HTML)
        assert SECRET not in page.text
        form = {"arg.days": "30", "arg.kind": "", "arg.to": '[\n  "a@b.c"\n]', "arg.password": "***", "arg.pin": "***"}
        done = await client.post("/saq/queues/default/jobs/old/copies", data=form, headers=FORM)
        assert done.status_code == 303
        key = re.search(r"/jobs/([^?]+)", done.headers["location"])
        assert key is not None
        job = await shop.queue.wait(key[1], 10)
        assert job is not None
        assert job.kwargs is not None
        assert SECRET not in str(job.kwargs["pin"])
        assert task.opened(job.kwargs) == call | {"days": 30}
        assert (job.result, job.meta["parent"]) == (30, old.id)
        assert "old" in (await client.get(f"/saq/queues/default/jobs/{key[1]}", headers=HTML)).text


async def test_a_job_names_what_follows_it_and_that_names_its_parent() -> None:
    async with running() as shop, shop.at() as client:
        get_task = shop.queue.registry.get_task
        after_it = get_task("add").bind(a=2)
        await get_task("wait").using(key="first", on_success=after_it).enqueue(n=1)
        await shop.until("first", "active")
        assert "On successadd" in text_of(await client.get("/saq/queues/default/jobs/first", headers=HTML))
        shop.gate.set()
        await shop.until("first", "complete")
        (child,) = (await client.get("/saq/api/queues/default/jobs/first")).json()["job"]["children"]
        key = child.rpartition(":")[2]
        assert await shop.queue.wait(key, 10) is not None
        assert key in (await client.get("/saq/queues/default/jobs/first", headers=HTML)).text
        parent = (await client.get(f"/saq/api/queues/default/jobs/{key}")).json()["job"]["parent"]
        assert parent == shop.queue.job_id("first")


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"arg.days": "thirty"}, "days"),
        ({"arg.days": '"30"'}, "expected int"),
        ({"arg.days": "1.5"}, "expected int"),
        ({"arg.kind": "huge"}, "kind"),
        ({"arg.to": "nobody"}, "is no JSON"),
        ({"arg.password": "my *** word"}, "hidden"),
        ({"delay": "soon"}, "delay is"),
        ({"priority": "1000"}, "priority"),
        ({"queue": "nope"}, ""),
    ],
)
async def test_what_does_not_fit_is_said_at_its_field_and_nothing_is_enqueued(form: dict[str, str], said: str) -> None:
    async with running(worker=False) as shop, shop.at() as client:
        answer = await client.post("/saq/tasks/report/jobs", data=form, headers=FORM)
        assert answer.status_code in (404, 422)
        assert said in text_of(answer)
        assert not SECRET.startswith(form.get("arg.password", "x"))
        assert (await shop.queue.counts())["queued"] == 0


async def test_a_task_is_enqueued_from_its_form_with_options_and_defaults() -> None:
    async with running(worker=False) as shop, shop.at() as client:
        form = {
            "arg.days": "3",
            "arg.kind": "long",
            "arg.to": "",
            "queue": "emails",
            "delay": "60",
            "key": "mine",
            "tag": "t",
        }
        done = await client.post("/saq/tasks/report/jobs", data=form, headers=FORM)
        assert done.headers["location"].endswith("/queues/emails/jobs/mine?done=enqueued")
        job = await shop.queues["emails"].job("mine")
        assert job is not None
        assert (job.function, job.kwargs, job.meta["tag"]) == ("report", {"days": 3, "kind": "long"}, "t")
        assert await shop.queues["emails"].status("mine") == "scheduled"
        again = await client.post("/saq/tasks/report/jobs", data=form, headers=FORM)
        assert again.headers["location"].endswith("done=known")
        page = text_of(await client.get("/saq/tasks/report", headers=HTML))
        assert "days" in page
        assert "Mail a report." in page


async def test_the_api_enqueues_and_says_what_does_not_fit() -> None:
    async with running(worker=False) as shop, shop.at() as client:
        made = await client.post("/saq/api/tasks/report/jobs", json={"kwargs": {"days": 2}, "options": {"key": "k"}})
        assert (made.status_code, made.json()["key"], made.json()["deduplicated"]) == (201, "k", False)
        for body in ({"kwargs": {"days": "2"}}, {"kwargs": {"nope": 1}}, {"options": {"nope": 1}}, {"kwargs": 3}):
            answer = await client.post("/saq/api/tasks/report/jobs", json=body)
            assert answer.status_code == 400
        task = (await client.get("/saq/api/tasks/report")).json()["task"]
        assert task["schedules"] == ["report"]
        assert "days" in str(task["arguments"])
        assert (await client.get("/saq/api/tasks/reprot")).status_code == 404


# ------------------------------------------------------------------------------------------------ queues, schedules


async def test_a_queue_is_paused_resumed_and_purged_by_its_name() -> None:
    async with running(worker=False) as shop, shop.at() as client:
        await client.post("/saq/queues/default/pause", headers=FORM)
        page = text_of(await client.get("/saq", headers=HTML))
        assert "Queue default is paused by 127.0.0.1" in page
        await client.post("/saq/api/queues/default/resume", headers=SCRIPT)
        assert await shop.queue.paused() is None
        for number in range(3):
            await shop.job("add", key=f"{number}", end=False)
        assert "3 jobs that wait are forgotten" in text_of(await client.get("/saq/queues/default/purge", headers=HTML))
        refused = await client.post("/saq/queues/default/purge", data={"name": "emails"}, headers=FORM)
        assert refused.status_code == 400
        assert (await shop.queue.counts())["queued"] == 3
        done = await client.post("/saq/queues/default/purge", data={"name": "default"}, headers=FORM)
        assert "done=purged.3" in done.headers["location"]
        assert (await shop.queue.counts())["queued"] == 0


async def test_a_schedule_is_paused_changed_run_and_reset() -> None:
    async with running() as shop, shop.at() as client:
        page = text_of(await client.get("/saq/schedules", headers=HTML))
        assert "0 3 * * *" in page
        await client.post("/saq/schedules/report/pause", headers=FORM)
        state = (await client.get("/saq/api/schedules/report")).json()["schedule"]
        assert (state["paused_by"], state["next_runs"]) == ("127.0.0.1", [])
        await client.post("/saq/schedules/report/resume", headers=FORM)
        form = {"cron": "30 4 * * *", "every": "", "timezone": "Europe/Berlin", "kwargs": '{"days": 14}'}
        done = await client.post("/saq/schedules/report", data=form, headers=FORM)
        assert done.status_code == 303
        state = (await client.get("/saq/api/schedules/report")).json()["schedule"]
        assert (state["rhythm"], state["declared"], state["changed_by"]) == (
            "30 4 * * * (Europe/Berlin)", "0 3 * * *", "127.0.0.1",
        )  # fmt: skip
        for wrong in (
            {"cron": "99 * * * *"},
            {"every": "never"},
            {"kwargs": "{"},
            {"kwargs": '{"days": "x"}'},
            {"timezone": "Mars"},
        ):
            answer = await client.post("/saq/schedules/report", data=wrong, headers=FORM)
            assert answer.status_code == 422, wrong
        ran = await client.post("/saq/schedules/report/jobs", headers=FORM)
        key = re.search(r"/jobs/([^?]+)", ran.headers["location"])
        assert key is not None
        job = await shop.queue.wait(unquote(key[1]), 10)
        assert job is not None
        assert job.result == 14
        await client.post("/saq/schedules/report/reset", headers=FORM)
        assert (await client.get("/saq/api/schedules/report")).json()["schedule"]["rhythm"] == "0 3 * * *"
        assert (await client.get("/saq/schedules/nope", headers=HTML)).status_code == 404


async def test_a_schedule_is_added_and_removed() -> None:
    async with running(worker=False) as shop, shop.at() as client:
        body = {"id": "more", "task": "add", "every": 3600, "kwargs": {"a": 1}}
        made = await client.post("/saq/api/schedules", json=body)
        assert (made.status_code, made.json()["schedule"]["origin"]) == (201, "runtime")
        form = {"task": "add", "id": "form", "cron": "0 5 * * *", "timezone": "UTC", "kwargs": "{}"}
        assert (await client.post("/saq/schedules", data=form, headers=FORM)).status_code == 303
        assert (await client.post("/saq/schedules", data=form | {"cron": "x"}, headers=FORM)).status_code == 422
        await client.delete("/saq/api/schedules/more", headers=SCRIPT)
        refused = await client.delete("/saq/api/schedules/report", headers=SCRIPT)
        assert refused.status_code == 409
        assert "declared in code" in refused.json()["detail"]
        ids = [one["id"] for one in (await client.get("/saq/api/schedules")).json()["schedules"]]
        assert ids == ["report", "form"]


# ------------------------------------------------------------------------------------------------ what is hidden


async def test_configured_patterns_hide_fields_and_parts_of_texts() -> None:
    dashboard = {"redact": ["customer_ref", r"CUST-\d+"]}
    async with running(dashboard=dashboard) as shop, shop.at() as client:
        await shop.job(
            "echo", key="one", kwargs={"value": {"customer_ref": "visible?", "note": "for CUST-4711, please"}}
        )
        await shop.job("fail", key="two", kwargs={"why": "cust-4711 is unknown"})
        pages = [await client.get(f"/saq/queues/default/jobs/{key}", headers=HTML) for key in ("one", "two")]
        for page in [*pages, await client.get("/saq/jobs?state=failed", headers=HTML)]:
            assert not re.search("visible|4711", page.text)
        assert "for ***, please" in pages[0].text


@pytest.mark.parametrize("pattern", ["(", "x*", ""])
def test_patterns_that_cannot_work_are_refused(pattern: str) -> None:
    with pytest.raises(ConfigurationError, match="redact"):
        DashboardConfig(redact=[pattern])


async def test_source_is_shown_of_loaded_modules_alone() -> None:
    """A record could name any file of the server's."""
    line = Path("/etc/passwd").read_text().splitlines()[0]  # noqa: ASYNC240  # a short file
    forged = f'Traceback (most recent call last):\n  File "/etc/passwd", line 1, in x\n    {line}\nValueError: x'
    async with running() as shop, shop.at() as client:
        await shop.job("fail", key="forged", kwargs={"why": forged})
        page = (await client.get("/saq/queues/default/jobs/forged", headers=HTML)).text
        assert "nobody:" not in page
        await shop.job("fail", key="real")
        page = (await client.get("/saq/queues/default/jobs/real", headers=HTML)).text
        assert "async def fail" in page, "the lines around the error"


async def test_the_dashboards_own_patterns_hide_lines_of_source_too() -> None:
    async with running(dashboard={"redact": ["no reason"]}) as shop, shop.at() as client:
        await shop.job("fail", key="real", kwargs={"why": "x"})
        page = (await client.get("/saq/queues/default/jobs/real", headers=HTML)).text
        assert "async def fail" in page
        assert "no reason" not in page


# ------------------------------------------------------------------------------------------------ schema, workers, cost


async def test_the_json_api_is_in_the_openapi_schema_when_asked_for() -> None:
    async with running(dashboard={"openapi": True}) as shop, shop.at() as client:
        schema = (await client.get("/schema/openapi.json")).json()
        assert schema["paths"]["/saq/api/queues/{label}/jobs/{key}"]["get"]["parameters"][1]["name"] == "key"
        assert {path for path in schema["paths"] if not path.startswith("/saq")} == set()
        references = set(
            re.findall(r'"\$ref":"#/components/schemas/(\w+)"', (await client.get("/schema/openapi.json")).text)
        )
        assert references <= schema["components"]["schemas"].keys()
        for path, item in schema["paths"].items():
            for method in item:
                url = re.sub(r"\{\w+\}", "nothing", path)
                assert (await client.request(method.upper(), url, headers=SCRIPT)).status_code != 405, (method, path)


async def test_workers_say_which_process_they_are_and_are_lost_when_they_fall_silent() -> None:
    async with running() as shop, shop.at() as client:
        (process,) = (await client.get("/saq/api/workers")).json()["workers"]
        assert process["pid"] > 0
        assert [worker["queue"] for worker in process["workers"]] == ["default", "emails"]
        assert process["lost"] is False
        (report,) = await shop.queue.workers()
        assert isinstance(report, WorkerReport)
        assert report.concurrency == 10
        info: Any = (await shop.queue.worker_infos())[report.id]
        silent: Any = {**info, "process": {**info["process"], "pid": 1, "seen": int((time.time() - 90) * 1000)}}
        await shop.queue.write_worker_info("other", silent, ttl=60)
        assert [one.lost for one in sorted(await shop.queue.workers(), key=lambda one: one.lost)] == [False, True]
        assert list((await shop.queue.info())["workers"]) == [report.id]
        assert len((await client.get("/saq/api/workers")).json()["workers"]) == 2
        assert "lost" in text_of(await client.get("/saq/workers", headers=HTML))


PAGES = ("", "?range=day", "/jobs?state=queued", "/queues", "/queues/default", "/tasks", "/tasks/add", "/workers",
         "/schedules", "/schedules/s1", "/queues/default/jobs/1")  # fmt: skip


async def test_an_open_page_costs_redis_few_commands(server: Server) -> None:
    """Two people look at each page as often as it asks itself."""
    async with running(broker_url=server.url, worker=False) as shop, shop.at() as client:
        await much(shop)
        for page in PAGES:
            await read_up(client, page)
            with server.client.monitor() as monitor:
                await two_look(client, page)
                server.client.echo("that was it")
                sent = 0
                while "that was it" not in (command := monitor.next_command())["command"]:
                    sent += command["client_type"] != "lua"
            assert sent < 20 * interval(len(shop.queues)), page


@pytest.mark.skipif(postgres_binaries() is None, reason="Postgres is not installed")
async def test_an_open_page_costs_postgres_few_statements() -> None:
    """Two people look at each page as often as it asks itself."""
    said = ("log_statement=all", "logging_collector=on", "log_directory=said", "log_filename=all")
    server = PostgresServer(*(part for one in said for part in ("-c", one)))
    log = server.folder / "data" / "said" / "all"
    try:
        migrate(server.url(), lambda _: None)
        async with running(broker_url=server.url(), worker=False) as shop, shop.at() as client:
            await much(shop)
            total = 0
            for number, page in enumerate(PAGES):
                await read_up(client, page)
                server.execute(f"SELECT 'from here {number}'")
                await two_look(client, page)
                server.execute(f"SELECT 'that was it {number}'")

                async def written(last: str = f"that was it {number}") -> bool:
                    return last in log.read_text("utf-8")

                await eventually(written)
                text = log.read_text("utf-8").partition(f"'from here {number}'")[2].partition(f"it {number}'")[0]
                sent = len(re.findall(r"LOG:  (?:statement|execute)", text)) - 1
                assert sent < 20 * interval(len(shop.queues)), page
                total += sent
            assert total, "the server says what it is asked"
    finally:
        server.close()


async def much(shop: Running) -> None:
    """Enough of everything for a page whose cost grows with it to be found out."""
    for number in range(20):
        await shop.job("add", key=f"{number}", end=False)
    registry = shop.app.plugins.get(TasksPlugin).config.registry
    for number in range(60):
        await registry.add_schedule(f"s{number}", task="add", every=timedelta(hours=1))
        await registry.run_schedule(f"s{number}")


async def read_up(client: httpx.AsyncClient, page: str) -> None:
    """The first looks load scripts, and read what happened earlier, once for all."""
    while "reading…" in (first := await client.get(f"/saq{page}", headers=HTML)).text:
        assert first.status_code == 200


async def two_look(client: httpx.AsyncClient, page: str) -> None:
    for _ in range(2):
        assert (await client.get(f"/saq{page}", headers=HTML)).status_code == 200
