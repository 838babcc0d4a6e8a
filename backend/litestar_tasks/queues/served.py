"""A queue on a server: what those on Redis and on Postgres have in common."""

from __future__ import annotations

import asyncio
import inspect
import logging
from abc import abstractmethod
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from typing import Any, ClassVar, Final, Generic, Protocol, TypedDict, TypeVar

from saq.job import TERMINAL_STATUSES, Job, Status
from saq.types import ListenCallback

from litestar_tasks.exceptions import ConfigurationError, QueueUnavailableError
from litestar_tasks.job import JobSpec, Submission
from litestar_tasks.queues import records
from litestar_tasks.queues.base import ClaimedJob, LeaseState, Settlement, TaskQueue, WorkerHooks
from litestar_tasks.queues.compatible import CompatibleQueue
from litestar_tasks.queues.holding import Assignment, Hold, Tell, Terms
from litestar_tasks.queues.outage import Outage
from litestar_tasks.queues.relay import Relay
from litestar_tasks.queues.retention import Limits

__all__ = ("ServedQueue", "Tell", "TermsOptions", "terms_of", "wire_name")

logger = logging.getLogger("litestar_tasks.queues")

ConsumerT = TypeVar("ConsumerT", bound=Hold[Any, Any])

_POLL: Final = 5.0
"""Seconds after which a waiter looks by itself, should the message that it waits for be lost."""
_UNSURE_POLL: Final = 0.5
_STATUSES: Final = {status.value: status for status in Status}


class _Producer(Protocol):
    async def store(self, job: Job, *, once: bool) -> Submission: ...

    async def store_many(self, jobs: Sequence[tuple[Job, bool]]) -> list[Submission]: ...


ProducerT = TypeVar("ProducerT", bound=_Producer)


class TermsOptions(TypedDict, total=False):
    """On what terms workers hold the jobs of a queue, and what is kept of those that have ended."""

    lease: float
    """Seconds without a sign of life after which a worker counts as lost, whatever its jobs' timeouts. Defaults to
    15."""
    renew_every: float
    """Seconds between two signs of life; a quarter of ``lease`` at the most. Defaults to 3."""
    max_losses: int
    """With the loss of so many workers a job is failed. A job's ``meta["max_losses"]`` wins over it, and
    ``meta["at_most_once"]`` means 1. Defaults to 3."""
    keep_complete: int
    """Records of complete jobs that are kept at the most. Defaults to 10,000."""
    keep_failed: int
    """Records of failed, and as many of aborted, jobs. Defaults to 100,000."""
    failed_ttl: int
    """Seconds for which those are kept at least; a job's ``meta["failed_ttl"]`` wins. Defaults to 7 days."""


