"""An app with a worker of its own, under several web servers: it stops with the app, and loses nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from litestar_tasks.queues.redis import RedisQueue
from tests.homes import ABSENT, free_port, wait_for
from tests.servers import RedisServer

APP = """
import asyncio, os
from contextlib import asynccontextmanager
from pathlib import Path
from litestar import Litestar, get, post
from litestar_tasks import Registry, TasksConfig, TasksPlugin

registry = Registry()

def tell(word):
    with open("events", "a") as events:
        events.write(f"{os.getpid()} {word}\\n")

@registry.task
async def crawl() -> None:
    tell("begins")
    try:
        while not Path("finish").exists():
            await asyncio.sleep(0.01)
    finally:
        tell("ends")

@post("/crawl")
async def send() -> dict[str, str]:
    return {"id": (await crawl.enqueue()).id}

@get("/")
async def index() -> dict[str, str]:
    return {}

@asynccontextmanager
async def engine(app):
    tell("opened")
    yield
    tell("closed")

config = TasksConfig(
    registry=registry,
    broker_url=os.environ["BROKER"],
    in_process_worker=True,
    queue_configs=registry.queue_configs(default={"shutdown_grace_period_s": int(os.environ["GRACE"])}),
)

def create_app() -> Litestar:
    return Litestar([index, send], lifespan=[engine], plugins=[TasksPlugin(config)])
"""
COMMANDS = {
    "uvicorn": "uvicorn --factory shop:create_app --port {port} --workers {workers}",
    "granian": "granian --interface asgi --factory shop:create_app --port {port} --workers {workers}",
    "hypercorn": "hypercorn shop:create_app() --bind 127.0.0.1:{port} --workers {workers}",
}
SOON = 60.0
"""Seconds, on a machine that has other things to do."""


class Site:
    """A web server with the app, in a folder."""

    def __init__(self, folder: Path, broker: RedisServer, command: str, *, workers: int = 1, grace: int = 60) -> None:
        (folder / "shop.py").write_text(APP)
        self.folder, self.broker, self.port = folder, broker, free_port()
        self.log = folder / f"log-{self.port}"
        program, *words = command.format(port=self.port, workers=workers).split()
        path = f"{ABSENT['PYTHONPATH']}:{folder}"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [Path(sys.executable).parent / program, *words],
                cwd=folder,
                env={**os.environ, "BROKER": broker.url, "GRACE": str(grace), "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.wait_for(self.answers)

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def events(self, word: str) -> list[int]:
        """The processes that told a word."""
        with suppress(FileNotFoundError):
            lines = [line.split() for line in (self.folder / "events").read_text().splitlines()]
            return [int(pid) for pid, told in lines if told == word]
        return []

    def answers(self) -> bool:
        assert self.process.poll() is None, self.output
        with suppress(OSError):
            return bool(self.ask("/", "GET") == {})
        return False

    def ask(self, path: str, method: str) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        with urllib.request.urlopen(request, timeout=SOON) as answer:
            return json.load(answer)

    def wait_for(self, what: Callable[[], Any]) -> Any:
        return wait_for(what, SOON, lambda: self.output)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait_until_ended(self) -> None:
        self.wait_for(lambda: self.process.poll() is not None)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def start(tmp_path: Path, start_server: Callable[..., RedisServer]) -> Iterator[Callable[..., Site]]:
    broker, sites = start_server(), list[Site]()

    def start(command: str, **options: int) -> Site:
        sites.append(Site(tmp_path, broker, command, **options))
        return sites[-1]

    yield start
    for site in sites:
        site.kill()


def job_of(site: Site, job_id: str) -> tuple[str | None, int]:
    """Where a job stands, and how many attempts were counted, as the broker has it."""

    async def look() -> tuple[str | None, int]:
        queue = RedisQueue.from_url(site.broker.url)
        try:
            key = job_id.rpartition(":")[2]
            job = await queue.job(key)
            return await queue.status(key), job.attempts if job else -1
        finally:
            await queue.disconnect()

    return asyncio.run(look())


@pytest.mark.parametrize("server", COMMANDS)
def test_a_running_job_is_finished_before_the_app_closes(start: Callable[..., Site], server: str) -> None:
    site = start(COMMANDS[server], workers=2)
    site.wait_for(lambda: site.output.count("each web process of this app has a worker of its own") == 2)
    job_id = site.ask("/crawl", "POST")["id"]
    (worker,) = site.wait_for(lambda: site.events("begins"))
    site.terminate()
    site.wait_for(lambda: "stopping; 1 jobs are running" in site.output)
    (site.folder / "finish").touch()
    site.wait_until_ended()
    assert job_of(site, job_id) == ("complete", 1), site.output
    assert site.events("begins") == site.events("ends") == [worker]
    assert len(site.events("closed")) == 2, "the app's own lifespan ends after its worker"


@pytest.mark.parametrize("server", COMMANDS)
def test_a_job_that_outlasts_its_grace_is_handed_back(start: Callable[..., Site], server: str) -> None:
    site = start(COMMANDS[server], grace=0)
    job_id = site.ask("/crawl", "POST")["id"]
    site.wait_for(lambda: site.events("begins"))
    site.terminate()
    site.wait_until_ended()
    assert job_of(site, job_id) == ("queued", 0), site.output
    assert site.events("ends"), "its clean-up ran"


@pytest.mark.parametrize(
    "command",
    [
        f"{COMMANDS['uvicorn']} --lifespan off",
        COMMANDS["granian"].replace("--interface asgi", "--interface asginl"),
    ],
    ids=["uvicorn", "granian"],
)
def test_a_server_that_runs_no_lifespan_is_named_by_the_first_enqueue(start: Callable[..., Site], command: str) -> None:
    site = start(command)
    with pytest.raises(urllib.error.HTTPError) as caught:
        site.ask("/crawl", "POST")
    caught.value.close()
    assert caught.value.code == 500
    site.wait_for(lambda: "not attached to a running app" in site.output)
    assert "lifespan, which may have been turned off" in site.output
