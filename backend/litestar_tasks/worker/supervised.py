"""What a supervised process does for its supervisor: it says when it is up and how it fares, and does not outlive it.

The supervisor hands over two descriptors, whose numbers stand in the environment. Without a supervisor the functions
that use them do nothing, so a process may call them however it was started.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time

__all__ = (
    "GRACE",
    "ONE_SIGNAL",
    "PARENT_FD",
    "READY",
    "REPORT_FD",
    "report",
    "report_ready",
    "stop_at_once",
    "watch_parent",
)

PARENT_FD = "LITESTAR_TASKS_PARENT_FD"
"""The read end of a pipe whose only write end is the supervisor's: it ends when the supervisor does, however."""
REPORT_FD = "LITESTAR_TASKS_REPORT_FD"
"""The write end of a pipe that takes lines: ``READY``, and whatever else the process has to say."""
READY = b"ready"
"""This process is up."""
GRACE = "LITESTAR_TASKS_GRACE"
"""Seconds that this process has to stop in."""
ONE_SIGNAL = 1.0
"""Seconds within which a signal that is repeated is the same one: several may hand on what one of them got."""

_report_fd: int | None = None
_unsent = b""


def stop_at_once() -> None:
    """From now on, end with 0 at SIGTERM and SIGINT, until other handlers are installed.

    For the time in which nothing has been started that would have to be stopped, such as that of the app's import. By
    default process 1 would ignore the one, and others would end with an error. Call it from the main thread.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)


def watch_parent() -> None:
    """From now on, stop this process when its supervisor has ended, even by SIGKILL.

    Call it once, from the main thread, before anything that takes long. It sends this process what the supervisor
    would have sent: SIGTERM, and SIGKILL when the grace period is over.
    """
    global _report_fd
    grace = float(os.environ.pop(GRACE, math.inf))
    fd, _report_fd = _inherited(PARENT_FD), _inherited(REPORT_FD)
    if _report_fd is not None:
        os.set_blocking(_report_fd, False)
    if fd is not None:
        main = threading.get_ident()
        threading.Thread(target=_follow, args=(fd, main, grace), name="watch-parent", daemon=True).start()


def report_ready() -> None:
    """Tell the supervisor that this process is up, after ``watch_parent``."""
    _send(READY, at_any_rate=True)


def report(message: bytes) -> None:
    """Tell the supervisor something, in one line. It is left out while one that lags has not read the last.

    Call it from one thread.
    """
    _send(message, at_any_rate=False)


def _send(message: bytes, *, at_any_rate: bool) -> None:
    global _report_fd, _unsent
    if _report_fd is None:
        return
    if at_any_rate or not _unsent:
        _unsent += message + b"\n"
    try:
        while _unsent:
            _unsent = _unsent[os.write(_report_fd, _unsent) :]
    except BlockingIOError:
        pass  # The rest goes with the next one: no line is left in pieces.
    except BrokenPipeError:
        # The supervisor has just ended; whoever watches it will see.
        fd, _report_fd = _report_fd, None
        os.close(fd)


def _inherited(variable: str) -> int | None:
    """The descriptor that a variable names; both are kept from the programs that this process starts itself."""
    number = os.environ.pop(variable, "")
    if not number.isdigit():
        return None
    try:
        os.set_inheritable(int(number), False)
    except OSError:  # The variable comes from a process further up, whose descriptors are not ours.
        return None
    return int(number)


def _end(number: int, frame: object) -> None:
    # Not by an exception, which what is being imported might catch.
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, RuntimeError, ValueError):
            pass  # There is none, nobody reads it, or it was being written to in this moment.
    os._exit(0)


def _follow(fd: int, main: int, grace: float) -> None:
    try:
        while os.read(fd, 1):
            pass
    except OSError:
        return  # This process closed what it did not know. It cannot be followed any more.
    # To the main thread by name: this thread would do for the kernel, but not interrupt what the main thread waits in.
    signal.pthread_kill(main, signal.SIGTERM)
    if grace == math.inf:
        return
    time.sleep(grace)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
