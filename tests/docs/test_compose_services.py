"""The services of docker-compose.yml, started without Docker: their own commands, settings and health checks."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.docs.documents import ROOT
from tests.docs.shells import environment
from tests.homes import free_port
from tests.servers import PostgresServer, postgres_binaries

pytestmark = [
    pytest.mark.skipif(postgres_binaries() is None, reason="Postgres is not installed"),
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
]

SOON: Final = 90.0
SERVICES: Final[dict[str, dict[str, Any]]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))[
    "services"
]
SERVED: Final[list[str]] = json.loads(
    re.findall(r"^CMD (\[.*?\])", (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", ""), re.MULTILINE)[-1]
)
PASSWORD: Final = "0f7a"


class Stack:
    """What Docker would give the services: names of hosts, ports, a volume, and variables."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._postgres = PostgresServer()
        self._postgres.execute("CREATE ROLE app LOGIN")
        self._postgres.execute("CREATE DATABASE app OWNER app")
        self.ports = {6379: free_port(), 8000: free_port(), 9000: free_port()}
        self.mailbox = folder / "data" / "mailbox"
        self.mailbox.mkdir(parents=True)

    def start(self, service: str, command: list[str]) -> None:
        with self._log(service).open("wb") as log:
            self._processes[service] = subprocess.Popen(
                self._here(command), cwd=self._folder, env=self._environment(service), stdout=log, stderr=log
            )

    def run(self, service: str, command: list[str]) -> int:
        with self._log(service).open("ab") as log:
            return subprocess.run(
                self._here(command),
                cwd=self._folder,
                env=self._environment(service),
                stdout=log,
                stderr=log,
                check=False,
                timeout=SOON,
            ).returncode

    def healthy(self, service: str) -> bool:
        """Whether the service's own health check says so."""
        kind, *test = SERVICES[service]["healthcheck"]["test"]
        return self.run(service, ["sh", "-c", *test] if kind == "CMD-SHELL" else test) == 0

    def wait_for(self, what: Callable[[], Any]) -> None:
        deadline = time.monotonic() + SOON
        while not what():
            assert time.monotonic() < deadline, self.logs()
            assert not any(process.poll() for process in self._processes.values()), self.logs()
            time.sleep(0.1)

    def stop(self, service: str) -> int:
        process = self._processes.pop(service)
        process.send_signal(signal.SIGTERM)
        return process.wait(SOON)

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in self._folder.glob("*.log"))

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
        self._postgres.close()

    def _log(self, service: str) -> Path:
        return self._folder / f"{service}.log"

    def _environment(self, service: str) -> dict[str, str]:
        given = {name: self._address(value) for name, value in SERVICES[service].get("environment", {}).items()}
        return environment(self._folder, **given)

    def _here(self, command: list[str]) -> list[str]:
        return [self._address(word) for word in command]

    def _address(self, text: str) -> str:
        """A word of the file as it reads on this machine, where there are no names and volumes of Docker's."""
        text = re.sub(r"\$\{\w*PASSWORD:\?[^}]*\}", PASSWORD, text).replace("$$", "$")
        text = text.replace("@redis:6379", f"@127.0.0.1:{self.ports[6379]}")
        text = text.replace("@postgres:5432/app", f"@/app?host={self._postgres.folder}")
        text = text.replace("--host 127.0.0.1 --username", f"--host {self._postgres.folder} --username")
        text = text.replace("redis-cli ping", f"redis-cli -p {self.ports[6379]} ping")
        text = re.sub(r"^exec redis-server", f"exec redis-server --port {self.ports[6379]} --dir {self._folder}", text)
        text = re.sub(r"\b(8000|9000)\b", lambda found: str(self.ports[int(found[1])]), text)
        return text.replace("/data/mailbox", str(self.mailbox)).replace("0.0.0.0", "127.0.0.1")  # as it is read


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    one = Stack(tmp_path)
    yield one
    one.close()


def test_the_services_come_up_in_their_order_work_together_and_stop_cleanly(stack: Stack) -> None:
    stack.start("redis", SERVICES["redis"]["command"])
    stack.wait_for(lambda: stack.healthy("redis"))
    if shutil.which("pg_isready"):
        assert stack.healthy("postgres"), stack.logs()
    assert stack.run("migrate", SERVICES["migrate"]["command"]) == 0, stack.logs()
    stack.start("web", SERVED)
    stack.start("worker", SERVICES["worker"]["command"])
    stack.wait_for(lambda: stack.healthy("web") and stack.healthy("worker"))

    request = urllib.request.Request(
        f"http://127.0.0.1:{stack.ports[8000]}/users",
        data=b'{"name": "Ada", "email": "ada@example.com"}',
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=SOON) as answer:
        assert answer.status == 201
    stack.wait_for(lambda: list(stack.mailbox.iterdir()))
    stack.wait_for(lambda: any("Welcome, Ada!" in path.read_text() for path in stack.mailbox.iterdir()))

    assert stack.stop("worker") == 0, stack.logs()
    assert stack.stop("web") in (0, -signal.SIGTERM), stack.logs()
    assert stack.stop("redis") == 0, stack.logs()
    assert PASSWORD not in stack.logs()
