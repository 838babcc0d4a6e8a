"""What an operator does with a queue on Postgres: page by page along an index, however long the queue is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from psycopg import errors
from saq.job import Job

from litestar_tasks.exceptions import QueueUnavailableError
from litestar_tasks.queues import cursors, records, tallies
from litestar_tasks.queues.history import begin_anew
from litestar_tasks.queues.locks import lock_anew
from litestar_tasks.queues.operations import (
    ABORTED_WITH_OTHERS,
    ENDED,
    PURGED,
    BulkAction,
    BulkStep,
    JobFilter,
    JobState,
    Minute,
    Operations,
    Page,
    Pause,
)
from litestar_tasks.queues.postgres import statements
from litestar_tasks.queues.postgres.records import job_of
from litestar_tasks.queues.postgres.retrying import RetryingLink
from litestar_tasks.queues.postgres.statements import JOBS, KEPT, STATE

if TYPE_CHECKING:
    from litestar_tasks.queues.base import TaskQueue
    from litestar_tasks.queues.postgres.connection import Link
    from litestar_tasks.queues.postgres.listener import Announcer
    from litestar_tasks.queues.retention import Limits

__all__ = ("PostgresOperations",)

_READ: Final = 500
"""Rows that are looked at for one page at the most, however few of them match."""
_BYTES: Final = 2_000_000
"""Bytes of records after which a page is given as it is."""
_STEP: Final = 500
_CHANGED: Final = 50
"""Records that are read, written anew and stored again at a time."""
_TIMEOUT: Final = 15.0
_ENDS: Final = ("complete", "failed", "aborted")


@dataclass(frozen=True, slots=True)
class _Order:
    """How a state is listed: which rows, by which two columns."""

    condition: str
    first: str
    second: str
    kind: str
    """The type of the first column."""
    moment: str
    """The column that a filter's span is about."""


_ORDERS: Final[dict[JobState, _Order]] = {
    "queued": _Order("status = 'queued' AND scheduled IS NULL", "priority", "position", "integer", "enqueued"),
    "scheduled": _Order(
        "status = 'queued' AND scheduled IS NOT NULL", "scheduled", "position", "timestamptz", "scheduled"
    ),
    "retrying": _Order(
        "status = 'queued' AND scheduled IS NOT NULL AND attempts > 0",
        "scheduled",
        "position",
        "timestamptz",
        "scheduled",
    ),
    "active": _Order("status = 'active'", "token", "token", "bigint", "started"),
    **{
        state: _Order(f"status = '{state}' AND ended IS NOT NULL", "ended", "position", "timestamptz", "ended")
        for state in ("complete", "failed", "aborted")
    },
    "quarantined": _Order("quarantined", "ended", "position", "timestamptz", "ended"),
}


@dataclass(slots=True)
class _Found:
    """A row that a look at a listing has found."""

    matches: bool
    position: int
    row: Sequence[Any]
    place: cursors.Place


