"""What minutes add up to: counts, rates, percentiles, and the columns of charts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from litestar_tasks.queues.operations import BOUNDS, TaskMinute

__all__ = ("SPANS", "WIDTHS", "Bucket", "Slice", "Tally", "buckets", "by_task", "slice_of", "total")

SPANS: Final = {"hour": timedelta(hours=1), "day": timedelta(days=1)}
"""How far back one can look."""
WIDTHS: Final = {"hour": timedelta(minutes=1), "day": timedelta(minutes=15)}
"""How wide a column is."""
_EDGES: Final = (0.0, *(bound.total_seconds() for bound in BOUNDS))


@dataclass(slots=True)
class Tally:
    """How many attempts ended, how, and how long they took."""

    complete: int = 0
    failed: int = 0
    aborted: int = 0
    retried: int = 0
    waited: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    ran: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))

    @classmethod
    def of(cls, parts: Iterable[TaskMinute | Tally]) -> Tally:
        """What tasks' minutes, or more, add up to: column by column, as they are many."""
        found = list(parts)
        if not found:
            return cls()
        return cls(
            sum(one.complete for one in found),
            sum(one.failed for one in found),
            sum(one.aborted for one in found),
            sum(one.retried for one in found),
            [*map(sum, zip(*(one.waited for one in found), strict=True))],
            [*map(sum, zip(*(one.ran for one in found), strict=True))],
        )

    @property
    def attempts(self) -> int:
        """How many ended."""
        return self.complete + self.failed + self.aborted + self.retried

    @property
    def errors(self) -> int:
        """How many of them with an error."""
        return self.failed + self.retried

    @property
    def error_rate(self) -> float | None:
        """The share of errors among them; None where none ended."""
        return self.errors / self.attempts if self.attempts else None

    def waiting(self, share: float) -> float | None:
        """Seconds that so large a share of attempts waited at the most, roughly; None where none ended."""
        return _percentile(self.waited, share)

    def running(self, share: float) -> float | None:
        """Seconds that so large a share of attempts took at the most, roughly; None where none ended."""
        return _percentile(self.ran, share)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A column of a chart."""

    start: datetime
    end: datetime
    tally: Tally


@dataclass(frozen=True, slots=True)
class Slice:
    """What ended in a minute or in a quarter of an hour."""

    start: datetime
    tasks: Mapping[str, TaskMinute]
    total: Tally
    """Of all tasks together."""

    def of(self, task: str | None) -> TaskMinute | Tally | None:
        """Of one task, or for None of all; None where nothing of it ended."""
        return self.total if task is None else self.tasks.get(task)


def slice_of(start: datetime, tasks: Mapping[str, TaskMinute]) -> Slice:
    """What began at a moment, by task, with what it adds up to."""
    return Slice(start, tasks, Tally.of(tasks.values()))


def total(slices: Iterable[Slice], *, task: str | None = None) -> Tally:
    """All of it added up, of one task or of all."""
    return Tally.of(counted for one in slices if (counted := one.of(task)) is not None)


def by_task(parts: Iterable[Mapping[str, TaskMinute | Tally]]) -> dict[str, Tally]:
    """What each task's parts add up to."""
    found: dict[str, list[TaskMinute | Tally]] = {}
    for tasks in parts:
        for name, counted in tasks.items():
            found.setdefault(name, []).append(counted)
    return {name: Tally.of(counted) for name, counted in found.items()}


def buckets(slices: Iterable[Slice], span: str, *, task: str | None = None) -> list[Bucket]:
    """The columns of a chart of an hour or a day, the present one last.

    Args:
        slices: What is known.
        span: "hour" or "day".
        task: Of this task alone. Defaults to None: of all.
    """
    width = WIDTHS[span]
    number = SPANS[span] // width
    seconds = width.total_seconds()
    last = datetime.fromtimestamp(datetime.now(UTC).timestamp() // seconds * seconds, UTC)
    first = last - width * (number - 1)
    parts: list[list[Slice]] = [[] for _ in range(number)]
    for one in slices:
        index = (one.start - first) // width
        if 0 <= index < number:
            parts[index].append(one)
    return [
        Bucket(first + width * at, first + width * (at + 1), total(found, task=task)) for at, found in enumerate(parts)
    ]


def _percentile(numbers: Sequence[int], share: float) -> float | None:
    """Where so large a share lies below, taking the attempts of a bucket as evenly spread."""
    wanted = sum(numbers) * share
    if not wanted:
        return None
    below = 0
    for index, number in enumerate(numbers):
        if number and below + number >= wanted:
            if index == len(BOUNDS):
                break
            low, high = _EDGES[index], _EDGES[index + 1]
            return low + (high - low) * (wanted - below) / number
        below += number
    return _EDGES[-1]
