"""Tasks for processes of their own, which have to be found in a module that another process can import."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import UUID

from litestar_tasks import Constant, Discard, Registry, Retry, correlation_id

registry = Registry("processes", executor="process", backoff=Constant(0.01))
task = registry.task


@dataclass(frozen=True)
class Parcel:
    number: UUID
    sent: datetime


class OddError(Exception):
    """One that can be pickled, and not be read again."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


@task
def process_id() -> int:
    return os.getpid()


@task
def same(*, parcels: list[Parcel], note: str = "🚀") -> dict[str, list[Parcel]]:
    return {note: parcels}


@task
def whence() -> str | None:
    return correlation_id.get()


@task(max_attempts=2)
def refuse(*, how: str) -> object:
    match how:
        case "retry":
            raise Retry("busy")
        case "discard":
            raise Discard("pointless")
        case "odd":
            raise OddError(1, 2)
        case "exit":
            sys.exit("gone")
        case "crash":
            ctypes.string_at(0)
        case "object":
            return object()
    raise LookupError(how)


@task(timeout=0.5)
def hold_the_lock() -> None:
    """Backtracks in C, with the GIL held, for longer than anybody will wait."""
    re.match(r"(a+)+$", "a" * 60 + "b")


@task
def linger(*, note: str, seconds: float = 600) -> None:
    """Writes down which process it is, and sleeps."""
    Path(note).write_text(str(os.getpid()))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.05)


@task
def survive_signals(*, note: str) -> str:
    """Is sent what a terminal or a service manager sends to every process, and goes on."""
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)
    return note


@registry.task(executor="thread")
def thread_process_id() -> int:
    return os.getpid()