class ServedQueue(CompatibleQueue, Generic[ConsumerT, ProducerT]):
    """A queue that other processes share, with a server that may be away."""

    _away: ClassVar[tuple[type[Exception], ...]]
    """What a server that does not answer raises. It is waited for."""
    _unanswered: ClassVar[tuple[type[Exception], ...]]
    """The same, and whatever else an answer may fail for that is no fault of the caller's."""

    _terms: Terms
    _outage: Outage
    _producer: ProducerT
    _consumer: ConsumerT | None

    # The producer's side

    async def store(self, job: Job, *, once: bool = False) -> Submission:
        """See ``TaskQueue.store``. Calls of the same moment share a round trip."""
        return await self._producer.store(job, once=once)

    async def submit_many(self, specs: Sequence[JobSpec]) -> list[Submission]:
        """See ``TaskQueue.submit_many``. Hundreds of jobs travel together, in order."""
        jobs = [(self.build(spec), spec.once) for spec in specs]
        if self._before_enqueues:
            for job, _ in jobs:
                await self._before_enqueue(job)
        submissions = await self._producer.store_many(jobs)
        if self.listeners:
            for submission in submissions:
                if not submission.deduplicated:
                    self.instrument(submission.job, "enqueued")
        return submissions

    async def store_many(self, jobs: Sequence[Job], *, once: bool = False) -> list[Submission]:
        """Store many jobs, in order; see ``TaskQueue.store``."""
        return await self._producer.store_many([(job, once) for job in jobs])

    # What follows jobs that have ended

    @abstractmethod
    async def _pay(self) -> bool:
        """Enqueue some of what is owed of jobs that have ended; see ``Relay``."""

    def _owed(self, document: bytes) -> list[tuple[TaskQueue, Job]]:
        """What follows a job of which the record at its end is kept; nothing where that cannot be read."""
        try:
            return self.follow_ups_of(records.restore(Job, self, document))
        except Exception as error:  # whatever a foreign record holds, the others are not to wait for it
            logger.error("queue %r: what follows a job cannot be read, and is given up: %s", self.name, error)
            return []

    # The reader's side

    async def _wait(self, key: str) -> Job | None:
        """It is woken by a message, and looks now and then in case one was lost."""
        changed = asyncio.Event()

        def hear(status: str | None) -> None:
            if status not in ("active", "queued"):
                changed.set()

        async with self._follow(key, hear) as reliable:
            while True:
                changed.clear()
                try:
                    job = await self._look(key)
                except self._away as error:
                    self._outage.failed(error)
                    await self._outage.pause()
                    continue
                self._outage.succeeded()
                if job is None or job.status in TERMINAL_STATUSES:
                    return job
                try:
                    async with asyncio.timeout(_POLL if reliable else _UNSURE_POLL):
                        await changed.wait()
                except TimeoutError:
                    pass

    @abstractmethod
    async def _look(self, key: str) -> Job | None:
        """A job's record, read once. A server that is away raises one of ``_away``."""

    @abstractmethod
    def _follow(self, key: str, tell: Tell) -> AbstractAsyncContextManager[bool]:
        """Tell a job's changes of status within a block, which gets whether none can be missed from now on."""

    def following(self, key: str, changed: Callable[[], None]) -> AbstractAsyncContextManager[object]:
        """See ``TaskQueue.following``."""
        return self._follow(key, lambda _: changed())

    async def listen(
        self,
        job_keys: Iterable[str],
        callback: ListenCallback,
        timeout: float | None = 10,
        poll_interval: float = 0.5,
    ) -> None:
        """Call back with the status of each of these jobs that has ended, and with each change of status.

        Unlike SAQ's, it misses nothing that happens between a look at the job and the subscription.

        Args:
            job_keys: The jobs.
            callback: Called with key and status, awaited if need be; what it returns being true, it ends.
            timeout: Seconds after which it gives up; None or 0 for never.
            poll_interval: SAQ's; ignored.

        Raises:
            TimeoutError: It gave up.
        """
        keys = list(job_keys)
        heard: asyncio.Queue[tuple[str, Status] | None] = asyncio.Queue()
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(asyncio.timeout(timeout or None))
            for key in keys:
                await stack.enter_async_context(self._follow(key, _teller(heard, key)))
            heard.put_nowait(None)
            while True:
                change = await heard.get()
                changes = [change] if change else await self._ended(keys)
                for key, status in changes:
                    answer: Any = callback(key, status)
                    if await answer if inspect.isawaitable(answer) else answer:
                        return

    async def _ended(self, keys: Sequence[str]) -> list[tuple[str, Status]]:
        jobs = await self.jobs(keys)
        return [(job.key, job.status) for job in jobs if job is not None and job.status in TERMINAL_STATUSES]

    @contextmanager
    def _answering(self) -> Generator[None, None, None]:
        """A server that does not answer a handle is the queue's outage, not the caller's error."""
        try:
            yield
        except self._unanswered as error:
            raise QueueUnavailableError(self.label, self._outage.reason_of(error)) from error

    # The worker's side

    async def open(self, worker_id: str, hooks: WorkerHooks) -> None:
        """See ``TaskQueue.open``. A server that is away is waited for.

        Raises:
            BrokerError: The server is unfit or refuses this user, or cannot keep the durability that is asked for.
            RuntimeError: The queue is open already.
        """
        if self._consumer is not None:
            raise RuntimeError(f"queue {self.name!r} is open already; each worker needs a queue object of its own")
        await self._inspect()
        relay = Relay(self.name, self._pay, every=self._terms.lease / 3)
        consumer = self._consume(Assignment(worker_id=worker_id, hooks=hooks, terms=self._terms, relay=relay))
        await consumer.open()
        self._consumer = consumer

    @abstractmethod
    async def _inspect(self) -> None:
        """Refuse a server on which no worker can work."""

    @abstractmethod
    def _consume(self, assignment: Assignment) -> ConsumerT:
        """What a worker holds this queue by."""

    def _is_open(self) -> bool:
        return self._consumer is not None

    def _opened(self) -> ConsumerT:
        if self._consumer is None:
            raise RuntimeError(f"queue {self.name!r} is not open; call open() first")
        return self._consumer

    async def claim(self, limit: int, *, ahead: bool = False) -> list[ClaimedJob]:
        """See ``TaskQueue.claim``."""
        return await self._opened().claim(limit, ahead=ahead)

    async def settle(self, job: ClaimedJob, settlement: Settlement, *, delay: float = 0.0) -> bool:
        """See ``TaskQueue.settle``."""
        if self._consumer is None:
            return False  # closed meanwhile: the job was handed back
        return await self._consumer.settle(job, settlement, delay)

    def lease(self) -> LeaseState | None:
        """See ``TaskQueue.lease``."""
        return self._consumer.lease() if self._consumer is not None else None

    async def close(self, *, keep: Collection[str] = ()) -> None:
        """See ``TaskQueue.close``."""
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await consumer.close(keep)

    async def sweep(self, lock: int = 60, abort: float = 5.0) -> list[str]:
        """Recover the jobs of workers whose lease has lapsed. Others are never touched."""
        if self._consumer is not None:
            await self._consumer.recover()
        return []

    def _held(self, job: Job) -> ClaimedJob | None:
        return self._consumer.held(job) if self._consumer is not None else None

    async def _rewrite(self, job: ClaimedJob) -> None:
        await self._opened().update(job)


