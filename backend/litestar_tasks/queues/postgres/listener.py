"""What other processes announce, by NOTIFY: work, the ends of jobs, and commands to workers."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import psycopg
from psycopg import sql

from litestar_tasks.exceptions import BrokerError
from litestar_tasks.queues.outage import Outage
from litestar_tasks.queues.postgres.connection import Away, Connection, Endpoint, Link, reason_of
from litestar_tasks.queues.postgres.statements import NOTIFY

__all__ = ("Announcer", "Change", "Ends", "Listener", "channel_of")

logger = logging.getLogger("litestar_tasks.queues")

Change = tuple[str, str]
"""The key of a job, and its new status."""
_Callback = Callable[[str | None], None]

_PING_EVERY: Final = 10.0
"""Seconds of silence after which the connection has to prove that it is alive."""
_CONFIRM: Final = 5.0
_LINGER: Final = 5.0
"""Seconds for which the connection is kept without a listener."""
_LONGEST_CHANNEL: Final = 63
_LONGEST_PAYLOAD: Final = 7_000
_changes: Final = msgspec.json.Decoder(list[Change])


def channel_of(kind: str, queue: str) -> str:
    """The channel on which something is announced of a queue. Long names are shortened: Postgres would refuse them."""
    name = f"litestar_tasks:{kind}:{queue}"
    if len(name.encode()) <= _LONGEST_CHANNEL:
        return name
    return f"litestar_tasks:{kind}:{hashlib.sha256(queue.encode()).hexdigest()[:32]}"


class Listener:
    """Listens on exactly the channels that somebody listens to, over one connection.

    Listeners are called with each payload, and with None when some may have been missed: after a reconnection.

    Args:
        endpoint: The server.
        outage: Whether it answers.
    """

    def __init__(self, endpoint: Endpoint, outage: Outage) -> None:
        self._link = endpoint.link()
        self._outage = outage
        self._listeners: dict[str, list[_Callback]] = {}
        self._confirmed: set[str] = set()
        self._unconfirmed: dict[str, asyncio.Future[None]] = {}
        self._stir = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._heard_on: Connection | None = None

    def add(self, channel: str, callback: _Callback) -> None:
        """Call ``callback`` for what is said on a channel. ``confirmed`` tells from when on."""
        self._listeners.setdefault(channel, []).append(callback)
        self._stir.set()
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="listener")

    def remove(self, channel: str, callback: _Callback) -> None:
        """Call ``callback`` no more. The channel is listened to a little longer: the next one may come soon."""
        listeners = self._listeners.get(channel, [])
        if callback in listeners:
            listeners.remove(callback)
        if self._linger is None and not any(self._listeners.values()):
            self._linger = asyncio.get_running_loop().call_later(_LINGER, self._stop)

    async def confirmed(self, channel: str) -> bool:
        """Wait until what is said on a channel arrives here; False where that takes too long."""
        if channel in self._confirmed:
            return True
        future = self._unconfirmed.get(channel)
        if future is None:
            future = self._unconfirmed[channel] = asyncio.get_running_loop().create_future()
        done, _ = await asyncio.wait([future], timeout=_CONFIRM)
        return bool(done) and not future.cancelled()

    async def close(self) -> None:
        """Drop the connection. Listeners are called no more."""
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self._listeners.clear()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._link.close()
        for future in self._unconfirmed.values():
            future.cancel()
        self._unconfirmed.clear()
        self._confirmed.clear()

    def _stop(self) -> None:
        self._linger = None
        if not any(self._listeners.values()) and self._task is not None:
            self._listeners.clear()
            self._task.cancel()
            self._task = None

    # The connection

    async def _run(self) -> None:
        missed: set[str] = set()
        try:
            while True:
                try:
                    await self._listen(missed)
                except (BrokerError, psycopg.Error, OSError) as error:
                    self._outage.failed(error)
                except Exception:
                    logger.exception("an unforeseen error in the listening connection")
                missed = set(self._listeners)
                self._confirmed.clear()
                await self._link.close()
                await self._outage.pause()
        finally:
            self._confirmed.clear()
            await self._link.close()

    async def _listen(self, missed: set[str]) -> None:
        """Listen until the connection ends."""
        loop = asyncio.get_running_loop()
        while True:
            self._stir.clear()
            for channel in [name for name in self._listeners if name not in self._confirmed]:
                await self._subscribe(channel, missed)
            connection = self._link.connection
            if connection is None:
                await self._link.ask("SELECT 1")
                continue
            self._hear(connection)
            try:
                descriptor = connection.fileno()
                loop.add_reader(descriptor, self._stir.set)
                try:
                    async with asyncio.timeout(_PING_EVERY):
                        await self._stir.wait()
                finally:
                    loop.remove_reader(descriptor)
            except TimeoutError:
                await self._link.ask("SELECT 1")

    async def _subscribe(self, channel: str, missed: set[str]) -> None:
        statement = sql.SQL("LISTEN {}").format(sql.Identifier(channel))

        async def listen(connection: Connection) -> None:
            if self._heard_on is not connection:
                connection.add_notify_handler(self._handle)
                self._heard_on = connection
            await connection.execute(statement)

        before = self._link.connection
        await self._link.run(listen)
        if before is not None and self._link.connection is not before:
            raise Away("the listening connection was replaced", sent=False)
        self._outage.succeeded()
        self._confirmed.add(channel)
        if (waiting := self._unconfirmed.pop(channel, None)) is not None and not waiting.done():
            waiting.set_result(None)
        if channel in missed:
            missed.discard(channel)
            self._tell(channel, None)

    def _hear(self, connection: Connection) -> None:
        """Take what has arrived."""
        try:
            connection.pgconn.consume_input()
        except psycopg.Error as error:
            raise Away(reason_of(error), sent=False) from error
        while (said := connection.pgconn.notifies()) is not None:
            self._tell(said.relname.decode(), said.extra.decode())

    def _handle(self, said: psycopg.Notify) -> None:
        """Take what arrived together with the answer to a statement."""
        self._tell(said.channel, said.payload)

    def _tell(self, channel: str, payload: str | None) -> None:
        for callback in tuple(self._listeners.get(channel, ())):
            callback(payload)


class Ends:
    """Tells those who wait for a job that its status has changed.

    Args:
        listener: Hears it.
        channel: Where it is said.
    """

    def __init__(self, listener: Listener, channel: str) -> None:
        self._listener = listener
        self._channel = channel
        self._followers: dict[str, list[_Callback]] = {}

    @asynccontextmanager
    async def follow(self, key: str, callback: _Callback) -> AsyncGenerator[bool]:
        """Call ``callback`` with a job's status within a block, which begins when nothing can be missed any more.

        The block gets whether that is certain: with a server that is away it begins all the same, after a while. The
        callback gets None where something may have been missed.
        """
        if not self._followers:
            self._listener.add(self._channel, self._hear)
        self._followers.setdefault(key, []).append(callback)
        try:
            yield await self._listener.confirmed(self._channel)
        finally:
            followers = self._followers.get(key, [])
            if callback in followers:
                followers.remove(callback)
            if not followers:
                self._followers.pop(key, None)
            if not self._followers:
                self._listener.remove(self._channel, self._hear)

    def _hear(self, payload: str | None) -> None:
        if not payload:
            for callback in [one for followers in self._followers.values() for one in followers]:
                callback(None)
            return
        try:
            changes = _changes.decode(payload)
        except msgspec.DecodeError:
            return  # somebody else's
        for key, status in changes:
            for callback in tuple(self._followers.get(key, ())):
                callback(status)


class Announcer:
    """Announces, in transactions of their own: a NOTIFY within another one makes all commits wait for each other.

    What is said while a round trip is under way goes with the next one, once, however often it was said.

    Args:
        link: The connection.
        queue: The queue's name on the wire.
    """

    def __init__(self, link: Link, queue: str) -> None:
        self._link = link
        self.work = channel_of("work", queue)
        self.ends = channel_of("ends", queue)
        self._said: dict[Change, None] = {}
        self._changes: list[Change] = []
        self._task: asyncio.Task[None] | None = None

    def ready(self) -> None:
        """There is work, or something else that a worker that waits should look at."""
        self.say("ready")

    def say(self, command: str) -> None:
        """Tell the workers something."""
        self._said[self.work, command] = None
        self._start()

    def changed(self, changes: Iterable[Change]) -> None:
        """Jobs have a new status."""
        self._changes += changes
        if self._changes:
            self._start()

    async def flush(self) -> None:
        """Wait until everything is said."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="announcer")

    async def _run(self) -> None:
        try:
            while self._said or self._changes:
                said, self._said = list(self._said), {}
                changes, self._changes = self._changes, []
                said += [(self.ends, payload) for payload in _payloads(changes)]
                await self._link.ask(NOTIFY, ([channel for channel, _ in said], [payload for _, payload in said]))
        except (BrokerError, psycopg.Error, OSError) as error:
            # Nothing rests on it: workers and waiters look now and then by themselves.
            logger.debug("announcements were not made: %s", error)
        finally:
            self._task = None


def _payloads(changes: list[Change]) -> list[str]:
    """Changes as texts that a NOTIFY can hold; an empty one says that there was one that it can't."""
    payloads: list[str] = []
    batch: list[str] = []
    size = 0
    for change in changes:
        text = msgspec.json.encode(change).decode()
        length = len(text.encode()) + 1
        if length > _LONGEST_PAYLOAD:
            payloads.append("")
            continue
        if size + length > _LONGEST_PAYLOAD:
            payloads.append(f"[{','.join(batch)}]")
            batch, size = [], 0
        batch.append(text)
        size += length
    if batch:
        payloads.append(f"[{','.join(batch)}]")
    return payloads
