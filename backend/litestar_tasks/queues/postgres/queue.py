"""The queue: one object that speaks to tasks, to SAQ's tools and to a worker."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import psycopg
from psycopg import errors
from saq.job import Job, Status
from saq.queue.base import Queue
from saq.types import CountKind, QueueInfo, WorkerInfo
from saq.utils import now
from typing_extensions import Unpack

from litestar_tasks.config import check_durability
from litestar_tasks.exceptions import BrokerError, ConfigurationError, QueueUnavailableError, TasksError
from litestar_tasks.job import JobStatus
from litestar_tasks.queues import records
from litestar_tasks.queues.base import Delivery
from litestar_tasks.queues.holding import Assignment
from litestar_tasks.queues.operations import Capability, JobFilter
from litestar_tasks.queues.outage import Outage
from litestar_tasks.queues.postgres import statements
from litestar_tasks.queues.postgres.connection import (
    Away,
    Connection,
    Endpoint,
    execute,
    reason_of,
    rejects,
    share_a_session,
)
from litestar_tasks.queues.postgres.consumer import Consumer
from litestar_tasks.queues.postgres.listener import Announcer, Ends, Listener
from litestar_tasks.queues.postgres.listings import PostgresOperations
from litestar_tasks.queues.postgres.producer import Producer, insertions
from litestar_tasks.queues.postgres.records import job_of
from litestar_tasks.queues.postgres.retrying import RetryingLink
from litestar_tasks.queues.postgres.schedules import PostgresSchedules
from litestar_tasks.queues.reports import living, moved
from litestar_tasks.queues.served import ServedQueue, Tell, TermsOptions, terms_of, wire_name

if TYPE_CHECKING:
    from litestar_tasks.registry import Registry

__all__ = ("PostgresQueue",)

logger = logging.getLogger("litestar_tasks.queues")

_PAGE: Final = 100
_DELIVERED: Final = 20
"""Jobs whose follow-ups are enqueued in one transaction."""


class PostgresQueue(ServedQueue[Consumer, Producer]):
    """A queue on Postgres (13 or newer), in tables that ``litestar tasks migrate`` makes.

    Args:
        url: The database: ``postgresql://`` or ``postgres://``, as libpq reads it.
        label: The queue's name. Defaults to "default".
        namespace: Keeps queues of the same label apart that share a database. Defaults to none.
        registry: The tasks that can be enqueued by name. Defaults to None: jobs only.
        enqueue_deadline: Seconds until an enqueue that is not answered raises. Defaults to 2.
        durability: What an enqueue waits for, as ``TasksConfig.durability``; "replicas:n" is the server's to set here.
            Defaults to "process".
        terms: See ``TermsOptions``.

    Raises:
        ConfigurationError: A name, URL or durability that cannot be, or a lease that cannot be kept.
    """

    capabilities: frozenset[Capability] = frozenset(
        {"shared", "leases", "priorities", "pause", "listing", "bulk", "metrics"}
    )
    counted_up_to = statements.MOST_COUNTED
    _away = (BrokerError,)
    _unanswered = (BrokerError, psycopg.Error, UnicodeError)

    def __init__(
        self,
        url: str,
        *,
        label: str = "default",
        namespace: str = "",
        registry: Registry | None = None,
        enqueue_deadline: float = 2.0,
        durability: str = "process",
        **terms: Unpack[TermsOptions],
    ) -> None:
        name = wire_name(label, namespace)
        self._terms = terms_of(label, terms)
        check_durability(durability)
        if durability.startswith("replicas"):
            raise ConfigurationError(
                f"queue {label!r}: durability={durability!r} is the server's to keep on Postgres: name the standbys in "
                'its synchronous_standby_names, and use "disk" here'
            )
        Queue.__init__(self, name=name, dump=msgspec.json.encode, load=msgspec.json.decode)
        self.label = label
        self.registry = cast("Registry", registry)
        self._durability = durability
        self._endpoint = Endpoint(url)
        self._outage = Outage(self.name, f"Postgres at {self._endpoint.address}", reason_of)
        self._reader = self._endpoint.link()
        self._retrying = RetryingLink(label, self.name, self._reader)
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
        self._operator = PostgresOperations(self, label, self._reader, self._announcer, self._terms.limits)
        self._operations = self._operator
        self.schedules = PostgresSchedules(self.name, label, self._reader, self._announcer, self._producer.store_within)
        self._consumer: Consumer | None = None
        self._opening = asyncio.Lock()

    @classmethod
    def from_url(cls, url: str, **options: Any) -> PostgresQueue:  # pyright: ignore[reportIncompatibleMethodOverride]  # as in SAQ
        """A queue in the database that a URL names; options are the class's."""
        return cls(url, **options)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} at {self._endpoint.address}>"

    async def connect(self) -> None:
        """Begin to be used. A server that is away is no hindrance; it is looked at when it is first needed.

        Raises:
            BrokerError: The tables are missing or too old, the server refuses this user, it cannot keep the durability
                that is asked for, or it is reached through a pooler in transaction mode.
        """
        await super().connect()
        try:
            (row,) = await self._reader.ask("SELECT current_setting('fsync'), current_setting('synchronous_commit')")
            mixed = self._endpoint.pooled and await share_a_session(self._reader, self._writer)
        except (errors.DuplicatePreparedStatement, errors.InvalidSqlStatementName):
            mixed, row = True, ("", "")  # those of another client
        except Away as error:
            self._outage.failed(error)
            return
        if mixed:
            raise BrokerError(
                f"queue {self.label!r}: Postgres at {self._endpoint.address} is reached through a pooler in "
                "transaction mode, which keeps neither notifications nor prepared statements; set it to "
                "session mode for this URL, or connect past it"
            )
        if self._durability == "disk" and "off" in row:
            raise BrokerError(
                f"queue {self.label!r}: Postgres at {self._endpoint.address} cannot keep durability='disk': fsync is "
                f"{row[0]}, synchronous_commit is {row[1]}; turn both on"
            )

    # The outbox's side

    async def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """See ``TaskQueue.deliver``."""
        await self._producer.deliver(deliveries)

    async def incarnation(self) -> str:
        """See ``TaskQueue.incarnation``: a commit may be forgotten where ``synchronous_commit`` is off."""
        with self._answering():
            ((started,),) = await self._reader.ask(statements.SERVER_RUN)
        return str(started)

    async def release(self, rows: Sequence[str]) -> None:
        """See ``TaskQueue.release``."""
        with self._answering():
            await self._reader.ask(statements.LET_GO_OF_ROWS, {"queue": self.name, "rows": list(rows)})

    async def identity(self) -> tuple[str | bool | None, ...]:
        """What ``statements.IDENTITY`` answers here; whoever gets the same answer can store jobs by ``insertions``.

        Raises:
            QueueUnavailableError: The server did not answer.
        """
        with self._answering():
            ((*answer,),) = await self._reader.ask(statements.IDENTITY)
        return tuple(answer)

    def insertions(self, jobs: Sequence[tuple[Job, bool]]) -> list[tuple[str, dict[str, Any], list[Job]]]:
        """Statements that store jobs in somebody else's transaction; see ``producer.insertions``."""
        return insertions(self.name, jobs)

    def announce(self) -> None:
        """Tell workers that there is work which somebody else has stored."""
        self._announcer.ready()

    # What follows jobs that have ended

    async def owes(self) -> bool:
        """See ``TaskQueue.owes``."""
        with self._answering():
            ((owes,),) = await self._reader.ask(statements.OWES, {"queue": self.name})
        return bool(owes)

    async def _pay(self) -> bool:
        """Enqueue some of what is to follow jobs that have ended, in whichever queue, in one transaction."""
        try:
            return await self._pay_some(_DELIVERED)
        except (psycopg.Error, TasksError) as error:
            if isinstance(error, BrokerError):
                raise
        return await self._pay_some(1, give_up=True)  # find out which, alone

    async def _pay_some(self, limit: int, *, give_up: bool = False) -> bool:
        ready: set[PostgresQueue] = set()

        async def deliver(connection: Connection) -> int:
            async with connection.transaction():
                rows = await execute(connection, statements.OWED, {"queue": self.name, "limit": limit})
                try:
                    async with connection.transaction():
                        for queue, jobs in self._following(rows).items():
                            await queue._producer.store_within(connection, jobs)
                            ready.add(queue)
                except (psycopg.Error, TasksError) as error:
                    hopeless = isinstance(error, TasksError) or rejects(error)
                    if not give_up or not hopeless or isinstance(error, errors.UniqueViolation):
                        raise
                    logger.error("queue %r: what follows a job is refused, and given up: %s", self.name, error)
                await execute(connection, statements.PAID, {"numbers": [number for number, _ in rows]})
            return len(rows)

        count = await self._reader.run(deliver)
        for queue in ready:
            queue._announcer.ready()
        return count == limit

    def _following(self, rows: Sequence[tuple[int, bytes]]) -> dict[PostgresQueue, list[Job]]:
        found: dict[PostgresQueue, list[Job]] = {}
        for _, document in rows:
            for queue, job in self._owed(document):
                found.setdefault(cast("PostgresQueue", queue), []).append(job)
        return found

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
        return (await self.statuses([key])).get(key)

    async def statuses(self, keys: Sequence[str]) -> dict[str, JobStatus]:
        """See ``TaskQueue.statuses``."""
        found: dict[str, JobStatus] = {}
        for start in range(0, len(keys), _PAGE):
            for key, _, status, *_, scheduled in await self._read(keys[start : start + _PAGE]):
                later = status == "queued" and scheduled and scheduled > time.time()
                found[key] = "scheduled" if later else status
        return found

    async def _look(self, key: str) -> Job | None:
        try:
            rows = await self._reader.ask(statements.READ, {"queue": self.name, "keys": [key]})
        except psycopg.Error as error:
            raise QueueUnavailableError(self.label, reason_of(error)) from error
        return job_of(self, rows[0]) if rows else None

    def _follow(self, key: str, tell: Tell) -> AbstractAsyncContextManager[bool]:
        return self._ends.follow(key, tell)

    async def cancel(self, key: str, reason: str) -> bool:
        """See ``TaskQueue.cancel``. The effort does not grow with the queue."""
        if not await self._operator.cancel([key], reason):
            return False
        if self.listeners:
            await self._tell_aborted(key)
        return True

    async def _patch(self, key: str, fields: dict[str, Any]) -> None:
        patch = records.to_json(fields)[1:-1].decode()
        with self._answering():
            await self._reader.ask(statements.PATCH, {"queue": self.name, "key": key, "fields": patch})

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

    async def worker_infos(self) -> dict[str, WorkerInfo]:
        """See ``TaskQueue.worker_infos``."""
        with self._answering():
            rows = await self._reader.ask(statements.WORKERS, {"queue": self.name})
        return {worker: moved(info, now() - moment) for worker, info, moment in rows}

    async def write_worker_info(self, worker_id: str, info: WorkerInfo, ttl: int) -> None:
        """Let a worker say of itself what SAQ's tools show; nothing here depends on it."""
        text = msgspec.json.encode(info).decode()
        with self._answering():
            await self._reader.ask(
                statements.WRITE_WORKER,
                {"queue": self.name, "worker": worker_id, "info": text, "ttl": ttl, "now": now()},
            )

    # The worker's side

    async def _inspect(self) -> None:
        await self.connect()

    def _consume(self, assignment: Assignment) -> Consumer:
        return Consumer(
            self,
            self._endpoint,
            self._reader,
            self._outage,
            self._listener,
            self._announcer,
            assignment,
        )

    async def disconnect(self) -> None:
        """Close every connection, and the worker's side if it is open."""
        await self.close()
        await self._listener.close()
        await self._announcer.flush()
        await self._producer.close()
        await self._reader.close()

    # Details

    async def _read(self, keys: Sequence[str]) -> list[tuple[Any, ...]]:
        return await self._retrying.ask(statements.READ, {"keys": [key for key in keys if "\0" not in key]})

    async def _live(self) -> tuple[int, int, int, int]:
        with self._answering():
            ((ready, due, scheduled, active),) = await self._reader.ask(statements.LIVE_COUNTS, {"queue": self.name})
        return ready, due, scheduled, active
