"""The history of one running app: what is searched, shown and run again."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from litestar_tasks.exceptions import ConfigurationError, JobError, JobNotFoundError, PayloadError, UnknownQueueError
from litestar_tasks.follow_ups import PARENT
from litestar_tasks.handle import JobHandle
from litestar_tasks.job import ENDS, JobStatus
from litestar_tasks.outbox.database import AppDatabase, is_away
from litestar_tasks.outbox.history.models import history_tables
from litestar_tasks.outbox.history.recorder import Recorder
from litestar_tasks.outbox.history.rows import HistoryRows, Wanted
from litestar_tasks.outbox.history.values import HistoryGap, HistoryJob, HistoryPage, gap_of, job_of
from litestar_tasks.outbox.outage import Outage
from litestar_tasks.queues import cursors

if TYPE_CHECKING:
    from litestar_tasks.config import HistoryConfig
    from litestar_tasks.queues.base import TaskQueue
    from litestar_tasks.queues.broker import Broker
    from litestar_tasks.registry import Registry

__all__ = ("HistoryDatabase", "JobHistory")


class HistoryDatabase(AppDatabase):
    """The database of an app's history, known before anything connects. Its tables are declared by this.

    Args:
        settings: The history's settings.
        plugins: The app's plugins.

    Raises:
        ConfigurationError: No plugin injects sessions of the configured name, or a table's name is taken.
    """

    def __init__(self, settings: HistoryConfig, plugins: Iterable[object]) -> None:
        super().__init__("history", settings.session, plugins)
        self.settings = settings
        self.tables = history_tables(self.metadata, settings.table)


class JobHistory:
    """What became of jobs. Routes and tasks get it as ``job_history``; scripts by ``plugin.get_history()``.

    Args:
        database: Where it is.
        broker: Where its jobs run.
        registry: Their tasks.
    """

    def __init__(self, database: HistoryDatabase, broker: Broker, registry: Registry) -> None:
        self._database = database
        self._settings = database.settings
        self._rows = HistoryRows(database.engine, *database.tables)
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
        outage = Outage("history", f"Up to {self._settings.buffer} jobs are remembered, jobs go on")
        self._database.check()
        try:
            await self._database.inspect()
        except Exception as error:
            if not is_away(error):
                raise
            outage.failed(error)  # it is waited for: jobs do not need it
        keep = self._settings.keep
        recorder = self._recorder = Recorder(
            self._rows,
            outage,
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
        """Write what this process has heard, which it does by itself within seconds."""
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
        return HistoryPage(jobs=[job_of(row) for row in rows], cursor=_cursor(rows[-1]) if more else None)

    async def job(self, id: str) -> HistoryJob:
        """A job, by its id; if it had several lives, the last one.

        Raises:
            JobNotFoundError: Nothing is recorded of it.
            SQLAlchemyError: The database did not answer.
        """
        for life in await self.lives(id, limit=1):
            return life
        raise JobNotFoundError(id)

    async def lives(self, id: str, *, limit: int = 20) -> list[HistoryJob]:
        """The lives of a job, by its id, the last first: one for each enqueue under its key, and for each re-run.

        Args:
            id: The job's id.
            limit: How many at the most. Defaults to 20.

        Raises:
            SQLAlchemyError: The database did not answer.
        """
        return [job_of(row) for row in await self._rows.lives(id, limit)]

    async def rerun(self, job: str | HistoryJob, /, **arguments: Any) -> JobHandle[Any]:
        """Enqueue what a job did as a new job that names it as its parent, whether or not the broker still knows it.

        It has the job's arguments, queue, priority and tag, and today's options of its task for everything else.

        Args:
            job: The job's id, which means its last life; or the life that is meant, as it was found.
            arguments: Arguments that are to be others; those that were withheld have to be given.

        Raises:
            JobNotFoundError: Nothing is recorded of it.
            JobError: It has not ended: the broker still has it.
            UnknownTaskError: There is no such task any more.
            PayloadError: The arguments do not fit today's signature, or some were withheld.
            QueueUnavailableError: The broker did not answer in time.
            SQLAlchemyError: The database did not answer.
        """
        past = await self.job(job) if isinstance(job, str) else job
        id, task = past.id, self._registry.get_task(past.task)
        if missing := [name for name in past.withheld if name not in arguments]:
            raise PayloadError(
                past.task,
                f"the history does not hold {', '.join(missing)} of job {id!r}, as it was secret or too long; give it "
                f"again: rerun({id!r}, {missing[0]}=…)",
            )
        await self._refuse_unfinished(id)
        queue = self._queue_of(past.queue, str(task.option("queue")))
        kept = {name: value for name, value in past.arguments.items() if name not in arguments}
        payload = task.payload.encode((), {**task.opened(kept), **arguments})
        spec = task.stored_spec(payload, {"priority": past.priority, "tag": past.tag})
        spec.meta = {**spec.meta, PARENT: id}
        submission = await queue.submit(spec)
        return JobHandle(queue, submission.job.key, decode=task.result.decode, deduplicated=submission.deduplicated)

    async def gaps(self, *, limit: int = 100) -> list[HistoryGap]:
        """What could not be recorded, the last first.

        Args:
            limit: How many at the most. Defaults to 100.

        Raises:
            SQLAlchemyError: The database did not answer.
        """
        return [gap_of(row) for row in await self._rows.gaps(limit)]

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
    return cursors.milliseconds(moment)
