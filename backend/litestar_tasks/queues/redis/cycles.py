"""The worker's traffic: operations and claims that travel together, in two calls at once.

What one turn of the event loop settles leaves in one call, and the same call claims what there is room for; while
Redis works on one, Python works on the answer of the other. No call takes more than half of what there is to do, or
the second would find nothing. Both are on one connection, so that claims are made in the order of their tokens.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import RedisError

from litestar_tasks.exceptions import BrokerError
from litestar_tasks.queues.redis.connection import never_sent
from litestar_tasks.queues.redis.lua import LIMIT, Script, is_rejection

if TYPE_CHECKING:
    from litestar_tasks.queues.base import ClaimedJob
    from litestar_tasks.queues.outage import Outage
    from litestar_tasks.queues.redis.connection import Endpoint, Link
    from litestar_tasks.queues.redis.incarnation import Incarnation
    from litestar_tasks.queues.redis.layout import Layout
    from litestar_tasks.queues.retention import Limits

__all__ = ("Claims", "Cycles", "Operation", "unpack")

logger = logging.getLogger("litestar_tasks.queues")

_CYCLE: Final = Script("cycle")
_RECLAIM: Final = Script("reclaim")
_IN_FLIGHT: Final = 2
_NAP: Final = 1.0
"""Longest blocking read in seconds; ``SLEEP`` in ``common.lua``."""
_PATIENCE: Final = 1.5
"""Seconds after which a claim answers, whatever happens."""
_UNCLAIMED: Final = 0.25
"""Seconds after which who has not asked for jobs again will not: what was claimed for it goes back."""
_SMALL: Final = 8
"""So much goes into one call even where two could share it."""
_RENEW: Final = 1.0
"""Seconds between two calls that prolong the lease, which the thread does anyway."""
_LOST, _PAUSED, _EMPTY = -1, 2, 3


@dataclass(slots=True, eq=False)
class Operation:
    """What is to be written about one claimed job."""

    kind: str
    job_id: str
    token: int
    document: bytes
    number: int
    vacates: bool
    """Whether the job's capacity is free with it."""
    done: asyncio.Future[bool]
    resent: bool = False
    alone: bool = False


@dataclass(slots=True, eq=False)
class _Request:
    """A claim that waits."""

    limit: int
    exact: bool
    future: asyncio.Future[list[ClaimedJob]]


@dataclass(slots=True, eq=False)
class _Flight:
    """One call under way."""

    operations: list[Operation]
    want: int
    first: int
    promised: int
    """How many of the wanted jobs are not covered by capacity that the same call frees."""
    after_nap: bool = False
    said: int = 0
    """How often a pause or its end had been announced when it was sent."""


@dataclass(slots=True)
class Claims:
    """What a call claimed: for each job its token, id and document."""

    now: int
    jobs: list[tuple[int, str, bytes]] = field(default_factory=list[tuple[int, str, bytes]])


