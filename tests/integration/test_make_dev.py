"""The two commands of a newcomer, on the embedded broker: what `make dev` starts, answers, and leaves behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]


def until(condition: Callable[[], Any], *, seconds: float = 30, what: str = "the condition") -> Any:
    """Poll until something is true, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} was never met"
        time.sleep(0.02)
    return found


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what `make dev` needs; the environment is the one that runs the tests."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy2(ROOT / name, folder)
    shutil.copytree(ROOT / "backend", folder / "backend")
    (folder / ".venv").symlink_to(Path(sys.prefix))
    return folder


class Dev:
    """A running `make dev` in a terminal's foreground: a process group of its own, as a shell makes it."""

    def __init__(self, folder: Path, *, port: int, target: str = "dev") -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / f"{target}-{time.monotonic_ns()}.log"
        environment = {name: value for name, value in os.environ.items() if name not in ("CI", "DEBUG", "PORT")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["make", target, f"PORT={port}"],
                cwd=folder,
                env={**environment, "PYTHONPATH": str(folder / "backend")},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.log.read_text()

    def wait_until_up(self, line: str = "Ctrl-C stops everything") -> None:
        until(lambda: line in self.output or self.process.poll() is not None, what=f"a start: {self.output}")
        assert self.process.poll() is None, self.output

    def press_ctrl_c(self) -> int:
        """What a terminal does: SIGINT to every process of the foreground's group."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(40)


@pytest.fixture
def run(checkout: Path) -> Iterator[Callable[..., Dev]]:
    started: list[Dev] = []

    def start(**settings: Any) -> Dev:
        started.append(Dev(checkout, **settings))
        return started[-1]

    yield start
    for dev in started:
        if dev.process.poll() is None:
            dev.press_ctrl_c()


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
        return number


def processes_in(folder: Path) -> list[str]:
    """The command lines of the processes that work in a folder or below it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cwd").resolve().is_relative_to(folder):
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue  # it has ended, or belongs to somebody else
    return found


def result_of(url: str, job_id: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        answer: dict[str, Any] = httpx.get(f"{url}/jobs/{job_id}").json()
        return answer if answer["status"] == "complete" else None

    found: dict[str, Any] = until(ended, seconds=10, what="the job's end")
    return found


@pytest.mark.alone
def test_make_dev_runs_a_job_stops_without_a_trace_and_finds_its_data_again(
    checkout: Path, run: Callable[..., Dev], port: int
) -> None:
    dev = run(port=port)
    dev.wait_until_up()
    assert f"http://localhost:{port}/saq" in dev.output
    before = time.monotonic()
    created = httpx.post(f"{dev.url}/users", json={"name": "Ada Lovelace", "email": "ada@example.com"})
    assert created.status_code == 201, created.text
    job_id = created.json()["job_id"]
    assert result_of(dev.url, job_id)["result"]["status"] == "sent"
    assert time.monotonic() - before < 2
    assert list((checkout / ".litestar-tasks" / "mailbox").glob("*.eml"))
    page = httpx.get(f"{dev.url}/saq", follow_redirects=True)
    assert page.status_code == 200, page.text

    second = run(port=port)
    assert second.process.wait(30) != 0
    assert re.search(r"runs already in this folder, as process \d+", second.output), second.output

    dev.press_ctrl_c()
    assert "Traceback" not in dev.output, dev.output
    assert processes_in(checkout) == []
    assert list(checkout.rglob("*.sock")) == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(dev.url)

    again = run(port=port)
    again.wait_until_up()
    assert httpx.get(f"{again.url}/jobs/{job_id}").json()["result"]["status"] == "sent"
    again.press_ctrl_c()
    assert processes_in(checkout) == []


def test_a_taken_port_is_said(run: Callable[..., Dev], port: int) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        dev = run(port=port)
        assert dev.process.wait(30) != 0
    assert f"port {port} is taken; choose another: make dev PORT=" in dev.output


@pytest.mark.alone
def test_dev_worker_shares_the_broker_takes_over_and_reloads_on_an_edit(
    checkout: Path, run: Callable[..., Dev], port: int
) -> None:
    dev = run(port=port)
    dev.wait_until_up()
    worker = run(port=port, target="dev-worker")
    worker.wait_until_up("is up (pid")
    tasks = checkout / "backend" / "app" / "queue" / "tasks.py"
    tasks.write_text(tasks.read_text() + "\n\n@task\nasync def written_just_now() -> str:\n    return 'new code'\n")
    until(lambda: worker.output.count("is up (pid") == 2, what=f"a reload: {worker.output}")
    until(lambda: dev.output.count("worker is up (pid") == 2, what="a reload of the first worker")
    until(lambda: dev.output.count("web is up (pid") == 2, what="a reload of the web process")

    schema = json.loads(httpx.get(f"{dev.url}/health").text)
    assert schema["status"] == "ok"
    worker.press_ctrl_c()
    created = httpx.post(f"{dev.url}/users", json={"name": "Eve", "email": "eve@example.com"})
    assert result_of(dev.url, created.json()["job_id"])["result"]["status"] == "sent"
    dev.press_ctrl_c()
    assert processes_in(checkout) == []


def test_a_failing_line_fails_the_target(checkout: Path, run: Callable[..., Dev], port: int) -> None:
    (checkout / "backend" / "app" / "settings.py").write_text("raise SystemExit('broken settings')\n")
    dev = run(port=port)
    assert dev.process.wait(30) != 0
    assert "broken settings" in dev.output
    assert "is up" not in dev.output
