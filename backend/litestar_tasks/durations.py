"""Durations as their users give them: in seconds, or as a timedelta."""

from __future__ import annotations

from datetime import timedelta

__all__ = ("seconds",)


def seconds(value: float | timedelta) -> float:
    """A duration in seconds."""
    return value.total_seconds() if isinstance(value, timedelta) else float(value)
