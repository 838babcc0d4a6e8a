"""Counters by minute as brokers store them: one number for each task and field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from litestar_tasks.exceptions import ConfigurationError
from litestar_tasks.queues.operations import BOUNDS, Minute, TaskMinute

__all__ = ("KEPT", "Sums", "flatten", "minute_of", "span")

KEPT: Final = timedelta(days=1)
_COUNTS: Final = ("complete", "failed", "aborted", "retried")
_BUCKETS: Final = len(BOUNDS) + 1
_NAMES: Final = (*_COUNTS, *(f"{letter}{index}" for letter in "wr" for index in range(_BUCKETS)))
_COLUMNS: Final = {name: column for column, name in enumerate(_NAMES)}
_WAITED: Final = len(_COUNTS)
_RAN: Final = _WAITED + _BUCKETS
_DAY: Final = 1_440


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


class Sums:
    """Adds up what was counted, by so many minutes and by task.

    What an older or newer release counted otherwise is left out.

    Args:
        every: How many minutes make one.

    Raises:
        ConfigurationError: It is not from 1 to 1,440.
    """

    def __init__(self, every: int) -> None:
        if not 1 <= every <= _DAY:
            raise ConfigurationError(f"every is {every!r}; give a whole number of minutes from 1 to {_DAY:,}")
        self._every = every
        self._columns: dict[int, dict[str, list[int]]] = {}

    def add(self, minute: int, task: str, field: str, number: int) -> None:
        """Add a counter, as ``flatten`` names it."""
        if (column := _COLUMNS.get(field)) is None:
            return
        tasks = self._columns.setdefault(minute // self._every * self._every, {})
        if (columns := tasks.get(task)) is None:
            columns = tasks[task] = [0] * len(_COLUMNS)
        columns[column] += number

    def minutes(self) -> list[Minute]:
        """What came of it, oldest first."""
        return [
            Minute(
                datetime.fromtimestamp(minute * 60, UTC),
                {task: _in_columns(columns) for task, columns in tasks.items()},
            )
            for minute, tasks in sorted(self._columns.items())
        ]


def _in_columns(columns: list[int]) -> TaskMinute:
    complete, failed, aborted, retried = columns[:_WAITED]
    return TaskMinute(complete, failed, aborted, retried, columns[_WAITED:_RAN], columns[_RAN:])
