"""What the code declares of schedules, and how the broker's are brought in line with it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from litestar_tasks.durations import seconds
from litestar_tasks.exceptions import (
    DeclarationError,
    InvalidScheduleError,
    PayloadError,
    UnknownQueueError,
    UnknownTaskError,
)
from litestar_tasks.moments import moment_of
from litestar_tasks.queues.schedule_records import CallOptions, ScheduleRecord, fields_of
from litestar_tasks.queues.schedules import Step
from litestar_tasks.recurring import encode_kwargs

if TYPE_CHECKING:
    from litestar_tasks.queues.base import TaskQueue
    from litestar_tasks.registry import Registry
    from litestar_tasks.schedule import Schedule
    from litestar_tasks.task import AnyTask

__all__ = ("AT_ONCE", "Declarations", "decoded")

logger = logging.getLogger("litestar_tasks.scheduler")

_TOGETHER: Final = 200
"""Schedules that are stored in one step."""
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
        records = [(one.id, self._identified(one)) for one in self._registry.get_schedules()]
        text = msgspec.json.encode(sorted(records, key=lambda one: one[0]), order="deterministic")
        return hashlib.blake2b(text, digest_size=12).hexdigest()

    def _identified(self, schedule: Schedule) -> ScheduleRecord:
        """A declared schedule's record in which equal secrets are equal: never stored, only digested."""
        task = self._registry.get_task(schedule.task)
        payload = encode_kwargs(task, schedule.id, schedule.kwargs)
        return ScheduleRecord(
            fields_of(schedule, task.identified(payload)), _call_of(self._registry, schedule, payload)
        )

    async def reconcile(self, queue: TaskQueue) -> None:
        """Make a queue's schedules those that this release declares for it. What was added at run time stays.

        Raises:
            QueueUnavailableError: The broker did not answer.
        """
        now = (await queue.schedules.look(0)).now
        stored = await queue.schedules.read_all()
        declared = {one.id: one for one in self._registry.get_schedules()}
        wanted = {id: one for id, one in declared.items() if one.queue == queue.label}
        elsewhere: set[str] = set()
        if not wanted.keys() <= stored.keys():
            for other in self._queues.values():
                elsewhere |= (await other.schedules.read_all()).keys() if other is not queue else set()
        ids, changed = list(wanted), False
        for start in range(0, len(ids), _TOGETHER):
            here = [id for id in ids[start : start + _TOGETHER] if id in stored or id not in elsewhere]
            changed |= await self._declare_many(queue, [(wanted[id], stored.get(id)) for id in here], now)
        steps = [partial(self._declare, queue, wanted[id], None, now) for id in ids if id in elsewhere - stored.keys()]
        steps += [
            partial(self._tend, queue, id, data, now, declared.get(id))
            for id, data in stored.items()
            if id not in wanted
        ]
        for start in range(0, len(steps), AT_ONCE):
            await asyncio.gather(*(step() for step in steps[start : start + AT_ONCE]))
            await asyncio.sleep(0)
        if changed or steps:
            await queue.schedules.announce()

    async def _declare_many(
        self, queue: TaskQueue, schedules: Sequence[tuple[Schedule, bytes | None]], now: int
    ) -> bool:
        """Store declared schedules that are in no other queue, and return whether there was anything to store."""
        plans: dict[str, tuple[Schedule, _Plan]] = {}
        for number, (schedule, seen) in enumerate(schedules):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            plan = self._plan(schedule, decoded(queue, schedule.id, seen), seen, now)
            if plan is not None:
                plans[schedule.id] = schedule, plan
        if not plans:
            return False
        swapped = await queue.schedules.swap_many([plan.step for _, plan in plans.values()])
        for id, (schedule, plan) in plans.items():
            if id in swapped:
                plan.say()
            else:  # somebody was there in between
                await self._declare(queue, schedule, await queue.schedules.read(id), now)
        return True

    async def _declare(self, queue: TaskQueue, schedule: Schedule, seen: bytes | None, now: int) -> None:
        """Store a declared schedule, with what operators did to the one that was there."""
        for _ in range(_TRIES):
            old = decoded(queue, schedule.id, seen)
            if seen is None:
                old, seen = await self._moved(queue, schedule.id)
            plan = self._plan(schedule, old, seen, now)
            if plan is None:
                return
            if await queue.schedules.swap(schedule.id, seen, plan.step.new, plan.step.due, None):
                plan.say()
                return
            seen = await queue.schedules.read(schedule.id)

    def _plan(self, schedule: Schedule, old: ScheduleRecord | None, seen: bytes | None, now: int) -> _Plan | None:
        """What a declared schedule becomes, with what operators did to the one that was there; None if it is that."""
        new = self._declared(schedule, old)
        if old is not None:
            new = old.replace(declared=new.declared, call=new.call, origin="code")
        in_force = self._in_force(schedule, new)
        new = new if in_force else new.replace(override=None)
        in_force = in_force or schedule
        before = _readable(old, schedule.id)
        new = new.reckoned(in_force, now) if before is None else new.in_new_rhythm(before, in_force, now)
        data = new.encode()
        if data == seen:
            return None
        told = f"schedule {schedule.id!r}: {in_force}, next at {moment_of(new.slot) if new.slot else 'never'}"
        news = seen is None or before is None or str(before) != str(in_force)
        return _Plan(Step(schedule.id, seen, data, new.next_due(in_force, now)), told if news else None)

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
            opened = self._registry.get_task(schedule.task).opened(schedule.kwargs)
            new = record.replace(call=_call_of(self._registry, schedule, opened))
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

    def _declared(self, schedule: Schedule, old: ScheduleRecord | None = None) -> ScheduleRecord:
        """A declared schedule's record. Secrets that have not changed stay encrypted as they are."""
        task = self._registry.get_task(schedule.task)
        payload = encode_kwargs(task, schedule.id, schedule.kwargs)
        kept = old.declared.get("kwargs") if old is not None else None
        stored = kept if kept is not None and _is_sealed_as(task, kept, payload) else task.sealed(payload)
        return ScheduleRecord(fields_of(schedule, stored), _call_of(self._registry, schedule, payload))

    def _payload(self, id: str, task: str, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        known = self._registry.get_task(task)
        return known.sealed(encode_kwargs(known, id, kwargs))

    def _check_stored(self, schedule: Schedule) -> None:
        """Refuse stored arguments that the task of this release does not take."""
        task = self._registry.get_task(schedule.task)
        args, kwargs = task.payload.decode(dict(task.opened(schedule.kwargs)))
        task.payload.encode(tuple(args), kwargs)

    def _queue(self, label: str) -> TaskQueue:
        if (queue := self._queues.get(label)) is None:
            raise UnknownQueueError(label, self._queues)
        return queue


@dataclass(frozen=True, slots=True)
class _Plan:
    step: Step
    news: str | None
    """What is worth a line in the log."""

    def say(self) -> None:
        if self.news is not None:
            logger.info("%s", self.news)


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


def _is_sealed_as(task: AnyTask, stored: Mapping[str, Any], payload: Mapping[str, Any]) -> bool:
    try:
        return task.opened(stored) == payload
    except PayloadError:
        return False  # of another signature, or encrypted with a key that is gone


def _readable(record: ScheduleRecord | None, id: str) -> Schedule | None:
    try:
        return record.schedule(id) if record is not None else None
    except InvalidScheduleError:
        return None
