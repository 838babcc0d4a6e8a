"""Connections that find out by themselves where to go, each time they are made, and notice when they are wrong there.

redis-py's own for Sentinel and for clusters belong to pools and clients that repeat commands. These serve wherever a
plain connection does.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from redis.asyncio.connection import Connection, SSLConnection
from redis.exceptions import NoPermissionError, ResponseError

from litestar_tasks.queues.redis.routes import MisdirectedError

if TYPE_CHECKING:
    from litestar_tasks.queues.redis.routes import Route

__all__ = ("RoutedConnection", "RoutedSSLConnection")

_NO_MASTER: Final = "it is no master (yet)"
_THREADS: Final = ThreadPoolExecutor(4, thread_name_prefix="redis-route")
"""Not those of the loop, which the application needs: hosts that are gone keep these waiting."""


class RoutedConnection(Connection):
    """A connection to whichever server a route leads to.

    Args:
        route: The route.
        settings: redis-py's options.
    """

    def __init__(self, *, route: Route, **settings: Any) -> None:
        super().__init__(**settings)
        self._route = route

    async def connect(self) -> None:
        """Connect, unless it is connected.

        Raises:
            MisdirectedError: The server that was found is no master.
            RedisError: None was found, or it could not be connected to.
        """
        if self.is_connected:
            return
        self.host, self.port = await asyncio.get_running_loop().run_in_executor(_THREADS, self._route.find)
        await super().connect()  # type: ignore[no-untyped-call]  # redis-py's
        if self._route.checks_role:
            await self.send_command("ROLE", check_health=False)
            try:
                role: Any = await self.read_response()
            except NoPermissionError:
                return  # its first refusal of a write will tell
            if role[0] != b"master":
                await self.disconnect(nowait=True)
                raise MisdirectedError(_NO_MASTER)

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """Read an answer; with one that only a wrong server gives, the connection ends."""
        try:
            return await super().read_response(*args, **kwargs)
        except ResponseError as error:
            if not (refusal := self._route.refusal(error)):
                raise
        await self.disconnect(nowait=True)
        raise MisdirectedError(refusal)


class RoutedSSLConnection(RoutedConnection, SSLConnection):
    """The same with TLS."""
