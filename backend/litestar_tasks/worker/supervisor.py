"""Keeps processes running: starts, restarts, replaces and stops them.

It knows nothing of jobs or apps. Everything happens on one thread, in one loop: signals, reports of children and edits
wake it through pipes, and between them it waits for the next moment at which something is due.
"""

from __future__ import annotations

import logging
import math
import os
import selectors
import signal
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from litestar_tasks.worker.child import Child, Program, describe
from litestar_tasks.worker.reload import Edits
from litestar_tasks.worker.supervised import ONE_SIGNAL, READY

__all__ = ("Audience", "Program", "Supervisor")

logger = logging.getLogger("litestar_tasks.supervisor")

FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 30.0
"""Seconds before a dead child is restarted: from the first value, doubled each time, to the second."""
STEADY: Final = 60.0
"""A child that lived this long starts anew with the first delay."""
HURRY: Final = 10.0
"""Seconds after a second signal, until what still runs is killed: time to undo and to hand back, not to finish."""

_STOP: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_EDITED: Final = 0
"""What the thread that watches files writes where signals write their number."""


@dataclass(slots=True, eq=False)
class _Post:
    """A program, the child that runs it, and those that are leaving."""

    program: Program
    current: Child | None = None
    leaving: list[Child] = field(default_factory=list[Child])
    start_at: float = -math.inf
    after_edit: bool = False
    was_ready: bool = False
    failures: int = 0

    @property
    def children(self) -> list[Child]:
        return [*self.leaving, *([self.current] if self.current is not None else [])]

    @property
    def may_start(self) -> bool:
        return self.current is None and not (self.program.exclusive and self.leaving)


class Audience(Protocol):
    """Who is told what becomes of the children, each of which its process id names. All on the supervisor's thread."""

    def started(self, name: str, pid: int) -> None:
        """A program was started, for the first time or again."""
        ...

    def up(self, pid: int) -> None:
        """It reported that it is up."""
        ...

    def said(self, pid: int, message: bytes) -> None:
        """It reported something else."""
        ...

    def leaving(self, pid: int) -> None:
        """It was told to stop."""
        ...

    def ended(self, pid: int) -> None:
        """It is not there any more."""
        ...


