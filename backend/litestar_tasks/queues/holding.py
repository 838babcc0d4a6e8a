"""A worker's hold on a queue: which jobs it has claimed, what becomes of them, and when it has lost them."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Protocol, TypeVar

from saq.job import Job, Status

from litestar_tasks.queues import records
from litestar_tasks.queues.base import ClaimedJob, LeaseState, Settlement, WorkerHooks
from litestar_tasks.queues.following import has_follow_ups
from litestar_tasks.queues.lease import LeaseThread
from litestar_tasks.queues.outage import Outage
from litestar_tasks.queues.relay import Relay
from litestar_tasks.queues.retention import Limits

if TYPE_CHECKING:
    from litestar_tasks.queues.base import TaskQueue

__all__ = (
    "BACK",
    "CLOSING",
    "UNSTARTED",
    "Assignment",
    "Hold",
    "Sending",
    "Tell",
    "Terms",
    "Write",
    "answered",
    "millis",
)

logger = logging.getLogger("litestar_tasks.queues")

Tell = Callable[[str | None], None]
"""Called with a job's new status, or None where something may have been missed."""

BACK: Final = frozenset({Settlement.RETRY, Settlement.SNOOZE, Settlement.HAND_BACK})
"""What lets a job wait again."""
UNSTARTED: Final = {"started": 0, "worker_id": None}
"""What the record of a job that waits again says of its last claim."""
CLOSING: Final = 5.0
"""Seconds that writing what is still to be written may take at the end."""
_CHECKS: Final = 10
_TURNS: Final = 3
"""Turns of the event loop after which a worker certainly knows of a job that has been claimed for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On what terms a worker holds jobs, and what is kept of them."""

    lease: float = 15.0
    """Seconds without a sign of life after which a worker counts as lost."""
    renew_every: float = 3.0
    """Seconds between two signs of life."""
    max_losses: int = 3
    """With the loss of so many workers a job is failed: it may be what kills them."""
    limits: Limits = field(default_factory=Limits)
    """What is kept of jobs that have ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """For whom a queue was opened, and how it is worked on."""

    worker_id: str
    """The worker's name in records."""
    hooks: WorkerHooks
    """How the worker is called back."""
    terms: Terms
    """The lease, and what is kept."""
    relay: Relay
    """Enqueues what follows jobs that have ended."""


class Write(Protocol):
    """What is to be written about one claimed job."""

    token: int
    document: bytes
    done: asyncio.Future[bool]
    """Whether it was written; it was not, if the claim was lost."""
    resent: bool
    """Whether the server may have got it before."""


WriteT = TypeVar("WriteT", bound=Write)
LeaseT = TypeVar("LeaseT", bound=LeaseThread[Any])
_WriteT_contra = TypeVar("_WriteT_contra", bound=Write, contravariant=True)


class Sending(Protocol[_WriteT_contra]):
    """Carries writes to the server, and says of each that it has been answered."""

    def add(self, operation: _WriteT_contra) -> None:
        """Send it with what leaves next."""

    def drop(self, belongs: Callable[[int], bool]) -> None:
        """Forget what is still to be sent under certain tokens."""


