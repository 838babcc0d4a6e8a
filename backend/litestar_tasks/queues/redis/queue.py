"""The queue: one object that speaks to tasks, to SAQ's tools and to a worker."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, cast

import redis.asyncio
import saq.queue.redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from saq.job import Job, Status
from saq.types import CountKind, QueueInfo, WorkerInfo
from saq.utils import now
from typing_extensions import Unpack

from litestar_tasks.exceptions import BrokerError
from litestar_tasks.job import JobStatus, status_of
from litestar_tasks.queues import records
from litestar_tasks.queues.base import ClaimedJob, Delivery
from litestar_tasks.queues.batching import Batcher
from litestar_tasks.queues.holding import Assignment
from litestar_tasks.queues.operations import Capability
from litestar_tasks.queues.outage import Outage
from litestar_tasks.queues.redis.announcements import Announcements
from litestar_tasks.queues.redis.connection import Endpoint, Link
from litestar_tasks.queues.redis.consumer import Consumer
from litestar_tasks.queues.redis.durability import guarantee_of
from litestar_tasks.queues.redis.layout import Layout
from litestar_tasks.queues.redis.lua import Script
from litestar_tasks.queues.redis.operations import RedisOperations
from litestar_tasks.queues.redis.producer import Producer
from litestar_tasks.queues.redis.reasons import reason_of
from litestar_tasks.queues.redis.routes import WrongServerError
from litestar_tasks.queues.redis.schedules import RedisSchedules
from litestar_tasks.queues.reports import REMEMBERED, living, moved
from litestar_tasks.queues.served import ServedQueue, Tell, TermsOptions, terms_of, wire_name

if TYPE_CHECKING:
    from litestar_tasks.registry import Registry

__all__ = ("RedisQueue",)

logger = logging.getLogger("litestar_tasks.queues")

_ABORT: Final = Script("abort")
_PATCH: Final = Script("patch")
_PAGE: Final = 100
_FORGET: Final = 3600
"""Seconds for which a row of an outbox that is gone is still heeded."""
_DELIVERED: Final = 10
"""Jobs that are read together to enqueue their follow-ups: each comes with its result."""
_OLDEST_SERVER: Final = (6, 2)


class RedisQueue(ServedQueue[Consumer, Producer], saq.queue.redis.RedisQueue):  # pyright: ignore[reportIncompatibleMethodOverride]  # see TaskQueue.enqueue
    """A queue on Redis (6.2 or newer) or Valkey.

    Stock SAQ producers can enqueue into it, and stock tools can read it, but in a cluster, where its keys have other
    names; stock workers must not run on it.

    Args:
        redis_client: A client of the server. Only its settings are used: the queue makes connections of its own.
        label: The queue's name. Defaults to "default".
        namespace: Keeps queues of the same label apart that share a server. Defaults to none.
        registry: The tasks that can be enqueued by name. Defaults to None: jobs only.
        enqueue_deadline: Seconds until an enqueue that is not answered raises. Defaults to 2.
        durability: What an enqueue waits for, as ``TasksConfig.durability``. Defaults to "process".
        terms: See ``TermsOptions``.

    Raises:
        ConfigurationError: A name that would break the keys, a lease that cannot be kept, or no such durability.
    """

    capabilities: frozenset[Capability] = frozenset(
        {"shared", "leases", "priorities", "pause", "listing", "bulk", "metrics", "stock_producers"}
    )
    _away = (RedisError,)
    _unanswered = (RedisError, OSError)

    def __init__(
        self,
        redis_client: redis.asyncio.Redis,
        *,
        label: str = "default",
        namespace: str = "",
        registry: Registry | None = None,
        enqueue_deadline: float = 2.0,
        durability: str = "process",
        **terms: Unpack[TermsOptions],
    ) -> None:
        name = wire_name(label, namespace)
        self._terms = terms_of(label, terms)
        self._endpoint = Endpoint(redis_client, queue=name)
        self._layout = Layout(name, tagged=self._endpoint.clustered)  # SAQ asks for names of keys while it is made
        saq.queue.redis.RedisQueue.__init__(self, redis=self._endpoint.client(), name=name)
        if self._endpoint.clustered:
            self.capabilities = self.capabilities - {"stock_producers"}
        self.label = label
        self.registry = cast("Registry", registry)
        self._outage = Outage(self.name, f"Redis at {self._endpoint.address}", reason_of)
        self._guarantee = guarantee_of(
            durability, self.redis, queue=label, address=self._endpoint.address, deadline=enqueue_deadline
        )
        self._producer = Producer(
            self._endpoint,
            self._layout,
            self._outage,
            label=label,
            deadline=enqueue_deadline,
            guarantee=self._guarantee,
        )
        reading = self._endpoint.link()
        self._reader: Batcher[Link, str, bytes | None] = Batcher(_read_documents, [reading, reading], _PAGE)
        self._commands: Batcher[Link, tuple[Script, tuple[bytes | str | float, ...]], Any] = Batcher(
            self._run_scripts, [self._endpoint.link()], 1
        )
        self._announcements = Announcements(self._endpoint, self._outage)
        self._operator = RedisOperations(self, label, self._endpoint, self._layout, self._terms.limits)
        self._operations = self._operator
        self.schedules = RedisSchedules(label, self._endpoint, self._layout, self._producer.arguments)
        self._consumer: Consumer | None = None
        self._opening = asyncio.Lock()

    @classmethod
    def from_url(cls, url: str, **options: Any) -> RedisQueue:  # pyright: ignore[reportIncompatibleMethodOverride]  # as in SAQ
        """A queue on the server that a URL names.

        Args:
            url: ``redis://``, ``rediss://`` (TLS), ``unix://``, ``valkey://`` or ``valkeys://``; in a cluster
                ``redis+cluster://host:port,host:port``, with some of its nodes; behind Sentinel
                ``redis+sentinel://host:port,host:port/service/db``.
            options: As for the class.

        Raises:
            ConfigurationError: No such URL; the message does not show its credentials.
        """
        return cls(Endpoint.from_url(url).client(), **options)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} at {self._endpoint.address}>"

    async def connect(self) -> None:
        """Begin to be used. A server that is away is no hindrance; it is looked at when it is first needed.

        Raises:
            BrokerError: The server cannot keep the durability that is asked for.
        """
        await super().connect()
        await self._inspect_guarantee()

    def job_id(self, job_key: str) -> str:
        """The id of a job, which is the name of its record."""
        return self._layout.job_id(job_key)

    def job_key_from_id(self, job_id: str) -> str:
        """The key within an id."""
        return self._layout.job_key(job_id)

    def namespace(self, key: str) -> str:
        """The whole name of one of the queue's keys."""
        return self._layout.key(key)

    # The outbox's side

    async def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """See ``TaskQueue.deliver``. Two hundred jobs travel together, each part in one step with its markers."""
        await self._producer.store_many([(one.job, one.once) for one in deliveries], [one.row for one in deliveries])

    async def incarnation(self) -> str:
        """See ``TaskQueue.incarnation``: the run of the server, and the history of writes that it goes on with."""
        with self._answering():
            server, replication = [await self._command("INFO", section) for section in ("server", "replication")]
        return f"{server['run_id']}:{replication['master_replid']}"

    async def release(self, rows: Sequence[str]) -> None:
        """See ``TaskQueue.release``."""
        pipeline: Any = self.redis.pipeline(transaction=False)
        for row in rows:
            pipeline.expire(self._layout.key(f"seen:{row}"), _FORGET)
        with self._answering():
            await pipeline.execute()

    # What follows jobs that have ended

    async def owes(self) -> bool:
        """See ``TaskQueue.owes``."""
        with self._answering():
            return bool(await self._command("EXISTS", self._layout.key("owed")))

    async def _pay(self) -> bool:
        """Enqueue some of what is owed.

        What goes to another queue, whose keys may be on another node, is stored there first. Should this process die
        before the rest, whoever comes after it stores it again, which the queue there recognizes.
        """
        owed = self._layout.key("owed")
        with self._answering():
            # Any of them, so that workers who look at the same time find different ones.
            numbers = await self._command("HRANDFIELD", owed, _DELIVERED)
            documents = await self._command("HMGET", owed, *numbers) if numbers else []
            for number, document in zip(numbers, documents, strict=True):
                if document is None:
                    continue  # another one was faster
                following = self._owed(document)
                for queue, job in following:
                    if queue is not self:
                        await cast("RedisQueue", queue)._producer.store_again(job)
                await self._producer.store_owed(number, [job for queue, job in following if queue is self])
        return bool(numbers)

    # The reader's side

    async def job(self, job_key: str) -> Job | None:
        """A job's record, or None where there is none that can be read.

        Raises:
            QueueUnavailableError: The server did not answer.
        """
        with self._answering():
            return await self._look(job_key)

    async def _look(self, key: str) -> Job | None:
        return self._restore(key, await self._reader.ask(self.job_id(key)))

    async def jobs(self, job_keys: Iterable[str]) -> list[Job | None]:
        """The records of several jobs."""
        keys = list(job_keys)
        found: list[Job | None] = []
        for start in range(0, len(keys), _PAGE):
            page = keys[start : start + _PAGE]
            documents = await self._command("MGET", *map(self.job_id, page))
            found += map(self._restore, page, documents)
        return found

    async def status(self, key: str) -> JobStatus | None:
        """See ``TaskQueue.status``. The queue's own state decides; the record only where the job has ended."""
        job_id = self.job_id(key)
        pipeline: Any = self.redis.pipeline(transaction=False)
        pipeline.zscore(self._layout.incomplete, job_id)
        pipeline.get(job_id)
        with self._answering():
            state, document = await pipeline.execute()
        if state is None:
            job = self._restore(key, document)
            return status_of(job) if job else None
        return _unfinished(state)

    async def statuses(self, keys: Sequence[str]) -> dict[str, JobStatus]:
        """See ``TaskQueue.statuses``. Two commands for as many jobs as one is worth."""
        found: dict[str, JobStatus] = {}
        for start in range(0, len(keys), _PAGE):
            page = keys[start : start + _PAGE]
            with self._answering():
                states = await self._command("ZMSCORE", self._layout.incomplete, *map(self.job_id, page))
                ended = [key for key, state in zip(page, states, strict=True) if state is None]
                jobs = await self.jobs(ended)
            found |= {key: _unfinished(float(one)) for key, one in zip(page, states, strict=True) if one is not None}
            found |= {key: status_of(job) for key, job in zip(ended, jobs, strict=True) if job is not None}
        return found

    def _follow(self, key: str, tell: Tell) -> AbstractAsyncContextManager[bool]:
        return self._announcements.follow(self.job_id(key), lambda said: tell(said.decode() if said else None))

    async def cancel(self, key: str, reason: str) -> bool:
        """See ``TaskQueue.cancel``. The effort does not grow with the queue."""
        limits = self._terms.limits
        arguments = (records.to_json(reason), limits.failed_ttl, limits.others, self.job_id(key), "")
        with self._answering():
            (answer,) = await self._commands.ask((_ABORT, arguments))
        if answer and self.listeners:
            await self._tell_aborted(key)
        return bool(answer)

    async def _patch(self, key: str, fields: dict[str, Any]) -> None:
        await self._commands.ask((_PATCH, (self.job_id(key), records.to_json(fields)[1:-1])))

    async def count(self, kind: CountKind) -> int:
        """How many jobs wait for a worker, run, or have not ended."""
        low, high = {"queued": ("0", "0"), "active": ("-inf", "(0"), "incomplete": ("-inf", "+inf")}[kind]
        return int(await self._command("ZCOUNT", self._layout.incomplete, low, high))

    async def info(self, jobs: bool = False, offset: int = 0, limit: int = 10) -> QueueInfo:
        """SAQ's summary of the queue; active jobs come first among ``jobs``."""
        info = await super().info(jobs=False)
        info["workers"] = living(info["workers"])
        due = now() / 1000
        incomplete = self._layout.incomplete
        info["active"] = await self.count("active")
        info["queued"] = int(await self._command("ZCOUNT", incomplete, "0", f"{due:.3f}"))
        info["scheduled"] = int(await self._command("ZCOUNT", incomplete, f"({due:.3f}", "+inf"))
        if jobs:
            page = await self._command("ZRANGE", incomplete, offset, offset + limit - 1)
            keys = [self._layout.job_key(job_id.decode()) for job_id in page]
            info["jobs"] = [job.to_dict() for job in await self.jobs(keys) if job]
        return info

    async def iter_jobs(
        self,
        statuses: list[Status] = list(Status),  # noqa: B006  # SAQ's default
        batch_size: int = _PAGE,
    ) -> AsyncIterator[Job]:
        """Every job in one of these states, found by the queue's own indexes; other keys of the server are not read."""
        wanted = set(statuses)
        ends = {Status.COMPLETE: "complete", Status.FAILED: "failed", Status.ABORTED: "aborted"}
        indexes = [self._layout.key(name) for status, name in ends.items() if status in wanted]
        if wanted - ends.keys():
            indexes.append(self._layout.incomplete)
        for index in indexes:
            cursor = 0
            while True:
                cursor, entries = await self._command("ZSCAN", index, cursor, "COUNT", batch_size)
                keys = [self._layout.job_key(job_id.decode()) for job_id, _ in entries]
                for job in await self.jobs(keys):
                    if job is not None and job.status in wanted:
                        yield job
                cursor = int(cursor)
                if not cursor:
                    break

    async def worker_infos(self) -> dict[str, WorkerInfo]:
        """See ``TaskQueue.worker_infos``."""
        moment = await self._moment()
        ahead = now() - moment
        keys = await self._command("ZRANGEBYSCORE", self.namespace("stats"), moment, "+inf")
        texts = await self._command("MGET", *keys) if keys else []
        found = zip(keys, texts, strict=True)
        return {
            key.decode().rpartition(":")[2]: moved(json.loads(text), ahead) for key, text in found if text is not None
        }

    async def write_worker_info(self, worker_id: str, info: WorkerInfo, ttl: int) -> None:
        """Let a worker say of itself what SAQ's tools show; nothing here depends on it."""
        key, moment = self.namespace(f"worker_info:{worker_id}"), await self._moment()
        async with self.redis.pipeline(transaction=True) as pipeline:
            pipe: Any = pipeline
            pipe.set(key, records.to_json(moved(info, moment - now())), ex=ttl)
            pipe.zremrangebyscore(self.namespace("stats"), 0, moment)
            pipe.zadd(self.namespace("stats"), {key: moment + ttl * 1000})
            pipe.expire(self.namespace("stats"), max(ttl, REMEMBERED))  # it lists the others, too
            await pipe.execute()

    async def schedule(self, lock: int = 1) -> list[str]:
        """Nothing: jobs that are due are moved with every claim."""
        return []

    # The worker's side

    def _consume(self, assignment: Assignment) -> Consumer:
        return Consumer(
            self,
            self._layout,
            self._endpoint,
            self._outage,
            self._announcements,
            assignment,
        )

    async def _claim_one(self) -> list[ClaimedJob]:
        return await self._opened().claim(1, exact=True)  # concurrent calls share their round trips

    async def disconnect(self) -> None:
        """Close every connection, and the worker's side if it is open."""
        await self.close()
        await self._announcements.close()
        await self._producer.close()
        await self._reader.close()
        await self._commands.close()
        await self._operator.close()
        await self.schedules.close()
        await self.redis.connection_pool.disconnect()

    # Details

    def _restore(self, key: str, document: bytes | None) -> Job | None:
        if not document:
            return None
        try:
            return records.restore(Job, self, document, key=key)
        except records.UndecodableError as error:
            logger.warning("queue %r: the record of %s can't be read: %s", self.name, self.job_id(key), error)
            return None

    async def _moment(self) -> int:
        """The moment by the server's clock, in ms."""
        seconds, micros = await self._command("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def _command(self, *args: bytes | str | float) -> Any:
        client: Any = self.redis
        return await client.execute_command(*args)

    async def _run_scripts(
        self, link: Link, calls: Sequence[tuple[Script, tuple[bytes | str | float, ...]]]
    ) -> list[Any]:
        return [await script.run(link, self._layout, args) for script, args in calls]

    async def _inspect_guarantee(self) -> None:
        """Refuse a server that cannot keep the durability that is asked for."""
        if self._guarantee is not None:
            try:
                await self._guarantee.inspect()
            except RedisError:
                return  # said by whoever needs it first

    async def _inspect(self) -> None:
        """Refuse a server that is too old, and say when one is set up to lose jobs."""
        await self._inspect_guarantee()
        try:
            client: Any = self.redis
            info: dict[str, Any] = await client.info()
        except WrongServerError as error:
            raise BrokerError(f"Redis at {self._endpoint.address}: {error}") from error
        except RedisError:
            return  # said by whoever needs it first
        if info.get("cluster_enabled") and not self._endpoint.clustered:
            raise BrokerError(f"Redis at {self._endpoint.address} is a node of a cluster; write redis+cluster://")
        version = tuple(int(part) for part in str(info.get("redis_version", "")).split(".")[:2] if part.isdigit())
        if version and version < _OLDEST_SERVER:
            raise BrokerError(
                f"Redis at {self._endpoint.address} is version {info['redis_version']}; 6.2 is the oldest that works"
            )
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            logger.warning(
                "queue %r: Redis at %s has maxmemory-policy %r and may evict jobs; set it to 'noeviction', or use "
                "another server than the cache's",
                self.name,
                self._endpoint.address,
                policy,
            )


async def _read_documents(link: Link, job_ids: Sequence[str]) -> Sequence[bytes | None]:
    try:
        documents = await link.call(("MGET", *job_ids))
    except RedisConnectionError:  # perhaps it was a dead one; a new one tells whether the server is away
        documents = await link.call(("MGET", *job_ids))
    return cast("list[bytes | None]", documents)


def _unfinished(state: float) -> JobStatus:
    """What the score of a job that has not ended says; see ``common.lua``."""
    if state < 0:
        return "active"
    return "scheduled" if state > time.time() else "queued"
