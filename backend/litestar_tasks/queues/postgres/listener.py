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
from litestar_tasks.queues.subscriptions import PING_EVERY, Subscriptions

__all__ = ("Announcer", "Change", "Ends", "Listener", "channel_of")

logger = logging.getLogger("litestar_tasks.queues")

Change = tuple[str, str]
"""The key of a job, and its new status."""
_Callback = Callable[[str | None], None]

_LONGEST_CHANNEL: Final = 63
_LONGEST_PAYLOAD: Final = 7_000
_changes: Final = msgspec.json.Decoder(list[Change])


def channel_of(kind: str, queue: str) -> str:
    """The channel on which something is announced of a queue. Long names are shortened: Postgres would refuse them."""
    name = f"litestar_tasks:{kind}:{queue}"
    if len(name.encode()) <= _LONGEST_CHANNEL:
        return name
    return f"litestar_tasks:{kind}:{hashlib.sha256(queue.encode()).hexdigest()[:32]}"


class Listener(Subscriptions[str]):
    """What is notified on channels, over one connection.

    A channel is listened to a little longer than somebody wants it: the next one may come soon.

    Args:
        endpoint: The server.
        outage: Whether it answers.
    """

    _name = "listener"

    def __init__(self, endpoint: Endpoint, outage: Outage) -> None:
        super().__init__(outage)
        self._link = endpoint.link()
        self._stir = asyncio.Event()
        self._heard_on: Connection | None = None

    async def close(self) -> None:
        """See ``Subscriptions.close``."""
        await super().close()
        await self._link.close()

    # The connection

    def _subscribe(self, channel: str) -> None:
        self._stir.set()

    def _unsubscribe(self, channel: str) -> None:
        """With all the others, when the connection is given up."""

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
                await self._begin(channel, missed)
            connection = self._link.connection
            if connection is None:
                await self._link.ask("SELECT 1")
                continue
            self._hear(connection)
            try:
                descriptor = connection.fileno()
                loop.add_reader(descriptor, self._stir.set)
                try:
                    async with asyncio.timeout(PING_EVERY):
                        await self._stir.wait()
                finally:
                    loop.remove_reader(descriptor)
            except TimeoutError:
                await self._link.ask("SELECT 1")

    async def _begin(self, channel: str, missed: set[str]) -> None:
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
        self._confirm(channel, missed)

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
