"""A schedule as it is stored, and what happens to it at its moment."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, Literal

import msgspec

from litestar_tasks.exceptions import InvalidScheduleError
from litestar_tasks.job import JobSpec
from litestar_tasks.moments import milliseconds, moment_of
from litestar_tasks.schedule import Schedule
from litestar_tasks.uniqueness import Lock

__all__ = ("CallOptions", "Last", "Note", "Override", "ScheduleRecord", "fields_of")

_RHYTHM: Final = ("cron", "every", "timezone", "start", "end")
_MISSED: Final = 10_000
"""How late (ms) a firing may be without counting as missed."""
_SET_BACK: Final = 60_000
"""A clock that is further behind the last firing than this (ms) was set back, and does not only differ."""
_MOST: Final = 100
"""How many firings are made up for, or wait, at the most."""
_HELD: Final = 1_000
"""Time (ms) between two looks at the job that a firing waits for."""


class Note(msgspec.Struct, frozen=True):
    """Who did something, and when."""

    by: str | None
    at: int


class Override(msgspec.Struct, frozen=True):
    """What was changed at run time."""

    fields: dict[str, Any]
    by: str | None
    at: int


class Last(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last firing."""

    slot: int
    job: str | None = None
    skipped: str | None = None


class CallOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is stored of each job beside what the schedule itself says: what its task says."""

    max_attempts: int = 1
    ttl: int = 86_400
    priority: int = 0
    meta: dict[str, Any] = {}
    expires: float | None = None
    lock: dict[str, Any] | None = None
    group: str | None = None
    delay: float = 0
    put_off: float = 0


class ScheduleRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that is known of a schedule. Moments are ms since the epoch; a firing is named by its slot.

    It says what its jobs are, so that each worker of its queue can fire it, also one of a release without its task.
    """

    declared: dict[str, Any]
    """The schedule as it was declared or added, as ``fields_of`` writes it."""
    call: CallOptions
    origin: Literal["code", "runtime"] = "code"
    override: Override | None = None
    paused: Note | None = None
    slot: int | None = None
    """The next firing; None while there is none."""
    done: int | None = None
    """The last slot that was fired or skipped."""
    job: str | None = None
    """The key of the last job."""
    last: Last | None = None
    skips: int = 0
    held: bool = False
    """Whether its firings wait for the end of the last job."""

    @classmethod
    def decode(cls, data: bytes) -> ScheduleRecord:
        """A record from its document.

        Raises:
            ValueError: It is none.
        """
        return _decoder.decode(data)

    def encode(self) -> bytes:
        """The document."""
        return _encoder.encode(self)

    def replace(self, **changed: Any) -> ScheduleRecord:
        """The same with other values."""
        return msgspec.structs.replace(self, **changed)

    def schedule(self, id: str, *, declared: bool = False) -> Schedule:
        """The schedule that is in force, or the declared one.

        Raises:
            InvalidScheduleError: This release cannot read it.
        """
        fields = self.declared if declared or self.override is None else {**self.declared, **self.override.fields}
        try:
            return _schedule_of(id, fields)
        except (TypeError, ValueError, LookupError, OverflowError) as error:
            raise InvalidScheduleError(f"schedule {id!r}: its record cannot be read here: {error}") from error

    def due(self, schedule: Schedule) -> int | None:
        """When it is due, with its jitter."""
        if self.slot is None:
            return None
        return self.slot + milliseconds(schedule.delay(moment_of(self.slot)))

    def reckoned(self, schedule: Schedule, now: int) -> ScheduleRecord:
        """With the next slot as of now. What has been fired is not fired again, unless the clock was set back."""
        if self.paused is not None:
            return self.replace(slot=None, held=False)
        base = now
        if self.done is not None and self.done - now <= _SET_BACK:
            base = max(now, self.done)
        return self.replace(slot=_slot(schedule.next_after(moment_of(base))), held=False)

    def in_new_rhythm(self, before: Schedule, after: Schedule, now: int) -> ScheduleRecord:
        """With the next slot of another schedule; a firing that is due stays so where only the rest has changed."""
        same = all(getattr(before, name) == getattr(after, name) for name in _RHYTHM)
        if same and self.slot is not None and self.slot <= now and self.paused is None:
            return self
        return self.reckoned(after, now)

    def next_due(self, schedule: Schedule, now: int) -> int | None:
        """When it is to be looked at: at once, where its firings wait for a job."""
        return now if self.held else self.due(schedule)

    def fire(self, schedule: Schedule, now: int, *, busy: bool) -> tuple[ScheduleRecord, int | None, int | None]:
        """What becomes of it once it is due.

        Args:
            schedule: The schedule in force.
            now: The broker's clock.
            busy: Whether its last job has not ended.

        Returns:
            The record that follows, when that is due, and the slot for which a job is enqueued, if one is.
        """
        slot, record = self.slot, self
        if slot is None:
            return self, None, None
        late = now - (self.due(schedule) or 0) > _MISSED and not self.held
        if late and schedule.misfire == "skip":
            return _with_due(self._skipped(slot, "missed").reckoned(schedule, now), schedule)
        if late and schedule.misfire == "once":
            slot = milliseconds(schedule.latest(moment_of(slot), moment_of(now)))
        elif late or self.held:
            slot, record = self._bounded(schedule, slot, now)
        if busy and schedule.overlap == "queue":
            return record.replace(slot=slot, held=True), now + _HELD, None
        following = _slot(schedule.next_after(moment_of(slot)))
        record = record.replace(held=record.held and following is not None and following <= now)
        if busy and schedule.overlap == "skip":
            record = record._skipped(slot, "its last job has not ended")
            return _with_due(record.replace(slot=following), schedule)
        key = key_of(schedule.id, slot)
        fired = record.replace(slot=following, done=slot, job=key, last=Last(slot, key))
        return fired, fired.due(schedule), slot

    def spec(self, schedule: Schedule, slot: int, now: int) -> JobSpec:
        """The job of a firing."""
        meta = {**self.call.meta, "schedule": {"id": schedule.id, "firing": slot}}
        if self.call.expires is not None:
            meta["expires"] = round(now / 1000 + self.call.expires, 3)
        call, lock = self.call, None
        if call.lock is not None:
            terms: dict[str, Any] = {**call.lock, "deadline": now / 1000 + call.put_off if call.put_off else 0}
            lock = Lock(**terms)
        return JobSpec(
            task=schedule.task,
            kwargs=schedule.kwargs,
            key=key_of(schedule.id, slot),
            timeout=schedule.timeout or 0,
            max_attempts=self.call.max_attempts,
            ttl=self.call.ttl,
            priority=self.call.priority,
            run_at=moment_of(now) + timedelta(seconds=call.delay) if call.delay else None,
            lock=lock,
            group=call.group,
            meta=meta,
        )

    def failed(self, schedule: Schedule, now: int, why: str) -> ScheduleRecord:
        """After a firing whose job cannot be made."""
        slot = self.slot if self.slot is not None else now
        return self._skipped(slot, why).reckoned(schedule, now)

    def left_out(self, before: ScheduleRecord) -> ScheduleRecord:
        """After a firing that made no job, as another one stands for it.

        Args:
            before: The record before the firing.
        """
        return self.replace(job=before.job)._skipped(self.done or 0, "another job like it stands for it")

    def _skipped(self, slot: int, why: str) -> ScheduleRecord:
        return self.replace(done=slot, last=Last(slot, None, why), skips=self.skips + 1)

    def _bounded(self, schedule: Schedule, slot: int, now: int) -> tuple[int, ScheduleRecord]:
        """The slot from which on so many wait as are made up for; the older ones are skipped."""
        until = moment_of(now)
        waiting = 1 + sum(1 for one in islice(schedule.firings(moment_of(slot)), _MOST) if one <= until)
        if waiting <= _MOST:
            return slot, self
        oldest = schedule.latest(moment_of(slot), until)
        for _ in range(_MOST - 1):
            oldest = schedule.latest(moment_of(slot), oldest - timedelta(milliseconds=1))
        return milliseconds(oldest), self._skipped(slot, f"more than {_MOST} firings waited")


