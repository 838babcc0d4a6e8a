"""The history of one running app: what is searched, shown and run again."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from litestar_tasks.exceptions import (
    ConfigurationError,
    JobError,
    JobNotFoundError,
    PayloadError,
    StartupError,
    UnknownQueueError,
)
from litestar_tasks.follow_ups import PARENT
from litestar_tasks.handle import JobHandle
from litestar_tasks.job import ENDS, JobStatus
from litestar_tasks.outbox.database import check_engine, find_config, is_missing, reason_of
from litestar_tasks.outbox.history.models import history_tables
from litestar_tasks.outbox.history.recorder import Recorder
from litestar_tasks.outbox.history.rows import HistoryRows, Wanted
from litestar_tasks.queues import cursors

if TYPE_CHECKING:
    from sqlalchemy import MetaData
    from sqlalchemy.ext.asyncio import AsyncEngine

    from litestar_tasks.config import HistoryConfig
    from litestar_tasks.queues.base import TaskQueue
    from litestar_tasks.queues.broker import Broker
    from litestar_tasks.registry import Registry

__all__ = ("HistoryAttempt", "HistoryDatabase", "HistoryGap", "HistoryJob", "HistoryPage", "JobHistory")

logger = logging.getLogger("litestar_tasks.history")


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryAttempt:
    """One attempt of a job."""

    outcome: str
    """"retry", "snooze", or how the job ended with it: "complete", "failed", "aborted"."""
    started: datetime | None
    """When it began, in UTC; None for a job that ended without."""
    ended: datetime | None
    """When it ended, in UTC."""
    error_type: str | None
    """The name of the class of what it raised."""
    error: str | None
    """The last line of the error."""
    traceback: str | None
    """The traceback, without what looks like a secret."""
    worker: str | None
    """The id of its worker."""
    times: int
    """How many attempts this stands for: snoozes that follow each other are one."""

    @property
    def duration(self) -> timedelta | None:
        """How long it took."""
        return self.ended - self.started if self.started and self.ended else None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryJob:
    """What was recorded of one life of a job."""

    id: str
    """Its id."""
    task: str
    """Its task's name."""
    queue: str
    """The label of its queue."""
    status: JobStatus
    """Where it stood when it was last recorded. Of one that waits, nothing says that it still does."""
    tag: str | None
    """Its tag."""
    correlation_id: str | None
    """Its correlation id."""
    parent: str | None
    """The id of the job that it was made from."""
    priority: int
    """Its priority."""
    arguments: Mapping[str, Any]
    """Its arguments in JSON's own types, without what is secret or too long."""
    withheld: tuple[str, ...]
    """The names of arguments that are not kept as they were."""
    enqueued: datetime
    """When it was enqueued, in UTC."""
    started: datetime | None
    """When its last attempt began; None before it ended."""
    ended: datetime | None
    """When it ended; None while nothing was recorded of that."""
    attempts: tuple[HistoryAttempt, ...]
    """Its last ten attempts, the oldest first."""
    attempted: int
    """How many attempts were counted."""
    error_type: str | None
    """The name of the class of what its last attempt raised."""
    error: str | None
    """The last line of its error."""
    traceback: str | None
    """Its traceback, without what looks like a secret."""
    reason: str | None
    """What ended it other than an error or an abort: "discarded", "expired", "result"."""
    worker: str | None
    """The id of the worker of its last attempt."""
    result: str | None
    """The beginning of its result as JSON, without what is secret."""

    @property
    def duration(self) -> timedelta | None:
        """How long its last attempt took."""
        return self.ended - self.started if self.started and self.ended else None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryPage:
    """Some jobs of a search, the newest first."""

    jobs: list[HistoryJob]
    cursor: str | None
    """Where the next page begins; None where there is none. Opaque."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryGap:
    """What a process could not record."""

    since: datetime
    """When the first of it happened, in UTC."""
    until: datetime
    """When the last of it happened, in UTC."""
    lost: int
    """How many changes of jobs there were."""
    process: str
    """The process: its machine and its number."""
    reason: str
    """Why."""


class HistoryDatabase:
    """The database of an app's history, known before anything connects. Its tables are declared by this.

    Args:
        settings: The history's settings.
        plugins: The app's plugins.

    Raises:
        ConfigurationError: No plugin injects sessions of the configured name, or a table's name is taken.
    """

    def __init__(self, settings: HistoryConfig, plugins: Iterable[object]) -> None:
        self.settings = settings
        self._config = find_config(plugins, settings.session, "history")
        self.tables = history_tables(cast("MetaData", self._config.metadata), settings.table)

    @property
    def engine(self) -> AsyncEngine:
        """The app's engine."""
        return self._config.get_engine()

    def check(self) -> None:
        """Refuse a database that a history cannot be in.

        Raises:
            ConfigurationError: Says which it is, and what to do.
        """
        check_engine(self.engine, "history")