class Supervisor:
    """Runs programs until it is told to stop. It owns its process: signal handlers, and every child there is.

    - SIGTERM, SIGINT and SIGHUP send one SIGTERM to each child and wait for its grace; a second one sends another,
      and SIGKILL soon after; a third one SIGKILL at once.
    - A child that dies is restarted after a delay that doubles each time. One that fails at its first start stops
      everything.
    - Children end with their supervisor, even if it is killed; see ``watch_parent``.
    - As process 1 of a container it also collects the processes that others left behind.

    Args:
        programs: What to run. Their names are distinct.
        reload_paths: Folders; an edit of a Python file in them replaces all children. A child that then fails at its
            start waits for the next edit. Needs watchfiles. Defaults to none.
        on_ready: Called once, when all children are up for the first time. Defaults to nothing.
        audience: Who is told what becomes of the children. Defaults to nobody.

    Attributes:
        finished: Whether every program was finite, and came to its end.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        *,
        reload_paths: Sequence[Path] = (),
        on_ready: Callable[[], None] = lambda: None,
        audience: Audience | None = None,
    ) -> None:
        self._posts = [_Post(program) for program in programs]
        self._on_ready = on_ready
        self._audience = audience
        self.finished = False
        self._home = Path.cwd()  # Asked now: later it may have been deleted.
        self._requests = 0
        self._asked = -math.inf
        self._status = 0
        self._selector = selectors.DefaultSelector()
        self._awake, self._alarm = os.pipe()
        # Only this process has the second one, so that the first one ends with it. Python hands neither on unasked.
        self._life, self._lifeline = os.pipe()
        self._edits = Edits(reload_paths, lambda: _write(self._alarm, _EDITED))

    def run(self) -> int:
        """Run until a signal, or until a child fails at its first start. From the main thread, and once.

        Returns:
            The exit code: 0 after a clean stop, a failed child's own code after a failed start, 1 if a child failed
            while it stopped or had to be killed.
        """
        with self._listening(), self._edits:
            while not self._stopping or any(post.children for post in self._posts):
                for key, _ in self._selector.select(self._patience()):
                    key.data()
                self._collect()
                self._keep_time()
        return self._status

    @property
    def _stopping(self) -> bool:
        return self._requests > 0

    @contextmanager
    def _listening(self) -> Generator[None]:
        for fd in (self._awake, self._alarm):
            os.set_blocking(fd, False)
        self._selector.register(self._awake, selectors.EVENT_READ, self._heed)
        # The numbers of signals arrive in the pipe; the handlers are only there to let them.
        before = signal.set_wakeup_fd(self._alarm, warn_on_full_buffer=False)
        for number in (*_STOP, signal.SIGCHLD):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, _do_nothing)
        try:
            yield
        finally:
            # The handlers stay: a signal that comes late does not turn a clean stop into an error.
            signal.set_wakeup_fd(before)
            self._selector.close()
            for fd in (self._awake, self._alarm, self._life, self._lifeline):
                os.close(fd)

    def _heed(self) -> None:
        for number in os.read(self._awake, 4096):
            if number == _EDITED:
                self._replace()
            elif number in _STOP:
                self._obey(signal.Signals(number))

    # ----------------------------------------------------------------------------------------------- starting

    def _start(self, post: _Post) -> None:
        after_edit, post.after_edit, post.start_at = post.after_edit, False, math.inf
        try:
            child = post.current = Child(post.program, life=self._life, after_edit=after_edit)
        except OSError as error:
            self._retry_or_stop(post, f"{post.program.name} cannot be started: {error}", after_edit=after_edit)
            return
        self._selector.register(child.report_fd, selectors.EVENT_READ, lambda: self._hear(post, child))
        if self._audience is not None:
            self._audience.started(post.program.name, child.pid)

    def _hear(self, post: _Post, child: Child) -> None:
        was_up = child.ready
        messages, more = child.listen()
        if not more:
            self._selector.unregister(child.report_fd)
        if child.ready and not was_up:
            self._is_up(post, child)
        if self._audience is not None:
            for message in messages:
                if message != READY:
                    self._audience.said(child.pid, message)

    def _is_up(self, post: _Post, child: Child) -> None:
        if self._audience is not None:
            self._audience.up(child.pid)
        logger.info("%s is up (pid %d)", post.program.name, child.pid)
        everyone_was = all(post.was_ready for post in self._posts)
        post.was_ready = True
        if not everyone_was and all(post.was_ready for post in self._posts):
            self._on_ready()

    def _replace(self) -> None:
        edited = self._edits.take()
        if self._stopping or not edited:
            return
        names = ", ".join(self._short(path) for path in edited[:3]) + (", …" if len(edited) > 3 else "")
        logger.info("%s changed; restarting %s", names, ", ".join(post.program.name for post in self._posts))
        for post in self._posts:
            self._dismiss(post)
            post.start_at, post.after_edit, post.failures = -math.inf, True, 0

    def _short(self, path: Path) -> str:
        return str(path.relative_to(self._home)) if path.is_relative_to(self._home) else str(path)

    # ------------------------------------------------------------------------------------------------- ending

    def _collect(self) -> None:
        """Wait for every child that has ended, and for orphans, which process 1 inherits."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for post in self._posts:
                for child in post.children:
                    if child.pid == pid:
                        self._ended(post, child, os.waitstatus_to_exitcode(status))

    def _ended(self, post: _Post, child: Child, code: int) -> None:
        if child.report_fd in self._selector.get_map():
            self._hear(post, child)  # Its report may still lie in the pipe.
        if child.report_fd in self._selector.get_map():  # A process that it left behind holds the other end.
            self._selector.unregister(child.report_fd)
        child.bury(code)
        if self._audience is not None:
            self._audience.ended(child.pid)
        what = f"{post.program.name} (pid {child.pid}) {describe(code)}"
        if child is not post.current:
            post.leaving.remove(child)
            # Those without a handler die of the signal. And how a start is interrupted says nothing about its code.
            if child.ready and code not in (0, -signal.SIGTERM, 128 + signal.SIGTERM):
                logger.warning("%s while it stopped", what)
                if self._stopping:
                    self._status = self._status or 1
            return
        post.current = None
        if post.program.finite and code == 0:
            logger.info("%s has finished", post.program.name)
            post.start_at = math.inf
            if not any(other.current is not None or other.start_at < math.inf for other in self._posts):
                self.finished = True
                self._requests += 1
        elif child.ready:
            if time.monotonic() - child.started >= STEADY:
                post.failures = 0
            self._restart(post, what)
        else:
            self._retry_or_stop(post, f"{what} before it was up", code, after_edit=child.after_edit)

    def _retry_or_stop(self, post: _Post, what: str, code: int = 1, *, after_edit: bool) -> None:
        if after_edit:
            logger.error("%s; waiting for the next edit", what)
        elif post.was_ready:
            self._restart(post, what)
        else:
            logger.error("%s; stopping", what)
            # A shell's number for a death by signal. And 0 is no success of one that was to stay.
            self._status = 128 - code if code < 0 else code or 1
            self._stop()

    def _restart(self, post: _Post, what: str) -> None:
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(post.failures, 10))
        post.failures += 1
        post.start_at = time.monotonic() + delay
        logger.warning("%s; restarting in %g s", what, delay)

    # ----------------------------------------------------------------------------------------------- stopping

    def _obey(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if now - self._asked <= ONE_SIGNAL:
            return  # The same one again: timeout(1) sends it to its program, and then to all of its group.
        self._asked = now
        if not self._stopping:
            logger.info("%s: stopping %s", number.name, ", ".join(post.program.name for post in self._posts))
            self._stop()
            return
        if number == signal.SIGHUP:
            return  # A terminal that closes sends it twice, a service manager along with SIGTERM. Nobody is in a hurry.
        self._requests += 1
        logger.warning("%s again: stopping at once", number.name)
        deadline = time.monotonic() + (HURRY if self._requests == 2 else 0)
        for post in self._posts:
            for child in post.leaving:
                if self._requests == 2:
                    child.stop(again=True)
                child.kill_at = min(child.kill_at, deadline)

    def _stop(self) -> None:
        self._requests += 1
        for post in self._posts:
            post.start_at = math.inf
            self._dismiss(post)

    def _dismiss(self, post: _Post) -> None:
        if post.current is not None:
            post.current.stop()
            if self._audience is not None:
                self._audience.leaving(post.current.pid)
            post.leaving.append(post.current)
            post.current = None

    # ----------------------------------------------------------------------------------------------- the time

    def _keep_time(self) -> None:
        now = time.monotonic()
        for post in self._posts:
            for child in post.leaving:
                if child.kill_at <= now:
                    logger.warning("%s (pid %d) does not stop; killing it", post.program.name, child.pid)
                    child.kill()
                    if self._stopping:
                        self._status = self._status or 1
            if post.may_start and post.start_at <= now:
                self._start(post)

    def _patience(self) -> float | None:
        moments = [child.kill_at for post in self._posts for child in post.leaving]
        moments += [post.start_at for post in self._posts if post.may_start]
        nearest = min(moments, default=math.inf)
        return None if nearest == math.inf else max(0.0, nearest - time.monotonic())


def _write(fd: int, number: int) -> None:
    try:
        os.write(fd, bytes([number]))
    except OSError:
        pass  # Full: it wakes up anyhow. Closed: it has ended.


def _do_nothing(*_: object) -> None:
    pass
