"""What minutes add up to: counts, rates, percentiles, and the columns of charts."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from litestar_tasks.queues.operations import BOUNDS, Minute, TaskMinute

__all__ = ("SPANS", "WIDTHS", "Bucket", "Slice", "Tally", "buckets", "by_task", "joined", "total")

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

    def add(self, counted: TaskMinute | Tally) -> None:
        """Add a task's minute, or more."""
        self.complete += counted.complete
        self.failed += counted.failed
        self.aborted += counted.aborted
        self.retried += counted.retried
        self.waited = list(map(operator.add, self.waited, counted.waited))
        self.ran = list(map(operator.add, self.ran, counted.ran))

    def __add__(self, other: Tally) -> Tally:
        both = Tally()
        both.add(self)
        both.add(other)
        return both

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
    tasks: Mapping[str, TaskMinute | Tally]
    total: Tally
    """Of all tasks together."""

    def of(self, task: str | None) -> TaskMinute | Tally | None:
        """Of one task, or for None of all; None where nothing of it ended."""
        return self.total if task is None else self.tasks.get(task)


def joined(start: datetime, parts: Iterable[Minute | Slice]) -> Slice:
    """Minutes, or slices, as one slice."""
    found, whole = by_task(parts), Tally()
    for tally in found.values():
        whole.add(tally)
    return Slice(start, found, whole)


def total(slices: Iterable[Slice], *, task: str | None = None) -> Tally:
    """All of it added up, of one task or of all."""
    tally = Tally()
    for one in slices:
        if (counted := one.of(task)) is not None:
            tally.add(counted)
    return tally


def by_task(parts: Iterable[Minute | Slice], before: Mapping[str, Tally] | None = None) -> dict[str, Tally]:
    """What each task's parts add up to, with what it had before."""
    found: dict[str, Tally] = {}
    for part in parts:
        for name, counted in part.tasks.items():
            if name not in found:
                found[name] = Tally()
                if before and name in before:
                    found[name].add(before[name])
            found[name].add(counted)
    return found if before is None else {**before, **found}


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
    found = [Bucket(first + width * n, first + width * (n + 1), Tally()) for n in range(number)]
    for one in slices:
        index = (one.start - first) // width
        if 0 <= index < number and (counted := one.of(task)) is not None:
            found[index].tally.add(counted)
    return found


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
