"""Storing jobs: one round trip each, or one for many, with a deadline, and safe to repeat."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from saq.job import Job

from litestar_tasks.exceptions import BrokerError, PayloadError, QueueUnavailableError
from litestar_tasks.job import Submission
from litestar_tasks.queues import records
from litestar_tasks.queues.batching import Batcher
from litestar_tasks.queues.following import has_follow_ups
from litestar_tasks.queues.locks import lock_of
from litestar_tasks.queues.postgres.connection import Away, Connection, execute, reason_of, rejects
from litestar_tasks.queues.postgres.locking import Wanted, store_locked, store_locked_within
from litestar_tasks.queues.postgres.records import job_of
from litestar_tasks.queues.postgres.statements import DELIVER_MANY, ENQUEUE_MANY, ENQUEUE_ONE, READ
from litestar_tasks.queues.producing import (
    check_texts,
    max_losses_of,
    store_in_parts,
    submission_of,
    tag_of,
    texts_of,
)

if TYPE_CHECKING:
    from saq.queue.base import Queue

    from litestar_tasks.queues.base import Delivery
    from litestar_tasks.queues.outage import Outage
    from litestar_tasks.queues.postgres.connection import Connection, Link
    from litestar_tasks.queues.postgres.listener import Announcer
    from litestar_tasks.uniqueness import Lock

__all__ = ("Producer", "insertions")

AnswerT = TypeVar("AnswerT")

_PAUSE: Final = 0.05
_TOGETHER: Final = 200
_BULK: Final = 500
_SOON: Final = 1.0
"""What becomes due earlier than a worker looks by itself has to wake one."""


_Answer: TypeAlias = bool | str
"""Whether a job was stored, or the key of the one that stands for it."""


@dataclass(slots=True, eq=False)
class _Entry:
    """A job on its way."""

    job: Job
    document: bytes
    once: bool
    lock: Lock | None
    row: str | None = None
    """The row of an outbox that it comes from."""
    flying: bool = False
    """Whether a round trip that it is part of is under way."""
    sent: bool = False
    """Whether one that failed may have reached the server."""

    @property
    def refuses_ended(self) -> bool:
        """Whether the key of a job that has ended is refused, too: if sent before, this one may have run since."""
        return self.once or (self.sent and self.row is None)


class Producer:
    """Stores the jobs of one queue.

    Args:
        queue: The queue.
        link: The connection.
        outage: Whether it answers.
        announcer: Tells workers that there is work.
        label: The queue's name, for errors.
        deadline: Seconds until an enqueue that was not answered raises.
    """

    def __init__(
        self,
        queue: Queue,
        link: Link,
        outage: Outage,
        announcer: Announcer,
        *,
        label: str,
        deadline: float,
    ) -> None:
        self._queue = queue
        self._outage = outage
        self._announcer = announcer
        self._label = label
        self._deadline = deadline
        self._link = link
        self._batcher: Batcher[Link, _Entry, _Answer | PayloadError] = Batcher(
            lambda _, entries: self._send(entries, apart=True), [link], _TOGETHER
        )
        self._bulk_lock = asyncio.Lock()

    async def store(self, job: Job, *, once: bool) -> Submission:
        """See ``TaskQueue.store``. Those who come while another one is under way share the next round trip."""
        entry = _entry(job, once=once)
        stored = await self._insist([entry], lambda: self._batcher.ask(entry))
        if isinstance(stored, PayloadError):
            raise stored
        return await self._submission(entry, stored)

    async def store_many(self, jobs: Sequence[tuple[Job, bool]]) -> list[Submission]:
        """Store jobs in order, each with whether it is to be stored once only.

        While the server stores one part, the next one is being encoded.
        """
        parts = (
            [_entry(job, once=once) for job, once in jobs[start : start + _BULK]]
            for start in range(0, len(jobs), _BULK)
        )
        async with self._bulk_lock:
            return await store_in_parts(parts, self._store_part)

    async def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """See ``TaskQueue.deliver``. Five hundred jobs travel together, each statement with its markers."""
        async with self._bulk_lock:
            for start in range(0, len(deliveries), _BULK):
                part = [_entry(one.job, once=one.once) for one in deliveries[start : start + _BULK]]
                for entry, one in zip(part, deliveries[start : start + _BULK], strict=True):
                    entry.row = one.row
                await self._insist(part, partial(self._send, part))

    async def store_within(self, connection: Connection, jobs: Sequence[Job]) -> None:
        """Store jobs as a part of somebody's transaction, but for those whose keys are taken.

        Raises:
            PayloadError: Postgres cannot hold one of them.
            psycopg.Error: The server refuses one; the transaction is void.
        """
        for group in _groups([_entry(job, once=False) for job in jobs]):
            insert = _statement(self._queue.name, group)
            if wanted := _wanted(group):
                await store_locked_within(connection, self._queue.name, wanted, once=False, insert=insert)
            else:
                await execute(connection, *insert)

    async def close(self) -> None:
        """Give up what is still to be sent, and close the connection."""
        await self._batcher.close()

    async def _store_part(self, entries: Sequence[_Entry]) -> list[Submission]:
        answers = await self._insist(entries, lambda: self._send(entries))
        return [await self._submission(entry, stored) for entry, stored in zip(entries, answers, strict=True)]

    async def _insist(self, entries: Sequence[_Entry], ask: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
        """Ask until there is an answer or the deadline has passed.

        A repetition is marked as one: what the first attempt stored counts as stored, even if it has run meanwhile.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._deadline
        pause = _PAUSE
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    answer = await ask()
            except TimeoutError:
                raise self._unavailable(entries, f"no answer within {self._deadline:g} s") from None
            except BrokerError as error:
                self._outage.failed(error)
                # A connection that was made before an outage says nothing about the server after it.
                known = self._outage.lasting > self._deadline and not (isinstance(error, Away) and error.sent)
                if not isinstance(error, Away) or known or loop.time() + pause >= deadline:
                    raise self._unavailable(entries, str(error)) from error
                await asyncio.sleep(pause)
                pause *= 2
            else:
                self._outage.succeeded()
                return answer

    async def _send(self, entries: Sequence[_Entry], *, apart: bool = False) -> list[Any]:
        """Store entries in order, and return what became of each.

        Args:
            entries: The entries.
            apart: Whether they are different callers': one that Postgres refuses has its error for an answer, and takes
                no other with it. Defaults to False: the error is raised, and those behind it are not stored.
        """
        for entry in entries:
            entry.flying = True
        answers: list[_Answer | PayloadError] = []
        try:
            for group in _groups(entries):
                await self._send_group(group, answers, apart=apart)
        except BaseException:
            for entry in entries[: len(answers)]:
                entry.sent = True  # they are stored, and will be sent again with the others
            raise
        finally:
            for entry in entries:
                entry.flying = False
        soon = time.time() + _SOON
        if any(answer and entry.job.scheduled < soon for entry, answer in zip(entries, answers, strict=True)):
            self._announcer.ready()
        return answers

    async def _send_group(self, group: Sequence[_Entry], answers: list[_Answer | PayloadError], *, apart: bool) -> None:
        statement, parameters = _statement(self._queue.name, group)
        try:
            # Half of the deadline, so that a connection that died silently can be replaced within it.
            timeout = self._deadline if self._link.connection is None else self._deadline / 2
            if group[0].lock is not None:
                answers += await self._send_locked(group, parameters, timeout)
                return
            rows = await self._link.ask(statement, parameters, timeout=timeout)
        except Away as error:
            for entry in group:
                entry.sent = entry.sent or error.sent
            raise
        except asyncio.CancelledError:
            for entry in group:
                entry.sent = True
            raise
        except BrokerError:
            raise
        except Exception as error:
            if not rejects(error):
                raise
            if len(group) > 1:  # find out which, alone
                for entry in group:
                    await self._send_group([entry], answers, apart=apart)
                return
            refusal = PayloadError(group[0].job.function, f"Postgres refuses the job: {reason_of(error)}")
            if not apart:
                raise refusal from error
            answers.append(refusal)
            return
        if len(group) == 1:
            answers.append(bool(rows))
        else:
            stored = {key for (key,) in rows}
            answers += [entry.job.key in stored for entry in group]

    async def _send_locked(self, group: Sequence[_Entry], parameters: dict[str, Any], timeout: float) -> list[_Answer]:
        insert = ENQUEUE_MANY, parameters
        return await store_locked(
            self._link, self._queue.name, _wanted(group), once=group[0].refuses_ended, insert=insert, timeout=timeout
        )

    async def _submission(self, entry: _Entry, stored: _Answer) -> Submission:
        if stored is True:
            return Submission(entry.job)
        key = stored or entry.job.key
        try:
            rows = await self._link.ask(READ, {"queue": self._queue.name, "keys": [key]})
        except BrokerError as error:
            self._outage.failed(error)
            raise QueueUnavailableError(self._label, str(error)) from error
        known = job_of(self._queue, rows[0]) if rows else None
        if key != entry.job.key:
            gone = Job(function=entry.job.function, queue=self._queue, key=key)
            return Submission(known or gone, deduplicated=True)
        if known is None:
            return Submission(entry.job, deduplicated=True)
        return submission_of(entry.job, known, sent=entry.sent)

    def _unavailable(self, entries: Sequence[_Entry], reason: str) -> QueueUnavailableError:
        maybe = any(entry.sent or entry.flying for entry in entries)
        job_id = self._queue.job_id(entries[0].job.key) if maybe else None
        return QueueUnavailableError(self._label, reason, job_id=job_id, maybe_enqueued=maybe)