class Cycles:
    """Carries operations and claims to the server and back.

    Args:
        endpoint: The server.
        layout: The queue's keys.
        outage: Whether the server answers.
        limits: What is kept of finished jobs.
        worker: The worker's id as JSON.
        lease: Seconds for which a call prolongs the lease.
        incarnation: The current incarnation; registers one, over the given connection, where there is none.
        accept: Makes jobs of what was claimed.
        settled: Called for each operation that has been answered, before its future.
        lost: Called when the lease of an incarnation is found to be gone.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        layout: Layout,
        outage: Outage,
        limits: Limits,
        *,
        worker: bytes,
        lease: float,
        incarnation: Callable[[Link], Awaitable[Incarnation]],
        accept: Callable[[Claims], list[ClaimedJob]],
        settled: Callable[[Operation, bool], None],
        lost: Callable[[Incarnation], None],
    ) -> None:
        self._endpoint = endpoint
        self._layout = layout
        self._outage = outage
        self._limits = limits
        self._worker = worker
        self._lease_ms = int(lease * 1000)
        self._incarnation = incarnation
        self._accept = accept
        self._settled = settled
        self._lost = lost
        self._link = endpoint.link()
        self._nap_link = endpoint.link()
        self._tasks: list[asyncio.Task[None]] = []
        self._idle: list[asyncio.Future[None]] = []
        self._operations: deque[Operation] = deque()
        self._requests: list[_Request] = []
        self._buffer: list[ClaimedJob] = []
        self._flights: list[_Flight] = []
        self._doubtful: list[tuple[int, int]] = []
        self._ahead = 0
        """How many places that settled jobs free may be filled by the same call, ahead of the request for them: as many
        as jobs were handed out to who asks again."""
        self._asked = -math.inf
        """When that was. Who has not asked for a while may have stopped, and is given no more."""
        self._capacity = 0
        self._dry = False
        self._paused = False
        self._resumed = asyncio.Event()
        self._said = 0
        self._due_at = math.inf
        self._renew_at = 0.0
        self._nap: asyncio.Task[None] | None = None
        self._woken = False
        self._unblock = ""
        self._return_timer: asyncio.TimerHandle | None = None
        self._closing = False
        self.hand_back: Callable[[Iterable[ClaimedJob]], None] = lambda _: None

    def start(self) -> None:
        """Begin to carry."""
        self._tasks = [asyncio.create_task(self._run(), name=f"cycle-{self._layout.name}") for _ in range(_IN_FLIGHT)]

    # RetryingLink

    async def claim(self, limit: int, *, exact: bool, ahead: bool, held: int) -> list[ClaimedJob]:
        """Claim jobs.

        Args:
            limit: How many there is capacity for now.
            exact: Never answer more. Otherwise capacity that settled jobs free meanwhile counts, too.
            ahead: Whether the caller claims again as soon as there is room.
            held: How many jobs are held already.

        Raises:
            BrokerError: The server is away.
        """
        loop = asyncio.get_running_loop()
        self._capacity = max(self._capacity, limit + held - len(self._buffer))
        if self._buffer and (limit > 0 or not exact):
            # To a caller who has no room yet, what was claimed for the room that settled jobs are just giving back.
            return self._hand_out(self._take_buffer(limit if limit > 0 else len(self._buffer)), ahead)
        request = _Request(limit, exact, loop.create_future())
        self._requests.append(request)
        timer = loop.call_later(_PATIENCE, self._expire, request)
        self._look()
        try:
            return self._hand_out(await request.future, ahead)
        except asyncio.CancelledError:
            self._ahead = 0
            if request.future.done() and not request.future.cancelled() and not request.future.exception():
                self._keep(request.future.result())
            raise
        finally:
            timer.cancel()
            if request in self._requests:
                self._requests.remove(request)

    def pause(self, paused: bool) -> None:
        """Heed that nothing is to be claimed, or everything again. What the server answers has the last word."""
        self._said += 1
        if not paused:
            self._resumed.set()
        elif self._nap is not None:
            # It sleeps on the list that it must not take from now.
            task = asyncio.create_task(self._rouse(), name=f"rouse-{self._layout.name}")
            self._tasks.append(task)
            task.add_done_callback(self._tasks.remove)

    def add(self, operation: Operation) -> None:
        """Send an operation with the next call."""
        self._operations.append(operation)
        self._kick()

    def drop(self, belongs: Callable[[int], bool]) -> None:
        """Forget what is still to be sent, or was claimed and not handed out, under certain tokens."""
        kept: deque[Operation] = deque()
        for operation in self._operations:
            if belongs(operation.token):
                self._settled(operation, False)
            else:
                kept.append(operation)
        self._operations = kept
        self._buffer = [job for job in self._buffer if not belongs(job.token)]
        self._doubtful = [span for span in self._doubtful if not belongs(span[0])]

    def in_doubt(self, token: int) -> bool:
        """Whether a call under way, or one whose answer was lost, may have claimed a job under this token."""
        spans = [(flight.first, flight.first + flight.want - 1) for flight in self._flights]
        return any(first <= token <= last for first, last in (*spans, *self._doubtful))

    def withdraw(self, token: int) -> ClaimedJob | None:
        """Take back a job that was claimed and not handed out yet."""
        for job in self._buffer:
            if job.token == token:
                self._buffer.remove(job)
                return job
        return None

    async def close(self, timeout: float) -> bool:
        """Stop claiming, and send what is still to be sent.

        Args:
            timeout: Seconds for it, should the server be away.

        Returns:
            Whether everything was sent.
        """
        self._closing = True
        for request in self._requests:
            _resolve(request.future, [])
        await self._wake_up()
        try:
            async with asyncio.timeout(timeout):
                while self._buffer or self._operations or self._flights or self._doubtful:
                    self._return_buffer()
                    self._kick()
                    await asyncio.sleep(0.005)
        except TimeoutError:
            pass
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for link in (self._link, self._nap_link):
            await link.close()
        complete = not (self._buffer or self._operations or self._flights)
        for operation in (*self._operations, *(one for flight in self._flights for one in flight.operations)):
            if not operation.done.done():
                operation.done.set_result(False)
        return complete

    # Carrying

    async def _run(self) -> None:
        link = self._link
        while True:
            if not (self._doubtful or self._has_work()):
                idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._idle.append(idle)
                await idle
                continue
            flight: _Flight | None = None
            try:
                incarnation = await self._incarnation(link)
                if self._doubtful:
                    await self._reclaim(link)
                flight = self._load(incarnation)
                if flight is None:
                    continue
                if self._has_work():
                    self._kick()
                answer = await self._send(link, incarnation, flight)
            except (RedisError, OSError) as error:
                await self._failed(flight, error)
                continue
            except Exception:
                logger.exception("queue %r: an unforeseen error while claiming or settling", self._layout.name)
                await self._failed(flight, None)
                continue
            self._outage.succeeded()
            try:
                self._landed(incarnation, flight, answer)
            except Exception:
                logger.exception("queue %r: an unforeseen error after a claim", self._layout.name)

    def _room(self) -> int:
        """Capacity that is asked for and not yet promised to a job."""
        limits = sum(request.limit for request in self._requests)
        return limits - len(self._buffer) - sum(flight.promised for flight in self._flights)

    def _has_work(self) -> bool:
        if self._operations or self._woken:
            return True
        if self._dry or self._nap is not None or any(flight.after_nap for flight in self._flights):
            return False  # what ended a sleep is mostly one job, which a second call would only hold up
        return bool(self._requests) and self._room() > 0

    def _load(self, incarnation: Incarnation) -> _Flight | None:
        if not self._has_work():
            return None
        batch = min(LIMIT, max(_SMALL, (self._capacity + 1) // 2))
        operations: list[Operation] = []
        while self._operations and len(operations) < batch:
            if self._operations[0].alone and operations:
                break
            operations.append(self._operations.popleft())
            if operations[-1].alone:
                break
        vacated = sum(operation.vacates for operation in operations)
        want = 0
        if self._requests and self._nap is None and not self._closing:
            grows = any(not request.exact for request in self._requests)
            want = max(0, min(batch, self._room() + (vacated if grows else 0)))
            vacated = vacated if grows else 0
        elif self._asks_again() and not self._dry and not self._paused and not self._closing:
            want = min(vacated, self._ahead)
            self._ahead -= want
        flight = _Flight(operations, want, incarnation.take(want), max(0, want - vacated), self._woken, self._said)
        self._woken = False
        self._flights.append(flight)
        return flight

    async def _send(self, link: Link, incarnation: Incarnation, flight: _Flight) -> Any:
        limits, lease = self._limits, 0
        if (now := time.monotonic()) >= self._renew_at:
            self._renew_at = now + _RENEW
            lease = self._lease_ms
        args: list[bytes | str | float] = [
            incarnation.holder,
            flight.want,
            flight.first,
            self._worker,
            lease,
            limits.complete,
            limits.others,
            limits.failed_ttl,
        ]
        for operation in flight.operations:
            args += (
                operation.kind,
                operation.job_id,
                operation.token,
                operation.document,
                operation.number,
            )
        return await _CYCLE.run(link, self._layout, args)

    def _landed(self, incarnation: Incarnation, flight: _Flight, answer: Any) -> None:
        numbers, data = answer
        state, now, wait, orphans, count, *rest = map(int, numbers.split())
        refused, lengths = rest[:count], rest[count:]
        self._flights.remove(flight)
        if (grower := next((request for request in self._requests if not request.exact), None)) is not None:
            grower.limit += sum(operation.vacates for operation in flight.operations)
        for number, operation in enumerate(flight.operations, 1):
            self._settled(operation, number not in refused)
        if orphans:
            logger.warning(
                "queue %r: %d jobs had no document any more; does the server evict keys?", self._layout.name, orphans
            )
        if state == _LOST:
            self._lost(incarnation)
            return
        if flight.want:
            self._paused = state == _PAUSED and flight.said == self._said  # or else it may be another answer by now
            self._dry = self._paused or state == _EMPTY
            if self._paused:
                self._resumed.clear()
            self._due_at = time.monotonic() + wait / 1000 if wait >= 0 else math.inf
        if lengths:
            self._keep(self._accept(unpack(now, flight.first, lengths, data)))
            self._deliver()
        elif flight.after_nap and self._dry:
            for request in self._requests:
                _resolve(request.future, [])
            self._requests.clear()
        self._look()

    async def _failed(self, flight: _Flight | None, error: BaseException | None) -> None:
        if flight is not None:
            self._flights.remove(flight)
            if error is not None and is_rejection(error):
                self._isolate(flight.operations, error)
                return
            if error is None or not never_sent(error):
                for operation in flight.operations:
                    operation.resent = True
                if flight.want:
                    self._doubtful.append((flight.first, flight.first + flight.want - 1))
            self._operations.extendleft(reversed(flight.operations))
            self._woken = self._woken or flight.after_nap
        if error is not None:
            self._outage.failed(error)
        await self._outage.pause()

    def _isolate(self, operations: Sequence[Operation], error: BaseException) -> None:
        """A script refused a whole batch for one of its operations: find out which, alone."""
        if len(operations) == 1:
            logger.error("queue %r: %s cannot be written: %s", self._layout.name, operations[0].job_id, error)
            self._settled(operations[0], False)
            return
        for operation in operations:
            operation.alone = True
        self._operations.extendleft(reversed(operations))

    async def _reclaim(self, link: Link) -> None:
        """Hand back what calls claimed whose answers were lost."""
        while self._doubtful:
            first, last = span = self._doubtful[0]
            count = await _RECLAIM.run(link, self._layout, (first, last))
            if span in self._doubtful:  # the other carrier may have been as quick, or the lease was lost meanwhile
                self._doubtful.remove(span)
            if count:
                logger.warning("queue %r: handed back %d jobs of a claim without an answer", self._layout.name, count)

    # Handing out

    def _keep(self, jobs: list[ClaimedJob]) -> None:
        self._buffer += jobs
        if self._buffer and not self._requests and self._return_timer is None:
            loop = asyncio.get_running_loop()
            self._return_timer = loop.call_later(_UNCLAIMED, self._return_buffer)

    def _hand_out(self, jobs: list[ClaimedJob], ahead: bool) -> list[ClaimedJob]:
        self._ahead = min(self._capacity, self._ahead + len(jobs)) if ahead else 0
        self._asked = time.monotonic()
        return jobs

    def _asks_again(self) -> bool:
        return self._ahead > 0 and time.monotonic() - self._asked < _UNCLAIMED

    def _take_buffer(self, count: int) -> list[ClaimedJob]:
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _deliver(self) -> None:
        requests, self._requests = self._requests, []
        for request in requests:
            share = min(request.limit, len(self._buffer)) if request.exact else len(self._buffer)
            if share > 0 and not request.future.done():
                request.future.set_result(self._take_buffer(share))
            else:
                self._requests.append(request)

    def _return_buffer(self) -> None:
        """Nobody asks any more for what was claimed: give it back."""
        self._return_timer = None
        if self._requests and not self._closing:
            self._deliver()
        elif self._buffer:
            jobs, self._buffer = self._buffer, []
            self.hand_back(jobs)

    def _expire(self, request: _Request) -> None:
        if self._outage.lasting:
            if not request.future.done():
                request.future.set_exception(BrokerError(f"Redis does not answer: {self._outage.reason}"))
        else:
            _resolve(request.future, [])

    # Waiting

    def _look(self) -> None:
        """Go on: with a call, or where the queue is known to be empty with a blocking read."""
        if self._dry and self._nap is None and not self._closing and self._requests and self._room() > 0:
            seconds = min(_NAP, max(0.002, self._due_at - time.monotonic()))
            sleep = self._sleep_paused(seconds) if self._paused else self._sleep(seconds)
            self._nap = asyncio.create_task(sleep, name=f"nap-{self._layout.name}")
        else:
            self._kick()

    def _kick(self) -> None:
        while self._idle:
            idle = self._idle.pop()
            if not idle.done():
                idle.set_result(None)
                return

    async def _sleep(self, seconds: float) -> None:
        """Wait for a job to come: one bounded read, so that a connection that died silently is noticed.

        A job that arrives is moved into this worker's inbox, and claimed by the next call.
        """
        link = self._nap_link
        try:
            incarnation = await self._incarnation(link)
            if not self._unblock or not link.connected:
                self._unblock = str(await link.call(("CLIENT", "ID")))
            inbox = self._layout.key(f"inbox:{incarnation.number}")
            command = ("BLMOVE", self._layout.queued, inbox, "LEFT", "RIGHT", f"{seconds:.3f}")
            await link.call(command, seconds + _PATIENCE)
        except (RedisError, OSError) as error:
            self._outage.failed(error)
            await self._outage.pause()
        finally:
            self._slept()

    async def _sleep_paused(self, seconds: float) -> None:
        """Wait for the end of a pause, and take nothing: the list may be full."""
        try:
            async with asyncio.timeout(seconds):
                await self._resumed.wait()
        except TimeoutError:
            pass
        finally:
            self._slept()

    def _slept(self) -> None:
        self._nap = None
        self._dry = False
        self._woken = True
        self._kick()

    async def _wake_up(self) -> None:
        """End the sleep."""
        if (nap := self._nap) is None:
            return
        self._resumed.set()
        await self._rouse()
        await asyncio.wait([nap], timeout=_PATIENCE + _NAP)

    async def _rouse(self) -> None:
        """End the blocking read without breaking its connection: a read that is given up may still take a job."""
        if self._unblock and not self._outage.lasting:
            link = self._endpoint.link()
            try:
                await link.call(("CLIENT", "UNBLOCK", self._unblock), 0.5)
            except (RedisError, OSError):
                pass  # it may be forbidden; the read ends by itself
            await link.close()


def _resolve(future: asyncio.Future[list[ClaimedJob]], jobs: list[ClaimedJob]) -> None:
    if not future.done():
        future.set_result(jobs)


def unpack(now: int, first: int, lengths: Iterable[int], data: bytes) -> Claims:
    """Claims out of their lengths and bytes; see `packed` in ``common.lua``."""
    claims = Claims(now)
    start = 0
    sizes = iter(lengths)
    for token, (size, document_size) in enumerate(zip(sizes, sizes, strict=True), first):
        middle = start + size
        end = middle + document_size
        claims.jobs.append((token, data[start:middle].decode(), data[middle:end]))
        start = end
    return claims
