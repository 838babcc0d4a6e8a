"""How an enqueue finds its queue: a registry is attached to running apps, each on its event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from litestar_tasks.exceptions import ConfigurationError, NotAttachedError

if TYPE_CHECKING:
    from saq.job import Job

    from litestar_tasks.job import Event, JobQueue, JobSpec, JobStatus, Submission
    from litestar_tasks.keyring import Keyring
    from litestar_tasks.schedule import ScheduleBook

__all__ = ("Attachment", "Attachments", "Outbox")

T = TypeVar("T")


class Outbox(Protocol):
    """What calls need of an outbox."""

    def session(self) -> object | None:
        """The session that calls which name none are part of, here and now; None where there is none."""
        ...

    async def write(self, session: object, calls: Sequence[tuple[str, JobSpec]]) -> list[Submission]:
        """Write calls, each with its queue's label, into a session's transaction, in order."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Attachment:
    """One running app's queues."""

    loop: asyncio.AbstractEventLoop
    """The event loop that the queues' connections belong to."""
    broker: str
    """Names the broker and the namespace, without credentials: two attachments of one loop must agree on it."""
    find: Callable[[str], JobQueue]
    """Returns a queue by its label; raises UnknownQueueError."""
    locate: Callable[[str], tuple[str, str]]
    """Splits a job id into its queue's label and the job's key; raises JobNotFoundError for an id of elsewhere."""
    schedules: ScheduleBook
    """The schedules in its queues."""
    keyring: Keyring | None = None
    """What encrypts secrets. Defaults to None: nothing, as there are no keys."""
    outbox: Outbox | None = None
    """Takes calls into transactions of the app's database; None where it is not configured."""

    def queue(self, label: str) -> JobQueue:
        """A queue that can be used on the running event loop."""
        queue = self.find(label)
        return queue if _running_loop() is self.loop else _ForeignLoopQueue(queue, self.loop)

    def session(self) -> object | None:
        """The session that a call without one of its own is part of."""
        return None if self.outbox is None else self.outbox.session()

    async def write(self, session: object, calls: Sequence[tuple[str, JobSpec]]) -> list[Submission]:
        """Write calls into a session's transaction, in order.

        Raises:
            ConfigurationError: The app has no outbox, or the session is not one of its database.
            PayloadError: The broker could not store one of them.
        """
        if self.outbox is None:
            raise ConfigurationError(
                "using(session=…) needs an outbox, which this app does not have; give it one: "
                "TasksConfig(outbox=OutboxConfig())"
            )
        return await self.outbox.write(session, calls)

    async def on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the app's loop, wherever it is awaited."""
        if _running_loop() is self.loop:
            return await work
        return await _hop(work, self.loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the app's loop from a thread that has none, and wait for it.

        Raises:
            RuntimeError: Called on an event loop, which waiting would block.
        """
        if _running_loop() is not None:
            work.close()
            raise RuntimeError("enqueue_sync() would block the event loop that it is called on; await enqueue()")
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()


class Attachments:
    """The apps that a registry is attached to at the moment."""

    def __init__(self, registry: str) -> None:
        self._registry = registry
        self._stack: list[Attachment] = []
        self._lock = Lock()

    @contextmanager
    def attach(self, attachment: Attachment) -> Generator[None, None, None]:
        """Attach for the length of a ``with`` block. The innermost attachment of a loop wins.

        Raises:
            ConfigurationError: The registry is attached on the same loop to another broker.
        """
        with self._lock:
            for other in self._stack:
                if other.loop is attachment.loop and other.broker != attachment.broker:
                    raise ConfigurationError(
                        f"registry {self._registry!r} is attached to {other.broker} on this event loop, and cannot be "
                        f"attached to {attachment.broker} as well; give each app a registry of its own"
                    )
            self._stack.append(attachment)
        try:
            yield
        finally:
            with self._lock:
                self._stack.remove(attachment)

    def find(self) -> Attachment:
        """The attachment for code that runs here: that of the running loop, or else the only one.

        Raises:
            NotAttachedError: There is none, or nothing tells which.
        """
        loop = _running_loop()
        with self._lock:
            stack = list(self._stack)
        for attachment in reversed(stack):
            if attachment.loop is loop:
                return attachment
        if not stack:
            raise NotAttachedError(
                f"registry {self._registry!r} is not attached to a running app; enqueue inside a request or a task, "
                'or within "async with app.lifespan(): …"; a TestClient attaches it in its "with" block, and a web '
                "server when it runs the app's lifespan, which may have been turned off, as by uvicorn --lifespan off"
            )
        if len({id(attachment.loop) for attachment in stack}) > 1:
            raise NotAttachedError(
                f"registry {self._registry!r} is attached to several apps, none of them on this event loop; give each "
                "app a registry of its own"
            )
        return stack[-1]


class _ForeignLoopQueue:
    """A queue used from another event loop: each call hops to the loop that the queue's connections belong to."""

    def __init__(self, queue: JobQueue, loop: asyncio.AbstractEventLoop) -> None:
        self._queue = queue
        self._loop = loop

    def job_id(self, job_key: str) -> str:
        return self._queue.job_id(job_key)

    async def submit(self, spec: JobSpec) -> Submission:
        return await self._hop(self._queue.submit(spec))

    async def submit_many(self, specs: Sequence[JobSpec]) -> list[Submission]:
        return await self._hop(self._queue.submit_many(specs))

    async def job(self, job_key: str) -> Job | None:
        return await self._hop(self._queue.job(job_key))

    async def status(self, key: str) -> JobStatus | None:
        return await self._hop(self._queue.status(key))

    async def wait(self, key: str, timeout: float | None) -> Job | None:
        return await self._hop(self._queue.wait(key, timeout))

    async def cancel(self, key: str, reason: str) -> bool:
        return await self._hop(self._queue.cancel(key, reason))

    async def change(self, key: str, seen: Event | None) -> Event | None:
        return await self._hop(self._queue.change(key, seen))

    async def _hop(self, work: Coroutine[Any, Any, T]) -> T:
        return await _hop(work, self._loop)


async def _hop(work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
