"""Finding what has no owner any more: the jobs of lost workers, and claims that nobody knows of."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from litestar_tasks.queues.redis import records
from litestar_tasks.queues.redis.cycles import unpack
from litestar_tasks.queues.redis.incarnation import TOKENS, Incarnation
from litestar_tasks.queues.redis.lua import LIMIT, Script

if TYPE_CHECKING:
    from litestar_tasks.queues.base import ClaimedJob
    from litestar_tasks.queues.redis.connection import Endpoint, Link
    from litestar_tasks.queues.redis.consumer import Consumer, Terms
    from litestar_tasks.queues.redis.cycles import Limits
    from litestar_tasks.queues.redis.layout import Layout
    from litestar_tasks.queues.redis.outage import Outage

__all__ = ("Recovery",)

logger = logging.getLogger("litestar_tasks.queues")

_RECOVER: Final = Script("recover")
_RECLAIM: Final = Script("reclaim")
_ADOPT: Final = Script("adopt")
_REFENCE: Final = Script("refence")
_AUDIT: Final = 1000
"""Claims that are compared at the most."""


class Recovery:
    """Looks for lost workers, as every worker does; the first to look finds them.

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
        taken = 0
        while (incarnation := self._consumer.holder) is not None:
            first = incarnation.take(LIMIT)
            count, more, wait, lost, lengths, data = await _RECOVER.run(
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
                ),
            )
            taken += count
            if count:
                logger.warning(
                    "queue %r: worker %s was lost; its %d jobs wait at the head again",
                    self._layout.name,
                    lost.decode(),
                    count,
                )
            if lengths:
                self._consumer.fail_lost(unpack(0, first, lengths, data))
            if not more:
                return taken, wait / 1000
        return taken, self._terms.lease / 3

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
        pause = 0.0
        while True:
            await asyncio.sleep(pause)
            try:
                _, wait = await self.recover()
                async with self._lock:
                    await self.audit()
                    await self._adopt()
            except (RedisError, OSError) as error:
                self._outage.failed(error)
                wait = 1.0
            except Exception:
                logger.exception("queue %r: an unforeseen error while looking for lost workers", self._layout.name)
                wait = self._terms.lease / 3
            # Not all at once, and soon after the moment at which a lease would lapse.
            latest = self._terms.lease / 3
            pause = min(latest * random.uniform(0.8, 1.0), wait + 0.05 + random.uniform(0, latest / 10))  # noqa: S311
