"""Schedules: once for each firing, as declared, through outages, jumps of the clock, deploys and operators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from litestar_tasks import (
    Debounce,
    InvalidScheduleError,
    QueueUnavailableError,
    Registry,
    ScheduleNotFoundError,
    Throttle,
)
from litestar_tasks.queues.base import TaskQueue
from litestar_tasks.queues.firing import fire_due
from litestar_tasks.queues.schedule_book import QueueSchedules
from litestar_tasks.queues.schedules import Look
from litestar_tasks.schedule import Schedule
from litestar_tasks.worker.scheduler import Scheduler
from tests.conformance.clocks import Clock
from tests.conformance.hands import Hand, MakeQueue, eventually, listed, needs, record

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON)


@pytest.fixture
def registry() -> Registry:
    return new_registry()


def new_registry() -> Registry:
    registry = Registry("test", allow_local=True)

    @registry.task
    async def report(region: str = "eu", *, until: datetime | None = None) -> None: ...

    return registry


async def sync() -> None: ...


class Shop:
    """One queue, the registry of one release, and what an app's scheduler does with them."""

    def __init__(self, queue: TaskQueue, registry: Registry) -> None:
        self.queue = queue
        self.registry = registry
        self.book = QueueSchedules(registry, {queue.label: queue})

    def declare(self, task: str = "report", **options: Any) -> Shop:
        self.registry.schedule(self.registry.get_task(task), **options)
        return self

    async def start(self) -> Shop:
        await self.book.reconcile(self.queue)
        return self

    async def fire(self) -> None:
        """Fire until nothing is due."""
        for _ in range(1000):
            if not (await fire_due(self.queue)).due:
                return
        raise AssertionError("something is due for ever")

    async def fired(self) -> list[str]:
        """The keys of the jobs that were enqueued, in order."""
        return await listed(self.queue, "queued", newest_first=False)

    async def end_all(self) -> None:
        """Let every job that waits come to its end."""
        hand = await Hand(self.queue).open()
        for job in await hand.take(len(await self.fired())):
            await hand.end(job)
        await self.queue.close()


@pytest.fixture
async def shop(queue: TaskQueue, clock: Clock, registry: Registry) -> Shop:
    return Shop(clock.stop(queue), registry)


async def test_a_firing_is_one_job_at_its_moment(shop: Shop, clock: Clock) -> None:
    await shop.declare(cron="30 12 * * *", kwargs={"region": "us"}, timeout=12).start()
    await shop.fire()
    assert await shop.fired() == []
    await clock.step(minutes=29, seconds=59.999)
    await shop.fire()
    assert await shop.fired() == []
    await clock.step(seconds=0.001)
    await shop.fire()
    await shop.fire()
    assert await shop.fired() == ["report@20260302T123000Z"]
    job = await record(shop.queue, "report@20260302T123000Z")
    assert (job.function, job.kwargs, job.timeout) == ("report", {"region": "us"}, 12)
    assert job.meta["schedule"] == {"id": "report", "firing": 1_772_454_600_000}


@needs("shared")
async def test_of_many_that_try_one_fires(make: MakeQueue, clock: Clock, registry: Registry) -> None:
    shops = [Shop(clock.stop(await make()), registry) for _ in range(8)]
    await shops[0].declare(every=timedelta(seconds=1), overlap="allow", misfire="all").start()
    for _ in range(10):
        await clock.step(seconds=1)
        await asyncio.gather(*(shop.fire() for shop in shops))
    fired = await shops[0].fired()
    assert fired == [f"report@20260302T1200{second:02}Z" for second in range(1, 11)]


async def test_many_that_are_due_at_once_all_fire(shop: Shop, clock: Clock) -> None:
    for number in range(250):
        shop.declare(id=f"report-{number}", cron="30 12 * * *")
    await shop.start()
    await clock.step(minutes=30)
    await shop.fire()
    assert len(set(await shop.fired())) == 250


# Time that nobody was there


@pytest.mark.parametrize(
    ("misfire", "fired", "skips"),
    [
        ("once", ["report@20260302T125000Z"], 0),
        ("skip", [], 1),
        ("all", [f"report@20260302T12{minute}000Z" for minute in (1, 2, 3, 4, 5)], 0),
    ],
)
async def test_firings_that_were_missed_are_made_up_for_as_misfire_says(
    shop: Shop, clock: Clock, misfire: Any, fired: list[str], skips: int
) -> None:
    await shop.declare(cron="*/10 * * * *", misfire=misfire, overlap="allow").start()
    await clock.step(minutes=55)
    await shop.fire()
    assert await shop.fired() == fired
    assert (await shop.book.state("report")).skips == skips
    await clock.step(minutes=5)
    await shop.fire()
    assert await shop.fired() == [*fired, "report@20260302T130000Z"]