class PostgresOperations(Operations):
    """An operator's side of one queue.

    Args:
        queue: The queue, for the jobs made here.
        label: Its name, for errors.
        link: The connection.
        announcer: Tells workers and waiters what has changed.
        limits: What is kept of jobs that have ended.
    """

    def __init__(self, queue: TaskQueue, label: str, link: Link, announcer: Announcer, limits: Limits) -> None:
        self._queue = queue
        self._link = RetryingLink(label, queue.name, link)
        self._announcer = announcer
        self._limits = limits

    # Listing

    async def counts(self) -> dict[JobState, int]:
        """See ``Operations.counts``."""
        ((ready, due, scheduled, retrying, active, *ended),) = await self._link.ask(statements.COUNTS, timeout=_TIMEOUT)
        found: dict[JobState, int] = {
            "queued": min(ready + due, statements.MOST_COUNTED),
            "scheduled": scheduled,
            "retrying": retrying,
            "active": active,
        }
        return {**found, **dict(zip(ENDED, ended, strict=True))}

    async def page(self, which: JobFilter, *, limit: int = 50, cursor: str | None = None) -> Page:
        """See ``Operations.page``."""
        cursors.check_limit(limit)
        place = self._place(which, cursor)
        await self._promote(which)
        jobs: list[Job] = []
        read = size = 0
        while len(jobs) < limit and read < _READ and size < _BYTES:
            wanted = _READ - read if _walks(which) else limit - len(jobs)
            found, more = await self._look(which, place, wanted)
            for one in found:
                read, place = read + 1, one.place
                if not one.matches:
                    continue
                size += len(one.row[1])
                if (job := job_of(self._queue, one.row)) is not None:
                    jobs.append(job)
                if len(jobs) == limit or size >= _BYTES:
                    more = more or one is not found[-1]
                    break
            if not more:
                return Page(jobs, None)
        return Page(jobs, None if place is None else cursors.write(which, place))

    def _place(self, which: JobFilter, cursor: str | None) -> cursors.Place | None:
        if cursor is None:
            return None
        return cursors.read(which, cursor, str, int)

    async def _look(self, which: JobFilter, place: cursors.Place | None, limit: int) -> tuple[list[_Found], bool]:
        """The next rows of a listing, and whether there are more behind them."""
        order = _ORDERS[which.state]
        direction, compared = ("DESC", "<") if which.newest_first else ("ASC", ">")
        bounded = order.moment == order.first
        span, conditions = [], [order.condition]
        if which.since is not None:
            span.append(f"{order.moment} >= %(since)s")
        if which.until is not None:
            span.append(f"{order.moment} < %(until)s")
        if bounded:  # the span is one of the index
            conditions += span
            span = []
        if place is not None:
            conditions.append(
                f"({order.first}, {order.second}) {compared} (%(first)s::{order.kind}, %(second)s::bigint)"
            )
        if which.task is not None:
            span.append("task = %(task)s")
        if which.tag is not None:
            span.append("tag = %(tag)s")
        if which.state in ENDED:
            span.append(KEPT)
        matches = " AND ".join(span) or "true"
        rows = await self._link.ask(
            f"""
            SELECT {matches}, position, {order.first}::text, {order.second}, key,
                CASE WHEN {matches} THEN job END, {STATE}
            FROM {JOBS} WHERE queue = %(queue)s AND {" AND ".join(conditions)}
            ORDER BY {JOBS}.{order.first} {direction}, {JOBS}.{order.second} {direction} LIMIT %(limit)s
            """,  # noqa: S608  # put together of constants
            {
                "since": which.since,
                "until": which.until,
                "task": which.task,
                "tag": which.tag,
                "first": place[0] if place else None,
                "second": place[1] if place else None,
                "limit": limit,
            },
            timeout=_TIMEOUT,
        )
        found = [
            _Found(bool(matches), position, row, [first, second]) for matches, position, first, second, *row in rows
        ]
        return found, len(rows) == limit

    async def _promote(self, which: JobFilter) -> None:
        """Let jobs that are due, which workers move when they claim, stand where they belong."""
        if which.state in ("queued", "scheduled", "retrying"):
            await self._link.ask(statements.PROMOTE, {"limit": _STEP})

    # Changing

    async def bulk(
        self, action: BulkAction, which: JobFilter, *, limit: int = 200, cursor: str | None = None
    ) -> BulkStep:
        """See ``Operations.bulk``."""
        which.allows(action)
        cursors.check_limit(limit)
        # What comes to the state while the operation goes on has a place behind its beginning, and is left.
        if cursor is None:
            await self._promote(which)
            ((horizon,),) = await self._link.ask(statements.HORIZON)
            place = None
        else:
            horizon, *place = cursors.read(which, cursor, int, str, int)
        found, more = await self._look(which, place, limit)
        rows = [one.row for one in found if one.matches and one.position <= int(horizon)]
        done = await self._act(action, which, rows) if rows else 0
        following = cursors.write(which, [horizon, *found[-1].place]) if more else None
        return BulkStep(done, len(found) - done, following)

    async def _act(self, action: BulkAction, which: JobFilter, rows: Sequence[Sequence[Any]]) -> int:
        keys = [key for key, *_ in rows]
        status = "failed" if which.state == "quarantined" else which.state
        if action == "delete":
            return await self._delete(keys, [status])
        if action == "abort":
            status = "active" if which.state == "active" else "queued"
            aborted = await self.cancel(keys, ABORTED_WITH_OTHERS, statuses=[status])
            if status == "queued":
                self._tell_ended((row for row in rows if row[0] in aborted), ABORTED_WITH_OTHERS)
            return len(aborted)
        if which.state == "retrying":
            return await self._retry_now(keys)
        return await self._rerun(keys, [status])

    async def cancel(
        self, keys: Sequence[str], reason: str, *, statuses: Sequence[str] = ("queued", "active")
    ) -> set[str]:
        """End jobs that wait or run, and return the keys of those that there were.

        Raises:
            QueueUnavailableError: The broker did not answer.
        """
        rows = await self._link.ask(
            statements.CANCEL,
            {
                "keys": list(keys),
                "reason": reason.replace("\0", "").encode("utf-8", "replace").decode(),
                "statuses": list(statuses),
                "failed_ttl": self._limits.failed_ttl,
            },
        )
        self._announcer.changed([(key, status) for key, status, *_ in rows if status != "active"])
        if any(follows and status != "active" for *_, status, _, follows in rows):
            self._announcer.say("owed")
        for owner in {owner for _, status, owner, _ in rows if status == "active"}:
            self._announcer.say(f"abort {owner}")
        await self._announcer.flush()
        return {key for key, *_ in rows}

    def _tell_ended(self, rows: Iterable[Sequence[Any]], error: str) -> None:
        if self._queue.listeners:
            jobs = (job_of(self._queue, row) for row in rows)
            self._queue.tell_ended((job for job in jobs if job is not None), error)

    async def rerun(self, key: str) -> bool:
        """See ``Operations.rerun``."""
        return bool(await self._rerun([key], _ENDS) or await self._retry_now([key]))

    async def _rerun(self, keys: Sequence[str], statuses: Sequence[str]) -> int:
        done = 0
        for start in range(0, len(keys), _CHANGED):
            rows = await self._link.ask(statements.RERUN_READ, {"keys": list(keys[start : start + _CHANGED])})
            anew: list[tuple[str, str, int, bytes, str | None]] = []
            for key, document, status, position in rows:
                try:
                    job = records.restore(Job, self._queue, document, key=key)
                except records.UndecodableError:
                    continue
                if status not in statuses or job.function == records.UNDECODABLE:
                    continue
                begin_anew(job)
                lock = lock_anew(job)
                anew.append((key, status, position, records.encode(job), lock.name if lock else None))
            done += await self._begin_anew(anew)
        return done

    async def _begin_anew(self, anew: Sequence[tuple[str, str, int, bytes, str | None]]) -> int:
        if not anew:
            return 0
        columns = map(list, zip(*anew, strict=True))
        names = ("keys", "statuses", "positions", "jobs", "locks")
        parameters: dict[str, Any] = dict(zip(names, columns, strict=True))
        try:
            return self._waiting_again(await self._link.ask(statements.RERUN, parameters))
        except QueueUnavailableError as error:
            if not isinstance(error.__cause__, errors.UniqueViolation):
                raise
        if len(anew) == 1:  # somebody has enqueued a job with its lock at this moment
            return 0
        return sum([await self._begin_anew([one]) for one in anew])  # two of them have the same lock

    async def _retry_now(self, keys: Sequence[str]) -> int:
        return self._waiting_again(await self._link.ask(statements.RETRY_NOW, {"keys": list(keys)}))

    def _waiting_again(self, rows: Sequence[tuple[Any, ...]]) -> int:
        if rows:
            self._announcer.changed([(key, "queued") for (key,) in rows])
            self._announcer.ready()
        return len(rows)

    async def delete(self, key: str) -> bool:
        """See ``Operations.delete``."""
        return bool(await self._delete([key], _ENDS))

    async def _delete(self, keys: Sequence[str], statuses: Sequence[str]) -> int:
        rows = await self._link.ask(statements.DELETE, {"keys": list(keys), "statuses": list(statuses)})
        self._announcer.changed([(key, "deleted") for (key,) in rows])
        return len(rows)

    async def purge(self) -> int:
        """See ``Operations.purge``."""
        total = 0
        telling = bool(self._queue.listeners)
        limit = _CHANGED if telling else _STEP
        for condition in ("scheduled IS NOT NULL", "scheduled IS NULL"):
            statement = statements.PURGE.format(condition, statements.ROW if telling else "key")
            ((horizon,),) = await self._link.ask(statements.HORIZON)
            while rows := await self._link.ask(statement, {"limit": limit, "horizon": horizon}, timeout=_TIMEOUT):
                total += len(rows)
                self._announcer.changed([(key, "deleted") for key, *_ in rows])
                if telling:
                    self._tell_ended(rows, PURGED)
                    # No more than about two MB travel at once.
                    limit = min(_STEP, 2 * limit) if 2 * sum(len(row[1]) for row in rows) < _BYTES else _CHANGED
        return total

    # Pausing

    async def pause(self, *, by: str = "") -> None:
        """See ``Operations.pause``."""
        await self._link.ask(statements.PAUSE, {"by": by.replace("\0", "")})

    async def resume(self) -> None:
        """See ``Operations.resume``."""
        await self._link.ask(statements.RESUME)
        self._announcer.ready()

    async def paused(self) -> Pause | None:
        """See ``Operations.paused``."""
        rows = await self._link.ask(statements.PAUSED)
        return Pause(rows[0][0].astimezone(UTC), rows[0][1]) if rows else None

    # Counting

    async def add_minutes(self, minutes: Sequence[Minute]) -> None:
        """See ``Operations.add_minutes``."""
        summed: dict[tuple[int, str, str], int] = {}
        for minute, task, field, value in tallies.flatten(minutes):
            summed[minute, task, field] = summed.get((minute, task, field), 0) + value
        rows = [(minute, task.replace("\0", ""), field, value) for (minute, task, field), value in summed.items()]
        for start in range(0, len(rows), _STEP):
            columns = map(list, zip(*rows[start : start + _STEP], strict=True))
            names = ("minutes", "tasks", "fields", "values")
            parameters: dict[str, Any] = dict(zip(names, columns, strict=True))
            await self._link.ask(statements.ADD_MINUTES, parameters, again=False)

    async def minutes(self, since: datetime, until: datetime, *, every: int = 1) -> list[Minute]:
        """See ``Operations.minutes``."""
        wanted, found = tallies.span(since, until), tallies.Sums(every)
        if wanted:
            span = {"first": wanted[0], "last": wanted[-1], "every": every}
            for row in await self._link.ask(statements.MINUTES, span, timeout=_TIMEOUT):
                found.add(*row)
        return found.minutes()


def _walks(which: JobFilter) -> bool:
    """Whether the order itself does not tell which jobs are meant."""
    return which.walks or (which.state == "queued" and (which.since or which.until) is not None)
