"""Each row of the tables of spellings in TASKS.md: what is said to work the same does, and so does what is new."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

import litestar_saq
import pytest
from litestar import Litestar, post
from litestar.di import NamedDependency, Provide
from litestar.exceptions import LitestarDeprecationWarning
from litestar.params import FromPath
from litestar.testing import AsyncTestClient
from saq.types import Context
from sqlalchemy.ext.asyncio import AsyncSession

import litestar_tasks
from litestar_tasks import (
    INJECTED,
    ConfigurationError,
    Constant,
    CurrentJob,
    JobFailedError,
    PayloadError,
    Registry,
    Retry,
    TaskQueues,
    TasksConfig,
    TasksPlugin,
)
from litestar_tasks.retry import pause_after
from tests.docs.documents import ROOT, table_below

GUIDE: Final = "Spellings of the task registry guide"
STREAQ: Final = "Spellings of streaQ"

Check: TypeAlias = Callable[[Registry], Awaitable[None]]

ROWS: Final = {heading: [row[0] for row in table_below("TASKS.md", heading)] for heading in (GUIDE, STREAQ)}
CHECKS: Final[dict[str, dict[str, Check]]] = {GUIDE: {}, STREAQ: {}}


def shows(heading: str, row: str) -> Callable[[Check], Check]:
    """This function shows what that row says."""

    def note(check: Check) -> Check:
        assert row not in CHECKS[heading], f"two functions show {row}"
        CHECKS[heading][row] = check
        return check

    return note


@pytest.mark.parametrize(("heading", "row"), [(heading, row) for heading, rows in ROWS.items() for row in rows])
async def test_what_a_row_says_is_so(heading: str, row: str) -> None:
    assert row in CHECKS[heading], f"nothing shows the row {row}"
    await CHECKS[heading][row](Registry("test", allow_local=True, backoff=Constant(0.01)))


def test_every_check_belongs_to_a_row() -> None:
    for heading, checks in CHECKS.items():
        assert checks.keys() == set(ROWS[heading])


def plugin_for(registry: Registry, **settings: Any) -> TasksPlugin:
    settings = {"in_process_worker": True, "dashboard": None, **settings}
    return TasksPlugin(TasksConfig(registry=registry, broker_url="memory://", **settings))


@asynccontextmanager
async def running(
    registry: Registry, *, app: dict[str, Any] | None = None, **settings: Any
) -> AsyncGenerator[Any, None]:
    """The app's queue, with a worker."""
    plugin = plugin_for(registry, **settings)
    async with Litestar(plugins=[plugin], logging_config=None, **(app or {})).lifespan():
        yield plugin.get_queue("default")


async def ended(queue: Any, job: Any) -> Any:
    """The record of a job that was enqueued by name, once it has ended."""
    return await queue.wait(job.key, 20)


# ------------------------------------------------------------------------------------- the task registry guide


@shows(GUIDE, "`from app.queue.registry import task, scheduled_task`")
async def _(registry: Registry) -> None:
    from app.queue.registry import registry as own
    from app.queue.registry import scheduled_task, task

    assert task is own.task
    assert scheduled_task == own.scheduled_task


@shows(GUIDE, "`@task`")
async def _(registry: Registry) -> None:
    task = registry.task

    @task
    async def bare(ctx: Context, *, user_id: int) -> dict[str, Any]:
        return {"status": "success", "user_id": user_id}

    @task(queue="default", timeout=30, max_attempts=5)
    async def called(ctx: Context, *, user_id: int) -> int:
        return user_id

    async with running(registry):
        assert await (await bare.enqueue(user_id=1)).result(timeout=20) == {"status": "success", "user_id": 1}
        assert await (await called.enqueue(user_id=1)).result(timeout=20) == 1


