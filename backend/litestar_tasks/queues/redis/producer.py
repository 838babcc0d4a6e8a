"""Storing jobs: one round trip each, or one for many, with a deadline, and safe to repeat."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from redis.exceptions import AuthenticationError, ReadOnlyError, RedisError, ResponseError
from saq.job import Job

from litestar_tasks.exceptions import QueueUnavailableError
from litestar_tasks.job import Submission
from litestar_tasks.queues.redis import records
from litestar_tasks.queues.redis.batching import Batcher
from litestar_tasks.queues.redis.connection import never_sent
from litestar_tasks.queues.redis.lua import LIMIT, Script
from litestar_tasks.queues.redis.outage import Outage, reason_of

if TYPE_CHECKING:
    from litestar_tasks.queues.redis.connection import Endpoint, Link
    from litestar_tasks.queues.redis.layout import Layout

__all__ = ("Producer",)

_ENQUEUE: Final = Script("enqueue")
_PAUSE: Final = 0.05


@dataclass(slots=True, eq=False)
class _Entry:
    """A job on its way."""

    job: Job
    job_id: str
    document: bytes
    moment: int
    max_losses: int
    mode: Literal["new", "once", "again"]
    flying: bool = False
    """Whether a round trip that it is part of is under way."""
    sent: bool = False
    """Whether one that failed may have reached the server."""


class Producer:
    """Stores the jobs of one queue.

    Args:
        endpoint: The server.
        layout: The queue's keys.
        outage: Whether the server answers.
        label: The queue's name, for errors.
        deadline: Seconds until an enqueue that was not answered raises.
    """

    def __init__(self, endpoint: Endpoint, layout: Layout, outage: Outage, *, label: str, deadline: float) -> None:
        self._layout = layout
        self._outage = outage
        self._label = label
        self._deadline = deadline
        link = endpoint.link()  # one, so that what is enqueued first arrives first
        self._batcher: Batcher[_Entry, Any] = Batcher(self._send, [link, link], LIMIT)
        self._bulk = endpoint.link()
        self._bulk_lock = asyncio.Lock()

    async def store(self, job: Job, *, once: bool) -> Submission:
        """See ``TaskQueue.store``."""
        entry = self._entry(job, once=once)
        answer = await self._insist(entry, self._batcher.ask)
        return self._submission(entry, answer)

    async def store_many(self, jobs: Sequence[tuple[Job, bool]]) -> list[Submission]:
        """Store jobs in order, each with whether it is to be stored once only.

        While the server stores one part, the next one is being encoded.
        """
        submissions: list[Submission] = []
        async with self._bulk_lock:
            flight: asyncio.Task[list[Submission]] | None = None
            try:
                for start in range(0, len(jobs), LIMIT):
                    part = [self._entry(job, once=once) for job, once in jobs[start : start + LIMIT]]
                    if flight is not None:
                        submissions += await flight
                    flight = asyncio.create_task(self._store_part(part))
                    await asyncio.sleep(0)  # so that it is written before the next part is encoded
                if flight is not None:
                    submissions += await flight
            finally:
                if flight is not None and not flight.done():
                    flight.cancel()
                    await asyncio.gather(flight, return_exceptions=True)
        return submissions

    async def close(self) -> None:
        """Close the connections."""
        await self._batcher.close()
        await self._bulk.close()

    def _entry(self, job: Job, *, once: bool) -> _Entry:
        meta = job.meta
        max_losses = 1 if meta and meta.get("at_most_once") else meta.get("max_losses", 0) if meta else 0
        return _Entry(
            job=job,
            job_id=self._layout.job_id(job.key),
            document=records.encode(job),
            moment=int(job.scheduled * 1000) if job.scheduled > 0 else 0,
            max_losses=max_losses,
            mode="once" if once else "new",
        )

    async def _store_part(self, entries: Sequence[_Entry]) -> list[Submission]:
        async def ask(parts: Sequence[_Entry]) -> Any:
            return await self._send(self._bulk, parts)

        answers = await self._insist(entries, ask)
        return [self._submission(entry, answer) for entry, answer in zip(entries, answers, strict=True)]

    async def _insist(self, item: Any, ask: Any) -> Any:
        """Ask until there is an answer or the deadline has passed.

        A repetition is marked as one: what the first attempt stored counts as stored, even if it has run meanwhile.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._deadline
        entries: Sequence[_Entry] = (item,) if isinstance(item, _Entry) else item
        pause = _PAUSE
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    answer = await ask(item)
            except TimeoutError:
                reason = f"no answer within {self._deadline:g} s"
                raise self._unavailable(entries, reason) from None
            except RedisError as error:
                self._outage.failed(error)
                hopeless = isinstance(error, (ResponseError, AuthenticationError)) and not isinstance(
                    error, ReadOnlyError
                )
                known = self._outage.lasting > self._deadline
                if hopeless or known or loop.time() + pause >= deadline:
                    raise self._unavailable(entries, reason_of(error)) from error
                for entry in entries:
                    if entry.sent:
                        entry.mode = "again"
                await asyncio.sleep(pause)
                pause *= 2
            else:
                self._outage.succeeded()
                return answer

    async def _send(self, link: Link, entries: Sequence[_Entry]) -> Any:
        args: list[bytes | str | float] = [self._layout.prefix]
        for entry in entries:
            entry.flying = True
            args += (
                entry.job_id,
                entry.document,
                entry.moment,
                entry.job.priority,
                entry.max_losses,
                entry.mode,
            )
        try:
            # Half of the deadline, so that a connection that died silently can be replaced within it.
            return await _ENQUEUE.run(link, self._layout.incomplete, args, self._deadline / 2)
        except ResponseError:
            for entry in entries:
                entry.flying = False  # refused, with nothing stored
            raise
        except BaseException as error:
            for entry in entries:
                entry.flying, entry.sent = False, entry.sent or not never_sent(error)
            raise

    def _submission(self, entry: _Entry, answer: bytes | int) -> Submission:
        if isinstance(answer, int):
            return Submission(entry.job)
        try:
            stored = records.restore(Job, entry.job.get_queue(), answer)
        except records.UndecodableError:
            return Submission(entry.job, deduplicated=True)
        ours = entry.sent and (stored.queued, stored.function, stored.kwargs) == (
            entry.job.queued,
            entry.job.function,
            entry.job.kwargs,
        )
        return Submission(entry.job if ours else stored, deduplicated=not ours)

    def _unavailable(self, entries: Sequence[_Entry], reason: str) -> QueueUnavailableError:
        maybe = any(entry.sent or entry.flying for entry in entries)
        return QueueUnavailableError(
            self._label, reason, job_id=entries[0].job_id if maybe else None, maybe_enqueued=maybe
        )
