"""Who may come in, and from which pages."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import urlsplit

from litestar.exceptions import HTTPException, PermissionDeniedException

if TYPE_CHECKING:
    from litestar import Litestar
    from litestar.connection import ASGIConnection
    from litestar.datastructures import Headers
    from litestar.handlers import BaseRouteHandler

    from litestar_tasks.config import DashboardConfig

__all__ = ("announce", "guards", "may_act")

# litestar.types.Guard, with its type arguments.
_Guard: TypeAlias = "Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Awaitable[None] | None]"

logger = logging.getLogger("litestar_tasks.dashboard")

_SAFE_METHODS: Final = ("GET", "HEAD", "OPTIONS")
_HOW_TO_OPEN: Final = "Open it to those you choose with TasksPlugin(TasksConfig(dashboard=DashboardConfig(guards=[…])))"
_IN_DEBUG_MODE: Final = "On a developer's machine, debug mode opens it to that machine: LITESTAR_DEBUG=1"
# Besides every X-Forwarded-*: what proxies and tunnels add to a request that is not theirs.
_PROXY_HEADERS: Final = frozenset(
    {
        "cf-connecting-ip",
        "client-ip",
        "fastly-client-ip",
        "forwarded",
        "true-client-ip",
        "via",
        "x-client-ip",
        "x-real-ip",
    }
)


def guards(config: DashboardConfig) -> list[_Guard]:
    """The guards of every request to the dashboard."""

    async def acting(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        if getattr(connection, "method", "") in _SAFE_METHODS:
            return
        if config.read_only:
            raise PermissionDeniedException("Nothing can be changed here: the dashboard is read-only.")
        for guard in config.acting_guards:
            await _ask(guard, connection, handler)

    return [*(config.guards or [_from_this_machine_in_debug_mode]), _from_own_pages, acting]


async def may_act(
    config: DashboardConfig, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler
) -> bool:
    """Whether who sent a request that was let in may change anything, too."""
    if config.read_only:
        return False
    try:
        for guard in config.acting_guards:
            await _ask(guard, connection, handler)
    except HTTPException:
        return False
    return True


async def _ask(guard: Any, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    answer = guard(connection, handler)
    if isawaitable(answer):
        await answer


def announce(config: DashboardConfig, app: Litestar) -> None:
    """Say in the log that the dashboard is open without guards, if it is. For the start of a process that serves it."""
    if app.debug and not config.guards:
        logger.warning("dashboard is open at %s to this machine, because debug is on", config.path)


async def _from_this_machine_in_debug_mode(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    # The app is asked each time: `litestar run --debug` sets the flag on an app that is built already.
    if not connection.app.debug:
        raise PermissionDeniedException(f"The dashboard is closed. {_HOW_TO_OPEN}. {_IN_DEBUG_MODE}.")
    if (doubt := _doubt_about_origin(connection)) is not None:
        raise PermissionDeniedException(
            f"In debug mode the dashboard is open to this machine only, and {doubt}. {_HOW_TO_OPEN}."
        )


def _doubt_about_origin(connection: ASGIConnection[Any, Any, Any, Any]) -> str | None:
    """Why a request may come from elsewhere, or None if it is this machine's own."""
    client = connection.scope.get("client")
    if client is None or not _is_loopback(client[0]):
        return "this request came from another one, or through a socket that does not tell"
    # A proxy on this machine makes every visitor's address the loopback one.
    if any(name in _PROXY_HEADERS or name.startswith("x-forwarded-") for name in connection.headers):
        return "this request came through a proxy"
    # A foreign name that resolves to 127.0.0.1 makes its owner's page the same origin to a browser (DNS rebinding).
    hosts = connection.headers.getall("host", [])
    name = _host_and_port(f"//{hosts[0]}")[0] if len(hosts) == 1 else ""
    if name != "localhost" and not _is_loopback(name):
        return "this request's Host header does not say localhost"
    return None


async def _from_own_pages(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Refuse what other sites' pages send on their visitor's behalf, with or without Litestar's ``CSRFConfig``.

    Reading is included: an app whose CORS settings let every site read its API means its API, not this.
    """
    method = getattr(connection, "method", "")
    if not _same_origin(method, connection.headers):
        logger.warning(
            "refused a request that may be another site's: %s, Origin %r",
            method,
            connection.headers.get("origin"),
        )
        raise PermissionDeniedException(
            "This request came from another site's page, or did not say where it came from. Use the dashboard's own "
            "buttons; a script sends its POSTs with 'Content-Type: application/json'."
        )


def _same_origin(method: str, headers: Headers) -> bool:
    safe = method in _SAFE_METHODS
    site = headers.get("sec-fetch-site")
    if site is not None:  # the browser's own word, which no page can forge
        followed_a_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        return site == "same-origin" or (safe and (site == "none" or followed_a_link))
    if (origin := headers.get("origin")) is not None:
        scheme = origin.partition("://")[0]
        return _host_and_port(origin) in {_host_and_port(f"{scheme}://{host}") for host in headers.getall("host", [])}
    # No form and no simple cross-site request can carry this type; and a script has no session to be abused.
    return safe or headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def _host_and_port(url: str) -> tuple[str, int | None]:
    """The host and port that a URL names, with its scheme's default port; ("", None) for what is none."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return "", None


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