@shows(GUIDE, "`@scheduled_task(cron=…, timeout=…, kwargs=…)`")
async def _(registry: Registry) -> None:
    scheduled_task = registry.scheduled_task

    @scheduled_task(cron="0 */6 * * *", timeout=1800, kwargs={"batch_size": 100})
    async def batch_process(ctx: Context, *, batch_size: int = 50) -> dict[str, int]:
        return {"processed": batch_size}

    @scheduled_task(cron="0 2 * * *", timezone="Europe/Berlin")
    async def nightly(ctx: Context) -> None: ...

    @scheduled_task(every=timedelta(seconds=1), kwargs={"batch_size": 100})
    async def often(*, batch_size: int = 50) -> None:
        seen.append(batch_size)
        fired.set()

    fired = asyncio.Event()
    seen: list[int] = []
    first, second, _ = registry.get_schedules()
    assert (first.id, first.cron, dict(first.kwargs)) == ("batch_process", "0 */6 * * *", {"batch_size": 100})
    assert (second.timezone, registry.get_task("batch_process").option("timeout")) == ("Europe/Berlin", 1800)
    async with running(registry):
        assert await (await batch_process.enqueue()).result(timeout=20) == {"processed": 50}
        await asyncio.wait_for(fired.wait(), 20)
        assert seen[0] == 100


@shows(GUIDE, "`async def f(ctx: Context, *, user_id: int) -> dict`")
async def _(registry: Registry) -> None:
    @registry.task
    async def f(ctx: Context, *, user_id: int) -> dict:  # type: ignore[type-arg]  # as the guide writes it
        assert ctx["job"].function == "f"
        return {"user": user_id}

    @registry.task
    async def without(*, user_id: int) -> int:
        return user_id

    async with running(registry):
        assert await (await f.enqueue(user_id=1)).result(timeout=20) == {"user": 1}
        assert await (await without.enqueue(user_id=1)).result(timeout=20) == 1


@shows(GUIDE, "`db_session: AsyncSession` as a parameter")
async def _(registry: Registry) -> None:
    session = AsyncSession()

    @registry.task
    async def update_user_status(
        ctx: Context, *, user_id: int, status: str, db_session: AsyncSession
    ) -> dict[str, int]:
        assert db_session is session
        return {"updated": user_id}

    @registry.task
    async def marked(*, user_id: int, db_session: AsyncSession = INJECTED) -> bool:
        return db_session is session

    providers = {"db_session": Provide(lambda: session, sync_to_thread=False)}
    async with running(registry, app={"dependencies": providers}) as queue:
        job = await queue.enqueue("update_user_status", user_id=1, status="active")
        assert (await ended(queue, job)).result == {"updated": 1}
        assert await (await marked.enqueue(user_id=1)).result(timeout=20)


@shows(GUIDE, "`from litestar_saq import TaskQueues`")
async def _(registry: Registry) -> None:
    assert litestar_tasks.TaskQueues is litestar_saq.TaskQueues


@shows(GUIDE, "`task_queues: TaskQueues` in a route")
async def _(registry: Registry) -> None:
    from litestar_saq import TaskQueues as Stock

    @registry.task
    async def my_task(ctx: Context, *, user_id: int) -> None: ...

    @post("/process/{user_id:int}")
    async def process(task_queues: Stock, user_id: FromPath[int]) -> dict[str, str]:
        queue = task_queues.get("default")
        job = await queue.enqueue("my_task", user_id=user_id)
        assert job is not None
        return {"job_id": job.id}

    @post("/marked/{user_id:int}")
    async def marked(task_queues: NamedDependency[TaskQueues], user_id: FromPath[int]) -> dict[str, str]:
        return {"job_id": (await task_queues.get("default").enqueue("my_task", user_id=user_id)).id}

    for route in (process, marked):
        route.fn.__annotations__.update(Stock=Stock)
    with pytest.warns(LitestarDeprecationWarning):
        app = Litestar([process], plugins=[plugin_for(registry)], signature_namespace={"Stock": Stock})
    async with AsyncTestClient(app) as client:
        answer = await client.post("/process/1")
        assert answer.json()["job_id"].startswith("saq:job:default:")
    async with AsyncTestClient(Litestar([marked], plugins=[plugin_for(registry)])) as client:
        assert (await client.post("/marked/1")).status_code == 201


