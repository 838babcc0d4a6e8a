"""The libraries that are measured, each used as its documentation shows.

Each module here has the same few names, and imports its library only where it uses it, because the measuring process
imports the module without having the library:

``LABEL``, ``PACKAGES``
    How it is called in tables, and the distributions whose versions are reported.
``REQUIREMENTS``
    What ``make bench-peers`` installs for it; empty for what the project's own environment has.
``BULK``, ``SAFETY``
    In words: how it enqueues many jobs at best, and what its worker does about a crash.
``JOBS``
    How many no-op jobs one drain takes: enough for a second or more.
``Producer``
    ``open(url)``, ``close()``, ``enqueue(body, **arguments)``, which returns what ``result(…)`` waits for, and
    ``bulk(body, count, **arguments)``.
``work(url, concurrency, ready)``
    Runs one worker process until it is killed or told to stop.
``unfinished(server)``
    How many jobs are not settled yet, by the library's own keys, asked over a plain Redis client.
"""

from __future__ import annotations

import importlib
from typing import Any

NAMES = ("ours", "stock_saq", "streaq", "arq", "taskiq", "litestar_queues", "dramatiq", "celery")
OURS, STOCK = NAMES[:2]
ON_POSTGRES = (OURS, STOCK, "procrastinate")
"""Those that ``python -m benchmarks postgres`` measures."""


def load(name: str) -> Any:
    """The module of a contestant."""
    return importlib.import_module(f"{__name__}.{name}")
