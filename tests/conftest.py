"""What holds for every test: how tests share the machine."""

from __future__ import annotations

import fcntl
import os
import signal
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import IO

import pytest

# A shell that starts the tests in the background has them ignore Ctrl-C, and what they start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers() -> int:
    """Three times as many as there are cores: most tests wait, for processes and for the clock."""
    return 3 * (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@pytest.fixture(scope="session")
def locks(testrun_uid: str) -> Generator[tuple[IO[bytes], IO[bytes]]]:
    """Two files that all processes of this run lock: a gate, and the room behind it."""
    folder = Path(tempfile.gettempdir()) / f"tests-{testrun_uid}"
    folder.mkdir(exist_ok=True)
    with (folder / "gate").open("ab") as gate, (folder / "room").open("ab") as room:
        yield gate, room


@pytest.fixture(autouse=True)
def _share_the_machine(request: pytest.FixtureRequest, locks: tuple[IO[bytes], IO[bytes]]) -> Generator[None]:
    """Tests marked ``alone`` measure time: while one runs, the other processes wait, but for those marked ``aside``."""
    if request.node.get_closest_marker("aside"):
        yield
        return
    gate, room = locks
    fcntl.flock(gate, fcntl.LOCK_EX)  # who wants to be alone keeps the gate while the room empties
    fcntl.flock(room, fcntl.LOCK_EX if request.node.get_closest_marker("alone") else fcntl.LOCK_SH)
    fcntl.flock(gate, fcntl.LOCK_UN)
    yield
    fcntl.flock(room, fcntl.LOCK_UN)