async def test_a_firing_that_is_a_few_seconds_late_is_not_missed(shop: Shop, clock: Clock) -> None:
    await shop.declare(every=timedelta(seconds=1), misfire="skip", overlap="allow").start()
    await clock.step(seconds=5)
    await shop.fire()
    assert len(await shop.fired()) == 5


@pytest.mark.parametrize("misfire", ["once", "all"])
async def test_years_of_missed_firings_cost_no_more_than_the_bound(shop: Shop, clock: Clock, misfire: Any) -> None:
    shop.declare(id="interval", every=timedelta(seconds=1), misfire=misfire, overlap="allow")
    await shop.declare(id="cron", cron="* * * * * *", misfire=misfire, overlap="allow").start()
    await clock.step(days=3 * 365)
    await shop.fire()
    fired = await shop.fired()
    assert len(fired) == (2 if misfire == "once" else 200)
    latest = f"{clock.moment:%Y%m%dT%H%M%SZ}"
    assert {f"interval@{latest}", f"cron@{latest}"} <= set(fired)
    assert {state.skips for state in await shop.book.states()} == {0 if misfire == "once" else 1}
    await clock.step(seconds=1)
    await shop.fire()
    assert len(await shop.fired()) == len(fired) + 2


async def test_a_clock_that_is_set_back_a_little_fires_nothing_twice(shop: Shop, clock: Clock) -> None:
    await shop.declare(every=timedelta(seconds=10), overlap="allow").start()
    await clock.step(seconds=10)
    await shop.fire()
    await clock.step(seconds=-5)
    await shop.start()
    await clock.step(seconds=5)
    await shop.fire()
    assert await shop.fired() == ["report@20260302T120010Z"]
    await clock.step(seconds=10)
    await shop.fire()
    assert len(await shop.fired()) == 2


async def test_a_clock_that_was_years_ahead_silences_nothing_when_it_is_right_again(shop: Shop, clock: Clock) -> None:
    await shop.declare(every=timedelta(minutes=1), overlap="allow").start()
    await clock.step(days=900)
    await shop.fire()
    await clock.set(NOON)
    await shop.start()
    await clock.step(minutes=1)
    await shop.fire()
    assert "report@20260302T120100Z" in await shop.fired()


# Jobs that take longer than the pause between two firings


async def test_a_firing_is_skipped_while_the_last_job_has_not_ended(shop: Shop, clock: Clock) -> None:
    await shop.declare(every=timedelta(minutes=1)).start()
    for _ in range(3):
        await clock.step(minutes=1)
        await shop.fire()
    assert await shop.fired() == ["report@20260302T120100Z"]
    state = await shop.book.state("report")
    assert state.skips == 2
    assert state.last is not None
    assert (state.last.job_id, state.last.skipped) == (None, "its last job has not ended")
    assert state.last.moment == clock.moment
    await shop.end_all()
    await clock.step(minutes=1)
    await shop.fire()
    assert await shop.fired() == ["report@20260302T120400Z"]


async def test_an_overlap_is_allowed_where_the_schedule_says_so(shop: Shop, clock: Clock) -> None:
    await shop.declare(every=timedelta(minutes=1), overlap="allow").start()
    for _ in range(3):
        await clock.step(minutes=1)
        await shop.fire()
    assert len(await shop.fired()) == 3


@pytest.mark.parametrize("overlap", ["skip", "allow", "queue"])
async def test_a_firing_for_which_another_job_stands_is_left_out_and_says_so(
    shop: Shop, clock: Clock, overlap: Any
) -> None:
    task = shop.registry.task(name="sync", unique=True)(sync)
    await shop.declare("sync", every=timedelta(minutes=1), overlap=overlap).start()
    mine = await shop.queue.submit(task.bind().spec())
    await clock.step(minutes=1)
    await shop.fire()
    assert await shop.fired() == [mine.job.key]
    state = await shop.book.state("sync")
    assert state.last is not None
    assert (state.last.job_id, state.last.skipped, state.skips) == (None, "another job like it stands for it", 1)
    assert await shop.book.run("sync", "ann") == ("default", mine.job.key, True)
    await shop.end_all()
    await clock.step(minutes=1)
    await shop.fire()
    assert await shop.fired() == ["sync@20260302T120200Z"]
    state = await shop.book.state("sync")
    assert state.last is not None
    assert (state.last.skipped, state.skips) == (None, 1)