@shows(GUIDE, '`queue = task_queues.get("default")`')
async def _(registry: Registry) -> None:
    plugin = plugin_for(registry)
    async with plugin.attached():
        assert plugin.get_queues().get("default") is plugin.get_queue("default")


@shows(GUIDE, '`job = await queue.enqueue("my_task", user_id=1)`')
async def _(registry: Registry) -> None:
    @registry.task
    async def my_task(*, user_id: int) -> int:
        return user_id

    async with running(registry) as queue:
        job = await queue.enqueue("my_task", user_id=1)
        assert (await ended(queue, job)).result == 1
        assert await (await my_task.enqueue(user_id=2)).result(timeout=20) == 2


@shows(GUIDE, "`job.id`")
async def _(registry: Registry) -> None:
    @registry.task
    async def my_task() -> int:
        return 7

    async with running(registry) as queue:
        job = await queue.enqueue("my_task")
        handle = my_task.job(job.id)
        assert handle.id == job.id
        assert await handle.result(timeout=20) == 7


@shows(GUIDE, '`await queue.enqueue("cleanup_old_records")`, a scheduled task by hand')
async def _(registry: Registry) -> None:
    @registry.scheduled_task(cron="0 2 * * *", timeout=900)
    async def cleanup_old_records(ctx: Context) -> dict[str, int]:
        return {"deleted": 3}

    async with running(registry) as queue:
        assert (await ended(queue, await queue.enqueue("cleanup_old_records"))).result == {"deleted": 3}
        assert await (await cleanup_old_records.enqueue()).result(timeout=20) == {"deleted": 3}


@shows(GUIDE, '`ctx["queue"].enqueue("my_task", …)` in a task')
async def _(registry: Registry) -> None:
    sent: list[str] = []

    @registry.task
    async def send_email(ctx: Context, *, to: str) -> None:
        sent.append(to)

    @registry.task
    async def enqueue_follow_up(ctx: Context, *, user_id: int) -> dict[str, bool]:
        queue = ctx["queue"]
        await queue.enqueue("send_email", to=f"user{user_id}@example.com")
        await (await send_email.enqueue(to="typed")).result()
        return {"enqueued": True}

    async with running(registry):
        assert await (await enqueue_follow_up.enqueue(user_id=1)).result(timeout=20) == {"enqueued": True}
    assert sent == ["user1@example.com", "typed"]


@shows(GUIDE, "task modules imported in `app/queue/config.py`")
async def _(registry: Registry) -> None:
    source = (ROOT / "backend/app/queue/config.py").read_text(encoding="utf-8")
    assert "from app.users import tasks as user_tasks  # noqa: F401" in source
    from app.queue.registry import registry as own

    assert "send_welcome_email" in [task.name for task in own.discover("app")]


@shows(GUIDE, "`get_registry().get_all_tasks()`, `t.__name__`")
async def _(registry: Registry) -> None:
    from app.queue.registry import get_registry

    task_names = [t.__name__ for t in get_registry().get_all_tasks()]
    assert "send_email" in task_names
    assert "cleanup_old_records" in task_names
    assert get_registry().get_task("send_email").name == "send_email"


@shows(GUIDE, "`await send_welcome_email(ctx, user_id=123)` in a test")
async def _(registry: Registry) -> None:
    from app.users.tasks import send_welcome_email

    ctx = {"queue": object()}
    result = await send_welcome_email(ctx, user_id=123)
    assert result["status"] == "sent"