def insertions(queue: str, jobs: Sequence[tuple[Job, bool]]) -> list[tuple[str, dict[str, Any], list[Job]]]:
    """Statements that store jobs in order on a connection of somebody else's, each with its parameters and its jobs.

    One of one job answers with a row if it was stored; one of several with the keys of those that were.

    Args:
        queue: The queue's name on the wire.
        jobs: The jobs, each with whether it is to be stored once only.

    Raises:
        PayloadError: Postgres could not hold one of them.
    """
    groups = _groups([_entry(job, once=once) for job, once in jobs])
    return [(*_statement(queue, group), [entry.job for entry in group]) for group in groups]


def _entry(job: Job, *, once: bool) -> _Entry:
    _check(job)
    return _Entry(job, records.encode(job), once, lock_of(job))


def _groups(entries: Sequence[_Entry]) -> list[list[_Entry]]:
    """Entries in order, in groups that one statement can store: it can't meet a key twice."""
    groups: list[list[_Entry]] = []
    keys: set[str] = set()
    kind: tuple[bool, bool] | None = None
    for entry in entries:
        own = entry.refuses_ended, entry.lock is None
        if groups and entry.job.key not in keys and kind == own:
            groups[-1].append(entry)
        else:
            groups.append([entry])
            keys, kind = set(), own
        keys.add(entry.job.key)
    return groups


