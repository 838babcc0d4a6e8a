"""What the dashboard makes of a queue's minutes: figures, columns, lines, and how little it asks for them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from litestar_tasks.dashboard import charts, history, words
from litestar_tasks.dashboard.history import History
from litestar_tasks.dashboard.stats import Slice, Tally, buckets, by_task, slice_of, total
from litestar_tasks.moments import maybe_moment
from litestar_tasks.queues.memory import MemoryQueue
from litestar_tasks.queues.operations import BOUNDS, Minute, TaskMinute


def minute(back: int, task: str = "a", **counts: int) -> Minute:
    return Minute(
        datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=back), {task: TaskMinute(**counts)}
    )


class Clock:
    """Tells ``history`` what time it is."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    def now(self, zone: object) -> datetime:
        return self.moment


def slices(*minutes: Minute) -> list[Slice]:
    return [slice_of(one.start, one.tasks) for one in minutes]


def test_half_of_the_attempts_took_no_longer_than_the_median() -> None:
    tally = Tally()
    tally.ran[4], tally.ran[10] = 50, 50  # 8 to 16 ms, and 0.5 to 1 s
    assert tally.running(0.5) == pytest.approx(0.016)
    assert tally.running(0.75) == pytest.approx(0.768)
    assert tally.running(1.0) == pytest.approx(1.024)
    assert Tally().running(0.5) is None


def test_what_took_longer_than_can_be_told_is_said_to_take_that_long() -> None:
    tally = Tally()
    tally.waited[-1] = 3
    assert tally.waiting(0.5) == BOUNDS[-1].total_seconds()


def test_an_error_is_an_attempt_that_failed_whether_it_is_retried_or_not() -> None:
    tally = total(slices(minute(0, complete=6, failed=1, retried=2, aborted=1)))
    assert (tally.attempts, tally.errors, tally.error_rate) == (10, 3, 0.3)
    assert Tally().error_rate is None


def test_an_hour_has_a_column_for_each_minute_and_a_day_one_for_each_quarter_of_an_hour() -> None:
    hour = buckets(slices(minute(0, complete=1), minute(59, complete=2), minute(60, complete=4)), "hour")
    assert [(at, one.tally.complete) for at, one in enumerate(hour) if one.tally.attempts] == [(0, 2), (59, 1)]
    day = buckets(slices(minute(0, complete=1), minute(23 * 60, complete=2)), "day", task="a")
    assert len(day) == 96
    assert day[-1].tally.complete == 1
    assert sum(one.tally.complete for one in day) == 3
    assert not any(one.tally.attempts for one in buckets(slices(minute(0, complete=1)), "day", task="b"))


def test_tasks_are_added_up_each_by_itself() -> None:
    parts = [minute(0, "a", complete=1), minute(1, "b", failed=1), minute(2, "a", complete=2)]
    found = by_task([{"a": Tally(complete=10), "c": Tally(complete=5)}, *(part.tasks for part in parts)])
    counts = {name: (tally.complete, tally.failed) for name, tally in found.items()}
    assert counts == {
        "a": (13, 0),
        "b": (0, 1),
        "c": (5, 0),
    }


def test_columns_stand_on_each_other_and_fit_into_the_chart() -> None:
    chart = charts.columns(buckets(slices(minute(0, complete=90, failed=10), minute(1, complete=1)), "hour"))
    latest = chart.columns[-1]
    assert (chart.top, latest.good, latest.bad) == (100, 108, 12)
    assert chart.columns[-2].good == 1.5, "little is still seen"
    assert charts.columns(buckets([], "hour")).empty


def test_lines_break_where_nothing_is_known() -> None:
    one, other = minute(0), minute(5)
    for counted in (one.tasks["a"], other.tasks["a"]):
        counted.complete, counted.ran[7] = 1, 1
    chart = charts.lines(buckets(slices(one, other), "hour"), Tally.running)
    assert [len(line.stretches) for line in chart.lines] == [2, 2]


