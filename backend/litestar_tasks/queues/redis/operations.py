"""What an operator does with a queue on Redis: in short calls, of which none grows with the queue."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Final

import msgspec
from saq.job import Job, Status

from litestar_tasks.moments import moment_of
from litestar_tasks.queues import cursors, records, tallies
from litestar_tasks.queues.following import has_follow_ups
from litestar_tasks.queues.history import begin_anew
from litestar_tasks.queues.operations import (
    BY_OPERATOR,
    ENDED,
    PURGED,
    STATES,
    BulkAction,
    BulkStep,
    JobFilter,
    JobState,
    Minute,
    Operations,
    Page,
    Pause,
)
from litestar_tasks.queues.producing import max_losses_of
from litestar_tasks.queues.redis.listings import BYTES, Found, Listings
from litestar_tasks.queues.redis.lua import LIMIT, Script
from litestar_tasks.queues.redis.producer import lock_terms
from litestar_tasks.queues.redis.retrying import RetryingLink

if TYPE_CHECKING:
    from litestar_tasks.queues.base import TaskQueue
    from litestar_tasks.queues.redis.connection import Endpoint
    from litestar_tasks.queues.redis.layout import Layout
    from litestar_tasks.queues.retention import Limits

__all__ = ("RedisOperations",)

_ABORT: Final = Script("abort")
_COUNTS: Final = Script("counts")
_DELETE: Final = Script("delete")
_MINUTES: Final = Script("minutes")
_PAUSE: Final = Script("pause")
_PURGE: Final = Script("purge")
_RERUN: Final = Script("rerun")
_TALLY: Final = Script("tally")

_READ: Final = 500
"""Records that are read for one page at the most, however few of them match."""
_ENDED_AT_ONCE: Final = 1
"""What ``abort`` answers for a job that waited."""
_CHANGED: Final = 50
"""Records that one call writes anew at the most: their digests are made while the server answers nobody else."""
_ENOUGH: Final = 8_000
"""Counters of minutes that one call reads, roughly; it takes the server a few ms."""
_ROUNDS: Final = 100
_TALLIED: Final = 1_000
_counters: Final = msgspec.msgpack.Decoder(dict[str, int])


class RedisOperations(Operations):
    """An operator's side of one queue.

    Args:
        queue: The queue, for the jobs made here.
        label: Its name, for errors.
        endpoint: The server.
        layout: The queue's keys.
        limits: What is kept of jobs that have ended.
    """

    def __init__(self, queue: TaskQueue, label: str, endpoint: Endpoint, layout: Layout, limits: Limits) -> None:
        self._queue = queue
        self._layout = layout
        self._limits = limits
        self._link = RetryingLink(label, endpoint, layout)
        self._probe = 0
        self._listings = Listings(queue, layout, self._link)

    async def close(self) -> None:
        """Close the connection; the next call opens it again."""
        await self._link.close()

    # Listing

    async def counts(self) -> dict[JobState, int]:
        """See ``Operations.counts``."""
        more, rounds, numbers = 1, 0, []
        while more and rounds < _ROUNDS:
            more, *numbers = await self._link.run(_COUNTS, self._probe, again=True)
            self._probe, rounds = self._probe + 100, rounds + 1
        order: tuple[JobState, ...] = ("queued", "scheduled", "retrying", "active", *ENDED)
        found = dict(zip(order, map(int, numbers), strict=True))
        return {state: found[state] for state in STATES}

    async def page(self, which: JobFilter, *, limit: int = 50, cursor: str | None = None) -> Page:
        """See ``Operations.page``."""
        cursors.check_limit(limit)
        place = None if cursor is None else cursors.read(which, cursor, *_shape(which))
        walk = await self._listings.walk(which, place, limit, _READ)
        return Page([job for _, job in walk.matches], None if walk.place is None else cursors.write(which, walk.place))

    # Changing

    async def bulk(
        self, action: BulkAction, which: JobFilter, *, limit: int = 200, cursor: str | None = None
    ) -> BulkStep:
        """See ``Operations.bulk``."""
        which.allows(action)
        cursors.check_limit(limit)
        # What ends again while the operation goes on stands behind its beginning, and is left to the next one.
        place: cursors.Place | None = None
        if cursor is None:
            seconds, micros = await self._link.call("TIME", again=True)
            horizon = int(seconds) * 1000 + int(micros) // 1000 + 1
            if which.state in ENDED:
                await asyncio.sleep(0.002)  # so that it lies behind before the first job is changed
        else:
            first, *place = cursors.read(which, cursor, int, *_shape(which))
            horizon = int(first)
        walk = await self._listings.walk(which, place, limit, limit, horizon if which.state in ENDED else None)
        done = 0
        for start in range(0, len(walk.matches), _CHANGED):
            done += await self._act(action, which, walk.matches[start : start + _CHANGED])
        following = None if walk.place is None else cursors.write(which, [horizon, *walk.place])
        return BulkStep(done, walk.read - done, following)

    async def _act(self, action: BulkAction, which: JobFilter, found: Sequence[tuple[Found, Job]]) -> int:
        if action == "retry":
            return await self._rerun([(one.job_id, one.document, job) for one, job in found])
        pairs = [value for one, _ in found for value in (one.job_id, one.state)]
        if action == "delete":
            return sum(await self._link.run(_DELETE, which.state, *pairs))
        reason = records.to_json(BY_OPERATOR)
        answer = await self._link.run(_ABORT, reason, self._limits.failed_ttl, self._limits.others, *pairs)
        if self._queue.listeners:
            waited = (job for (_, job), how in zip(found, answer, strict=True) if how == _ENDED_AT_ONCE)
            self._queue.tell_ended(waited, BY_OPERATOR)
        return sum(map(bool, answer))

    async def rerun(self, key: str) -> bool:
        """See ``Operations.rerun``."""
        job_id = self._layout.job_id(key)
        document = await self._link.call("GET", job_id, again=True)
        if document is None:
            return False
        try:
            job = records.restore(Job, self._queue, document, key=key)
        except records.UndecodableError:
            return False
        return bool(await self._rerun([(job_id, document, job)]))

    async def _rerun(self, found: Sequence[tuple[bytes | str, bytes, Job]]) -> int:
        args: list[bytes | str | float] = []
        done = size = 0
        for job_id, document, job in found:
            digest = new = b""
            if job.status in (Status.COMPLETE, Status.FAILED, Status.ABORTED) and job.function != records.UNDECODABLE:
                digest = hashlib.sha1(document, usedforsecurity=False).hexdigest().encode()
                begin_anew(job)
                new = records.encode(job)
            follows, terms = int(has_follow_ups(job)), lock_terms(job, anew=True) if new else ""
            args += (job_id, digest, new, job.priority, max_losses_of(job), follows, terms)
            size += len(document)
            if size > BYTES:
                done, args, size = done + sum(await self._link.run(_RERUN, *args)), [], 0
        return done + (sum(await self._link.run(_RERUN, *args)) if args else 0)

    async def delete(self, key: str) -> bool:
        """See ``Operations.delete``."""
        (gone,) = await self._link.run(_DELETE, "", self._layout.job_id(key), "")
        return bool(gone)

    async def purge(self) -> int:
        """See ``Operations.purge``."""
        waiting = sum(number for state, number in (await self.counts()).items() if state in ("queued", "scheduled"))
        # Beside the jobs, lists hold ids of those that were aborted; and while jobs come, there is no end to wait for.
        enough = 4 * waiting + 100 * LIMIT
        total = seen = 0
        telling = bool(self._queue.listeners)
        limit = _CHANGED if telling else LIMIT
        while seen < enough:
            removed, looked, documents = await self._link.run(_PURGE, limit, "1" if telling else "")
            total, seen = total + removed, seen + looked
            if not looked:
                break
            if telling:
                self._queue.tell_ended(self._readable(documents), PURGED)
                # No more than about two MB travel at once.
                limit = min(LIMIT, 2 * limit) if 2 * sum(map(len, filter(None, documents))) < BYTES else _CHANGED
        return total

    def _readable(self, documents: Sequence[bytes | None]) -> Iterator[Job]:
        for document in filter(None, documents):
            with suppress(records.UndecodableError):
                yield records.restore(Job, self._queue, document)

    # Pausing

    async def pause(self, *, by: str = "") -> None:
        """See ``Operations.pause``."""
        await self._link.run(_PAUSE, records.to_json({"since": int(time.time() * 1000), "by": by}), again=True)

    async def resume(self) -> None:
        """See ``Operations.resume``."""
        await self._link.run(_PAUSE, "", again=True)

    async def paused(self) -> Pause | None:
        """See ``Operations.paused``."""
        text = await self._link.call("GET", self._layout.key("paused"), again=True)
        if text is None:
            return None
        try:
            fields = json.loads(text)
            return Pause(moment_of(fields["since"]), str(fields["by"]))
        except (ValueError, TypeError, LookupError, OverflowError):
            return Pause(moment_of(0), "")  # written by hand; that there is something counts

    # Counting

    async def add_minutes(self, minutes: Sequence[Minute]) -> None:
        """See ``Operations.add_minutes``."""
        triples = [(minute, f"{task}:{field}", number) for minute, task, field, number in tallies.flatten(minutes)]
        for start in range(0, len(triples), _TALLIED):
            await self._link.run(_TALLY, *(value for triple in triples[start : start + _TALLIED] for value in triple))

    async def minutes(self, since: datetime, until: datetime, *, every: int = 1) -> list[Minute]:
        """See ``Operations.minutes``."""
        wanted, found = tallies.span(since, until), tallies.Sums(every)
        following = wanted.start
        while following in wanted:
            following, *spans = await self._link.run(_MINUTES, following, wanted[-1], every, _ENOUGH, again=True)
            for start, packed in zip(spans[::2], spans[1::2], strict=True):
                for name, number in _counters.decode(packed).items():
                    task, _, field = name.rpartition(":")  # a task's name may hold a colon
                    found.add(start, task, field, number)
        return found.minutes()


def _shape(which: JobFilter) -> tuple[type, ...]:
    """What a place in a listing is made of."""
    return (str, int, str, int) if which.state == "queued" else (str, str)
