"""Nothing accepted is lost, nothing healthy is harmed: workers and brokers that die, freeze, restart and leave."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import time
from typing import Any

import pytest

from litestar_tasks import Exclusive, enqueue_many
from litestar_tasks.handle import JobHandle
from tests.chaos.conftest import LEASE, LONG, PROMISE, Field, times
from tests.chaos.ledger_app import charge, report, send, work, work_in_thread

pytestmark = [pytest.mark.timeout(240 * max(1, LONG)), pytest.mark.usefixtures("plugin")]

chance = random.Random(20260101)


def key_of(handle: JobHandle[Any]) -> str:
    return handle.id.rpartition(":")[2]


async def enqueue(field: Field, count: int, *, slowest: float = 0.2) -> list[str]:
    """Enqueue a mixture of jobs, and return their keys."""
    calls = [
        chance.choice((work, work, work_in_thread)).bind(seconds=chance.random() ** 3 * slowest) for _ in range(count)
    ]
    return accept(field, await enqueue_many(calls))


async def enqueue_everywhere(field: Field, count: int) -> list[str]:
    """Enqueue a mixture of jobs into all queues, in several priorities, and return their keys."""
    calls = [
        chance.choice((work, work_in_thread, send, report))
        .using(priority=chance.choice((-5, 0, 0, 3)))
        .bind(seconds=chance.random() ** 3 * 0.2)
        for _ in range(count)
    ]
    return accept(field, await enqueue_many(calls))


def accept(field: Field, handles: list[Any]) -> list[str]:
    keys = [key_of(handle) for handle in handles]
    field.accepted.update(keys)
    return keys


async def test_every_job_reaches_its_end_though_workers_are_killed_at_random(field: Field) -> None:
    """Four processes drain three queues, in several lanes each, and one of them is killed about every second."""
    field.start_workers(4)
    keys: list[str] = []
    for _ in range(times(6, 150)):
        keys += await enqueue_everywhere(field, 150)
        await asyncio.sleep(0.4 + chance.random())
        await field.kill_beside_another(chance.choice(field.living))
        assert field.ownerless() == 0
        field.start_worker()
    await field.until_all_ended(keys)
    field.assert_runs_again_are_owed_to_kills()
    # What met with three kills is failed as what may cause them; it is the only way to fail here.
    poison = field.failed()
    assert all("poison: 3 workers were lost" in error for error in poison.values()), poison
    field.counts["jobs failed by a third kill"] = len(poison)


async def test_every_job_is_followed_once_though_workers_are_killed_at_random(field: Field) -> None:
    """Kills meet workers between the end of a job and its follow-ups, of which one goes to another queue."""
    field.start_workers(3)
    keys: list[str] = []
    parent = work.using(on_success=[work.bind(seconds=0), send.bind(seconds=0)], max_losses=1_000)
    for _ in range(times(5, 150)):
        keys += accept(field, await enqueue_many(parent.bind(seconds=0.005 * chance.random()) for _ in range(200)))
        await asyncio.sleep(0.3 + chance.random() / 2)
        await field.kill_beside_another(chance.choice(field.living))
        field.start_worker()
    await field.until(
        lambda: not field.unfinished() and not field.leftovers(), seconds=90, what="an outcome of every job"
    )
    assert set(keys) <= field.ends().keys()
    children = field.children()
    assert {key: children[key] for key in keys if children[key] != 2} == {}
    field.counts["follow-ups"] = children.total()


async def test_a_job_that_must_not_start_twice_does_not_though_its_workers_are_killed_and_stopped(
    field: Field,
) -> None:
    field.start_workers(2, GRACE="0")
    keys: list[str] = []

    async def end_one_at_work(end: signal.Signals) -> None:
        batch = accept(field, await enqueue_many(charge.bind(seconds=chance.random() * 0.2) for _ in range(50)))
        keys.extend(batch)
        await field.until(lambda: len(field.starts().keys() & set(batch)) > 5, seconds=30, what="the workers at work")
        leaving = field.living[0]
        if end == signal.SIGKILL:
            await field.kill_beside_another(leaving)
        else:
            await field.stop(leaving)
        field.start_worker(GRACE="0")

    for number in range(times(2, 40)):
        await end_one_at_work(signal.SIGTERM if number % 2 else signal.SIGKILL)
    await field.until_all_ended(keys)
    assert {key for key, runs in field.starts().items() if len(runs) > 1} == set()
    failed = field.failed()
    assert all("must not be started twice" in error for error in failed.values()), failed
    field.counts["jobs failed instead of started twice"] = len(failed)


@pytest.mark.parametrize("lease", [LEASE] if LONG == 1 else [LEASE, 15.0])
async def test_the_jobs_of_a_killed_worker_go_on_elsewhere_soon_whatever_their_timeout(
    field: Field, lease: float
) -> None:
    victim = field.start_worker(LEASE=str(lease))
    await field.until(victim.is_up, seconds=60, what="the first worker's start")
    handles = [await work.enqueue(seconds=600) for _ in range(10)]
    running = accept(field, handles)
    await field.until(lambda: field.starts().keys() >= set(running), seconds=10, what="ten running jobs")
    other = field.start_worker(LEASE=str(lease))
    await field.until(other.is_up, seconds=20, what="the second worker's start")
    field.kill(victim)
    await field.until(
        lambda: all(len(field.starts()[key]) == 2 for key in running), seconds=PROMISE, what="ten recovered jobs"
    )
    for handle in handles:
        assert await handle.abort()
    await field.until(lambda: field.active() == 0, seconds=20, what="the aborts")


async def test_a_schedule_goes_on_though_a_worker_was_killed_with_its_last_firing(field: Field) -> None:
    """Firings overlap, and run for ten minutes: the one that was killed keeps no later one back."""
    victim = field.start_worker(TICKS="1")
    await field.until(lambda: len(field.starts()) >= 1, seconds=30, what="the first firing")
    field.kill(victim)
    before = set(field.starts())
    field.start_worker(TICKS="1", GRACE="0")
    await field.until(lambda: len(field.starts().keys() - before) >= 2, seconds=30, what="two more firings")
    await field.until(
        lambda: all(len(field.starts()[key]) >= 2 for key in before),
        seconds=PROMISE,
        what="the firings before the kill",
    )


@pytest.mark.aside
@pytest.mark.timeout(280)
async def test_sixty_slots_of_a_second_are_sixty_jobs_though_workers_are_killed_as_they_fire(field: Field) -> None:
    """Three workers fire one schedule; at every tenth slot or so one of them is killed in the midst of it."""
    first = int(time.time()) + 20  # a busy machine takes its time until three workers are up
    expected = {f"slot@{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(first + number))}" for number in range(60)}
    for _ in range(3):
        field.start_worker(SLOTS_FROM=str(first))
    for number in (10, 20, 30):
        moment = first + number + chance.random() * 0.005
        await asyncio.sleep(max(0.0, moment - time.time()))
        field.kill(field.living[0])
        field.start_worker(SLOTS_FROM=str(first))
    deadline = time.time() + 120
    await field.until(
        lambda: field.starts().keys() >= expected or time.time() > deadline, seconds=150, what="sixty jobs"
    )
    assert not expected - field.starts().keys()
    await asyncio.sleep(max(0.0, first + 62 - time.time()))  # so that a slot too many would have come
    field.accepted.update(expected)
    await field.until_all_ended(sorted(expected))
    assert field.starts().keys() == expected


async def test_graceful_stops_under_load_double_nothing_and_leave_nothing_behind(field: Field) -> None:
    field.start_workers(2)
    keys: list[str] = []
    for _ in range(times(8, 200)):
        keys += await enqueue(field, 100)
        await asyncio.sleep(0.2 + 0.5 * chance.random())
        leaving = field.living[0]
        field.start_worker()
        await field.stop(leaving)
        assert field.ownerless() == 0
    await field.until_all_ended(keys)
    for worker in field.living:
        await field.stop(worker)
    assert field.active() == 0
    field.assert_each_ran_once(keys)


async def test_jobs_that_outlast_the_grace_are_handed_back_at_once(field: Field) -> None:
    worker = field.start_worker(GRACE="1")
    handle = await work.enqueue(seconds=60)
    (key,) = accept(field, [handle])
    await field.until(lambda: key in field.starts(), seconds=20, what="the start")
    before = time.monotonic()
    await field.stop(worker)
    assert time.monotonic() - before < 30
    assert await handle.status() == "queued"
    field.start_worker()
    await field.until(lambda: len(field.starts()[key]) == 2, seconds=20, what="the second run")
    assert await handle.abort()
    await field.until(lambda: field.active() == 0, seconds=20, what="the abort")


async def test_a_frozen_worker_that_comes_back_cannot_settle_what_others_took_over(field: Field) -> None:
    for _ in range(times(1, 10)):
        await freeze_a_worker(field)


async def freeze_a_worker(field: Field) -> None:
    frozen = field.start_worker()
    handle = await work.enqueue(seconds=1)
    (key,) = accept(field, [handle])
    await field.until(lambda: key in field.starts(), seconds=20, what="the start")
    frozen.send(signal.SIGSTOP)
    field.counts["workers frozen"] += 1
    other = field.start_worker()
    await field.until(lambda: len(field.starts()[key]) == 2, seconds=PROMISE, what="the second run")
    assert await handle.result(timeout=10) == "done"
    await field.until(lambda: field.active() == 0, seconds=10, what="the second run settled")
    record = field.server.client.get(handle.id)
    frozen.send(signal.SIGCONT)
    await field.until(lambda: "lease" in frozen.output, seconds=10, what="the frozen worker's word for it")
    await field.until_all_ended(await enqueue(field, 20))
    assert field.server.client.get(handle.id) == record
    assert (other.process.poll(), frozen.process.poll()) == (None, None)
    for worker in field.living:
        await field.stop(worker)


async def test_an_outage_longer_than_the_lease_costs_nobody_a_lease(field: Field) -> None:
    """In the long version: ten busy workers with the default lease, and a server that stands still for 30 s."""
    workers, lease, outage = (3, LEASE, LEASE * 2) if LONG == 1 else (10, 15.0, 30.0)
    field.start_workers(workers, LEASE=str(lease))
    for worker in field.workers:
        await field.until(worker.is_up, seconds=60, what="the start of every worker")
    # Some of them end during the outage, others after it; more wait behind them.
    keys = accept(
        field, await enqueue_many(work.bind(seconds=chance.random() * outage * 1.5) for _ in range(workers * 8))
    )
    keys += await enqueue(field, workers * 20)
    await field.until(lambda: len(field.starts()) >= workers * 7, seconds=30, what="the workers at work")
    field.server.freeze()
    field.counts["seconds without a server"] += int(outage)
    await asyncio.sleep(outage)
    field.server.thaw()
    await field.until_all_ended(keys)
    field.assert_each_ran_once(keys)
    assert not any("taken for lost" in worker.output for worker in field.workers)


@pytest.mark.parametrize("field", ["always"] if LONG == 1 else ["always", "everysec"], indirect=True)
async def test_a_redis_that_is_killed_and_restarted_loses_and_doubles_nothing(
    field: Field, request: pytest.FixtureRequest
) -> None:
    field.start_workers(2)
    keys = await enqueue(field, 200)
    for _ in range(times(2, 50)):
        await asyncio.sleep(0.3)
        field.server.kill()
        field.counts["servers killed"] += 1
        await asyncio.sleep(0.5)
        field.server.start()
        keys += await enqueue(field, 100)
    await field.until_all_ended(keys)
    again = [key for key in keys if len(field.starts()[key]) > 1]
    field.counts["jobs whose claim or end the server had forgotten"] = len(again)
    # While its disk is busy, a server that flushes every second answers before it writes: it may come up again without
    # what was claimed or settled last. Each kill can cost what was running then, and no more.
    everysec = "everysec" in request.node.name
    assert len(again) <= (20 * field.counts["servers killed"] if everysec else 0), again


async def test_workers_that_start_on_a_fresh_redis_with_a_backlog_run_each_job_once(field: Field) -> None:
    for _ in range(times(2, 50)):
        field.renew_server()
        keys = accept(field, [await work.enqueue(seconds=0.5) for _ in range(10)])
        field.start_workers(3)
        field.counts["fresh servers"] += 1
        await field.until_all_ended(keys)
        for worker in field.living:
            await field.stop(worker)
        field.assert_each_ran_once(keys)


async def test_of_what_runs_one_at_a_time_no_two_run_though_their_workers_are_killed_and_stopped(field: Field) -> None:
    """Three groups of jobs beside others, while one worker after the other is killed, or stopped as by a deploy."""
    field.start_workers(3, GRACE="0")
    groups: list[list[str]] = []
    for number in range(3):
        alone = work.using(exclusive=Exclusive(by="seconds"), max_losses=50)
        groups.append(accept(field, await enqueue_many([alone.bind(seconds=0.02 + number / 100)] * times(40, 1000))))
    others = await enqueue(field, 60)
    for turn in range(times(6, 100)):
        await asyncio.sleep(0.3 + chance.random() / 2)
        worker = chance.choice(field.living)
        if turn % 3 == 2:
            await field.stop(worker)
        else:
            await field.kill_beside_another(worker)
        field.start_worker(GRACE="0")
    await field.until_all_ended([key for group in groups for key in group] + others, seconds=90)
    assert field.failed() == {}
    for keys in groups:
        runs = sorted((run for key in keys for run in field.runs(key)), key=lambda run: run[0])
        assert [run for run, after in itertools.pairwise(runs) if run[1] > after[0]] == [], "two at a time"


async def test_a_lock_never_outlives_the_workers_of_its_job(field: Field) -> None:
    """However a job's worker ends, calls that are alike find it until it has ended, and are jobs of their own then."""
    field.start_workers(2, GRACE="0")
    keys: list[str] = []
    for _ in range(times(4, 60)):
        unique = work.using(unique=True, max_losses=50)
        await field.until(lambda: sum(one.is_up() for one in field.living) > 1, seconds=60, what="two workers at work")
        first = await unique.enqueue(seconds=2)
        keys += accept(field, [first])
        await field.until(lambda key=keys[-1]: key in field.starts(), seconds=30, what="the start of the job")
        field.kill(next(one for one in field.living if one.pid == field.starts()[keys[-1]][0].pid))
        again = await unique.enqueue(seconds=2)
        assert (again.id, again.deduplicated) == (first.id, True)
        field.start_worker(GRACE="0")
        assert await again.result(timeout=60) == "done"
    await field.until_all_ended(keys)
    field.assert_runs_again_are_owed_to_kills()
