"""The schedules of a queue on Redis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from litestar_tasks.exceptions import QueueUnavailableError
from litestar_tasks.queues.redis.connection import ANSWER_TIMEOUT
from litestar_tasks.queues.redis.lua import Script
from litestar_tasks.queues.redis.retrying import RetryingLink
from litestar_tasks.queues.schedules import Look, ScheduleStore, Step

if TYPE_CHECKING:
    from saq.job import Job

    from litestar_tasks.queues.redis.connection import Endpoint, Link
    from litestar_tasks.queues.redis.layout import Layout

__all__ = ("RedisSchedules",)

_LOOK: Final = Script("look")
_FIRE: Final = Script("fire", calling="enqueue")
_ADVERTISE: Final = Script("advertise")


class RedisSchedules(ScheduleStore):
    """A hash of documents, and a zset of the moments at which they are due.

    Args:
        label: The queue's name, for errors.
        endpoint: The server.
        layout: The queue's keys.
        arguments: A job as ``enqueue.lua`` takes it.
    """

    def __init__(
        self,
        label: str,
        endpoint: Endpoint,
        layout: Layout,
        arguments: Callable[[Job], Sequence[bytes | str | float]],
    ) -> None:
        super().__init__()
        self._layout = layout
        self._arguments = arguments
        self._link = RetryingLink(label, endpoint, layout)

    async def look(self, limit: int) -> Look:
        """See ``ScheduleStore.look``."""
        now, following, *rest = await self._link.run(_LOOK, limit, again=True)
        due = [(id.decode(), document) for id, document in zip(rest[::2], rest[1::2], strict=True)]
        return Look(int(now), int(float(following)) if following else None, due)

    async def read(self, id: str) -> bytes | None:
        """See ``ScheduleStore.read``."""
        document: bytes | None = await self._link.call("HGET", self._specs, id, again=True)
        return document

    async def read_all(self) -> dict[str, bytes]:
        """See ``ScheduleStore.read_all``. In steps, so that the server answers others in between."""
        found: dict[str, bytes] = {}
        cursor = b"0"
        while True:
            cursor, rest = await self._link.call("HSCAN", self._specs, cursor, "COUNT", 500, again=True)
            found.update({id.decode(): document for id, document in zip(rest[::2], rest[1::2], strict=True)})
            if cursor == b"0":
                return found

    async def swap(self, id: str, seen: bytes | None, new: bytes | None, due: int | None, job: Job | None) -> bool:
        """See ``ScheduleStore.swap``."""
        moment: int | str = due if due is not None else ""
        arguments = self._arguments(job) if job is not None else ()
        return bool(await self._link.run(_FIRE, id, seen or "", new or "", moment, *arguments, again=True))

    async def swap_many(self, steps: Sequence[Step]) -> set[str]:
        """See ``ScheduleStore.swap_many``. In one write; the server answers others in between."""
        first, *rest = steps
        swapped = {first.id} if await self.swap(first.id, first.seen, first.new, first.due, None) else set[str]()
        if not rest:
            return swapped
        head = ("EVALSHA", _FIRE.digest, 1, self._layout.incomplete, self._layout.prefix)  # which it knows by now
        commands = [(*head, one.id, one.seen or "", one.new, "" if one.due is None else one.due) for one in rest]

        async def send(link: Link) -> list[Any]:
            return await link.call_all(commands, ANSWER_TIMEOUT, last=ANSWER_TIMEOUT)

        answers = await self._link.ask(send, again=True)
        return swapped | {one.id for one, answer in zip(rest, answers, strict=True) if answer == 1}

    async def announce(self) -> None:
        """See ``ScheduleStore.announce``."""
        with suppress(QueueUnavailableError):
            await self._link.call("PUBLISH", self._layout.key("ctl"), "schedules", again=True)

    async def advertise(self, holder: str, digest: str, seconds: float) -> str:
        """See ``ScheduleStore.advertise``."""
        winner: bytes = await self._link.run(_ADVERTISE, holder, digest, int(seconds * 1000), again=True)
        return winner.decode()

    async def withdraw(self, holder: str) -> None:
        """See ``ScheduleStore.withdraw``."""
        await self._link.run(_ADVERTISE, holder, "", 0, again=True)

    async def close(self) -> None:
        """See ``ScheduleStore.close``."""
        await self._link.close()

    @property
    def _specs(self) -> str:
        return self._layout.key("sched:spec")
