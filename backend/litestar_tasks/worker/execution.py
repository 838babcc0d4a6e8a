"""One attempt: from a claimed record to what is to become of it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from litestar_tasks.correlation import CORRELATION, correlation_id
from litestar_tasks.current import CurrentJob
from litestar_tasks.exceptions import ConfigurationError, PayloadError
from litestar_tasks.middleware import Middleware, call_through
from litestar_tasks.queues.base import ClaimedJob, Settlement, TaskQueue
from litestar_tasks.redaction import HIDDEN, masked_end, masked_start, masked_text, spellings
from litestar_tasks.retry import DEFAULT_BACKOFF, Discard, Retry, Snooze, holds, pause_after, restored_backoff
from litestar_tasks.worker.deadlines import Deadlines
from litestar_tasks.worker.ordinary import ordinary
from litestar_tasks.worker.pool import UnstorableResultError

if TYPE_CHECKING:
    from saq.types import Context

    from litestar_tasks.registry import Registry
    from litestar_tasks.task import AnyTask
    from litestar_tasks.worker.dependencies import Dependencies
    from litestar_tasks.worker.pool import ProcessPool

__all__ = ("Execution", "Outcome")

logger = logging.getLogger("litestar_tasks.worker")

UNKNOWN_TASK_GRACE: Final = 300.0
"""Seconds for which a job of a task that this worker does not know is put back: during a deploy it is a newer
release's, whose workers are on their way."""
_UNKNOWN_TASK_DELAY: Final = 5.0
_SAID_EVERY: Final = 60.0
"""Seconds between two warnings of one unknown task, of which thousands of jobs may wait."""
_ERROR: Final = 20_000
"""Characters of a traceback that are kept."""
_LINE: Final = 500
"""Characters of an error in one line of the log."""


@dataclass(slots=True)
class Outcome:
    """How an attempt ended. Not frozen, as one is made for every attempt, and a frozen one takes longer to make."""

    settlement: Settlement
    result: Any = None
    """The result in JSON's own types."""
    error: str | None = None
    """The traceback, or a sentence."""
    delay: float = 0.0
    """Seconds until the job is ready again, where it goes back."""
    error_type: str | None = None
    """The name of the class of what the attempt raised."""
    reason: str | None = None
    """What ended the job other than an error or an abort: "discarded", "expired", "result"."""