@shows(GUIDE, "`make dev-worker`, `http://localhost:8000/saq`")
async def _(registry: Registry) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^dev-worker:.*\n\t@exec \$\(LITESTAR\) workers run --reload$", makefile, re.MULTILINE)
    plugin = TasksPlugin(TasksConfig(registry=registry, broker_url="memory://"))
    async with AsyncTestClient(Litestar(plugins=[plugin], debug=True)) as client:
        assert (await client.get("/saq")).status_code == 403  # it is there, and closed to whom it does not know


# --------------------------------------------------------------------------------------------------- streaQ


@shows(STREAQ, "`worker = Worker(redis_url=…, queue_name=…)`")
async def _(registry: Registry) -> None:
    plugin = TasksPlugin(TasksConfig(registry=registry, broker_url="redis://localhost:6379", namespace="debug-shop"))
    assert plugin.config.broker == "redis://localhost:6379, namespace 'debug-shop'"


@shows(STREAQ, "`@worker.task()`")
async def _(registry: Registry) -> None:
    task = registry.task

    @task()
    async def send_welcome_email(user_id: str) -> dict[str, str]:
        return {"status": "sent", "user": user_id}

    @task
    async def send_daily_digest() -> dict:  # type: ignore[type-arg]  # as the scaffolding writes it
        return {"sent_count": 0}

    async with running(registry):
        assert (await (await send_welcome_email.enqueue("1")).result(timeout=20))["status"] == "sent"
        assert await (await send_daily_digest.enqueue()).result(timeout=20) == {"sent_count": 0}


def always_failing(registry: Registry, **options: Any) -> tuple[Any, list[int]]:
    runs: list[int] = []

    @registry.task(**options)
    async def failing(job: CurrentJob) -> None:
        runs.append(job.attempt)
        raise ConnectionError("away")

    return failing, runs


@shows(STREAQ, "`max_tries=3`")
async def _(registry: Registry) -> None:
    with pytest.raises(ConfigurationError, match=r"unknown option 'max_tries' \(it is max_attempts\)"):
        always_failing(registry, max_tries=3)
    failing, runs = always_failing(registry, max_attempts=3)
    async with running(registry):
        assert (await (await failing.enqueue()).outcome(timeout=20)).attempts == 3
    assert runs == [1, 2, 3]
    assert always_failing(Registry(allow_local=True))[0].option("max_attempts") == 1


@shows(STREAQ, "`max_retries=3, retry_delay=60`")
async def _(registry: Registry) -> None:
    with pytest.raises(ConfigurationError, match=r"'max_retries' \(max_attempts counts runs: one more\)"):
        always_failing(registry, max_retries=3, retry_delay=60)
    with pytest.raises(ConfigurationError, match=r"'retry_delay' \(write backoff=Constant\(60\)\)"):
        always_failing(registry, retry_delay=60)
    failing, runs = always_failing(registry, max_attempts=4, backoff=Constant(0.01))
    async with running(registry):
        await (await failing.enqueue()).outcome(timeout=20)
    assert runs == [1, 2, 3, 4]
    assert pause_after(3, Constant(60)) == 60


@shows(STREAQ, "`timeout=…`, `timeout=None`")
async def _(registry: Registry) -> None:
    @registry.task(timeout=0.05)
    async def slow() -> None:
        await asyncio.sleep(20)

    @registry.task(timeout=None)
    async def patient() -> int:
        return 1

    async with running(registry):
        with pytest.raises(JobFailedError, match="TimeoutError"):
            await (await slow.enqueue()).result(timeout=20)
        assert await (await patient.enqueue()).result(timeout=20) == 1
    assert always_failing(Registry(allow_local=True))[0].option("timeout") == 300


@shows(STREAQ, "`ttl=…`, `ttl=None`, `ttl=0`")
async def _(registry: Registry) -> None:
    tasks = {ttl: always_failing(Registry(allow_local=True), ttl=ttl)[0] for ttl in (300, None, 0)}
    # SAQ's field: 0 for ever, -1 not at all, else seconds.
    assert [task.spec((), {}).ttl for task in tasks.values()] == [300, 0, -1]
    assert always_failing(Registry(allow_local=True))[0].spec((), {}).ttl == 86_400


