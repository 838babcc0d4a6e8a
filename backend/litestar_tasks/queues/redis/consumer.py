"""A worker's hold on a queue: its lease, its claims, and what is to become of them."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from saq.job import Status

from litestar_tasks.exceptions import BrokerError
from litestar_tasks.queues import records
from litestar_tasks.queues.base import ClaimedJob, LeaseState, Settlement, WorkerHooks
from litestar_tasks.queues.outage import Outage
from litestar_tasks.queues.presence import this_process
from litestar_tasks.queues.redis.cycles import Claims, Cycles, Limits, Operation
from litestar_tasks.queues.redis.incarnation import Incarnation
from litestar_tasks.queues.redis.lease import LeaseThread
from litestar_tasks.queues.redis.lua import LIMIT, Script
from litestar_tasks.queues.redis.reasons import reason_of
from litestar_tasks.queues.redis.recovery import Recovery
from litestar_tasks.queues.retention import record_ttl

if TYPE_CHECKING:
    from saq.queue.base import Queue

    from litestar_tasks.queues.redis.connection import Endpoint, Link
    from litestar_tasks.queues.redis.layout import Layout
    from litestar_tasks.queues.redis.waiters import Announcements

__all__ = ("Consumer", "Terms")

logger = logging.getLogger("litestar_tasks.queues")

_REGISTER: Final = Script("register")
_RELEASE: Final = Script("release")
_CLOSE: Final = 5.0
_CHECKS: Final = 10
_BACK: Final = frozenset({Settlement.RETRY, Settlement.SNOOZE, Settlement.HAND_BACK})
_UNSTARTED: Final = {"started": 0, "worker_id": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On what terms a worker holds jobs."""

    lease: float = 15.0
    """Seconds without a sign of life after which a worker counts as lost."""
    renew_every: float = 3.0
    """Seconds between two signs of life."""
    max_losses: int = 3
    """With the loss of so many workers a job is failed: it may be what kills them."""


