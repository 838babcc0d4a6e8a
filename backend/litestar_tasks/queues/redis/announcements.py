"""What other processes announce: the ends of jobs, and commands to workers. One connection for all of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from litestar_tasks.queues.redis.connection import CONNECT_TIMEOUT
from litestar_tasks.queues.subscriptions import CONFIRM, PING_EVERY, Subscriptions

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

    from litestar_tasks.queues.outage import Outage
    from litestar_tasks.queues.redis.connection import Endpoint

__all__ = ("Announcements",)

logger = logging.getLogger("litestar_tasks.queues")


class Announcements(Subscriptions[bytes]):
    """What is published on channels, over one connection.

    Args:
        endpoint: The server.
        outage: Whether it answers.
    """

    _name = "announcements"

    def __init__(self, endpoint: Endpoint, outage: Outage) -> None:
        super().__init__(outage)
        self._endpoint = endpoint
        self._connection: AbstractConnection | None = None
        self._outbox: list[tuple[bytes, bytes]] = []
        self._sending = False
        self._sends: set[asyncio.Task[None]] = set()

    @property
    def channels(self) -> int:
        """How many channels are listened to."""
        return len(self._listeners)

    @asynccontextmanager
    async def follow(self, channel: str, callback: Callable[[bytes | None], None]) -> AsyncGenerator[bool]:
        """Call ``callback`` within a block, which begins when nothing can be missed any more.

        The block gets whether that is certain: with a server that is away it begins all the same, after a while.
        """
        self.add(channel, callback)
        try:
            yield await self.confirmed(channel)
        finally:
            self.remove(channel, callback)

    async def close(self) -> None:
        """See ``Subscriptions.close``."""
        await super().close()
        self._outbox.clear()

    # The connection

    def _subscribe(self, channel: str) -> None:
        self._say(b"SUBSCRIBE", channel)

    def _unsubscribe(self, channel: str) -> None:
        del self._listeners[channel]
        self._confirmed.discard(channel)
        if (waiting := self._unconfirmed.pop(channel, None)) is not None:
            waiting.cancel()
        self._say(b"UNSUBSCRIBE", channel)

    def _say(self, command: bytes, channel: str) -> None:
        """Send with the next turn of the loop, together with what others say in this one."""
        if self._connection is None:
            return  # all channels are subscribed to when it is made
        self._outbox.append((command, channel.encode()))
        if not self._sending:
            self._sending = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._sending = False
        connection, outbox = self._connection, self._outbox
        self._outbox = []
        if connection is None or not outbox:
            return
        task = asyncio.create_task(self._send(connection, outbox))
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)

    async def _send(self, connection: AbstractConnection, outbox: list[tuple[bytes, bytes]]) -> None:
        parts: list[bytes] = []
        for command, channel in outbox:
            parts += connection.pack_command(command, channel)
        if not connection.is_connected:
            return  # redis-py would connect it again, for nobody: it has been given up since
        try:
            async with asyncio.timeout(CONFIRM):
                await connection.send_packed_command(parts, check_health=False)
        except (RedisError, OSError):
            await connection.disconnect(nowait=True)  # the reader notices, and begins anew

    async def _run(self) -> None:
        while True:
            connection: Any = self._endpoint.connection()
            try:
                async with asyncio.timeout(2 * CONNECT_TIMEOUT):
                    await connection.connect()
                await self._read(connection)
            except (RedisError, OSError) as error:
                self._outage.failed(error)
            except Exception:
                logger.exception("an unforeseen error in the listening connection")
            finally:
                self._connection = None
                self._confirmed.clear()
                await connection.disconnect(nowait=True)
            await self._outage.pause()

    async def _read(self, connection: AbstractConnection) -> None:
        self._outbox.clear()
        channels = list(self._listeners)
        self._connection = connection
        if channels:
            await self._send(connection, [(b"SUBSCRIBE", channel.encode()) for channel in channels])
        missed = set(channels)
        silent = False
        while True:
            message: Any = await connection.read_response(timeout=PING_EVERY)
            if message is None:
                if silent:
                    return  # not even an answer to the ping: the connection has died without a word
                silent = True
                await connection.send_packed_command(connection.pack_command(b"PING"), check_health=False)
                continue
            silent = False
            if not isinstance(message, list):
                continue  # PONG, where no channel is subscribed to
            kind, channel = message[0], message[1].decode()
            if kind == b"message":
                self._tell(channel, message[2])
            elif kind == b"subscribe" and channel in self._listeners:
                self._confirm(channel, missed)