class JobHistory:
    """What became of jobs. Routes and tasks get it as ``job_history``; scripts by ``plugin.get_history()``.

    Args:
        database: Where it is.
        broker: Where its jobs run.
        registry: Their tasks.
    """

    def __init__(self, database: HistoryDatabase, broker: Broker, registry: Registry) -> None:
        self._engine = database.engine
        self._tables = database.tables
        self._settings = database.settings
        self._rows = HistoryRows(self._engine, *database.tables)
        self._broker = broker
        self._registry = registry
        self._recorder: Recorder | None = None

    @asynccontextmanager
    async def recording(self, *, tidying: bool) -> AsyncGenerator[None, None]:
        """Record what happens to jobs in this process, for the length of a block.

        Args:
            tidying: Whether to remove what is too old, as workers do.

        Raises:
            ConfigurationError: A history cannot be in that database.
            StartupError: A table is missing.
        """
        check_engine(self._engine, "history")
        await self._inspect()
        keep = self._settings.keep
        recorder = self._recorder = Recorder(
            self._rows,
            buffer=self._settings.buffer,
            keep=None if keep is None else int(keep.total_seconds() * 1000),
            keep_jobs=self._settings.keep_jobs,
            tidying=tidying,
        )
        recorder.start()
        for queue in self._broker.queues.values():
            queue.listeners = (*queue.listeners, recorder.hear)
        try:
            yield
        finally:
            for queue in self._broker.queues.values():
                queue.listeners = tuple(one for one in queue.listeners if one != recorder.hear)
            await recorder.close()
            self._recorder = None

    async def flush(self) -> None:
        """Write what this process has heard, which it does twice a second by itself."""
        if self._recorder is not None:
            await self._recorder.flush()

    async def search(
        self,
        *,
        task: str | None = None,
        queue: str | None = None,
        status: JobStatus | None = None,
        tag: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        text: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> HistoryPage:
        """Jobs that fit all that is given, those first that were enqueued last. One that had several lives is several.

        Args:
            task: The task's name. Defaults to None: any.
            queue: The queue's label. Defaults to None: any.
            status: Where they stand. Defaults to None: anywhere.
            tag: Their tag. Defaults to None: any or none.
            since: Enqueued at this moment or later, aware. Defaults to None: no bound.
            until: Enqueued before this moment, aware. Defaults to None: no bound.
            text: Part of the id, the task's name, the tag, the arguments, the error or the result, in upper or lower
                case. No index helps here: what the others select is looked through. Defaults to None: anything.
            limit: How many at the most, from 1 to 500. Defaults to 50.
            cursor: That of the page before. Defaults to None: the first page.

        Raises:
            ConfigurationError: The limit, the cursor or a moment cannot be.
            SQLAlchemyError: The database did not answer.
        """
        if not 1 <= limit <= 500:
            raise ConfigurationError(f"limit is {limit}; give 1 to 500")
        same = {"task": task, "queue": queue, "status": status, "tag": tag}
        wanted = Wanted(
            same={name: value for name, value in same.items() if value is not None},
            since=_millis("since", since),
            until=_millis("until", until),
            text=text,
            before=_place(cursor) if cursor else None,
        )
        rows = await self._rows.search(wanted, limit + 1)
        more, rows = len(rows) > limit, rows[:limit]
        return HistoryPage(jobs=[_job(row) for row in rows], cursor=_cursor(rows[-1]) if more else None)

    async def job(self, id: str) -> HistoryJob:
        """A job, by its id; if it had several lives, the last one.

        Raises:
            JobNotFoundError: Nothing is recorded of it.
            SQLAlchemyError: The database did not answer.
        """
        row = await self._rows.latest(id)
        if row is None:
            raise JobNotFoundError(id)
        return _job(row)

    async def rerun(self, id: str, /, **arguments: Any) -> JobHandle[Any]:
        """Enqueue what a job did as a new job that names it as its parent, whether or not the broker still knows it.

        It has the job's arguments, queue, priority and tag, and today's options of its task for everything else.

        Args:
            id: The job's id.
            arguments: Arguments that are to be others; those that were withheld have to be given.

        Raises:
            JobNotFoundError: Nothing is recorded of it.
            JobError: It has not ended: the broker still has it.
            UnknownTaskError: There is no such task any more.
            PayloadError: The arguments do not fit today's signature, or some were withheld.
            QueueUnavailableError: The broker did not answer in time.
            SQLAlchemyError: The database did not answer.
        """
        past = await self.job(id)
        task = self._registry.get_task(past.task)
        if missing := [name for name in past.withheld if name not in arguments]:
            raise PayloadError(
                past.task,
                f"the history does not hold {', '.join(missing)} of job {id!r}, as it was secret or too long; give it "
                f"again: rerun({id!r}, {missing[0]}=…)",
            )
        await self._refuse_unfinished(id)
        queue = self._queue_of(past.queue, str(task.option("queue")))
        payload = task.payload.encode((), {**past.arguments, **arguments})
        spec = task.stored_spec(payload, {"priority": past.priority, "tag": past.tag})
        spec.meta = {**spec.meta, PARENT: id}
        submission = await queue.submit(spec)
        return JobHandle(queue, submission.job.key, decode=task.result.decode)

    async def gaps(self, *, limit: int = 100) -> list[HistoryGap]:
        """What could not be recorded, the last first.

        Args:
            limit: How many at the most. Defaults to 100.

        Raises:
            SQLAlchemyError: The database did not answer.
        """
        return [
            HistoryGap(
                since=_moment(row["since"]),
                until=_moment(row["until"]),
                lost=row["lost"],
                process=row["process"],
                reason=row["reason"],
            )
            for row in await self._rows.gaps(limit)
        ]

    async def _refuse_unfinished(self, id: str) -> None:
        try:
            label, key = self._broker.locate(id)
        except JobNotFoundError:
            return  # of a queue that is no more
        status = await self._broker.find(label).status(key)
        if status is not None and status not in ENDS:
            raise JobError(id, f"job {id!r} is {status}, and has not ended; abort it first, or wait for it")

    def _queue_of(self, past: str, present: str) -> TaskQueue:
        try:
            return self._broker.find(past)
        except UnknownQueueError:
            return self._broker.find(present)

    async def _inspect(self) -> None:
        """Refuse a database without the tables. One that is away is waited for: jobs do not need it."""
        try:
            missing = [table.name for table in self._tables if await is_missing(self._engine, table)]
        except (SQLAlchemyError, OSError) as error:
            logger.warning("the history's database does not answer: %s. It is looked for again", reason_of(error))
            return
        if missing:
            raise StartupError(
                [
                    ConfigurationError(
                        f"the history's table {missing[0]!r} is missing from "
                        f"{self._engine.url.render_as_string()}, or is not as this release needs it; make it by the "
                        "app's migrations: litestar database make-migrations, then litestar database upgrade"
                    )
                ]
            )


def _job(row: Mapping[str, Any]) -> HistoryJob:
    log: list[dict[str, Any]] = msgspec.json.decode(row["log"] or "[]")
    if row["ended"] and log:
        log[-1]["traceback"] = row["traceback"]  # is not kept twice
    return HistoryJob(
        id=row["id"],
        task=row["task"],
        queue=row["queue"],
        status=row["status"],
        tag=row["tag"],
        correlation_id=row["correlation"],
        parent=row["parent"],
        priority=row["priority"],
        arguments=msgspec.json.decode(row["arguments"]),
        withheld=tuple(msgspec.json.decode(row["withheld"] or "[]")),
        enqueued=_moment(row["enqueued"]),
        started=_maybe(row["started"]),
        ended=_maybe(row["ended"]),
        attempts=tuple(map(_attempt, log)),
        attempted=row["attempts"],
        error_type=row["error_type"],
        error=row["error"],
        traceback=row["traceback"],
        reason=row["reason"],
        worker=row["worker"],
        result=row["result"],
    )


def _attempt(one: Mapping[str, Any]) -> HistoryAttempt:
    return HistoryAttempt(
        outcome=one.get("outcome", ""),
        started=_maybe(one.get("started")),
        ended=_maybe(one.get("completed")),
        error_type=one.get("error_type"),
        error=one.get("error"),
        traceback=one.get("traceback"),
        worker=one.get("worker"),
        times=one.get("times", 1),
    )


def _cursor(row: Mapping[str, Any]) -> str:
    return cursors.to_text([row["enqueued"], row["id"]])


def _place(cursor: str) -> tuple[int, str]:
    place = cursors.from_text(cursor, int, str)
    if place is None:
        raise ConfigurationError(f"{cursor!r} is no cursor of a search; give that of the page before")
    enqueued, id = place
    return cast("int", enqueued), cast("str", id)


def _millis(name: str, moment: datetime | None) -> int | None:
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise ConfigurationError(f"{name} is {moment}, which has no time zone; use datetime.now(UTC)")
    return int(moment.timestamp() * 1000)


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _maybe(milliseconds: int | None) -> datetime | None:
    return _moment(milliseconds) if milliseconds else None
