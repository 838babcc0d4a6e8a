"""The brokers that the suite is run on: a module each, which names them in ``BROKERS``."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from litestar_tasks.queues.base import TaskQueue
from litestar_tasks.queues.operations import Capability

if TYPE_CHECKING:
    from litestar_tasks.registry import Registry

__all__ = ("Broker", "Unavailable")


class Unavailable(Exception):
    """A broker that cannot be started on this machine; says what is missing. A skip here, a failure in CI."""


class Broker(Protocol):
    """One broker under test.

    A module of this package holds ``BROKERS: dict[str, Callable[[], Broker]]``, from the id in the tests' names to what
    makes it. Making one is cheap and starts nothing.
    """

    capabilities: ClassVar[frozenset[Capability]]
    """Those of its queue class."""

    def start(self) -> None:
        """Start the server, once for the session, outside of any event loop.

        Raises:
            Unavailable: It is not installed here.
        """

    def stop(self) -> None:
        """Stop what ``start`` started; without effect where that raised."""

    async def make(
        self,
        label: str = "default",
        *,
        namespace: str,
        registry: Registry | None = None,
        lease: float = 15.0,
        max_losses: int = 3,
        keep_complete: int = 10_000,
        keep_failed: int = 100_000,
    ) -> TaskQueue:
        """A connected queue object. The first of a namespace and label finds the queue empty.

        Further ones of the same namespace and label are what another process would have: they see the same jobs
        wherever the broker has the capability ``shared``, and are not asked for elsewhere.
        """
        ...

    async def vanish(self, queue: TaskQueue) -> None:
        """Let the worker that opened this queue object die: nothing more comes of it, it renews and settles nothing.

        Asked for only where the broker has the capability ``leases``.
        """

    async def close(self, queue: TaskQueue) -> None:
        """Disconnect a queue object, a vanished one, too, and leave no connection or task behind."""
