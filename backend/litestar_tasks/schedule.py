"""When a task recurs, as it is declared, and as it stands."""

from __future__ import annotations

import hashlib
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias, TypedDict, get_args
from zoneinfo import ZoneInfo

from litestar_tasks.cron import Cron
from litestar_tasks.durations import seconds
from litestar_tasks.exceptions import ConfigurationError, InvalidScheduleError

if TYPE_CHECKING:
    from litestar_tasks.job import JobStatus

__all__ = (
    "Firing",
    "Mark",
    "Misfire",
    "Overlap",
    "RecurrenceOptions",
    "Schedule",
    "ScheduleBook",
    "ScheduleOptions",
    "ScheduleState",
    "schedule_fields",
)

Misfire: TypeAlias = Literal["once", "skip", "all"]
Overlap: TypeAlias = Literal["skip", "allow", "queue"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_NEXT: Final = 5


class RecurrenceOptions(TypedDict, total=False):
    """When a task recurs."""

    cron: str
    """A cron expression as croniter reads it: five fields, or six with seconds last. Either this or ``every``."""
    every: timedelta
    """The time between two firings, at least a second. It counts from ``start``, or from 1970-01-01T00:00Z. Either this
    or ``cron``."""
    timezone: str
    """The IANA time zone in which ``cron`` is read. Defaults to "UTC"."""
    kwargs: Mapping[str, Any]
    """The arguments of the recurring call; calls by hand give their own. Defaults to none."""
    misfire: Misfire
    """What becomes of firings that no worker got to within 10 s, because none ran or the broker was away: "once" makes
    up for all of them with one job, "skip" with none, "all" with a job each, for the latest 100. Defaults to "once"."""
    overlap: Overlap
    """What becomes of a firing while the job of the last one has not ended: "skip" leaves it out, "allow" enqueues it,
    "queue" lets it wait for the end, with up to 100 firings waiting. Defaults to "skip"."""
    jitter: float | timedelta
    """The longest random delay of a firing, so that many do not come at once. All workers compute the same delay.
    Defaults to 0."""
    start: datetime
    """The aware datetime before which it does not fire. Defaults to none."""
    end: datetime
    """The aware datetime after which it does not fire any more. Defaults to none."""


class ScheduleOptions(RecurrenceOptions, total=False):
    """What ``registry.schedule(…)`` and ``registry.add_schedule(…)`` take."""

    queue: str
    """The queue the job goes to. Defaults to the task's."""
    timeout: float | timedelta | None
    """How long one attempt may take; None for no limit. Defaults to the task's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A recurring call of a task.

    Exactly one of ``cron`` and ``every`` is given. What could never fire is refused here, where it is declared.

    Raises:
        InvalidScheduleError: A field that cannot work.
    """

    id: str
    """Names the schedule within its registry. The first one of a task is named like the task."""
    task: str
    """The task's name."""
    cron: str | None = None
    """See ``ScheduleOptions``, as for the others."""
    every: timedelta | None = None
    timezone: str = "UTC"
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    queue: str = "default"
    """The label of the queue that its jobs go to."""
    timeout: float | None = 300.0
    """Seconds that an attempt of its jobs may take; None for no limit."""
    misfire: Misfire = "once"
    overlap: Overlap = "skip"
    jitter: float = 0.0
    """Seconds."""
    start: datetime | None = None
    end: datetime | None = None

    def __post_init__(self) -> None:
        """Check every field by itself, and what they come to together."""
        given: Any = self.id
        if not isinstance(given, str) or not 0 < len(given) <= 200 or not given.isprintable():
            raise InvalidScheduleError(f"schedule {given!r}: its id is no name; give 1 to 200 printable characters")
        if (self.cron is None) == (self.every is None):
            raise self._invalid("give either cron or every")
        self._check_choice("misfire", self.misfire, get_args(Misfire))
        self._check_choice("overlap", self.overlap, get_args(Overlap))
        self._check_zone()
        self._check_moments()
        jitter: Any = self.jitter
        if isinstance(jitter, bool) or not isinstance(jitter, int | float) or not 0 <= jitter <= 86_400:
            raise self._invalid(f"jitter is {jitter!r}; give seconds or a timedelta, at most a day")
        if self.every is not None:
            self._check_every(self.every)
        else:
            self._check_cron()
        if self.start is not None and self.end is not None and self.next_after(self.start - _MILLISECOND) is None:
            raise self._invalid(f"it never fires from start {self.start} to end {self.end}; give a longer time")

    def next_after(self, moment: datetime) -> datetime | None:
        """The first firing after an aware moment, in UTC, without its jitter; None after the last one."""
        start = self.start.astimezone(UTC) if self.start is not None else None
        if start is not None and moment < start:
            moment = start - _MILLISECOND
        if self.every is not None:
            first = start or _EPOCH
            found = first + ((moment - first) // self.every + 1) * self.every
        else:
            found = Cron(self.cron or "", self.timezone).next_after(moment)
        return found if self.end is None or found <= self.end else None

    def firings(self, after: datetime) -> Iterator[datetime]:
        """The firings after an aware moment, in UTC."""
        moment = self.next_after(after)
        while moment is not None:
            yield moment
            moment = self.next_after(moment)

    def latest(self, first: datetime, until: datetime) -> datetime:
        """The latest firing up to a moment, with as little effort for a year as for a day.

        Args:
            first: A firing before that.
            until: The moment.
        """
        span = timedelta(seconds=1)
        while until - span > first and ((found := self.next_after(until - span)) is None or found > until):
            span *= 2
        low, high = max(first, until - span), until
        while (found := self.next_after(low)) is not None and found <= until:
            first = low = found
            while high - low > timedelta(seconds=2):
                middle = low + (high - low) / 2
                if (found := self.next_after(middle)) is not None and found <= until:
                    first = low = found
                else:
                    high = middle
        return first

    def delay(self, firing: datetime) -> timedelta:
        """How much later than its moment a firing comes, by ``jitter``: for all who ask the same."""
        if not self.jitter:
            return timedelta()
        digest = hashlib.blake2b(f"{self.id}@{firing.timestamp():.3f}".encode(), digest_size=6).digest()
        return timedelta(milliseconds=int(int.from_bytes(digest, "big") / 2**48 * self.jitter * 1000))

    def __str__(self) -> str:
        """As a person says it: the expression, and the zone where it is not UTC."""
        rhythm = self.cron if self.cron is not None else f"every {self.every}"
        return rhythm if self.timezone == "UTC" else f"{rhythm} ({self.timezone})"

    def _check_zone(self) -> None:
        try:
            ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError, TypeError) as error:
            raise self._invalid(
                f"unknown time zone {self.timezone!r}; give an IANA name such as 'Europe/Berlin'"
            ) from error

    def _check_moments(self) -> None:
        moments: Mapping[str, Any] = {"start": self.start, "end": self.end}
        for name, moment in moments.items():
            if moment is not None and (not isinstance(moment, datetime) or moment.tzinfo is None):
                raise self._invalid(f"{name} is {moment!r}; give an aware datetime, as with tzinfo=UTC")
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise self._invalid(f"end {self.end} is not after start {self.start}; give a later one")

    def _check_every(self, every: Any) -> None:
        if not isinstance(every, timedelta):
            raise self._invalid(f"every is {every!r}; give a timedelta")
        if every < timedelta(seconds=1):
            raise self._invalid(f"every is {every}; give at least one second")
        if every % _MILLISECOND:
            raise self._invalid(f"every is {every}; give whole milliseconds")

    def _check_cron(self) -> None:
        if not isinstance(self.cron, str):
            raise self._invalid(f"cron is {self.cron!r}; give a text")
        try:
            Cron(self.cron, self.timezone)
        except ValueError as error:
            raise self._invalid(f"cron expression {self.cron!r} cannot work: {error}") from error

    def _check_choice(self, name: str, value: object, known: tuple[str, ...]) -> None:
        if value not in known:
            raise self._invalid(f"{name} is {value!r}; give one of {', '.join(map(repr, known))}")

    def _invalid(self, what: str) -> InvalidScheduleError:
        return InvalidScheduleError(f"schedule {self.id!r}: {what}")


@dataclass(frozen=True, slots=True)
class Mark:
    """Who did something, and when."""

    by: str | None
    """Who, as the caller said it; None where nobody did."""
    at: datetime
    """When, in UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """What became of a firing."""

    moment: datetime
    """The moment that it was for, in UTC; of a run by hand, that of the call."""
    job_id: str | None = None
    """The id of its job; None where it was skipped."""
    status: JobStatus | None = None
    """Where that job stands; None where its record is gone, or it was skipped."""
    skipped: str | None = None
    """Why it was skipped; None where it was not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleState:
    """How a schedule stands."""

    schedule: Schedule
    """The schedule that is in force: the declared one, with what was changed since. Its ``kwargs`` are in JSON's own
    types."""
    declared: Schedule | None
    """As the code says, or as it was added; None where the code's release is not known here."""
    origin: Literal["code", "runtime"]
    """Whether it is declared in code or was added while the app ran."""
    override: Mark | None = None
    """Who changed it, and when; None where it is as declared."""
    paused: Mark | None = None
    """Who paused it, and when; None where it fires."""
    next_run: datetime | None = None
    """The next firing, in UTC, without jitter; None while it is paused or after its end."""
    last: Firing | None = None
    """The last firing; None before the first one."""
    skips: int = 0
    """How often a firing was skipped, because of the one before or as it was missed; a gap counts once."""

    @property
    def next_runs(self) -> tuple[datetime, ...]:
        """The next firing and the four after it; reckoned when it is asked for, which a long list need not be."""
        if self.next_run is None:
            return ()
        return (self.next_run, *islice(self.schedule.firings(self.next_run), _NEXT - 1))


class ScheduleBook(Protocol):
    """What a registry needs of the broker's schedules."""

    def states(self) -> Coroutine[Any, Any, list[ScheduleState]]:
        """See ``Registry.schedules``."""
        ...

    def state(self, id: str) -> Coroutine[Any, Any, ScheduleState]:
        """See ``Registry.schedule_state``."""
        ...

    def pause(self, id: str, by: str | None) -> Coroutine[Any, Any, ScheduleState]:
        """See ``Registry.pause_schedule``."""
        ...

    def resume(self, id: str, by: str | None) -> Coroutine[Any, Any, ScheduleState]:
        """See ``Registry.resume_schedule``."""
        ...

    def change(self, id: str, fields: Mapping[str, Any], by: str | None) -> Coroutine[Any, Any, ScheduleState]:
        """See ``Registry.change_schedule``."""
        ...

    def reset(self, id: str, by: str | None) -> Coroutine[Any, Any, ScheduleState]:
        """See ``Registry.reset_schedule``."""
        ...

    def add(self, schedule: Schedule, by: str | None) -> Coroutine[Any, Any, ScheduleState]:
        """See ``Registry.add_schedule``."""
        ...

    def remove(self, id: str, by: str | None) -> Coroutine[Any, Any, None]:
        """See ``Registry.remove_schedule``."""
        ...

    def run(self, id: str, by: str | None) -> Coroutine[Any, Any, tuple[str, str, bool]]:
        """See ``Registry.run_schedule``; the queue's label, the job's key, and whether it was there already."""
        ...


def schedule_fields(options: Mapping[str, Any], *, subject: str) -> dict[str, Any]:
    """Options of a schedule as its fields.

    Raises:
        ConfigurationError: An unknown option.
        InvalidScheduleError: Its kwargs are no arguments.
    """
    known = ScheduleOptions.__annotations__.keys() | RecurrenceOptions.__annotations__.keys()
    if unknown := options.keys() - known:
        raise ConfigurationError(f"{subject}: unknown option {min(unknown)!r}; known: {', '.join(sorted(known))}")
    fields: dict[str, Any] = {name: value for name, value in options.items() if value is not None or name == "timeout"}
    if isinstance(fields.get("jitter"), timedelta):
        fields["jitter"] = seconds(fields["jitter"])
    if "kwargs" in fields and not isinstance(fields["kwargs"], Mapping):
        raise InvalidScheduleError(f"{subject}: kwargs is {fields['kwargs']!r}; give a mapping of arguments by name")
    return {**fields, "kwargs": dict(fields.get("kwargs", {}))}
