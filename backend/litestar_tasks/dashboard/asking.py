"""Asking a queue: within a deadline, and with errors that say no more than people should read."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from litestar.exceptions import HTTPException, NotFoundException, ServiceUnavailableException
from redis.exceptions import RedisError

from litestar_tasks.dashboard.redaction import printable
from litestar_tasks.exceptions import TasksError
from litestar_tasks.redaction import masked_text

if TYPE_CHECKING:
    from saq.job import Job

    from litestar_tasks.queues.base import TaskQueue

__all__ = ("asking", "find_job")

logger = logging.getLogger("litestar_tasks.dashboard")

_DEADLINE: Final = 5.0


@asynccontextmanager
async def asking(found: TaskQueue) -> AsyncGenerator[None, None]:
    """Bounds what a queue is asked within, and says what went wrong without saying more than that.

    Raises:
        ServiceUnavailableException: The broker did not answer.
        HTTPException: Status 500, for any other failure; the log has it.
    """
    try:
        async with asyncio.timeout(_DEADLINE):
            yield
    except HTTPException:
        raise
    except (TasksError, RedisError, OSError, TimeoutError) as error:
        # The queue itself logs outages, once for each.
        raise ServiceUnavailableException(
            f"Queue {found.label!r} did not answer. Is the broker running? The server's log says more."
        ) from error
    except Exception as error:
        logger.error("queue %r: %s", found.label, masked_text("".join(traceback.format_exception(error))))
        raise HTTPException(
            f"Queue {found.label!r} could not be read. The server's log says why.", status_code=500
        ) from error


async def find_job(found: TaskQueue, key: str) -> Job:
    """The record of a job, by its key or by its id.

    Raises:
        NotFoundException: There is none.
    """
    async with asking(found):
        record = await found.job(key)
        prefix = found.job_id("")
        if record is None and prefix and key.startswith(prefix):
            record = await found.job(key.removeprefix(prefix))
    if record is None:
        raise NotFoundException(
            f"Queue {found.label!r} has no job {printable(key)!r}: it never existed or its record has expired."
        )
    return record
