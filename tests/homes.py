"""An app in a folder, and the commands that run it, as a shell and a service manager start them."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

LITESTAR = Path(sys.executable).parent / "litestar"
SOON = 60.0
# Litestar and redis-py load these wherever they are installed. Before processes of an app that uses none of them, this
# is half of what their start takes.
ABSENT = {"PYTHONPATH": str(Path(__file__).parent / "absent")}

# Its jobs and its lifespan leave lines in a file, each with the process's id.
APP = """
import asyncio, os, time
from contextlib import asynccontextmanager
from pathlib import Path
from litestar import Litestar, get, post
from litestar_tasks import DashboardConfig, Registry, TasksConfig, TasksPlugin

VERSION = "one"
registry = Registry()

def tell(word: str) -> None:
    with open("events", "a") as events:
        events.write(f"{os.getpid()} {word}\\n")

@registry.task
async def greet(*, name: str) -> str:
    tell(f"greet-{name}-{VERSION}")
    return f"Hello, {name}!"

@registry.task(queue="slow")
async def crawl() -> str:
    tell("crawl-begins")
    while not Path("finish").exists():
        await asyncio.sleep(0.01)
    tell("crawl-ends")
    return VERSION

@registry.scheduled_task(cron="0 2 * * *", timezone="Europe/Berlin")
async def clean_up() -> None: ...

@get("/")
async def index() -> dict[str, int | str]:
    return {"version": VERSION, "pid": os.getpid()}

@post("/greet")
async def send() -> dict[str, str]:
    return {"job_id": (await greet.enqueue(name="ada")).id}

@post("/crawl")
async def send_slow() -> dict[str, str]:
    return {"job_id": (await crawl.enqueue()).id}

@asynccontextmanager
async def lifespan(app):
    tell("opened")
    yield
    tell("closed")

def create_app() -> Litestar:
    config = TasksConfig(registry=registry, BROKER)
    return Litestar([index, send, send_slow], lifespan=[lifespan], plugins=[TasksPlugin(config)])
"""
IN_MEMORY = 'broker_url="memory://", in_process_worker=True'
EMBEDDED = ""
# Changes with which the import waits; both the supervisor and its workers import the app.
SLOW_IMPORT = {
    "@registry.task\nasync def greet": """import sys
who = "worker" if sys.argv[0].endswith("process.py") else "supervisor"
tell(f"imports-{who}")
while Path(f"hold-{who}").exists():
    time.sleep(0.01)

@registry.task
async def greet"""
}


class Home:
    """A folder with an app, and what runs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Command] = []
        self.port = free_port()

    def write(self, broker: str = EMBEDDED, file: str = "sample.py", **changes: str) -> None:
        """The app, with some of its text replaced. As editors do it: never half a file."""
        text = APP.replace("BROKER", broker)
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        draft = self.folder / f"{file}.new"
        draft.parent.mkdir(exist_ok=True)
        draft.write_text(text)
        draft.rename(self.folder / file)

    def start(
        self,
        *arguments: str,
        app: str | None = "sample:create_app",
        wrapper: Sequence[str] = (),
        terminal: int | None = None,
        **variables: str,
    ) -> Command:
        options = ("--app", app) if app else ()
        command = Command(self, [*wrapper, str(LITESTAR), *options, *arguments], variables, terminal)
        self.started.append(command)
        return command

    def run(self, *arguments: str, app: str | None = "sample:create_app", **variables: str) -> tuple[int, str]:
        command = self.start(*arguments, app=app, **variables)
        return command.status(), command.output

    def dev(self, *arguments: str, **variables: str) -> Command:
        command = self.start("tasks", "dev", "--port", str(self.port), *arguments, **variables)
        command.wait_for_output("Ctrl-C stops everything")
        return command

    def events(self, pattern: str) -> list[int]:
        """The processes that told a word."""
        try:
            lines = [line.split() for line in (self.folder / "events").read_text().splitlines()]
        except FileNotFoundError:
            return []
        return [int(pid) for pid, word in lines if re.fullmatch(pattern, word)]

    def ask(self, path: str = "/", method: str = "GET") -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        with urllib.request.urlopen(request, timeout=SOON) as answer:
            return json.load(answer)

    def tear_down(self) -> None:
        """Leave nothing running, however the test went."""
        (self.folder / "finish").touch()
        for command in self.started:
            command.process.kill()
            command.process.wait()
        # Children notice by themselves; this is for those that do not.
        with suppress(AssertionError):
            wait_for(lambda: not self.alive(), 5)
        for pid in self.alive():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def alive(self) -> dict[int, str]:
        """The processes that work in the folder, the embedded server among them, but for the commands."""
        listing = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,stat=,args="], capture_output=True, text=True).stdout
        found = {}
        for pid, stat, args in (line.split(None, 2) for line in listing.splitlines() if line.count(" ") > 1):
            if str(self.folder) in args or (works_in(int(pid)) or self.folder.parent).is_relative_to(self.folder):
                found[int(pid)] = f"{stat} {args}"
        commands = {command.process.pid for command in self.started}
        return {pid: line for pid, line in found.items() if pid not in commands and not line.startswith("Z")}


