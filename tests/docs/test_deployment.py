"""What QUEUE_SETUP.md gives to service managers and to clusters: it can be read, it fits, and its commands run."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

import litestar_tasks
from litestar_tasks.cli import children
from tests.docs.documents import ROOT, blocks
from tests.docs.shells import BIN, environment
from tests.homes import as_process_1, children_of, free_port

SOON: Final = 60.0
UNITS: Final = {
    re.match(r"# /etc/systemd/system/(\S+)\n", block.source)[1]: block.source  # type: ignore[index]  # else it fails
    for block in blocks("ini")
    if "[Service]" in block.source
}
(DEPLOYMENT,) = (
    document
    for block in blocks("yaml", documents=("QUEUE_SETUP.md",))
    for document in yaml.safe_load_all(block.source)
    if document.get("kind") == "Deployment"
)
POD: Final[dict[str, Any]] = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
SERVICES: Final = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]


def grace() -> float:
    """Seconds that a worker may take to stop."""
    of_jobs = litestar_tasks.QueueConfig().shutdown_grace_period_s
    assert of_jobs is not None
    return of_jobs + children._AFTER_THE_GRACE


def setting(unit: str, name: str) -> str:
    reader = configparser.ConfigParser(interpolation=None)
    reader.read_string(UNITS[unit])
    return reader["Service"][name]


# ------------------------------------------------------------------------------------------------ what it says


def test_there_is_a_unit_for_the_web_process_and_one_for_the_workers() -> None:
    assert set(UNITS) == {"shop-web.service", "shop-worker.service"}


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_takes_the_unit(unit: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        assert "CI" not in os.environ, ".ci/packages installs it"
        pytest.skip("no systemd-analyze here")
    # The application, its environment and its user are somebody else's.
    text = re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", UNITS[unit], flags=re.MULTILINE)
    path = tmp_path / unit
    path.write_text(re.sub(r"^User=.*$", "User=root", text, flags=re.MULTILINE))
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_signals_the_main_process_restarts_it_and_waits_long_enough(unit: str) -> None:
    assert setting(unit, "KillMode") == "mixed"
    assert setting(unit, "Restart") == "on-failure"
    requests = re.search(r"--timeout-graceful-shutdown (\d+)", setting(unit, "ExecStart"))
    assert int(setting(unit, "TimeoutStopSec")) > (int(requests[1]) if requests else grace())


def test_kubernetes_asks_what_the_container_answers_and_waits_long_enough() -> None:
    assert DEPLOYMENT["apiVersion"] == "apps/v1"
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"] == DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    assert POD["terminationGracePeriodSeconds"] > grace()
    (port,) = CONTAINER["ports"]
    assert f"--health-port={port['containerPort']}" in CONTAINER["command"]
    assert "--health-host=0.0.0.0" in CONTAINER["command"], "probes come from outside of the pod"
    probes = {name: CONTAINER[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/ready",
        "liveness": "/live",
        "readiness": "/ready",
    }
    scraped = DEPLOYMENT["spec"]["template"]["metadata"]["annotations"]
    assert scraped["prometheus.io/port"] == str(port["containerPort"])


# ---------------------------------------------------------------------------------------------------- that it runs


class Host:
    """A folder in which a documented command runs the reference app."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.env = environment(folder)
        self.log = folder / "log"
        # As each deployment does, before a release starts.
        migrate = [sys.executable, "-m", "app.manage", "migrate"]
        subprocess.run(migrate, cwd=folder, env=self.env, check=True, capture_output=True)

    def start(self, command: list[str], *wrapper: str) -> None:
        """Run a command with the programs of this environment, on a port that is free."""
        program, *words = command
        words = [re.sub(r"^(--health-port=)?(8000|9000)$", rf"\g<1>{self.port}", word) for word in words]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*wrapper, str(BIN / Path(program).name), *words],
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def answers(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=SOON) as answer:
                return json.load(answer)["status"] in ("ok", "ready", "alive")
        except (urllib.error.HTTPError, OSError):
            return False

    def wait_for(self, what: Callable[[], Any]) -> None:
        deadline = time.monotonic() + SOON
        while not what():
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    def stop(self, pid: int) -> None:
        os.kill(pid, signal.SIGTERM)
        assert self.process.wait(SOON) == 0, self.log.read_text()

    def tear_down(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.tear_down()


@pytest.mark.parametrize("unit", UNITS)
def test_the_command_of_a_unit_comes_up_and_stops_cleanly(host: Host, unit: str) -> None:
    host.start(shlex.split(setting(unit, "ExecStart")))
    host.wait_for(lambda: host.answers("/health") or "worker is up" in host.log.read_text())
    if unit == "shop-web.service":
        # uvicorn ends with the signal that it got, which systemd takes for a clean end.
        host.process.send_signal(signal.SIGTERM)
        assert host.process.wait(SOON) in (0, -signal.SIGTERM), host.log.read_text()
    else:
        host.stop(host.process.pid)


@pytest.mark.parametrize(
    "command", [CONTAINER["command"], SERVICES["worker"]["command"]], ids=["kubernetes", "docker compose"]
)
def test_the_command_of_a_container_runs_as_process_1_answers_probes_and_stops_cleanly(
    host: Host, command: list[str]
) -> None:
    host.start(command, *as_process_1())
    host.wait_for(lambda: host.answers("/live"))
    host.wait_for(lambda: host.answers("/ready"))
    (first,) = children_of(host.process.pid)
    host.stop(first)
