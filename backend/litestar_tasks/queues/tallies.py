"""Counters by minute as brokers store them: one number for each task and field."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from litestar_tasks.exceptions import ConfigurationError
from litestar_tasks.queues.operations import BOUNDS, Minute, TaskMinute

__all__ = ("KEPT", "flatten", "minute_of", "restore", "span")

KEPT: Final = timedelta(days=1)
_COUNTS: Final = ("complete", "failed", "aborted", "retried")
_LAST: Final = len(BOUNDS)


def minute_of(moment: datetime) -> int:
    """The minute that a moment lies in, counted from the epoch.

    Raises:
        ConfigurationError: It has no time zone.
    """
    if moment.tzinfo is None:
        raise ConfigurationError(f"{moment} has no time zone; use datetime.now(UTC)")
    return int(moment.timestamp() // 60)


def span(since: datetime, until: datetime) -> range:
    """The minutes of a span that can still be known.

    Raises:
        ConfigurationError: One of the moments has no time zone.
    """
    now = datetime.now(UTC)
    first, last = minute_of(since), minute_of(until)
    return range(max(first, minute_of(now - KEPT)), min(last, minute_of(now + KEPT)) + 1)


def flatten(minutes: Sequence[Minute]) -> Iterator[tuple[int, str, str, int]]:
    """Minutes as minute, task, field and number; fields are named like ``TaskMinute``'s, those of buckets w0, r0, …."""
    for minute in minutes:
        number = minute_of(minute.start)
        for task, counted in minute.tasks.items():
            for field in _COUNTS:
                if value := getattr(counted, field):
                    yield number, task, field, value
            for letter, buckets in (("w", counted.waited), ("r", counted.ran)):
                for index, value in enumerate(buckets):
                    if value:
                        yield number, task, f"{letter}{index}", value


def restore(minute: int, fields: Iterable[tuple[str, str, int]]) -> Minute:
    """A minute out of its tasks' fields; what an older or newer release counted otherwise is left out."""
    tasks: dict[str, TaskMinute] = {}
    for task, field, value in fields:
        if (counted := tasks.get(task)) is None:
            counted = tasks[task] = TaskMinute()
        if field in _COUNTS:
            setattr(counted, field, getattr(counted, field) + value)
            continue
        buckets = {"w": counted.waited, "r": counted.ran}.get(field[:1])
        if buckets is not None and field[1:].isdecimal() and int(field[1:]) <= _LAST:
            buckets[int(field[1:])] += value
    return Minute(datetime.fromtimestamp(minute * 60, UTC), tasks)
