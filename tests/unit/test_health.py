"""Probes and metrics: what the supervisor makes of its workers' words, and answers to whom."""

from __future__ import annotations

import json
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from litestar_tasks.worker import board as board_module
from litestar_tasks.worker import health as health_module
from litestar_tasks.worker.board import Board
from litestar_tasks.worker.health import Health
from litestar_tasks.worker.metrics import prometheus_text
from litestar_tasks.worker.state import Depth, Ended, QueueState, State

DEPTH = Depth(queued=3, active=2, scheduled=1)
FINE = QueueState(claiming=True, running=2, capacity=8, depth=DEPTH, lease_age=1.5, lease_renewing=True)


def changed(**fields: Any) -> QueueState:
    return msgspec.structs.replace(FINE, **fields)


def tell(board: Board, pid: int, *states: QueueState, ended: tuple[Ended, ...] = ()) -> None:
    queues = {f"queue{number}": state for number, state in enumerate(states)}
    board.said(pid, msgspec.json.encode(State(queues=queues, ended=list(ended))))


def working(*names: str) -> Board:
    """A board whose workers, with process ids from 1 on, are up and fine."""
    board = Board(names)
    for pid, name in enumerate(names, start=1):
        board.started(name, pid)
        board.up(pid)
        tell(board, pid, FINE)
    return board


class TestBoard:
    def test_one_worker_that_takes_jobs_makes_it_ready(self) -> None:
        board = Board(["one", "two"])
        assert board.snapshot().workers == {"one": "starting", "two": "starting"}
        board.started("one", 1)
        board.started("two", 2)
        assert (board.snapshot().alive, board.snapshot().ready) == (True, False)
        board.up(1)
        assert not board.snapshot().ready, "it has not said how it fares"
        tell(board, 1, FINE)
        assert board.snapshot().workers == {"one": "ready", "two": "starting"}
        assert board.snapshot().ready

    @pytest.mark.parametrize(
        ("state", "status"),
        [
            (changed(depth=None), "no broker"),
            (changed(claiming=False), "not claiming"),
            (changed(lease_age=None), "ready"),
            (changed(lease_age=40.0, depth=None), "no broker"),
        ],
    )
    def test_what_a_worker_waits_for_is_no_reason_to_end_it(self, state: QueueState, status: str) -> None:
        board = working("one")
        tell(board, 1, FINE, state)
        snapshot = board.snapshot()
        assert snapshot.workers == {"one": status}
        assert snapshot.alive
        assert snapshot.ready is (status == "ready")

    def test_a_worker_whose_lease_nobody_renews_is_stuck(self) -> None:
        board = working("one", "two")
        tell(board, 2, FINE, changed(lease_renewing=False))
        snapshot = board.snapshot()
        assert snapshot.workers == {"one": "ready", "two": "stuck"}
        assert not snapshot.alive
        assert snapshot.ready

    def test_a_worker_that_says_nothing_any_more_is_stuck(self, monkeypatch: pytest.MonkeyPatch) -> None:
        board = working("one")
        monkeypatch.setattr(board_module, "STUCK", -1.0)
        assert not board.snapshot().alive
        board.leaving(1)
        assert board.snapshot().alive, "one that stops has its grace period for that"

    def test_a_worker_that_was_lost_is_being_restarted(self) -> None:
        board = working("one")
        board.ended(1)
        assert (board.snapshot().workers, board.snapshot().alive) == ({"one": "restarting"}, True)
        board.started("one", 2)
        assert board.snapshot().workers == {"one": "starting"}

    def test_after_an_edit_the_new_worker_counts_and_the_old_one_s_jobs_do_too(self) -> None:
        board = working("one")
        board.leaving(1)
        assert board.snapshot().workers == {"one": "stopping"}
        board.started("one", 2)
        board.up(2)
        tell(board, 2, changed(lease_age=0.5))
        tell(board, 1, changed(claiming=False, lease_age=9.0))
        assert board.snapshot().workers == {"one": "ready"}
        text = prometheus_text(board.snapshot())
        assert 'jobs_running{queue="queue0"} 4' in text
        assert 'capacity{queue="queue0"} 8' in text
        assert 'lease_age_seconds{worker="one",queue="queue0"} 0.5' in text

    def test_counters_only_grow(self) -> None:
        board = working("one", "two")
        tell(board, 1, FINE, ended=(Ended("default", "greet", "complete", 5), Ended("default", "greet", "failed", 1)))
        tell(board, 2, FINE, ended=(Ended("default", "greet", "complete", 2),))
        assert board.snapshot().ended == Counter(
            {("default", "greet", "complete"): 7, ("default", "greet", "failed"): 1}
        )
        board.ended(1)
        board.started("one", 3)
        tell(board, 3, FINE, ended=(Ended("default", "greet", "complete", 1),))
        assert board.snapshot().ended["default", "greet", "complete"] == 8


