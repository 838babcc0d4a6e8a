"""The reference application: what its users would see of it, on jobs in memory and an SQLite file."""

from __future__ import annotations

import asyncio
import email
import email.policy
import logging
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from litestar import Litestar, post
from litestar.testing import AsyncTestClient, TestClient
from litestar_saq import TaskQueues
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from app.asgi import create_app
from app.campaigns.tasks import send_campaign
from app.mailbox import Mailbox
from app.manage import migrate
from app.payments.tasks import Receipt, send_receipt, weekly_report
from app.queue.registry import get_registry
from app.queue.tasks import checksum, ping, send_email
from app.settings import Settings
from app.users.services import UserService
from app.users.tasks import cleanup_old_records, send_welcome_email, update_user_status
from litestar_tasks import CurrentJob, JobFailedError, PayloadError
from litestar_tasks.queues.memory import MemoryQueue
from litestar_tasks.worker import execution

Client = AsyncTestClient[Litestar]


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    """An app configures logging for its process; the other tests want pytest's."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database, for tests to copy."""
    path = tmp_path_factory.mktemp("migrated") / "app.sqlite3"
    migrate(Settings(database_url=f"sqlite+aiosqlite:///{path}"))
    return path


@pytest.fixture
def settings(tmp_path: Path, migrated: Path) -> Settings:
    shutil.copy(migrated, tmp_path / "app.sqlite3")
    return Settings(
        environment="test",
        tasks_broker_url="memory://",
        database_url=f"sqlite+aiosqlite:///{tmp_path / 'app.sqlite3'}",
        mailbox=tmp_path / "mailbox",
    )