async def test_firings_wait_for_the_end_of_the_last_job_and_come_one_after_another(shop: Shop, clock: Clock) -> None:
    await shop.declare(every=timedelta(minutes=1), overlap="queue").start()
    for _ in range(3):
        await clock.step(minutes=1)
        await shop.fire()
    seen = []
    for _ in range(3):
        seen += await shop.fired()
        await shop.end_all()
        await clock.step(seconds=2)
        await shop.fire()
    assert seen == [f"report@20260302T120{minute}00Z" for minute in (1, 2, 3)]
    assert await shop.fired() == []


async def test_a_hundred_firings_wait_and_older_ones_are_skipped(shop: Shop, clock: Clock) -> None:
    await shop.declare(every=timedelta(minutes=1), overlap="queue").start()
    await clock.step(minutes=1)
    await shop.fire()
    for _ in range(3):
        await clock.step(hours=1)
        await shop.fire()
    await shop.end_all()
    await clock.step(seconds=2)
    await shop.fire()
    oldest = NOON + timedelta(minutes=181 - 99)
    assert await shop.fired() == [f"report@{oldest:%Y%m%dT%H%M%SZ}"]
    assert (await shop.book.state("report")).skips >= 1


async def test_a_firing_of_a_unique_task_is_left_out_while_one_like_it_waits(shop: Shop, clock: Clock) -> None:
    @shop.registry.task(unique=True, exclusive=True)
    async def sync() -> None: ...

    await shop.declare("sync", every=timedelta(minutes=1), overlap="allow").start()
    for _ in range(3):
        await clock.step(minutes=1)
        await shop.fire()
    assert await shop.fired() == ["sync@20260302T120100Z"]
    assert (await record(shop.queue, "sync@20260302T120100Z")).group_key is not None
    await shop.end_all()
    await clock.step(minutes=1)
    await shop.fire()
    assert await shop.fired() == ["sync@20260302T120400Z"]


async def test_each_firing_of_a_debounced_task_puts_its_one_job_off(shop: Shop, clock: Clock) -> None:
    @shop.registry.task(debounce=Debounce(timedelta(days=20 * 365)))  # brokers go by their own clock here
    async def rebuild() -> None: ...

    await shop.declare("rebuild", every=timedelta(minutes=1), overlap="allow").start()
    for _ in range(3):
        await clock.step(minutes=1)
        await shop.fire()
    assert await shop.fired() == []
    assert await listed(shop.queue, "scheduled") == ["rebuild@20260302T120100Z"]


async def test_of_the_firings_of_a_throttled_task_one_in_each_period_is_a_job(shop: Shop, clock: Clock) -> None:
    @shop.registry.task(throttle=Throttle(3600))
    async def poll() -> None: ...

    await shop.declare("poll", every=timedelta(minutes=1), overlap="allow").start()
    for _ in range(3):
        await clock.step(minutes=1)
        await shop.fire()
        if await shop.fired():
            assert await shop.fired() == ["poll@20260302T120100Z"]
            await shop.end_all()
    assert await shop.fired() == await listed(shop.queue, "scheduled") == []
    assert await listed(shop.queue, "complete") == ["poll@20260302T120100Z"]


async def test_what_is_to_follow_a_task_follows_its_firings(shop: Shop, clock: Clock) -> None:
    @shop.registry.task
    async def tell(*, what: str) -> None: ...

    @shop.registry.task(on_success=tell.bind(what="swept"))
    async def sweep() -> None: ...

    await shop.declare("sweep", every=timedelta(minutes=1)).start()
    await clock.step(minutes=1)
    await shop.fire()
    hand = await Hand(shop.queue).open()
    await hand.end(await hand.one(), result=None)
    following = await hand.one()
    assert (following.function, following.kwargs) == ("tell", {"what": "swept"})


# Jitter, start and end


async def test_jitter_puts_a_firing_off_and_keeps_its_name(shop: Shop, clock: Clock) -> None:
    for number in range(30):
        shop.declare(id=f"report-{number}", cron="30 12 * * *", jitter=timedelta(minutes=10))
    await shop.start()
    await clock.step(minutes=30)
    await shop.fire()
    early = await shop.fired()
    await clock.step(minutes=5)
    await shop.fire()
    halfway = await shop.fired()
    await clock.step(minutes=5)
    await shop.fire()
    assert len(early) < len(halfway) < 30
    assert sorted(await shop.fired()) == sorted(f"report-{number}@20260302T123000Z" for number in range(30))


