"""The first page: whether all is well, and where it is not."""

from __future__ import annotations

import asyncio
from typing import Final

from litestar_tasks.dashboard import answers, charts, stats
from litestar_tasks.dashboard.search import Search, find
from litestar_tasks.dashboard.visit import Answer, Route, Visit, route
from litestar_tasks.dashboard.watch import numbers
from litestar_tasks.dashboard.workers import processes
from litestar_tasks.queues.operations import STATES

__all__ = ("ROUTES",)


async def _page(visit: Visit) -> Answer:
    past = await visit.watch.past(visit.queues.values(), visit.span)  # alone, as it reads for as long as it may take
    looks, failed, running = await asyncio.gather(
        visit.watch.looks(visit.queues.values()),
        find(visit, Search("failed"), limit=6),
        find(visit, Search("active"), limit=6),
    )
    workers = await processes(visit, looks)
    return answers.page(
        "overview",
        visit,
        looks=looks,
        numbers=numbers(looks),
        counts={state: sum(look.counts[state] for look in looks) for state in STATES},
        tallies={label: stats.total(past[label].slices if label in past else ()) for label in visit.queues},
        **charts.figures(past.values(), visit.span),
        processes=workers,
        alive=[one for one in workers if not one.lost],
        lost=[one for one in workers if one.lost],
        failed=failed,
        running=running,
        metrics=any("metrics" in queue.capabilities for queue in visit.queues.values()),
        live=True,
    )


ROUTES: Final[tuple[Route, ...]] = (route("GET", "", _page),)
