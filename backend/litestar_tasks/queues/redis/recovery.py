"""Finding what has no owner any more: the jobs of lost workers, and claims that nobody knows of."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from litestar_tasks.queues import records
from litestar_tasks.queues.patrol import Patrol
from litestar_tasks.queues.presence import Process, this_process
from litestar_tasks.queues.redis.cycles import unpack
from litestar_tasks.queues.redis.incarnation import TOKENS, Incarnation
from litestar_tasks.queues.redis.lua import LIMIT, Script

if TYPE_CHECKING:
    from litestar_tasks.queues.base import ClaimedJob
    from litestar_tasks.queues.holding import Terms
    from litestar_tasks.queues.outage import Outage
    from litestar_tasks.queues.redis.connection import Endpoint
    from litestar_tasks.queues.redis.consumer import Consumer
    from litestar_tasks.queues.redis.layout import Layout

__all__ = ("Recovery",)

logger = logging.getLogger("litestar_tasks.queues")

_RECOVER: Final = Script("recover")
_RECLAIM: Final = Script("reclaim")
_ADOPT: Final = Script("adopt")
_REFENCE: Final = Script("refence")
_AUDIT: Final = 1000
"""Claims that are compared at the most."""


class Recovery(Patrol):
    """Looks for lost workers, and for what stock workers left.

    Args:
        consumer: The worker's hold, under whose incarnation jobs are failed that were lost too often.
        endpoint: The server.
        layout: The queue's keys.
        outage: Whether the server answers.
        terms: The lease, and what is kept of finished jobs.
    """

    _away = (RedisError, OSError)

    def __init__(
        self,
        consumer: Consumer,
        endpoint: Endpoint,
        layout: Layout,
        outage: Outage,
        *,
        terms: Terms,
    ) -> None:
        super().__init__(layout.name, outage, lease=terms.lease, here=this_process())
        self._consumer = consumer
        self._layout = layout
        self._terms = terms
        self._link = endpoint.link()
        self._ended: dict[bytes, int] = {}

    async def close(self) -> None:
        """Stop looking."""
        await super().close()
        await self._link.close()

    async def _take(self, *ended: bytes | int) -> tuple[int, bool, float]:
        """Take jobs of one lost worker: of a certain one, or of whose lease has lapsed.

        Args:
            ended: Its name among the leases, and the moment at which its lease would lapse.

        Returns:
            How many, whether there may be more, and in how many seconds it is worth looking again.
        """
        if (incarnation := self._consumer.holder) is None:
            return 0, False, self._seldom
        first = incarnation.take(LIMIT)
        count, more, wait, lost, lengths, data, left = await _RECOVER.run(
            self._link,
            self._layout,
            (
                incarnation.holder,
                first,
                int(self._terms.lease * 1000),
                LIMIT,
                self._terms.max_losses,
                self._terms.limits.failed_ttl,
                self._terms.limits.others,
                *ended,
            ),
        )
        if count:
            self._say_taken(lost.decode(), count, left=bool(left))
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

    async def _audit(self) -> None:
        await self._compare()
        while (count := await _ADOPT.run(self._link, self._layout)) > 0:
            logger.warning("queue %r: took over %d jobs that stock workers left", self._layout.name, count)

    async def _compare(self) -> None:
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
            if self._consumer.unknown(token) and await _RECLAIM.run(self._link, self._layout, (token, token)):
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
            self._layout,
            (job.id, token, reason, incarnation.holder),
        )
        return reason if done else None