class TestMetrics:
    def test_the_text_is_prometheus_own(self) -> None:
        board = working("one")
        tell(board, 1, FINE, ended=(Ended("default", 'a"b\\c\nd', "complete", 5),))
        text = prometheus_text(board.snapshot())
        described: dict[str, str] = {}
        for line in text.splitlines():
            if comment := re.fullmatch(r"# (HELP|TYPE) (\w+) (.+)", line):
                described[comment[2]] = comment[3]
                continue
            sample = re.fullmatch(r'(\w+)(?:\{(?:\w+="(?:[^"\\]|\\["\\n])*",?)+\})? (\S+)', line)
            assert sample, line
            assert described[sample[1]] in ("counter", "gauge")
            float(sample[2])
        assert 'jobs_total{queue="default",task="a\\"b\\\\c\\nd",outcome="complete"} 5' in text
        assert 'queue_jobs{queue="queue0",status="scheduled"} 1' in text
        assert 'workers{status="ready"} 1' in text
        assert text.endswith("worker_starts_total 1\n")

    def test_what_the_broker_does_not_say_is_missing(self) -> None:
        board = working("one")
        tell(board, 1, changed(depth=None, lease_age=None))
        text = prometheus_text(board.snapshot())
        assert "queue_jobs{" not in text
        assert "lease_age_seconds{" not in text


# ------------------------------------------------------------------------------------------------------ over HTTP


class Asker:
    def __init__(self, board: Board, port: int) -> None:
        self.board = board
        self.port = port

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def send(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send bytes as they are, and read until the connection is closed."""
        with self.connect() as connection:
            connection.sendall(request)
            return read_answer(connection)

    def get(self, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        return self.send(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    received = b""
    with suppress(ConnectionResetError):  # What it did not read, it resets; behind its answer.
        while chunk := connection.recv(65_536):
            received += chunk
    if not received:
        return 0, {}, b""
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, body


@pytest.fixture
def ask() -> Iterator[Asker]:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    board = working("one")
    with Health(listener, board.snapshot):
        yield Asker(board, port)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_probes_say_yes_and_no(ask: Asker) -> None:
    status, headers, body = ask.get("/ready")
    assert status == 200
    assert json.loads(body) == {"status": "ready", "workers": {"one": "ready"}}
    assert int(headers["content-length"]) == len(body)
    assert headers["connection"] == "close"
    tell(ask.board, 1, changed(depth=None))
    assert ask.get("/ready")[0] == 503
    assert ask.get("/live")[0] == 200
    tell(ask.board, 1, changed(lease_renewing=False))
    assert ask.get("/live")[0] == 503
    status, headers, body = ask.get("/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert body.decode() == prometheus_text(ask.board.snapshot())


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /live?verbose=1 HTTP/1.0", 200),
        (b"HEAD /live HTTP/1.1", 200),
        (b"POST /live HTTP/1.1", 405),
        (b"GET /../etc/passwd HTTP/1.1", 404),
        (b"GET / HTTP/1.1", 404),
        (b"GET /live", 400),
        (b"get /live HTTP/1.1", 400),
        (b"GET  /live HTTP/1.1", 400),
        (b"GET http://elsewhere/live HTTP/1.1", 400),
        (b"PRI * HTTP/2.0", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\xff\xfe", 400),
        (b"", 400),
    ],
)
def test_nothing_but_what_is_known_is_answered(ask: Asker, request_line: bytes, status: int) -> None:
    answered, headers, body = ask.send(request_line + b"\r\nHost: localhost\r\n\r\n")
    assert answered == status
    if request_line.startswith(b"HEAD"):
        assert (int(headers["content-length"]) > 0, body) == (True, b"")


@pytest.mark.parametrize(
    ("request_start", "status"),
    [(b"GET /live HTTP/1.1\r\nX: " + b"x" * 200_000, 431), (b"\x00" * 200_000, 431)],
    ids=["header", "garbage"],
)
def test_a_request_without_end_is_cut_off(ask: Asker, request_start: bytes, status: int) -> None:
    with ask.connect() as connection:
        with suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(request_start)
        assert read_answer(connection)[0] in (status, 0), "0: the reset was faster than the answer"
    assert ask.get("/live")[0] == 200


def test_who_is_slow_or_leaves_holds_up_nobody(ask: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "_PATIENCE", 4.0)
    with ask.connect() as silent, ask.connect() as slow, ask.connect() as leaving:
        slow.sendall(b"GET /live HT")
        leaving.sendall(b"GET /live")
        leaving.close()
        assert ask.get("/live")[0] == 200
        assert read_answer(slow)[0] == 408
        assert read_answer(silent)[0] == 408


def test_more_connections_than_are_served_are_closed_and_none_stays(
    ask: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_module, "_CONNECTIONS", 4)
    monkeypatch.setattr(health_module, "_PATIENCE", 120.0)
    held = [ask.connect() for _ in range(4)]
    until(lambda: ask.get("/live")[0] == 0)
    for connection in held:
        connection.close()
    until(lambda: ask.get("/live")[0] == 200)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
