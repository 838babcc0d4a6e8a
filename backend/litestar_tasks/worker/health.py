"""Probes and metrics over HTTP, for whatever looks after the process: ``/live``, ``/ready`` and ``/metrics``.

The supervisor answers, from a thread of its own, so that there is an answer while workers start, restart or hang.
"""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, NamedTuple, Self

import msgspec

from litestar_tasks.worker.board import Snapshot
from litestar_tasks.worker.metrics import CONTENT_TYPE, prometheus_text

__all__ = ("Health",)

_REQUEST: Final = re.compile(rb"([A-Z]{1,16}) (/[^\s?#]*)(?:\?\S*)? HTTP/1\.[01]\r\n")
_LARGEST: Final = 16_384
_PATIENCE: Final = 5.0
"""Seconds that a connection has, from its first byte to its last."""
_CONNECTIONS: Final = 64
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class _Answer(NamedTuple):
    status: int
    body: str
    content_type: str = "application/json"


class Health:
    """Answers on a socket while it is entered.

    A request is read in bounded time and space, and answered with nothing that it holds. The connection is closed after
    each.

    Args:
        listener: A socket that listens. It is closed at the end.
        look: Says how the workers fare; called in this object's thread.
    """

    def __init__(self, listener: socket.socket, look: Callable[[], Snapshot]) -> None:
        self._listener = listener
        self._look = look
        self._connections = 0
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(RuntimeError):  # The thread has ended by itself.
            self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(_PATIENCE)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, sock=self._listener, limit=_LARGEST)
        await self._stopped.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            # Who fills it up is not waited for: the probe behind has its turn.
            if self._connections <= _CONNECTIONS:
                async with asyncio.timeout(_PATIENCE):
                    writer.write(await self._respond(reader))
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
        except (OSError, TimeoutError):
            pass  # It has gone, or does not read.
        finally:
            self._connections -= 1
            writer.transport.abort()

    async def _respond(self, reader: asyncio.StreamReader) -> bytes:
        head = b""
        try:
            async with asyncio.timeout(_PATIENCE / 2):
                head = await reader.readuntil(b"\r\n\r\n")
        except TimeoutError:
            answer = _error(408, "the request did not come")
        except asyncio.LimitOverrunError:
            answer = _error(431, "the request is too large")
        except asyncio.IncompleteReadError:
            answer = _error(400, "the request is incomplete")
        else:
            answer = self._answer(head)
        body = answer.body.encode()
        lines = (
            f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}",
            f"Content-Type: {answer.content_type}",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "Connection: close",
            *(["Allow: GET, HEAD"] if answer.status == 405 else []),
        )
        return "\r\n".join((*lines, "", "")).encode() + (b"" if head.startswith(b"HEAD ") else body)

    def _answer(self, head: bytes) -> _Answer:
        request = _REQUEST.match(head)
        if request is None:
            return _error(400, "this is no HTTP request")
        if request[1] not in (b"GET", b"HEAD"):
            return _error(405, "use GET")
        match request[2]:
            case b"/live":
                snapshot = self._look()
                return _probe(snapshot.alive, "alive" if snapshot.alive else "stuck", snapshot)
            case b"/ready":
                snapshot = self._look()
                return _probe(snapshot.ready, "ready" if snapshot.ready else "not ready", snapshot)
            case b"/metrics":
                return _Answer(200, prometheus_text(self._look()), CONTENT_TYPE)
            case _:
                return _error(404, "there are /live, /ready and /metrics")


def _probe(good: bool, status: str, snapshot: Snapshot) -> _Answer:
    body = msgspec.json.encode({"status": status, "workers": snapshot.workers})
    return _Answer(200 if good else 503, body.decode() + "\n")


def _error(status: int, what: str) -> _Answer:
    return _Answer(status, msgspec.json.encode({"error": what}).decode() + "\n")
