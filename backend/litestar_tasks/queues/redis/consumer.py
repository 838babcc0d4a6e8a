"""A worker's hold on a queue: its lease, its claims, and what is to become of them."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Collection, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from saq.job import Status

from litestar_tasks.exceptions import BrokerError
from litestar_tasks.queues import records
from litestar_tasks.queues.base import ClaimedJob, Settlement
from litestar_tasks.queues.holding import BACK, CLOSING, UNSTARTED, Assignment, Hold, answered, millis
from litestar_tasks.queues.outage import Outage
from litestar_tasks.queues.presence import this_process
from litestar_tasks.queues.redis.cycles import Claims, Cycles, Operation
from litestar_tasks.queues.redis.incarnation import Incarnation
from litestar_tasks.queues.redis.lease import LeaseThread
from litestar_tasks.queues.redis.lua import LIMIT, Script
from litestar_tasks.queues.redis.reasons import reason_of
from litestar_tasks.queues.redis.recovery import Recovery
from litestar_tasks.queues.retention import record_ttl

if TYPE_CHECKING:
    from litestar_tasks.queues.base import TaskQueue
    from litestar_tasks.queues.redis.announcements import Announcements
    from litestar_tasks.queues.redis.connection import Endpoint, Link
    from litestar_tasks.queues.redis.layout import Layout

__all__ = ("Consumer",)

_REGISTER: Final = Script("register")
_RELEASE: Final = Script("release")
_KINDS: Final = {settlement: settlement.value for settlement in Settlement}  # an Enum's value is looked up in Python


class Consumer(Hold[Operation, LeaseThread]):
    """What one open queue does for its worker.

    Args:
        queue: The queue, for the jobs made here.
        layout: The queue's keys.
        endpoint: The server.
        outage: Whether it answers.
        announcements: Brings what other processes say at once.
        assignment: For whom, and how.
    """

    _server = "Redis"
    _unheard = (RedisError, OSError)

    def __init__(
        self,
        queue: TaskQueue,
        layout: Layout,
        endpoint: Endpoint,
        outage: Outage,
        announcements: Announcements,
        assignment: Assignment,
    ) -> None:
        super().__init__(queue, endpoint.address, outage, assignment)
        terms = assignment.terms
        self._layout = layout
        self._endpoint = endpoint
        self._announcements = announcements
        self._worker = records.to_json(self.worker_id)
        self._incarnation: Incarnation | None = None
        self._retiring: list[Incarnation] = []
        self._registering = asyncio.Lock()
        self._cycles = self._sending = Cycles(
            endpoint,
            layout,
            outage,
            terms.limits,
            worker=self._worker,
            lease=terms.lease,
            incarnation=self._current,
            accept=self._accept,
            settled=self._settled,
            lost=self._lose,
        )
        self._cycles.hand_back = self._hand_back
        self._lease = LeaseThread(
            endpoint,
            layout,
            lease=terms.lease,
            every=terms.renew_every,
            report=partial(self._from_thread, self._renewed),
        )
        self._recovery = Recovery(self, endpoint, layout, outage, terms=terms)

    async def open(self) -> None:
        """See ``Hold.open``."""
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
        self._relay.start()
        self._announcements.add(self._layout.key("ctl"), self._command)

    # Claims

    async def claim(self, limit: int, *, exact: bool = False, ahead: bool = False) -> list[ClaimedJob]:
        """See ``TaskQueue.claim``."""
        # What is being settled has given its place back already.
        held = len(self._claims) - len(self._busy)
        return await self._cycles.claim(limit, exact=exact, ahead=ahead, held=held)

    def settle(self, job: ClaimedJob, settlement: Settlement, delay: float) -> asyncio.Future[bool]:
        """See ``TaskQueue.settle``. It is no coroutine of its own, which would cost every job some of its time."""
        if self._claims.get(job.token) is not job or job.token in self._busy:
            return answered(False)
        operation = self._settlement(job, settlement, delay, vacates=True)
        self._settle(operation)
        return operation.done

    async def recover(self) -> int:
        """Take what lost workers left, and return how many jobs there were."""
        return await self._recovery.recover()

    def _update(self, job: ClaimedJob, document: bytes) -> Operation:
        job_id, done = self._layout.job_id(job.key), self._loop.create_future()
        return Operation("update", job_id, job.token, document, 0, vacates=False, done=done)

    def _settlement(
        self, job: ClaimedJob, settlement: Settlement, delay: float = 0, *, vacates: bool = False
    ) -> Operation:
        if settlement in BACK:
            if settlement is Settlement.SNOOZE and job.attempts:
                settlement = Settlement.RETRY  # it is listed among those that have failed before
            document = records.encode(job, status=Status.QUEUED, **UNSTARTED)
            number = max(0, int(delay * 1000))
        else:
            if settlement is Settlement.COMPLETE and job.untouched and job.document:
                document = records.completed(job, job.document, self._worker)
            else:
                document = records.encode(job)
            number = record_ttl(job, settlement, self._terms.limits.failed_ttl)
        return Operation(
            _KINDS[settlement],
            self._layout.job_id(job.key),
            job.token,
            document,
            number,
            vacates=vacates,
            done=self._loop.create_future(),
        )

    def _hand_back(self, jobs: Iterable[ClaimedJob]) -> None:
        for job in sorted(jobs, key=lambda one: one.token):
            self._settle(self._settlement(job, Settlement.HAND_BACK))

    def _accept(self, claims: Claims) -> list[ClaimedJob]:
        """Make running jobs of what was claimed."""
        jobs = self._restore(claims.jobs, self._layout.job_key)
        ahead = claims.now - time.monotonic() * 1000
        for job in jobs:
            job.status = Status.ACTIVE
            job.ahead = ahead
            job.started = job.fence = claims.now
            job.worker_id = self.worker_id
        return jobs

    def fail_lost(self, claims: Claims, *, left: bool) -> None:
        """Settle as failed what was taken from a lost worker, or from one that left it, and must not run again."""
        self._fail_lost(self._restore(claims.jobs, self._layout.job_key), left=left)

    def _settled(self, operation: Operation, accepted: bool) -> None:
        super()._settled(operation, accepted)
        if self._retiring:
            self._retire()

    def _id_of(self, operation: Operation) -> str:
        return operation.job_id

    async def _stored(self, operation: Operation) -> bytes | None:
        link = self._endpoint.link()
        try:
            return cast("bytes | None", await link.call(("GET", operation.job_id)))
        finally:
            await link.close()

    # The lease

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
                self._layout,
                (
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
        self._drop(incarnation.owns)

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
                    self._request_abort(token, reason)

    # What the server says is held here, and what is not

    def unknown(self, token: int) -> bool:
        """Whether nobody here can know of a claim under a token of ours."""
        return token not in self._claims and not self._cycles.in_doubt(token)

    def unfenced(self, token: int, reason: bytes | None) -> None:
        """Somebody took the state of a running job away; with a reason if it has been given back, to be aborted."""
        job = self._claims.get(token)
        if job is None or token in self._busy:
            return
        if reason is not None:
            self._request_abort(token, reason)
        else:
            self._drop_one(token, job)

    # Aborts

    def _command(self, message: bytes | None) -> None:
        """Something was said on the queue's channel; None after a gap, for which the next renewal makes up."""
        if message is None:
            return
        verb, _, rest = message.partition(b" ")
        if verb == b"abort":
            token, _, reason = rest.partition(b" ")
            self._request_abort(int(token), reason)
        elif verb in (b"pause", b"resume"):
            self._cycles.pause(verb == b"pause")
        elif verb == b"owed":
            self._relay.tell()
        elif verb == b"schedules":
            self._schedules.heard()

    def _request_abort(self, token: int, reason: bytes) -> None:
        job = self._claims.get(token)
        if job is None or token in self._aborting:
            return
        text = str(records.decode(reason))
        unstarted = self._cycles.withdraw(token)
        if unstarted is None:
            self._abort(token, job, text)
            return
        self._aborting.add(token)
        unstarted.status, unstarted.error, unstarted.completed = Status.ABORTED, text, millis()
        self._settle(self._settlement(unstarted, Settlement.ABORTED))

    # Ending

    async def close(self, keep: Collection[str]) -> None:
        """See ``TaskQueue.close``."""
        self._announcements.remove(self._layout.key("ctl"), self._command)
        await self._recovery.close()
        sent = await self._cycles.close(CLOSING)
        await self._relay.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)
        kept = {token for token, job in self._claims.items() if job.key in keep}
        released = await self._release(kept) if sent else False
        if not kept:
            self._lease.stop()
        if not released:
            self._say_left(len(kept))

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
                    _, more = await _RELEASE.run(link, self._layout, (incarnation.number, LIMIT, *running))
        except (RedisError, OSError) as error:
            self._outage.failed(error)
            return False
        finally:
            await link.close()
        return True