async def test_the_last_day_is_read_once_and_then_only_what_may_have_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, asked = MemoryQueue(), []
    await queue.add_minutes([minute(back, complete=1) for back in range(0, 1440, 7)])
    known = queue.minutes

    async def counted(since: datetime, until: datetime, *, every: int = 1) -> list[Minute]:
        asked.append(until - since)
        return await known(since, until, every=every)

    monkeypatch.setattr(queue, "minutes", counted)
    monkeypatch.setattr(history, "_BUDGET", 60)
    monkeypatch.setattr(history, "_FRESH", -1)
    day = History()
    past = await day.past(queue, "day")
    assert past.complete
    assert total(past.slices).complete >= 205
    assert sum(asked, timedelta()) < timedelta(days=1, minutes=15), "quarters of an hour are whole"
    assert len(asked) <= 40
    asked.clear()
    await queue.add_minutes([minute(0, complete=5)])
    again = await day.past(queue, "day")
    assert len(asked) <= 2
    assert total(again.slices).complete == total(past.slices).complete + 5
    assert (await day.tasks(queue))["a"].complete == total(again.slices).complete
    hour = await day.past(queue, "hour")
    assert total(hour.slices).complete == 5 + 9
    assert len(asked) <= 6


async def test_who_looks_again_is_told_what_workers_have_written_meanwhile_however_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue, day, now = MemoryQueue(), History(), datetime.now(UTC)
    monkeypatch.setattr(history, "_BUDGET", 60)
    monkeypatch.setattr(history, "_FRESH", -1)
    clock = Clock(now)
    monkeypatch.setattr(history, "datetime", clock)

    async def write(back: int, complete: int) -> None:
        start = now.replace(second=0, microsecond=0) - timedelta(minutes=back)
        await queue.add_minutes([Minute(start, {"a": TaskMinute(complete=complete)})])

    async def seen() -> int:
        return total((await day.past(queue, "hour")).slices).complete

    for back in range(3):
        await write(back, 1)
    assert await seen() == 3
    await write(0, 10)
    assert await seen() == 13
    await write(2, 100)
    assert await seen() == 13, "that minute was over when it was read"
    clock.moment = now + timedelta(minutes=6)
    assert await seen() == 113


async def test_what_cannot_be_read_in_no_time_is_read_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = MemoryQueue()
    await queue.add_minutes([minute(back, complete=1) for back in range(0, 1440, 10)])
    monkeypatch.setattr(history, "_BUDGET", -1)
    day = History()
    assert not day.behind
    assert not (await day.past(queue, "day")).complete
    assert day.behind
    monkeypatch.setattr(history, "_ROUND", 60)
    await asyncio.gather(day.catch_up(queue), day.catch_up(queue))
    assert not day.behind
    past = await day.past(queue, "day")
    assert past.complete
    assert total(past.slices).complete >= 143


async def test_who_asks_for_all_of_it_waits_for_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = MemoryQueue()
    await queue.add_minutes([minute(back, complete=1) for back in range(0, 1440, 10)])
    monkeypatch.setattr(history, "_BUDGET", -1)
    monkeypatch.setattr(history, "_ROUND", 0.005)
    assert total((await History().whole(queue, "day")).slices).complete >= 143


async def test_what_cannot_be_read_in_no_time_is_read_by_who_looks_next(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = MemoryQueue()
    await queue.add_minutes([minute(back, complete=1) for back in range(0, 1440, 10)])
    monkeypatch.setattr(history, "_BUDGET", -1)
    day = History()
    assert not (await day.past(queue, "day")).complete
    monkeypatch.setattr(history, "_BUDGET", 60)
    assert (await day.past(queue, "day")).complete


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "–"), (0.0, "0 s"), (0.0004, "<1 ms"), (0.25, "250 ms"), (1.44, "1.4 s"), (12, "12 s"), (90, "1 min 30 s"),
     (1_800, "30 min"), (7_500, "2 h 5 min"), (604_800, "7 days")],
)  # fmt: skip
def test_durations_are_said_as_people_say_them(seconds: float | None, said: str) -> None:
    assert words.duration(seconds) == said


def test_moments_are_said_from_now() -> None:
    now = datetime.now(UTC)
    said = [words.ago(now + timedelta(seconds=seconds)) for seconds in (-0.2, -40.2, -200, 7_300, -400_000)]
    assert said == ["now", "40 s ago", "3 min ago", "in 2 h", "5 days ago"]
    shares = (None, 0.0, 0.0001, 0.034, 0.5)
    assert [words.percent(share) for share in shares] == ["–", "0 %", "0.1 %", "3.4 %", "50 %"]
    assert maybe_moment(0) is maybe_moment(1e300) is maybe_moment(float("nan")) is None