def key_of(id: str, slot: int) -> str:
    """The key of a firing's job."""
    moment = moment_of(slot)
    fraction = f".{slot % 1000:03}" if slot % 1000 else ""
    return f"{id}@{moment:%Y%m%dT%H%M%S}{fraction}Z"


def fields_of(schedule: Schedule, payload: Mapping[str, Any]) -> dict[str, Any]:
    """A schedule as it is stored: in JSON's own types, without its id and what has its default.

    Args:
        schedule: The schedule.
        payload: Its arguments as its task encodes them.
    """
    fields: dict[str, Any] = {
        "task": schedule.task,
        "cron": schedule.cron,
        "every": milliseconds(schedule.every) if schedule.every is not None else None,
        "timezone": schedule.timezone,
        "kwargs": dict(payload),
        "queue": schedule.queue,
        "timeout": schedule.timeout,
        "misfire": schedule.misfire,
        "overlap": schedule.overlap,
        "jitter": schedule.jitter,
        "start": milliseconds(schedule.start) if schedule.start is not None else None,
        "end": milliseconds(schedule.end) if schedule.end is not None else None,
    }
    return {name: value for name, value in fields.items() if value is not None or name == "timeout"}


def _schedule_of(id: str, fields: Mapping[str, Any]) -> Schedule:
    known = {name: value for name, value in fields.items() if name in Schedule.__dataclass_fields__}
    if known.get("every") is not None:
        known["every"] = timedelta(milliseconds=known["every"])
    for name in ("start", "end"):
        if known.get(name) is not None:
            known[name] = moment_of(known[name])
    return Schedule(id=id, **known)


def _with_due(record: ScheduleRecord, schedule: Schedule) -> tuple[ScheduleRecord, int | None, None]:
    return record, record.due(schedule), None


def _slot(moment: datetime | None) -> int | None:
    return None if moment is None else milliseconds(moment)


_encoder: Final = msgspec.json.Encoder(order="deterministic")
_decoder: Final = msgspec.json.Decoder(ScheduleRecord)
