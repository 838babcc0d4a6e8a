"""When cron expressions match: in a time zone, through its transitions.

croniter reads the expressions, and finds their matches on a calendar without transitions. What a match means where the
clocks are set is decided here.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from threading import Lock
from typing import Final
from zoneinfo import ZoneInfo

from croniter import croniter
from croniter.croniter import CroniterError

__all__ = ("Cron",)

_FIELDS: Final = ("minute", "hour", "day of the month", "month", "day of the week", "second")
_SPANS: Final = (60, 24, 31, 12, 7, 60)
_SECOND: Final = timedelta(seconds=1)
_DAY: Final = timedelta(days=1)
_one_at_a_time: Final = Lock()


class Cron:
    """A cron expression in a time zone.

    An expression that names hours goes by the day: a local time that does not exist comes at the end of the gap, and
    one that comes twice counts the first time. One that holds for every hour goes by the clock: it comes whenever the
    clock shows a match, so that its rhythm stays the same through a transition.

    Args:
        expression: Five fields, or six with seconds last, names of months and days, or ``@daily`` and its like.
        zone: An IANA name.

    Raises:
        ValueError: It is malformed, or never matches; says which field is at fault.
    """

    __slots__ = ("_by_the_clock", "_expression", "_zone")

    def __init__(self, expression: str, zone: str) -> None:
        self._zone = ZoneInfo(zone)
        self._expression = expression
        _, self._by_the_clock = _read(expression)

    def next_after(self, moment: datetime) -> datetime:
        """The first match after an aware moment, in UTC."""
        start = moment.astimezone(UTC).replace(microsecond=0)
        return self._next_by_the_clock(start) if self._by_the_clock else self._next_by_the_day(start)

    def _next_by_the_day(self, moment: datetime) -> datetime:
        match = moment.astimezone(self._zone).replace(tzinfo=None)
        while True:
            match = _match_after(self._expression, match)
            if (instant := self._instant(match)) > moment:
                return instant  # an earlier one was the first of two passes, or came at the end of a gap

    def _next_by_the_clock(self, moment: datetime) -> datetime:
        local, since = moment.astimezone(self._zone).replace(tzinfo=None), moment
        while True:
            offset = self._offset(since)
            instant = _match_after(self._expression, local).replace(tzinfo=UTC) - offset
            change = self._first_change(since, instant)
            if change is None:
                return instant
            # From here on the clock shows other times, perhaps again: what it shows first counts, too.
            local, since = change.astimezone(self._zone).replace(tzinfo=None) - _SECOND, change

    def _instant(self, local: datetime) -> datetime:
        """The moment at which the clock shows a time first; where it never does, that of its jump."""
        first = local.replace(tzinfo=self._zone, fold=0)
        instant = first.astimezone(UTC)
        if instant.astimezone(self._zone).replace(tzinfo=None) == local:
            return instant
        return self._change(first.replace(fold=1).astimezone(UTC), instant)

    def _first_change(self, low: datetime, high: datetime) -> datetime | None:
        """The first moment after ``low`` and up to ``high`` at which the clock is set."""
        offset = self._offset(low)
        while low < high:
            after = min(low + _DAY, high)
            if self._offset(after) != offset:
                return self._change(low, after)
            low = after
        return None

    def _change(self, low: datetime, high: datetime) -> datetime:
        offset = self._offset(low)
        while high - low > _SECOND:
            middle = low + timedelta(seconds=(high - low) // _SECOND // 2)
            low, high = (middle, high) if self._offset(middle) == offset else (low, middle)
        return high

    def _offset(self, instant: datetime) -> timedelta:
        return instant.astimezone(self._zone).utcoffset() or timedelta()


@lru_cache(maxsize=4096)
def _read(expression: str) -> tuple[croniter, bool]:
    fields = expression.split()
    if not expression.lstrip().startswith("@"):
        if len(fields) not in (5, 6):
            raise ValueError(f"it has {len(fields)} fields; give five, or six with the seconds last")
        for number, field in enumerate(fields):
            _check(number, field, len(fields))
    try:
        calendar = croniter(expression, datetime(2024, 1, 1))  # noqa: DTZ001  # a calendar has no zone
    except (CroniterError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{error}; give five fields, six with the seconds last, or @daily and its like") from error
    try:
        calendar.get_next(datetime, update_current=False)
    except CroniterError as error:
        day, month = (fields[2], fields[3]) if len(fields) > 1 else ("", "")
        raise ValueError(
            f"it never matches: there is no day of the month {day!r} in month {month!r}; give a day that exists"
        ) from error
    hours = set(calendar.expanded[1])
    return calendar, "*" in hours or len(hours) == 24


@lru_cache(maxsize=4096)
def _match_after(expression: str, local: datetime) -> datetime:
    """The first match on a calendar without transitions; kept, as many schedules have the same few expressions."""
    calendar, _ = _read(expression)
    with _one_at_a_time:  # croniter keeps the start in itself, and equal expressions share one
        found: datetime = calendar.get_next(datetime, start_time=local, update_current=False)
    return found


def _check(number: int, field: str, count: int) -> None:
    """Refuse a field that cannot be alone, so that it can be named."""
    what = f"its {_FIELDS[number]} {field!r}"
    if re.match(r"[hr](\(|/|$)", field, re.IGNORECASE):
        raise ValueError(f"{what} is random, so that each process would reckon another time; use jitter")
    for step in re.findall(r"/(\d+)", field):
        if int(step) >= max(_SPANS[number], 2) and int(step) != _SPANS[number]:
            raise ValueError(f"{what} steps by {step}, and there are {_SPANS[number]}")
    alone = " ".join(field if index == number else "*" for index in range(count))
    try:
        croniter.expand(alone)
    except (CroniterError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{what} is none: {str(error).replace(alone, field)}") from error
