"""Moments as records hold them: milliseconds since the epoch, 0 for none."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ("maybe_moment", "moment")


def moment(milliseconds: float) -> datetime:
    """A moment in UTC.

    Raises:
        OverflowError, OSError, ValueError: There is no such moment.
    """
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def maybe_moment(milliseconds: float | None) -> datetime | None:
    """A moment in UTC; None for 0, and for what is none, as somebody else may have written it."""
    try:
        return moment(milliseconds) if milliseconds else None
    except (OverflowError, OSError, ValueError):
        return None
