"""What the code declares of schedules, and how the broker's are brought in line with it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from litestar_tasks.exceptions import (
    DeclarationError,
    InvalidScheduleError,
    PayloadError,
    UnknownQueueError,
    UnknownTaskError,
)
from litestar_tasks.options import seconds
from litestar_tasks.queues.schedule_records import CallOptions, ScheduleRecord, fields_of, moment_of

if TYPE_CHECKING:
    from litestar_tasks.queues.base import TaskQueue
    from litestar_tasks.registry import Registry
    from litestar_tasks.schedule import Schedule

__all__ = ("AT_ONCE", "Declarations", "decoded")

logger = logging.getLogger("litestar_tasks.scheduler")

AT_ONCE: Final = 50
"""Schedules that are worked on before others have their turn."""
_TRIES: Final = 20


class Declarations:
    """The schedules that a registry declares for the queues of its application.

    Args:
        registry: What the code declares.
        queues: The connected queues by label.
    """

    def __init__(self, registry: Registry, queues: Mapping[str, TaskQueue]) -> None:
        self._registry = registry
        self._queues = queues

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
        for start in range(0, len(steps), AT_ONCE):
            await asyncio.gather(*(step() for step in steps[start : start + AT_ONCE]))
            await asyncio.sleep(0)

    async def _declare(self, queue: TaskQueue, schedule: Schedule, seen: bytes | None, now: int) -> None:
        """Store a declared schedule, with what operators did to the one that was there."""
        for _ in range(_TRIES):
            old = decoded(queue, schedule.id, seen)
            if seen is None:
                old, seen = await self._moved(queue, schedule.id)
            new = self._declared(schedule)
            if old is not None:
                new = old.replace(declared=new.declared, call=new.call, origin="code")
            in_force = self._in_force(schedule, new)
            new = new if in_force else new.replace(override=None)
            in_force = in_force or schedule
            before = _readable(old, schedule.id)
            new = new.reckoned(in_force, now) if before is None else new.in_new_rhythm(before, in_force, now)
            data = new.encode()
            if data == seen:
                return
            if await queue.schedules.swap(schedule.id, seen, data, new.next_due(in_force, now), None):
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
            if seen is None or (record := decoded(queue, id, seen)) is None:
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
                id, seen, new.encode(), new.next_due(new.schedule(id), now), None
            ):
                return
            seen = await queue.schedules.read(id)

    def _refreshed(self, id: str, record: ScheduleRecord, now: int) -> ScheduleRecord | None:
        """A dynamic schedule with its task's present options; None where nothing is to be done."""
        try:
            schedule = record.schedule(id)
            self._check_stored(schedule)
            new = record.replace(call=_call_of(self._registry, schedule, schedule.kwargs))
        except UnknownTaskError:
            return None  # another release may know it
        except (InvalidScheduleError, PayloadError) as error:
            logger.error("schedule %r, which was added at run time, does not fit this release: %s", id, error)
            return None
        new = new.in_new_rhythm(schedule, schedule, now)
        return None if new == record else new

    async def _moved(self, queue: TaskQueue, id: str) -> tuple[ScheduleRecord | None, bytes | None]:
        """Take a declared schedule over from another queue, with what operators did to it there.

        It is stored here without a next firing before it is removed there, so that it neither fires twice nor is lost.
        """
        for other in self._queues.values():
            while other is not queue and (data := await other.schedules.read(id)) is not None:
                record = decoded(other, id, data)
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
                self._check_stored(in_force)
        except (DeclarationError, PayloadError) as error:
            logger.error(
                "schedule %r: what was changed at run time does not fit any more, and is cleared: %s",
                schedule.id,
                error,
            )
            return None
        return in_force

    def _declared(self, schedule: Schedule) -> ScheduleRecord:
        payload = self._payload(schedule.id, schedule.task, schedule.kwargs)
        return ScheduleRecord(fields_of(schedule, payload), _call_of(self._registry, schedule, payload))

    def _payload(self, id: str, task: str, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            known = self._registry.get_task(task)
            payload = known.payload.encode((), kwargs)
        except PayloadError as error:
            raise InvalidScheduleError(f"schedule {id!r}: its kwargs do not fit: {error}") from error
        if known.sealed(payload) != payload:
            raise InvalidScheduleError(
                f"schedule {id!r}: its kwargs hold a secret, which a schedule does not keep; let the task look it up"
            )
        return payload

    def _check_stored(self, schedule: Schedule) -> None:
        """Refuse stored arguments that the task of this release does not take."""
        payload = self._registry.get_task(schedule.task).payload
        args, kwargs = payload.decode(dict(schedule.kwargs))
        payload.encode(tuple(args), kwargs)

    def _queue(self, label: str) -> TaskQueue:
        if (queue := self._queues.get(label)) is None:
            raise UnknownQueueError(label, self._queues)
        return queue


def _call_of(registry: Registry, schedule: Schedule, payload: Mapping[str, Any]) -> CallOptions:
    task = registry.get_task(schedule.task)
    spec = task.stored_spec(payload, {})
    debounce = task.option("debounce")
    return CallOptions(
        lock={**asdict(spec.lock), "deadline": 0} if spec.lock is not None else None,
        group=spec.group,
        delay=seconds(debounce.delay) if debounce else 0,
        put_off=seconds(debounce.max_wait) if debounce and debounce.max_wait else 0,
        max_attempts=spec.max_attempts,
        ttl=spec.ttl,
        priority=spec.priority,
        meta={name: value for name, value in spec.meta.items() if name != "expires"},
        expires=task.option("expires"),
    )


def decoded(queue: TaskQueue, id: str, data: bytes | None) -> ScheduleRecord | None:
    """A record from its document; None, and a line in the log, where it cannot be read."""
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
