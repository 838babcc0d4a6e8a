"""Workers at work, and what goes on beside them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from litestar_tasks.worker.worker import Worker

__all__ = ("running",)

logger = logging.getLogger("litestar_tasks")


@asynccontextmanager
async def running(
    workers: Sequence[Worker],
    beside: Callable[[], Coroutine[Any, Any, None]],
    *,
    name: str,
    ended: Callable[[], None],
) -> AsyncGenerator[list[asyncio.Task[None]], None]:
    """Let workers work within a block, and stop them at its end.

    The block gets the tasks of its parts, of which that of ``beside`` is the last one.

    Args:
        workers: The workers, not open yet.
        beside: What goes on beside them, and is cancelled first.
        name: What that is called in the log.
        ended: Called when a part ends by itself.
    """
    for worker in workers:
        await worker.open()
    parts = [asyncio.create_task(worker.start(), name=f"worker-{worker.queue.label}") for worker in workers]
    parts.append(asyncio.create_task(beside(), name=name))
    for part in parts:
        part.add_done_callback(_say_why)
        part.add_done_callback(lambda _: ended())
    try:
        yield parts
    finally:
        parts[-1].cancel()
        await asyncio.gather(*(worker.stop() for worker in workers))
        for part in parts:
            with suppress(asyncio.CancelledError, Exception):
                await part


def _say_why(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("%s ended: %s", task.get_name(), error, exc_info=error)
