"""The schedules of an application: listed, and changed by operators."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

from litestar_tasks.exceptions import InvalidScheduleError, ScheduleNotFoundError
from litestar_tasks.moments import milliseconds, moment_of
from litestar_tasks.queues.declarations import AT_ONCE, Declarations, decoded
from litestar_tasks.queues.schedule_records import Last, Note, Override, ScheduleRecord
from litestar_tasks.schedule import Firing, Mark, Schedule, ScheduleState

if TYPE_CHECKING:
    from litestar_tasks.job import JobStatus
    from litestar_tasks.queues.base import TaskQueue

__all__ = ("UNFINISHED", "QueueSchedules")

logger = logging.getLogger("litestar_tasks.scheduler")

UNFINISHED: Final = frozenset({"scheduled", "queued", "active"})
"""The statuses of jobs that have not ended."""


class QueueSchedules(Declarations):
    """The schedules in the queues of one application: a ``ScheduleBook``, and what workers need."""

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
            statuses = await queue.statuses(
                [record.last.job for _, record in records if record.last and record.last.job]
            )
            for number, (id, record) in enumerate(records):
                if number % AT_ONCE == 0:
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
            return record.in_new_rhythm(schedule, record.schedule(id), now)

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
            job, found = await queue.prepare(spec), False
            if spec.lock is not None:  # another job may stand for it, which only its enqueue tells
                submission = await queue.store(job)
                job, found = submission.job, submission.deduplicated
            new = record.replace(job=job.key, last=Last(now, job.key))
            enqueued = job if spec.lock is None else None
            if await queue.schedules.swap(id, seen, new.encode(), new.next_due(schedule, now), enqueued):
                logger.info("schedule %r was run by hand%s (job %s)", id, _by(by), job.id)
                return queue.label, job.key, found

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
        await queue.schedules.announce()
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

    # Details

    async def _records(self, queue: TaskQueue) -> AsyncIterator[tuple[str, ScheduleRecord]]:
        for id, data in (await queue.schedules.read_all()).items():
            if (record := decoded(queue, id, data)) is not None:
                yield id, record

    async def _find(self, id: str) -> tuple[TaskQueue, bytes | None, ScheduleRecord]:
        """A schedule, wherever it is; one that no worker has stored yet as the code declares it."""
        declared = {schedule.id: schedule for schedule in self._registry.get_schedules()}
        for queue in self._queues.values():
            if (data := await queue.schedules.read(id)) is not None:
                if (record := decoded(queue, id, data)) is None:
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
            if await queue.schedules.swap(id, seen, new.encode(), new.next_due(schedule, now), None):
                logger.info("schedule %r (%s) was %s%s", id, schedule, what, _by(by))
                await queue.schedules.announce()
                return await self._state_of(queue, id, new)

    async def _state_of(self, queue: TaskQueue, id: str, record: ScheduleRecord) -> ScheduleState:
        statuses = await queue.statuses([record.last.job] if record.last and record.last.job else [])
        return _state(queue, id, record, statuses)


def _state(queue: TaskQueue, id: str, record: ScheduleRecord, statuses: Mapping[str, JobStatus]) -> ScheduleState:
    schedule, last = record.schedule(id), record.last
    return ScheduleState(
        schedule=schedule,
        declared=record.schedule(id, declared=True) if record.origin == "code" else None,
        origin=record.origin,
        override=Mark(record.override.by, moment_of(record.override.at)) if record.override else None,
        paused=Mark(record.paused.by, moment_of(record.paused.at)) if record.paused else None,
        next_run=moment_of(record.slot) if record.slot is not None else None,
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


def _by(by: str | None) -> str:
    return f" by {by}" if by else ""