@shows(STREAQ, "`unique=True`")
async def _(registry: Registry) -> None:
    at_once: list[int] = []
    most: list[int] = []

    @registry.task(exclusive=True)
    async def alone(n: int) -> None:
        at_once.append(n)
        most.append(len(at_once))
        await asyncio.sleep(0.05)
        at_once.remove(n)

    @registry.task(unique=True)
    async def one_job(n: int) -> int:
        return n

    async with running(registry):
        for job in [await alone.enqueue(n) for n in range(3)]:
            await job.result(timeout=20)
        later = one_job.using(delay=60)
        jobs = [await later.enqueue(1), await later.enqueue(1), await later.enqueue(2)]
        assert [job.deduplicated for job in jobs] == [False, True, False]
    assert most == [1, 1, 1]


@shows(STREAQ, "`async def f(ctx: WrappedContext[None], time: int)`")
async def _(registry: Registry) -> None:
    @registry.task
    async def sleeper(ctx: Context, time: int) -> int:
        return time

    @registry.task
    async def without(time: int) -> int:
        return time

    async with running(registry):
        assert await (await sleeper.enqueue(5)).result(timeout=20) == 5
        assert await (await without.enqueue(5)).result(timeout=20) == 5


@shows(STREAQ, "`ctx.tries`")
async def _(registry: Registry) -> None:
    @registry.task(max_attempts=3)
    async def retry(job: CurrentJob = INJECTED) -> bool:
        if job.attempt < 3:
            raise Retry("Retrying!")
        return True

    async with running(registry):
        job = await retry.enqueue()
        assert await job.result(timeout=20) is True
        assert (await job.outcome()).attempts == 3


CHECKS[STREAQ]["modules imported at the end of `worker.py`"] = CHECKS[GUIDE][
    "task modules imported in `app/queue/config.py`"
]


@shows(STREAQ, "`async with worker:`")
async def _(registry: Registry) -> None:
    @registry.task
    async def sleeper(time: int) -> int:
        return time

    plugin = plugin_for(registry)
    async with Litestar(plugins=[plugin], logging_config=None).lifespan():
        assert await (await sleeper.enqueue(1)).result(timeout=20) == 1
    async with plugin.attached():
        assert await (await sleeper.enqueue(1)).status() == "queued"


@shows(STREAQ, "`task = await f.enqueue(5)`")
async def _(registry: Registry) -> None:
    @registry.task
    async def sleeper(time: int) -> int:
        return time

    async with running(registry):
        task = await sleeper.enqueue(5)
        assert await task.result(timeout=20) == 5


@shows(STREAQ, "`await f.enqueue(5).start()`")
async def _(registry: Registry) -> None:
    @registry.task
    async def sleeper(time: int) -> int:
        return time

    async with running(registry):
        assert await (await sleeper.bind(5).enqueue()).result(timeout=20) == 5


@shows(STREAQ, "`.start(delay=10)`, `.start(delay=timedelta(seconds=5))`")
async def _(registry: Registry) -> None:
    @registry.task
    async def sleeper(time: int) -> int:
        return time

    async with running(registry):
        for delay in (10, timedelta(seconds=5)):
            job = await sleeper.using(delay=delay).enqueue(3)
            assert await job.status() == "scheduled"
        assert await (await sleeper.using(delay=0.05).enqueue(3)).result(timeout=20) == 3


@shows(STREAQ, "`.start(schedule=datetime(…))`")
async def _(registry: Registry) -> None:
    @registry.task
    async def sleeper(time: int) -> int:
        return time

    async with running(registry):
        job = await sleeper.using(run_at=datetime(2999, 1, 1, tzinfo=UTC)).enqueue(3)
        assert await job.status() == "scheduled"
    with pytest.raises(ConfigurationError, match="has no time zone; write"):
        sleeper.using(run_at=datetime(2999, 1, 1))
    with pytest.raises(ConfigurationError, match=r"'schedule' \(it is run_at\)"):
        sleeper.using(schedule=datetime(2999, 1, 1))  # type: ignore[call-arg]  # the other spelling


