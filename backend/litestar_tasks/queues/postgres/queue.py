"""The queue: one object that speaks to tasks, to SAQ's tools and to a worker."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Generator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import psycopg
from saq.job import TERMINAL_STATUSES, Job, Status
from saq.queue.base import Queue
from saq.types import CountKind, ListenCallback, QueueInfo, WorkerInfo
from saq.utils import now, uuid1

from litestar_tasks.config import check_durability
from litestar_tasks.exceptions import BrokerError, ConfigurationError, QueueUnavailableError
from litestar_tasks.job import JobSpec, JobStatus, Submission
from litestar_tasks.queues import records, retention
from litestar_tasks.queues.base import FIELDS, ClaimedJob, LeaseState, Settlement, TaskQueue, WorkerHooks
from litestar_tasks.queues.operated import Operated
from litestar_tasks.queues.operations import Capability, JobFilter
from litestar_tasks.queues.outage import Outage
from litestar_tasks.queues.postgres import statements
from litestar_tasks.queues.postgres.connection import Away, Endpoint, Refused, reason_of
from litestar_tasks.queues.postgres.consumer import Consumer, Terms
from litestar_tasks.queues.postgres.listener import Announcer, Ends, Listener
from litestar_tasks.queues.postgres.listings import PostgresOperations
from litestar_tasks.queues.postgres.producer import Producer
from litestar_tasks.queues.postgres.records import job_of
from litestar_tasks.queues.reports import living

if TYPE_CHECKING:
    from litestar_tasks.registry import Registry

__all__ = ("PostgresQueue",)

logger = logging.getLogger("litestar_tasks.queues")

_PAGE: Final = 100
_POLL: Final = 5.0
"""Seconds after which a waiter looks by itself, should the message that it waits for be lost."""
_UNSURE_POLL: Final = 0.5
_FIXED: Final = frozenset({"function", "key", "queue", "status", "worker_id"})


class PostgresQueue(Operated, TaskQueue):
    """A queue on Postgres (13 or newer), in tables that ``litestar tasks migrate`` makes.

    Args:
        url: The database: ``postgresql://`` or ``postgres://``, as libpq reads it.
        label: The queue's name. Defaults to "default".
        namespace: Keeps queues of the same label apart that share a database. Defaults to none.
        registry: The tasks that can be enqueued by name. Defaults to None: jobs only.
        lease: Seconds without a sign of life after which a worker counts as lost, whatever its jobs' timeouts.
            Defaults to 15.
        renew_every: Seconds between two signs of life; a quarter of ``lease`` at the most. Defaults to 3.
        enqueue_deadline: Seconds until an enqueue that is not answered raises. Defaults to 2.
        durability: What an enqueue waits for, as ``TasksConfig.durability``; "replicas:n" is the server's to set here.
            Defaults to "process".
        max_losses: With the loss of so many workers a job is failed. A job's ``meta["max_losses"]`` wins over it, and
            ``meta["at_most_once"]`` means 1. Defaults to 3.
        keep_complete: Records of complete jobs that are kept at the most. Defaults to 10,000.
        keep_failed: Records of failed, and as many of aborted, jobs. Defaults to 100,000.
        failed_ttl: Seconds for which those are kept at least; a job's ``meta["failed_ttl"]`` wins. Defaults to 7 days.

    Raises:
        ConfigurationError: A name, URL or durability that cannot be, or a lease that cannot be kept.
    """

    capabilities: frozenset[Capability] = frozenset(
        {"shared", "leases", "priorities", "pause", "listing", "bulk", "metrics"}
    )

    def __init__(
        self,
        url: str,
        *,
        label: str = "default",
        namespace: str = "",
        registry: Registry | None = None,
        lease: float = 15.0,
        renew_every: float = 3.0,
        enqueue_deadline: float = 2.0,
        durability: str = "process",
        max_losses: int = 3,
        keep_complete: int = 10_000,
        keep_failed: int = 100_000,
        failed_ttl: int = retention.FAILED_TTL,
    ) -> None:
        for what, name in (("queue name", label), ("namespace", namespace)):
            if not all(char.isascii() and (char.isalnum() or char in "-_") for char in name) or not (
                namespace or label
            ):
                raise ConfigurationError(
                    f"{what} {name!r} holds characters that would break the broker's keys; use letters, digits, "
                    "'-' and '_'"
                )
        if not 0 < renew_every <= lease / 4:
            raise ConfigurationError(
                f"queue {label!r}: a lease of {lease:g} s can't be kept by renewing it every {renew_every:g} s; renew "
                "at least four times as often"
            )
        check_durability(durability)
        if durability.startswith("replicas"):
            raise ConfigurationError(
                f"queue {label!r}: durability={durability!r} is the server's to keep on Postgres: name the standbys in "
                'its synchronous_standby_names, and use "disk" here'
            )
        Queue.__init__(
            self,
            name=f"{namespace}.{label}" if namespace else label,
            dump=msgspec.json.encode,
            load=msgspec.json.decode,
        )
        self.label = label
        self.registry = cast("Registry", registry)
        self._durability = durability
        self._endpoint = Endpoint(url)
        self._outage = Outage(self.name, f"Postgres at {self._endpoint.address}", reason_of)
        self._terms = Terms(
            lease=lease,
            renew_every=renew_every,
            max_losses=max_losses,
            keep_complete=keep_complete,
            keep_others=keep_failed,
            failed_ttl=failed_ttl,
        )
        self._reader = self._endpoint.link()
        self._writer = self._endpoint.link()
        self._announcer = Announcer(self._reader, self.name)  # so that no enqueue waits for one
        self._listener = Listener(self._endpoint, self._outage)
        self._ends = Ends(self._listener, self._announcer.ends)
        self._producer = Producer(
            self,
            self._writer,
            self._outage,
            self._announcer,
            label=label,
            deadline=enqueue_deadline,
        )
        self._operator = PostgresOperations(self, label, self._reader, self._announcer, self._terms)
        self._operations = self._operator
        self._consumer: Consumer | None = None
        self._opening = asyncio.Lock()

    @classmethod
    def from_url(cls, url: str, **options: Any) -> PostgresQueue:  # pyright: ignore[reportIncompatibleMethodOverride]  # as in SAQ
        """A queue in the database that a URL names; options are the class's."""
        return cls(url, **options)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} at {self._endpoint.address}>"

    def job_id(self, job_key: str) -> str:
        """The id in the form that SAQ gives it on Redis; with the queue in it, which SAQ's own on Postgres lacks."""
        return f"saq:job:{self.name}:{job_key}"

    async def connect(self) -> None:
        """Begin to be used. A server that is away is no hindrance; it is looked at when it is first needed.

        Raises:
            BrokerError: The tables are missing or too old, the server refuses this user, or it cannot keep the
                durability that is asked for.
        """
        await super().connect()
        try:
            (row,) = await self._reader.ask("SELECT current_setting('fsync'), current_setting('synchronous_commit')")
        except Away as error:
            self._outage.failed(error)
            return
        if self._durability == "disk" and "off" in row:
            raise BrokerError(
                f"queue {self.label!r}: Postgres at {self._endpoint.address} cannot keep durability='disk': fsync is "
                f"{row[0]}, synchronous_commit is {row[1]}; turn both on"
            )

    # The producer's side

    async def store(self, job: Job, *, once: bool = False) -> Submission:
        """See ``TaskQueue.store``. Calls of the same moment share a round trip."""
        return await self._producer.store(job, once=once)

    async def submit_many(self, specs: Sequence[JobSpec]) -> list[Submission]:
        """See ``TaskQueue.submit_many``. Five hundred jobs travel together, in order."""
        jobs = [(self.build(spec), spec.once) for spec in specs]
        if self._before_enqueues:
            for job, _ in jobs:
                await self._before_enqueue(job)
        return await self._producer.store_many(jobs)

    async def store_many(self, jobs: Sequence[Job], *, once: bool = False) -> list[Submission]:
        """Store many jobs, in order; see ``TaskQueue.store``."""
        return await self._producer.store_many([(job, once) for job in jobs])

    async def _enqueue(self, job: Job) -> Job | None:
        submission = await self.store(job)
        return None if submission.deduplicated else submission.job

    # The reader's side

    async def job(self, job_key: str) -> Job | None:
        """A job's record, or None where there is none that can be read.

        Raises:
            QueueUnavailableError: The server did not answer.
        """
        (found,) = await self.jobs([job_key])
        return found

    async def jobs(self, job_keys: Iterable[str]) -> list[Job | None]:
        """The records of several jobs.

        Raises:
            QueueUnavailableError: The server did not answer.
        """
        keys = list(job_keys)
        found: dict[str, Job | None] = {}
        for start in range(0, len(keys), _PAGE):
            for row in await self._read(keys[start : start + _PAGE]):
                found[row[0]] = job_of(self, row)
        return [found.get(key) for key in keys]

    async def status(self, key: str) -> JobStatus | None:
        """See ``TaskQueue.status``. The row decides."""
        rows = await self._read([key])
        if not rows:
            return None
        _, _, status, *_, scheduled = rows[0]
        return "scheduled" if status == "queued" and scheduled and scheduled > time.time() else status

    async def wait(self, key: str, timeout: float | None) -> Job | None:
        """See ``TaskQueue.wait``. It is woken by a message, and looks now and then in case one was lost."""
        try:
            async with asyncio.timeout(timeout or None):
                if timeout == 0:
                    job = await self.job(key)
                    if job is None or job.status in TERMINAL_STATUSES:
                        return job
                    raise TimeoutError
                return await self._wait(key)
        except TimeoutError:
            raise TimeoutError(f"job {self.job_id(key)!r} had not ended after {timeout or 0:g} s") from None

    async def _wait(self, key: str) -> Job | None:
        changed = asyncio.Event()

        def hear(status: str | None) -> None:
            if status not in ("active", "queued"):
                changed.set()

        async with self._ends.follow(key, hear) as reliable:
            while True:
                changed.clear()
                try:
                    rows = await self._reader.ask(statements.READ, {"queue": self.name, "keys": [key]})
                except BrokerError as error:
                    self._outage.failed(error)
                    await self._outage.pause()
                    continue
                except psycopg.Error as error:
                    raise QueueUnavailableError(self.label, reason_of(error)) from error
                self._outage.succeeded()
                job = job_of(self, rows[0]) if rows else None
                if job is None or job.status in TERMINAL_STATUSES:
                    return job
                try:
                    async with asyncio.timeout(_POLL if reliable else _UNSURE_POLL):
                        await changed.wait()
                except TimeoutError:
                    pass

    def following(self, key: str, changed: Callable[[], None]) -> AbstractAsyncContextManager[object]:
        """See ``TaskQueue.following``."""
        return self._ends.follow(key, lambda _: changed())

    async def cancel(self, key: str, reason: str) -> bool:
        """See ``TaskQueue.cancel``. The effort does not grow with the queue."""
        return bool(await self._operator.cancel([key], reason))

    async def update(self, job: Job, **kwargs: Any) -> None:
        """Change fields of a job that has not ended; never its state.

        For a job that runs here all of its fields are written, unless its claim was lost; for another one only those
        that are given.
        """
        job.touched = now()
        fields = {name: value for name, value in kwargs.items() if name in FIELDS and name not in _FIXED}
        for name, value in fields.items():
            setattr(job, name, value)
        if self._consumer is not None and self._consumer.holds(job):
            await self._consumer.update(cast("ClaimedJob", job))
            return
        patch = records.to_json({**fields, "touched": job.touched})[1:-1].decode()
        with self._answering():
            await self._reader.ask(statements.PATCH, {"queue": self.name, "key": job.key, "fields": patch})

    async def count(self, kind: CountKind) -> int:
        """How many jobs wait for a worker, run, or have not ended."""
        ready, due, scheduled, active = await self._live()
        return {"queued": ready + due, "active": active}.get(kind, ready + due + scheduled + active)

    async def info(self, jobs: bool = False, offset: int = 0, limit: int = 10) -> QueueInfo:
        """SAQ's summary of the queue; active jobs come first among ``jobs``."""
        ready, due, scheduled, active = await self._live()
        workers = living(await self.worker_infos())
        found: list[Job] = []
        for state in ("active", "queued", "scheduled") if jobs else ():
            cursor: str | None = None
            while len(found) < offset + limit:
                which = JobFilter(state=state, newest_first=False)
                page = await self._operator.page(which, limit=min(500, offset + limit - len(found)), cursor=cursor)
                found += page.jobs
                if (cursor := page.cursor) is None:
                    break
        return {
            "workers": workers,
            "name": self.name,
            "queued": ready + due,
            "active": active,
            "scheduled": scheduled,
            "jobs": [job.to_dict() for job in found[offset : offset + limit]],
        }

    async def iter_jobs(
        self,
        statuses: list[Status] = list(Status),  # noqa: B006  # SAQ's default
        batch_size: int = _PAGE,
    ) -> AsyncIterator[Job]:
        """Every job in one of these states, found by the queue's own indexes."""
        wanted = set(statuses)
        for state in ("active", "queued", "scheduled", "complete", "failed", "aborted"):
            cursor: str | None = None
            while True:
                which = JobFilter(state=state, newest_first=False)
                page = await self._operator.page(which, limit=min(batch_size, 500), cursor=cursor)
                for job in page.jobs:
                    if job.status in wanted:
                        yield job
                if (cursor := page.cursor) is None:
                    break

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
                await stack.enter_async_context(self._ends.follow(key, _teller(heard, key)))
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

    async def worker_infos(self) -> dict[str, WorkerInfo]:
        """See ``TaskQueue.worker_infos``."""
        with self._answering():
            return dict(await self._reader.ask(statements.WORKERS, {"queue": self.name}))

    async def write_worker_info(self, worker_id: str, info: WorkerInfo, ttl: int) -> None:
        """Let a worker say of itself what SAQ's tools show; nothing here depends on it."""
        text = msgspec.json.encode(info).decode()
        with self._answering():
            await self._reader.ask(
                statements.WRITE_WORKER, {"queue": self.name, "worker": worker_id, "info": text, "ttl": ttl}
            )

    async def sweep(self, lock: int = 60, abort: float = 5.0) -> list[str]:
        """Recover the jobs of workers whose lease has lapsed. Others are never touched."""
        if self._consumer is not None:
            await self._consumer.recover()
        return []

    # The worker's side

    async def open(self, worker_id: str, hooks: WorkerHooks) -> None:
        """See ``TaskQueue.open``. A server that is away is waited for.

        Raises:
            BrokerError: The tables are missing or too old, the server refuses this user, or it cannot keep the
                durability that is asked for.
            RuntimeError: The queue is open already.
        """
        if self._consumer is not None:
            raise RuntimeError(f"queue {self.name!r} is open already; each worker needs a queue object of its own")
        await self.connect()
        consumer = Consumer(
            self,
            self._endpoint,
            self._reader,
            self._outage,
            self._listener,
            self._announcer,
            terms=self._terms,
            worker_id=worker_id,
            hooks=hooks,
        )
        await consumer.open()
        self._consumer = consumer

    async def claim(self, limit: int, *, ahead: bool = False) -> list[ClaimedJob]:
        """See ``TaskQueue.claim``."""
        return await self._opened().claim(limit)

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

    async def disconnect(self) -> None:
        """Close every connection, and the worker's side if it is open."""
        await self.close()
        await self._listener.close()
        await self._announcer.flush()
        await self._producer.close()
        await self._writer.close()
        await self._reader.close()

    # SAQ's way of working, for code that was written for it

    async def dequeue(self, timeout: float = 0.0, poll_interval: float = 0.0) -> Job | None:
        """Claim one job, waiting for it.

        Args:
            timeout: Seconds to wait. Defaults to 0: for ever.
            poll_interval: SAQ's; ignored.
        """
        async with self._opening:
            if self._consumer is None:
                await self.open(uuid1(), WorkerHooks(abort=lambda *_: None, lost=lambda _: None))
        consumer = self._opened()
        try:
            async with asyncio.timeout(timeout or None):
                while True:
                    try:
                        if claimed := await consumer.claim(1):
                            return claimed[0]
                    except BrokerError:
                        pass  # said and paced already
        except TimeoutError:
            return None

    async def _update(self, job: Job, status: Status | None = None, **kwargs: Any) -> None:
        await self.update(job, **kwargs)

    async def _finish(self, job: Job, status: Status, *, result: Any = None, error: str | None = None) -> None:
        if self._consumer is not None and self._consumer.holds(job):
            await self.settle(cast("ClaimedJob", job), Settlement(status.value))
        elif status is Status.ABORTED:
            await self.cancel(job.key, error or "aborted")
        else:
            raise ValueError(f"job {job.id!r} is not claimed here; only the worker that runs it can finish it")

    async def _retry(self, job: Job, error: str | None) -> None:
        if self._consumer is not None and self._consumer.holds(job):
            await self.settle(cast("ClaimedJob", job), Settlement.RETRY, delay=job.next_retry_delay())
            return
        if not await self.rerun(job.key):
            raise ValueError(f"job {job.id!r} has not ended; only a job that has ended can be run again")
        job.attempts, job.result, job.scheduled, job.queued = 0, None, 0, now()

    def serialize(self, job: Job) -> bytes:
        """The document of a job."""
        return records.encode(job)

    def deserialize(
        self, payload: dict[Any, Any] | str | bytes | None, status: Status | str | None = None
    ) -> Job | None:
        """A job from its document.

        Raises:
            ValueError: It is no job of this queue.
        """
        if not payload:
            return None
        data = payload.encode() if isinstance(payload, str) else payload
        job = records.restore(Job, self, dict(data) if isinstance(data, dict) else data)
        if status:
            job.status = Status(status)
        return job

    # Details

    def _opened(self) -> Consumer:
        if self._consumer is None:
            raise RuntimeError(f"queue {self.name!r} is not open; call open() first")
        return self._consumer

    async def _read(self, keys: Sequence[str]) -> list[tuple[Any, ...]]:
        parameters = {"queue": self.name, "keys": [key for key in keys if "\0" not in key]}
        with self._answering():
            try:
                return await self._reader.ask(statements.READ, parameters)
            except Refused:
                raise
            except Away:  # the connection may have been a dead one
                return await self._reader.ask(statements.READ, parameters)

    async def _live(self) -> tuple[int, int, int, int]:
        with self._answering():
            ((ready, due, scheduled, active),) = await self._reader.ask(statements.LIVE_COUNTS, {"queue": self.name})
        return ready, due, scheduled, active

    @contextmanager
    def _answering(self) -> Generator[None, None, None]:
        """A server that does not answer a handle is the queue's outage, not the caller's error."""
        try:
            yield
        except (BrokerError, psycopg.Error, UnicodeError) as error:
            raise QueueUnavailableError(self.label, reason_of(error)) from error


def _teller(heard: asyncio.Queue[tuple[str, Status] | None], key: str) -> Callable[[str | None], None]:
    """Puts what is said of one job into a queue; None where something may have been missed."""

    def tell(status: str | None) -> None:
        known = status is not None and status in set(Status)
        heard.put_nowait((key, Status(status)) if known else None)

    return tell
