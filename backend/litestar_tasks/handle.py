"""An enqueued call as its caller sees it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol

from saq.job import TERMINAL_STATUSES, Status
from typing_extensions import TypeVar

from litestar_tasks.exceptions import (
    JobAbortedError,
    JobDiscardedError,
    JobError,
    JobFailedError,
    JobNotFoundError,
)
from litestar_tasks.job import ENDED, LOG, Event, JobOutcome, JobQueue, JobStatus, LogLine
from litestar_tasks.moments import maybe_moment, moment_of

if TYPE_CHECKING:
    from saq.job import Job

__all__ = ("CAPACITY", "Capacity", "JobHandle")

R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

_DISCARDED: Final = ("discarded", "expired")


class Capacity(Protocol):
    """The place that a running attempt takes in its worker."""

    group: str | None
    """The group of which its job runs alone; None where it is in none."""

    def is_of_queue(self, job_id: str) -> bool:
        """Whether a job is one of the worker's own queue."""
        ...

    def away(self, job_id: str) -> AbstractAsyncContextManager[None]:
        """Leave the place to others within a block, in which this job is waited for.

        Raises:
            JobError: That could last for ever.
        """
        ...


CAPACITY: Final[ContextVar[Capacity | None]] = ContextVar("capacity", default=None)
"""The place of the attempt that runs here; None outside of workers."""