async def test_it_fires_from_its_start_to_its_end(shop: Shop, clock: Clock) -> None:
    start, end = NOON + timedelta(minutes=10), NOON + timedelta(minutes=30)
    await shop.declare(every=timedelta(minutes=10), start=start, end=end, overlap="allow").start()
    state = await shop.book.state("report")
    assert state.next_runs == tuple(NOON + timedelta(minutes=minutes) for minutes in (10, 20, 30))
    for _ in range(10):
        await clock.step(minutes=7)
        await shop.fire()
    assert await shop.fired() == [f"report@20260302T12{minute}000Z" for minute in (1, 2, 3)]
    assert (await shop.book.state("report")).next_runs == ()


# Deploys


async def deploy(shop: Shop, **options: Any) -> Shop:
    """Another release of the same app."""
    later = Shop(shop.queue, new_registry())
    if options:
        later.declare(**options)
    return await later.start()


async def test_a_changed_expression_counts_at_once(shop: Shop, clock: Clock) -> None:
    await shop.declare(cron="0 0 1 1 *", kwargs={"region": "eu"}).start()
    await deploy(shop, cron="* * * * *", kwargs={"region": "us"})
    await clock.step(minutes=1)
    await shop.fire()
    assert await shop.fired() == ["report@20260302T120100Z"]
    assert (await record(shop.queue, "report@20260302T120100Z")).kwargs == {"region": "us"}


async def test_other_arguments_do_not_move_a_firing_that_is_due(shop: Shop, clock: Clock) -> None:
    await shop.declare(cron="0 13 * * *").start()
    await clock.step(hours=2)
    await deploy(shop, cron="0 13 * * *", kwargs={"region": "us"})
    await shop.fire()
    assert await shop.fired() == ["report@20260302T130000Z"]


async def test_a_removed_schedule_never_fires_again(shop: Shop, clock: Clock) -> None:
    await shop.declare(cron="* * * * *").start()
    await clock.step(minutes=1)
    await deploy(shop)
    await shop.fire()
    assert await shop.fired() == []
    assert await shop.queue.schedules.read_all() == {}


async def test_a_renamed_one_fires_under_its_new_name_alone(shop: Shop, clock: Clock) -> None:
    await shop.declare(id="old", cron="* * * * *").start()
    await deploy(shop, id="new", cron="* * * * *")
    await clock.step(minutes=1)
    await shop.fire()
    assert await shop.fired() == ["new@20260302T120100Z"]


async def test_one_that_comes_back_makes_up_for_nothing(shop: Shop, clock: Clock) -> None:
    await shop.declare(cron="* * * * *").start()
    await deploy(shop)
    await clock.step(minutes=10)
    await deploy(shop, cron="* * * * *")
    await shop.fire()
    assert await shop.fired() == []
    await clock.step(minutes=1)
    await shop.fire()
    assert await shop.fired() == ["report@20260302T121100Z"]


async def test_a_worker_that_only_restarts_changes_nothing(shop: Shop, clock: Clock) -> None:
    await shop.declare(cron="*/10 * * * *", jitter=60).start()
    await clock.step(minutes=10, seconds=30)
    before = await shop.queue.schedules.read_all()
    await Shop(shop.queue, shop.registry).start()
    assert await shop.queue.schedules.read_all() == before


async def test_one_that_moves_to_another_queue_keeps_what_operators_did_to_it(make: MakeQueue, clock: Clock) -> None:
    registry = new_registry()
    queues = {label: clock.stop(await make(label)) for label in ("default", "reports")}
    book = QueueSchedules(registry, queues)
    registry.schedule(registry.get_task("report"), cron="* * * * *")
    await asyncio.gather(*map(book.reconcile, queues.values()))
    await book.change("report", {"cron": "*/30 * * * *"}, "ann")
    later = new_registry()
    later.schedule(later.get_task("report"), cron="* * * * *", queue="reports")
    book = QueueSchedules(later, queues)
    await asyncio.gather(*map(book.reconcile, queues.values()))
    assert [list(await queue.schedules.read_all()) for queue in queues.values()] == [[], ["report"]]
    state = await book.state("report")
    assert (state.schedule.queue, state.schedule.cron) == ("reports", "*/30 * * * *")
    await clock.step(minutes=30)
    for queue in queues.values():
        await fire_due(queue)
    assert await listed(queues["reports"], "queued") == ["report@20260302T123000Z"]
    assert await listed(queues["default"], "queued") == []