@shows(STREAQ, "`f.enqueue(1, scheduled_at=datetime.now() + timedelta(hours=1))`")
async def _(registry: Registry) -> None:
    @registry.task
    async def send_welcome_email(user_id: int) -> None: ...

    async with running(registry):
        with pytest.raises(PayloadError, match=r"options are set apart from arguments: using\(run_at=…\)"):
            await send_welcome_email.enqueue(1, scheduled_at=datetime.now() + timedelta(hours=1))  # type: ignore[call-arg]  # the other spelling
        job = await send_welcome_email.using(run_at=datetime.now(UTC) + timedelta(hours=1)).enqueue(1)
        assert await job.status() == "scheduled"


@shows(STREAQ, "`task.id`")
async def _(registry: Registry) -> None:
    @registry.task
    async def sleeper() -> None: ...

    async with running(registry):
        task = await sleeper.enqueue()
        assert task.id == registry.job(task.id).id


@shows(STREAQ, "`await task.status()`")
async def _(registry: Registry) -> None:
    gate, begun = asyncio.Event(), asyncio.Event()

    @registry.task
    async def waiting() -> None:
        begun.set()
        await gate.wait()

    @registry.task
    async def failing() -> None:
        raise ValueError("no")

    async with running(registry, queue_configs=registry.queue_configs(default={"concurrency": 1})):
        task = await waiting.enqueue()
        await asyncio.wait_for(begun.wait(), 20)
        other, last, later = await failing.enqueue(), await failing.enqueue(), await failing.using(delay=60).enqueue()
        assert [await one.status() for one in (task, other, later)] == ["active", "queued", "scheduled"]
        await last.abort()
        gate.set()
        await task.result(timeout=20)
        await other.outcome(timeout=20)
        assert [await one.status() for one in (task, other, last)] == ["complete", "failed", "aborted"]


@shows(STREAQ, "`await task.result()`, `await task.result(timeout=30)`")
async def _(registry: Registry) -> None:
    gate = asyncio.Event()

    @registry.task
    async def waiting(fail: bool) -> int:
        await gate.wait()
        if fail:
            raise ValueError("no luck")
        return 3

    async with running(registry):
        task, bad = await waiting.enqueue(fail=False), await waiting.enqueue(fail=True)
        with pytest.raises(TimeoutError):
            await task.result(timeout=0.05)
        gate.set()
        assert await task.result(timeout=30) == await task.result() == 3
        with pytest.raises(JobFailedError, match="no luck"):
            await bad.result(timeout=30)


@shows(STREAQ, "`TaskResult(success=…, result=…, start_time=…, finish_time=…, queue_name=…)`")
async def _(registry: Registry) -> None:
    @registry.task
    async def sleeper(time: int) -> int:
        return 3 // time

    async with running(registry):
        outcome = await (await sleeper.enqueue(1)).outcome(timeout=20)
        assert (outcome.success, outcome.result, outcome.queue) == (True, 3, "default")
        assert outcome.started is not None
        assert outcome.ended is not None
        assert outcome.started <= outcome.ended <= datetime.now(UTC) + timedelta(seconds=1)
        failed = await (await sleeper.enqueue(0)).outcome(timeout=20)
        assert (failed.success, failed.error_type) == (False, "ZeroDivisionError")


@shows(STREAQ, '`raise StreaqRetry("…")`, `raise StreaqRetry("…", delay=5)`')
async def _(registry: Registry) -> None:
    moments: list[float] = []

    @registry.task(max_attempts=3)
    async def retry(job: CurrentJob) -> bool:
        moments.append(time.monotonic())
        if job.attempt == 1:
            raise Retry("Retrying!")
        if job.attempt == 2:
            raise Retry("Retrying!", delay=0.2)
        return True

    async with running(registry):
        assert await (await registry.get_task("retry").enqueue()).result(timeout=20) is True
    assert moments[2] - moments[1] > 0.19


