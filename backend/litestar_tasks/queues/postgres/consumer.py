"""A worker's hold on a queue: its lease, its claims, and what is to become of them."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg import errors
from saq.job import Status

from litestar_tasks.exceptions import BrokerError
from litestar_tasks.queues.base import ClaimedJob, Settlement
from litestar_tasks.queues.holding import CLOSING, Assignment, Hold
from litestar_tasks.queues.postgres.connection import Away, Connection, execute, reason_of, rejects
from litestar_tasks.queues.postgres.lease import LeaseThread
from litestar_tasks.queues.postgres.settling import Operation, Settling
from litestar_tasks.queues.postgres.statements import (
    ABORTS,
    BEAT,
    CLAIM,
    ENTER,
    GIVE_UP,
    HELD,
    LEAVE,
    PROMOTE,
    READ,
    REGISTER,
    RELEASE,
    STAY,
)
from litestar_tasks.queues.postgres.upkeep import Upkeep
from litestar_tasks.queues.presence import this_process

if TYPE_CHECKING:
    from litestar_tasks.queues.base import TaskQueue
    from litestar_tasks.queues.outage import Outage
    from litestar_tasks.queues.postgres.connection import Endpoint, Link
    from litestar_tasks.queues.postgres.listener import Announcer, Listener

__all__ = ("Consumer",)

logger = logging.getLogger("litestar_tasks.queues")

LIMIT: Final = 200
"""Jobs that one statement claims or moves at the most."""
_LOOK: Final = 1.0
"""Seconds after which a worker that has heard nothing looks for jobs by itself, and after which a claim answers."""


class Consumer(Hold[Operation, LeaseThread]):
    """What one open queue does for its worker.

    Args:
        queue: The queue, for the jobs made here.
        endpoint: The server.
        reader: The connection for what is not urgent.
        outage: Whether the server answers.
        listener: Brings what other processes say at once.
        announcer: Says what others should know at once.
        assignment: For whom, and how.
    """

    _server = "Postgres"
    _unheard = (BrokerError, psycopg.Error)

    def __init__(
        self,
        queue: TaskQueue,
        endpoint: Endpoint,
        reader: Link,
        outage: Outage,
        listener: Listener,
        announcer: Announcer,
        assignment: Assignment,
    ) -> None:
        super().__init__(queue, endpoint.address, outage, assignment)
        terms = assignment.terms
        self._link = endpoint.link()
        self._listener = listener
        self._announcer = announcer
        self._process = this_process()
        self._owner: int | None = None
        self._turn = asyncio.Lock()  # one claim waits, the others behind it
        self.claiming = asyncio.Lock()  # while held, the server may know of a claim that is not known here
        self._doubtful = False
        self._stir = asyncio.Event()
        self._due_at = 0.0  # something may be due that nobody has looked for
        self._closing = False
        self.has_ended = True  # whether jobs have ended here since old records were last looked for
        self._settling = self._sending = Settling(
            self._link, self._name, outage, failed_ttl=terms.limits.failed_ttl, settled=self._answered
        )
        self._lease = LeaseThread(
            self._name,
            endpoint.link,
            lease=terms.lease,
            every=terms.renew_every,
            report=partial(self._from_thread, self._renewed),
        )
        self._upkeep = Upkeep(self, self._name, reader, outage, announcer, terms=terms, here=self._process)

    async def open(self) -> None:
        """See ``Hold.open``."""
        try:
            await self._current()
        except Away as error:
            self._outage.failed(error)
        except psycopg.Error as error:
            raise BrokerError(f"Postgres at {self._address}: {reason_of(error)}") from error
        self._lease.start()
        self._upkeep.start()
        self._relay.start()
        self._listener.add(self._announcer.work, self._command)

    # Claims

    async def claim(self, limit: int, *, exact: bool = False, ahead: bool = False) -> list[ClaimedJob]:
        """See ``Hold.claim``. Never more than asked for, and nothing ahead."""
        deadline = time.monotonic() + _LOOK
        async with self._turn:
            while not self._closing and limit > 0:
                self._stir.clear()
                more, jobs = await self._protected(min(limit, LIMIT))
                if jobs:
                    return jobs
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                if more:
                    continue
                try:
                    async with asyncio.timeout(max(0.002, min(left, self._due_at - time.monotonic()))):
                        await self._stir.wait()
                except TimeoutError:
                    if time.monotonic() >= deadline:
                        break
        return []

    async def _protected(self, limit: int) -> tuple[bool, list[ClaimedJob]]:
        """Claim, and hand back what was claimed if the caller has been cancelled meanwhile."""
        task = self._spawn(self._claim(limit))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._return_claims)
            raise

    def _return_claims(self, task: asyncio.Task[tuple[bool, list[ClaimedJob]]]) -> None:
        if not task.cancelled() and task.exception() is None:
            for job in task.result()[1]:
                self._settle(self._settlement(job, Settlement.HAND_BACK))

    async def _claim(self, limit: int) -> tuple[bool, list[ClaimedJob]]:
        """Claim once. Returns whether it is worth trying again at once, and the jobs."""
        async with self.claiming:
            try:
                owner = await self._current()
                if self._doubtful:
                    await self._find_doubtful()
                if time.monotonic() >= self._due_at:
                    await self._link.ask(PROMOTE, {"queue": self._name, "limit": LIMIT})
                parameters = {"queue": self._name, "owner": owner, "want": limit, "worker": self.worker_id}
                rows = await self._link.ask(CLAIM, parameters)
            except errors.UniqueViolation:
                return True, []  # another worker took a job of the same group at the same moment
            except (BrokerError, psycopg.Error) as error:
                self._doubtful = self._doubtful or not isinstance(error, Away) or error.sent
                self._outage.failed(error)
                await self._outage.pause()
                raise BrokerError(f"Postgres does not answer: {reason_of(error)}") from error
            self._outage.succeeded()
            has_lease, _, picked, due_in, now, *_ = rows[0]
            self._due_at = math.inf if due_in is None else time.monotonic() + due_in
            if not has_lease:
                self.lose(owner)
                return True, []
            jobs = self._accept(now, [(token, key, job) for *_, token, key, job in rows if token is not None])
        return picked == limit or self._due_at <= time.monotonic(), jobs

    async def settle(self, job: ClaimedJob, settlement: Settlement, delay: float) -> bool:
        """See ``TaskQueue.settle``."""
        if self._claims.get(job.token) is not job or job.token in self._busy:
            return False
        operation = self._settlement(job, settlement, delay)
        self._settle(operation)
        accepted = await operation.done
        if accepted and job.group_key is not None:  # the next one of its group may be waiting
            self._stir.set()
            self._announcer.ready()
        return accepted

    async def recover(self) -> int:
        """Take what lost workers left, and return how many jobs there were."""
        return await self._upkeep.recover()

    def _update(self, job: ClaimedJob, document: bytes) -> Operation:
        return Operation(None, job.key, job.token, document, job.attempts, self._loop.create_future())

    def _settlement(self, job: ClaimedJob, settlement: Settlement, delay: float = 0) -> Operation:
        return Operation.of(job, settlement, delay, self._terms.limits.failed_ttl, self._loop.create_future())

    def _accept(self, now: int, claims: Sequence[tuple[int, str, bytes]]) -> list[ClaimedJob]:
        """Make running jobs of what was claimed."""
        jobs = self._restore(claims, str)
        ahead = now - time.monotonic() * 1000
        for job in jobs:
            job.ahead = ahead
            job.fence = job.token
            job.status = Status.ACTIVE
            job.started = now
            job.worker_id = self.worker_id
        return jobs

    def fail_lost(self, claims: Sequence[tuple[int, str, bytes]], *, left: bool) -> None:
        """Settle as failed what was taken from a lost worker, or from one that left it, and must not run again."""
        self._fail_lost(self._restore(claims, str), left=left)

    def _answered(self, operation: Operation, status: str | None) -> None:
        if status is not None:
            self._announce(operation, status)
        self._settled(operation, status is not None)

    def _announce(self, operation: Operation, status: str) -> None:
        self._announcer.changed([(operation.key, status)])
        if status == "queued" and operation.delay < _LOOK:
            self._stir.set()
            self._announcer.ready()
        elif operation.settlement is not None:
            self.has_ended = True

    def _id_of(self, operation: Operation) -> str:
        return self._queue.job_id(operation.key)

    async def _stored(self, operation: Operation) -> bytes | None:
        rows = await self._link.ask(READ, {"queue": self._name, "keys": [operation.key]})
        return rows[0][1] if rows else None

    # The lease

    @property
    def owner(self) -> int | None:
        """The number of the lease, if there is one."""
        return self._owner

    async def _current(self) -> int:
        """The lease; a new one where there is none."""
        if self._owner is not None:
            return self._owner
        process = self._process
        parameters = {
            "queue": self._name,
            "worker": self.worker_id,
            "lease": self._terms.lease,
            "machine": process.machine if process else None,
            "process": str(process) if process else None,
        }

        async def register(connection: Connection) -> int:
            async with connection.transaction():
                await execute(connection, ENTER, {"queue": self._name})
                await execute(connection, BEAT, parameters)
                (row,) = await execute(connection, REGISTER, parameters)
            return int(row[0])

        self._owner = await self._link.run(register)
        self._lease.keep(self._owner)
        return self._owner

    def lose(self, owner: int) -> None:
        """Others hold this worker's jobs now, or will: drop everything that was claimed under the lease."""
        if owner != self._owner:
            return
        self._owner = None
        self._lease.keep(None)
        self._drop(lambda _: True)
        self._stir.set()

    def _renewed(self, owner: int, held: bool, aborts: Sequence[tuple[int, str]]) -> None:
        if not held:
            self.lose(owner)
            return
        for token, reason in aborts:
            self._request_abort(token, reason)

    # What the server says is held here, and what is not

    async def audit(self, link: Link) -> None:
        """Compare the claims that the server knows with those that are known here.

        A claim that nobody here knows of is handed back: the answer to it was lost. A running job that has no claim was
        taken out by hand.
        """
        async with self.claiming:
            owner, before = self._owner, self.running()
            if owner is None:
                return
            held = {token for token, *_ in await link.ask(HELD, {"queue": self._name, "owner": owner})}
            await self._hand_back_unknown(link, owner, held)
        for token, job in before.items():
            if token not in held and self.running().get(token) is job and owner == self._owner:
                self._drop_one(token, job)

    async def _find_doubtful(self) -> None:
        """Hand back what calls claimed whose answers were lost."""
        if (owner := self._owner) is not None:
            held = {token for token, *_ in await self._link.ask(HELD, {"queue": self._name, "owner": owner})}
            await self._hand_back_unknown(self._link, owner, held)
        self._doubtful = False

    async def _hand_back_unknown(self, link: Link, owner: int, held: set[int]) -> None:
        if unknown := [token for token in held if token not in self._claims]:
            count = await self._release(link, owner, unknown)
            if count:
                logger.warning("queue %r: handed back %d jobs of a claim without an answer", self._name, count)

    async def _release(self, link: Link, owner: int, tokens: Sequence[int]) -> int:
        rows = await link.ask(
            RELEASE,
            {"queue": self._name, "owner": owner, "tokens": tokens, "failed_ttl": self._terms.limits.failed_ttl},
        )
        if rows:
            self._announcer.changed([(key, status) for key, status in rows])
            self._announcer.ready()
        return len(rows)

    # Aborts

    def _command(self, payload: str | None) -> None:
        """Something was said on the queue's channel; None after a gap."""
        verb, _, rest = (payload or "").partition(" ")
        if verb == "abort":
            if rest == str(self._owner):
                self._spawn(self._look_for_aborts())
            return
        if verb == "owed":
            self._relay.tell()
            return
        if verb == "schedules":
            self._schedules.heard()
            return
        if verb == "recover":
            self._upkeep.hurry()
        self._stir.set()

    async def _look_for_aborts(self) -> None:
        try:
            rows = await self._link.ask(ABORTS, {"queue": self._name, "owner": self._owner})
        except (BrokerError, psycopg.Error):
            return  # the next renewal makes up for it
        for token, reason in rows:
            self._request_abort(token, reason)

    def _request_abort(self, token: int, reason: str) -> None:
        job = self._claims.get(token)
        if job is not None and token not in self._busy:
            self._abort(token, job, reason)

    # Ending

    async def close(self, keep: Collection[str]) -> None:
        """See ``TaskQueue.close``."""
        self._closing = True
        self._stir.set()
        self._listener.remove(self._announcer.work, self._command)
        await self._upkeep.close()
        if self._tasks:  # a claim among them: what it brings is handed back with the rest
            await asyncio.wait(self._tasks, timeout=0.1 if self._outage.lasting else CLOSING)
            await asyncio.sleep(0)
        sent = await self._settling.close(CLOSING)
        await self._relay.close()
        kept = {token for token, job in self._claims.items() if job.key in keep}
        released = await self._leave(kept) if sent else False
        if not kept:
            self._lease.stop()
        if not released:
            self._say_left(len(kept))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._announcer.flush()
        await self._link.close()

    async def _leave(self, kept: set[int]) -> bool:
        """Hand back what is still held, but for what runs on: its lease is renewed until the process has ended."""
        owner, self._owner = self._owner, None
        if owner is None:
            return True
        if not kept:
            self._lease.keep(None)
        parameters = {"queue": self._name, "owner": owner}
        try:
            held = await self._link.ask(HELD, parameters)
            # What must not be started twice stays claimed, and the lease ends now: recovery fails it.
            once = {token for token, _, max_losses in held if max_losses == 1}
            back = sorted({token for token, *_ in held} - kept - once)
            if back:
                await self._release(self._link, owner, back)
            if kept:
                await self._link.ask(STAY, parameters)
            else:
                await self._link.ask(GIVE_UP if once else LEAVE, parameters)
            if once:
                self._announcer.say("recover")
        except BrokerError as error:
            self._outage.failed(error)
            return False
        except Exception as error:
            if not rejects(error):
                raise
            logger.error("queue %r: the claims could not be handed back: %s", self._name, error)
            return False
        return True
