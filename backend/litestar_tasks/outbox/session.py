"""Database sessions for tasks, from the app's Advanced Alchemy plugin."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from advanced_alchemy.extensions.litestar import SQLAlchemyAsyncConfig
    from litestar import Litestar
    from sqlalchemy.ext.asyncio import AsyncSession

__all__ = ("session_configs", "session_providers")

SessionProvider = Callable[[], AbstractAsyncContextManager[object]]


def session_providers(app: Litestar) -> dict[str, SessionProvider]:
    """How to open a session for a task, by the name under which the app injects it into routes.

    The provider that Advanced Alchemy registers for routes needs a request, and closes its session with the response.
    These open one per attempt instead.
    """
    return {name: partial(_session, config) for name, config in session_configs(app.plugins).items()}


def session_configs(plugins: Iterable[object]) -> dict[str, SQLAlchemyAsyncConfig]:
    """Advanced Alchemy's configurations among an app's plugins, by the name under which they inject sessions."""
    if "advanced_alchemy.extensions.litestar" not in sys.modules:
        return {}  # an app that never imported it has no such plugin, and should not pay for the import
    from advanced_alchemy.extensions.litestar import SQLAlchemyAsyncConfig, SQLAlchemyInitPlugin, SQLAlchemyPlugin

    found: dict[str, SQLAlchemyAsyncConfig] = {}
    for plugin in plugins:
        if isinstance(plugin, SQLAlchemyPlugin | SQLAlchemyInitPlugin):
            for config in plugin.config if isinstance(plugin.config, list | tuple) else [plugin.config]:
                if isinstance(config, SQLAlchemyAsyncConfig):
                    found[config.session_dependency_key] = config
    return found


@asynccontextmanager
async def _session(config: SQLAlchemyAsyncConfig) -> AsyncGenerator[AsyncSession, None]:
    """A session of its own: committed when the attempt succeeds, rolled back when it does not."""
    async with config.get_session() as session:
        try:
            yield session
        except BaseException:
            await session.rollback()
            raise
        await session.commit()