@shows(STREAQ, "a pause of `try**2` seconds")
async def _(registry: Registry) -> None:
    @registry.task(max_attempts=4, backoff=lambda attempt: attempt**2)
    async def fn() -> None: ...

    assert [pause_after(attempt, fn.option("backoff")) for attempt in (1, 2, 3)] == [1, 4, 9]


@shows(STREAQ, "`except TransientError: raise`, `except PermanentError: return …`")
async def _(registry: Registry) -> None:
    class TransientError(Exception):
        pass

    class PermanentError(Exception):
        pass

    runs: list[str] = []

    async def work(kind: str) -> None:
        runs.append(kind)
        if kind == "permanent":
            raise PermanentError("gone")
        if runs.count("transient") < 3:
            raise TransientError("away")

    @registry.task(max_attempts=3)
    async def by_hand(kind: str) -> dict[str, str]:
        try:
            await work(kind)
        except TransientError:
            raise
        except PermanentError as error:
            return {"status": "failed", "error": str(error)}
        return {"status": "success"}

    @registry.task(max_attempts=3, retry_on=TransientError, discard_on=PermanentError)
    async def declared(kind: str) -> str:
        await work(kind)
        return "success"

    async with running(registry):
        for task, permanent in ((by_hand, "complete"), (declared, "aborted")):
            runs.clear()
            outcome = await (await registry.get_task(task.name).enqueue("transient")).outcome(timeout=20)
            assert (outcome.success, outcome.attempts) == (True, 3)
            outcome = await (await registry.get_task(task.name).enqueue("permanent")).outcome(timeout=20)
            assert (outcome.status, outcome.attempts) == (permanent, 1)


@shows(STREAQ, "running tasks are enqueued again when their worker stops")
async def _(registry: Registry) -> None:
    begun = asyncio.Event()

    @registry.task
    async def long() -> None:
        begun.set()
        await asyncio.sleep(60)

    plugin = plugin_for(registry, in_process_worker=False)
    app = Litestar(plugins=[plugin], logging_config=None)
    async with app.lifespan():
        job = await long.enqueue()
        (worker,) = plugin.get_workers(app)
        await worker.open()
        working = asyncio.create_task(worker.start())
        await asyncio.wait_for(begun.wait(), 20)
        worker.hurry()
        await worker.stop()
        await working
        assert await job.status() == "queued"
        record = await plugin.get_queue("default").job(job.id.rpartition(":")[2])
        assert record is not None
        assert record.attempts == 0


@shows(STREAQ, "`await task.abort()`")
async def _(registry: Registry) -> None:
    @registry.task
    async def sleeper(time: float) -> float:
        await asyncio.sleep(time)
        return time

    async with running(registry):
        task = await sleeper.enqueue(60)
        assert await task.abort() is True
        assert (await task.outcome(timeout=20)).status == "aborted"
        done = await sleeper.enqueue(0)
        await done.result(timeout=20)
        assert await done.abort() is False


@shows(STREAQ, '`@worker.cron("30 9 * * mon-fri")`')
async def _(registry: Registry) -> None:
    @registry.scheduled_task(cron="30 9 * * mon-fri")
    async def cron(ctx: Context) -> None: ...

    (schedule,) = registry.get_schedules()
    friday = datetime(2026, 1, 2, 9, 30, tzinfo=UTC)
    assert schedule.next_after(friday) == datetime(2026, 1, 5, 9, 30, tzinfo=UTC)


@shows(STREAQ, "`Worker(tz=…)`")
async def _(registry: Registry) -> None:
    @registry.scheduled_task(cron="0 2 * * *", timezone="Europe/Berlin")
    async def cron() -> None: ...

    (schedule,) = registry.get_schedules()
    assert schedule.next_after(datetime(2026, 1, 1, tzinfo=UTC)) == datetime(2026, 1, 1, 1, tzinfo=UTC)