class Execution:
    """Runs attempts of the tasks of one registry.

    The pipeline: find the task, decode its payload, resolve its dependencies, call it within its time, close the
    dependencies, encode the result; whatever is raised on the way becomes an outcome.

    Args:
        registry: The tasks.
        dependencies: What the tasks need beside their payload.
        threads: Where sync tasks run.
        processes: Where those run that have ``executor="process"``.
        middleware: What wraps every attempt, before that of the registry and the task. Defaults to none.
    """

    def __init__(
        self,
        registry: Registry,
        dependencies: Dependencies,
        threads: Executor,
        processes: ProcessPool,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        self._registry = registry
        self._middleware = tuple(middleware)
        self._dependencies = dependencies
        self._threads = threads
        self._processes = processes
        self._deadlines = Deadlines()
        self._process = os.getpid()
        self._said: dict[str, float] = {}
        """When it was last warned of an unknown task, by its name."""
        self.in_thread: set[int] = set()
        """Tokens of the jobs whose function is running in a thread, which nothing can stop."""

    async def run(self, queue: TaskQueue, job: ClaimedJob, context: Context) -> Outcome:
        """Run one attempt.

        Args:
            queue: The queue that the job was claimed from.
            job: The claimed job.
            context: The worker's context, which the task gets, with its queue and job, if it asks for it.

        Raises:
            asyncio.CancelledError: The attempt was cancelled from outside, and its clean-up has run.
        """
        if job.meta and (expired := _expired(job)) is not None:
            return expired
        task = self._registry.find_task(job.function)
        if task is None:
            return self._unknown_task(job)
        # For this attempt alone: it has an asyncio task, and so a context, of its own.
        correlation_id.set(job.meta.get(CORRELATION) if job.meta else None)
        try:
            args, kwargs = task.payload.decode(_readable(task, job) if task.payload.secrets else job.kwargs)
        except (PayloadError, ConfigurationError) as error:
            return Outcome(Settlement.QUARANTINED, error=str(error))
        except Exception as error:  # a payload's own classes may run code, which may raise anything
            return _undecodable(task, job, error)
        if task.takes_context:
            args.insert(0, cast("Context", {**context, "queue": queue, "job": job}))
        chain = self._middleware + task.middleware
        current = CurrentJob(queue, job) if chain or task.job_parameters else None
        job.untouched = current is None and not task.takes_context
        for name in task.job_parameters:
            kwargs[name] = current
        try:
            if chain and current is not None:
                value = await call_through(chain, current, lambda: self._supplied(task, job, args, kwargs))
            elif self._dependencies.needs(task):
                value = await self._supplied(task, job, args, kwargs)
            else:
                value = await self._call(task, job, args, kwargs)
        except UnstorableResultError as error:
            return _unstorable(task, job, error)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # whatever a task raises is its outcome
            return _raised(task, job, ordinary(error))
        finally:
            if current is not None:
                await current.close()
        try:
            return Outcome(Settlement.COMPLETE, result=task.result.encode(value))
        except Exception as error:  # a result's own classes may run code, which may raise anything
            return _unstorable(task, job, error)

    def _unknown_task(self, job: ClaimedJob) -> Outcome:
        if job.now() - job.queued >= UNKNOWN_TASK_GRACE * 1000:
            self._said.pop(job.function, None)
            return Outcome(
                Settlement.QUARANTINED,
                error=f"unknown_task: no worker knew a task {job.function!r} for {UNKNOWN_TASK_GRACE:g} s; "
                "was it renamed or removed?",
            )
        now = time.monotonic()
        if now - self._said.get(job.function, -_SAID_EVERY) >= _SAID_EVERY:
            self._said[job.function] = now
            logger.warning(
                "no task %r is registered here; its jobs are put back for %g s, until they are %g s old, as a newer "
                "release may know it (job %s)",
                job.function,
                _UNKNOWN_TASK_DELAY,
                UNKNOWN_TASK_GRACE,
                job.id,
            )
        return Outcome(Settlement.SNOOZE, delay=_UNKNOWN_TASK_DELAY)

    async def _supplied(self, task: AnyTask, job: ClaimedJob, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if not self._dependencies.needs(task):
            return await self._call(task, job, args, kwargs)
        job.untouched = False  # a provider may have had it
        async with self._dependencies.resolve(task) as injected:
            return await self._call(task, job, args, {**kwargs, **injected})

    async def _call(self, task: AnyTask, job: ClaimedJob, args: list[Any], kwargs: dict[str, Any]) -> Any:
        limit = job.timeout or None
        if task.executor == "thread":
            return await self._call_in_thread(task, job, args, kwargs, limit)
        try:
            if limit is None:
                if task.executor == "process":
                    return task.result.decode(await self._processes.run(task, job.kwargs, nullcontext()))
                value = await task.fn(*args, **kwargs)
            else:
                scope = self._deadlines.limit(limit)
                try:
                    if task.executor == "process":
                        return task.result.decode(await self._processes.run(task, job.kwargs, scope))
                    with scope:
                        value = await task.fn(*args, **kwargs)
                except TimeoutError as error:
                    if not scope.expired:
                        raise  # one of the task's own
                    raise TimeoutError(f"task {task.name!r} exceeded its timeout of {job.timeout:g} s") from error
        except BaseException as error:
            self._end_fork(error)
            raise
        self._end_fork()
        return value

    def _end_fork(self, error: BaseException | None = None) -> None:
        """End this process, if the task has forked and this is the child.

        It would go on as a second worker, over the connections of the first one, and both would read what the other was
        answered.
        """
        if os.getpid() == self._process:
            return
        code = 0 if error is None else 1
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else code
        elif error is not None:
            traceback.print_exception(error)
        os._exit(code)

    async def _call_in_thread(
        self, task: AnyTask, job: ClaimedJob, args: list[Any], kwargs: dict[str, Any], limit: float | None
    ) -> Any:
        """Run a sync function in a thread, which can be waited for but not stopped.

        The attempt lasts until the thread is done, whatever happens meanwhile: a job that was given up earlier could
        be run a second time beside itself.
        """
        loop = asyncio.get_running_loop()
        started = asyncio.Event()

        def call() -> Any:
            loop.call_soon_threadsafe(started.set)
            try:
                value = task.fn(*args, **kwargs)
            except BaseException as error:
                self._end_fork(error)
                if isinstance(error, StopIteration):  # as a coroutine does: before Python 3.12 no future can hold it
                    raise RuntimeError("the task raised StopIteration") from error
                raise
            self._end_fork()
            return value

        self.in_thread.add(job.token)
        running = loop.run_in_executor(self._threads, contextvars.copy_context().run, call)
        try:
            # The clock starts with the function, not in the pool's queue.
            await _whichever_first(started.wait(), running)
            done, _ = await asyncio.wait({running}, timeout=limit)
            if not done:
                logger.warning(
                    "task %r exceeded its timeout of %g s and runs on in its thread, which cannot be stopped; its "
                    "slot is free when it ends (job %s)",
                    task.name,
                    job.timeout,
                    job.id,
                )
                await asyncio.wait({running})
                raise TimeoutError(
                    f"task {task.name!r} exceeded its timeout of {job.timeout:g} s, and ran on in its thread"
                )
            return running.result()
        except asyncio.CancelledError:
            if not running.cancel():
                await _settled(running)
            raise
        finally:
            self.in_thread.discard(job.token)


def _readable(task: AnyTask, job: ClaimedJob) -> Mapping[str, Any]:
    """The payload with its secrets decrypted, which nothing shows that is written of this attempt."""
    opened = task.opened(job.kwargs)
    if (secrets := task.payload.secrets) is not None:
        HIDDEN.set(spellings(secrets.texts(opened)))
    return opened


def _unstorable(task: AnyTask, job: ClaimedJob, error: Exception) -> Outcome:
    # The work is done: to run it again would do it twice.
    told = isinstance(error, (TypeError, ValueError, RecursionError, ConfigurationError))
    problem = masked_end(task.result.problem(error), _ERROR) if told else _line(error)
    text = f"result: task {task.name!r} ran, but its result cannot be stored: {problem}"
    logger.error("%s (job %s)", text, job.id)
    return Outcome(Settlement.FAILED, error=text, reason="result")


def _undecodable(task: AnyTask, job: ClaimedJob, error: Exception) -> Outcome:
    text = f"task {task.name!r}: the stored payload cannot be decoded: {_line(error)}"
    logger.error("%s (job %s)\n%s", text, job.id, _traceback(error).rstrip())
    return Outcome(Settlement.QUARANTINED, error=text)


def _expired(job: ClaimedJob) -> Outcome | None:
    expires = job.meta.get("expires")
    if job.attempts or not isinstance(expires, int | float) or (late := job.now() / 1000 - expires) < 0:
        return None
    logger.warning("task %r was not started: its job expired %.1f s ago (job %s)", job.function, late, job.id)
    return Outcome(
        Settlement.ABORTED,
        error=f"expired: a worker came to it {late:.1f} s after the time in which its option expires lets it start",
        reason="expired",
    )


def _raised(task: AnyTask, job: ClaimedJob, error: Exception) -> Outcome:
    """What an exception means for the job: what the task says itself, or its options."""
    if isinstance(error, Snooze):
        pause = error.pause or 0.0
        logger.info("task %r snoozed for %.1f s (job %s)%s", task.name, pause, job.id, _because(error.reason))
        return Outcome(Settlement.SNOOZE, error=masked_text(error.reason) or None, delay=pause, error_type="Snooze")
    if isinstance(error, Discard):
        return _discarded(task, job, error, masked_end(error.reason, _ERROR) or "its task gave no reason")
    if not isinstance(error, Retry):
        if _is_one_of("discard_on", task, job, error):
            return _discarded(task, job, error, _line(error))
        if not _is_one_of("retry_on", task, job, error):
            return _failed(task, job, error, "its retry_on does not hold that exception")
    attempt = job.attempts + 1
    if attempt >= job.retries:
        return _failed(task, job, error, "no attempt is left")
    delay = error.pause if isinstance(error, Retry) else None
    if delay is None:
        delay = _pause(task, job, attempt)
    logger.warning(
        "task %r failed, attempt %d of %d; again in %.1f s (job %s): %s",
        task.name,
        attempt,
        job.retries,
        delay,
        job.id,
        _line(error),
    )
    return Outcome(Settlement.RETRY, error=_traceback(error), delay=delay, error_type=type(error).__name__)


def _is_one_of(option: str, task: AnyTask, job: ClaimedJob, error: Exception) -> bool:
    """Whether an option of the call, or else of the task, holds an exception."""
    names = job.meta.get(option) if job.meta else None
    return holds(names, error) if isinstance(names, list) else isinstance(error, task.option(option))


def _failed(task: AnyTask, job: ClaimedJob, error: Exception, why: str) -> Outcome:
    text = _traceback(error)
    attempt = job.attempts + 1
    if isinstance(error, Retry):
        text += f"task {task.name!r} asked for a retry, and {why}: this was attempt {attempt} of {job.retries}"
    logger.error(
        # Not as exc_info, which a handler would write without masking it.
        "task %r failed, attempt %d of %d; %s (job %s)\n%s",
        task.name,
        attempt,
        job.retries,
        why,
        job.id,
        text.rstrip(),
    )
    return Outcome(Settlement.FAILED, error=text, error_type=type(error).__name__)


def _discarded(task: AnyTask, job: ClaimedJob, error: Exception, reason: str) -> Outcome:
    logger.info("task %r discarded its job (job %s): %s", task.name, job.id, reason)
    return Outcome(Settlement.ABORTED, error=reason, error_type=type(error).__name__, reason="discarded")


def _pause(task: AnyTask, job: ClaimedJob, attempt: int) -> float:
    try:
        stored = job.meta.get("backoff") if job.meta else None
        return pause_after(attempt, task.option("backoff") if stored is None else restored_backoff(stored))
    except Exception as error:  # a policy that cannot be asked must not cost the job
        logger.error(
            "task %r: its backoff is of no use after attempt %d; the default one is taken (job %s)\n%s",
            task.name,
            attempt,
            job.id,
            _traceback(error).rstrip(),
        )
        return pause_after(attempt, DEFAULT_BACKOFF)


def _traceback(error: Exception) -> str:
    return masked_end("".join(traceback.format_exception(error)), _ERROR)


def _line(error: Exception) -> str:
    # Not str(error), which is the task's code and may raise.
    return masked_start(traceback.format_exception_only(error)[0].strip(), _LINE)


def _because(reason: str) -> str:
    return f": {masked_start(reason, _LINE)}" if reason else ""


async def _whichever_first(*waits: Any) -> None:
    futures = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not futures[0].done():
            futures[0].cancel()


async def _settled(future: asyncio.Future[Any]) -> None:
    """Wait for a future that nothing can cancel, through further cancellations of the waiter."""
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError:
            continue
    if not future.cancelled():
        future.exception()
