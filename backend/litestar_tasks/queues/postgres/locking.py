"""Storing jobs that take a lock: in one transaction, in which nobody else can take the same ones.

A lock is a column of the job that holds it, under an index of those that have not ended: it can't outlive its job. What
holds beyond the job's end, or without regard to it, is a row of its own, until it expires.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from psycopg import errors

from litestar_tasks.queues import records
from litestar_tasks.queues.postgres.connection import execute
from litestar_tasks.queues.postgres.statements import (
    BIND,
    HEED,
    HOLDERS,
    LOCK_OUT,
    OPEN_WINDOWS,
    REPLACE,
    STANDING,
    WINDOWS,
)

if TYPE_CHECKING:
    from saq.job import Job

    from litestar_tasks.queues.postgres.connection import Connection, Link
    from litestar_tasks.uniqueness import Lock

__all__ = ("Wanted", "store_locked", "store_locked_within")

_REPEATS: Final = 5


@dataclass(slots=True)
class Wanted:
    """A job that is to be stored with its lock, or found by it."""

    job: Job
    lock: Lock
    numbers: dict[str, Any]
    """What its row holds beside the document, by column."""
    row: str | None = None
    """The row of an outbox that it comes from, which is heeded once."""


async def store_locked(
    link: Link,
    queue: str,
    wanted: Sequence[Wanted],
    *,
    once: bool,
    insert: tuple[str, dict[str, Any]],
    timeout: float,
) -> list[bool | str]:
    """Store jobs of which no two have the same key, in order.

    Args:
        link: The connection.
        queue: The queue's name on the wire.
        wanted: The jobs.
        once: Whether keys of jobs that have ended are refused, too.
        insert: The statement that stores them all, and its parameters, of which ``keys`` is one.
        timeout: Seconds to wait for the answer.

    Returns:
        For each job whether it was stored, or the key of the one that stands for it.
    """

    async def work(connection: Connection) -> list[bool | str]:
        async with connection.transaction():
            return await store_locked_within(connection, queue, wanted, once=once, insert=insert)

    for _ in range(_REPEATS - 1):
        try:
            return await link.run(work, timeout=timeout)
        except errors.UniqueViolation:
            pass  # an operator let a job that has ended begin anew, with its lock, at the same moment
    return await link.run(work, timeout=timeout)


async def store_locked_within(
    connection: Connection, queue: str, wanted: Sequence[Wanted], *, once: bool, insert: tuple[str, dict[str, Any]]
) -> list[bool | str]:
    """The same as a part of somebody's transaction, which a ``UniqueViolation`` makes void."""
    return await _Storing(connection, queue, wanted, once=once, insert=insert).run()


class _Storing:
    """Stores jobs with their locks, on a connection with a transaction."""

    def __init__(
        self,
        connection: Connection,
        queue: str,
        wanted: Sequence[Wanted],
        *,
        once: bool,
        insert: tuple[str, dict[str, Any]],
    ) -> None:
        self._connection = connection
        self._queue = queue
        self._wanted = wanted
        self._once = once
        self._insert = insert
        self._holders: dict[str, tuple[str, float]] = {}
        self._windows: dict[str, str] = {}

    async def run(self) -> list[bool | str]:
        locks = sorted({one.lock.name for one in self._wanted})
        await self._ask(LOCK_OUT, numbers=sorted(_number(self._queue, lock) for lock in locks))
        keys = [one.job.key for one in self._wanted]
        standing = {key for (key,) in await self._ask(STANDING, keys=keys, once=self._once)}
        # What is to be replaced must not be claimed meanwhile.
        holders = HOLDERS + (" FOR UPDATE" if any(one.lock.debounce for one in self._wanted) else "")
        for lock, key, put_off_until in await self._ask(holders, locks=locks):
            self._holders[lock] = key, put_off_until or 0
        if any(one.lock.window for one in self._wanted):
            self._windows = dict(await self._ask(OPEN_WINDOWS, locks=locks))

        heeded = await self._heeded()
        answers: list[bool | str] = []
        new: list[int] = []
        replacing: dict[str, int] = {}
        for index, one in enumerate(self._wanted):
            if one.row in heeded:
                answers.append(False)
                continue
            holder = None if one.job.key in standing else self._holder(one)
            if holder is not None:
                answers.append(holder)
                if one.lock.debounce:
                    replacing[holder] = index
            elif one.job.key in standing:
                answers.append(False)
            else:
                answers.append(True)
                new.append(index)
                self._take(one)
        for index in await self._store(new):
            answers[index] = False
        await self._replace(replacing)
        return answers

    async def _heeded(self) -> set[str | None]:
        """The rows that were heeded before. The others are from now on."""
        rows = [one.row for one in self._wanted if one.row is not None]
        if not rows:
            return set()
        fresh = {row for (row,) in await self._ask(HEED, rows=rows)}
        return {row for row in rows if row not in fresh}

    def _holder(self, one: Wanted) -> str | None:
        """The key of the job that stands for all that want a lock."""
        lock = one.lock
        if lock.window and lock.name in self._windows:
            return self._windows[lock.name]
        if lock.until == "enqueued":
            return None
        return self._holders.get(lock.name, (None,))[0]

    def _take(self, one: Wanted) -> None:
        """Those that follow find this one."""
        if one.lock.until != "enqueued":
            self._holders[one.lock.name] = one.job.key, one.lock.deadline
        if one.lock.window:
            self._windows[one.lock.name] = one.job.key

    async def _store(self, new: Sequence[int]) -> list[int]:
        """Store jobs with their locks; returns those whose key somebody else has taken just now."""
        if not new:
            return []
        statement, parameters = self._insert
        chosen = {
            name: [value[index] for index in new] if isinstance(value, list) else value
            for name, value in parameters.items()
        }
        stored = {key for (key,) in await execute(self._connection, statement, chosen)}
        holding = [one for one in (self._wanted[index] for index in new) if one.job.key in stored]
        await self._ask(
            BIND,
            keys=[one.job.key for one in holding],
            locks=[None if one.lock.until == "enqueued" else one.lock.name for one in holding],
            until_starts=[one.lock.until == "started" for one in holding],
            deadlines=[one.lock.deadline or None for one in holding],
        )
        timed = [one for one in holding if one.lock.window]
        if timed:
            await self._ask(
                WINDOWS,
                locks=[one.lock.name for one in timed],
                keys=[one.job.key for one in timed],
                windows=[one.lock.window for one in timed],
            )
        return [index for index in new if self._wanted[index].job.key not in stored]

    async def _replace(self, replacing: dict[str, int]) -> None:
        """Give jobs that wait the arguments of later calls, and put them off."""
        for key, index in replacing.items():
            one = self._wanted[index]
            deadline = self._holders[one.lock.name][1]
            due = min(one.job.scheduled, deadline) if deadline else one.job.scheduled
            document = records.encode(one.job, key=key, scheduled=due)
            await self._ask(REPLACE, **{**one.numbers, "key": key, "job": document, "due": float(due)})

    async def _ask(self, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
        return await execute(self._connection, statement, {"queue": self._queue, **parameters})


def _number(queue: str, lock: str) -> int:
    """By what the server knows a lock within a transaction."""
    digest = hashlib.blake2b(f"{queue} {lock}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)