def wire_name(label: str, namespace: str) -> str:
    """The name of a queue on the wire.

    Raises:
        ConfigurationError: It would break the broker's keys.
    """
    for what, name in (("queue name", label), ("namespace", namespace)):
        if not all(char.isascii() and (char.isalnum() or char in "-_") for char in name) or not (namespace or label):
            raise ConfigurationError(
                f"{what} {name!r} holds characters that would break the broker's keys; use letters, digits, '-' and '_'"
            )
    return f"{namespace}.{label}" if namespace else label


def terms_of(label: str, options: TermsOptions) -> Terms:
    """The terms of a queue, out of its options.

    Raises:
        ConfigurationError: The lease can't be kept.
    """
    given: dict[str, Any] = dict(options)
    caps = {"keep_complete": "complete", "keep_failed": "others", "failed_ttl": "failed_ttl"}
    limits = Limits(**{name: given.pop(option) for option, name in caps.items() if option in given})
    terms = Terms(**given, limits=limits)
    if not 0 < terms.renew_every <= terms.lease / 4:
        raise ConfigurationError(
            f"queue {label!r}: a lease of {terms.lease:g} s can't be kept by renewing it every "
            f"{terms.renew_every:g} s; renew at least four times as often"
        )
    return terms


def _teller(heard: asyncio.Queue[tuple[str, Status] | None], key: str) -> Tell:
    """Puts what is said of one job into a queue; None where something may have been missed."""

    def tell(said: str | None) -> None:
        status = _STATUSES.get(said or "")
        heard.put_nowait(None if status is None else (key, status))

    return tell