async def test_the_youngest_release_with_a_worker_decides(queue: TaskQueue) -> None:
    store = queue.schedules
    assert await store.advertise("a1", "old", 60) == "old"
    await asyncio.sleep(0.01)  # releases are told apart by the ms
    assert await store.advertise("b1", "new", 60) == "new"
    assert await store.advertise("a1", "old", 60) == "new"
    assert await store.advertise("a2", "old", 60) == "new", "a worker of the old release that starts late"
    assert await store.advertise("b2", "new", 60) == "new"
    await store.withdraw("b1")
    assert await store.advertise("a1", "old", 60) == "new"
    await store.withdraw("b2")
    assert await store.advertise("a1", "old", 60) == "old", "the last newer worker has gone"


@needs("leases")
async def test_a_release_whose_workers_were_killed_gives_way_to_the_one_before(queue: TaskQueue) -> None:
    store = queue.schedules
    await store.advertise("a1", "old", 60)
    await asyncio.sleep(0.01)
    await store.advertise("b1", "new", 0.2)

    async def rolled_back() -> bool:
        return await store.advertise("a1", "old", 60) == "old"

    await eventually(rolled_back)
    assert await store.advertise("b1", "new", 60) == "new"


async def test_a_release_without_the_task_fires_it_all_the_same(shop: Shop, clock: Clock) -> None:
    """What a job holds is in the record, so that none is lost to a worker that is older than the schedule."""
    await shop.declare(cron="* * * * *", kwargs={"region": "us"}).start()
    older = Shop(shop.queue, Registry("test", allow_local=True))
    await clock.step(minutes=1)
    await older.fire()
    assert (await record(shop.queue, "report@20260302T120100Z")).kwargs == {"region": "us"}


# Operators


async def test_a_paused_schedule_leaves_its_firings_out_until_it_is_resumed(shop: Shop, clock: Clock) -> None:
    await shop.declare(cron="* * * * *", misfire="all").start()
    state = await shop.book.pause("report", "ann")
    assert state.paused is not None
    assert (state.paused.by, state.paused.at, state.next_runs) == ("ann", NOON, ())
    await clock.step(minutes=5)
    await shop.fire()
    await shop.start()
    assert await shop.fired() == []
    state = await shop.book.resume("report", "bob")
    assert (state.paused, state.next_runs[0]) == (None, NOON + timedelta(minutes=6))
    await clock.step(minutes=1)
    await shop.fire()
    assert await shop.fired() == ["report@20260302T120600Z"]


async def test_a_run_by_hand_leaves_the_next_firing_where_it_is(shop: Shop, clock: Clock) -> None:
    await shop.declare(cron="30 12 * * *", kwargs={"region": "us"}).start()
    await shop.book.pause("report", None)
    label, key, known = await shop.book.run("report", "ann")
    assert (label, known, await shop.fired()) == ("default", False, [key])
    job = await record(shop.queue, key)
    assert (job.kwargs, job.meta["by"]) == ({"region": "us"}, "ann")
    assert await shop.book.run("report", "ann") == ("default", key, True)
    state = await shop.book.resume("report", None)
    assert state.next_runs[0] == NOON + timedelta(minutes=30)
    assert state.last is not None
    assert (state.last.job_id, state.last.status) == (job.id, "queued")


async def test_a_change_survives_deploys_until_it_is_reset(shop: Shop, clock: Clock) -> None:
    await shop.declare(cron="0 13 * * *").start()
    state = await shop.book.change("report", {"every": timedelta(minutes=10), "kwargs": {"region": "us"}}, "ann")
    assert state.declared is not None
    assert state.override is not None
    assert (state.declared.cron, state.schedule.cron, state.schedule.every) == (
        "0 13 * * *",
        None,
        timedelta(minutes=10),
    )
    assert (state.override.by, state.override.at, dict(state.schedule.kwargs)) == ("ann", NOON, {"region": "us"})
    later = await deploy(shop, cron="0 14 * * *")
    await clock.step(minutes=10)
    await shop.fire()
    assert (await record(shop.queue, "report@20260302T121000Z")).kwargs == {"region": "us"}
    state = await later.book.reset("report", "ann")
    assert (state.override, state.schedule.cron, dict(state.schedule.kwargs)) == (None, "0 14 * * *", {})
    assert state.next_runs[0] == NOON + timedelta(hours=2)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"cron": "61 * * * *"}, "minute '61'"),
        ({"every": timedelta(0)}, "at least one second"),
        ({"timezone": "Europe/Atlantis"}, "unknown time zone"),
        ({"kwargs": {"region": 1}}, "expected str"),
        ({"cron": "* * * * *", "every": timedelta(hours=1)}, "either cron or every"),
    ],
)
async def test_a_change_that_cannot_work_changes_nothing(shop: Shop, fields: dict[str, Any], says: str) -> None:
    await shop.declare(cron="0 13 * * *").start()
    before = await shop.queue.schedules.read_all()
    with pytest.raises(InvalidScheduleError, match=says):
        await shop.book.change("report", fields, "ann")
    assert await shop.queue.schedules.read_all() == before