class Command:
    """A started `litestar`. What it prints goes into a file, or to a terminal whose other end the test holds."""

    def __init__(self, home: Home, words: list[str], variables: dict[str, str], terminal: int | None = None) -> None:
        self.log = home.folder / f"log-{len(home.started)}"
        unset = ("LITESTAR_APP", "PORT", "MAKELEVEL", "NO_COLOR", "FORCE_COLOR", "TASKS_BROKER_URL")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                words,
                cwd=home.folder,
                env={name: value for name, value in os.environ.items() if name not in unset} | ABSENT | variables,
                stdin=subprocess.DEVNULL,
                stdout=log if terminal is None else terminal,
                stderr=log if terminal is None else terminal,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.log.read_text()

    def wait_for_output(self, pattern: str, seconds: float = SOON) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            match = re.search(pattern, self.output)
            assert match or self.process.poll() is None, f"it ended early\n{self.output}"
            return match

        match: re.Match[str] = wait_for(found, seconds, lambda: self.output)
        return match

    def status(self, seconds: float = SOON) -> int:
        wait_for(lambda: self.process.poll() is not None, seconds, lambda: self.output)
        return self.process.returncode

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.status()


def wait_for(what: Callable[[], Any], seconds: float = SOON, told: Callable[[], str] = str) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline, f"nothing after {seconds} s\n{told()}"
        time.sleep(0.02)
    return value


def free_port() -> int:
    """A port that is free now, and that the kernel gives to nobody who has not asked for it by its number."""
    while True:
        port = random.randint(10_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def works_in(pid: int) -> Path | None:
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return None


def children_of(pid: int) -> list[int]:
    listing = subprocess.run(["ps", "-A", "-o", "ppid=,pid="], capture_output=True, text=True, check=True).stdout
    pairs = [line.split() for line in listing.splitlines()]
    return [int(own) for parent, own in pairs if int(parent) == pid]


def as_process_1() -> tuple[str, ...]:
    """What has to stand before a command for it to run as process 1, as in a container; skips where that cannot be."""
    wrapper = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if shutil.which("unshare") is None or subprocess.run([*wrapper, "true"], capture_output=True).returncode != 0:
        pytest.skip("needs unshare and the right to make a pid namespace")
    return wrapper


def enqueue(home: Home, *tasks: str) -> None:
    """Enqueue from a process of its own, in order. ``later`` is a greeting that is due in an hour."""
    calls = {
        "crawl": "sample.crawl.enqueue()",
        "greet": "sample.greet.enqueue(name='ada')",
        "later": "sample.greet.using(delay=3600).enqueue(name='late')",
    }
    body = "".join(f"        await {calls[task]}\n" for task in tasks)
    script = (
        "import asyncio, sample\nasync def main():\n    async with sample.create_app().lifespan():\n"
        f"{body}asyncio.run(main())"
    )
    subprocess.run(
        [sys.executable, "-c", script], cwd=home.folder, env={**os.environ, **ABSENT}, check=True, timeout=SOON
    )
