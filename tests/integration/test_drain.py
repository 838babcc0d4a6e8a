"""`litestar workers run --drain`: workers that end when there is nothing left to do."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress

from tests.homes import Home, enqueue, wait_for


def test_a_drain_runs_what_is_queued_and_ends(home: Home) -> None:
    home.write()
    (home.folder / "finish").touch()
    enqueue(home, "crawl", "greet", "greet", "later")
    status, output = home.run("workers", "run", "--drain", "--processes", "2")
    assert status == 0, output
    assert (len(home.events("greet-ada-.*")), len(home.events("crawl-ends"))) == (2, 1)
    assert "restarting" not in output
    assert "drained: 3 complete" in output
    assert "\x1b" not in output, "bars are for terminals"
    assert not home.events("greet-late-.*"), "what is due later is left"
    assert home.run("workers", "run", "--drain", "--reload")[0] == 2


def test_a_drain_leaves_other_queues_alone(home: Home) -> None:
    home.write()
    enqueue(home, "crawl")
    status, output = home.run("workers", "run", "--drain", "--queues", "default")
    assert (status, "drained: there was nothing to do" in output) == (0, True), output
    assert not home.events("crawl-.*")


def test_a_drain_waits_for_what_other_workers_run(home: Home) -> None:
    """Their jobs may be handed back, be retried, or enqueue more."""
    home.write()
    worker = home.start("workers", "run")
    enqueue(home, "crawl")
    (holder,) = wait_for(lambda: home.events("crawl-begins"), told=lambda: worker.output)
    drain = home.start("workers", "run", "--drain")
    drain.wait_for_output("draining: 0 jobs done, 1 left")
    os.kill(worker.process.pid, signal.SIGTERM)
    worker.wait_for_output("1 jobs are running")
    (home.folder / "finish").touch()
    assert drain.status() == 0, drain.output
    assert home.events("crawl-ends") == [holder]


def test_a_drain_that_is_stopped_early_has_failed(home: Home) -> None:
    """What comes after it, in a script, counts on empty queues."""
    home.write()
    enqueue(home, "crawl")
    drain = home.start("workers", "run", "--drain")
    wait_for(lambda: home.events("crawl-begins"), told=lambda: drain.output)
    drain.process.send_signal(signal.SIGTERM)
    drain.wait_for_output("1 jobs are running")
    (home.folder / "finish").touch()
    assert drain.status() == 1
    assert "stopped before the queues were empty" in drain.output


def test_a_worker_that_is_stopped_during_a_drain_has_not_finished(home: Home) -> None:
    """A service manager may signal it before its supervisor; by itself it is replaced."""
    home.write()
    enqueue(home, "crawl")
    drain = home.start("workers", "run", "--drain")
    (worker,) = wait_for(lambda: home.events("crawl-begins"), told=lambda: drain.output)
    os.kill(worker, signal.SIGTERM)
    drain.wait_for_output("1 jobs are running")
    (home.folder / "finish").touch()
    assert drain.status() == 0, drain.output
    assert re.search(r"worker \(pid \d+\) exited with code 143; restarting", drain.output)


def test_a_drain_in_a_terminal_has_a_bar(home: Home) -> None:
    home.write()
    enqueue(home, "greet", "greet", "greet")
    screen, terminal = os.openpty()
    try:
        drain = home.start("workers", "run", "--drain", terminal=terminal, TERM="xterm", COLUMNS="80")
        os.close(terminal)
        seen = ""
        with suppress(OSError):  # How the end of the other side is told.
            while chunk := os.read(screen, 65_536):
                seen += chunk.decode(errors="replace")
        assert drain.status() == 0, seen
    finally:
        os.close(screen)
    assert re.search(r"draining .*3/3", seen), seen
