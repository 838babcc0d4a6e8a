"""The garbage collector of a process that does nothing but run jobs."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

__all__ = ("collected_seldom",)

_THRESHOLDS: Final = (10_000, 20, 20)
"""Objects that come to be before the youngest are looked at, and how many looks make one at the older ones. A busy
worker makes more than Python's own 700 in every turn, and nearly all of them are gone at its end."""


@contextmanager
def collected_seldom() -> Generator[None, None, None]:
    """Within the block the collector looks less often, and not at what the app has loaded by then, which stays anyway.

    It is about a tenth of a busy worker's time (``gc.freeze`` in Python's documentation).
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
