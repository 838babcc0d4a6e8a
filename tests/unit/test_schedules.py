"""A schedule by itself, and what a registry does with schedules while its app runs."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from itertools import takewhile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from litestar_tasks import (
    ConfigurationError,
    InvalidScheduleError,
    NotAttachedError,
    Registry,
    Schedule,
    ScheduleNotFoundError,
    UnknownQueueError,
    UnknownTaskError,
)
from litestar_tasks.queues.schedule_records import ScheduleRecord
from tests.unit.test_worker import running, until

DAY = datetime(2026, 3, 2, tzinfo=UTC)


def schedule(**fields: Any) -> Schedule:
    return Schedule(id="report", task="report", **fields)


class TestOne:
    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            ({}, "either cron or every"),
            ({"cron": "* * * * *", "every": timedelta(hours=1)}, "either cron or every"),
            ({"cron": 5}, "cron is 5"),
            ({"cron": "61 * * * *"}, "'61 \\* \\* \\* \\*' cannot work: its minute '61'"),
            ({"cron": "0 0 31 2 *"}, "no day of the month '31' in month '2'"),
            ({"every": 60}, "every is 60; give a timedelta"),
            ({"every": timedelta(milliseconds=999)}, "at least one second"),
            ({"every": timedelta(seconds=1, microseconds=5)}, "whole milliseconds"),
            ({"cron": "* * * * *", "timezone": "Mars/Olympus"}, "unknown time zone 'Mars/Olympus'"),
            ({"cron": "* * * * *", "timezone": "../UTC"}, "unknown time zone"),
            ({"cron": "* * * * *", "timezone": None}, "unknown time zone None"),
            ({"cron": "* * * * *", "misfire": "never"}, "misfire is 'never'; give one of 'once', 'skip', 'all'"),
            ({"cron": "* * * * *", "overlap": "stop"}, "overlap is 'stop'; give one of 'skip', 'allow', 'queue'"),
            ({"cron": "* * * * *", "jitter": -1}, "jitter is -1"),
            ({"cron": "* * * * *", "jitter": "1m"}, "jitter is '1m'"),
            ({"cron": "* * * * *", "start": datetime(2026, 1, 1)}, "start is .*; give an aware datetime"),
            ({"cron": "* * * * *", "end": "2026-01-01"}, "end is '2026-01-01'; give an aware datetime"),
            ({"cron": "* * * * *", "start": DAY, "end": DAY}, "is not after start"),
            ({"cron": "0 0 1 1 *", "start": DAY, "end": DAY + timedelta(days=9)}, "never fires from start"),
        ],
    )
    def test_what_cannot_work_is_refused_with_its_name_and_the_remedy(self, fields: dict[str, Any], says: str) -> None:
        with pytest.raises(InvalidScheduleError, match=f"schedule 'report': .*{says}"):
            schedule(**fields)

    @pytest.mark.parametrize("id", ["", "x" * 201, "a\nb", 7])
    def test_an_id_is_a_printable_name(self, id: Any) -> None:
        with pytest.raises(InvalidScheduleError, match="its id is no name"):
            Schedule(id=id, task="report", cron="* * * * *")

    def test_an_interval_counts_from_the_epoch_or_from_its_start(self) -> None:
        found = schedule(every=timedelta(hours=5)).next_after(DAY)
        assert found is not None
        assert found.timestamp() % (5 * 3600) == 0
        assert DAY < found <= DAY + timedelta(hours=5)
        start = datetime(2026, 3, 2, 9, 30, tzinfo=timezone(timedelta(hours=2)))
        counted = schedule(every=timedelta(hours=5), start=start)
        assert counted.next_after(DAY) == start
        assert counted.next_after(start) == start + timedelta(hours=5)

    def test_an_interval_is_the_same_through_a_transition(self) -> None:
        every = schedule(every=timedelta(hours=1), timezone="Europe/Berlin")
        night = datetime(2026, 3, 28, 22, tzinfo=UTC)
        found = list(takewhile(lambda one: one < night + timedelta(hours=9), every.firings(night)))
        assert found == [night + timedelta(hours=hour) for hour in range(1, 9)]

    def test_start_and_end_are_firings_if_they_match(self) -> None:
        end = DAY + timedelta(minutes=3)
        assert list(schedule(cron="* * * * *", start=DAY, end=end).firings(DAY - timedelta(days=3))) == [
            DAY + timedelta(minutes=minute) for minute in range(4)
        ]

    @settings(max_examples=200, deadline=None)
    @given(
        rhythm=st.one_of(
            st.builds(lambda ms: {"every": timedelta(milliseconds=ms)}, st.integers(1000, 10**9)),
            st.builds(
                lambda cron, zone: {"cron": cron, "timezone": zone},
                st.sampled_from(["*/7 * * * *", "30 2 * * *", "0 0 1 1 *", "0 9 * * 1", "* * * * * */11"]),
                st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe"]),
            ),
        ),
        start=st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),
        count=st.integers(0, 30),
        part=st.floats(0, 0.999),
    )
    def test_the_latest_firing_is_the_last_of_those_one_after_another(
        self, rhythm: dict[str, Any], start: datetime, count: int, part: float
    ) -> None:
        one = schedule(**rhythm)
        firings = one.firings(start)
        first = latest = next(firings)
        for _ in range(count):
            latest = next(firings)
        following = next(firings)
        until = latest + (following - latest) * part
        assert one.latest(first, until) == latest

    def test_jitter_is_the_same_for_all_and_spread_over_its_time(self) -> None:
        one = schedule(cron="* * * * *", jitter=60)
        delays = [one.delay(DAY + timedelta(minutes=minute)) for minute in range(500)]
        assert delays == [schedule(cron="* * * * *", jitter=60.0).delay(DAY + timedelta(minutes=m)) for m in range(500)]
        assert min(delays) < timedelta(seconds=2)
        assert timedelta(seconds=58) < max(delays) < timedelta(seconds=60)


@pytest.fixture
def registry() -> Registry:
    registry = Registry("test", allow_local=True)

    @registry.task(timeout=40, priority=3, expires=60, tag="x", queue="reports")
    async def report(*, region: str = "eu") -> str:
        return region

    return registry


class TestDeclared:
    def test_its_options_go_before_its_tasks(self, registry: Registry) -> None:
        task = registry.get_task("report")
        plain = registry.schedule(task, cron="* * * * *")
        own = registry.schedule(
            task, id="own", cron="* * * * *", queue="slow", timeout=None, jitter=timedelta(minutes=1)
        )
        assert (plain.queue, plain.timeout) == ("reports", 40)
        assert (own.queue, own.timeout, own.jitter) == ("slow", None, 60)
        assert {config.name for config in registry.queue_configs()} == {"default", "reports", "slow"}

    @pytest.mark.parametrize("timeout", [0, -1, "30s", True])
    def test_a_timeout_that_cannot_work_is_refused(self, registry: Registry, timeout: Any) -> None:
        with pytest.raises(InvalidScheduleError, match="timeout is"):
            registry.schedule(registry.get_task("report"), cron="* * * * *", timeout=timeout)

    def test_kwargs_are_a_mapping(self, registry: Registry) -> None:
        with pytest.raises(InvalidScheduleError, match=r"kwargs is \['eu'\]; give a mapping"):
            registry.schedule(registry.get_task("report"), cron="* * * * *", kwargs=["eu"])  # type: ignore[arg-type]  # what is tested

    def test_an_unknown_option_is_named(self, registry: Registry) -> None:
        with pytest.raises(ConfigurationError, match="schedule 'report': unknown option 'crom'; known: cron"):
            registry.schedule(registry.get_task("report"), crom="* * * * *")  # type: ignore[misc]  # what is tested

    async def test_without_a_running_app_it_says_so(self, registry: Registry) -> None:
        with pytest.raises(NotAttachedError):
            await registry.schedules()


class TestOperated:
    async def test_the_whole_way_through_the_registry(self, registry: Registry) -> None:
        report = registry.get_task("report")
        registry.schedule(report, cron="0 0 1 1 *", timezone="Europe/Berlin")
        async with running(registry):
            state = await registry.change_schedule(
                "report", every=timedelta(hours=1), kwargs={"region": "us"}, by="ann"
            )
            assert state.override is not None
            assert state.override.by == "ann"
            handle = await registry.run_schedule("report", by="ann")
            assert await handle.result(timeout=10) == "us"
            assert (await registry.pause_schedule("report", by="ann")).next_runs == ()
            state = await registry.schedule_state("report")
            assert state.paused is not None
            assert state.last is not None
            assert (state.last.job_id, state.last.status) == (handle.id, "complete")
            await registry.resume_schedule("report")
            assert (await registry.reset_schedule("report")).schedule.cron == "0 0 1 1 *"
            added = await registry.add_schedule("often", task="report", every=timedelta(seconds=1), by="ann")
            assert added.origin == "runtime"
            assert [state.schedule.id for state in await registry.schedules()] == ["report", "often"]

            async def fired() -> bool:
                last = (await registry.schedule_state("often")).last
                return last is not None and last.status == "complete"

            await until(fired, seconds=20)
            await registry.remove_schedule("often")
            with pytest.raises(ScheduleNotFoundError, match="no schedule 'often'; known schedules: report"):
                await registry.schedule_state("often")

    async def test_what_cannot_be_added_is_refused(self, registry: Registry) -> None:
        registry.schedule(registry.get_task("report"), cron="0 0 1 1 *")
        other = Registry("other", allow_local=True)

        @other.task
        async def foreign() -> None: ...

        async with running(registry):
            for error, says, options in (
                (UnknownTaskError, "did you mean 'report'", {"task": "reprot", "cron": "* * * * *"}),
                (
                    UnknownQueueError,
                    "unknown queue 'nowhere'",
                    {"task": "report", "cron": "* * * * *", "queue": "nowhere"},
                ),
                (InvalidScheduleError, "does not belong to registry", {"task": foreign, "cron": "* * * * *"}),
                (
                    InvalidScheduleError,
                    "kwargs do not fit",
                    {"task": "report", "cron": "* * * * *", "kwargs": {"a": 1}},
                ),
                (InvalidScheduleError, "either cron or every", {"task": "report"}),
            ):
                with pytest.raises(error, match=says):
                    await registry.add_schedule("new", **options)  # type: ignore[arg-type]  # what is tested
            with pytest.raises(InvalidScheduleError, match="declared in code"):
                await registry.add_schedule("report", task="report", cron="* * * * *")
            with pytest.raises(InvalidScheduleError, match="nothing to change"):
                await registry.change_schedule("report")
            assert len(await registry.schedules()) == 1

    async def test_arguments_arrive_as_what_they_were(self, registry: Registry) -> None:
        seen: list[Any] = []

        @registry.task
        async def keep(*, at: datetime, number: int, part: float, names: dict[str, list[str]]) -> None:
            seen.append((at, number, part, names))

        given = {"at": DAY, "number": 2**70, "part": 0.1, "names": {"ü": ["\u2028", ""]}}
        registry.schedule(keep, cron="0 0 1 1 *", kwargs=given)
        async with running(registry):
            await (await registry.run_schedule("keep")).result(timeout=10)
        assert seen == [tuple(given.values())]

    async def test_it_is_operated_from_other_event_loops_too(self, registry: Registry) -> None:
        registry.schedule(registry.get_task("report"), cron="0 0 1 1 *")
        found: list[Any] = []
        async with running(registry):
            thread = threading.Thread(
                target=lambda: found.append(asyncio.run(registry.pause_schedule("report", by="a thread")))
            )
            thread.start()
            await asyncio.to_thread(thread.join)
            assert found[0].paused.by == "a thread"

    async def test_a_fired_job_has_the_options_of_its_task_and_knows_its_firing(self, registry: Registry) -> None:
        registry.schedule(registry.get_task("report"), every=timedelta(seconds=1), kwargs={"region": "us"})
        before = time.time()
        async with running(registry) as plugin:

            async def fired() -> bool:
                return (await registry.schedule_state("report")).last is not None

            await until(fired, seconds=20)
            last = (await registry.schedule_state("report")).last
            assert last is not None
            job = await plugin.get_queue("reports").job((last.job_id or "").rpartition(":")[2])
            assert job is not None
        assert (job.timeout, job.priority, job.meta["tag"]) == (40, 3, "x")
        assert before + 55 < job.meta["expires"] < time.time() + 61
        assert job.meta["schedule"]["id"] == "report"


def test_a_record_is_the_same_bytes_whoever_writes_it() -> None:
    data = b'{"declared":{"cron":"* * * * *","task":"report","timeout":null},"call":{"meta":{"a":1,"b":2}},"slot":5}'
    once = ScheduleRecord.decode(data).encode()
    assert ScheduleRecord.decode(once).encode() == once
    assert ScheduleRecord.decode(once) == ScheduleRecord.decode(data)
