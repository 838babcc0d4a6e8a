"""What a worker counts of its attempts, and keeps until it can be written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from litestar_tasks import ConfigurationError
from litestar_tasks.exceptions import QueueUnavailableError
from litestar_tasks.queues.base import Settlement
from litestar_tasks.queues.memory import MemoryQueue
from litestar_tasks.queues.operations import BOUNDS, Minute
from litestar_tasks.queues.tallies import span
from litestar_tasks.worker.meter import Meter


class Flaky(MemoryQueue):
    """A queue that can be away."""

    away = False

    async def add_minutes(self, minutes: Sequence[Minute]) -> None:
        if self.away:
            raise QueueUnavailableError(self.label, "it is away")
        await super().add_minutes(minutes)


async def counted(queue: MemoryQueue) -> dict[str, int]:
    now = datetime.now(UTC)
    found: dict[str, int] = {}
    for minute in await queue.minutes(now - timedelta(hours=2), now):
        for name, task in minute.tasks.items():
            found[name] = found.get(name, 0) + task.complete
            assert sum(task.waited) == sum(task.ran)
    return found


def note(meter: Meter, task: str = "noop", *, ago: int = 0, how: Settlement = Settlement.COMPLETE) -> None:
    ended = int(time.time() * 1000) - 60_000 * ago
    meter.count(task, how, ready=ended, started=ended, ended=ended)


@pytest.mark.parametrize("field", ["waited", "ran"])
async def test_a_duration_belongs_to_the_first_bucket_that_holds_it(field: str) -> None:
    queue, now = MemoryQueue(), int(time.time() * 1000)
    meter = Meter(queue)
    lengths = [bound / timedelta(milliseconds=1) + more for bound in BOUNDS for more in (0, 0.1)]
    for length in (*lengths, -5, 0, 1e12):
        if field == "waited":
            meter.count("noop", Settlement.COMPLETE, ready=now - length, started=now, ended=now)
        else:
            meter.count("noop", Settlement.COMPLETE, ready=0, started=now - length, ended=now)
    await meter.write()
    (minute,) = await queue.minutes(datetime.now(UTC) - timedelta(minutes=1), datetime.now(UTC))
    assert getattr(minute.tasks["noop"], field) == [3, *[2] * (len(BOUNDS) - 1), 2]


async def test_what_cannot_be_written_is_written_later() -> None:
    queue = Flaky()
    meter = Meter(queue)
    queue.away = True
    for _ in range(3):
        note(meter)
        await meter.write()
    queue.away = False
    note(meter)
    note(meter, "other")
    assert await counted(queue) == {}
    await meter.write()
    await meter.write()
    assert await counted(queue) == {"noop": 4, "other": 1}


async def test_what_is_kept_while_the_broker_is_away_is_bounded() -> None:
    queue = Flaky()
    queue.away = True
    meter = Meter(queue)
    for ago in range(90, -1, -1):
        note(meter, ago=ago)
        await meter.write()
    queue.away = False
    await meter.write()
    assert await counted(queue) == {"noop": 60}


async def test_what_is_no_attempt_is_not_counted() -> None:
    queue = MemoryQueue()
    meter = Meter(queue)
    for settlement in (Settlement.SNOOZE, Settlement.HAND_BACK):
        note(meter, how=settlement)
    await meter.close()
    assert await counted(queue) == {}


async def test_the_last_counts_are_written_at_the_end() -> None:
    queue = MemoryQueue()
    meter = Meter(queue)
    meter.start()
    note(meter)
    await meter.close()
    assert await counted(queue) == {"noop": 1}


def test_a_span_is_of_whole_minutes_of_the_last_day() -> None:
    now = datetime.now(UTC)
    assert len(span(now, now)) == 1
    assert len(span(now - timedelta(minutes=3), now)) == 4
    assert len(span(now - timedelta(days=400), now)) == 24 * 60 + 1
    with pytest.raises(ConfigurationError, match="no time zone"):
        span(datetime(2025, 1, 1), now)
