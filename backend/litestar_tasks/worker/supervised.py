"""What a supervised process does for its supervisor: it says when it is up, and does not outlive it.

The supervisor hands over two descriptors, whose numbers stand in the environment. Without a supervisor both functions
do nothing, so a process may call them however it was started.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time

__all__ = ("GRACE", "PARENT_FD", "READY_FD", "report_ready", "watch_parent")

PARENT_FD = "LITESTAR_TASKS_PARENT_FD"
"""The read end of a pipe whose only write end is the supervisor's: it ends when the supervisor does, however."""
READY_FD = "LITESTAR_TASKS_READY_FD"
"""The write end of a pipe that takes one byte: this process is up."""
GRACE = "LITESTAR_TASKS_GRACE"
"""Seconds that this process has to stop in."""


_ready_fd: int | None = None


def watch_parent() -> None:
    """From now on, stop this process when its supervisor has ended, even by SIGKILL.

    Call it once, from the main thread, before anything that takes long. It sends this process what the supervisor
    would have sent: SIGTERM, and SIGKILL when the grace period is over.
    """
    global _ready_fd
    grace = float(os.environ.pop(GRACE, math.inf))
    fd, _ready_fd = _inherited(PARENT_FD), _inherited(READY_FD)
    if fd is not None:
        main = threading.get_ident()
        threading.Thread(target=_follow, args=(fd, main, grace), name="watch-parent", daemon=True).start()


def report_ready() -> None:
    """Tell the supervisor that this process is up, after ``watch_parent``. Further calls do nothing."""
    global _ready_fd
    fd, _ready_fd = _ready_fd, None
    if fd is None:
        return
    try:
        os.write(fd, b"\x01")
    except BrokenPipeError:
        pass  # The supervisor has just ended; whoever watches it will see.
    finally:
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
