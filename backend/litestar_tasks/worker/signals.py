"""What a process of workers does when it is told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from litestar_tasks.worker.supervised import ONE_SIGNAL

if TYPE_CHECKING:
    from litestar_tasks.worker.worker import Worker

__all__ = ("stop_signals",)


@contextmanager
def stop_signals(workers: Sequence[Worker]) -> Generator[asyncio.Event, None, None]:
    """The first SIGTERM or SIGINT asks to stop, by the event; a further one ends the grace period.

    A repetition within a second is the same one: a service manager that signals every process of a service, and the
    supervisor that hands on what it got, both reach this process.
    """
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    asked = 0.0

    def receive() -> None:
        nonlocal asked
        if not stopping.is_set():
            asked = loop.time()
            stopping.set()
        elif loop.time() - asked > ONE_SIGNAL:
            for worker in workers:
                worker.hurry()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, receive)
    try:
        yield stopping
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
