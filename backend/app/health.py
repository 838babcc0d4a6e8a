"""Whether the app can work, for load balancers and process managers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final, Literal

from litestar import MediaType, Response, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.status_codes import HTTP_200_OK, HTTP_503_SERVICE_UNAVAILABLE
from msgspec import Struct
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from litestar_tasks import TaskQueues

__all__ = ("health",)

logger = logging.getLogger(__name__)

PATIENCE: Final = 2.0
"""Seconds after which what has not answered counts as unreachable."""


class Health(Struct):
    status: Literal["ok", "unavailable"]
    database: Literal["ok", "unreachable"]
    broker: Literal["ok", "unreachable"]


@get(
    "/health",
    tags=["Health"],
    summary="Is everything in reach?",
    responses={HTTP_503_SERVICE_UNAVAILABLE: ResponseSpec(Health, description="Database or broker is unreachable")},
)
async def health(
    db_session: NamedDependency[AsyncSession], task_queues: NamedDependency[TaskQueues]
) -> Response[Health]:
    database, broker = await asyncio.gather(
        _answers("database", db_session.execute(text("SELECT 1"))),
        _answers("broker", task_queues.get("default").count("queued")),
    )
    ok = database and broker
    return Response(
        Health(
            status="ok" if ok else "unavailable",
            database="ok" if database else "unreachable",
            broker="ok" if broker else "unreachable",
        ),
        status_code=HTTP_200_OK if ok else HTTP_503_SERVICE_UNAVAILABLE,
        media_type=MediaType.JSON,
    )


async def _answers(name: str, question: Coroutine[Any, Any, object]) -> bool:
    try:
        async with asyncio.timeout(PATIENCE):
            await question
    except Exception as error:
        # Whatever went wrong, and there are many ways, it cannot be reached.
        logger.warning("health: the %s is unreachable: %s: %s", name, type(error).__name__, error)
        return False
    return True
