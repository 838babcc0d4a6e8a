"""The way to a Redis server: where it is, and connections whose every wait is bounded.

redis-py brings TLS, authentication and the parser. What it decides differently from version to version (timeouts,
retries, the protocol) is decided here, because claims depend on it: a command that is repeated behind our back would
claim jobs twice under the same tokens, and a read without a deadline never notices a dead connection.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import redis
import redis.asyncio
import redis.backoff
from redis.asyncio.connection import AbstractConnection, Connection, ConnectionPool, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from litestar_tasks.broker_url import RedisURL, redact
from litestar_tasks.exceptions import ConfigurationError
from litestar_tasks.queues.redis.routed import RoutedConnection, RoutedSSLConnection
from litestar_tasks.queues.redis.routes import ClusterRoute, MisdirectedError, Route, route_to

__all__ = ("Endpoint", "Link", "never_sent")

CONNECT_TIMEOUT: Final = 3.0
"""Seconds until a connection that is not established counts as refused."""
ANSWER_TIMEOUT: Final = 5.0
"""Seconds until a command that is not answered counts as lost, and its connection with it."""

# Options that differ between redis-py 7 and 8, or that would repeat commands.
_DECIDED_HERE: Final = frozenset(
    {
        "decode_responses",
        "health_check_interval",
        "legacy_responses",
        "protocol",
        "retry",
        "retry_on_error",
        "retry_on_timeout",
        "socket_timeout",
    }
)


def _named() -> dict[str, Any]:
    """What a server is told of its client: without it redis-py looks its version up on the disk for each connection."""
    try:
        from redis.driver_info import DriverInfo
    except ImportError:  # redis-py 7.0, which reads its version once
        return {}
    return {"driver_info": DriverInfo()}


_NAMED: Final = _named()


class Endpoint:
    """The Redis or Valkey server of a queue, and how to connect to it.

    Args:
        client: A client of that server; only its settings are used, its connections are left alone.
        queue: The queue's name on the wire, by which a cluster knows the server. Defaults to "": none yet.

    Attributes:
        address: Where the server is, without credentials: ``host:port/db`` or a socket's path; in a cluster and behind
            Sentinel, who knows.
        clustered: Whether it is one of a cluster, where a queue's keys need a hash tag.

    Raises:
        ConfigurationError: redis-py's own clients for clusters and for Sentinel are not for this.
    """

    def __init__(self, client: redis.asyncio.Redis, *, queue: str = "") -> None:
        pool: Any = getattr(client, "connection_pool", None)
        if pool is None or isinstance(pool, SentinelConnectionPool):
            raise ConfigurationError(
                f"a client of the class {type(client).__name__} with {type(pool).__name__} can't be asked for where it "
                "leads; give RedisQueue.from_url a URL with redis+cluster:// or redis+sentinel://"
            )
        kind: type[AbstractConnection] = pool.connection_class
        given = cast("Mapping[str, Any]", pool.connection_kwargs)
        self._kind = kind
        self._settings: dict[str, Any] = {
            name: value
            for name, value in given.items()
            if name not in _DECIDED_HERE and not name.startswith(("maint", "orig_", "oss_"))
        }
        self._settings["protocol"] = 2
        if not given.keys() & {"driver_info", "lib_name", "lib_version"}:
            self._settings.update(_NAMED)
        route: Route | None = given.get("route")
        if route is not None:
            route = self._settings["route"] = route.to(queue)
        self.clustered = isinstance(route, ClusterRoute)
        if self._settings.get("socket_connect_timeout") is None:
            self._settings["socket_connect_timeout"] = CONNECT_TIMEOUT
        if issubclass(kind, Connection):
            self._settings["socket_keepalive"] = True
            self._settings["socket_keepalive_options"] = _keepalive()
            host, port = given.get("host", "localhost"), given.get("port", 6379)
            self.address = route.address if route else f"{host}:{port}/{given.get('db') or 0}"
        else:
            self.address = f"{given.get('path', '?')}/{given.get('db') or 0}"

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Endpoint:
        """The server that a URL names: with ``redis://``, ``rediss://`` (TLS), ``unix://``, ``valkey://``, ``valkeys://``.

        In a cluster, some of whose nodes it names, ``redis+cluster://host:port,host:port``; behind Sentinel
        ``redis+sentinel://host:port,host:port/service/db``; both also with TLS.

        Args:
            url: The URL; user name, password and database are read from it, and redis-py's options from its query.
            options: More of redis-py's options.

        Raises:
            ConfigurationError: It can't be one; the message does not show its credentials.
        """
        parsed = RedisURL.parse(url)
        try:
            client = redis.asyncio.Redis.from_url(parsed.plain, **options)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"broker_url {redact(url)!r} cannot be read: {error}") from None
        pool: Any = client.connection_pool
        tls = issubclass(pool.connection_class, SSLConnection)
        if (route := route_to(parsed, pool.connection_kwargs, tls=tls)) is not None:
            pool.connection_class = RoutedSSLConnection if tls else RoutedConnection
            pool.connection_kwargs["route"] = route
        return cls(client)

    def __repr__(self) -> str:
        return f"<Endpoint {self.address}>"

    def client(self) -> redis.asyncio.Redis:
        """A client with a pool of its own, for single commands that may be asked again."""
        pool = ConnectionPool(
            connection_class=self._kind,
            **self._settings,
            socket_timeout=ANSWER_TIMEOUT,
            retry=Retry(redis.backoff.NoBackoff(), 1, (RedisConnectionError,)),  # it may be a dead one of the pool
        )
        return redis.asyncio.Redis(connection_pool=pool)

    def link(self) -> Link:
        """A connection of its own; it is made with the first command."""
        return Link(self.connection())

    def connection(self) -> AbstractConnection:
        """A bare connection, not yet made, whose reads have no deadline of their own."""
        return self._kind(**self._settings, socket_timeout=None, retry=Retry(redis.backoff.NoBackoff(), 0))


class Link:
    """One connection, on which commands are written as they come, and answered in the order they were written.

    Each command has a deadline. It is leaner than a client: no pool, no repetition, one write for each command. What
    fails for one command fails for those behind it too: without its answer theirs can't be told apart. Who is cancelled
    while the server works leaves the answer to be read, and costs the others nothing.
    """

    __slots__ = ("_connection", "_discards", "_epoch", "_last", "_writing")

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection: Any = connection  # redis-py leaves parts of it without types
        self._writing = asyncio.Lock()
        self._last: asyncio.Future[None] | None = None
        self._epoch = 0
        self._discards: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        """Whether there is a connection now; the next command makes one."""
        return bool(self._connection.is_connected)

    @property
    def epoch(self) -> int:
        """Grows whenever a connection is given up: while it is the same, so is the connection."""
        return self._epoch

    async def call(self, args: Sequence[bytes | str | float], timeout: float = ANSWER_TIMEOUT) -> Any:
        """Send a command and return its answer.

        Raises:
            ResponseError: The server answered with an error.
            RedisError: No connection, or no answer in time; the connection has been given up. ``never_sent`` tells
                whether the server can have received the command.
        """
        return await self._exchange((args,), timeout)

    async def call_all(
        self, commands: Sequence[Sequence[bytes | str | float]], timeout: float, *, last: float
    ) -> list[Any]:
        """Send commands in one write, over one connection, and return their answers in order.

        What the server answers with an error does not keep it from the commands behind; the error stands among the
        answers.

        Args:
            commands: The commands.
            timeout: Seconds for the answers of all but the last one.
            last: Seconds for that of the last one, from then on.

        Raises:
            RedisError: As ``call``.
        """
        answers: list[Any] = await self._exchange(commands, timeout, last)
        return answers

    async def _exchange(
        self, commands: Sequence[Sequence[bytes | str | float]], timeout: float, last: float | None = None
    ) -> Any:
        connection = self._connection
        written = False
        epoch = -1  # no connection has been used yet
        before = read = None
        answers: list[Any] = []
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                async with self._writing:
                    if self._died():
                        await self._drop()
                    epoch = self._epoch
                    if not connection.is_connected:
                        await connection.connect()
                    before, self._last = self._last, (read := asyncio.get_running_loop().create_future())
                    await connection.send_packed_command(b"".join(map(_pack, commands)), check_health=False)
                    written = True
                if before is not None and not before.done():
                    await asyncio.shield(before)  # who is cancelled must not cancel it
                if epoch != self._epoch:
                    raise RedisConnectionError("the connection was given up while a command was under way")
                if last is None:
                    return await connection.read_response(disconnect_on_error=False)
                while len(answers) < len(commands) - 1:
                    answers.append(await self._answer())
                limit.reschedule(asyncio.get_running_loop().time() + last)
                return [*answers, await self._answer()]
        except ResponseError:
            raise
        except TimeoutError:
            await self._give_up(epoch)
            raise _marked(RedisTimeoutError(f"no answer within {timeout:g} s"), read is not None) from None
        except RedisError as error:
            await self._give_up(epoch)
            # While connecting, redis-py hides what the server said behind an error of its own.
            told = error.__cause__ if isinstance(error.__cause__, RedisError) else error
            refused = isinstance(told, MisdirectedError) and last is None
            raise _marked(told, read is not None and not refused) from None
        except OSError as error:
            await self._give_up(epoch)
            raise _marked(RedisConnectionError(str(error)), read is not None) from error
        except asyncio.CancelledError:
            if written and read is not None and epoch == self._epoch:
                # The answer is still to come, and would be taken for the next command's. Others may be under way, and
                # are not to suffer for it.
                self._discard(before, read, len(commands) - len(answers), epoch, limit.when())
                read = None
            else:
                await self._give_up(epoch)
            raise
        except BaseException:
            await self._give_up(epoch)
            raise
        finally:
            if read is not None and not read.done():  # else whoever waited for it was cancelled
                read.set_result(None)

    def _discard(
        self,
        before: asyncio.Future[None] | None,
        read: asyncio.Future[None],
        count: int,
        epoch: int,
        deadline: float | None,
    ) -> None:
        """Read so many answers that nobody waits for any more."""

        async def discard() -> None:
            try:
                async with asyncio.timeout_at(deadline):
                    if before is not None and not before.done():
                        await before  # which is waited for here alone
                    for _ in range(count):
                        if epoch != self._epoch:
                            return
                        await self._answer()
            except (RedisError, OSError):  # of which TimeoutError is one
                await self._give_up(epoch)
            finally:
                if not read.done():
                    read.set_result(None)

        task = asyncio.get_running_loop().create_task(discard(), name="discard")
        self._discards.add(task)
        task.add_done_callback(self._discards.discard)

    def _died(self) -> bool:
        """Whether the server has closed the connection while nothing was under way: what is sent now would be lost."""
        reader: asyncio.StreamReader | None = self._connection._reader  # redis-py tells only by reading
        return reader is not None and reader.at_eof() and (self._last is None or self._last.done())

    async def _answer(self) -> Any:
        try:
            return await self._connection.read_response(disconnect_on_error=False)
        except ResponseError as error:
            return error

    async def _give_up(self, epoch: int) -> None:
        """Drop the connection of that epoch, unless another command has done so: by now there may be a new one."""
        if epoch == self._epoch:
            await self._drop()

    async def _drop(self) -> None:
        self._epoch += 1
        self._last = None
        await self._connection.disconnect(nowait=True)

    async def close(self) -> None:
        """Close the connection; the next command makes a new one."""
        self._epoch += 1
        try:
            await self._connection.disconnect()
        except (RedisError, OSError):
            pass  # It is gone either way.


def never_sent(error: BaseException) -> bool:
    """Whether the command that failed with this error certainly did not reach the server."""
    return getattr(error, "litestar_tasks_unsent", False)


def _marked(error: RedisError, sent: bool) -> RedisError:
    error.litestar_tasks_unsent = not sent  # type: ignore[attr-defined]  # an error keeps its class and says one thing more
    return error


def _pack(args: Sequence[bytes | str | float]) -> bytes:
    data = [arg if type(arg) is bytes else str(arg).encode() for arg in args]
    parts: list[int | bytes] = [0] * (2 * len(data))
    parts[::2] = map(len, data)
    parts[1::2] = data
    return (b"*%d\r\n" % len(data)) + (b"$%d\r\n%b\r\n" * len(data)) % tuple(parts)  # one formatting for all


def _keepalive() -> dict[int, int]:
    """A peer that vanished silently is noticed in half a minute, also where nothing is being sent."""
    wanted = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}
