"""A Redis of the benchmark's own, on a free port, and what it says of its work."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis


@dataclass(frozen=True)
class Usage:
    """What the server has done since it started."""

    cpu: float
    commands: int
    memory: int

    def __sub__(self, earlier: Usage) -> Usage:
        return Usage(self.cpu - earlier.cpu, self.commands - earlier.commands, self.memory - earlier.memory)


class Database:
    """One of a server's databases."""

    def __init__(self, port: int, number: int) -> None:
        self.url = f"redis://127.0.0.1:{port}/{number}"
        self.client: Any = redis.Redis(port=port, db=number)

    def clear(self) -> None:
        """Delete what is in it."""
        self.client.flushdb()


class Server:
    """A running server."""

    def __init__(self, port: int) -> None:
        self.client: Any = redis.Redis(port=port)
        self._databases = [Database(port, number) for number in range(2)]

    def database(self, number: int) -> Database:
        """The first or the second database."""
        return self._databases[number]

    @property
    def version(self) -> str:
        info = self.client.info("server")
        return (
            f"{'Valkey' if 'valkey_version' in info else 'Redis'} {info.get('valkey_version', info['redis_version'])}"
        )

    def usage(self) -> Usage:
        """CPU seconds, commands (those that scripts call included) and bytes in use."""
        info = self.client.info("everything")
        commands = sum(
            counts["calls"] for name, counts in info.items() if name.startswith("cmdstat_") and name != "cmdstat_info"
        )
        return Usage(info["used_cpu_user"] + info["used_cpu_sys"], commands, info["used_memory"])

    def clear(self) -> None:
        """Delete everything."""
        self.client.flushall()


@contextmanager
def run(*, append_only: bool = False) -> Iterator[Server]:
    """Start a server without snapshots, with an append-only file (fsync every second) if asked for, and stop it."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise SystemExit("the benchmarks need redis-server or valkey-server on the PATH")
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--loglevel", "warning"]
        if append_only:
            options += ["--appendonly", "yes", "--appendfsync", "everysec"]
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        try:
            server = Server(port)
            _wait_for(server.client)
            yield server
        finally:
            process.kill()
            process.wait()


def _wait_for(client: redis.Redis) -> None:
    for _ in range(500):
        try:
            client.ping()
        except redis.ConnectionError:
            time.sleep(0.01)
        else:
            return
    raise SystemExit("the benchmarks' Redis does not start")
