"""One application's connection to its broker, and the queues on it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from litestar_tasks.config import QueueConfig, TasksConfig
from litestar_tasks.exceptions import ConfigurationError, JobNotFoundError, UnknownQueueError
from litestar_tasks.queues.base import TaskQueue
from litestar_tasks.queues.embedded import EmbeddedServer
from litestar_tasks.queues.memory import MemoryQueue
from litestar_tasks.queues.schedule_book import QueueSchedules
from litestar_tasks.queues.task_queues import TaskQueues

if TYPE_CHECKING:
    from litestar_tasks.queues.postgres import PostgresQueue
    from litestar_tasks.queues.redis import RedisQueue

__all__ = ("Broker", "QueueMap", "queue_configs")


class QueueMap(dict[str, TaskQueue]):
    """Queues by label. Asking for one that does not exist says which do."""

    def get(self, key: str, default: Any = None, /) -> Any:
        """A queue by its label.

        Raises:
            UnknownQueueError: There is none, and no default.
        """
        if key not in self and default is None:
            raise UnknownQueueError(key, self)
        return super().get(key, default)


class Broker:
    """The queues of one application on one event loop, from ``connect`` to ``disconnect``.

    Args:
        config: Where the broker is, and which queues exist.
    """

    def __init__(self, config: TasksConfig) -> None:
        self._config = config
        self._embedded = EmbeddedServer(config.embedded_directory) if config.broker_url is None else None
        self._joined = False
        self._queues: dict[str, TaskQueue] = {}
        self.task_queues = TaskQueues(queues=QueueMap())
        """litestar-saq's ``TaskQueues``, exactly that class: msgspec refuses a subclass where it is injected."""
        self.schedules = QueueSchedules(config.registry, self._queues)
        """The schedules in all queues."""

    async def connect(self) -> None:
        """Start or join the embedded server, if that is the broker, and connect every queue.

        Raises:
            EmbeddedServerError: There is no server to start, or it does not start.
            BrokerError: The server cannot keep ``TasksConfig.durability``.
        """
        url = self._config.broker_url
        if self._embedded is not None:
            url = await self._join(self._embedded)
        for config in queue_configs(self._config):
            queue = self._queues[config.name] = self._make(config, url or "")
            queue.on_enqueue = tuple(self._config.on_enqueue)
            queue.neighbours = self._queues
            await queue.connect()
            self.task_queues.queues[config.name] = queue

    async def disconnect(self) -> None:
        """Close every connection, and give up the embedded server."""
        try:
            for queue in self._queues.values():
                await queue.disconnect()
        finally:
            self._queues.clear()
            self.task_queues.queues.clear()
            if self._embedded is not None and self._joined:
                self._joined = False
                await asyncio.to_thread(self._embedded.release)

    @property
    def queues(self) -> Mapping[str, TaskQueue]:
        """The connected queues by label."""
        return self._queues

    def find(self, label: str) -> TaskQueue:
        """A queue by its label.

        Raises:
            UnknownQueueError: There is none; names those that exist.
        """
        try:
            return self._queues[label]
        except KeyError:
            raise UnknownQueueError(label, self._queues) from None

    def locate(self, job_id: str) -> tuple[str, str]:
        """The label of a job's queue and the job's key, out of the job's id.

        Raises:
            JobNotFoundError: The id belongs to no queue of this broker.
        """
        for label, queue in self._queues.items():
            prefix = queue.job_id("")
            if job_id.startswith(prefix) and len(job_id) > len(prefix):
                return label, job_id.removeprefix(prefix)
        raise JobNotFoundError(job_id)

    async def _join(self, server: EmbeddedServer) -> str:
        joining = asyncio.ensure_future(asyncio.to_thread(server.acquire))
        try:
            return await asyncio.shield(joining)
        finally:
            # The thread cannot be cancelled: a start that is given up holds the server all the same.
            await asyncio.wait({joining})
            self._joined = joining.exception() is None

    def _make(self, config: QueueConfig, url: str) -> TaskQueue:
        registry, namespace = self._config.registry, self._config.namespace
        if url.lower().startswith("memory:"):
            return MemoryQueue(
                config.name,
                namespace=namespace,
                registry=registry,
                keep_complete=config.keep_complete,
                keep_failed=config.keep_failed,
            )
        return _class_for(url).from_url(
            url,
            label=config.name,
            namespace=namespace,
            registry=registry,
            enqueue_deadline=self._config.enqueue_timeout,
            durability=self._config.durability,
            lease=self._config.lease,
            renew_every=self._config.lease / 5,
            keep_complete=config.keep_complete,
            keep_failed=config.keep_failed,
        )


def _class_for(url: str) -> type[RedisQueue] | type[PostgresQueue]:
    """The class of queue that a URL's server is served by, loaded only where it is used."""
    if not url.lower().startswith("postgres"):
        from litestar_tasks.queues.redis import RedisQueue

        return RedisQueue
    try:
        from litestar_tasks.queues.postgres import PostgresQueue
    except ImportError as error:
        raise ConfigurationError(
            f"broker_url names Postgres, and its driver cannot be loaded ({error}); install litestar-tasks[postgres]"
        ) from error
    return PostgresQueue


def queue_configs(config: TasksConfig) -> list[QueueConfig]:
    """Every queue that exists: those that are configured, and those that only tasks name, with the defaults.

    Raises:
        ConfigurationError: Two names differ by one letter, so that one of them must be a slip.
    """
    found = {one.name: one for one in config.registry.queue_configs()}
    found.update({one.name: one for one in config.queue_configs or ()})
    labels = sorted(found)
    for index, label in enumerate(labels):
        for other in labels[index + 1 :]:
            if _one_letter_apart(label, other):
                raise ConfigurationError(
                    f"queues {label!r} and {other!r} differ by one letter; is one of them misspelt? A queue exists as "
                    "soon as a task or a configuration names it"
                )
    tasks = config.registry.get_all_tasks()
    for one in found.values():
        one.tasks = list(tasks)
    return list(found.values())


def _one_letter_apart(one: str, other: str) -> bool:
    """Whether one slip turns one name into the other. Digits are no slip: shard1 and shard2 are meant."""
    if abs(len(one) - len(other)) > 1:
        return False
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    end = 0
    while end < min(len(one), len(other)) - start and one[-1 - end] == other[-1 - end]:
        end += 1
    left, right = one[start : len(one) - end], other[start : len(other) - end]
    swapped = len(left) == 2 and left == right[::-1]
    return (max(len(left), len(right)) <= 1 or swapped) and not any(char.isdigit() for char in left + right)
