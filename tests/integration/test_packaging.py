"""The wheel: what it holds, and that README's first app runs on it and nothing else."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "backend" / "litestar_tasks"

# The clocks of this module bound how long a slow index may take.
pytestmark = [pytest.mark.network, pytest.mark.timeout(600)]

# Waits for the job from a third process, as a script of the user's would.
RESULT = """
import asyncio, sys
import app

async def main():
    async with app.app.lifespan():
        print("result:", await app.greet.job(sys.argv[1]).result(timeout=30))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as a release is: the sdist from the checkout, the wheel from the sdist."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, ROOT, env=outside())
    assert len(list(out.glob("*.tar.gz"))) == 1
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel and the extras that README asks for."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", folder, env=outside())
    requirement = f"litestar-tasks[embedded,standard] @ {wheel.as_uri()}"
    pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--constraint", ROOT / "constraints.txt", requirement, env=outside())
    return folder


def test_the_wheel_holds_the_library_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    version = wheel.name.split("-")[1]
    assert {name.split("/")[0] for name in names} == {"litestar_tasks", f"litestar_tasks-{version}.dist-info"}
    assert f"litestar_tasks-{version}.dist-info/licenses/LICENSE" in names


def test_the_wheel_holds_every_file_of_the_library(wheel: Path) -> None:
    """Scripts, templates, static files and the marker of typed packages included."""
    files = {
        str(path.relative_to(PACKAGE.parent))
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    assert "litestar_tasks/py.typed" in files
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if not name.endswith("/")}
    assert {name for name in packed if name.startswith("litestar_tasks/")} == files


def test_the_wheel_says_what_it_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["Name"] == "litestar-tasks"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT"
    assert {"embedded", "standard", "sqlalchemy", "postgres"} <= set(metadata.get_all("Provides-Extra") or [])
    assert metadata.get_payload(), "README is the long description"


def test_the_first_app_of_readme_runs_on_the_wheel_alone(home: "Home") -> None:
    """Web process, worker and embedded server come from the wheel, and nothing comes from this machine."""
    port = free_port()
    web = home.start("run", "--port", str(port))
    worker = home.start("workers", "run")

    answer = wait_for(lambda: post(f"http://127.0.0.1:{port}/greet/ada"), 60, web, worker)
    assert "result: Hello, ada!" in home.python(RESULT, answer["job_id"]).splitlines(), home.output()
    if sys.platform == "linux":
        assert home.alive("valkey"), "the embedded server is not the wheel's"

    assert home.stop(worker) == 0, home.output()
    # Uvicorn ends itself with the signal that stopped it.
    assert home.stop(web) in {0, -signal.SIGTERM}, home.output()
    wait_for(lambda: not home.alive(), 15)


# ------------------------------------------------------------------------------------------------ helpers


class Home:
    """An empty folder with README's first app, and what runs in it with the environment's programs."""

    def __init__(self, environment: Path, folder: Path) -> None:
        self.environment, self.folder = environment, folder
        self.processes: list[subprocess.Popen[bytes]] = []
        # What the app sees: no redis-server on the PATH, no setting of ours.
        self.variables = {"HOME": str(folder), "PATH": str(environment / "bin"), "LANG": "C.UTF-8"}
        (folder / "app.py").write_text(first_app_of_readme(), encoding="utf-8")

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{arguments[0]}.log").open("wb") as log:
            started = subprocess.Popen(
                [self.environment / "bin" / "litestar", "--app", "app:app", *arguments],
                cwd=self.folder,
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(started)
        return started

    def stop(self, process: subprocess.Popen[bytes]) -> int:
        """As a service manager does it: SIGTERM, and a while to finish."""
        assert process.poll() is None, "it ended early\n" + self.output()
        process.send_signal(signal.SIGTERM)
        return process.wait(timeout=45)

    def python(self, script: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(self.environment / "bin" / "python"), "-c", script, *arguments],
            cwd=self.folder,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout + done.stderr

    def alive(self, name: str = "") -> list[int]:
        """Ids of the processes that run a program of the environment, or name one."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes().decode("utf-8", "replace")
                program = str((folder / "exe").readlink())
            except OSError:
                continue  # It has ended, or is none of ours to ask.
            if str(self.environment) in program + command and name in program + command:
                found.append(int(folder.name))
        return found

    def output(self) -> str:
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')}" for log in logs)

    def tear_down(self) -> None:
        """Leave nothing running, however the test went."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for pid in self.alive():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def home(environment: Path, tmp_path: Path) -> Iterator[Home]:
    home = Home(environment, tmp_path)
    yield home
    home.tear_down()


def first_app_of_readme() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    apps = [block for block in blocks if "registry = Registry()" in block]
    assert apps, "README.md shows no app with `registry = Registry()` in a python block"
    return str(apps[0])


def outside() -> dict[str, str]:
    """Our environment, for build and installation: the index is configured there. Without our packages."""
    return {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}


def run(*command: str | Path, env: dict[str, str]) -> None:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def post(url: str) -> Any:
    """The answer as JSON; None while nobody listens."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError:
        raise
    except (ConnectionError, urllib.error.URLError):
        return None


def wait_for(what: Callable[[], Any], seconds: float, *processes: subprocess.Popen[bytes]) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline, f"nothing after {seconds} s"
        assert all(one.poll() is None for one in processes), "a process ended early"
        time.sleep(0.05)
    return value
