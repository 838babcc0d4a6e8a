"""Finding what has no owner any more: the jobs of lost workers, and claims that nobody knows of."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from litestar_tasks.queues import records
from litestar_tasks.queues.presence import Process, this_process
from litestar_tasks.queues.redis.cycles import unpack
from litestar_tasks.queues.redis.incarnation import TOKENS, Incarnation
from litestar_tasks.queues.redis.lua import LIMIT, Script

if TYPE_CHECKING:
    from litestar_tasks.queues.base import ClaimedJob
    from litestar_tasks.queues.outage import Outage
    from litestar_tasks.queues.redis.connection import Endpoint, Link
    from litestar_tasks.queues.redis.consumer import Consumer, Terms
    from litestar_tasks.queues.redis.cycles import Limits
    from litestar_tasks.queues.redis.layout import Layout

__all__ = ("Recovery",)

logger = logging.getLogger("litestar_tasks.queues")

_RECOVER: Final = Script("recover")
_RECLAIM: Final = Script("reclaim")
_ADOPT: Final = Script("adopt")
_REFENCE: Final = Script("refence")
_AUDIT: Final = 1000
"""Claims that are compared at the most."""
_LOOK: Final = 1.0
"""Seconds between two looks at the processes of this machine."""


class Recovery:
    """Looks for lost workers, as every worker does; the first to look finds them.

    A worker is lost when its lease has lapsed, or, to those who share its machine, when its process has ended. Those
    look twice, and leave a lease alone that was renewed in between: what a process sent last can arrive after its end,
    and two machines that go back to one snapshot of a running one cannot be told apart.

    Args:
        consumer: The worker's hold, under whose incarnation jobs are failed that were lost too often.
        endpoint: The server.
        layout: The queue's keys.
        outage: Whether the server answers.
        terms: The lease.
        limits: What is kept of finished jobs.
    """

    def __init__(
        self,
        consumer: Consumer,
        endpoint: Endpoint,
        layout: Layout,
        outage: Outage,
        *,
        terms: Terms,
        limits: Limits,
    ) -> None:
        self._consumer = consumer
        self._layout = layout
        self._outage = outage
        self._terms = terms
        self._limits = limits
        self._link = endpoint.link()
        self._lock = asyncio.Lock()
        self._here = this_process()
        self._ended: dict[bytes, int] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run(), name=f"recovery-{self._layout.name}")

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._link.close()

    async def recover(self) -> tuple[int, float]:
        """Take what lost workers left.

        Returns:
            How many jobs were taken, and in how many seconds it is worth looking again.
        """
        async with self._lock:
            return await self._recover()

    async def reclaim(self, link: Link, first: int, last: int) -> int:
        """Hand back what is claimed under a range of tokens, and return how many there were."""
        return int(await _RECLAIM.run(link, self._layout.incomplete, (self._layout.prefix, first, last)))

    async def _recover(self) -> tuple[int, float]:
        taken, more, wait = 0, True, self._terms.lease / 3
        while more:
            count, more, wait = await self._take()
            taken += count
        return taken, wait

    async def _take(self, *ended: bytes | int) -> tuple[int, bool, float]:
        """Take jobs of one lost worker: of a certain one, or of whose lease has lapsed.

        Args:
            ended: Its name among the leases, and the moment at which its lease would lapse.

        Returns:
            How many, whether there may be more, and in how many seconds it is worth looking again.
        """
        if (incarnation := self._consumer.holder) is None:
            return 0, False, self._terms.lease / 3
        first = incarnation.take(LIMIT)
        count, more, wait, lost, lengths, data, left = await _RECOVER.run(
            self._link,
            self._layout.incomplete,
            (
                self._layout.prefix,
                incarnation.holder,
                first,
                int(self._terms.lease * 1000),
                LIMIT,
                self._terms.max_losses,
                self._limits.failed_ttl,
                self._limits.others,
                *ended,
            ),
        )
        if count:
            logger.log(
                logging.INFO if left else logging.WARNING,
                "queue %r: worker %s %s; its %d jobs wait at the head again",
                self._layout.name,
                lost.decode(),
                "has ended" if left else "was lost",
                count,
            )
        if lengths:
            self._consumer.fail_lost(unpack(0, first, map(int, lengths.split()), data), left=bool(left))
        return count, bool(more), wait / 1000

    async def _look(self, here: Process) -> None:
        """Take what workers of this machine left whose processes have ended."""
        answer = await self._link.call(("HGETALL", self._layout.key(f"machine:{here.machine}")))
        ended: list[bytes] = []
        for holder, text in zip(answer[::2], answer[1::2], strict=True):
            process = Process.parse(here.machine, text.decode("ascii", "replace"))
            if process is not None and process.has_ended():
                ended.append(holder)
        seen, self._ended = self._ended, {}
        if not ended:
            return
        moments = await self._link.call(("ZMSCORE", self._layout.key("leases"), *ended))
        for holder, moment in zip(ended, (int(one or 0) for one in moments), strict=True):
            if seen.get(holder) != moment:
                self._ended[holder] = moment
                continue
            more = True
            while more:
                _, more, _ = await self._take(holder, moment)

    async def audit(self) -> None:
        """Compare the claims that the server knows with those that are known here.

        A claim that nobody here knows of is handed back: the answer to it was lost, and came to pass only after it had
        been searched for. A running job that has no claim was taken out by a stock tool.
        """
        if (incarnation := self._consumer.holder) is None:
            return
        before = self._consumer.running()
        low, high = incarnation.number * TOKENS, (incarnation.number + 1) * TOKENS - 1
        answer = await self._link.call(
            ("ZRANGEBYSCORE", self._layout.incomplete, -high, -low, "WITHSCORES", "LIMIT", 0, _AUDIT)
        )
        held = {-int(score): job_id for job_id, score in zip(answer[::2], answer[1::2], strict=True)}
        for token in held:
            if self._consumer.unknown(token) and await self.reclaim(self._link, token, token):
                logger.warning("queue %r: handed back a claim that nobody knew of", self._layout.name)
        if len(held) == _AUDIT:
            return
        for token, job in before.items():
            if incarnation.owns(token) and token not in held and token in self._consumer.running():
                self._consumer.unfenced(token, await self._refence(incarnation, token, job))

    async def _refence(self, incarnation: Incarnation, token: int, job: ClaimedJob) -> bytes | None:
        stored = await self._link.call(("GET", job.id))
        try:
            fields = records.decode(stored or b"")
        except records.UndecodableError:
            return None
        if not isinstance(fields, dict) or fields.get("status") != "aborting":
            return None
        reason = records.to_json(fields.get("error") or "aborted")
        done = await _REFENCE.run(
            self._link,
            self._layout.incomplete,
            (self._layout.prefix, job.id, token, reason, incarnation.holder),
        )
        return reason if done else None

    async def _adopt(self) -> None:
        while (count := await _ADOPT.run(self._link, self._layout.incomplete, (self._layout.prefix,))) > 0:
            logger.warning("queue %r: took over %d jobs that stock workers left", self._layout.name, count)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._repeat(self._search))
            if self._here is not None:
                tasks.create_task(self._repeat(self._watch))

    async def _repeat(self, step: Callable[[], Awaitable[float]]) -> None:
        pause = 0.0
        while True:
            await asyncio.sleep(pause)
            try:
                pause = await step()
            except (RedisError, OSError) as error:
                self._outage.failed(error)
                pause = 1.0
            except Exception:
                logger.exception("queue %r: an unforeseen error while looking for lost workers", self._layout.name)
                pause = self._terms.lease / 3

    async def _watch(self) -> float:
        if self._here is not None:
            async with self._lock:
                await self._look(self._here)
        return _LOOK * random.uniform(0.9, 1.1)  # noqa: S311  # no secret

    async def _search(self) -> float:
        async with self._lock:
            _, wait = await self._recover()
            await self.audit()
            await self._adopt()
        # Not all at once, and soon after the moment at which a lease would lapse.
        latest, chance = self._terms.lease / 3, random.random()  # noqa: S311  # no secret
        return min(latest * (0.8 + 0.2 * chance), wait + 0.05 + latest / 10 * chance)
