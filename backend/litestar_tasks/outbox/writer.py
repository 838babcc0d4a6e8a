"""Takes calls into the transactions of sessions, and hears when those have committed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import groupby
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event, insert
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from litestar_tasks.exceptions import ConfigurationError
from litestar_tasks.job import JobSpec, Submission
from litestar_tasks.outbox.database import place_of
from litestar_tasks.queues import records
from litestar_tasks.queues.locks import lock_of

if TYPE_CHECKING:
    from advanced_alchemy.extensions.litestar import SQLAlchemyAsyncConfig
    from litestar.types import ASGIApp, Receive, Scope, Send
    from saq.job import Job
    from sqlalchemy import Table
    from sqlalchemy.ext.asyncio import AsyncEngine

    from litestar_tasks.queues.base import TaskQueue

__all__ = ("Open", "Writer", "in_request")

logger = logging.getLogger("litestar_tasks.outbox")

_request: Final[ContextVar[Scope | None]] = ContextVar("request", default=None)
_OPEN: Final = "litestar_tasks.outbox"


@dataclass(slots=True, eq=False)
class Open:
    """What was written in a transaction that is still open."""

    writer: Writer
    direct: bool
    """Whether the jobs themselves are written, not rows of the outbox. It stays so, to keep their order."""
    transaction: str = field(default_factory=lambda: f"{time.time_ns() // 1_000_000:012x}{token_hex(10)}")
    """Its name in the outbox; later ones sort behind."""
    rows: int = 0
    """How many rows of the outbox were written."""
    queues: set[TaskQueue] = field(default_factory=set)
    """Those of which jobs were written."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Calls that are gathered come one after another: a session is for one at a time."""
    decided: bool = False
    """Whether it was committed or rolled back, and not only left."""


class Writer:
    """Writes calls into transactions; the calls' side of an outbox.

    Args:
        config: Advanced Alchemy's configuration of the database.
        engine: Its engine.
        table: The outbox's table.
        find: Returns a queue by its label.
        store: Stores jobs in the broker's own table, where ``is_direct`` says so.
        is_direct: Whether the broker is the database.
        committed: Called with what a transaction wrote, once it has committed.
        in_requests: Whether a request's session is taken by default.
    """

    def __init__(
        self,
        config: SQLAlchemyAsyncConfig,
        engine: AsyncEngine,
        table: Table,
        *,
        find: Callable[[str], TaskQueue],
        store: Callable[..., Any],
        is_direct: Callable[[], bool],
        committed: Callable[[Open], None],
        in_requests: bool,
    ) -> None:
        self._config = config
        self._engine = engine
        self._insert = insert(table)
        self._find = find
        self._store = store
        self._is_direct = is_direct
        self._in_requests = in_requests
        self.committed = committed

    def session(self) -> AsyncSession | None:
        """See ``attachment.Outbox``: the session of the request that runs here, if its transaction has begun.

        A session that is between two transactions is not taken: a job would be lost with one that nobody commits.
        """
        if not self._in_requests or (scope := _request.get()) is None:
            return None
        from advanced_alchemy.extensions.litestar._utils import get_aa_scope_state

        session = get_aa_scope_state(scope, self._config.session_scope_key)
        return session if isinstance(session, AsyncSession) and session.in_transaction() else None

    async def write(self, session: object, calls: Sequence[tuple[str, JobSpec]]) -> list[Submission]:
        """See ``attachment.Outbox``.

        Raises:
            ConfigurationError: The session is none of this outbox's database.
            PayloadError: The broker could not store one of the calls; nothing was written.
            SQLAlchemyError: The database refused, as it does for every other statement of the session.
        """
        mine = self._check(session)
        jobs = [(queue, await queue.prepare(spec), spec.once) for queue, spec in ((self._find(q), s) for q, s in calls)]
        opened = mine.sync_session.info.get(_OPEN)
        if opened is None or opened.writer is not self:
            opened = mine.sync_session.info[_OPEN] = Open(self, self._is_direct())
        async with opened.turn:
            # What is unique takes its lock in a transaction of the broker's own, on which no other one has to wait.
            if not opened.direct or any(lock_of(job) is not None for _, job, _ in jobs):
                return await self._write_rows(mine, opened, jobs)
            return await self._write_jobs(mine, opened, jobs)

    async def _write_rows(
        self, session: AsyncSession, opened: Open, jobs: Sequence[tuple[TaskQueue, Job, bool]]
    ) -> list[Submission]:
        rows = [
            {
                "transaction": opened.transaction,
                "number": number,
                "queue": queue.name,
                "task": job.function,
                "document": records.encode(job).decode(),
                "once": once,
            }
            for number, (queue, job, once) in enumerate(jobs, start=opened.rows)
        ]
        await session.execute(self._insert, rows if len(rows) > 1 else rows[0])
        opened.rows += len(rows)
        return [Submission(job) for _, job, _ in jobs]

    async def _write_jobs(
        self, session: AsyncSession, opened: Open, jobs: Sequence[tuple[TaskQueue, Job, bool]]
    ) -> list[Submission]:
        submissions: list[Submission] = []
        for queue, members in groupby(jobs, key=lambda one: one[0]):
            submissions += await self._store(session, queue, [(job, once) for _, job, once in members])
            opened.queues.add(queue)
        return submissions

    def _check(self, session: object) -> AsyncSession:
        if not isinstance(session, AsyncSession):
            raise ConfigurationError(
                f"session is {session!r}; give SQLAlchemy's AsyncSession, such as a route's db_session"
            )
        try:
            bind = session.sync_session.get_bind(clause=self._insert)
        except UnboundExecutionError:
            return session  # it has several, and knows where the outbox's table is
        if bind.engine is not self._engine.sync_engine and place_of(bind) != place_of(self._engine.sync_engine):
            raise ConfigurationError(
                f"the session is one of {bind.engine.url.render_as_string()}, and the outbox is in "
                f"{self._engine.url.render_as_string()}; give a session of that database"
            )
        return session


def in_request(app: ASGIApp) -> ASGIApp:
    """An app whose requests are known to ``Writer.session``."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        before = _request.set(scope)
        try:
            await app(scope, receive, send)
        finally:
            _request.reset(before)

    return call


@event.listens_for(Session, "after_commit")
def _committed(session: Session) -> None:
    opened: Open | None = session.info.get(_OPEN)
    if opened is not None and session.get_nested_transaction() is None:  # a savepoint is no commit
        opened.decided = True
        opened.writer.committed(opened)


@event.listens_for(Session, "after_rollback")
def _rolled_back(session: Session) -> None:
    opened: Open | None = session.info.get(_OPEN)
    if opened is not None and session.get_nested_transaction() is None:
        opened.decided = True


@event.listens_for(Session, "after_transaction_end")
def _ended(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is not None or (opened := session.info.pop(_OPEN, None)) is None:
        return
    if not opened.decided:
        logger.info(
            "a session was closed without a commit, so the jobs of its transaction will not be; where that is not "
            "meant, await its commit()"
        )
