"""Where the broker is the app's own database: jobs are stored in its table, within the app's transaction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from litestar_tasks.job import Submission
from litestar_tasks.queues.postgres import PostgresQueue, statements

if TYPE_CHECKING:
    from saq.job import Job
    from sqlalchemy import TextClause
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

__all__ = ("is_same", "store")

_PARAMETER = re.compile(r"%\((\w+)\)[sb](?:::(\w+(?:\[\])?))?")


async def is_same(engine: AsyncEngine, queue: PostgresQueue) -> bool:
    """Whether the app's connections reach the broker's very table, and may write to it.

    Raises:
        QueueUnavailableError: The broker did not answer.
        SQLAlchemyError, OSError: The database did not.
    """
    here = await queue.identity()
    async with engine.connect() as connection:
        there = (await connection.execute(_text(statements.IDENTITY))).one()
    return tuple(there) == here


async def store(session: AsyncSession, queue: PostgresQueue, jobs: Sequence[tuple[Job, bool]]) -> list[Submission]:
    """Store jobs in order, within a session's transaction.

    Raises:
        PayloadError: Postgres could not hold one of them; nothing was sent.
    """
    submissions: list[Submission] = []
    for statement, parameters, members in queue.insertions(jobs):
        rows: list[Any] = list(await session.execute(_text(statement), parameters))
        if len(members) == 1:
            submissions.append(Submission(members[0], deduplicated=not rows))
        else:
            stored = {key for (key,) in rows}
            submissions += [Submission(job, deduplicated=job.key not in stored) for job in members]
    return submissions


@lru_cache
def _text(statement: str) -> TextClause:
    """A statement of the broker's, for any driver."""

    def bound(match: re.Match[str]) -> str:
        name, kind = match.groups()
        return f"CAST(:{name} AS {kind})" if kind else f":{name}"

    return text(_PARAMETER.sub(bound, statement).replace("::", r"\:\:"))
