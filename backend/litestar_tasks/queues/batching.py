"""Round trips that are shared by those who come while one is under way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

__all__ = ("Batcher",)


class _Link(Protocol):
    async def close(self) -> None: ...


LinkT = TypeVar("LinkT", bound=_Link)
ItemT = TypeVar("ItemT")
AnswerT = TypeVar("AnswerT")


class Batcher(Generic[LinkT, ItemT, AnswerT]):
    """Sends single items at once, and together those that meanwhile have to wait for a connection.

    Whoever comes while a connection is free pays for one round trip and nothing else: no task is started for it.

    Args:
        send: Sends items over a connection and returns their answers, in order.
        links: The connections; each carries one round trip at a time.
        limit: How many items travel together at the most.
    """

    def __init__(
        self,
        send: Callable[[LinkT, Sequence[ItemT]], Awaitable[Sequence[AnswerT]]],
        links: Sequence[LinkT],
        limit: int,
    ) -> None:
        self._send = send
        self._free = list(links)
        self._links = tuple(links)
        self._limit = limit
        self._waiting: deque[tuple[ItemT, asyncio.Future[AnswerT]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, item: ItemT) -> AnswerT:
        """Send one item and return its answer.

        Cancelling it withdraws the item if it has not been sent yet.

        Raises:
            Exception: Whatever ``send`` raised for the round trip that this item was part of.
        """
        if not self._free:
            future: asyncio.Future[AnswerT] = asyncio.get_running_loop().create_future()
            self._waiting.append((item, future))
            return await future
        link = self._free.pop()
        try:
            return (await self._send(link, (item,)))[0]
        finally:
            self._release(link)

    async def close(self) -> None:
        """Give up what is still to be sent, and close the connections; the next item opens them again."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._waiting:
            self._waiting.popleft()[1].cancel()
        for link in self._links:
            await link.close()

    def _release(self, link: LinkT) -> None:
        self._free.append(link)
        if self._waiting:
            self._free.pop()
            task = asyncio.get_running_loop().create_task(self._send_waiting(link))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send_waiting(self, link: LinkT) -> None:
        try:
            while batch := self._next_batch():
                try:
                    answers = await self._send(link, [item for item, _ in batch])
                except BaseException as error:
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error) if isinstance(error, Exception) else future.cancel()
                    if not isinstance(error, Exception):
                        raise
                    continue
                for (_, future), answer in zip(batch, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)
        finally:
            self._free.append(link)

    def _next_batch(self) -> list[tuple[ItemT, asyncio.Future[AnswerT]]]:
        batch: list[tuple[ItemT, asyncio.Future[AnswerT]]] = []
        while self._waiting and len(batch) < self._limit:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        return batch
