"""Which process holds a lease, so that its end is noticed before the lease lapses.

Silence alone tells little: a worker may be stopped, or cut off. That its process has ended is certain, and whoever
runs on the same machine can see it: the kernel knows. So a worker's lease is entered with its process, and the other
workers of the machine look now and then whether that still exists. None of them has to be its parent: it is the same
for a sibling, and for the worker that takes its place. Where the kernel says too little (without Linux's ``/proc``),
leases lapse.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Self

__all__ = ("Process", "this_process")

_PROC: Final = Path("/proc")
_OVER: Final = frozenset("ZX")
"""States of a process that runs no more, and of which the parent has not taken notice yet."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process, told from every other one.

    Attributes:
        machine: Where its number means it: one boot of one machine, and the namespaces in which the process sees
            numbers and times of processes. Containers with one host name, or with the same numbers, differ here.
        pid: Its number.
        started: When it started, in the kernel's ticks. A later process with its number started later.
    """

    machine: str
    pid: int
    started: int

    @classmethod
    def parse(cls, machine: str, text: str) -> Self | None:
        """What ``str`` made of a process of this machine; None of anything else."""
        pid, _, started = text.partition(":")
        if not (pid.isdecimal() and started.isdecimal()) or int(pid) == 0:
            return None
        return cls(machine, int(pid), int(started))

    def __str__(self) -> str:
        return f"{self.pid}:{self.started}"

    def has_ended(self) -> bool:
        """Whether no thread of it runs any more, or can run again. Asked on its own machine.

        True is certain, False is not: one that is stopped or frozen exists, and so does one that may not be looked at.
        """
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass  # it exists, and is another user's
        if (entry := _entry(self.pid)) is None:
            return False  # it is hidden from us (`hidepid`), or has just ended: the next look will tell
        # The first thread may have ended, and be such a zombie, while others of the process are still at work.
        return entry.started != self.started or (entry.state in _OVER and entry.threads <= 1)


def this_process() -> Process | None:
    """The process that calls this; None where the kernel does not tell enough to find it again.

    Not to be kept beyond a fork.
    """
    pid = os.getpid()
    try:
        # A /proc that belongs to another namespace lists other processes under our numbers.
        if f"NSpid:\t{pid}\n" not in Path(_PROC, "self/status").read_text("utf-8", "replace"):
            return None
        boot = Path(_PROC, "sys/kernel/random/boot_id").read_text("ascii").strip()
        numbers = Path(_PROC, "self/ns/pid").stat().st_ino
        times = Path(_PROC, "self/ns/time")
        machine = f"{boot}-{numbers}-{times.stat().st_ino if times.exists() else 0}"
    except (OSError, UnicodeError):
        return None
    entry = _entry(pid)
    return Process(machine, pid, entry.started) if entry else None


class _Entry(NamedTuple):
    state: str
    threads: int
    started: int


def _entry(pid: int) -> _Entry | None:
    """What ``/proc/<pid>/stat`` says, or None."""
    try:
        text = Path(_PROC, str(pid), "stat").read_text("utf-8", "replace")
        # The program's name stands in parentheses, and may itself hold blanks and parentheses.
        fields = text.rpartition(")")[2].split()
        return _Entry(fields[0], int(fields[17]), int(fields[19]))
    except (OSError, ValueError, IndexError):
        return None
