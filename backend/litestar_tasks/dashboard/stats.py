"""What minutes add up to: counts, rates, percentiles, and the columns of charts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from litestar_tasks.queues.operations import BOUNDS, Minute, TaskMinute

__all__ = ("SPANS", "Bucket", "Tally", "buckets", "by_task", "total")

SPANS: Final = {"hour": timedelta(hours=1), "day": timedelta(days=1)}
"""How far back one can look."""
_WIDTHS: Final = {"hour": timedelta(minutes=1), "day": timedelta(minutes=15)}
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

    def add(self, counted: TaskMinute) -> None:
        """Add a task's minute."""
        self.complete += counted.complete
        self.failed += counted.failed
        self.aborted += counted.aborted
        self.retried += counted.retried
        for own, more in ((self.waited, counted.waited), (self.ran, counted.ran)):
            for index, number in enumerate(more):
                if number:
                    own[index] += number

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


def total(minutes: Iterable[Minute], *, task: str | None = None) -> Tally:
    """All of it added up, of one task or of all."""
    tally = Tally()
    for minute in minutes:
        for name, counted in minute.tasks.items():
            if task in (None, name):
                tally.add(counted)
    return tally


def by_task(minutes: Iterable[Minute]) -> dict[str, Tally]:
    """What each task's minutes add up to."""
    found: dict[str, Tally] = {}
    for minute in minutes:
        for name, counted in minute.tasks.items():
            found.setdefault(name, Tally()).add(counted)
    return found


def buckets(minutes: Iterable[Minute], span: str, *, task: str | None = None) -> list[Bucket]:
    """The columns of a chart of an hour or a day, the present one last.

    Args:
        minutes: What is known.
        span: "hour" or "day".
        task: Of this task alone. Defaults to None: of all.
    """
    width = _WIDTHS[span]
    number = SPANS[span] // width
    seconds = width.total_seconds()
    last = datetime.fromtimestamp(datetime.now(UTC).timestamp() // seconds * seconds, UTC)
    first = last - width * (number - 1)
    found = [Bucket(first + width * n, first + width * (n + 1), Tally()) for n in range(number)]
    for minute in minutes:
        index = (minute.start - first) // width
        if 0 <= index < number:
            for name, counted in minute.tasks.items():
                if task in (None, name):
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
