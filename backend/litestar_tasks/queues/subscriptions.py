"""Who listens to which channel of a server, over one connection, and from when on nothing is missed."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Final, Generic, TypeVar

from litestar_tasks.queues.outage import Outage

__all__ = ("CONFIRM", "PING_EVERY", "Subscriptions")

MessageT = TypeVar("MessageT")

PING_EVERY: Final = 10.0
"""Seconds of silence after which the connection has to prove that it is alive."""
CONFIRM: Final = 5.0
"""Seconds that a subscription may take."""
_LINGER: Final = 5.0
"""Seconds for which the connection is kept without a listener."""


class Subscriptions(ABC, Generic[MessageT]):
    """Subscribes to exactly the channels that somebody listens to.

    Listeners are called with each message, and with None when some may have been missed: after a reconnection.

    Args:
        outage: Whether the server answers.
    """

    _name: ClassVar[str]
    """What the task that listens is called."""

    def __init__(self, outage: Outage) -> None:
        self._outage = outage
        self._listeners: dict[str, list[Callable[[MessageT | None], None]]] = {}
        self._confirmed: set[str] = set()
        self._unconfirmed: dict[str, asyncio.Future[None]] = {}
        self._task: asyncio.Task[None] | None = None
        self._linger: asyncio.TimerHandle | None = None

    def add(self, channel: str, callback: Callable[[MessageT | None], None]) -> None:
        """Call ``callback`` for what is said on a channel. ``confirmed`` tells from when on."""
        listeners = self._listeners.setdefault(channel, [])
        listeners.append(callback)
        if len(listeners) == 1:
            self._subscribe(channel)
        self._stay()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=self._name)

    def remove(self, channel: str, callback: Callable[[MessageT | None], None]) -> None:
        """Call ``callback`` no more."""
        listeners = self._listeners.get(channel, [])
        if callback in listeners:
            listeners.remove(callback)
        if listeners or channel not in self._listeners:
            return
        self._unsubscribe(channel)
        if self._linger is None and not any(self._listeners.values()):
            self._linger = asyncio.get_running_loop().call_later(_LINGER, self._stop)

    async def confirmed(self, channel: str) -> bool:
        """Wait until what is said on a channel arrives here; False where that takes too long."""
        if channel in self._confirmed:
            return True
        future = self._unconfirmed.get(channel)
        if future is None:
            future = self._unconfirmed[channel] = asyncio.get_running_loop().create_future()
        done, _ = await asyncio.wait([future], timeout=CONFIRM)
        return bool(done) and not future.cancelled()

    async def close(self) -> None:
        """Drop the connection. Listeners are called no more."""
        self._stay()
        self._listeners.clear()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for future in self._unconfirmed.values():
            future.cancel()
        self._unconfirmed.clear()
        self._confirmed.clear()

    # What the server does in its own way

    @abstractmethod
    async def _run(self) -> None:
        """Listen to all channels until cancelled, and connect again whenever the connection ends."""

    @abstractmethod
    def _subscribe(self, channel: str) -> None:
        """Begin to listen to a channel, if there is a connection."""

    @abstractmethod
    def _unsubscribe(self, channel: str) -> None:
        """Nobody listens to a channel any more."""

    # What was heard

    def _confirm(self, channel: str, missed: set[str]) -> None:
        """From now on nothing is missed on a channel; something may have been before on those that are ``missed``."""
        self._confirmed.add(channel)
        if (waiting := self._unconfirmed.pop(channel, None)) is not None and not waiting.done():
            waiting.set_result(None)
        if channel in missed:
            missed.discard(channel)
            self._tell(channel, None)

    def _tell(self, channel: str, message: MessageT | None) -> None:
        for callback in tuple(self._listeners.get(channel, ())):
            callback(message)

    def _stay(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None

    def _stop(self) -> None:
        self._linger = None
        if not any(self._listeners.values()) and self._task is not None:
            self._listeners.clear()
            self._task.cancel()
            self._task = None
