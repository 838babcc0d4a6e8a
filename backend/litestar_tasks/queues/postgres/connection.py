"""The way to a Postgres server: where it is, and connections whose every wait is bounded."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from litestar_tasks.exceptions import BrokerError, ConfigurationError
from litestar_tasks.queues.postgres.schema import VERSION

__all__ = (
    "ANSWER_TIMEOUT",
    "Away",
    "Connection",
    "Endpoint",
    "Link",
    "Refused",
    "execute",
    "reason_of",
    "rejects",
    "share_a_session",
)

logger = logging.getLogger("litestar_tasks.queues")

T = TypeVar("T")
Connection = psycopg.AsyncConnection[tuple[Any, ...]]

CONNECT_TIMEOUT: Final = 3.0
"""Seconds until a connection that is not established counts as refused."""
ANSWER_TIMEOUT: Final = 5.0
"""Seconds until a statement that is not answered counts as lost, and its connection with it."""
_REPEATS: Final = 5
"""How often a statement is repeated that the server gave up for the sake of another one."""

_DEFAULTS: Final[Mapping[str, str]] = {
    "application_name": "litestar-tasks",
    "connect_timeout": str(int(CONNECT_TIMEOUT)),
    # A peer that vanished silently is noticed in half a minute, also where nothing is being sent.
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
# Every statement here finds its rows by an index, in its order. The table swings between empty and millions of rows,
# and a plan that was made for an empty one would read all of it, as long as the statement stays prepared.
_SETTINGS: Final = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_sort": "off",
    "jit": "off",
    # Whoever gives a statement up does not end it in the server: while an operator has a table locked, those that wait
    # for it would take all connections that the server has.
    "lock_timeout": str(int(ANSWER_TIMEOUT * 1000)),
}
_GREETING: Final = b"SELECT (SELECT max(version) FROM litestar_tasks_schema), pg_is_in_recovery(), pg_backend_pid()"
_SET: Final = "; ".join(f"SET {name} = {value}" for name, value in _SETTINGS.items()).encode()
_SESSION: Final = b"SELECT pg_backend_pid()"
_MIGRATE: Final = 'run "litestar tasks migrate" first'
_HOPELESS: Final = ("password authentication failed", "no password supplied", "no pg_hba.conf entry", "does not exist")


class Away(BrokerError):
    """The server was not reached, or did not answer in time.

    Attributes:
        sent: Whether the server may have got the statement, and may have carried it out.
    """

    def __init__(self, reason: str, *, sent: bool) -> None:
        self.sent = sent
        super().__init__(reason)


class Refused(BrokerError):
    """The server answers, and waiting would not help: it refuses this user, or its tables are not ours."""


class Endpoint:
    """A Postgres database, and how to connect to it.

    Args:
        url: ``postgresql://`` or ``postgres://``, as libpq reads it.

    Attributes:
        address: Where the database is, without credentials.
        pooled: Whether a connection turned out to lead through a pooler such as PgBouncer.

    Raises:
        ConfigurationError: The URL cannot be read; the message does not show its credentials.
    """

    def __init__(self, url: str) -> None:
        scheme, _, rest = url.partition("://")
        if scheme.lower() not in ("postgres", "postgresql"):
            raise ConfigurationError(
                f"broker URL with scheme {scheme!r} is not one that Postgres is reached by; use postgresql://"
            )
        try:
            given = {name: str(value) for name, value in conninfo_to_dict(f"postgresql://{rest}").items()}
        except psycopg.Error:
            raise ConfigurationError(
                "broker URL cannot be read as postgresql://user:password@host:port/database?option=value; a '/', '#', "
                "'@' or ':' in the password must be percent-encoded"
            ) from None
        self.conninfo = make_conninfo(**{**_DEFAULTS, **given})
        host = given.get("host", "localhost")
        self.address = f"{host}:{given.get('port', '5432')}/{given.get('dbname', given.get('user', ''))}"
        self.pooled = False

    def __repr__(self) -> str:
        return f"<Endpoint {self.address}>"

    def link(self) -> Link:
        """A connection of its own; it is made with the first statement."""
        return Link(self)

    async def connect(self) -> Connection:
        """Connect, and make sure that the tables are there.

        Raises:
            Refused: The server refuses this user, or the tables are missing or too old.
            Away: There is no server, or it cannot be used now.
        """
        try:
            connection = await psycopg.AsyncConnection.connect(self.conninfo, autocommit=True)
        except psycopg.Error as error:
            reason = reason_of(error)
            if any(words in reason for words in _HOPELESS):
                raise Refused(f"Postgres at {self.address}: {reason}") from error
            raise Away(reason, sent=False) from error
        try:
            await self._greet(connection)
        except BaseException:
            connection.pgconn.finish()
            raise
        return connection

    async def _greet(self, connection: Connection) -> None:
        try:
            await connection.execute(_SET)
            cursor = await connection.execute(_GREETING)
            version, standby, pid, *_ = await cursor.fetchone() or (None, False, 0)
        except (errors.UndefinedTable, errors.UndefinedColumn) as error:
            raise Refused(
                f"the tables of litestar-tasks are missing from Postgres at {self.address}; {_MIGRATE}"
            ) from error
        except errors.InsufficientPrivilege as error:
            raise Refused(f"Postgres at {self.address}: {reason_of(error)}") from error
        except psycopg.Error as error:
            raise Away(reason_of(error), sent=False) from error
        if (version or 0) < VERSION:
            raise Refused(
                f"the tables of litestar-tasks in Postgres at {self.address} are at version {version or 0}, and this "
                f"release needs {VERSION}; {_MIGRATE}"
            )
        if standby:
            raise Away("it is a read-only standby", sent=False)
        if pid != connection.info.backend_pid and not self.pooled:
            self.pooled = True
            logger.info(
                "Postgres at %s is reached through a pooler such as PgBouncer; it must be in session mode, or jobs are "
                "picked up late and statements fail",
                self.address,
            )


class Link:
    """One connection, on which one piece of work is done at a time, each within a deadline.

    What is given up, for its deadline's or its caller's sake, takes its connection with it: the answer is still to
    come, and the server may be carrying it out.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._connection: Connection | None = None
        self._lock = asyncio.Lock()
        self._running: asyncio.Task[Any] | None = None
        self._given_up: set[asyncio.Task[Any]] = set()
        self._sent = False

    @property
    def connection(self) -> Connection | None:
        """The connection, if there is one now."""
        return self._connection

    async def ask(
        self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = (), *, timeout: float = ANSWER_TIMEOUT
    ) -> list[tuple[Any, ...]]:
        """Carry out one statement, and return its rows.

        Raises:
            psycopg.Error: The server rejected the statement; nothing was changed.
            Away: No connection, or no answer in time; the connection has been given up.
            Refused: The server does not let us in.
        """

        async def work(connection: Connection) -> list[tuple[Any, ...]]:
            return await execute(connection, statement, parameters)

        return await self.run(work, timeout=timeout)

    async def run(self, work: Callable[[Connection], Awaitable[T]], *, timeout: float = ANSWER_TIMEOUT) -> T:
        """Do something with the connection. It may be done again, where the server gave it up for another's sake.

        Raises:
            psycopg.Error: As for ``ask``.
            Away: As for ``ask``.
            Refused: As for ``ask``.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        if self._lock.locked():
            try:
                async with asyncio.timeout_at(deadline):
                    await self._lock.acquire()
            except TimeoutError:
                raise Away(f"no answer within {timeout:g} s", sent=False) from None
        else:
            await self._lock.acquire()
        try:
            self._sent = False
            task = loop.create_task(self._insist(work))
            self._running = task
            try:
                done, _ = await asyncio.wait((task,), timeout=deadline - loop.time())
            except asyncio.CancelledError:
                self._give_up(task)
                raise
            if not done:
                self._give_up(task)
                raise Away(f"no answer within {timeout:g} s", sent=self._sent)
            if task.cancelled():
                raise Away("the connection was closed", sent=False)
            return task.result()
        finally:
            self._running = None
            self._lock.release()

    async def close(self) -> None:
        """Close the connection, and give up what is done with it; the next work makes a new one."""
        if self._running is not None and not self._running.done():
            self._give_up(self._running)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.pgconn.finish()
        if self._given_up:
            await asyncio.wait(self._given_up, timeout=ANSWER_TIMEOUT)

    async def _insist(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        for _ in range(_REPEATS):
            if asyncio.current_task() in self._given_up:
                raise Away("the connection was closed", sent=False)
            connection = self._connection
            if connection is not None and _has_ended(connection):
                self._drop(connection)
                connection = None
            if connection is None:
                connection = self._connection = await self._endpoint.connect()
            self._sent = True
            try:
                return await work(connection)
            except (errors.DeadlockDetected, errors.SerializationFailure):
                continue
            except psycopg.Error as error:
                if not connection.closed and not _is_outage(error):
                    raise
                # An error that the server sent is its answer: nothing was carried out.
                answered = error.sqlstate is not None and not isinstance(error, errors.AdminShutdown)
                self._drop(connection)
                raise Away(reason_of(error), sent=not answered) from error
        raise Away("it gave a statement up for the sake of others, again and again", sent=False)

    def _drop(self, connection: Connection) -> None:
        if self._connection is connection:
            self._connection = None
        connection.pgconn.finish()

    def _give_up(self, task: asyncio.Task[Any]) -> None:
        self._given_up.add(task)
        task.add_done_callback(self._given_up.discard)
        task.add_done_callback(_retrieved)
        connection = self._connection
        if connection is None or not self._sent:
            task.cancel()  # it is connecting, or has not begun: a connection that is there is as good as before
            return
        self._connection = None
        # The task has the socket registered with the event loop, and is woken by its end; closing it would not do that.
        task.add_done_callback(lambda _: connection.pgconn.finish())
        try:
            with socket.socket(fileno=os.dup(connection.fileno())) as one:
                one.shutdown(socket.SHUT_RDWR)
        except (OSError, psycopg.Error):
            pass  # it is gone already


async def share_a_session(one: Link, other: Link) -> bool:
    """Whether two connections certainly lead to one session of the server, as a pooler's in transaction mode do.

    Without it nothing is proven: a busy pooler may have had two sessions at hand.
    """
    first = await one.run(_session)
    held = one.connection
    second = await other.run(_session)
    await one.run(_session)
    return first == second and one.connection is held  # else it had ended, and its session was free


async def _session(connection: Connection) -> int:
    cursor = await connection.execute(_SESSION, prepare=False)
    (pid,) = await cursor.fetchone() or (0,)
    return int(pid)


async def execute(
    connection: Connection, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
) -> list[tuple[Any, ...]]:
    """Carry out one statement on a connection, prepared, and return its rows."""
    cursor = connection.cursor(binary=True)
    await cursor.execute(statement.encode(), parameters, prepare=True)
    return await cursor.fetchall() if cursor.description is not None else []


def rejects(error: BaseException) -> bool:
    """Whether the server, or the client before it, refused a statement for what it says."""
    return isinstance(error, (psycopg.Error, UnicodeError, ValueError, OverflowError))


def _has_ended(connection: Connection) -> bool:
    """Whether the server has closed a connection. Known before a statement is sent, nothing of it is in doubt."""
    try:
        for _ in range(2):  # its last words, then the end
            connection.pgconn.consume_input()
    except psycopg.Error:
        return True
    return connection.closed


def _is_outage(error: psycopg.Error) -> bool:
    if isinstance(error, (errors.ReadOnlySqlTransaction, psycopg.InterfaceError)):
        return True
    # Class 54 is "too large": what was asked is at fault.
    return isinstance(error, psycopg.OperationalError) and not (error.sqlstate or "").startswith("54")


def reason_of(error: BaseException) -> str:
    """What went wrong, in one line."""
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return "it is read-only"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def _retrieved(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
