"""What lives as long as a worker: the app, and the resources of ``TasksConfig(lifespan=[…])``."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from litestar_tasks.exceptions import ConfigurationError

if TYPE_CHECKING:
    from litestar import Litestar

    from litestar_tasks.config import WorkerLifespan

__all__ = ("entered", "unwrapped")

_RESERVED: Final = frozenset({"ctx", "exception", "job", "queue", "worker"})
"""What a task's context holds already, or is."""


@asynccontextmanager
async def entered(app: Litestar, lifespans: Sequence[WorkerLifespan]) -> AsyncGenerator[dict[str, object], None]:
    """Enter these lifespans in order, and leave them in the reverse one when the block ends.

    The block gets all of their resources by name.

    Raises:
        ConfigurationError: One yields something other than resources by name, or a name that cannot be injected or
            that another one yields as well. Those that were entered are left.
    """
    resources: dict[str, object] = {}
    homes: dict[str, str] = {}
    async with AsyncExitStack() as stack:
        for lifespan in lifespans:
            name = getattr(lifespan, "__qualname__", repr(lifespan))
            found: object = await stack.enter_async_context(_manager(lifespan(app), name))
            for resource, value in _checked(found, name).items():
                if resource in homes:
                    raise ConfigurationError(
                        f"lifespans {homes[resource]!r} and {name!r} both yield {resource!r}; rename one of them"
                    )
                homes[resource], resources[resource] = name, value
        yield resources


@asynccontextmanager
async def unwrapped(app: Litestar) -> AsyncGenerator[None, None]:
    """The app's lifespan, with the error that ended it as it was raised: Litestar's task group wraps it in a group."""
    try:
        async with app.lifespan():
            yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise


def _manager(made: object, name: str) -> AbstractAsyncContextManager[object]:
    if isinstance(made, AbstractAsyncContextManager):
        manager: AbstractAsyncContextManager[object] = made
        return manager
    if inspect.isasyncgen(made):
        generator: Any = made
        return asynccontextmanager(lambda: generator)()
    if inspect.iscoroutine(made):
        made.close()
    raise ConfigurationError(
        f"lifespan {name!r} returns a {type(made).__name__}; let it be an async function that yields once: "
        "yield {'http_client': client}"
    )


def _checked(found: object, name: str) -> Mapping[str, object]:
    if not isinstance(found, Mapping):
        raise ConfigurationError(
            f"lifespan {name!r} yields {found!r}; let it yield its resources by name, such as "
            "{'http_client': client}, or {} if it has none"
        )
    resources: Mapping[object, object] = found
    for resource in resources:
        if not isinstance(resource, str) or not resource.isidentifier() or keyword.iskeyword(resource):
            raise ConfigurationError(
                f"lifespan {name!r} yields {resource!r}, which cannot be the name of a parameter; use a name such as "
                "'http_client'"
            )
        if resource in _RESERVED:
            raise ConfigurationError(
                f"lifespan {name!r} yields {resource!r}, which a task's context has already; use another name"
            )
    return {str(resource): value for resource, value in resources.items()}
