"""When a failed job is tried again."""

from __future__ import annotations

import random
from typing import Final

__all__ = ("full_jitter",)

_BASE: Final = 1.0
_CAP: Final = 300.0


def full_jitter(attempt: int) -> float:
    """Seconds until the next attempt: a random part of a limit that doubles with each one.

    The random part keeps jobs that failed together from coming back together ("full jitter" in Marc Brooker's
    "Exponential Backoff and Jitter").

    Args:
        attempt: The attempt that failed, from 1.

    Returns:
        Between 0 and 1, 2, 4, … and at most 300.
    """
    return random.uniform(0, min(_CAP, _BASE * 2 ** min(attempt - 1, 30)))  # noqa: S311  # spreads load, keeps no secret
