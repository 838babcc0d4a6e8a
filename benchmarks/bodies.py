"""What the jobs do: the same functions for every contestant."""

from __future__ import annotations

import asyncio
import time

from benchmarks import marks


async def noop(i: int) -> int:
    """Nothing: all that is measured is the queue's."""
    marks.started(i)
    return i


async def burn(i: int) -> int:
    """A millisecond of CPU."""
    marks.started(i)
    end = time.thread_time_ns() + 1_000_000
    while time.thread_time_ns() < end:
        pass
    return i


async def nap(i: int) -> int:
    """Ten milliseconds of waiting for something else."""
    marks.started(i)
    await asyncio.sleep(0.01)
    return i


async def carry(i: int, text: str) -> int:
    """A large payload."""
    marks.started(i)
    return len(text)


def sync_noop(i: int) -> int:
    """``noop`` for libraries whose tasks are sync."""
    marks.started(i)
    return i


def sync_burn(i: int) -> int:
    """``burn`` for libraries whose tasks are sync."""
    marks.started(i)
    end = time.thread_time_ns() + 1_000_000
    while time.thread_time_ns() < end:
        pass
    return i


def sync_nap(i: int) -> int:
    """``nap`` for libraries whose tasks are sync."""
    marks.started(i)
    time.sleep(0.01)
    return i


def sync_carry(i: int, text: str) -> int:
    """``carry`` for libraries whose tasks are sync."""
    marks.started(i)
    return len(text)


ASYNC = (noop, burn, nap, carry)
SYNC = {"noop": sync_noop, "burn": sync_burn, "nap": sync_nap, "carry": sync_carry}
