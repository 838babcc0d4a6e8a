"""The queue: one object that speaks to tasks, to SAQ's tools and to a worker."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Generator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import redis.asyncio
import saq.queue.redis
from redis.exceptions import RedisError
from saq.job import TERMINAL_STATUSES, Job, Status
from saq.types import CountKind, ListenCallback, QueueInfo, WorkerInfo
from saq.utils import now, uuid1

from litestar_tasks.exceptions import BrokerError, ConfigurationError, QueueUnavailableError
from litestar_tasks.job import JobSpec, JobStatus, Submission, status_of
from litestar_tasks.queues import records
from litestar_tasks.queues.base import FIELDS, ClaimedJob, LeaseState, Settlement, TaskQueue, WorkerHooks
from litestar_tasks.queues.operated import Operated
from litestar_tasks.queues.operations import Capability
from litestar_tasks.queues.outage import Outage
from litestar_tasks.queues.redis.batching import Batcher
from litestar_tasks.queues.redis.connection import Endpoint, Link
from litestar_tasks.queues.redis.consumer import Consumer, Terms
from litestar_tasks.queues.redis.cycles import Limits
from litestar_tasks.queues.redis.durability import guarantee_of
from litestar_tasks.queues.redis.layout import Layout
from litestar_tasks.queues.redis.lua import Script
from litestar_tasks.queues.redis.operations import RedisOperations
from litestar_tasks.queues.redis.producer import Producer
from litestar_tasks.queues.redis.reasons import reason_of
from litestar_tasks.queues.redis.routes import WrongServerError
from litestar_tasks.queues.redis.waiters import Announcements, Watch
from litestar_tasks.queues.reports import living

if TYPE_CHECKING:
    from litestar_tasks.registry import Registry

__all__ = ("RedisQueue",)

logger = logging.getLogger("litestar_tasks.queues")

_ABORT: Final = Script("abort")
_PATCH: Final = Script("patch")
_PAGE: Final = 100
_POLL: Final = 5.0
"""Seconds after which a waiter looks by itself, should the message that it waits for be lost."""
_UNSURE_POLL: Final = 0.5
_OLDEST_SERVER: Final = (6, 2)
_FIXED: Final = frozenset({"function", "key", "queue", "status", "worker_id"})


class RedisQueue(Operated, TaskQueue, saq.queue.redis.RedisQueue):  # pyright: ignore[reportIncompatibleMethodOverride]  # see TaskQueue.enqueue
    """A queue on Redis (6.2 or newer) or Valkey.

    Stock SAQ producers can enqueue into it, and stock tools can read it, but in a cluster, where its keys have other
    names; stock workers must not run on it.

    Args:
        redis_client: A client of the server. Only its settings are used: the queue makes connections of its own.
        label: The queue's name. Defaults to "default".
        namespace: Keeps queues of the same label apart that share a server. Defaults to none.
        registry: The tasks that can be enqueued by name. Defaults to None: jobs only.
        lease: Seconds without a sign of life after which a worker counts as lost, whatever its jobs' timeouts.
            Defaults to 15.
        renew_every: Seconds between two signs of life; a quarter of ``lease`` at the most. Defaults to 3.
        enqueue_deadline: Seconds until an enqueue that is not answered raises. Defaults to 2.
        durability: What an enqueue waits for, as ``TasksConfig.durability``. Defaults to "process".
        max_losses: With the loss of so many workers a job is failed. A job's ``meta["max_losses"]`` wins over it, and
            ``meta["at_most_once"]`` means 1. Defaults to 3.
        keep_complete: Records of complete jobs that are kept at the most. Defaults to 10,000.
        keep_failed: Records of failed, and as many of aborted, jobs. Defaults to 100,000.
        failed_ttl: Seconds for which those are kept at least; a job's ``meta["failed_ttl"]`` wins. Defaults to 7 days.

    Raises:
        ConfigurationError: A name that would break the keys, a lease that cannot be kept, or no such durability.
    """

    capabilities: frozenset[Capability] = frozenset(
        {"shared", "leases", "priorities", "pause", "listing", "bulk", "metrics", "stock_producers"}
    )

    def __init__(
        self,
        redis_client: redis.asyncio.Redis,
        *,
        label: str = "default",
        namespace: str = "",
        registry: Registry | None = None,
        lease: float = 15.0,
        renew_every: float = 3.0,
        enqueue_deadline: float = 2.0,
        durability: str = "process",
        max_losses: int = 3,
        keep_complete: int = 10_000,
        keep_failed: int = 100_000,
        failed_ttl: int = 7 * 86_400,
    ) -> None:
        for what, name in (("queue name", label), ("namespace", namespace)):
            if not all(char.isascii() and (char.isalnum() or char in "-_") for char in name) or not (
                namespace or label
            ):
                raise ConfigurationError(
                    f"{what} {name!r} holds characters that would break the broker's keys; use letters, digits, "
                    "'-' and '_'"
                )
        if not 0 < renew_every <= lease / 4:
            raise ConfigurationError(
                f"queue {label!r}: a lease of {lease:g} s can't be kept by renewing it every {renew_every:g} s; renew "
                "at least four times as often"
            )
        name = f"{namespace}.{label}" if namespace else label
        self._endpoint = Endpoint(redis_client, queue=name)
        self._layout = Layout(name, tagged=self._endpoint.clustered)  # SAQ asks for names of keys while it is made
        super(TaskQueue, self).__init__(redis=self._endpoint.client(), name=name)
        if self._endpoint.clustered:
            self.capabilities = self.capabilities - {"stock_producers"}
        self.label = label
        self.registry = cast("Registry", registry)
        self._outage = Outage(self.name, f"Redis at {self._endpoint.address}", reason_of)
        self._terms = Terms(lease=lease, renew_every=renew_every, max_losses=max_losses)
        self._limits = Limits(complete=keep_complete, others=keep_failed, failed_ttl=failed_ttl)
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
        self._reader: Batcher[str, bytes | None] = Batcher(_read_documents, [reading, reading], _PAGE)
        self._commands: Batcher[tuple[Script, tuple[bytes | str | float, ...]], Any] = Batcher(
            self._run_scripts, [self._endpoint.link()], 1
        )
        self._announcements = Announcements(self._endpoint, self._outage)
        self._operator = RedisOperations(self, label, self._endpoint, self._layout, self._limits)
        self._operations = self._operator
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

    # The producer's side

    async def store(self, job: Job, *, once: bool = False) -> Submission:
        """See ``TaskQueue.store``. Calls of the same moment share a round trip."""
        return await self._producer.store(job, once=once)

    async def submit_many(self, specs: Sequence[JobSpec]) -> list[Submission]:
        """See ``TaskQueue.submit_many``. Two hundred jobs travel together, in order."""
        jobs = [(self.build(spec), spec.once) for spec in specs]
        if self._before_enqueues:
            for job, _ in jobs:
                await self._before_enqueue(job)
        return await self._producer.store_many(jobs)

    async def store_many(self, jobs: Sequence[Job], *, once: bool = False) -> list[Submission]:
        """Store many jobs, in order; see ``TaskQueue.store``."""
        return await self._producer.store_many([(job, once) for job in jobs])

    async def _enqueue(self, job: Job) -> Job | None:
        submission = await self.store(job)
        return None if submission.deduplicated else submission.job

    # The reader's side

    async def job(self, job_key: str) -> Job | None:
        """A job's record, or None where there is none that can be read.

        Raises:
            QueueUnavailableError: The server did not answer.
        """
        with self._answering():
            return await self._read(job_key)

    async def _read(self, job_key: str) -> Job | None:
        return self._restore(job_key, await self._reader.ask(self.job_id(job_key)))

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
        if state < 0:
            return "active"
        return "scheduled" if state > time.time() else "queued"

    async def wait(self, key: str, timeout: float | None) -> Job | None:
        """See ``TaskQueue.wait``. It is woken by a message, and looks now and then in case one was lost."""
        try:
            async with asyncio.timeout(timeout or None):
                if timeout == 0:
                    job = await self._read(key)
                    if job is None or job.status in TERMINAL_STATUSES:
                        return job
                    raise TimeoutError
                return await self._wait(key)
        except TimeoutError:
            raise TimeoutError(f"job {self.job_id(key)!r} had not ended after {timeout or 0:g} s") from None

    async def _wait(self, key: str) -> Job | None:
        watch = Watch()
        async with self._announcements.follow(self.job_id(key), watch.hear) as reliable:
            while True:
                try:
                    job = await self._read(key)
                except RedisError as error:
                    self._outage.failed(error)
                    await self._outage.pause()
                    continue
                self._outage.succeeded()
                if job is None or job.status in TERMINAL_STATUSES:
                    return job
                await watch.changed(_POLL if reliable else _UNSURE_POLL)

    def following(self, key: str, changed: Callable[[], None]) -> AbstractAsyncContextManager[object]:
        """See ``TaskQueue.following``."""
        return self._announcements.follow(self.job_id(key), lambda _: changed())

    async def cancel(self, key: str, reason: str) -> bool:
        """See ``TaskQueue.cancel``. The effort does not grow with the queue."""
        arguments = (records.to_json(reason), self._limits.failed_ttl, self._limits.others, self.job_id(key), "")
        with self._answering():
            (answer,) = await self._commands.ask((_ABORT, arguments))
        return bool(answer)

    async def update(self, job: Job, **kwargs: Any) -> None:
        """Change fields of a job that has not ended; never its state.

        For a job that runs here all of its fields are written, unless its claim was lost; for another one only those
        that are given.
        """
        job.touched = now()
        fields = {name: value for name, value in kwargs.items() if name in FIELDS and name not in _FIXED}
        for name, value in fields.items():
            setattr(job, name, value)
        if self._consumer is not None and self._consumer.holds(job):
            await self._consumer.update(cast("ClaimedJob", job))
            return
        patch = records.to_json({**fields, "touched": job.touched})[1:-1]
        await self._commands.ask((_PATCH, (self.job_id(job.key), patch)))

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

    async def listen(
        self,
        job_keys: Iterable[str],
        callback: ListenCallback,
        timeout: float | None = 10,
        poll_interval: float = 0.5,
    ) -> None:
        """Call back with the status of each of these jobs that has ended, and with each change of status.

        Unlike SAQ's, it misses nothing that happens between a look at the job and the subscription.

        Args:
            job_keys: The jobs.
            callback: Called with key and status, awaited if need be; what it returns being true, it ends.
            timeout: Seconds after which it gives up; None or 0 for never.
            poll_interval: SAQ's; ignored.

        Raises:
            TimeoutError: It gave up.
        """
        keys = list(job_keys)
        heard: asyncio.Queue[tuple[str, Status] | None] = asyncio.Queue()
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(asyncio.timeout(timeout or None))
            for key in keys:
                await stack.enter_async_context(self._announcements.follow(self.job_id(key), _teller(heard, key)))
            heard.put_nowait(None)
            while True:
                change = await heard.get()
                changes = [change] if change else await self._ended(keys)
                for key, status in changes:
                    answer: Any = callback(key, status)
                    if await answer if inspect.isawaitable(answer) else answer:
                        return

    async def _ended(self, keys: Sequence[str]) -> list[tuple[str, Status]]:
        jobs = await self.jobs(keys)
        return [(job.key, job.status) for job in jobs if job is not None and job.status in TERMINAL_STATUSES]

    async def worker_infos(self) -> dict[str, WorkerInfo]:
        """See ``TaskQueue.worker_infos``."""
        keys = await self._command("ZRANGEBYSCORE", self.namespace("stats"), now(), "+inf")
        texts = await self._command("MGET", *keys) if keys else []
        found = zip(keys, texts, strict=True)
        return {key.decode().rpartition(":")[2]: json.loads(text) for key, text in found if text is not None}

    async def write_worker_info(self, worker_id: str, info: WorkerInfo, ttl: int) -> None:
        """Let a worker say of itself what SAQ's tools show; nothing here depends on it."""
        key, moment = self.namespace(f"worker_info:{worker_id}"), now()
        async with self.redis.pipeline(transaction=True) as pipeline:
            pipe: Any = pipeline
            pipe.set(key, records.to_json(info), ex=ttl)
            pipe.zremrangebyscore(self.namespace("stats"), 0, moment)
            pipe.zadd(self.namespace("stats"), {key: moment + ttl * 1000})
            pipe.expire(self.namespace("stats"), ttl)
            await pipe.execute()

    async def schedule(self, lock: int = 1) -> list[str]:
        """Nothing: jobs that are due are moved with every claim."""
        return []

    async def sweep(self, lock: int = 60, abort: float = 5.0) -> list[str]:
        """Recover the jobs of workers whose lease has lapsed. Others are never touched."""
        if self._consumer is not None:
            await self._consumer.recover()
        return []

    # The worker's side

    async def open(self, worker_id: str, hooks: WorkerHooks) -> None:
        """See ``TaskQueue.open``. A server that is away is waited for.

        Raises:
            BrokerError: The server is too old, refuses this user, or cannot keep the durability that is asked for.
            RuntimeError: The queue is open already.
        """
        if self._consumer is not None:
            raise RuntimeError(f"queue {self.name!r} is open already; each worker needs a queue object of its own")
        await self._inspect_server()
        consumer = Consumer(
            self,
            self._layout,
            self._endpoint,
            self._outage,
            self._announcements,
            terms=self._terms,
            limits=self._limits,
            worker_id=worker_id,
            hooks=hooks,
        )
        await consumer.open()
        self._consumer = consumer

    async def claim(self, limit: int, *, ahead: bool = False) -> list[ClaimedJob]:
        """See ``TaskQueue.claim``."""
        return await self._opened().claim(limit, ahead=ahead)

    async def settle(
        self, job: ClaimedJob, settlement: Settlement, *, delay: float = 0.0, vacates: bool = True
    ) -> bool:
        """See ``TaskQueue.settle``.

        Args:
            job: As there.
            settlement: As there.
            delay: As there.
            vacates: Whether the job's capacity is free with it. Not so where a thread of it runs on.
        """
        if self._consumer is None:
            return False  # closed meanwhile: the job was handed back
        return await self._consumer.settle(job, settlement, delay, vacates=vacates)

    def lease(self) -> LeaseState | None:
        """See ``TaskQueue.lease``."""
        return self._consumer.lease() if self._consumer is not None else None

    async def close(self, *, keep: Collection[str] = ()) -> None:
        """See ``TaskQueue.close``."""
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await consumer.close(keep)

    async def disconnect(self) -> None:
        """Close every connection, and the worker's side if it is open."""
        await self.close()
        await self._announcements.close()
        await self._producer.close()
        await self._reader.close()
        await self._commands.close()
        await self._operator.close()
        await self.redis.connection_pool.disconnect()

    # SAQ's way of working, for code that was written for it

    async def dequeue(self, timeout: float = 0.0, poll_interval: float = 0.0) -> Job | None:
        """Claim one job, waiting for it. Concurrent calls share their round trips.

        Args:
            timeout: Seconds to wait. Defaults to 0: for ever.
            poll_interval: SAQ's; ignored.
        """
        async with self._opening:
            if self._consumer is None:
                await self.open(uuid1(), WorkerHooks(abort=lambda *_: None, lost=lambda _: None))
        consumer = self._opened()
        try:
            async with asyncio.timeout(timeout or None):
                while True:
                    try:
                        if claimed := await consumer.claim(1, exact=True):
                            return claimed[0]
                    except BrokerError:
                        pass  # said and paced already
        except TimeoutError:
            return None

    async def _finish(self, job: Job, status: Status, *, result: Any = None, error: str | None = None) -> None:
        if self._consumer is not None and self._consumer.holds(job):
            await self.settle(cast("ClaimedJob", job), Settlement(status.value))
        elif status is Status.ABORTED:
            await self.cancel(job.key, error or "aborted")
        else:
            raise ValueError(f"job {job.id!r} is not claimed here; only the worker that runs it can finish it")

    async def _retry(self, job: Job, error: str | None) -> None:
        if self._consumer is not None and self._consumer.holds(job):
            await self.settle(cast("ClaimedJob", job), Settlement.RETRY, delay=job.next_retry_delay())
            return
        if not await self.rerun(job.key):
            raise ValueError(f"job {job.id!r} has not ended; only a job that has ended can be run again")
        job.attempts, job.result, job.scheduled, job.queued = 0, None, 0, now()

    def serialize(self, job: Job) -> bytes:
        """The document of a job."""
        return records.encode(job)

    def deserialize(
        self, payload: dict[Any, Any] | str | bytes | None, status: Status | str | None = None
    ) -> Job | None:
        """A job from its document.

        Raises:
            ValueError: It is no job of this queue.
        """
        if not payload:
            return None
        data = payload.encode() if isinstance(payload, str) else payload
        job = records.restore(Job, self, dict(data) if isinstance(data, dict) else data)
        if status:
            job.status = Status(status)
        return job

    # Details

    def _opened(self) -> Consumer:
        if self._consumer is None:
            raise RuntimeError(f"queue {self.name!r} is not open; call open() first")
        return self._consumer

    def _restore(self, key: str, document: bytes | None) -> Job | None:
        if not document:
            return None
        try:
            return records.restore(Job, self, document, key=key)
        except records.UndecodableError as error:
            logger.warning("queue %r: the record of %s can't be read: %s", self.name, self.job_id(key), error)
            return None

    @contextmanager
    def _answering(self) -> Generator[None, None, None]:
        """A server that does not answer a handle is the queue's outage, not the caller's error."""
        try:
            yield
        except (RedisError, OSError) as error:
            raise QueueUnavailableError(self.label, reason_of(error)) from error

    async def _command(self, *args: bytes | str | float) -> Any:
        client: Any = self.redis
        return await client.execute_command(*args)

    async def _run_scripts(
        self, link: Link, calls: Sequence[tuple[Script, tuple[bytes | str | float, ...]]]
    ) -> list[Any]:
        return [await script.run(link, self._layout.incomplete, (self._layout.prefix, *args)) for script, args in calls]

    async def _inspect_guarantee(self) -> None:
        """Refuse a server that cannot keep the durability that is asked for."""
        if self._guarantee is not None:
            try:
                await self._guarantee.inspect()
            except RedisError:
                return  # said by whoever needs it first

    async def _inspect_server(self) -> None:
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


def _teller(heard: asyncio.Queue[tuple[str, Status] | None], key: str) -> Callable[[bytes | None], None]:
    """Puts what is said of one job into a queue; None where something may have been missed."""

    def tell(message: bytes | None) -> None:
        heard.put_nowait((key, Status(message.decode())) if message else None)

    return tell


async def _read_documents(link: Link, job_ids: Sequence[str]) -> Sequence[bytes | None]:
    return cast("list[bytes | None]", await link.call(("MGET", *job_ids)))
