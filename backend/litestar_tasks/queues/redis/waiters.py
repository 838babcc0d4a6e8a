"""What other processes announce: the ends of jobs, and commands to workers. One connection for all of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from litestar_tasks.queues.redis.connection import CONNECT_TIMEOUT

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

    from litestar_tasks.queues.outage import Outage
    from litestar_tasks.queues.redis.connection import Endpoint

__all__ = ("Announcements",)

logger = logging.getLogger("litestar_tasks.queues")

_Callback = Callable[[bytes | None], None]

_PING_EVERY: Final = 10.0
"""Seconds of silence after which the connection has to prove that it is alive."""
_CONFIRM: Final = 5.0
_LINGER: Final = 5.0
"""Seconds for which the connection is kept without a listener."""


class Announcements:
    """Subscribes to exactly the channels that somebody listens to.

    Listeners are called with each message, and with None when messages may have been missed: after a reconnection.

    Args:
        endpoint: The server.
        outage: Whether it answers.
    """

    def __init__(self, endpoint: Endpoint, outage: Outage) -> None:
        self._endpoint = endpoint
        self._outage = outage
        self._listeners: dict[bytes, list[_Callback]] = {}
        self._confirmed: set[bytes] = set()
        self._unconfirmed: dict[bytes, asyncio.Future[None]] = {}
        self._connection: AbstractConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._outbox: list[tuple[bytes, bytes]] = []
        self._sending = False
        self._sends: set[asyncio.Task[None]] = set()
        self._linger: asyncio.TimerHandle | None = None

    @property
    def channels(self) -> int:
        """How many channels are listened to."""
        return len(self._listeners)

    def add(self, channel: str, callback: _Callback) -> None:
        """Call ``callback`` for what is said on a channel. ``confirmed`` tells from when on."""
        name = channel.encode()
        listeners = self._listeners.setdefault(name, [])
        listeners.append(callback)
        if len(listeners) == 1:
            self._say(b"SUBSCRIBE", name)
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="announcements")

    def remove(self, channel: str, callback: _Callback) -> None:
        """Call ``callback`` no more."""
        name = channel.encode()
        listeners = self._listeners.get(name, [])
        if callback in listeners:
            listeners.remove(callback)
        if listeners or name not in self._listeners:
            return
        del self._listeners[name]
        self._confirmed.discard(name)
        if (waiting := self._unconfirmed.pop(name, None)) is not None:
            waiting.cancel()
        self._say(b"UNSUBSCRIBE", name)
        if not self._listeners and self._linger is None:
            self._linger = asyncio.get_running_loop().call_later(_LINGER, self._stop)

    async def confirmed(self, channel: str) -> bool:
        """Wait until what is said on a channel arrives here; False where that takes too long."""
        name = channel.encode()
        if name in self._confirmed:
            return True
        future = self._unconfirmed.get(name)
        if future is None:
            future = self._unconfirmed[name] = asyncio.get_running_loop().create_future()
        done, _ = await asyncio.wait([future], timeout=_CONFIRM)
        return bool(done) and not future.cancelled()

    @asynccontextmanager
    async def follow(self, channel: str, callback: _Callback) -> AsyncGenerator[bool]:
        """Call ``callback`` within a block, which begins when nothing can be missed any more.

        The block gets whether that is certain: with a server that is away it begins all the same, after a while.
        """
        self.add(channel, callback)
        try:
            yield await self.confirmed(channel)
        finally:
            self.remove(channel, callback)

    async def close(self) -> None:
        """Drop the connection. Listeners are called no more."""
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for future in self._unconfirmed.values():
            future.cancel()
        self._unconfirmed.clear()
        self._listeners.clear()
        self._confirmed.clear()
        self._outbox.clear()

    def _stop(self) -> None:
        self._linger = None
        if not self._listeners and self._task is not None:
            self._task.cancel()
            self._task = None

    # The connection

    def _say(self, command: bytes, channel: bytes) -> None:
        """Send with the next turn of the loop, together with what others say in this one."""
        if self._connection is None:
            return  # all channels are subscribed to when it is made
        self._outbox.append((command, channel))
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
            async with asyncio.timeout(_CONFIRM):
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
            await self._send(connection, [(b"SUBSCRIBE", channel) for channel in channels])
        missed = set(channels)
        silent = False
        while True:
            message: Any = await connection.read_response(timeout=_PING_EVERY)
            if message is None:
                if silent:
                    return  # not even an answer to the ping: the connection has died without a word
                silent = True
                await connection.send_packed_command(connection.pack_command(b"PING"), check_health=False)
                continue
            silent = False
            if not isinstance(message, list):
                continue  # PONG, where no channel is subscribed to
            kind, channel = message[0], message[1]
            if kind == b"message":
                for callback in tuple(self._listeners.get(channel, ())):
                    callback(message[2])
            elif kind == b"subscribe" and channel in self._listeners:
                self._confirmed.add(channel)
                if (waiting := self._unconfirmed.pop(channel, None)) is not None and not waiting.done():
                    waiting.set_result(None)
                if channel in missed:
                    missed.discard(channel)
                    for callback in tuple(self._listeners[channel]):
                        callback(None)