@pytest.fixture
def database(settings: Settings, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """The database as another process sees it: committed rows."""
    connection = sqlite3.connect(tmp_path / "app.sqlite3", isolation_level=None, timeout=10, check_same_thread=False)
    yield connection
    connection.close()


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[Client]:
    async with AsyncTestClient(create_app(settings)) as client:
        yield client


async def sign_up(client: Client, name: str = "Ada Lovelace", address: str = "ada@example.com") -> dict[str, Any]:
    response = await client.post("/users", json={"name": name, "email": address})
    assert response.status_code == 201, response.text
    return response.json()


async def ended(client: Client, job_id: str) -> dict[str, Any]:
    """The job as the API shows it, once it has ended."""
    async with asyncio.timeout(10):
        while True:
            response = await client.get(f"/jobs/{job_id}")
            assert response.status_code in {200, 404}, response.text  # it may still be in the outbox
            job = response.json()
            if job.get("status") in {"complete", "failed", "aborted"}:
                return job
            await asyncio.sleep(0.01)


def mails(settings: Settings) -> dict[str, EmailMessage]:
    """All mails by their files' names."""
    return {
        path.stem: email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
        for path in settings.mailbox.glob("*.eml")
    }


# ---------------------------------------------------------------------------------------------------- users


async def test_signing_up_returns_a_job_that_sends_the_welcome_mail(client: Client, settings: Settings) -> None:
    user = await sign_up(client)
    assert user | {"job_id": ""} == {
        "id": 1,
        "name": "Ada Lovelace",
        "email": "ada@example.com",
        "status": "pending",
        "job_id": "",
    }

    job = await ended(client, user["job_id"])
    assert job["status"] == "complete"
    assert job["result"] == {"status": "sent", "to": "ada@example.com"}
    mail = mails(settings)["welcome-1"]
    assert mail["To"] == "Ada Lovelace <ada@example.com>"
    assert "Hello Ada Lovelace" in mail.get_content()


async def test_the_row_is_committed_when_the_job_is_enqueued(
    client: Client, database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    store = MemoryQueue.store

    async def look_and_store(self, job, **options):
        rows.append(database.execute("SELECT email FROM users").fetchall())
        return await store(self, job, **options)

    monkeypatch.setattr(MemoryQueue, "store", look_and_store)
    await sign_up(client)
    assert rows == [[("ada@example.com",)]]


@pytest.mark.parametrize("debug", [False, True])
async def test_an_address_signs_up_once(settings: Settings, debug: bool) -> None:
    settings = Settings(
        tasks_broker_url="memory://", debug=debug, database_url=settings.database_url, mailbox=settings.mailbox
    )
    async with AsyncTestClient(create_app(settings)) as client:
        await sign_up(client)
        response = await client.post("/users", json={"name": "Ada", "email": "ADA@example.com"})
        assert response.status_code == 409
        assert response.json() == {"status_code": 409, "detail": "Somebody signed up as ADA@example.com already."}


@pytest.mark.parametrize(
    "body",
    [
        {"name": "Ada"},
        {"email": "ada@example.com"},
        {"name": "", "email": "ada@example.com"},
        {"name": "A" * 101, "email": "ada@example.com"},
        {"name": "A\0da", "email": "ada@example.com"},
        {"name": "Ada\n", "email": "ada@example.com"},
        {"name": "Ada\r\nBcc: bob@example.com", "email": "ada@example.com"},
        {"name": "Ada\u2028Bcc: bob@example.com", "email": "ada@example.com"},
        {"name": "Ada", "email": "ada"},
        {"name": "Ada", "email": "ada@example.com\n"},
        {"name": "Ada", "email": "ada@example.com, bob@example.com"},
        {"name": 7, "email": "ada@example.com"},
        {"name": "Ada", "email": "ada@example.com", "status": "active"},
    ],
)
async def test_a_body_that_does_not_fit_is_refused(client: Client, body: dict[str, Any]) -> None:
    response = await client.post("/users", json=body)
    assert response.status_code == 400, response.text


async def test_names_reach_the_mail_as_they_are(client: Client, settings: Settings) -> None:
    names = [
        "Žofie Nováková",
        "李",
        'Ada "the First", Countess',
        "Ada <ada@example.com>, Bob",
        "👩🏽\u200d💻",
        "A" * 100,
    ]
    for number, name in enumerate(names, start=1):
        user = await sign_up(client, name, f"user{number}@example.com")
        assert (await ended(client, user["job_id"]))["result"]["status"] == "sent"
        mail = mails(settings)[f"welcome-{number}"]
        (recipient,) = mail["To"].addresses
        assert recipient.display_name == name
        assert recipient.addr_spec == f"user{number}@example.com"
        assert mail["Subject"] == f"Welcome, {name}!"


async def test_a_status_is_changed_by_a_job(client: Client, database: sqlite3.Connection) -> None:
    user = await sign_up(client)
    response = await client.post(f"/users/{user['id']}/status", json={"status": "active"})
    assert response.status_code == 202
    assert (await ended(client, response.json()["job_id"]))["result"] == {"updated": user["id"]}
    assert (await client.get(f"/users/{user['id']}")).json()["status"] == "active"
    assert database.execute("SELECT user_id, status FROM user_status_changes").fetchall() == [(1, "active")]


async def test_a_job_that_fails_leaves_no_half_of_its_work(
    client: Client, database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await sign_up(client)

    def fail(**_: object) -> None:
        raise RuntimeError("between the two writes")

    monkeypatch.setattr("app.users.services.StatusChange", fail)
    job = await get_registry().get_task("update_user_status").enqueue(user_id=user["id"], status="active")
    with pytest.raises(JobFailedError, match="between the two writes"):
        await job.result(timeout=10)
    assert database.execute("SELECT status FROM users").fetchall() == [("pending",)]

    shown = await ended(client, job.id)
    assert shown["status"] == "failed"
    assert shown["result"] is None
    assert "between" not in str(shown), "a traceback is not for clients"


async def test_a_job_for_a_row_that_is_not_there_fails(client: Client) -> None:
    job = await get_registry().get_task("update_user_status").enqueue(user_id=99, status="active")
    with pytest.raises(JobFailedError, match="NotFoundError"):
        await job.result(timeout=10)


async def test_a_user_who_is_gone_is_not_welcomed(client: Client, settings: Settings) -> None:
    job = await send_welcome_email.enqueue(user_id=99)
    assert await job.result(timeout=10) == {"status": "skipped", "reason": "user_not_found"}
    assert mails(settings) == {}


# ---------------------------------------------------------------------------------------------------- payments


async def test_a_payment_is_receipted(client: Client, settings: Settings) -> None:
    user = await sign_up(client)
    body = {"user_id": user["id"], "amount": "12.50", "currency": "EUR"}
    response = await client.post("/payments", json=body)
    assert response.status_code == 201
    payment = response.json()
    assert payment == {"id": 1, **body, "job_id": payment["job_id"]}
    assert (await client.get("/payments/1")).json() == {"id": 1, **body}

    assert (await ended(client, payment["job_id"]))["result"]["amount"] == "12.50"
    expected = Receipt(payment_id=1, sent_to="ada@example.com", amount=Decimal("12.50"), currency="EUR")
    assert await send_receipt.job(payment["job_id"]).result(timeout=10) == expected
    assert "12.50 EUR" in mails(settings)["receipt-1"].get_content()


@pytest.mark.parametrize("amount", ["0", "-1", "12.501", "NaN", "sNaN", "Infinity", "1e400", "1000000.01", "", "x"])
async def test_an_amount_that_nobody_pays_is_refused(client: Client, amount: str) -> None:
    user = await sign_up(client)
    response = await client.post("/payments", json={"user_id": user["id"], "amount": amount, "currency": "EUR"})
    assert response.status_code == 400, response.text


async def test_a_receipt_is_part_of_its_payments_transaction(
    client: Client, database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await sign_up(client)
    monkeypatch.setattr(AsyncSession, "commit", AsyncMock(side_effect=OSError("the disk is full")))
    response = await client.post("/payments", json={"user_id": user["id"], "amount": "1", "currency": "EUR"})
    assert response.status_code == 500
    monkeypatch.undo()
    assert database.execute("SELECT count(*) FROM payments").fetchone() == (0,)
    assert database.execute("SELECT count(*) FROM litestar_tasks_outbox").fetchone() == (0,)


async def test_only_users_pay(client: Client) -> None:
    response = await client.post("/payments", json={"user_id": 7, "amount": "1", "currency": "EUR"})
    assert response.status_code == 422
    assert response.json()["detail"] == "There is no user 7."


# ---------------------------------------------------------------------------------------------------- campaigns


async def test_a_campaign_reaches_all_its_recipients_once(
    client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = []

    async def note(self, fraction):
        progress.append(round(fraction, 2))
        await set_progress(self, fraction)

    set_progress = CurrentJob.set_progress
    monkeypatch.setattr(CurrentJob, "set_progress", note)
    for number in range(1, 6):
        await sign_up(client, f"User {number}", f"user{number}@example.com")
    await (await get_registry().get_task("update_user_status").enqueue(user_id=5, status="suspended")).result()

    response = await client.post("/campaigns", json={"name": "June", "subject": "June's news", "body": "It is June."})
    assert response.status_code == 201
    campaign = response.json()
    assert campaign == {"id": 1, "name": "June", "recipients": 4, "sent": 0}

    job = await send_campaign.enqueue(campaign_id=1, batch_size=3)
    assert await job.result(timeout=10) == {"sent": 4, "failed": 0}
    assert progress == [0.75, 1.0]
    assert (await client.get("/campaigns/1")).json() == campaign | {"sent": 4}
    sent = {name: mail for name, mail in mails(settings).items() if name.startswith("campaign")}
    assert sent.keys() == {"campaign-1-1", "campaign-1-2", "campaign-1-3", "campaign-1-4"}
    assert sent["campaign-1-2"]["To"] == "User 2 <user2@example.com>"
    assert sent["campaign-1-2"]["Subject"] == "June's news"

    again = await client.post("/campaigns/1/send")
    assert again.status_code == 202
    job_id = again.json()["job_id"]
    assert (await ended(client, job_id))["result"] == {"sent": 0, "failed": 0}


async def test_a_campaign_is_sent_by_one_job_at_a_time(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()  # the app has an event loop of its own
    send = Mailbox.send

    async def wait_and_send(self, name, **mail):
        if name.startswith("campaign"):
            await asyncio.to_thread(go_on.wait)
        await send(self, name, **mail)

    monkeypatch.setattr(Mailbox, "send", wait_and_send)
    await sign_up(client)
    await client.post("/campaigns", json={"name": "June", "subject": "s", "body": "b"})
    first, second = [(await client.post("/campaigns/1/send")).json()["job_id"] for _ in range(2)]
    assert first == second
    go_on.set()
    assert (await ended(client, first))["result"] == {"sent": 1, "failed": 0}


async def test_a_mail_that_cannot_be_sent_keeps_no_other_back(
    client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Mailbox.send

    async def fail_for_the_second(self, name, **mail):
        if name == "campaign-1-2":
            raise OSError("no room")
        await send(self, name, **mail)

    monkeypatch.setattr(execution, "pause_after", lambda attempt, backoff: 0.0)  # the five attempts follow at once
    for number in range(1, 4):
        await sign_up(client, f"User {number}", f"user{number}@example.com")
    await client.post("/campaigns", json={"name": "June", "subject": "s", "body": "b"})
    with monkeypatch.context() as patch:
        patch.setattr(Mailbox, "send", fail_for_the_second)
        response = await client.post("/campaigns/1/send")
        assert (await ended(client, response.json()["job_id"]))["result"] == {"sent": 2, "failed": 1}
    assert (await client.get("/campaigns/1")).json()["sent"] == 2

    response = await client.post("/campaigns/1/send")
    assert (await ended(client, response.json()["job_id"]))["result"] == {"sent": 1, "failed": 0}
    assert "campaign-1-2" in mails(settings)


async def test_two_campaigns_have_two_names(client: Client) -> None:
    body = {"name": "June", "subject": "s", "body": "b"}
    assert (await client.post("/campaigns", json=body)).status_code == 201
    assert (await client.post("/campaigns", json=body)).status_code == 409


# ---------------------------------------------------------------------------------------------------- schedules


def test_recurring_tasks_have_their_schedules() -> None:
    schedules = {schedule.id: schedule for schedule in get_registry().get_schedules()}
    assert {name: schedule.cron for name, schedule in schedules.items()} == {
        "cleanup_old_records": "0 2 * * *",
        "weekly_report": "0 9 * * 1",
    }
    assert schedules["cleanup_old_records"].kwargs == {"batch_size": 100}
    assert cleanup_old_records.option("timeout") == 900


async def test_the_clean_up_deletes_old_records_in_batches(client: Client, database: sqlite3.Connection) -> None:
    await sign_up(client)
    now = datetime.now(UTC)
    for days in (1, 89, 91, 92, 93, 400):
        moment = (now - timedelta(days=days)).strftime("%Y-%m-%d %H:%M:%S.%f")
        database.execute(
            "INSERT INTO user_status_changes (user_id, status, created_at, updated_at) VALUES (1, 'active', ?, ?)",
            (moment, moment),
        )
    job = await cleanup_old_records.enqueue(batch_size=3)
    assert await job.result(timeout=10) == {"deleted": 4}
    assert database.execute("SELECT count(*) FROM user_status_changes").fetchone() == (2,)


async def test_the_report_adds_up_what_was_paid_this_week(
    client: Client, settings: Settings, database: sqlite3.Connection
) -> None:
    await sign_up(client)
    for amount, currency in (("0.10", "EUR"), ("0.20", "EUR"), ("5", "GBP"), ("7", "USD")):
        await client.post("/payments", json={"user_id": 1, "amount": amount, "currency": currency})
    database.execute("UPDATE payments SET created_at = '2020-01-01 00:00:00.000000' WHERE currency = 'USD'")
    for _ in range(2):
        assert await (await weekly_report.enqueue()).result(timeout=10) == {"sent": 1}
    (report,) = [mail for name, mail in mails(settings).items() if name.startswith("weekly-report")]
    assert report.get_content().splitlines()[2:] == ["0.30 EUR", "5.00 GBP"]


# ---------------------------------------------------------------------------------------------------- shared tasks


async def test_shared_tasks_run(client: Client, settings: Settings) -> None:
    assert await (await ping.enqueue()).result(timeout=10) == "pong"
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert await (await checksum.enqueue(text="abc")).result(timeout=10) == digest
    assert checksum(text="abc") == digest

    job = await send_email.using(key="a/b").enqueue(to="ada@example.com", subject="Hello")
    assert await job.result(timeout=10) == {"sent": True}
    assert mails(settings)["email-a%2Fb"]["To"] == "ada@example.com"


async def test_a_mail_that_is_sent_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    mailbox = Mailbox(tmp_path / "new" / "mailbox")
    for body in ("one", "two"):
        await mailbox.send("welcome-1", to="ada@example.com", subject="Hello", body=body)
    (path,) = (tmp_path / "new" / "mailbox").iterdir()
    assert path.name == "welcome-1.eml"
    assert path.read_text().endswith("\n\ntwo\n")


# ---------------------------------------------------------------------------------------------------- jobs, health


@pytest.mark.parametrize(
    "path",
    [
        "/users/7",
        "/payments/7",
        "/campaigns/7",
        "/jobs/nope",
        "/jobs/saq:job:test.default:00000000-0000-0000-0000-000000000000",
        "/jobs/saq:job:production.default:7",
        "/jobs/saq:job:test.default:a%2Fb",
    ],
)
async def test_what_is_not_there_is_not_found(client: Client, path: str) -> None:
    response = await client.get(path)
    assert response.status_code == 404
    assert "not found" in response.json()["detail"]


async def test_what_is_not_there_is_not_worked_on(client: Client) -> None:
    assert (await client.post("/campaigns/7/send")).status_code == 404
    assert (await client.post("/users/7/status", json={"status": "active"})).status_code == 404


async def test_a_job_whose_key_holds_a_slash_is_found(client: Client) -> None:
    job = await ping.using(key="reports/june").enqueue()
    shown = await ended(client, job.id.replace("/", "%2F"))
    assert shown == {"id": job.id, "status": "complete", "progress": 1.0, "result": "pong"}


async def test_environments_that_share_a_broker_have_jobs_of_their_own(client: Client) -> None:
    assert (await ping.enqueue()).id.startswith("saq:job:test.default:")
    assert (await send_email.enqueue(to="ada@example.com", subject="Hello")).id.startswith("saq:job:test.emails:")


async def test_health_is_good_when_all_is_in_reach(client: Client) -> None:
    response = await client.get("/health")
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "database": "ok", "broker": "ok"}


async def test_health_tells_an_unreachable_database(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'no such folder' / 'app.sqlite3'}"
    async with AsyncTestClient(create_app(Settings(tasks_broker_url="memory://", database_url=url))) as client:
        response = await client.get("/health")
    assert response.status_code == 503
    assert response.json() == {"status": "unavailable", "database": "unreachable", "broker": "ok"}


async def test_health_tells_a_broker_that_does_not_answer(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(self, kind):
        await asyncio.sleep(60)

    monkeypatch.setattr(MemoryQueue, "count", hang)
    monkeypatch.setattr("app.health.PATIENCE", 0.05)
    response = await client.get("/health")
    assert response.status_code == 503
    assert response.json() == {"status": "unavailable", "database": "ok", "broker": "unreachable"}


async def test_the_api_is_described(client: Client) -> None:
    assert (await client.get("/schema")).status_code == 200
    description = (await client.get("/schema/openapi.json")).json()
    assert description["info"]["title"] == "Reference app of litestar-tasks"
    operations = [operation for path in description["paths"].values() for operation in path.values()]
    assert len(operations) == 10
    for operation in operations:
        assert len(operation["tags"]) == 1
        assert len(operation["summary"]) > 4


async def test_a_client_s_mistake_is_no_entry_in_the_log_and_ours_is_one(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Handler(logging.Handler):
        def emit(self, record):
            seen.append(record.getMessage())

    seen: list[str] = []
    logging.getLogger("litestar").addHandler(handler := Handler())
    try:
        await client.post("/users", json={})
        await client.get("/users/7")
        await client.get("/jobs/nope")
        assert seen == []
        monkeypatch.setattr(UserService, "get", AsyncMock(side_effect=RuntimeError("ours")))
        assert (await client.get("/users/7")).status_code == 500
        assert len(seen) == 1
    finally:
        logging.getLogger("litestar").removeHandler(handler)


# ---------------------------------------------------------------------------------------------------- spellings


@pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")
@pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarWarning")
async def test_queues_are_injected_where_they_are_not_marked(settings: Settings, database: sqlite3.Connection) -> None:
    """The spelling that users of litestar-saq know."""

    @post("/process")
    async def process(task_queues: TaskQueues, user_id: int) -> dict[str, str]:
        queue = task_queues.get("default")
        job = await queue.enqueue("update_user_status", user_id=user_id, status="active")
        assert job is not None
        return {"job_id": job.id}

    app = create_app(settings)
    app.register(process)
    async with AsyncTestClient(app) as client:
        await sign_up(client)
        response = await client.post("/process", params={"user_id": 1})
        assert response.status_code == 201, response.text
        assert (await ended(client, response.json()["job_id"]))["result"] == {"updated": 1}
    assert database.execute("SELECT status FROM users").fetchall() == [("active",)]


async def test_a_job_by_name_is_checked_when_it_is_enqueued(client: Client) -> None:
    with pytest.raises(PayloadError, match="status"):
        await get_registry().get_task("update_user_status").enqueue(user_id=1, status="sleepy")


async def test_a_task_that_needs_the_database_is_called_with_a_session(settings: Settings) -> None:
    """And without a queue, a worker or an app."""
    engine = create_async_engine(settings.database_url)
    async with AsyncSession(engine, expire_on_commit=False) as session:
        users = UserService(session=session)
        user = await users.sign_up("Ada", "ada@example.com")
        result = await send_welcome_email({}, user_id=user.id, users=users, mailbox=Mailbox(settings.mailbox))
        assert result == {"status": "sent", "to": "ada@example.com"}
        assert await update_user_status({}, user_id=user.id, status="active", db_session=session) == {"updated": 1}
        assert user.status == "active"
    await engine.dispose()
    assert mails(settings).keys() == {"welcome-1"}


# The tests of the task registry's guide, as they stand there.

mock_queue = AsyncMock()


def test_task_registration():
    """Verify tasks are registered."""
    registry = get_registry()
    tasks = registry.get_all_tasks()

    task_names = [t.__name__ for t in tasks]
    assert "send_email" in task_names
    assert "cleanup_old_records" in task_names


@pytest.mark.asyncio
async def test_task_execution():
    """Test task execution."""
    from app.users.tasks import send_welcome_email

    # Mock context
    ctx = {"queue": mock_queue}

    result = await send_welcome_email(ctx, user_id=123)
    assert result["status"] == "sent"


def test_the_registry_is_complete_whatever_was_imported_before(tmp_path: Path) -> None:
    code = (
        "from app.queue.registry import get_registry\n"
        "print(*sorted(task.__name__ for task in get_registry().get_all_tasks()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        "checksum",
        "cleanup_old_records",
        "ping",
        "send_campaign",
        "send_campaign_mail",
        "send_email",
        "send_receipt",
        "send_welcome_email",
        "update_user_status",
        "weekly_report",
    ]


@pytest.mark.parametrize("module", ["app.users.tasks", "app.payments.tasks", "app.campaigns.tasks", "app.queue.tasks"])
def test_any_module_can_be_the_first_to_be_imported(module: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", f"import {module}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------------------------------------------- start and stop


def test_one_app_is_started_three_times(settings: Settings) -> None:
    app = create_app(settings)
    for number in range(3):
        with TestClient(app) as client:
            response = client.post("/users", json={"name": "Ada", "email": f"ada{number}@example.com"})
            assert response.status_code == 201
    assert len(mails(settings)) == 3


def test_three_apps_are_started_one_after_the_other(settings: Settings) -> None:
    for number in range(3):
        with TestClient(create_app(settings)) as client:
            response = client.post("/users", json={"name": "Ada", "email": f"ada{number}@example.com"})
            assert response.status_code == 201
    assert len(mails(settings)) == 3


async def test_jobs_that_write_at_the_same_time_wait_for_each_other(client: Client) -> None:
    """One writer at a time is all that SQLite knows."""
    await sign_up(client)
    tasks = get_registry().get_task("update_user_status")
    jobs = [await tasks.enqueue(user_id=1, status="active") for _ in range(100)]
    for job in jobs:
        assert await job.result(timeout=30) == {"updated": 1}
