"""What follows a job that has ended: which of the calls that were stored with it, once each, whoever ended it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from saq.job import Job, Status

from litestar_tasks import (
    ERROR,
    RESULT,
    Constant,
    CurrentJob,
    Debounce,
    Discard,
    JobSpec,
    Registry,
    Unique,
    correlation_id,
)
from litestar_tasks.follow_ups import PARENT
from litestar_tasks.job import ENDED
from litestar_tasks.queues.base import Settlement, TaskQueue
from litestar_tasks.task import Call
from litestar_tasks.worker.drain import until_empty
from tests.conformance.brokers import Broker
from tests.conformance.hands import Hand, MakeQueue, act, eventually, listed, needs, stands
from tests.conformance.test_working import working

told: list[Any] = []


@pytest.fixture
def registry() -> Registry:
    told.clear()
    registry = Registry("conformance", allow_local=True, backoff=Constant(0.01))

    @registry.task
    async def add(*, a: int, b: int) -> int:
        return a + b

    @registry.task
    async def tell(*, what: Any, job: CurrentJob) -> None:
        told.append(what)

    @registry.task
    async def divide(*, by: int) -> float:
        return 1 / by

    @registry.task
    async def pointless() -> None:
        raise Discard("nobody wants it")

    return registry


def tell(registry: Registry, what: Any, **options: Any) -> Call[Any]:
    call: Call[Any] = registry.get_task("tell").bind(what=what)
    return call.using(**options)


def followed(registry: Registry, name: str = "add", key: str | None = None, **kwargs: Any) -> JobSpec:
    """A call that says how it ended."""
    task = registry.get_task(name).using(on_success=tell(registry, RESULT), on_failure=tell(registry, ERROR))
    call: Call[Any] = task.bind(**kwargs)
    return (call.using(key=key) if key else call).spec()


async def heard(*what: Any) -> None:
    """Wait until just this was told, in any order, and see that it stays so."""

    async def is_so() -> bool:
        return sorted(map(str, told)) == sorted(map(str, what))

    await eventually(is_so)
    await asyncio.sleep(0.1)
    assert await is_so(), told


@asynccontextmanager
async def all_working(queues: Sequence[TaskQueue], registry: Registry) -> AsyncGenerator[None, None]:
    for queue in queues:
        queue.neighbours = {one.label: one for one in queues}
    async with AsyncExitStack() as stack:
        for queue in queues:
            await stack.enter_async_context(working(queue, registry))
        yield


async def waiting(queue: TaskQueue, count: int) -> list[Job]:
    """The jobs that wait for a worker, as soon as there are so many."""

    async def there() -> bool:
        return len(await listed(queue, "queued")) >= count

    await eventually(there)
    found = [await queue.job(key) for key in await listed(queue, "queued")]
    assert len(found) == count
    return [job for job in found if job is not None]


async def test_a_result_is_handed_to_what_follows(make: MakeQueue, registry: Registry) -> None:
    queue = await make(registry=registry)
    async with working(queue, registry):
        parent = (await queue.submit(followed(registry, a=1, b=2))).job
        await heard(3)
        (child,) = [key for key in await listed(queue, "complete") if key != parent.key]
        job = await queue.job(child)
        assert job is not None
        assert job.meta[PARENT] == parent.id


async def test_an_error_is_handed_to_what_follows_and_only_the_last_one(make: MakeQueue, registry: Registry) -> None:
    queue = await make(registry=registry)
    async with working(queue, registry):
        call = registry.get_task("divide").using(
            on_success=tell(registry, RESULT),
            on_failure=[tell(registry, ERROR), tell(registry, "again")],
            max_attempts=3,
        )
        await queue.submit(call.bind(by=0).spec())

        async def two() -> bool:
            return len(told) >= 2

        await eventually(two)
        await asyncio.sleep(0.1)
    assert len(told) == 2
    assert "again" in told
    assert any("ZeroDivisionError" in one for one in told)


async def test_what_a_task_finds_pointless_is_followed_by_nothing(make: MakeQueue, registry: Registry) -> None:
    queue = await make(registry=registry)
    async with working(queue, registry):
        job = (await queue.submit(followed(registry, "pointless"))).job
        await stands(queue, job.key, "aborted")
        await queue.submit(followed(registry, a=1, b=1))
        await heard(2)


async def test_follow_ups_have_follow_ups_of_their_own(make: MakeQueue, registry: Registry) -> None:
    queue = await make(registry=registry)
    add = registry.get_task("add")
    third = add.using(on_success=tell(registry, RESULT)).bind(a=RESULT, b=100)
    second = add.using(on_success=third).bind(a=RESULT, b=10)
    async with working(queue, registry):
        await queue.submit(add.using(on_success=second).bind(a=1, b=1).spec())
        await heard(112)


async def test_a_follow_up_goes_to_its_own_queue(make: MakeQueue, registry: Registry) -> None:
    first, second = await make(registry=registry), await make("second", registry=registry)
    call = registry.get_task("add").using(
        on_success=[tell(registry, RESULT, queue="second"), tell(registry, "here"), tell(registry, "no", queue="third")]
    )
    await first.submit(call.bind(a=2, b=2).spec())
    async with all_working([first, second], registry):
        await heard(4, "here", "no")
        assert len(await listed(second, "complete")) == 1
        assert len(await listed(first, "complete")) == 3  # that of an unknown queue stays with its parent


async def test_the_options_of_a_follow_up_hold(make: MakeQueue, registry: Registry) -> None:
    queue = await make(registry=registry)
    later = tell(registry, "later", delay=3600, key="mine", priority=5, tag="seven", timeout=7, expires=60)
    async with working(queue, registry):
        await queue.submit(registry.get_task("add").using(on_success=later).bind(a=1, b=1).spec())
        await stands(queue, "mine", "scheduled")
    job = await queue.job("mine")
    assert job is not None
    assert (job.priority, job.timeout, job.meta["tag"]) == (5, 7, "seven")
    assert job.meta["expires"] == pytest.approx(job.scheduled + 60, abs=0.01)


async def test_what_limits_calls_limits_follow_ups(make: MakeQueue, registry: Registry) -> None:
    queue = await make(registry=registry)
    after = tell(registry, RESULT, unique=Unique(by=()), exclusive=True)
    later = tell(registry, "later", debounce=Debounce(3600, by=(), max_wait=7200))
    call = registry.get_task("add").using(on_success=[after, later]).bind(a=1, b=1)
    await queue.submit_many([call.spec(), call.spec(), call.spec()])
    hand = await Hand(queue).open()
    for number, job in enumerate(await hand.take(3)):
        await hand.end(job, result=number)

    async def settled() -> bool:
        return not await queue.owes()

    await eventually(settled)
    (job,) = await waiting(queue, 1)
    assert job.group_key is not None
    assert len(await listed(queue, "scheduled")) == 1


async def test_a_follow_up_is_correlated_as_its_parent_is(make: MakeQueue, registry: Registry) -> None:
    queue = await make(registry=registry)
    before = correlation_id.set("request-7")
    await queue.submit(followed(registry, a=1, b=1))
    correlation_id.reset(before)
    hand = await Hand(queue).open()
    await hand.end(await hand.one(), result=2)
    (job,) = await waiting(queue, 1)
    assert job.meta["correlation_id"] == "request-7"


async def test_hooks_see_follow_ups_when_their_parent_is_enqueued(make: MakeQueue, registry: Registry) -> None:
    seen: list[str] = []

    def note(spec: JobSpec) -> None:
        seen.append(spec.task)
        spec.meta = {**spec.meta, "who": "me"}

    queue = await make(registry=registry)
    queue.on_enqueue = (note,)
    await queue.submit(followed(registry, a=1, b=1))
    assert seen == ["add", "tell", "tell"]
    hand = await Hand(queue).open()
    await hand.end(await hand.one(), result=2)
    (job,) = await waiting(queue, 1)
    assert job.meta["who"] == "me"
    assert seen == ["add", "tell", "tell"]


async def test_a_job_that_is_aborted_while_it_waits_is_followed(make: MakeQueue, registry: Registry) -> None:
    queue = await make(registry=registry)
    await queue.submit(followed(registry, key="waits", a=1, b=2))
    assert await queue.cancel("waits", "not needed")
    async with working(queue, registry):
        await heard("not needed")


async def test_jobs_that_are_aborted_together_are_followed_each(make: MakeQueue, registry: Registry) -> None:
    queue = await make(registry=registry)
    await queue.submit_many([followed(registry, a=n, b=2) for n in range(30)])
    assert await act(queue, "abort", "queued", limit=7) == 30
    async with working(queue, registry):
        await heard(*["aborted with others by an operator"] * 30)


async def test_a_running_job_that_is_aborted_is_followed(make: MakeQueue, registry: Registry) -> None:
    queue = await make(registry=registry)
    await queue.submit(followed(registry, key="runs", a=1, b=2))
    hand = await Hand(queue).open()
    job = await hand.one()
    assert await queue.cancel("runs", "stop it")
    await hand.retry(job)  # it would go back, and somebody wants it ended
    (after,) = await waiting(queue, 1)
    assert after.kwargs == {"what": "stop it"}


async def test_a_job_that_expired_or_cannot_be_run_is_followed(make: MakeQueue, registry: Registry) -> None:
    queue = await make(registry=registry)
    hand = await Hand(queue).open()
    await queue.submit_many([followed(registry, key="late", a=1, b=2), followed(registry, key="strange", a=1, b=2)])
    late, strange = await hand.take(2)
    await hand.end(late, Settlement.ABORTED, error="too late", meta={**late.meta, ENDED: {"reason": "expired"}})
    await hand.end(strange, Settlement.QUARANTINED, error="unknown")
    assert {job.kwargs["what"] for job in await waiting(queue, 2) if job.kwargs} == {"too late", "unknown"}


async def test_a_job_that_goes_on_is_not_followed_yet(make: MakeQueue, registry: Registry) -> None:
    queue = await make(registry=registry)
    await queue.submit(followed(registry, key="job", a=1, b=2))
    hand = await Hand(queue).open()
    await hand.retry(await hand.one())
    await hand.snooze(await hand.one())
    await hand.hand_back(await hand.one())
    await hand.end(await hand.one(), result=7)
    (after,) = await waiting(queue, 1)
    assert after.kwargs == {"what": 7}


async def test_each_life_of_a_job_is_followed_once(make: MakeQueue, registry: Registry) -> None:
    queue = await make(registry=registry)
    async with working(queue, registry):
        await queue.submit(followed(registry, key="job", a=1, b=2))
        await heard(3)
        assert await queue.rerun("job")
        await heard(3, 3)
        await queue.submit(registry.get_task("add").using(key="job").bind(a=1, b=2).spec())
        await stands(queue, "job", "complete")
        await heard(3, 3)


async def test_a_job_that_is_forgotten_is_not_followed(make: MakeQueue, registry: Registry) -> None:
    queue = await make(registry=registry)
    await queue.submit(followed(registry, key="gone", a=1, b=2))
    assert await queue.purge() == 1
    await queue.submit(registry.get_task("add").using(key="gone").bind(a=1, b=2).spec())
    async with working(queue, registry):
        await stands(queue, "gone", "complete")
        await heard()


async def test_a_drain_waits_for_what_follows(make: MakeQueue, registry: Registry) -> None:
    queue = await make(registry=registry)
    await queue.submit_many([followed(registry, a=n, b=0) for n in range(50)])
    async with working(queue, registry) as worker:
        await until_empty([worker])
        assert sorted(told) == list(range(50))


@needs("leases")
async def test_a_worker_that_dies_right_after_the_end_leaves_what_follows_to_another(
    broker: Broker, make: MakeQueue, registry: Registry
) -> None:
    doomed = await make(registry=registry, lease=1.0)
    hand = await Hand(doomed).open()
    consumer: Any = doomed._consumer  # type: ignore[attr-defined]  # what a kill at this moment would take away
    consumer._relay._task.cancel()
    await doomed.submit_many([followed(registry, a=n, b=0) for n in range(20)])
    for number, job in enumerate(await hand.take(20)):
        await hand.end(job, result=number)
    assert await doomed.owes()
    await broker.vanish(doomed)
    one, other = await make(registry=registry), await make(registry=registry)
    async with all_working([one, other], registry):
        await heard(*range(20))
    assert not await one.owes()


@needs("leases")
async def test_a_job_that_takes_its_workers_with_it_is_followed(
    broker: Broker, make: MakeQueue, registry: Registry
) -> None:
    doomed = await make(registry=registry, lease=1.0, max_losses=1)
    await doomed.submit(followed(registry, key="poison", a=1, b=1))
    await (await Hand(doomed).open()).one()
    await broker.vanish(doomed)
    queue = await make(registry=registry, lease=1.0, max_losses=1)
    await Hand(queue).open()
    (after,) = await waiting(queue, 1)
    assert after.kwargs is not None
    assert "poison" in after.kwargs["what"]
    assert (await queue.job("poison") or after).status is Status.FAILED


@needs("leases")
async def test_a_job_that_was_to_be_aborted_when_its_worker_was_lost_is_followed(
    broker: Broker, make: MakeQueue, registry: Registry
) -> None:
    doomed = await make(registry=registry, lease=1.0)
    await doomed.submit(followed(registry, key="job", a=1, b=1))
    await (await Hand(doomed).open()).one()
    await broker.vanish(doomed)
    queue = await make(registry=registry, lease=1.0)
    assert await queue.cancel("job", "stop it")
    await Hand(queue).open()
    (after,) = await waiting(queue, 1)
    assert after.kwargs == {"what": "stop it"}


async def test_a_queue_without_follow_ups_owes_nothing(make: MakeQueue) -> None:
    queue = await make()
    hand = await Hand(queue).open()
    await hand.finish("a", "b")
    assert not await queue.owes()