class Consumer:
    """What one open queue does for its worker.

    Args:
        queue: The queue, for the jobs made here.
        layout: The queue's keys.
        endpoint: The server.
        outage: Whether it answers.
        announcements: Brings what other processes say at once.
        terms: The lease.
        limits: What is kept of finished jobs.
        worker_id: The worker's name in records.
        hooks: How the worker is called back.
    """

    def __init__(
        self,
        queue: Queue,
        layout: Layout,
        endpoint: Endpoint,
        outage: Outage,
        announcements: Announcements,
        *,
        terms: Terms,
        limits: Limits,
        worker_id: str,
        hooks: WorkerHooks,
    ) -> None:
        self._queue = queue
        self._layout = layout
        self._endpoint = endpoint
        self._outage = outage
        self._announcements = announcements
        self._terms = terms
        self._limits = limits
        self._hooks = hooks
        self.worker_id = worker_id
        self._worker = records.to_json(worker_id)
        self._claims: dict[int, ClaimedJob] = {}
        self._updates: dict[int, Operation] = {}
        self._settling: set[int] = set()
        self._aborting: set[int] = set()
        self._incarnation: Incarnation | None = None
        self._retiring: list[Incarnation] = []
        self._registering = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._checks: set[asyncio.Task[None]] = set()
        self._cycles = Cycles(
            endpoint,
            layout,
            outage,
            limits,
            worker=self._worker,
            lease=terms.lease,
            incarnation=self._current,
            accept=self._accept,
            settled=self._settled,
            lost=self._lose,
        )
        self._cycles.hand_back = self._hand_back
        self._lease = LeaseThread(
            endpoint, layout, lease=terms.lease, every=terms.renew_every, report=self._report_from_thread
        )
        self._recovery = Recovery(self, endpoint, layout, outage, terms=terms, limits=limits)

    async def open(self) -> None:
        """Register, and begin to renew, to listen and to recover.

        A server that is away is waited for, in the background.

        Raises:
            BrokerError: The server refuses this user; waiting would not help.
        """
        link = self._endpoint.link()
        try:
            await self._current(link)
        except (AuthenticationError, NoPermissionError) as error:
            raise BrokerError(f"Redis at {self._endpoint.address}: {reason_of(error)}") from error
        except (RedisError, OSError) as error:
            self._outage.failed(error)
        finally:
            await link.close()
        self._lease.start()
        self._cycles.start()
        self._recovery.start()
        self._announcements.add(self._layout.key("ctl"), self._command)

    # Claims

    async def claim(self, limit: int, *, exact: bool = False, ahead: bool = False) -> list[ClaimedJob]:
        """See ``TaskQueue.claim``."""
        # What is being settled has given its place back already.
        held = len(self._claims) - len(self._settling)
        return await self._cycles.claim(limit, exact=exact, ahead=ahead, held=held)

    async def settle(self, job: ClaimedJob, settlement: Settlement, delay: float, *, vacates: bool) -> bool:
        """See ``TaskQueue.settle``."""
        if self._claims.get(job.token) is not job or job.token in self._settling:
            return False
        operation = self._operation(job, settlement, delay, vacates=vacates)
        self._settle(operation)
        return await operation.done

    async def update(self, job: ClaimedJob) -> bool:
        """Write the fields of a claimed job as they are now, without changing its state."""
        job.untouched = False
        while (pending := self._updates.get(job.token)) is not None:
            await asyncio.wait([pending.done])  # two at once could arrive in the wrong order
        if self._claims.get(job.token) is not job or job.token in self._settling:
            return False
        operation = Operation(
            "update",
            self._layout.job_id(job.key),
            job.token,
            records.encode(job, status=Status.ACTIVE),
            0,
            vacates=False,
            done=self._loop.create_future(),
        )
        self._updates[job.token] = operation
        self._cycles.add(operation)
        return await asyncio.shield(operation.done)

    async def recover(self) -> int:
        """Take what lost workers left, and return how many jobs there were."""
        return (await self._recovery.recover())[0]

    def holds(self, job: Any) -> bool:
        """Whether this worker holds the claim that a job came with."""
        return isinstance(job, ClaimedJob) and self._claims.get(job.token) is job

    def _settle(self, operation: Operation) -> None:
        self._settling.add(operation.token)
        self._cycles.add(operation)

    def _operation(self, job: ClaimedJob, settlement: Settlement, delay: float, *, vacates: bool) -> Operation:
        if settlement in _BACK:
            if settlement is Settlement.SNOOZE and job.attempts:
                settlement = Settlement.RETRY  # it is listed among those that have failed before
            document = records.encode(job, status=Status.QUEUED, **_UNSTARTED)
            number = max(0, int(delay * 1000))
        else:
            if settlement is Settlement.COMPLETE and job.untouched and job.document:
                document = records.completed(job, job.document, self._worker)
            else:
                document = records.encode(job)
            number = record_ttl(job, settlement, self._limits.failed_ttl)
        return Operation(
            settlement.value,
            self._layout.job_id(job.key),
            job.token,
            document,
            number,
            vacates=vacates,
            done=self._loop.create_future(),
        )

    def _hand_back(self, jobs: Iterable[ClaimedJob]) -> None:
        for job in sorted(jobs, key=lambda one: one.token):
            self._settle(self._operation(job, Settlement.HAND_BACK, 0, vacates=False))

    def _accept(self, claims: Claims) -> list[ClaimedJob]:
        """Make running jobs of what was claimed."""
        jobs = self._restore(claims)
        for job in jobs:
            job.status = Status.ACTIVE
            job.started = job.fence = claims.now
            job.worker_id = self.worker_id
        return jobs

    def _restore(self, claims: Claims) -> list[ClaimedJob]:
        """Make jobs of documents; what is no job is put aside as failed, and stops nothing."""
        jobs: list[ClaimedJob] = []
        for token, job_id, document in claims.jobs:
            try:
                job = records.restore(ClaimedJob, self._queue, document, key=self._layout.job_key(job_id))
            except records.UndecodableError as error:
                self._quarantine(token, job_id, document, error)
                continue
            job.token = token
            if records.is_extensible(job.__dict__, document):
                job.document = document
            self._claims[token] = job
            jobs.append(job)
        return jobs

    def _quarantine(self, token: int, job_id: str, document: bytes, error: Exception) -> None:
        logger.error("queue %r: %s is put aside as failed: %s", self._layout.name, job_id, error)
        job = ClaimedJob(
            function="(undecodable)",
            queue=self._queue,
            key=self._layout.job_key(job_id),
            status=Status.FAILED,
            completed=_millis(),
            error=f"undecodable: {error}",
            meta={"document": document[:4096].decode("utf-8", "replace")},
        )
        job.token = token
        self._claims[token] = job
        self._settle(self._operation(job, Settlement.QUARANTINED, 0, vacates=False))

    def fail_lost(self, claims: Claims, *, left: bool) -> None:
        """Settle as failed what was taken from a lost worker, or from one that left it, and must not run again."""
        for job in self._restore(claims):
            if job.meta.get("at_most_once"):
                how = "stopped" if left else "lost"
                job.error = f"its worker was {how} while it ran, and it must not be started twice"
            elif left:
                self._hand_back([job])  # one loss would fail it, and this was none
                continue
            else:
                losses = job.meta.get("max_losses", self._terms.max_losses)
                job.error = f"poison: {losses} workers were lost while they ran it, so it may be what ends them"
            job.status, job.completed = Status.FAILED, _millis()
            logger.error("queue %r: job %s is failed: %s", self._layout.name, job.id, job.error)
            self._settle(self._operation(job, Settlement.FAILED, 0, vacates=False))

    def _settled(self, operation: Operation, accepted: bool) -> None:
        if operation.kind == "update":
            if self._updates.get(operation.token) is operation:
                del self._updates[operation.token]
        else:
            self._claims.pop(operation.token, None)
            self._settling.discard(operation.token)
            self._aborting.discard(operation.token)
            self._retire()
        if not accepted and operation.resent:
            # Refused because the first attempt was accepted, or because the claim was lost: the record tells.
            task = self._loop.create_task(self._check(operation))
            self._checks.add(task)
            task.add_done_callback(self._checks.discard)
        elif not operation.done.done():
            operation.done.set_result(accepted)

    async def _check(self, operation: Operation) -> None:
        """Find out whether a refused repetition had been accepted the first time."""
        link = self._endpoint.link()
        ours = False
        for _ in range(_CHECKS):
            try:
                stored = await link.call(("GET", operation.job_id))
                ours = stored is not None and stored.startswith(operation.document[:-1])
                break
            except (RedisError, OSError):
                await self._outage.pause()
        else:
            logger.warning(
                "queue %r: whether the outcome of %s was written is unknown", self._layout.name, operation.job_id
            )
        await link.close()
        if not operation.done.done():
            operation.done.set_result(ours)

    # The lease

    def lease(self) -> LeaseState:
        """See ``TaskQueue.lease``."""
        return LeaseState(age=time.monotonic() - self._lease.renewed, renewing=self._lease.is_alive())

    @property
    def holder(self) -> Incarnation | None:
        """The current incarnation, if there is one."""
        return self._incarnation

    async def _current(self, link: Link) -> Incarnation:
        """The current incarnation; a new one where there is none, or where its tokens are running out."""
        current = self._incarnation
        if current is not None and current.left > 2 * LIMIT:
            return current
        async with self._registering:
            if self._incarnation is not current and self._incarnation is not None:
                return self._incarnation
            identity, process = uuid.uuid4().hex, this_process()
            number = await _REGISTER.run(
                link,
                self._layout.incomplete,
                (
                    self._layout.prefix,
                    identity,
                    int(self._terms.lease * 1000),
                    self.worker_id,
                    *((process.machine, str(process)) if process else ()),
                ),
            )
            if current is not None:
                self._retiring.append(current)
            self._incarnation = Incarnation(number, identity)
            self._lease.add(self._incarnation.holder)
            return self._incarnation

    def _retire(self) -> None:
        """Stop renewing old incarnations without claims; recovery finds their leases empty."""
        for incarnation in self._retiring:
            if not any(map(incarnation.owns, self._claims)):
                self._retiring.remove(incarnation)
                self._lease.remove(incarnation.holder)
                return

    def _lose(self, incarnation: Incarnation) -> None:
        """Others hold this worker's jobs now, or will: drop everything that was claimed under the lease."""
        if incarnation is self._incarnation:
            self._incarnation = None
        elif incarnation in self._retiring:
            self._retiring.remove(incarnation)
        else:
            return
        self._lease.remove(incarnation.holder)
        self._cycles.drop(incarnation.owns)
        keys = [job.key for token, job in self._claims.items() if incarnation.owns(token)]
        self._claims = {token: job for token, job in self._claims.items() if not incarnation.owns(token)}
        self._aborting = {token for token in self._aborting if not incarnation.owns(token)}
        logger.error(
            "queue %r: this worker was taken for lost: its lease lapsed, and %d running jobs were given to others",
            self._layout.name,
            len(keys),
        )
        self._hooks.lost(keys)

    def _report_from_thread(self, holder: str, answer: list[Any]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._renewed, holder, answer)
        except RuntimeError:
            pass  # the loop has ended

    def _renewed(self, holder: str, answer: list[Any]) -> None:
        state, _, _, *aborts = answer
        if state < 0:
            for incarnation in (self._incarnation, *self._retiring):
                if incarnation is not None and incarnation.holder == holder:
                    self._lose(incarnation)
            return
        by_id = dict(zip(aborts[::2], aborts[1::2], strict=True))
        if by_id:
            for token, job in list(self._claims.items()):
                reason = by_id.get(self._layout.job_id(job.key).encode())
                if reason is not None:
                    self._abort(token, reason)

    # What the server says is held here, and what is not

    def running(self) -> dict[int, ClaimedJob]:
        """The claims that are not being settled, by their tokens."""
        return {token: job for token, job in self._claims.items() if token not in self._settling}

    def unknown(self, token: int) -> bool:
        """Whether nobody here can know of a claim under a token of ours."""
        return token not in self._claims and not self._cycles.in_doubt(token)

    def unfenced(self, token: int, reason: bytes | None) -> None:
        """Somebody took the state of a running job away; with a reason if it has been given back, to be aborted."""
        job = self._claims.get(token)
        if job is None or token in self._settling:
            return
        if reason is not None:
            self._abort(token, reason)
            return
        logger.error("queue %r: running job %s is not known to Redis any more", self._layout.name, job.id)
        del self._claims[token]
        self._cycles.drop(lambda one: one == token)
        self._hooks.lost([job.key])

    # Aborts

    def _command(self, message: bytes | None) -> None:
        """Something was said on the queue's channel; None after a gap, for which the next renewal makes up."""
        if message is None:
            return
        verb, _, rest = message.partition(b" ")
        if verb == b"abort":
            token, _, reason = rest.partition(b" ")
            self._abort(int(token), reason)
        elif verb in (b"pause", b"resume"):
            self._cycles.pause(verb == b"pause")

    def _abort(self, token: int, reason: bytes) -> None:
        job = self._claims.get(token)
        if job is None or token in self._aborting:
            return
        self._aborting.add(token)
        text = str(records.decode(reason))
        unstarted = self._cycles.withdraw(token)
        if unstarted is not None:
            unstarted.status, unstarted.error, unstarted.completed = Status.ABORTED, text, _millis()
            self._settle(self._operation(unstarted, Settlement.ABORTED, 0, vacates=False))
        else:
            # After what is ready to run now: the worker may be about to learn that it has this job.
            self._loop.call_soon(self._hooks.abort, job.key, text)

    # Ending

    async def close(self, keep: Collection[str]) -> None:
        """See ``TaskQueue.close``."""
        self._announcements.remove(self._layout.key("ctl"), self._command)
        await self._recovery.close()
        sent = await self._cycles.close(_CLOSE)
        if self._checks:
            await asyncio.wait(self._checks, timeout=1)
        kept = {token for token, job in self._claims.items() if job.key in keep}
        released = await self._release(kept) if sent else False
        if not kept:
            self._lease.stop()
        if not released and len(self._claims) > len(kept):
            logger.error(
                "queue %r: Redis at %s is away at the end; these jobs run again once the lease has lapsed: %s",
                self._layout.name,
                self._endpoint.address,
                ", ".join(job.id for job in list(self._claims.values())[:20]),
            )

    async def _release(self, kept: set[int]) -> bool:
        """Hand back what is still held, but for what runs on: its lease is renewed until the process has ended."""
        link = self._endpoint.link()
        try:
            held = [one for one in (self._incarnation, *self._retiring) if one is not None]
            self._incarnation, self._retiring = None, []
            for incarnation in held:
                running = [token for token in kept if incarnation.owns(token)]
                if not running:
                    self._lease.remove(incarnation.holder)
                more = 1
                while more:
                    _, more = await _RELEASE.run(
                        link, self._layout.incomplete, (self._layout.prefix, incarnation.number, LIMIT, *running)
                    )
        except (RedisError, OSError) as error:
            self._outage.failed(error)
            return False
        finally:
            await link.close()
        return True


def _millis() -> int:
    return int(time.time() * 1000)
