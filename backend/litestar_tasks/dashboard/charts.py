"""Charts as shapes that a template draws: no library, no script."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil, log10
from typing import TYPE_CHECKING, Any

from litestar_tasks.dashboard.stats import Bucket, Tally, buckets, total

if TYPE_CHECKING:
    from litestar_tasks.dashboard.history import Past

__all__ = ("Chart", "Column", "Line", "columns", "figures", "lines")

WIDTH, HEIGHT = 600.0, 120.0


@dataclass(frozen=True, slots=True)
class Column:
    """One column: what went well below, what failed on top."""

    x: float
    width: float
    good: float
    """Height of the lower part."""
    bad: float
    """Height of the upper part."""
    start: datetime
    end: datetime
    complete: int
    errors: int

    @property
    def top(self) -> float:
        """Where the lower part begins, from above."""
        return round(HEIGHT - self.good, 1)


@dataclass(frozen=True, slots=True)
class Line:
    """One line: what it says, the points of its stretches, and its last value."""

    label: str
    kind: str
    """Names its looks."""
    stretches: list[str]
    value: float | None


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart in a box of 600 by 120."""

    top: float
    """The value at its upper edge."""
    start: datetime
    end: datetime
    columns: Sequence[Column] = ()
    lines: Sequence[Line] = ()
    empty: bool = False


def figures(pasts: Iterable[Past], span: str, *, task: str | None = None) -> dict[str, Any]:
    """What the charts of a page show, by the names that its template knows.

    Args:
        pasts: How queues fared.
        span: "hour" or "day".
        task: Of this task alone. Defaults to None: of all.
    """
    known = list(pasts)
    slices = [one for past in known for one in past.slices if one.of(task) is not None]
    found = buckets(slices, span, task=task)
    return {
        "span": span,
        "tally": total(slices, task=task),
        "reading": not all(past.complete for past in known),
        "finished": columns(found),
        "waited": lines(found, Tally.waiting),
        "ran": lines(found, Tally.running),
    }


def columns(parts: Sequence[Bucket]) -> Chart:
    """How many attempts ended, and how many of them with an error."""
    top = _round_up(max(part.tally.attempts for part in parts))
    step = WIDTH / len(parts)
    shapes = [
        Column(
            x=round(index * step + step * 0.1, 2),
            width=round(step * 0.8, 2),
            good=_height(tally.attempts - tally.errors, top),
            bad=_height(tally.errors, top),
            start=part.start,
            end=part.end,
            complete=tally.complete,
            errors=tally.errors,
        )
        for index, part in enumerate(parts)
        if (tally := part.tally).attempts
    ]
    return Chart(top, parts[0].start, parts[-1].end, columns=shapes, empty=not shapes)


def lines(parts: Sequence[Bucket], read: Callable[[Tally, float], float | None]) -> Chart:
    """The median and the 95th percentile of a time, as ``Tally.waiting`` or ``Tally.running`` reads it."""
    shares = (("median", "median", 0.5), ("95 %", "high", 0.95))
    values = [[read(part.tally, share) for part in parts] for _, _, share in shares]
    known = [value for line in values for value in line if value is not None]
    top = _round_up(max(known, default=0.0))
    drawn = [
        Line(label, kind, _stretches(line, top), next((one for one in reversed(line) if one is not None), None))
        for (label, kind, _), line in zip(shares, values, strict=True)
    ]
    return Chart(top, parts[0].start, parts[-1].end, lines=drawn, empty=not known)


def _stretches(values: Sequence[float | None], top: float) -> list[str]:
    """The points of a line, broken where nothing is known; a value that stands alone becomes a dash."""
    step = WIDTH / len(values)
    found: list[list[str]] = [[]]
    for index, value in enumerate(values):
        if value is None:
            if found[-1]:
                found.append([])
            continue
        height = HEIGHT - _height(value, top)
        found[-1] += [f"{index * step:.1f},{height:.1f}", f"{(index + 1) * step:.1f},{height:.1f}"]
    return [" ".join(points) for points in found if points]


def _height(value: float, top: float) -> float:
    """At least a little for what is not nothing."""
    return round(max(1.5, value / top * HEIGHT), 1) if value else 0.0


def _round_up(value: float) -> float:
    """The next value that reads well, such as 1, 1.5, 2 or 60."""
    if value <= 0:
        return 1.0
    power = 10.0 ** (ceil(log10(value)) - 1)
    return next((power * step for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if power * step >= value), power * 10)