async def test_what_was_changed_and_does_not_fit_a_later_release_is_cleared(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    await shop.declare(cron="0 13 * * *").start()
    await shop.book.change("report", {"kwargs": {"region": "us"}}, "ann")
    registry = Registry("test", allow_local=True)

    @registry.task
    async def report(*, market: str = "eu") -> None: ...

    registry.schedule(report, cron="0 13 * * *")
    await Shop(shop.queue, registry).start()
    state = await shop.book.state("report")
    assert (state.override, dict(state.schedule.kwargs)) == (None, {})
    assert "does not fit any more" in caplog.text


async def test_a_dynamic_schedule_fires_and_outlives_deploys_until_it_is_removed(
    shop: Shop, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    schedule = shop.registry.schedule(shop.registry.get_task("report"), id="of-code", cron="0 0 1 1 *")
    await shop.start()
    added = type(schedule)(id="added", task="report", cron="* * * * *", kwargs={"region": "us"})
    state = await shop.book.add(added, "ann")
    assert (state.origin, state.declared, state.schedule.id) == ("runtime", None, "added")
    with pytest.raises(InvalidScheduleError, match="exists already"):
        await shop.book.add(added, "ann")
    await deploy(shop)
    await clock.step(minutes=1)
    await shop.fire()
    assert (await record(shop.queue, "added@20260302T120100Z")).kwargs == {"region": "us"}
    assert "does not fit" not in caplog.text
    await shop.book.remove("added", "ann")
    await clock.step(minutes=1)
    await shop.fire()
    assert len(await shop.fired()) == 1


async def test_what_the_code_declares_cannot_be_removed_by_hand(shop: Shop) -> None:
    await shop.declare(cron="* * * * *").start()
    with pytest.raises(InvalidScheduleError, match="would come back"):
        await shop.book.remove("report", None)


async def test_a_schedule_that_is_not_there_is_answered_with_the_nearest(shop: Shop) -> None:
    await shop.declare(cron="* * * * *").start()
    for call in (shop.book.state("reprot"), shop.book.pause("reprot", None), shop.book.run("reprot", None)):
        with pytest.raises(ScheduleNotFoundError, match="did you mean 'report'"):
            await call


async def test_one_that_no_worker_has_stored_yet_is_listed_and_can_be_operated(shop: Shop, clock: Clock) -> None:
    shop.declare(cron="*/10 * * * *", timezone="Europe/Berlin")
    (state,) = await shop.book.states()
    assert state.next_runs == tuple(NOON + timedelta(minutes=10 * number) for number in range(1, 6))
    await shop.book.pause("report", "ann")
    await shop.start()
    assert (await shop.book.state("report")).paused is not None


async def test_the_list_says_how_each_stands(shop: Shop, clock: Clock) -> None:
    shop.declare(id="b", cron="* * * * *").declare(id="a", cron="0 13 * * *")
    await shop.start()
    await shop.book.add(shop.registry.get_schedules()[0].__class__(id="0", task="report", cron="0 13 * * *"), None)
    await clock.step(minutes=1)
    await shop.fire()
    await shop.end_all()
    states = await shop.book.states()
    assert [state.schedule.id for state in states] == ["b", "a", "0"]
    last = states[0].last
    assert last is not None
    assert (last.moment, last.status, last.skipped) == (NOON + timedelta(minutes=1), "complete", None)
    assert states[1].last is None


async def test_operators_and_firings_at_the_same_time_lose_nothing_of_each_other(shop: Shop, clock: Clock) -> None:
    await shop.declare(every=timedelta(seconds=1), overlap="allow", misfire="all").start()
    for number in range(10):
        await clock.step(seconds=1)
        await asyncio.gather(shop.fire(), shop.book.change("report", {"kwargs": {"region": str(number)}}, "ann"))
    await shop.fire()
    assert len(await shop.fired()) == 10
    assert dict((await shop.book.state("report")).schedule.kwargs) == {"region": "9"}


# What must not stop the others


async def test_a_record_that_nobody_can_read_keeps_no_other_one_from_firing(
    shop: Shop, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    await shop.declare(cron="* * * * *").start()
    for id, document in (("bad", b"\xff{"), ("odd", b'{"declared":{"task":"report","cron":"61 * * * *"},"call":{}}')):
        assert await shop.queue.schedules.swap(id, None, document, clock.now, None)
    await clock.step(minutes=1)
    await shop.fire()
    assert await shop.fired() == ["report@20260302T120100Z"]
    assert "'bad' cannot be fired" in caplog.text
    assert "'odd' cannot be fired" in caplog.text
    assert [state.schedule.id for state in await shop.book.states()] == ["report"]


async def test_a_hook_that_fails_costs_one_firing_and_is_named(
    shop: Shop, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    def hook(spec: Any) -> None:
        raise RuntimeError("no tenant")

    @shop.registry.task(on_enqueue=[hook])
    async def broken() -> None: ...

    shop.queue.registry = shop.registry
    shop.declare("broken", cron="* * * * *").declare(cron="* * * * *")
    await shop.start()
    await clock.step(minutes=1)
    await shop.fire()
    assert await shop.fired() == ["report@20260302T120100Z"]
    state = await shop.book.state("broken")
    assert state.last is not None
    assert state.last.skipped == "RuntimeError: no tenant"
    assert state.next_runs[0] == NOON + timedelta(minutes=2)
    assert "schedule 'broken' could not be fired" in caplog.text


async def test_a_step_that_is_sent_again_is_made_once(shop: Shop, clock: Clock) -> None:
    await shop.declare(cron="* * * * *", overlap="allow").start()
    ((id, seen),) = (await shop.queue.schedules.read_all()).items()
    job = await shop.queue.prepare(shop.registry.get_task("report").spec((), {}))
    assert await shop.queue.schedules.swap(id, seen, seen + b" ", 5, job)
    assert await shop.queue.schedules.swap(id, seen, seen + b" ", 5, job)
    assert not await shop.queue.schedules.swap(id, seen, seen + b"  ", 5, job)
    assert await shop.fired() == [job.key]


# What a worker process does all the time


class Workers:
    """Schedulers as worker processes have them, each with a release of its own."""

    def __init__(self) -> None:
        self._running: dict[Shop, asyncio.Task[None]] = {}

    def start(self, shop: Shop, *, serving: bool = True) -> Shop:
        queues = {shop.queue.label: shop.queue}
        scheduler = Scheduler(shop.book, queues, [shop.queue.label] if serving else [])
        self._running[shop] = asyncio.create_task(scheduler.run())
        return shop

    async def stop(self, *shops: Shop) -> None:
        tasks = [self._running.pop(shop) for shop in shops or list(self._running)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def workers() -> AsyncGenerator[Workers, None]:
    running = Workers()
    yield running
    await running.stop()


async def test_workers_fire_at_the_moments_of_a_schedule_and_at_no_other(
    queue: TaskQueue, make: MakeQueue, workers: Workers
) -> None:
    shared = "shared" in queue.capabilities
    for one in [queue, await make(), await make()] if shared else [queue]:
        workers.start(Shop(one, new_registry()).declare(every=timedelta(seconds=1), overlap="allow", misfire="all"))
    reader = Shop(queue, new_registry())

    async def three_have_fired() -> bool:
        return len(await reader.fired()) >= 3

    await eventually(three_have_fired)
    moments = [datetime.strptime(key, "report@%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) for key in await reader.fired()]
    assert moments == [moments[0] + timedelta(seconds=number) for number in range(len(moments))]
    for moment, key in zip(moments, await reader.fired(), strict=False):
        assert moment.timestamp() * 1000 <= (await record(queue, key)).queued + 1_000, "not before its time"


async def test_of_two_releases_side_by_side_the_younger_decides_until_it_is_taken_back(
    queue: TaskQueue, workers: Workers
) -> None:
    def release(expression: str) -> Shop:
        return Shop(queue, new_registry()).declare(cron=expression)

    async def in_force(expression: str) -> None:
        async def holds() -> bool:
            states = await reader.book.states()
            return [state.schedule.cron for state in states] == [expression]

        await eventually(holds)

    reader = Shop(queue, new_registry())
    old = workers.start(release("0 1 1 1 *"))
    await in_force("0 1 1 1 *")
    new = workers.start(release("0 2 1 1 *"))
    await in_force("0 2 1 1 *")
    await workers.stop(old)
    old = workers.start(release("0 1 1 1 *"))  # its process was restarted
    also_new = workers.start(release("0 2 1 1 *"))
    await in_force("0 2 1 1 *")
    await workers.stop(new)
    await in_force("0 2 1 1 *")
    await workers.stop(also_new)
    await in_force("0 1 1 1 *")


async def test_a_worker_of_other_queues_keeps_the_schedules_and_fires_none(queue: TaskQueue, workers: Workers) -> None:
    shop = Shop(queue, new_registry()).declare(every=timedelta(seconds=1), misfire="all", overlap="allow")
    workers.start(shop, serving=False)

    async def two_are_due() -> bool:
        (state,) = await shop.book.states()
        return state.next_runs[0] < datetime.now(UTC) - timedelta(seconds=2) and bool(await queue.schedules.read_all())

    await eventually(two_are_due)
    assert await shop.fired() == []


async def test_a_clock_that_is_set_back_while_workers_run_is_followed(
    shop: Shop, clock: Clock, workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    await clock.set(NOON + timedelta(days=30))
    workers.start(shop.declare(cron="* * * * *", overlap="allow"))

    async def stored_for(moment: datetime) -> bool:
        states = await shop.book.states()
        return bool(await shop.queue.schedules.read_all()) and states[0].next_runs[0] == moment

    await eventually(lambda: stored_for(NOON + timedelta(days=30, minutes=1)))
    await asyncio.sleep(0.05)  # it has looked at the clock
    await clock.set(NOON)
    await eventually(lambda: stored_for(NOON + timedelta(minutes=1)))
    assert "the broker's clock was set back by" in caplog.text


async def test_firing_goes_on_after_an_outage(shop: Shop, clock: Clock, workers: Workers) -> None:
    inner = shop.queue.schedules
    away = True

    async def look(limit: int) -> Look:
        if away:
            raise QueueUnavailableError("default", "the server is away")
        return await type(inner).look(inner, limit)

    inner.look = look  # type: ignore[method-assign]  # the server's part
    workers.start(shop.declare(cron="* * * * *"))
    await asyncio.sleep(0.1)
    away = False

    async def stored() -> bool:
        return bool(await inner.read_all())

    await eventually(stored)
    away = True
    await clock.step(minutes=1)
    await asyncio.sleep(0.1)
    away = False

    async def fired() -> bool:
        return await shop.fired() == ["report@20260302T120100Z"]

    await eventually(fired)


@needs("shared")
async def test_who_changes_a_schedule_wakes_the_workers_of_other_processes(make: MakeQueue, registry: Registry) -> None:
    theirs, ours = await make(), await make()
    await Hand(theirs).open()
    shop = Shop(ours, registry)

    async def heard() -> bool:
        before = theirs.schedules.changes
        await shop.book.add(Schedule(id="new", task="report", every=timedelta(hours=1)), None)
        await theirs.schedules.wait(5, before)
        await shop.book.remove("new", None)
        return theirs.schedules.changes > before

    await eventually(heard)  # as soon as it listens
    await shop.book.add(Schedule(id="known", task="report", every=timedelta(hours=1)), None)
    for change in (
        lambda: shop.book.change("known", {"cron": "* * * * *"}, None),
        lambda: shop.book.pause("known", None),
        lambda: shop.book.resume("known", None),
        lambda: shop.declare(id="declared", cron="* * * * *").start(),
    ):
        before = theirs.schedules.changes
        await asyncio.gather(theirs.schedules.wait(20, before), change())
        assert theirs.schedules.changes > before


async def test_hundreds_of_schedules_are_stored_though_two_workers_store_them_at_the_same_time(
    make: MakeQueue, queue: TaskQueue
) -> None:
    """In steps of some hundred, of which what another one has just stored is left out."""
    shops = [Shop(queue, new_registry()), Shop(await make(), new_registry())]
    if "shared" not in queue.capabilities:
        del shops[1]
    for number in range(450):
        shops[0].declare(id=f"s{number}", cron=f"{number % 60} 0 1 1 *")
        shops[-1].declare(id=f"s{449 - number}", cron=f"{(449 - number) % 60} 0 1 1 *")
    await asyncio.gather(*(shop.start() for shop in shops))
    assert (await queue.schedules.read_all()).keys() == {f"s{number}" for number in range(450)}
    after = Shop(queue, new_registry()).declare(id="s7", cron="0 3 * * *")
    await after.start()
    (state,) = await after.book.states()
    assert (state.schedule.id, state.schedule.cron) == ("s7", "0 3 * * *")
