"""What holds for every test: how tests share the machine."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadGroupScheduling

from tests.homes import ABSENT

ROOM = pytest.StashKey["Room"]()
FOLDER = pytest.StashKey[Path]()

# A shell that starts the tests in the background has them ignore Ctrl-C, and nohup the end of the terminal; what they
# start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_xdist_auto_num_workers() -> int:
    """Three times as many as there are cores: most tests wait, for processes and for the clock."""
    return 3 * (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class FilesScheduling(LoadGroupScheduling):
    """Gives each process whole files, and all tests marked ``alone`` to one, whichever files they are in."""

    def _split_scope(self, nodeid: str) -> str:
        return super()._split_scope(nodeid).partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FilesScheduling:
    """How processes share the tests."""
    return FilesScheduling(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Name the run, so that its first process knows where the others meet, and can clear that away."""
    config.option.testrunuid = config.option.testrunuid or uuid4().hex


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing behind."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(_folder(config), ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that are alone come first, together: the others wait once, not for each of them."""
    items.sort(key=lambda item: not _is(item, "alone"))
    for item in items:
        if _is(item, "alone"):
            item.add_marker(pytest.mark.xdist_group("alone"))


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Keep the compiled tests for the other processes of the run, also where Python is told not to write bytecode."""
    told, sys.dont_write_bytecode = sys.dont_write_bytecode, False
    try:
        return (yield)
    finally:
        sys.dont_write_bytecode = told


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, object, object]:
    """Let one process compile a file's assertions, which takes longer than all else, and the others read it then."""
    if not isinstance(collector, pytest.Module):
        return (yield)
    with (_folder(collector.config) / f"{collector.nodeid.replace('/', '-')}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return (yield)


def pytest_collection_finish() -> None:
    """Thousands of tests and all that they import stay to the end; no collection of garbage need look at them again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def light_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that the test starts load no more than an app without a database needs."""
    monkeypatch.setenv("PYTHONPATH", ABSENT["PYTHONPATH"])
    monkeypatch.syspath_prepend(ABSENT["PYTHONPATH"])  # which the processes of executors are given


class Room:
    """Keeps tests that measure time apart from all others, in whichever process of this run those are.

    Args:
        folder: Where the processes of the run meet.
    """

    def __init__(self, folder: Path) -> None:
        self._gate = (folder / "gate").open("ab")
        self._room = (folder / "room").open("ab")
        self._mine = False

    @contextmanager
    def shared(self, item: pytest.Item, then: pytest.Item | None) -> Generator[None]:
        """Wait until a test may run, and let others in behind it; but for those that come one after another alone."""
        if _is(item, "aside"):
            yield
            return
        alone = _is(item, "alone")
        if not self._mine:
            fcntl.flock(self._gate, fcntl.LOCK_EX)  # who wants to be alone keeps the gate while the room empties
            fcntl.flock(self._room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            fcntl.flock(self._gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            self._mine = alone and then is not None and _is(then, "alone")
            if not self._mine:
                fcntl.flock(self._room, fcntl.LOCK_UN)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outside of the test's own time limit
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Run a test when the others let it."""
    with _room(item.config).shared(item, nextitem):
        return (yield)


def _room(config: pytest.Config) -> Room:
    if (room := config.stash.get(ROOM, None)) is None:
        room = config.stash[ROOM] = Room(_folder(config))
    return room


def _folder(config: pytest.Config) -> Path:
    """One for the processes of a run."""
    if (folder := config.stash.get(FOLDER, None)) is None:
        run = getattr(config, "workerinput", {}).get("testrunuid") or config.getoption("testrunuid")
        folder = config.stash[FOLDER] = Path(tempfile.gettempdir()) / f"tests-{run}"
        folder.mkdir(exist_ok=True)
    return folder


def _is(item: pytest.Item, mark: str) -> bool:
    return item.get_closest_marker(mark) is not None
