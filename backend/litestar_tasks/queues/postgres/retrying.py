"""A connection for who does not wait for an outage to end: operators, readers, and those who look at schedules."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from litestar_tasks.exceptions import BrokerError, QueueUnavailableError
from litestar_tasks.queues.postgres.connection import ANSWER_TIMEOUT, Away, Connection, execute, reason_of

if TYPE_CHECKING:
    from litestar_tasks.queues.postgres.connection import Link

__all__ = ("RetryingLink",)

T = TypeVar("T")


class RetryingLink:
    """A connection, which is asked once more if it was a dead one.

    Args:
        label: The queue's name, for errors.
        name: Its name on the wire, which is a parameter of every statement.
        link: The connection.
    """

    def __init__(self, label: str, name: str, link: Link) -> None:
        self._label = label
        self._name = name
        self._link = link

    async def ask(
        self,
        statement: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        timeout: float = ANSWER_TIMEOUT,
        again: bool = True,
    ) -> list[tuple[Any, ...]]:
        """Carry out one statement, and return its rows.

        Args:
            statement: What.
            parameters: Of the statement, beside the queue's name.
            timeout: Seconds to wait for the answer.
            again: Whether that does no harm where the first one may have arrived. Defaults to True.

        Raises:
            QueueUnavailableError: The server did not answer, or refused it.
        """
        named = {"queue": self._name, **(parameters or {})}

        async def work(connection: Connection) -> list[tuple[Any, ...]]:
            return await execute(connection, statement, named)

        return await self.run(work, timeout=timeout, again=again)

    async def run(
        self, work: Callable[[Connection], Awaitable[T]], *, timeout: float = ANSWER_TIMEOUT, again: bool = True
    ) -> T:
        """Do something with the connection; see ``ask``."""
        try:
            try:
                return await self._link.run(work, timeout=timeout)
            except Away as error:
                if error.sent and not again:
                    raise
                return await self._link.run(work, timeout=timeout)
        except (BrokerError, psycopg.Error, UnicodeError) as error:
            raise QueueUnavailableError(self._label, reason_of(error)) from error
