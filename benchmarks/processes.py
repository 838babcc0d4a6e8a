"""The processes of a contestant, seen from the measuring one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import contestants

ROOT = Path(__file__).parent.parent
PEERS = ROOT / ".venv-bench"
_TICKS = os.sysconf("SC_CLK_TCK")


class ContestantError(Exception):
    """A contestant could not be measured; says why."""


def python_of(name: str) -> Path | None:
    """The interpreter that has a contestant's library; None where it is not installed."""
    if not contestants.load(name).REQUIREMENTS:
        return Path(sys.executable)
    python = PEERS / name / "bin" / "python"
    return python if python.exists() else None


class Agent:
    """A process of ``benchmarks.agent``."""

    def __init__(self, role: str, name: str, url: str, *, concurrency: int = 32) -> None:
        self._what = f"{name} ({role})"
        self._process = subprocess.Popen(
            [str(python_of(name)), "-m", "benchmarks.agent", role, name, url, str(concurrency)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("BENCHMARK_DEBUG") else subprocess.DEVNULL,
            text=True,
        )

    def ask(self, **order: Any) -> Any:
        """Give an order, and return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self.hear()

    def hear(self) -> Any:
        """The next answer."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ContestantError(f"{self._what} ended with code {self._process.wait()}")
        return json.loads(line)

    def cpu(self) -> float:
        """CPU seconds of the process and its descendants so far; not a number where the system has no /proc."""
        return cpu_of(self._process.pid)

    def stop(self) -> None:
        """End it, and what it started. The server is emptied next, so nothing has to be put in order."""
        for pid in _descendants(self._process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self._process.wait()


def cpu_of(pid: int) -> float:
    """CPU seconds of a process and its descendants so far; not a number where the system has no /proc."""
    try:
        return sum(map(_ticks, _descendants(pid))) / _TICKS
    except OSError:
        return float("nan")


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15]))


def _descendants(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for parent in found:  # which grows meanwhile
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found
