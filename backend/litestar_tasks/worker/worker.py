"""One queue's jobs, run by this process: claim, start, settle, and stop without losing any."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from litestar_saq.base import Worker as StockWorker
from saq.job import Status
from saq.utils import now

from litestar_tasks.exceptions import BrokerError
from litestar_tasks.handle import CAPACITY
from litestar_tasks.job import ENDED, MESSAGE
from litestar_tasks.queues import records
from litestar_tasks.queues.base import ClaimedJob, Settlement, TaskQueue, WorkerHooks
from litestar_tasks.queues.history import remember
from litestar_tasks.queues.reports import REMEMBERED, process_report
from litestar_tasks.worker.execution import Execution, Outcome
from litestar_tasks.worker.meter import Meter
from litestar_tasks.worker.pool import ProcessPool
from litestar_tasks.worker.seats import Seat, Seats

if TYPE_CHECKING:
    from saq.types import WorkerInfo

    from litestar_tasks.middleware import Middleware
    from litestar_tasks.queue_config import QueueConfig
    from litestar_tasks.registry import Registry
    from litestar_tasks.worker.dependencies import Dependencies

__all__ = ("Worker",)

logger = logging.getLogger("litestar_tasks.worker")

_CLEAN_UP: Final = 5.0
"""Seconds that cancelled tasks have for their own clean-up before the worker leaves without them."""
_LAST_WORD: Final = 1.0
"""Seconds for saying that it stops."""
_BROKEN: Final = frozenset({Settlement.FAILED, Settlement.RETRY})
"""How attempts end that raise."""
_COUNTED: Final = frozenset({Settlement.COMPLETE, Settlement.FAILED, Settlement.ABORTED, Settlement.RETRY})


@dataclass(slots=True, eq=False)
class _Attempt:
    """A job that is running here."""

    job: ClaimedJob
    seat: Seat
    task: asyncio.Task[None] | None = None
    ending: Literal["abort", "stop", "lost"] | None = None
    """Why it was cancelled, if it was."""
    reason: str = ""
    begun: bool = False
    """Whether it has had its first turn; until then there is nothing that a cancellation could reach."""
    settling: bool = False


class Worker(StockWorker):
    """Runs the jobs of one queue.

    litestar-saq's ``Worker`` in name, attributes and context; the loop is this package's own.

    Args:
        queue: Where the jobs come from.
        config: The queue's settings.
        registry: The tasks. Any worker runs any task.
        dependencies: What tasks need beside their payload.
        middleware: What wraps every attempt, before that of the registry and the task. Defaults to none.

    Attributes:
        outcomes: How many attempts ended here, by task and by what became of their jobs.
    """

    queue: TaskQueue

    def __init__(
        self,
        queue: TaskQueue,
        config: QueueConfig,
        registry: Registry,
        dependencies: Dependencies,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        super().__init__(
            queue,
            [],
            concurrency=config.concurrency,
            shutdown_grace_period_s=config.shutdown_grace_period_s,
            metadata=config.metadata,
            enable_heartbeat_manager=False,
        )
        self.SIGNALS = []  # signals are the process's; several workers share it
        self.pool = ThreadPoolExecutor(config.concurrency, thread_name_prefix=f"task-{queue.label}")
        self.functions = {task.name: task for task in registry.get_all_tasks()}
        context: dict[str, Any] = cast("dict[str, Any]", self.context)
        context.update(dependencies.resources)
        self._processes = ProcessPool(config.processes or min(config.concurrency, os.cpu_count() or 1))
        self._execution = Execution(registry, dependencies, self.pool, self._processes, middleware)
        self._meter = Meter(queue)
        self._attempts: dict[int, _Attempt] = {}  # by the claim's token: a job can come back while its thread runs
        self._slot_free = asyncio.Event()
        self._seats = Seats(config.concurrency, queue.job_id(""), self._slot_free.set)
        self._hurry = asyncio.Event()
        self._dispatcher: asyncio.Task[None] | None = None
        self._stopping = False
        self.outcomes: Counter[tuple[str, Settlement]] = Counter()

    async def open(self) -> None:
        """Begin to work on the queue, before ``start``. A broker that is away is waited for.

        Raises:
            BrokerError: The broker refuses this user, or is too old: waiting would not help.
        """
        await self.queue.open(self.id, WorkerHooks(abort=self._abort, lost=self._lost))

    async def start(self) -> None:
        """Run the queue's jobs until ``stop``."""
        self._dispatcher = asyncio.create_task(self._dispatch(), name=f"dispatch-{self.queue.label}")
        upkeep = asyncio.create_task(self._report(), name=f"report-{self.queue.label}")
        self._meter.start()
        try:
            await self._dispatcher
        except asyncio.CancelledError:
            if not self._dispatcher.cancelled():
                raise  # this coroutine itself was cancelled, not only the dispatcher by stop()
        finally:
            upkeep.cancel()

    async def stop(self) -> None:
        """Claim no more, let running jobs end within the grace period, and hand the rest back.

        Returns as soon as the last job has ended. ``hurry`` cuts the grace period short.
        """
        self._stopping = True
        if self._dispatcher is not None:
            self._dispatcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._dispatcher
        await self._wait_for_attempts(self._shutdown_grace_period_s, interruptible=True)
        for attempt in list(self._attempts.values()):
            if attempt.job.token not in self._execution.in_thread:
                self._cancel(attempt, "stop", "the worker stopped")
        await self._wait_for_attempts(_CLEAN_UP, interruptible=False)
        for attempt in self._attempts.values():
            logger.warning(
                "task %r is still running and cannot be stopped; it runs again elsewhere once this process has ended "
                "(job %s)",
                attempt.job.function,
                attempt.job.id,
            )
        await self._meter.close()
        with suppress(Exception):  # who looks is told within the hour
            async with asyncio.timeout(_LAST_WORD):
                await self.worker_info(ttl=1)
        await self.queue.close(keep=[attempt.job.key for attempt in self._attempts.values()])
        self.pool.shutdown(wait=False, cancel_futures=True)
        await self._processes.close()

    def hurry(self) -> None:
        """End the grace period now."""
        self._hurry.set()

    @property
    def running(self) -> int:
        """How many jobs are running here."""
        return len(self._attempts)

    @property
    def claiming(self) -> bool:
        """Whether it has started, and takes jobs."""
        return not self._stopping and self._dispatcher is not None and not self._dispatcher.done()

    async def _dispatch(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopping:
            capacity = self._seats.free
            if not capacity:
                self._slot_free.clear()
                await self._slot_free.wait()
                continue
            try:
                claimed = await self.queue.claim(capacity, ahead=True)
            except BrokerError:
                continue  # said and paced by the queue
            for job in claimed:
                attempt = self._attempts[job.token] = _Attempt(job, self._seats.take(job.group_key))
                attempt.task = loop.create_task(self._run(attempt), name=job.function)

    async def _run(self, attempt: _Attempt) -> None:
        job, started = attempt.job, attempt.job.now()
        attempt.begun = True
        outcome: Outcome | None
        CAPACITY.set(attempt.seat)
        ready, attempts = max(job.queued, job.scheduled * 1000), job.attempts
        try:
            try:
                if attempt.ending is not None:
                    raise asyncio.CancelledError
                outcome = await self._execution.run(self.queue, job, self.context)
                if attempt.ending is not None and outcome.settlement in _BROKEN and outcome.error_type is not None:
                    # What is cancelled in the midst of something often raises what it makes of that.
                    outcome = _outcome_of_cancelled(attempt)
            except asyncio.CancelledError:
                outcome = _outcome_of_cancelled(attempt)
            if outcome is None:
                return
            attempt.settling = True
            try:
                _record(job, outcome)
                if not job.untouched:
                    records.check(job)
                accepted = await self.queue.settle(job, outcome.settlement, delay=outcome.delay)
            except Exception as error:
                job.attempts = attempts
                _record(job, outcome := _spoiled(job, error))
                accepted = await self.queue.settle(job, outcome.settlement)
            if not accepted:
                logger.warning("the outcome of job %s was refused: its claim was lost, and it runs elsewhere", job.id)
            else:
                self.outcomes[job.function, outcome.settlement] += 1
                self._meter.count(job.function, outcome.settlement, ready=ready, started=started, ended=job.touched)
                if self.queue.listeners and outcome.settlement is not Settlement.HAND_BACK:
                    self.queue.instrument(job, "attempted" if job.status is Status.QUEUED else "ended")
        except Exception:
            logger.exception("job %s could not be settled; it stays claimed until this worker's lease lapses", job.id)
        finally:
            del self._attempts[job.token]
            attempt.seat.leave()

    def _cancel(self, attempt: _Attempt, ending: Literal["abort", "stop", "lost"], reason: str) -> None:
        if attempt.task is None or attempt.settling or attempt.ending is not None:
            return
        attempt.ending, attempt.reason = ending, reason
        if attempt.begun:
            attempt.task.cancel()

    def _abort(self, key: str, reason: str) -> None:
        for attempt in self._holding([key]):
            logger.info("aborting job %s: %s", attempt.job.id, reason)
            self._cancel(attempt, "abort", reason)

    def _lost(self, keys: Sequence[str]) -> None:
        for attempt in self._holding(keys):
            attempt.job.lost = True
            if attempt.job.token in self._execution.in_thread:
                logger.error(
                    "task %r runs on in its thread, which cannot be stopped, while its job runs elsewhere (job %s)",
                    attempt.job.function,
                    attempt.job.id,
                )
            self._cancel(attempt, "lost", "the lease was lost")

    def _holding(self, keys: Sequence[str]) -> list[_Attempt]:
        """The attempts that settle these jobs; one whose claim is lost does not any more."""
        return [attempt for attempt in self._attempts.values() if attempt.job.key in keys and not attempt.job.lost]

    async def _wait_for_attempts(self, timeout: float | None, *, interruptible: bool) -> None:
        tasks = {attempt.task for attempt in self._attempts.values() if attempt.task is not None}
        if not tasks:
            return
        hurried = asyncio.create_task(self._hurry.wait())
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            while tasks and not (interruptible and self._hurry.is_set()):
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return
                done, _ = await asyncio.wait(
                    tasks | ({hurried} if interruptible else set()),
                    timeout=left,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                tasks -= cast("set[asyncio.Task[None]]", done)
        finally:
            hurried.cancel()

    async def worker_info(self, ttl: int = REMEMBERED) -> WorkerInfo:
        """Say what SAQ's tools know of a worker, and which process it is and what that does."""
        self._count()
        report = process_report(
            started=self.queue.started,
            running=self.running,
            concurrency=self.concurrency,
            stopped=self._stopping and not self._attempts,
        )
        stats = {name: getattr(self.queue, name) for name in ("complete", "failed", "retried", "aborted")}
        info = {
            "stats": {**stats, "uptime": now() - self.queue.started},
            "queue_key": self.queue.name,
            "metadata": self._metadata,
            **report,
        }
        await self.queue.write_worker_info(self.id, cast("WorkerInfo", info), ttl=ttl)
        return cast("WorkerInfo", info)

    async def _report(self) -> None:
        """Say every few seconds that this worker is alive, for SAQ's tools; no decision rests on it."""
        every = self.timers["worker_info"]
        while True:
            try:
                await self.worker_info()
            except Exception as error:  # a report that is missed costs nothing
                logger.debug("worker %s could not report: %s", self.id, error)
            await asyncio.sleep(every)

    def _count(self) -> None:
        """Count as SAQ's tools show it."""
        by_settlement: Counter[Settlement] = Counter()
        for (_, settlement), count in self.outcomes.items():
            by_settlement[settlement] += count
        queue: Any = self.queue
        queue.complete = by_settlement[Settlement.COMPLETE]
        queue.failed = by_settlement[Settlement.FAILED] + by_settlement[Settlement.QUARANTINED]
        queue.aborted = by_settlement[Settlement.ABORTED]
        queue.retried = by_settlement[Settlement.RETRY]


def _outcome_of_cancelled(attempt: _Attempt) -> Outcome | None:
    """What became of an attempt that was cancelled; None where its job is somebody else's by now."""
    if attempt.ending is None:
        return Outcome(Settlement.FAILED, error="the task raised CancelledError without having been cancelled")
    if (own := asyncio.current_task()) is not None:
        own.uncancel()
    match attempt.ending:
        case "abort":
            return Outcome(Settlement.ABORTED, error=attempt.reason)
        case "stop" if attempt.job.meta.get("at_most_once"):
            return Outcome(
                Settlement.FAILED, error="its worker was stopped while it ran, and it must not be started twice"
            )
        case "stop":
            return Outcome(Settlement.HAND_BACK)
        case _:
            return None


def _spoiled(job: ClaimedJob, error: Exception) -> Outcome:
    """What becomes of a job with which its task has left what cannot be stored. Its record is put in order."""
    # The work is done: to run it again would do it twice.
    text = f"result: task {job.function!r} ran, but its record cannot be stored: {error}"
    logger.error("%s (job %s)", text, job.id)
    records.mend(job)
    return Outcome(Settlement.FAILED, error=text, reason="result")


_STATUS: Final = {
    Settlement.COMPLETE: Status.COMPLETE,
    Settlement.FAILED: Status.FAILED,
    Settlement.QUARANTINED: Status.FAILED,
    Settlement.ABORTED: Status.ABORTED,
}


def _record(job: ClaimedJob, outcome: Outcome) -> None:
    """Write an outcome into the job's own fields, as SAQ's tools read them."""
    expired = outcome.reason == "expired"
    job.attempts += outcome.settlement in _COUNTED and not expired
    job.status = _STATUS.get(outcome.settlement, Status.QUEUED)
    job.touched = now = job.now()
    if job.status is Status.QUEUED:
        if outcome.settlement is Settlement.RETRY:
            _remember(job, "retry", outcome)
        elif outcome.settlement is Settlement.SNOOZE and outcome.error_type is not None:
            _remember(job, "snooze", outcome)
        if job.meta and "expires" in job.meta and (outcome.error_type or outcome.settlement is Settlement.HAND_BACK):
            # It has been started in time, and what only holds until then would discard it the next time.
            job.meta = {name: value for name, value in job.meta.items() if name != "expires"}
        if outcome.settlement is not Settlement.HAND_BACK:
            job.scheduled = cast("int", round(now / 1000 + outcome.delay, 3))  # to the ms, where SAQ counts seconds
        job.started, job.completed, job.worker_id, job.progress = 0, 0, None, 0.0
        if job.meta and MESSAGE in job.meta:  # like the progress, it was that of the attempt
            job.meta = {name: value for name, value in job.meta.items() if name != MESSAGE}
        job.error = outcome.error if outcome.settlement is Settlement.RETRY else job.error
        return
    job.completed, job.result, job.error = now, outcome.result, outcome.error
    if job.status is Status.COMPLETE:
        job.progress = 1.0
        return
    if expired:
        job.started = 0
    if outcome.reason or outcome.error_type:
        job.meta = {**(job.meta or {}), ENDED: {"reason": outcome.reason, "error_type": outcome.error_type}}


def _remember(job: ClaimedJob, how: str, outcome: Outcome) -> None:
    remember(
        job,
        how,
        error=outcome.error,
        error_type=outcome.error_type,
        started=job.started,
        completed=job.touched,
        worker=job.worker_id,
    )
