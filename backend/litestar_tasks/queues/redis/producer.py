"""Storing jobs: one round trip each, or one for many, with a deadline, and safe to repeat."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from redis.exceptions import AuthenticationError, NoScriptError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from saq.job import Job

from litestar_tasks.exceptions import BrokerError, QueueUnavailableError
from litestar_tasks.job import Submission
from litestar_tasks.queues import records
from litestar_tasks.queues.batching import Batcher
from litestar_tasks.queues.following import has_follow_ups
from litestar_tasks.queues.locks import lock_anew, lock_of
from litestar_tasks.queues.outage import Outage
from litestar_tasks.queues.producing import check_texts, max_losses_of, store_in_parts, submission_of
from litestar_tasks.queues.redis.connection import never_sent
from litestar_tasks.queues.redis.durability import NotDurableError
from litestar_tasks.queues.redis.lua import LIMIT, Script
from litestar_tasks.queues.redis.reasons import reason_of

if TYPE_CHECKING:
    from litestar_tasks.queues.redis.connection import Endpoint, Link
    from litestar_tasks.queues.redis.durability import Guarantee
    from litestar_tasks.queues.redis.layout import Layout

__all__ = ("Producer", "lock_terms")

_ENQUEUE: Final = Script("enqueue")
_PAUSE: Final = 0.05
_REMEMBERED: Final = 60.0
"""Seconds for which a caller who was left in doubt may send the job again: as long as every record is kept."""
_SHARED: Final = 10
"""How many calls of the script share one wait for a guarantee, at the most."""


@dataclass(slots=True, eq=False)
class _Entry:
    """A job on its way."""

    job: Job
    job_id: str
    document: bytes
    moment: int
    max_losses: int
    follows: int
    mode: str
    terms: str = ""
    """Which lock it takes, and which group it is in, as the script reads it; empty for most."""
    flying: bool = False
    """Whether a round trip that it is part of is under way."""
    sent: bool = False
    """Whether one that failed may have reached the server."""

    def repeat(self) -> None:
        """Mark the next attempt as one after others, of which one may have been heard."""
        self.sent = True
        if self.mode == "new":
            self.mode = f"again:{self.job.queued}"


class Producer:
    """Stores the jobs of one queue.

    Args:
        endpoint: The server.
        layout: The queue's keys.
        outage: Whether the server answers.
        label: The queue's name, for errors.
        deadline: Seconds until an enqueue that was not answered raises.
        guarantee: What is asked of the server beyond its answer. Defaults to None: nothing.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        layout: Layout,
        outage: Outage,
        *,
        label: str,
        deadline: float,
        guarantee: Guarantee | None = None,
    ) -> None:
        self._layout = layout
        self._outage = outage
        self._label = label
        self._deadline = deadline
        link = endpoint.link()  # one, so that what is enqueued first arrives first
        self._batcher: Batcher[Link, _Entry, Any]
        if guarantee is None:
            self._batcher = Batcher(self._send, [link, link], LIMIT)
        else:
            # A connection that waits takes no more commands: those who come meanwhile travel, and wait, together.
            self._batcher = Batcher(self._send_and_wait, [link], LIMIT * _SHARED)
        self._guarantee = guarantee
        self._touch = ("SET", layout.key("written"), 1)
        self._taught = -1
        """The epoch of the connection whose server knows the script."""
        self._bulk = endpoint.link()
        self._bulk_lock = asyncio.Lock()
        self._doubtful: dict[str, tuple[float, Job]] = {}
        """Jobs of which the caller was told that they may have got in, by id, in the order of the moments."""

    async def store(self, job: Job, *, once: bool) -> Submission:
        """See ``TaskQueue.store``."""
        entry = self._entry(job, once=once)
        answer = await self._insist(entry, self._batcher.ask)
        return self._submission(entry, answer)

    async def store_many(self, jobs: Sequence[tuple[Job, bool]], rows: Sequence[str] = ()) -> list[Submission]:
        """Store jobs in order, each with whether it is to be stored once only.

        While the server stores one part, the next one is being encoded. All parts share one wait for a guarantee.

        Args:
            jobs: The jobs.
            rows: The rows of an outbox that they come from, each of which is heeded once. Defaults to none.
        """

        def parts() -> Iterator[list[_Entry]]:
            for start in range(0, len(jobs), LIMIT):
                part = [self._entry(job, once=once) for job, once in jobs[start : start + LIMIT]]
                for entry, row in zip(part, rows[start : start + LIMIT], strict=False):
                    entry.mode = f"row:{'once' if entry.mode == 'once' else 'new'}:{row}"
                yield part

        async with self._bulk_lock:
            epoch = await self._begin_bulk(self._guarantee) if self._guarantee else 0
            submissions = await store_in_parts(parts(), self._store_part)
            if self._guarantee and jobs:
                await self._confirm_bulk(self._guarantee, epoch, self._layout.job_id(jobs[0][0].key))
        return submissions

    def arguments(self, job: Job) -> list[bytes | str | float]:
        """A new job as ``enqueue.lua`` takes it."""
        return self._arguments([self._entry(job, once=False)])

    async def store_again(self, job: Job) -> None:
        """Store a job that may have been stored by an earlier call, also by another process, and may have run since."""
        entry = self._entry(job, once=False)
        entry.repeat()
        await self._insist(entry, self._batcher.ask)

    async def store_owed(self, owed: bytes, jobs: Sequence[Job]) -> None:
        """Store what follows a job that has ended, in one step with the end of its being owed; see ``enqueue.lua``.

        Raises:
            RedisError: It is unknown whether it was done; it is safe to ask again.
        """
        args = self._arguments([self._entry(job, once=False) for job in jobs], owed)
        await _ENQUEUE.run(self._bulk, self._layout, args, self._deadline)

    async def close(self) -> None:
        """Close the connections."""
        await self._batcher.close()
        await self._bulk.close()

    def _entry(self, job: Job, *, once: bool) -> _Entry:
        check_texts(job)
        job_id = self._layout.job_id(job.key)
        earlier = self._earlier(job, job_id)
        if earlier is not None:
            job.queued = earlier.queued  # by which its record is known
        entry = _Entry(
            job=job,
            job_id=job_id,
            document=records.encode(job),
            moment=int(job.scheduled * 1000) if job.scheduled > 0 else 0,
            max_losses=max_losses_of(job),
            follows=int(has_follow_ups(job)),
            mode="once" if once else "new",
            terms=lock_terms(job),
        )
        if earlier is not None:
            entry.repeat()
        return entry

    def _earlier(self, job: Job, job_id: str) -> Job | None:
        """The same job, if its caller could not be told whether it got in."""
        if not self._doubtful:
            return None
        now = asyncio.get_running_loop().time()
        while self._doubtful and next(iter(self._doubtful.values()))[0] < now - _REMEMBERED:
            del self._doubtful[next(iter(self._doubtful))]
        _, earlier = self._doubtful.pop(job_id, (0.0, None))
        same = earlier is not None and (earlier.function, earlier.kwargs) == (job.function, job.kwargs)
        return earlier if same else None

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
            except (BrokerError, NotDurableError) as error:
                raise self._unavailable(entries, str(error)) from error
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
                        entry.repeat()
                await asyncio.sleep(pause)
                pause *= 2
            else:
                self._outage.succeeded()
                return answer

    async def _send(self, link: Link, entries: Sequence[_Entry]) -> Any:
        args = self._arguments(entries)
        try:
            # Half of the deadline, so that a connection that died silently can be replaced within it.
            answer = await _ENQUEUE.run(link, self._layout, args, self._deadline / 2)
        except ResponseError:
            for entry in entries:
                entry.flying = False  # refused, with nothing stored
            raise
        except BaseException as error:
            for entry in entries:
                entry.flying, entry.sent = False, entry.sent or not never_sent(error)
            raise
        return _each(answer, entries)

    def _arguments(self, entries: Sequence[_Entry], owed: bytes = b"") -> list[bytes | str | float]:
        args: list[bytes | str | float] = [owed]
        for entry in entries:
            entry.flying = True
            args += (
                entry.job_id,
                entry.document,
                entry.moment,
                entry.job.priority,
                entry.max_losses,
                entry.follows,
                f"{entry.mode} {entry.terms}" if entry.terms else entry.mode,
            )
        return args

    async def _send_and_wait(self, link: Link, entries: Sequence[_Entry]) -> Sequence[Any]:
        """Store jobs and wait for their guarantee, in one round trip.

        Between the two goes a write that changes nothing. The server waits for what this connection wrote, and a job
        that was there already, such as one that is sent again, was written by another: it would not be waited for.
        """
        guarantee = cast("Guarantee", self._guarantee)
        await guarantee.inspect()
        parts = [entries[start : start + LIMIT] for start in range(0, len(entries), LIMIT)]
        # A connection's first call brings the script: to be told that the server lacks it would cost a wait.
        names = [("EVALSHA", _ENQUEUE.digest) if self._taught == link.epoch else ("EVAL", _ENQUEUE.source)]
        names += [("EVALSHA", _ENQUEUE.digest)] * (len(parts) - 1)
        calls = [
            (*name, 1, self._layout.incomplete, self._layout.prefix, *self._arguments(part))
            for name, part in zip(names, parts, strict=True)
        ]
        try:
            *answers, written, waited = await link.call_all(
                (*calls, self._touch, guarantee.question()), self._deadline / 2, last=self._deadline
            )
        except BaseException as error:
            for entry in entries:
                entry.flying, entry.sent = False, entry.sent or not never_sent(error)
            raise
        refusals = [answer for answer in answers if isinstance(answer, ResponseError)]
        for part, answer in zip(parts, answers, strict=True):
            for entry in part:
                entry.flying, entry.sent = False, entry.sent or not isinstance(answer, ResponseError)
        self._taught = -1 if refusals else link.epoch
        if refusals and isinstance(refusals[0], NoScriptError):  # somebody flushed the scripts
            for entry in entries:
                if entry.sent:
                    entry.repeat()
            return await self._send_and_wait(link, entries)
        if refusals:
            raise refusals[0]
        guarantee.judge(written if isinstance(written, ResponseError) else waited)
        return [one for part, answer in zip(parts, answers, strict=True) for one in _each(answer, part)]

    async def _begin_bulk(self, guarantee: Guarantee) -> int:
        """See that the connection lives, and return its epoch."""

        async def ask(_: Sequence[_Entry]) -> Any:
            await guarantee.inspect()
            return await self._bulk.call(("PING",), self._deadline / 2)

        await self._insist((), ask)
        return self._bulk.epoch

    async def _confirm_bulk(self, guarantee: Guarantee, epoch: int, job_id: str) -> None:
        """Wait for the guarantee of all that was stored since ``_begin_bulk``.

        Raises:
            QueueUnavailableError: It was not confirmed, or the connection is another one by now: then the server may be
                one that came up again without the first jobs.
        """
        try:
            written, waited = await self._bulk.call_all(
                (self._touch, guarantee.question()), self._deadline / 2, last=self._deadline
            )
            if self._bulk.epoch != epoch:
                raise RedisConnectionError("the connection was lost before the jobs were confirmed")
            guarantee.judge(written if isinstance(written, ResponseError) else waited)
        except (RedisError, NotDurableError) as error:
            reason = reason_of(error) if isinstance(error, RedisError) else str(error)
            raise QueueUnavailableError(self._label, reason, job_id=job_id, maybe_enqueued=True) from error

    def _submission(self, entry: _Entry, answer: bytes | int | list[bytes]) -> Submission:
        if isinstance(answer, int):
            return Submission(entry.job)
        if isinstance(answer, list):
            job_id, answer = answer
            key = self._layout.job_key(job_id.decode())
            if key != entry.job.key:
                return Submission(self._stored(entry.job, key, answer), deduplicated=True)
        try:
            stored = records.restore(Job, entry.job.get_queue(), answer)
        except records.UndecodableError:
            return Submission(entry.job, deduplicated=True)
        return submission_of(entry.job, stored, sent=entry.sent)

    def _stored(self, wanted: Job, key: str, document: bytes) -> Job:
        """The job that stands for another one; no more than its key where its record is gone, or can't be read."""
        queue = wanted.get_queue()
        try:
            return records.restore(Job, queue, document, key=key)
        except records.UndecodableError:
            return Job(function=wanted.function, queue=queue, key=key)

    def _unavailable(self, entries: Sequence[_Entry], reason: str) -> QueueUnavailableError:
        doubtful = [entry for entry in entries if entry.sent or entry.flying]
        now = asyncio.get_running_loop().time()
        for entry in doubtful:
            self._doubtful.pop(entry.job_id, None)
            self._doubtful[entry.job_id] = now, entry.job
        maybe = bool(doubtful)
        return QueueUnavailableError(
            self._label, reason, job_id=entries[0].job_id if maybe else None, maybe_enqueued=maybe
        )


def _each(answer: Any, entries: Sequence[_Entry]) -> Sequence[Any]:
    """What the script answers for each job; it says no more than 1 where all are stored."""
    return [1] * len(entries) if answer == 1 else answer


def lock_terms(job: Job, *, anew: bool = False) -> str:
    """The lock that a job takes and the group that it is in, as the scripts read them; empty where it has neither.

    Args:
        job: The job.
        anew: Whether it has ended, and is to be run again; see ``lock_anew``. Defaults to False.
    """
    lock, group = lock_anew(job) if anew else lock_of(job), job.group_key or ""
    if lock is None:
        return f"- 0 0 {group}" if group else ""
    letter = "d" if lock.debounce else {"finished": "f", "started": "s", "enqueued": "-"}[lock.until]
    return f"{letter}{lock.name} {round(lock.window * 1000)} {round(lock.deadline * 1000)} {group}"