_NAMES: Final = ("key", "job", "priority", "group_key", "due", "max_losses", "attempts", "task", "tag", "follows")
_COLUMNS: Final = (
    *("keys", "jobs", "priorities", "group_keys", "dues", "max_losses", "attempts", "tasks", "tags", "follows"),
)


def _row(entry: _Entry) -> tuple[Any, ...]:
    job = entry.job
    return (
        job.key,
        entry.document,
        job.priority,
        job.group_key,
        float(job.scheduled),
        max_losses_of(job) or None,
        job.attempts,
        job.function,
        tag_of(job),
        has_follow_ups(job),
    )


def _wanted(group: Sequence[_Entry]) -> list[Wanted]:
    """Those of a group that take a lock: all of them, or none."""
    return [
        Wanted(entry.job, entry.lock, dict(zip(_NAMES, _row(entry), strict=True)), entry.row)
        for entry in group
        if entry.lock is not None
    ]


def _statement(queue: str, group: Sequence[_Entry]) -> tuple[str, dict[str, Any]]:
    rows = [_row(entry) for entry in group]
    common = {"queue": queue, "once": group[0].refuses_ended}
    if len(rows) == 1 and group[0].lock is None and group[0].row is None:
        return ENQUEUE_ONE, {**common, **dict(zip(_NAMES, rows[0], strict=True))}
    parameters = {**common, **dict(zip(_COLUMNS, map(list, zip(*rows, strict=True)), strict=True))}
    if group[0].row is None:
        return ENQUEUE_MANY, parameters
    return DELIVER_MANY, {**parameters, "rows": [entry.row for entry in group]}


def _check(job: Job) -> None:
    """Refuse text that Postgres can't hold. What is within the document can: JSON escapes it."""
    check_texts(job)
    for what, text in texts_of(job):
        if text and "\0" in text:
            raise PayloadError(job.function, f"the job's {what} {text!r} holds a NUL, which Postgres cannot store")
