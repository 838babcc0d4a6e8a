"""Workers: which processes run jobs, what they are doing, and which fell silent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from litestar_tasks.dashboard import answers
from litestar_tasks.dashboard.job_view import JobRow
from litestar_tasks.dashboard.search import Search, find
from litestar_tasks.dashboard.visit import Answer, Route, Visit, route
from litestar_tasks.dashboard.watch import Look
from litestar_tasks.queues.reports import WorkerReport

__all__ = ("ROUTES", "ProcessView", "processes")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessView:
    """A process, which works on one queue or several."""

    host: str
    pid: int
    version: str
    started: datetime | None
    seen: datetime | None
    lost: bool
    load: float | None
    cpus: int
    workers: Sequence[WorkerReport]
    """By queue."""
    metadata: str
    jobs: Sequence[JobRow] = ()
    """Those that it runs, as far as they were looked at."""

    @property
    def running(self) -> int:
        """How many jobs it ran when it was heard of last."""
        return sum(worker.running for worker in self.workers)

    @property
    def concurrency(self) -> int:
        """How many it runs at the most."""
        return sum(worker.concurrency for worker in self.workers)


async def processes(visit: Visit, looks: Sequence[Look], *, jobs: bool = False) -> list[ProcessView]:
    """The processes that work, those that were lost last.

    Args:
        visit: Who looks.
        looks: How the queues stand.
        jobs: Whether to list what they run. Defaults to False.
    """
    rows: dict[tuple[str, str], list[JobRow]] = {}
    if jobs:
        for row in (await find(visit, Search("active"), limit=100)).rows:
            rows.setdefault((row.queue, row.worker_id), []).append(row)
    grouped: dict[Any, list[WorkerReport]] = {}
    for look in looks:
        for report in look.workers:
            # A worker of stock SAQ says nothing of its process.
            grouped.setdefault((report.host, report.pid) if report.pid else report.id, []).append(report)
    found = [_process(visit, reports, rows) for reports in grouped.values()]
    return sorted(found, key=lambda one: (one.lost, one.host, one.pid))


def _process(
    visit: Visit, reports: Sequence[WorkerReport], rows: Mapping[tuple[str, str], Sequence[JobRow]]
) -> ProcessView:
    latest = max(reports, key=lambda report: report.seen.timestamp() if report.seen else 0.0)
    metadata = {name: value for report in reports for name, value in report.metadata.items()}
    return ProcessView(
        host=visit.redactor.text(latest.host),
        pid=latest.pid,
        version=visit.redactor.text(latest.version),
        started=min((report.started for report in reports if report.started), default=None),
        seen=latest.seen,
        lost=latest.lost,
        load=latest.load,
        cpus=latest.cpus,
        workers=sorted(reports, key=lambda report: report.queue),
        metadata=visit.redactor.shown(metadata, 2_000) if metadata else "",
        jobs=[row for report in reports for row in rows.get((report.queue, report.id), ())],
    )


async def _list(visit: Visit) -> Answer:
    looks = await visit.watch.looks(visit.queues.values())
    found = await processes(visit, looks, jobs=True)
    idle = [look.label for look in looks if not look.alive]
    return answers.page("workers", visit, processes=found, without=idle, live=True)


ROUTES: Final[tuple[Route, ...]] = (route("GET", "/workers", _list),)
