"""One child process of the supervisor, from its start to its end."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from litestar_tasks.worker.supervised import GRACE, PARENT_FD, READY, REPORT_FD

__all__ = ("Child", "Program", "describe")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What a supervisor keeps running.

    The process calls ``watch_parent()`` first of all, ``report_ready()`` when it is up, and ``report()`` as it likes;
    one that ends before it was up counts as failed at its start.
    """

    name: str
    """Names it in the log."""
    argv: Sequence[str]
    """The command."""
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    """Variables beside those of the supervisor. Defaults to none."""
    exclusive: bool = False
    """Whether only one process of it can live, because it holds a port: at an edit the old one ends before the new
    one starts. Defaults to False: the new one starts at once, beside the old one that finishes its work."""
    grace: float = 60.0
    """Seconds that it has to stop in, before it is killed; ``math.inf`` for as long as it likes. Defaults to 60."""
    pass_fds: Sequence[int] = ()
    """Descriptors that it inherits. Defaults to none."""
    finite: bool = False
    """Whether it ends by itself when its work is done: with 0 it is not restarted, and the supervisor ends with the
    last one. Defaults to False."""


class Child:
    """A running process of a program.

    It leads a process group of its own: Ctrl-C in a terminal reaches the supervisor alone, and what the process
    started and left behind can be ended with it.

    Args:
        program: What runs.
        life: A descriptor that the supervisor's end closes; see ``PARENT_FD``.
        after_edit: Whether an edit is the reason for its start.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, program: Program, *, life: int, after_edit: bool) -> None:
        self.program = program
        self.after_edit = after_edit
        self.ready = False
        self.kill_at = math.inf
        self.started = time.monotonic()
        self._told = False
        self._heard = b""
        self.report_fd, theirs = os.pipe()
        os.set_blocking(self.report_fd, False)
        try:
            self._popen = subprocess.Popen(
                program.argv,
                env={
                    **os.environ,
                    **program.env,
                    PARENT_FD: str(life),
                    REPORT_FD: str(theirs),
                    GRACE: str(program.grace),
                },
                # A process in the background that reads from its terminal is stopped by the kernel.
                stdin=subprocess.DEVNULL,
                pass_fds=(life, theirs, *program.pass_fds),
                process_group=0,
            )
        except OSError:
            os.close(self.report_fd)
            raise
        finally:
            os.close(theirs)

    @property
    def pid(self) -> int:
        """Its process id, which is also its group's."""
        return self._popen.pid

    def listen(self) -> tuple[list[bytes], bool]:
        """Read what it has reported.

        Returns:
            Its messages, and whether there may be more to come.
        """
        more = True
        try:
            while chunk := os.read(self.report_fd, 65_536):
                self._heard += chunk
            more = False
        except BlockingIOError:
            pass
        *messages, self._heard = self._heard.split(b"\n")
        self.ready = self.ready or READY in messages
        return messages, more

    def stop(self, *, again: bool = False) -> None:
        """Send SIGTERM, once; ``again`` sends another one, which asks to stop without grace."""
        if not self._told:
            self.kill_at = time.monotonic() + self.program.grace
        if not self._told or again:
            self._told = True
            # Not by way of Popen, which would first wait for a child that has just ended. Its pid is taken until we do.
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it, and what it started in its group."""
        self.kill_at = math.inf
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # Nothing is left; macOS says so with the second of the two.

    def bury(self, code: int) -> None:
        """Note that it has ended and was waited for, and end what it left behind in its group."""
        self._popen.returncode = code
        self.kill()
        os.close(self.report_fd)


def describe(code: int) -> str:
    """How a process ended, by its exit code as ``subprocess`` has it."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
