"""How pages say moments, durations, numbers and states."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

__all__ = ("ago", "count", "duration", "iso", "percent")


def iso(moment: datetime) -> str:
    """As machines read it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ago(moment: datetime) -> str:
    """How far from now: "3 min ago", "in 2 h"."""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    if abs(seconds) < 1:
        return "now"
    text = _coarse(abs(seconds))
    return f"{text} ago" if seconds > 0 else f"in {text}"


def duration(seconds: float | None) -> str:
    """A duration: "12 ms", "1.4 s", "3 min", "2 h 5 min"."""
    if seconds is None:
        return "–"
    if seconds < 0.001:
        return "<1 ms" if seconds > 0 else "0 s"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} days"


def count(number: Any) -> str:
    """A number with thin spaces between its thousands."""
    return f"{number:,}".replace(",", "\u202f")


def percent(share: float | None) -> str:
    """A share of one: "0.4 %", "12 %"."""
    if share is None:
        return "–"
    if 0 < share < 0.1:
        return f"{max(share * 100, 0.1):.1f} %"
    return f"{share * 100:.0f} %"


def _coarse(seconds: float) -> str:
    for unit, size in (("days", 172_800), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / (86_400 if unit == 'days' else size):.0f} {unit}"
    return f"{seconds:.0f} s"
