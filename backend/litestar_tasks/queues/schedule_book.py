"""The schedules of an application: listed, changed by operators, and kept as the code declares them."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import islice
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

import msgspec

from litestar_tasks.exceptions import (
    DeclarationError,
    InvalidScheduleError,
    PayloadError,
    ScheduleNotFoundError,
    UnknownQueueError,
    UnknownTaskError,
)
from litestar_tasks.queues.schedule_records import (
    CallOptions,
    Last,
    Note,
    Override,
    ScheduleRecord,
    fields_of,
    milliseconds,
    moment_of,
)
from litestar_tasks.schedule import Firing, Mark, Schedule, ScheduleState

if TYPE_CHECKING:
    from litestar_tasks.job import JobStatus
    from litestar_tasks.queues.base import TaskQueue
    from litestar_tasks.registry import Registry

__all__ = ("QueueSchedules",)

logger = logging.getLogger("litestar_tasks.scheduler")

_TRIES: Final = 20
_NEXT: Final = 5
_RHYTHM: Final = ("cron", "every", "timezone", "start", "end")
_AT_ONCE: Final = 50
UNFINISHED: Final = frozenset({"scheduled", "queued", "active"})


class QueueSchedules:
    """The schedules in the queues of one application.

    Args:
        registry: What the code declares.
        queues: The connected queues by label.
    """

    def __init__(self, registry: Registry, queues: Mapping[str, TaskQueue]) -> None:
        self._registry = registry
        self._queues = queues

    # What there is

    async def states(self) -> list[ScheduleState]:
        """See ``Registry.schedules``."""
        declared = {schedule.id: schedule for schedule in self._registry.get_schedules()}
        found: list[ScheduleState] = []
        clocks: dict[str, int] = {}
        waiting = dict(declared)  # for a worker that stores them
        for label, queue in self._queues.items():
            clocks[label] = (await queue.schedules.look(0)).now
            records = [(id, record) async for id, record in self._records(queue)]
            statuses = await _statuses(queue, [record.last.job for _, record in records if record.last])
            for number, (id, record) in enumerate(records):
                if number % _AT_ONCE == 0:
                    await asyncio.sleep(0)  # a long list is long work: others have their turn in between
                waiting.pop(id, None)
                try:
                    found.append(_state(queue, id, record, statuses))
                except InvalidScheduleError as error:
                    logger.error("%s", error)
        for id, one in waiting.items():
            record = self._declared(one).reckoned(one, clocks[self._queue(one.queue).label])
            found.append(_state(self._queue(one.queue), id, record, {}))
        order = {id: number for number, id in enumerate(declared)}
        return sorted(found, key=lambda state: (order.get(state.schedule.id, len(order)), state.schedule.id))

    async def state(self, id: str) -> ScheduleState:
        """See ``Registry.schedule_state``."""
        queue, _, record = await self._find(id)
        return await self._state_of(queue, id, record)

    # What an operator does

    async def pause(self, id: str, by: str | None) -> ScheduleState:
        """See ``Registry.pause_schedule``."""

        def edit(record: ScheduleRecord, schedule: Schedule, now: int) -> ScheduleRecord:
            return record if record.paused else record.replace(paused=Note(by, now)).reckoned(schedule, now)

        return await self._edit(id, edit, "paused", by)

    async def resume(self, id: str, by: str | None) -> ScheduleState:
        """See ``Registry.resume_schedule``."""

        def edit(record: ScheduleRecord, schedule: Schedule, now: int) -> ScheduleRecord:
            return record.replace(paused=None).reckoned(schedule, now) if record.paused else record

        return await self._edit(id, edit, "resumed", by)

    async def change(self, id: str, fields: Mapping[str, Any], by: str | None) -> ScheduleState:
        """See ``Registry.change_schedule``."""

        def edit(record: ScheduleRecord, schedule: Schedule, now: int) -> ScheduleRecord:
            changed = dict(record.override.fields) if record.override else {}
            given = dict(fields)
            for name, other in (("cron", "every"), ("every", "cron")):
                if name in given:
                    given.setdefault(other, None)
            dataclasses.replace(schedule, **given)  # refuses what cannot work
            if "kwargs" in given:
                given["kwargs"] = self._payload(id, schedule.task, given["kwargs"])
            if given.get("every") is not None:
                given["every"] = milliseconds(given["every"])
            record = record.replace(override=Override({**changed, **given}, by, now))
            return record.reckoned(record.schedule(id), now) if fields.keys() - {"kwargs"} else record

        return await self._edit(id, edit, "changed", by)

    async def reset(self, id: str, by: str | None) -> ScheduleState:
        """See ``Registry.reset_schedule``."""

        def edit(record: ScheduleRecord, schedule: Schedule, now: int) -> ScheduleRecord:
            if record.override is None:
                return record
            record = record.replace(override=None)
            return _in_new_rhythm(record, schedule, record.schedule(id), now)

        return await self._edit(id, edit, "reset", by)

    async def run(self, id: str, by: str | None) -> tuple[str, str, bool]:
        """See ``Registry.run_schedule``."""
        while True:  # where another step came in between, it was somebody's
            queue, seen, record = await self._find(id)
            schedule = record.schedule(id)
            if schedule.overlap != "allow" and record.job and await queue.status(record.job) in UNFINISHED:
                return queue.label, record.job, True
            now = (await queue.schedules.look(0)).now
            spec = record.spec(schedule, now, now)
            spec.key = f"{id}@now-{token_hex(8)}"
            if by is not None:
                spec.meta = {**spec.meta, "by": by}
            job = await queue.prepare(spec)
            new = record.replace(job=spec.key, last=Last(now, spec.key))
            if await queue.schedules.swap(id, seen, new.encode(), _next_due(new, schedule, now), job):
                logger.info("schedule %r was run by hand%s (job %s)", id, _by(by), job.id)
                return queue.label, job.key, False

    async def add(self, schedule: Schedule, by: str | None) -> ScheduleState:
        """See ``Registry.add_schedule``."""
        queue = self._queue(schedule.queue)
        for other in self._queues.values():
            if await other.schedules.read(schedule.id) is not None:
                raise InvalidScheduleError(
                    f"schedule {schedule.id!r} exists already; give this one another id, or change or remove that one"
                )
        now = (await queue.schedules.look(0)).now
        record = self._declared(schedule).replace(origin="runtime").reckoned(schedule, now)
        if not await queue.schedules.swap(schedule.id, None, record.encode(), record.due(schedule), None):
            raise InvalidScheduleError(f"schedule {schedule.id!r} exists already; give this one another id")
        logger.info("schedule %r (%s) was added%s", schedule.id, schedule, _by(by))
        return await self._state_of(queue, schedule.id, record)

    async def remove(self, id: str, by: str | None) -> None:
        """See ``Registry.remove_schedule``."""
        while True:  # where another step came in between, it was somebody's
            queue, seen, record = await self._find(id)
            if record.origin == "code":
                raise InvalidScheduleError(
                    f"schedule {id!r} is declared in code, and would come back; pause it, or remove it from the code"
                )
            if await queue.schedules.swap(id, seen, None, None, None):
                logger.info("schedule %r was removed%s", id, _by(by))
                return

    # What the code declares

    def digest(self) -> str:
        """Names what this release declares."""
        records = [(one.id, self._declared(one)) for one in self._registry.get_schedules()]
        text = msgspec.json.encode(sorted(records, key=lambda one: one[0]), order="deterministic")
        return hashlib.blake2b(text, digest_size=12).hexdigest()

    async def reconcile(self, queue: TaskQueue) -> None:
        """Make a queue's schedules those that this release declares for it. What was added at run time stays.

        Raises:
            QueueUnavailableError: The broker did not answer.
        """
        now = (await queue.schedules.look(0)).now
        stored = await queue.schedules.read_all()
        declared = {one.id: one for one in self._registry.get_schedules()}
        wanted = {id: one for id, one in declared.items() if one.queue == queue.label}
        steps = [partial(self._declare, queue, one, stored.get(id), now) for id, one in wanted.items()]
        steps += [
            partial(self._tend, queue, id, data, now, declared.get(id))
            for id, data in stored.items()
            if id not in wanted
        ]
        for start in range(0, len(steps), _AT_ONCE):
            await asyncio.gather(*(step() for step in steps[start : start + _AT_ONCE]))
            await asyncio.sleep(0)

    async def _declare(self, queue: TaskQueue, schedule: Schedule, seen: bytes | None, now: int) -> None:
        """Store a declared schedule, with what operators did to the one that was there."""
        for _ in range(_TRIES):
            old = _decoded(queue, schedule.id, seen)
            if seen is None:
                old, seen = await self._moved(queue, schedule.id)
            new = self._declared(schedule)
            if old is not None:
                new = old.replace(declared=new.declared, call=new.call, origin="code")
            in_force = self._in_force(schedule, new)
            new = new if in_force else new.replace(override=None)
            in_force = in_force or schedule
            before = _readable(old, schedule.id)
            new = new.reckoned(in_force, now) if before is None else _in_new_rhythm(new, before, in_force, now)
            data = new.encode()
            if data == seen:
                return
            if await queue.schedules.swap(schedule.id, seen, data, _next_due(new, in_force, now), None):
                if seen is None or before is None or str(before) != str(in_force):
                    logger.info(
                        "schedule %r: %s, next at %s",
                        schedule.id,
                        in_force,
                        moment_of(new.slot) if new.slot else "never",
                    )
                return
            seen = await queue.schedules.read(schedule.id)

    async def _tend(self, queue: TaskQueue, id: str, seen: bytes | None, now: int, elsewhere: Schedule | None) -> None:
        """Remove a schedule that the code does not declare for this queue; see after one that was added at run time."""
        for _ in range(_TRIES):
            if seen is None or (record := _decoded(queue, id, seen)) is None:
                return
            if record.origin == "code":
                if elsewhere is not None and elsewhere.queue in self._queues:
                    target = self._queue(elsewhere.queue)
                    await self._declare(target, elsewhere, await target.schedules.read(id), now)
                    if (seen := await queue.schedules.read(id)) is None:
                        return
                if await queue.schedules.swap(id, seen, None, None, None):
                    logger.info("schedule %r is not declared in queue %r any more; it is removed", id, queue.label)
                    return
            elif (new := self._refreshed(id, record, now)) is None or await queue.schedules.swap(
                id, seen, new.encode(), _next_due(new, new.schedule(id), now), None
            ):
                return
            seen = await queue.schedules.read(id)

    def _refreshed(self, id: str, record: ScheduleRecord, now: int) -> ScheduleRecord | None:
        """A dynamic schedule with its task's present options; None where nothing is to be done."""
        try:
            schedule = record.schedule(id)
            task = self._registry.get_task(schedule.task)
            task.payload.encode((), task.payload.decode(dict(schedule.kwargs))[1])
            new = record.replace(call=_call_of(self._registry, schedule, schedule.kwargs))
        except UnknownTaskError:
            return None  # another release may know it
        except (InvalidScheduleError, PayloadError) as error:
            logger.error("schedule %r, which was added at run time, does not fit this release: %s", id, error)
            return None
        new = _in_new_rhythm(new, schedule, schedule, now)
        return None if new == record else new

    async def _moved(self, queue: TaskQueue, id: str) -> tuple[ScheduleRecord | None, bytes | None]:
        """Take a declared schedule over from another queue, with what operators did to it there.

        It is stored here without a next firing before it is removed there, so that it neither fires twice nor is lost.
        """
        for other in self._queues.values():
            while other is not queue and (data := await other.schedules.read(id)) is not None:
                record = _decoded(other, id, data)
                if record is None or record.origin != "code":
                    break
                new = record.replace(slot=None)
                if not await queue.schedules.swap(id, None, new.encode(), None, None):
                    return None, None  # it is there already
                if await other.schedules.swap(id, data, None, None, None):
                    logger.info("schedule %r moves from queue %r to %r", id, other.label, queue.label)
                    return new, new.encode()
        return None, None

    def _in_force(self, schedule: Schedule, record: ScheduleRecord) -> Schedule | None:
        """The schedule with its override; None where that does not fit any more."""
        try:
            in_force = record.schedule(schedule.id)
            if record.override is not None and "kwargs" in record.override.fields:
                task = self._registry.get_task(schedule.task)
                task.payload.encode((), task.payload.decode(dict(in_force.kwargs))[1])
        except (DeclarationError, PayloadError) as error:
            logger.error(
                "schedule %r: what was changed at run time does not fit any more, and is cleared: %s",
                schedule.id,
                error,
            )
            return None
        return in_force

    # Details

    def _declared(self, schedule: Schedule) -> ScheduleRecord:
        payload = self._payload(schedule.id, schedule.task, schedule.kwargs)
        return ScheduleRecord(fields_of(schedule, payload), _call_of(self._registry, schedule, payload))

    def _payload(self, id: str, task: str, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return self._registry.get_task(task).payload.encode((), kwargs)
        except PayloadError as error:
            raise InvalidScheduleError(f"schedule {id!r}: its kwargs do not fit: {error}") from error

    def _queue(self, label: str) -> TaskQueue:
        if (queue := self._queues.get(label)) is None:
            raise UnknownQueueError(label, self._queues)
        return queue

    async def _records(self, queue: TaskQueue) -> AsyncIterator[tuple[str, ScheduleRecord]]:
        for id, data in (await queue.schedules.read_all()).items():
            if (record := _decoded(queue, id, data)) is not None:
                yield id, record

    async def _find(self, id: str) -> tuple[TaskQueue, bytes | None, ScheduleRecord]:
        """A schedule, wherever it is; one that no worker has stored yet as the code declares it."""
        declared = {schedule.id: schedule for schedule in self._registry.get_schedules()}
        for queue in self._queues.values():
            if (data := await queue.schedules.read(id)) is not None:
                if (record := _decoded(queue, id, data)) is None:
                    raise InvalidScheduleError(f"schedule {id!r}: its record cannot be read by this release")
                return queue, data, record
        if id not in declared:
            known = [name for queue in self._queues.values() for name in await queue.schedules.read_all()]
            raise ScheduleNotFoundError(id, {*known, *declared})
        queue, schedule = self._queue(declared[id].queue), declared[id]
        now = (await queue.schedules.look(0)).now
        return queue, None, self._declared(schedule).reckoned(schedule, now)

    async def _edit(
        self, id: str, edit: Callable[[ScheduleRecord, Schedule, int], ScheduleRecord], what: str, by: str | None
    ) -> ScheduleState:
        while True:  # where another step came in between, it was somebody's
            queue, seen, record = await self._find(id)
            now = (await queue.schedules.look(0)).now
            new = edit(record, record.schedule(id), now)
            schedule = new.schedule(id)
            if new == record and seen is not None:
                return await self._state_of(queue, id, record)
            if await queue.schedules.swap(id, seen, new.encode(), _next_due(new, schedule, now), None):
                logger.info("schedule %r (%s) was %s%s", id, schedule, what, _by(by))
                return await self._state_of(queue, id, new)

    async def _state_of(self, queue: TaskQueue, id: str, record: ScheduleRecord) -> ScheduleState:
        statuses = await _statuses(queue, [record.last.job] if record.last else [])
        return _state(queue, id, record, statuses)


def _call_of(registry: Registry, schedule: Schedule, payload: Mapping[str, Any]) -> CallOptions:
    task = registry.get_task(schedule.task)
    spec = task.stored_spec(payload, {})
    return CallOptions(
        max_attempts=spec.max_attempts,
        ttl=spec.ttl,
        priority=spec.priority,
        meta={name: value for name, value in spec.meta.items() if name != "expires"},
        expires=task.option("expires"),
    )


def _in_new_rhythm(record: ScheduleRecord, before: Schedule, after: Schedule, now: int) -> ScheduleRecord:
    """With the next slot of another schedule; a firing that is due stays due where only the rest has changed."""
    same = all(getattr(before, name) == getattr(after, name) for name in _RHYTHM)
    if same and record.slot is not None and record.slot <= now and record.paused is None:
        return record
    return record.reckoned(after, now)


def _next_due(record: ScheduleRecord, schedule: Schedule, now: int) -> int | None:
    return now if record.held else record.due(schedule)


def _decoded(queue: TaskQueue, id: str, data: bytes | None) -> ScheduleRecord | None:
    if data is None:
        return None
    try:
        return ScheduleRecord.decode(data)
    except ValueError as error:
        logger.error("queue %r: the record of schedule %r cannot be read: %s", queue.label, id, error)
        return None


def _readable(record: ScheduleRecord | None, id: str) -> Schedule | None:
    try:
        return record.schedule(id) if record is not None else None
    except InvalidScheduleError:
        return None


def _state(queue: TaskQueue, id: str, record: ScheduleRecord, statuses: Mapping[str, JobStatus]) -> ScheduleState:
    schedule, last = record.schedule(id), record.last
    runs: tuple[datetime, ...] = ()
    if record.slot is not None:
        first = moment_of(record.slot)
        runs = (first, *islice(schedule.firings(first), _NEXT - 1))
    return ScheduleState(
        schedule=schedule,
        declared=record.schedule(id, declared=True) if record.origin == "code" else None,
        origin=record.origin,
        override=Mark(record.override.by, moment_of(record.override.at)) if record.override else None,
        paused=Mark(record.paused.by, moment_of(record.paused.at)) if record.paused else None,
        next_runs=runs,
        last=Firing(
            moment=moment_of(last.slot),
            job_id=queue.job_id(last.job) if last.job else None,
            status=statuses.get(last.job) if last.job else None,
            skipped=last.skipped,
        )
        if last
        else None,
        skips=record.skips,
    )


async def _statuses(queue: TaskQueue, keys: Sequence[str | None]) -> dict[str, JobStatus]:
    wanted = [key for key in keys if key is not None]
    found: dict[str, JobStatus] = {}
    for start in range(0, len(wanted), _AT_ONCE):
        part = wanted[start : start + _AT_ONCE]
        answers = await asyncio.gather(*map(queue.status, part))
        found.update({key: status for key, status in zip(part, answers, strict=True) if status is not None})
    return found


def _by(by: str | None) -> str:
    return f" by {by}" if by else ""
