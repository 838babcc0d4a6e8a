"""Calls that type checkers accept, and what they know of each. Checked by mypy --strict and pyright strict."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type
from uuid import UUID

from litestar import Litestar
from litestar.di import Provide
from saq.types import Context
from sqlalchemy.ext.asyncio import AsyncSession

from litestar_tasks import (
    ERROR,
    INJECTED,
    RESULT,
    Backoff,
    Call,
    CallNext,
    Constant,
    CurrentJob,
    Debounce,
    Discard,
    Exclusive,
    Exponential,
    Firing,
    JobHandle,
    JobOutcome,
    JobSpec,
    Linear,
    OutboxConfig,
    Registry,
    Retry,
    ScheduleState,
    Secret,
    Snooze,
    Task,
    TaskQueues,
    TasksConfig,
    Throttle,
    Unique,
    enqueue_many,
    track,
)

registry = Registry()
task = registry.task
scheduled_task = registry.scheduled_task


class AppContext(Context):
    http_client: str


@task
async def bare(ctx: Context, *, user_id: int) -> dict[str, str]:
    return {}


@task(queue="emails", timeout=30)
async def called(ctx: Context, /, user_id: int, *, name: str = "x") -> str:
    return ""


@task(unique=Unique(by=("user_id",), until="started", window=timedelta(hours=1)), exclusive=True)
async def lone(*, user_id: int) -> str:
    return ""


@task(debounce=Debounce(5, by=lambda arguments: arguments["user_id"], max_wait=timedelta(minutes=1)))
async def late(*, user_id: int) -> None: ...


@task(throttle=Throttle(60, by="user_id"))
async def rare(*, user_id: int) -> None: ...


@task
async def without_context(user_id: int, name: str = "") -> int:
    return 1


@task(max_attempts=3)
async def injected(*, payment_id: UUID, db_session: AsyncSession = INJECTED) -> UUID:
    return payment_id


@task
async def with_job(*, n: int, job: CurrentJob = INJECTED) -> int:
    return n


@task
def sync(ctx: Context, n: int) -> float:
    return 1.0


@task(queue="cpu")
def sync_without_context(n: int) -> float:
    return 1.0


@task
def sync_bare(n: int, /, *, name: str = "") -> str:
    return name


@task(queue="cpu")
def sync_called(ctx: Context, *, n: int) -> float:
    return 1.0


@task
def sync_injected(n: int, *, session: AsyncSession = INJECTED) -> int:
    return n


@task(timeout=3)
async def injected_with_context(ctx: Context, n: int, *, session: AsyncSession = INJECTED) -> str:
    return ""


@task
async def without_arguments() -> None: ...


@task
async def context_only(ctx: Context) -> None: ...


@task
async def own_context(ctx: AppContext, *, x: int) -> int:
    return x


@task
async def untyped_data(ctx: Context, *, data: dict[str, Any]) -> dict[str, Any]:
    return {}


@scheduled_task(cron="0 2 * * *", timeout=900, kwargs={"batch_size": 100})
async def scheduled(ctx: Context, *, batch_size: int = 50) -> dict[str, int]:
    return {}


@scheduled_task(every=timedelta(minutes=5), misfire="all", overlap="queue", jitter=timedelta(seconds=5), queue="slow")
async def often(*, n: int = 1) -> None: ...


registry.schedule(often, id="seldom", cron="@daily", timezone="Europe/Berlin", timeout=None, start=datetime.now(UTC))


async def operate() -> None:
    states: list[ScheduleState] = await registry.schedules()
    assert_type(states[0].last, Firing | None)
    assert_type(await registry.pause_schedule("often", by="ann"), ScheduleState)
    await registry.change_schedule("often", cron="* * * * *", kwargs={"n": 2}, by="ann")
    await registry.add_schedule("mine", task=often, every=timedelta(hours=1), overlap="allow", by="ann")
    assert_type(await registry.run_schedule("mine"), JobHandle[Any])
    await registry.remove_schedule("mine")


@task(max_attempts=3, backoff=Exponential(base=2, cap=timedelta(minutes=5)), retry_on=OSError, discard_on=(KeyError,))
async def retried(*, n: int) -> int:
    if n == 1:
        raise Retry("busy", delay=timedelta(seconds=5))
    if n == 2:
        raise Snooze(run_at=datetime.now(UTC))
    raise Discard("gone")


@task(on_failure=without_context.bind(1, name=ERROR))
async def watched() -> None: ...


@task(backoff=lambda attempt: attempt**2, expires=60, payload_limit=1_000, result_limit=1_000)
async def squared() -> None: ...


def minutes(attempt: int) -> timedelta:
    return timedelta(minutes=attempt)


policies: list[Backoff] = [Constant(60), Linear(timedelta(seconds=10), cap=60), minutes]
patient = Registry(backoff=minutes, retry_on=(OSError, ValueError), expires=timedelta(days=1))


class Holder:
    @staticmethod
    @task
    async def static(ctx: Context, *, n: int) -> int:
        return n


async def plain(x: int, /) -> int:
    return x


async def enqueueing(unknown: Any) -> None:
    assert_type(await bare.enqueue(user_id=1), JobHandle[dict[str, str]])
    assert_type(await bare.enqueue(user_id=unknown), JobHandle[dict[str, str]])
    assert_type(await (await bare.enqueue(user_id=1)).result(timeout=3), dict[str, str])
    assert_type(await called.enqueue(1, name="y"), JobHandle[str])
    assert_type(await called.using(delay=timedelta(1), priority=3).enqueue(user_id=1), JobHandle[str])
    assert_type(await called.using(delay=1).using(key="k").enqueue(1), JobHandle[str])
    assert_type(called.bind(1), Call[str])
    assert_type(await called.bind(1).using(delay=3).enqueue(), JobHandle[str])
    assert_type(await called.using(unique=True, exclusive=Exclusive(by="user_id")).enqueue(1), JobHandle[str])
    assert_type(await lone.enqueue(user_id=1), JobHandle[str])
    assert_type((await late.using(debounce=None, throttle=timedelta(hours=1)).enqueue(user_id=1)).deduplicated, bool)
    assert_type(without_context.bind(1).enqueue_sync(), JobHandle[int])
    assert_type(await without_context.enqueue(1), JobHandle[int])
    assert_type(await injected.enqueue(payment_id=UUID(int=1)), JobHandle[UUID])
    assert_type(await with_job.enqueue(n=1), JobHandle[int])
    assert_type(await sync.enqueue(1), JobHandle[float])
    assert_type(await sync_without_context.enqueue(n=1), JobHandle[float])
    assert_type(await sync_bare.enqueue(1, name="x"), JobHandle[str])
    assert_type(await sync_called.enqueue(n=1), JobHandle[float])
    assert_type(await sync_injected.using(timeout=3).enqueue(1), JobHandle[int])
    assert_type(await injected_with_context.enqueue(1), JobHandle[str])
    assert_type(injected_with_context.bind(n=1).enqueue_sync(), JobHandle[str])
    assert_type(await without_arguments.enqueue(), JobHandle[None])
    assert_type(await context_only.enqueue(), JobHandle[None])
    assert_type(await untyped_data.enqueue(data={"x": 1}), JobHandle[dict[str, Any]])
    assert_type(await scheduled.enqueue(), JobHandle[dict[str, int]])
    assert_type(await Holder.static.enqueue(n=1), JobHandle[int])
    assert_type(await enqueue_many(without_context.bind(i) for i in range(3)), list[JobHandle[int]])
    assert_type(without_context.job("id"), JobHandle[int])
    assert_type(bare.job("id"), JobHandle[dict[str, str]])
    assert_type(registry.job("id"), JobHandle[Any])
    assert_type(await retried.using(expires=timedelta(hours=1), max_attempts=1).enqueue(n=1), JobHandle[int])
    assert_type(await (await retried.enqueue(n=1)).outcome(timeout=3), JobOutcome[int])
    followed = retried.using(on_success=without_context.bind(RESULT), on_failure=[bare.bind(user_id=1)])
    assert_type(await followed.enqueue(n=1), JobHandle[int])
    patient_call = retried.using(backoff=Constant(5), retry_on=OSError, discard_on=(KeyError,))
    assert_type(await patient_call.enqueue(n=1), JobHandle[int])
    assert_type((await (await retried.enqueue(n=1)).outcome()).result, int | None)
    assert_type(await (await squared.using(expires=None).enqueue()).outcome(), JobOutcome[None])
    by_hand: Task[[int], int] = task(plain)
    assert_type(await by_hand.enqueue(1), JobHandle[int])
    assert_type(await registry.get_task("x").using(delay=3).enqueue(1, a=2), JobHandle[Any])


class Client:
    name: str


async def provide_client(http_client: Client) -> Client:
    return http_client


async def around(job: CurrentJob, call_next: CallNext) -> object:
    return await call_next()


def before(spec: JobSpec) -> None:
    spec.meta = {**spec.meta, "by": "me"}


async def resources(app: Litestar) -> AsyncIterator[Mapping[str, object]]:
    yield {"http_client": Client()}


@asynccontextmanager
async def more(app: Litestar) -> AsyncGenerator[dict[str, Client], None]:
    yield {"other": Client()}


@task(dependencies={"client": Provide(provide_client), "plain": provide_client}, middleware=[around])
async def supplied(*, n: int, client: Client = INJECTED, http_client: Client = INJECTED) -> str:
    return client.name


@task(on_enqueue=[before])
async def reading(rows: list[str], *, job: CurrentJob = INJECTED) -> int:
    async for row in track(rows, job):
        assert_type(row, str)
        await job.set_progress(0.5, row)
    return len(rows)


@task
def reading_in_thread(rows: list[str], *, job: CurrentJob = INJECTED) -> int:
    return sum(len(row) for row in track(rows, job))


@dataclass
class Account:
    name: str
    password: Secret[str]
    keys: list[Secret[bytes]] = field(default_factory=list[bytes])


@task
async def log_in(*, password: Secret[str], pin: Secret[int] | None = None, account: Account) -> Secret[str]:
    assert_type(password, str)
    assert_type(pin, int | None)
    assert_type(account.password, str)
    return password.upper()


async def with_secrets() -> None:
    account = Account("ada", "hunter2")
    assert_type(await log_in.enqueue(password="hunter2", account=account), JobHandle[str])
    assert_type(await (await log_in.enqueue(password="x", pin=7, account=account)).result(), str)
    assert_type(await log_in(password="x", account=account), str)
    assert_type(log_in.bind(password="x", account=account), Call[str])


config = TasksConfig(
    registry=registry, lifespan=[resources, more], middleware=[around], on_enqueue=[before], outbox=OutboxConfig()
)


async def in_a_transaction(db_session: AsyncSession) -> None:
    assert_type(await called.using(session=db_session, delay=1).enqueue(user_id=1), JobHandle[str])
    assert_type(await registry.get_task("x").using(session=db_session).enqueue(1), JobHandle[Any])
    assert_type(await enqueue_many([called.bind(1).using(session=db_session)]), list[JobHandle[str]])
    assert_type(await called.using(session=None).enqueue(1), JobHandle[str])


async def following() -> None:
    assert_type(await supplied.enqueue(n=1), JobHandle[str])
    assert_type(await supplied(n=1, client=Client(), http_client=Client()), str)
    assert_type(await reading_in_thread.enqueue([""]), JobHandle[int])
    job = await reading.enqueue(["a"])
    async for event in job.events():
        assert_type(event.progress, float)
        assert_type(event.message, str | None)
    assert_type([line.text for line in await job.logs()], list[str])


async def calling() -> None:
    assert_type(await bare({"queue": object()}, user_id=1), dict[str, str])
    assert_type(await without_context(1), int)
    assert_type(sync({}, 1), float)
    assert_type(sync_without_context(1), float)
    assert_type(sync_bare(1), str)
    assert_type(sync_called({}, n=1), float)
    await context_only({})
    assert_type(bare.__name__, str)


async def by_name(task_queues: TaskQueues) -> str:
    job = await task_queues.get("default").enqueue("bare", user_id=1)
    return job.id
