"""`litestar workers run --health-port`: what probes and Prometheus see of real workers."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.homes import SLOW_IMPORT, SOON, Command, Home, enqueue, free_port, wait_for
from tests.servers import RedisServer


class Probes:
    """Asks a command that runs workers."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._url = command.wait_for_output(r"probes and metrics at (http://127\.0\.0\.1:\d+)/live")[1]

    def ask(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"{self._url}/{path}", timeout=SOON) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def live(self) -> bool:
        return self.ask("live")[0] == 200

    def ready(self) -> bool:
        return self.ask("ready")[0] == 200

    def workers(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self.ask("ready")[1])["workers"]
        return found

    def metric(self, name: str) -> float | None:
        """A sample's value, by its name and labels as they stand in the text."""
        found = re.search(rf"^litestar_tasks_{re.escape(name)} (\S+)$", self.ask("metrics")[1], re.MULTILINE)
        return float(found[1]) if found else None

    def wait_for(self, what: Callable[[], Any]) -> None:
        wait_for(what, 2 * SOON, lambda: f"{self.ask('ready')}\n{self._command.output}")


def test_probes_and_metrics_follow_a_worker_from_its_import_to_its_end(home: Home) -> None:
    home.write(**SLOW_IMPORT)
    (home.folder / "hold-worker").touch()
    command = home.start("workers", "run", "--health-port", "0")
    probes = Probes(command)
    assert (probes.live(), probes.ready(), probes.workers()) == (True, False, {"worker": "starting"})
    (home.folder / "hold-worker").unlink()
    probes.wait_for(probes.ready)
    (first,) = home.events("opened")

    enqueue(home, "greet", "greet", "later")
    probes.wait_for(lambda: probes.metric('jobs_total{queue="default",task="greet",outcome="complete"}') == 2)
    probes.wait_for(lambda: probes.metric('queue_jobs{queue="default",status="scheduled"}') == 1)
    assert probes.metric('lease_age_seconds{worker="worker",queue="default"}') is not None

    os.kill(first, signal.SIGKILL)
    probes.wait_for(lambda: probes.metric("worker_starts_total") == 2)
    assert probes.live(), "it is being restarted"
    probes.wait_for(probes.ready)
    assert probes.metric('jobs_total{queue="default",task="greet",outcome="complete"}') == 2, "counters only grow"

    enqueue(home, "crawl")
    probes.wait_for(lambda: probes.metric('jobs_running{queue="slow"}') == 1)
    assert probes.metric('capacity{queue="slow"}') == 9
    command.process.send_signal(signal.SIGTERM)
    command.wait_for_output("1 jobs are running")
    assert (probes.live(), probes.ready(), probes.workers()) == (True, False, {"worker": "stopping"})
    (home.folder / "finish").touch()
    assert command.status() == 0, command.output


def test_an_outage_of_the_broker_makes_it_unready_and_ends_nobody(
    home: Home, start_server: Callable[..., RedisServer]
) -> None:
    server = start_server("--appendonly", "yes")
    home.write(broker=f'broker_url="{server.url}"')
    command = home.start("workers", "run", "--processes", "2", "--health-port", "0")
    probes = Probes(command)
    probes.wait_for(lambda: probes.workers() == {"worker-1": "ready", "worker-2": "ready"})
    server.kill()
    probes.wait_for(lambda: probes.workers() == {"worker-1": "no broker", "worker-2": "no broker"})
    assert (probes.live(), probes.ready()) == (True, False)
    assert probes.metric('queue_jobs{queue="default",status="queued"}') is None
    server.start()
    probes.wait_for(probes.ready)
    assert len(home.events("opened")) == 2
    assert command.stop(signal.SIGTERM) == 0, command.output


def test_nothing_listens_unless_it_is_asked_for(home: Home) -> None:
    home.write()
    command = home.start("workers", "run")
    pid = int(command.wait_for_output(r"worker is up \(pid (\d+)\)")[1])
    assert not listening(command.process.pid)
    assert not listening(pid)
    assert command.stop(signal.SIGTERM) == 0


def listening(pid: int) -> set[str]:
    """The TCP sockets on which a process listens."""
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    own = {found[1] for link in links if (found := re.fullmatch(r"socket:\[(\d+)\]", link))}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return own & {row[9] for row in rows if row[3] == "0A"}


def test_a_taken_port_is_said_before_anything_starts(home: Home) -> None:
    home.write()
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        status, output = home.run("workers", "run", "--health-port", str(port))
    assert (status, output) == (1, f"port {port} is taken; choose another: --health-port {port + 1}\n")
    assert not home.events("opened")
