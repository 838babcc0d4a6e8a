"""What SAQ's tools, and code that was written for SAQ, ask of a queue: the same on every broker."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import Any, Final

from saq.job import TERMINAL_STATUSES, Job, Status
from saq.utils import now, uuid1

from litestar_tasks.exceptions import BrokerError
from litestar_tasks.queues import records
from litestar_tasks.queues.base import FIELDS, ClaimedJob, Settlement, TaskQueue, WorkerHooks
from litestar_tasks.queues.operated import Operated

__all__ = ("CompatibleQueue",)

_FIXED: Final = frozenset({"function", "key", "queue", "status", "worker_id"})
"""Fields of a job that ``update`` leaves as they are."""


class CompatibleQueue(Operated, TaskQueue):
    """SAQ's way of working, by way of ours."""

    _opening: asyncio.Lock

    def job_id(self, job_key: str) -> str:
        """The id of a job, in the form that SAQ gives it on Redis."""
        return f"saq:job:{self.name}:{job_key}"

    async def _enqueue(self, job: Job) -> Job | None:
        submission = await self.store(job)
        return None if submission.deduplicated else submission.job

    async def wait(self, key: str, timeout: float | None) -> Job | None:
        """See ``TaskQueue.wait``."""
        try:
            async with asyncio.timeout(timeout or None):
                if timeout == 0:
                    job = await self.job(key)
                    if job is None or job.status in TERMINAL_STATUSES:
                        return job
                    raise TimeoutError
                return await self._wait(key)
        except TimeoutError:
            raise TimeoutError(f"job {self.job_id(key)!r} had not ended after {timeout or 0:g} s") from None

    @abstractmethod
    async def _wait(self, key: str) -> Job | None:
        """Wait for a job's end, as long as it takes, and return its record; None where there is none."""

    async def update(self, job: Job, **kwargs: Any) -> None:
        """Change fields of a job that has not ended; never its state.

        For a job that runs here all of its fields are written, unless its claim was lost; for another one only those
        that are given.
        """
        job.touched = now()
        fields = {name: value for name, value in kwargs.items() if name in FIELDS and name not in _FIXED}
        for name, value in fields.items():
            setattr(job, name, value)
        if (held := self._held(job)) is not None:
            await self._rewrite(held)
        else:
            await self._patch(job.key, {**fields, "touched": job.touched})

    @abstractmethod
    def _held(self, job: Job) -> ClaimedJob | None:
        """The job, if it is claimed here."""

    @abstractmethod
    async def _rewrite(self, job: ClaimedJob) -> None:
        """Write the fields of a job that is claimed here as they are now."""

    @abstractmethod
    async def _patch(self, key: str, fields: dict[str, Any]) -> None:
        """Write some fields of a job that has not ended."""

    async def _update(self, job: Job, status: Status | None = None, **kwargs: Any) -> None:
        """Never called: ``update`` is our own."""

    async def dequeue(self, timeout: float = 0.0, poll_interval: float = 0.0) -> Job | None:
        """Claim one job, waiting for it. The first call opens the queue.

        Args:
            timeout: Seconds to wait. Defaults to 0: for ever.
            poll_interval: SAQ's; ignored.
        """
        async with self._opening:
            if not self._is_open():
                await self.open(uuid1(), WorkerHooks(abort=lambda *_: None, lost=lambda _: None))
        try:
            async with asyncio.timeout(timeout or None):
                while True:
                    try:
                        if claimed := await self._claim_one():
                            return claimed[0]
                    except BrokerError:
                        pass  # said and paced already
        except TimeoutError:
            return None

    @abstractmethod
    def _is_open(self) -> bool:
        """Whether a worker works on it."""

    async def _claim_one(self) -> list[ClaimedJob]:
        return await self.claim(1)

    async def _finish(self, job: Job, status: Status, *, result: Any = None, error: str | None = None) -> None:
        if (held := self._held(job)) is not None:
            await self.settle(held, Settlement(status.value))
        elif status is Status.ABORTED:
            await self.cancel(job.key, error or "aborted")
        else:
            raise ValueError(f"job {job.id!r} is not claimed here; only the worker that runs it can finish it")

    async def _retry(self, job: Job, error: str | None) -> None:
        if (held := self._held(job)) is not None:
            await self.settle(held, Settlement.RETRY, delay=job.next_retry_delay())
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