class JobHandle(Generic[R_co]):
    """A job as its caller sees it: what it is doing now, and how it ends.

    A handle is cheap and holds no state of the job: each method asks the broker.

    Attributes:
        id: The job's id, the same string as SAQ's ``Job.id``. It can be stored, sent to a browser, and
            turned into a handle again with ``registry.job(id)`` or ``my_task.job(id)``.
        deduplicated: Whether this enqueue made no job of its own, because it found one: under the same key, or by
            ``unique``, ``debounce`` or ``throttle``.
    """

    __slots__ = ("_decode", "_key", "_queue", "deduplicated", "id")

    def __init__(
        self,
        queue: JobQueue,
        key: str,
        *,
        decode: Callable[[Any], R_co] | None = None,
        deduplicated: bool = False,
    ) -> None:
        self._queue = queue
        self._key = key
        self._decode = decode
        self.id = queue.job_id(key)
        self.deduplicated = deduplicated

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    async def status(self) -> JobStatus:
        """Where the job stands.

        Raises:
            JobNotFoundError: It never existed, or its record has expired.
            QueueUnavailableError: The broker did not answer.
        """
        status = await self._queue.status(self._key)
        if status is None:
            raise JobNotFoundError(self.id)
        return status

    async def result(self, *, timeout: float | None = None) -> R_co:
        """Wait until the job ends, and return what the task returned.

        Args:
            timeout: Seconds to wait; 0 looks once. The job itself is not touched when they are over.
                Defaults to None: as long as it takes.

        Raises:
            TimeoutError: The job had not ended in time.
            JobFailedError: It failed; carries the worker's traceback.
            JobDiscardedError: Its task found it pointless, or it expired before it started.
            JobAbortedError: It was aborted.
            JobNotFoundError: It never existed, or its record has expired.
        """
        job = await self._ended(timeout)
        if job.status is Status.FAILED:
            raise JobFailedError(
                self.id, job.error or "no error was recorded", error_type=_how_it_ended(job).get("error_type")
            )
        if job.status is Status.ABORTED:
            kind = JobDiscardedError if _how_it_ended(job).get("reason") in _DISCARDED else JobAbortedError
            raise kind(self.id, job.error or "no reason was recorded")
        return self._result_of(job)

    async def outcome(self, *, timeout: float | None = None) -> JobOutcome[R_co]:
        """Wait until the job ends, and say how, whether it succeeded or not.

        Args:
            timeout: Seconds to wait; 0 looks once. Defaults to None: as long as it takes.

        Raises:
            TimeoutError: The job had not ended in time.
            JobNotFoundError: It never existed, or its record has expired.
            JobError: It is complete, and its result does not fit the return annotation of this release.
        """
        job = await self._ended(timeout)
        how = _how_it_ended(job)
        complete = job.status is Status.COMPLETE
        return JobOutcome(
            id=self.id,
            status=job.status.value,  # type: ignore[arg-type]  # a job that has ended has one of the three
            result=self._result_of(job) if complete else None,
            error=None if complete else job.error,
            error_type=how.get("error_type"),
            reason=how.get("reason"),
            started=maybe_moment(job.started),
            ended=maybe_moment(job.completed),
            attempts=job.attempts,
            queue=getattr(job.queue, "label", ""),
            worker=job.worker_id,
        )

    async def progress(self) -> float:
        """How far the task says it has come, from 0.0 to 1.0.

        Raises:
            JobNotFoundError: It never existed, or its record has expired.
            QueueUnavailableError: The broker did not answer.
        """
        return (await self._record()).progress

    async def logs(self) -> list[LogLine]:
        """What the job has said by ``CurrentJob.log``: the last 100 lines, the oldest first.

        Raises:
            JobNotFoundError: It never existed, or its record has expired.
            QueueUnavailableError: The broker did not answer.
        """
        return [
            LogLine(at=moment_of(line["at"]), text=line["text"])
            for line in ((await self._record()).meta or {}).get(LOG, ())
        ]

    async def events(self) -> AsyncGenerator[Event, None]:
        """How the job stands now, and then each change of its status, progress or message, until it has ended.

        ::

            async for event in job.events():
                print(event.status, event.progress, event.message)

        It is no record: of changes that follow each other at once, only the last one may be seen. The end always is.
        An outage of the broker is waited for.

        Raises:
            JobNotFoundError: It never existed, or its record has expired.
            JobError: Waiting here could last for ever; see ``result``.
        """
        seen: Event | None = None
        while seen is None or not seen.ended:
            seen = await self._away(self._queue.change(self._key, seen))
            if seen is None:
                raise JobNotFoundError(self.id)
            yield seen

    async def abort(self, reason: str = "aborted by its caller") -> bool:
        """End the job: one that waits is never started, one that runs is cancelled.

        Args:
            reason: Kept with the job. Defaults to a sentence that says the caller did it.

        Returns:
            Whether it will end as aborted; False for a job that has ended already, which stays as it is.

        Raises:
            QueueUnavailableError: The broker did not answer.
        """
        return await self._queue.cancel(self._key, reason)

    async def _record(self) -> Job:
        job = await self._queue.job(self._key)
        if job is None:
            raise JobNotFoundError(self.id)
        return job

    async def _ended(self, timeout: float | None) -> Job:
        waiting = self._queue.wait(self._key, timeout)
        job = await (waiting if timeout == 0 else self._away(waiting))
        if job is None:
            raise JobNotFoundError(self.id)
        return job

    def _result_of(self, job: Job) -> R_co:
        if self._decode is None:
            return job.result  # type: ignore[no-any-return]  # SAQ types a result as Any
        try:
            return self._decode(job.result)
        except (TypeError, ValueError) as error:
            raise JobError(
                self.id, f"the result of job {self.id!r} does not fit the task's return annotation: {error}"
            ) from error

    async def _refuse_own_group(self, group: str) -> None:
        job = await self._queue.job(self._key)
        if job is not None and job.group_key == group and job.status not in TERMINAL_STATUSES:
            raise JobError(
                self.id,
                f"job {self.id!r} is of those of which one runs at a time, and so is the task that waits for it: it "
                "could never start. Do not wait for it, or let exclusive tell the two apart by an argument",
            )

    async def _away(self, waiting: Coroutine[Any, Any, T]) -> T:
        """Wait, and in a worker leave one's place to others meanwhile: to the very job, perhaps."""
        capacity = CAPACITY.get()
        if capacity is None:
            return await waiting
        try:
            if capacity.group is not None and capacity.is_of_queue(self.id):
                await self._refuse_own_group(capacity.group)
            async with capacity.away(self.id):
                return await waiting
        finally:
            waiting.close()  # where it was refused, it has not begun


def _how_it_ended(job: Job) -> dict[str, Any]:
    """What ``meta`` says of the end; of a record that somebody else wrote, what can be read as such."""
    how = job.meta.get(ENDED) if job.meta else None
    return how if isinstance(how, dict) else {}
