"""What the supervisor knows of its workers, in Prometheus' text format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from litestar_tasks.worker.board import Snapshot

__all__ = ("CONTENT_TYPE", "prometheus_text")

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_Samples: TypeAlias = Iterable[tuple[Mapping[str, str], float]]


def prometheus_text(snapshot: Snapshot) -> str:
    """All metrics. Their labels take the names of queues, registered tasks and workers, and no others.

    Counters only grow for as long as the supervisor lives, also where a worker was replaced.
    """
    return "".join(line + "\n" for line in _lines(snapshot))


def _lines(snapshot: Snapshot) -> Iterator[str]:
    running: Counter[str] = Counter()
    capacity: Counter[str] = Counter()
    leases: dict[tuple[str, str], float] = {}
    for worker, queue, state in snapshot.queues:
        running[queue] += state.running
        capacity[queue] += state.capacity if state.claiming else 0
        if state.lease_age is not None:
            leases[worker, queue] = state.lease_age
    yield from _metric(
        "jobs_total",
        "counter",
        "Attempts that ended in these workers, by what became of their jobs.",
        (
            ({"queue": queue, "task": task, "outcome": outcome}, count)
            for (queue, task, outcome), count in sorted(snapshot.ended.items())
        ),
    )
    yield from _metric("jobs_running", "gauge", "Jobs that these workers run.", _by_queue(running))
    yield from _metric("capacity", "gauge", "Jobs that these workers could run beside them.", _by_queue(capacity))
    yield from _metric(
        "queue_jobs",
        "gauge",
        "Jobs that have not ended, whoever works on them. Missing while the broker does not answer.",
        (
            ({"queue": queue, "status": status}, count)
            for queue, depth in sorted(snapshot.depths.items())
            for status, count in (
                ("queued", depth.queued),
                ("active", depth.active),
                ("scheduled", depth.scheduled),
            )
        ),
    )
    yield from _metric(
        "lease_age_seconds",
        "gauge",
        "Time since a worker's lease on a queue was renewed.",
        (({"worker": worker, "queue": queue}, age) for (worker, queue), age in sorted(leases.items())),
    )
    statuses = Counter(snapshot.workers.values())
    yield from _metric(
        "workers",
        "gauge",
        "Workers by status.",
        (({"status": name}, count) for name, count in sorted(statuses.items())),
    )
    yield from _metric("worker_starts_total", "counter", "Worker processes that were started.", [({}, snapshot.starts)])


def _by_queue(values: Mapping[str, int]) -> _Samples:
    return (({"queue": queue}, value) for queue, value in sorted(values.items()))


def _metric(name: str, kind: str, text: str, samples: _Samples) -> Iterator[str]:
    name = f"litestar_tasks_{name}"
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        shown = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        yield f"{name}{{{shown}}} {value:.10g}" if shown else f"{name} {value:.10g}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
