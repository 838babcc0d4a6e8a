"""Code of yours around every attempt and every enqueue."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from litestar_tasks.current import CurrentJob
from litestar_tasks.job import JobSpec

__all__ = ("CallNext", "EnqueueHook", "Middleware", "call_through")

CallNext: TypeAlias = Callable[[], Awaitable[Any]]
"""Runs the rest of an attempt, and returns what the task returns or raises what it raises."""

Middleware: TypeAlias = Callable[[CurrentJob, CallNext], Awaitable[Any]]
"""``async def (job, call_next)``: wraps an attempt from before its dependencies are made until after they are closed.

What it returns is the result; what it raises is the attempt's error. It gets the task's exceptions, and
``asyncio.CancelledError`` where the attempt is aborted or stopped. The task's timeout does not count its own time.
"""

EnqueueHook: TypeAlias = Callable[[JobSpec], None]
"""Sees each call before it is stored. It may change the spec, as by ``spec.meta = {**spec.meta, "who": "me"}``, which
travels with the job; what it raises, the caller gets, and nothing is stored. It must not wait: it is called on the
event loop."""


async def call_through(chain: tuple[Middleware, ...], job: CurrentJob, innermost: CallNext) -> Any:
    """Call ``innermost`` through middleware, the first of it outermost."""
    call_next = innermost
    for middleware in reversed(chain):
        call_next = _bound(middleware, job, call_next)
    return await call_next()


def _bound(middleware: Middleware, job: CurrentJob, call_next: CallNext) -> CallNext:
    return lambda: middleware(job, call_next)
