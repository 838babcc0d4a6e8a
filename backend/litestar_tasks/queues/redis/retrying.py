"""A connection for who does not wait for an outage to end: operators, and those who look at schedules."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from redis.exceptions import RedisError, ResponseError

from litestar_tasks.exceptions import QueueUnavailableError
from litestar_tasks.queues.redis.connection import never_sent
from litestar_tasks.queues.redis.reasons import reason_of

if TYPE_CHECKING:
    from litestar_tasks.queues.redis.connection import Endpoint, Link
    from litestar_tasks.queues.redis.layout import Layout
    from litestar_tasks.queues.redis.lua import Script

__all__ = ("RetryingLink",)

AnswerT = TypeVar("AnswerT")


class RetryingLink:
    """A connection of its own, which is asked once more if it was a dead one.

    Each method takes ``again``: whether that does no harm where the first question may have arrived, too.

    Args:
        label: The queue's name, for errors.
        endpoint: The server.
        layout: The queue's keys.
    """

    def __init__(self, label: str, endpoint: Endpoint, layout: Layout) -> None:
        self._label = label
        self._layout = layout
        self._link = endpoint.link()

    async def run(self, script: Script, *args: bytes | str | float, again: bool = False) -> Any:
        """What a script answers.

        Raises:
            QueueUnavailableError: The server did not answer.
        """
        return await self.ask(lambda link: script.run(link, self._layout, args), again=again)

    async def call(self, *command: bytes | str | float, again: bool = False) -> Any:
        """What a command answers.

        Raises:
            QueueUnavailableError: The server did not answer.
        """
        return await self.ask(lambda link: link.call(command), again=again)

    async def ask(self, ask: Callable[[Link], Awaitable[AnswerT]], *, again: bool = False) -> AnswerT:
        """What comes of something that is done with the connection.

        Raises:
            QueueUnavailableError: The server did not answer.
        """
        try:
            try:
                return await ask(self._link)
            except (RedisError, OSError) as error:
                if isinstance(error, ResponseError) or not (again or never_sent(error)):
                    raise
                return await ask(self._link)
        except (RedisError, OSError) as error:
            raise QueueUnavailableError(self._label, reason_of(error)) from error

    async def close(self) -> None:
        """Close the connection; the next question opens it again."""
        await self._link.close()