class Hold(ABC, Generic[WriteT, LeaseT]):
    """What one open queue does for its worker.

    Args:
        queue: The queue, for the jobs made here.
        address: Where the server is, for the log.
        outage: Whether it answers.
        assignment: For whom, and how.
    """

    _server: ClassVar[str]
    """What the server is called."""
    _unheard: ClassVar[tuple[type[Exception], ...]]
    """What a question to the server may fail with, so that it is worth asking again."""
    _sending: Sending[WriteT]
    _lease: LeaseT

    def __init__(self, queue: TaskQueue, address: str, outage: Outage, assignment: Assignment) -> None:
        self._queue = queue
        self._name = queue.name
        self._schedules = queue.schedules
        self._address = address
        self._outage = outage
        self._terms = assignment.terms
        self._hooks = assignment.hooks
        self._relay = assignment.relay
        self.worker_id = assignment.worker_id
        self._claims: dict[int, ClaimedJob] = {}
        self._updates: dict[int, WriteT] = {}
        self._busy: set[int] = set()  # tokens that are being settled
        self._aborting: set[int] = set()
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()

    # What the broker does in its own way

    @abstractmethod
    async def open(self) -> None:
        """Register, and begin to renew, to listen and to recover. A server that is away is waited for.

        Raises:
            BrokerError: The server refuses this user, or is unfit; waiting would not help.
        """

    @abstractmethod
    async def claim(self, limit: int, *, exact: bool = False, ahead: bool = False) -> list[ClaimedJob]:
        """See ``TaskQueue.claim``; with ``exact`` never more, whatever room settled jobs have made meanwhile."""

    @abstractmethod
    def settle(self, job: ClaimedJob, settlement: Settlement, delay: float) -> Awaitable[bool]:
        """See ``TaskQueue.settle``."""

    @abstractmethod
    async def recover(self) -> int:
        """Take what lost workers left, and return how many jobs there were."""

    @abstractmethod
    async def close(self, keep: Collection[str]) -> None:
        """See ``TaskQueue.close``."""

    @abstractmethod
    def _settlement(self, job: ClaimedJob, settlement: Settlement, delay: float = 0) -> WriteT:
        """What is to be written for a job that is settled, other than by the worker that runs it."""

    @abstractmethod
    def _update(self, job: ClaimedJob, document: bytes) -> WriteT:
        """What is to be written for a job whose state stays."""

    @abstractmethod
    def _id_of(self, operation: WriteT) -> str:
        """The id of the job that it is about."""

    @abstractmethod
    async def _stored(self, operation: WriteT) -> bytes | None:
        """The record of a job that something was to be written about, as it stands."""

    # Claims

    def held(self, job: Job) -> ClaimedJob | None:
        """The job, if this worker holds the claim that it came with."""
        return job if isinstance(job, ClaimedJob) and self._claims.get(job.token) is job else None

    def running(self) -> dict[int, ClaimedJob]:
        """The claims that are not being settled, by their tokens."""
        return {token: job for token, job in self._claims.items() if token not in self._busy}

    async def update(self, job: ClaimedJob) -> bool:
        """Write the fields of a claimed job as they are now, without changing its state."""
        job.untouched = False
        while (pending := self._updates.get(job.token)) is not None:
            await asyncio.wait([pending.done])  # two at once could arrive in the wrong order
        if self._claims.get(job.token) is not job or job.token in self._busy:
            return False
        operation = self._update(job, records.encode(job, status=Status.ACTIVE))
        self._updates[job.token] = operation
        self._sending.add(operation)
        return await asyncio.shield(operation.done)

    def _settle(self, operation: WriteT) -> None:
        self._busy.add(operation.token)
        self._sending.add(operation)

    def _restore(self, claims: Iterable[tuple[int, str, bytes]], key_of: Callable[[str], str]) -> list[ClaimedJob]:
        """Make jobs of documents; what is no job is put aside as failed, and stops nothing.

        Args:
            claims: Token, name and document of each.
            key_of: A job's key, by its name.
        """
        jobs: list[ClaimedJob] = []
        for token, name, document in claims:
            try:
                job = records.restore(ClaimedJob, self._queue, document, key=key_of(name))
            except records.UndecodableError as error:
                self._quarantine(token, key_of(name), document, error)
                continue
            job.token = token
            if records.is_extensible(job.__dict__, document):
                job.document = document
            self._claims[token] = job
            jobs.append(job)
        return jobs

    def _quarantine(self, token: int, key: str, document: bytes, error: Exception) -> None:
        logger.error("queue %r: %s is put aside as failed: %s", self._name, self._queue.job_id(key), error)
        job = ClaimedJob(
            function=records.UNDECODABLE,
            queue=self._queue,
            key=key,
            status=Status.FAILED,
            completed=millis(),
            error=f"undecodable: {error}",
            meta={"document": document[:4096].decode("utf-8", "replace")},
        )
        job.token = token
        self._claims[token] = job
        self._settle(self._settlement(job, Settlement.QUARANTINED))
        self._queue.instrument(job, "ended")

    def _fail_lost(self, jobs: Iterable[ClaimedJob], *, left: bool) -> None:
        """Settle as failed what was taken from a lost worker, or from one that left it, and must not run again."""
        for job in jobs:
            if job.meta.get("at_most_once"):
                how = "stopped" if left else "lost"
                job.error = f"its worker was {how} while it ran, and it must not be started twice"
            elif left:
                self._settle(self._settlement(job, Settlement.HAND_BACK))  # one loss would fail it; this was none
                continue
            else:
                losses = job.meta.get("max_losses", self._terms.max_losses)
                job.error = f"poison: {losses} workers were lost while they ran it, so it may be what ends them"
            job.status, job.completed = Status.FAILED, millis()
            logger.error("queue %r: job %s is failed: %s", self._name, job.id, job.error)
            self._settle(self._settlement(job, Settlement.FAILED))
            self._queue.instrument(job, "ended")

    def _settled(self, operation: WriteT, accepted: bool) -> None:
        """Something was answered."""
        token = operation.token
        if self._updates.get(token) is operation:
            del self._updates[token]
        else:
            job = self._claims.pop(token, None)
            if job is not None and has_follow_ups(job):
                self._relay.tell()
            self._busy.discard(token)
            self._aborting.discard(token)
        if not accepted and operation.resent:
            # Refused because the first attempt was accepted, or because the claim was lost: the record tells.
            self._spawn(self._check(operation))
        elif not operation.done.done():
            operation.done.set_result(accepted)

    async def _check(self, operation: WriteT) -> None:
        """Find out whether a refused repetition had been accepted the first time."""
        ours = False
        for _ in range(_CHECKS):
            try:
                stored = await self._stored(operation)
                ours = stored is not None and stored.startswith(operation.document[:-1])
                break
            except self._unheard:
                await self._outage.pause()
        else:
            logger.warning(
                "queue %r: whether the outcome of %s was written is unknown", self._name, self._id_of(operation)
            )
        if not operation.done.done():
            operation.done.set_result(ours)

    # The lease

    def lease(self) -> LeaseState:
        """See ``TaskQueue.lease``."""
        return LeaseState(age=time.monotonic() - self._lease.renewed, renewing=self._lease.is_alive())

    def _drop(self, owns: Callable[[int], bool]) -> None:
        """The lease on some claims was lost. Others hold these jobs now, or will."""
        self._sending.drop(owns)
        keys = [job.key for token, job in self._claims.items() if owns(token)]
        self._claims = {token: job for token, job in self._claims.items() if not owns(token)}
        self._aborting = {token for token in self._aborting if not owns(token)}
        logger.error(
            "queue %r: this worker was taken for lost: its lease lapsed, and %d running jobs were given to others",
            self._name,
            len(keys),
        )
        self._hooks.lost(keys)

    def _drop_one(self, token: int, job: ClaimedJob) -> None:
        """Somebody took a running job out of the queue by hand."""
        logger.error("queue %r: running job %s is not known to %s any more", self._name, job.id, self._server)
        del self._claims[token]
        self._sending.drop(lambda one: one == token)
        self._hooks.lost([job.key])

    def _from_thread(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Call back on the worker's loop, if there still is one."""
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            pass  # the loop has ended

    def _abort(self, token: int, job: ClaimedJob, reason: str) -> None:
        """Let the worker abort a running job, if it has not been told yet."""
        if token in self._aborting:
            return
        self._aborting.add(token)

        def tell(turns: int) -> None:
            if turns:
                self._loop.call_soon(tell, turns - 1)
            else:
                self._hooks.abort(job.key, reason)

        tell(_TURNS)

    def _say_left(self, kept: int) -> None:
        """The end has come while the server is away."""
        if len(self._claims) > kept:
            logger.error(
                "queue %r: %s at %s is away at the end; these jobs run again once the lease has lapsed: %s",
                self._name,
                self._server,
                self._address,
                ", ".join(job.id for job in list(self._claims.values())[:20]),
            )

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def answered(accepted: bool) -> asyncio.Future[bool]:
    """An answer that is known without asking."""
    done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    done.set_result(accepted)
    return done


def millis() -> int:
    """The time in milliseconds, as records hold it."""
    return int(time.time() * 1000)
