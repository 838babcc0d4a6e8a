"""What workers say of themselves, every few seconds, for people who look: no decision rests on it."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.metadata import version
from math import isfinite
from typing import Any, Final, cast

from saq.types import WorkerInfo
from saq.utils import now

from litestar_tasks.moments import maybe_moment

__all__ = ("REMEMBERED", "WorkerReport", "living", "moved", "process_report", "read_reports")

REMEMBERED: Final = 3_600
"""Seconds for which the last word of a worker is kept that fell silent."""
_SILENT: Final = timedelta(seconds=35)
_PROCESS: Final = "process"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """What the worker of one queue in one process said last."""

    id: str
    """The worker's id, which its running jobs carry as ``worker_id``."""
    queue: str
    """The label of its queue."""
    host: str = ""
    """The machine's or container's name; "" of a worker of stock SAQ, which says nothing of the following either."""
    pid: int = 0
    """The number of its process."""
    version: str = ""
    """The versions of this library and of Python."""
    started: datetime | None = None
    """When it began to work."""
    seen: datetime | None = None
    """When it said this. The broker says how long ago that is, and so no machine's clock makes a worker look lost."""
    running: int = 0
    """How many jobs it was running."""
    concurrency: int = 0
    """How many it runs at the most at a time."""
    load: float | None = None
    """The load of its machine, averaged over a minute; None where the system does not tell."""
    cpus: int = 0
    """How many processors that machine has."""
    complete: int = 0
    failed: int = 0
    aborted: int = 0
    retried: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """``QueueConfig.metadata``."""

    @property
    def lost(self) -> bool:
        """Whether it has been silent for more than 35 seconds without having said that it stops."""
        return self.seen is not None and datetime.now(UTC) - self.seen > _SILENT


def process_report(*, started: int, running: int, concurrency: int, stopped: bool = False) -> dict[str, Any]:
    """What a worker adds to SAQ's report of it.

    Args:
        started: When it began to work, in ms.
        running: How many jobs it runs.
        concurrency: How many it runs at the most.
        stopped: Whether this is its last word. Defaults to False.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        _PROCESS: {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": _version(),
            "started": started,
            "seen": now(),
            "running": running,
            "concurrency": concurrency,
            "load": load,
            "cpus": os.cpu_count() or 0,
            "stopped": stopped,
        }
    }


def moved(info: WorkerInfo, by: int) -> WorkerInfo:
    """What a worker has said, with the moment of it by another clock.

    Args:
        info: What it has said.
        by: How many ms the other clock is ahead.
    """
    process = _mapping(_mapping(info).get(_PROCESS))
    if not (seen := _number(process.get("seen"))):
        return info
    return cast("WorkerInfo", {**info, _PROCESS: {**process, "seen": seen + by}})


def living(infos: Mapping[str, WorkerInfo]) -> dict[str, WorkerInfo]:
    """Of what workers have said, that of those which have not fallen silent: what SAQ's tools expect."""
    alive = {report.id for report in read_reports("", infos) if not report.lost}
    return {id: info for id, info in infos.items() if id in alive}


def read_reports(queue: str, infos: Mapping[str, WorkerInfo]) -> list[WorkerReport]:
    """The reports of a queue's workers, but for those that have stopped; whatever else their records hold.

    Args:
        queue: The queue's label.
        infos: Their records by the workers' ids.
    """
    reports = (_read(queue, id, info) for id, info in infos.items())
    return [report for report in reports if report is not None]


def _read(queue: str, id: str, info: Any) -> WorkerReport | None:
    record = _mapping(info)
    stats, process = _mapping(record.get("stats")), _mapping(record.get(_PROCESS))
    if process.get("stopped"):
        return None
    load = process.get("load")
    return WorkerReport(
        id=id,
        queue=queue,
        host=str(process.get("host", "")),
        pid=_number(process.get("pid")),
        version=str(process.get("version", "")),
        started=maybe_moment(_number(process.get("started"))),
        seen=maybe_moment(_number(process.get("seen"))),
        running=_number(process.get("running")),
        concurrency=_number(process.get("concurrency")),
        load=float(load) if isinstance(load, (int, float)) and isfinite(load) else None,
        cpus=_number(process.get("cpus")),
        complete=_number(stats.get("complete")),
        failed=_number(stats.get("failed")),
        aborted=_number(stats.get("aborted")),
        retried=_number(stats.get("retried")),
        metadata=_mapping(record.get("metadata")),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _number(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) and isfinite(value) else 0


@cache
def _version() -> str:
    return f"litestar-tasks {version('litestar-tasks')}, Python {platform.python_version()}"
