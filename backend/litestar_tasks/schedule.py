"""When a task recurs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from croniter import croniter
from croniter.croniter import CroniterError

from litestar_tasks.exceptions import InvalidScheduleError

__all__ = ("Schedule",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A recurring call of a task.

    Exactly one of ``cron`` and ``every`` is given. An expression that could never fire is refused here, where it
    is declared.

    Raises:
        InvalidScheduleError: A field that cannot work.
    """

    id: str
    """Names the schedule within its registry. The first one of a task is named like the task."""
    task: str
    """The task's name."""
    cron: str | None = None
    """A cron expression as croniter reads it: five or six fields, names, ``@daily``."""
    every: timedelta | None = None
    """The time between two firings, counted from 1970-01-01T00:00Z, so that every worker reckons the same moments."""
    timezone: str = "UTC"
    """The IANA time zone in which ``cron`` is read. Defaults to "UTC"."""
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    """The arguments of the call. Defaults to none."""

    def __post_init__(self) -> None:
        """Check every field by itself, and compute the first firing."""
        if (self.cron is None) == (self.every is None):
            raise InvalidScheduleError(f"schedule {self.id!r}: give either cron or every")
        try:
            ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError) as error:
            raise InvalidScheduleError(
                f"schedule {self.id!r}: unknown time zone {self.timezone!r}; give an IANA name such as 'Europe/Berlin'"
            ) from error
        if self.every is not None and self.every < timedelta(seconds=1):
            raise InvalidScheduleError(f"schedule {self.id!r}: every is {self.every}; give at least one second")
        if self.cron is not None:
            try:
                # croniter accepts "0 0 31 2 *" as well-formed; only looking for its next run finds that there is none.
                self.next_after(datetime.now(UTC))
            except (CroniterError, ValueError, TypeError, AttributeError) as error:
                raise InvalidScheduleError(
                    f"schedule {self.id!r}: cron expression {self.cron!r} cannot work: {error}"
                ) from error

    def next_after(self, moment: datetime) -> datetime:
        """The first firing after an aware moment, in UTC."""
        if self.every is not None:
            step = self.every.total_seconds()
            return datetime.fromtimestamp((moment.timestamp() // step + 1) * step, UTC)
        local = moment.astimezone(ZoneInfo(self.timezone))
        following: datetime = croniter(self.cron or "", local).get_next(datetime)
        return following.astimezone(UTC)

    def __str__(self) -> str:
        """As a person says it: the expression, and the zone where it is not UTC."""
        rhythm = self.cron if self.cron is not None else f"every {self.every}"
        return rhythm if self.timezone == "UTC" else f"{rhythm} ({self.timezone})"