class Client:
    name = "shared"


async def resources(app: Litestar) -> AsyncIterator[Mapping[str, object]]:
    with ThreadPoolExecutor(1) as pool:
        yield {"http_client": Client(), "pool": pool}


@shows(STREAQ, "`Worker(lifespan=lifespan)`, `Worker(worker_lifespan=lifespan)`")
async def _(registry: Registry) -> None:
    @registry.task
    async def fetch(*, http_client: Client = INJECTED) -> str:
        return http_client.name

    async with running(registry, lifespan=[resources]):
        assert await (await fetch.enqueue()).result(timeout=20) == "shared"


@shows(STREAQ, "`worker.context.http_client`, `ctx.deps.pool`")
async def _(registry: Registry) -> None:
    @registry.task
    async def fetch_external_data(ctx: Context, url: str, *, http_client: Client = INJECTED) -> str:
        assert ctx["http_client"] is http_client  # type: ignore[typeddict-item]  # SAQ's Context does not know it
        return http_client.name + url

    async with running(registry, lifespan=[resources]):
        assert await (await fetch_external_data.enqueue("/")).result(timeout=20) == "shared/"


@shows(STREAQ, "`await loop.run_in_executor(ctx.deps.pool, f)`")
async def _(registry: Registry) -> None:
    def sync_sleep(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    @registry.task
    async def do_work(seconds: float, *, pool: ThreadPoolExecutor = INJECTED) -> float:
        return await asyncio.get_running_loop().run_in_executor(pool, sync_sleep, seconds)

    @registry.task
    def as_a_task(seconds: float) -> float:
        return sync_sleep(seconds)

    async with running(registry, lifespan=[resources]):
        assert await (await do_work.enqueue(0.01)).result(timeout=20) == 0.01
        assert await (await as_a_task.enqueue(0.01)).result(timeout=20) == 0.01


@shows(STREAQ, "`first = await validate.enqueue(file_id); await first.result()` in a task")
async def _(registry: Registry) -> None:
    notified: list[str] = []

    @registry.task
    async def validate_file(file_id: str) -> dict[str, bool]:
        return {"valid": file_id == "good"}

    @registry.task
    async def process_file(file_id: str) -> dict[str, str]:
        return {"processed": file_id}

    @registry.task
    async def notify_user(file_id: str, status: str) -> None:
        notified.append(status)

    @registry.task
    async def process_upload(file_id: str) -> dict[str, Any]:
        validation = await validate_file.enqueue(file_id)
        result1 = await validation.result()
        if result1["valid"]:
            processing = await process_file.enqueue(file_id)
            result2 = await processing.result()
            await notify_user.enqueue(file_id, "completed")
            return {"status": "completed", "stages": [result1, result2]}
        return {"status": "failed", "reason": "invalid_file"}

    # With one place, which the waiting task gives to those that it waits for.
    async with running(registry, queue_configs=registry.queue_configs(default={"concurrency": 1})):
        done = await (await process_upload.enqueue("good")).result(timeout=20)
        assert done == {"status": "completed", "stages": [{"valid": True}, {"processed": "good"}]}
        assert (await (await process_upload.enqueue("bad")).result(timeout=20))["status"] == "failed"
    assert notified == ["completed"]


@shows(STREAQ, "`await send_welcome_email(str(user.id))` in a test")
async def _(registry: Registry) -> None:
    @registry.task
    async def send_welcome_email(user_id: str) -> dict[str, str]:
        return {"status": "sent", "user": user_id}

    assert await send_welcome_email("7") == {"status": "sent", "user": "7"}


CHECKS[STREAQ]["`just worker-dev`"] = CHECKS[GUIDE]["`make dev-worker`, `http://localhost:8000/saq`"]
