"""Moments as records hold them: milliseconds since the epoch, 0 for none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = ("maybe_moment", "milliseconds", "moment_of")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def milliseconds(value: datetime | timedelta) -> int:
    """A moment as ms since the epoch, or a duration in ms."""
    duration = value - _EPOCH if isinstance(value, datetime) else value
    return duration // timedelta(milliseconds=1)


def moment_of(value: float) -> datetime:
    """A moment in UTC, from ms since the epoch.

    Raises:
        OverflowError, ValueError: There is no such moment.
    """
    return _EPOCH + timedelta(milliseconds=value)


def maybe_moment(value: float | None) -> datetime | None:
    """A moment in UTC; None for 0, and for what is none, as somebody else may have written it."""
    try:
        return moment_of(value) if value else None
    except (OverflowError, ValueError):
        return None
