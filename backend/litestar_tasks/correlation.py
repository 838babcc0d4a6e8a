"""What ties a request, its jobs and their jobs together: one id for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Receive, Scope, Send

__all__ = ("CORRELATION", "correlated", "correlation_id", "from_headers")

CORRELATION: Final = "correlation_id"
"""Where a job's ``meta`` keeps it."""

correlation_id: Final[ContextVar[str | None]] = ContextVar("correlation_id", default=None)
"""The correlation id of what runs here; None where there is none.

A job gets that of the code that enqueues it, and it is set again while the job runs, so that the jobs it enqueues get
it, too. ``TasksConfig.correlation_headers`` takes it from requests; elsewhere set it yourself.
"""

_LONGEST: Final = 128
_TRACEPARENT: Final = b"traceparent"


def from_headers(headers: Iterable[tuple[bytes, bytes]], names: Sequence[bytes]) -> str | None:
    """The correlation id that a request came with: of the first of these headers that has one.

    What is not short and printable is left out, since it will stand in logs. Of a ``traceparent`` it is the trace's
    id.

    Args:
        headers: As ASGI has them.
        names: Lower-case names, the most important first.
    """
    found = {name: value for name, value in headers if name in names}
    for name in names:
        text = found.get(name, b"").decode("latin-1").strip()
        if name == _TRACEPARENT:
            parts = text.split("-")
            text = parts[1] if len(parts) >= 4 else ""
        if text and len(text) <= _LONGEST and text.isascii() and text.isprintable():
            return text
    return None


def correlated(app: ASGIApp, names: Sequence[bytes]) -> ASGIApp:
    """An app whose requests set the correlation id of the jobs that they enqueue."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if (found := from_headers(scope["headers"], names)) is None:
            await app(scope, receive, send)
            return
        before = correlation_id.set(found)
        try:
            await app(scope, receive, send)
        finally:
            correlation_id.reset(before)

    return call
