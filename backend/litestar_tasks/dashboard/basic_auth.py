"""A guard that asks for a name and a password, by what every browser has for it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from litestar.exceptions import NotAuthorizedException

from litestar_tasks.dashboard.actions import USER
from litestar_tasks.exceptions import ConfigurationError

if TYPE_CHECKING:
    from litestar.connection import ASGIConnection
    from litestar.handlers import BaseRouteHandler

__all__ = ("BasicAuth",)

logger = logging.getLogger("litestar_tasks.dashboard")

_SHORTEST: Final = 8


class BasicAuth:
    """A guard for ``DashboardConfig``: HTTP's Basic authentication, compared in constant time.

    ::

        DashboardConfig(guards=[BasicAuth({"ada": os.environ["DASHBOARD_PASSWORD"]})])

    The browser sends the password with every request: serve it over HTTPS only. Who passed is named in the log of
    actions.

    Args:
        users: Passwords of at least eight characters, by name.
        realm: What the browser's question names. Defaults to "tasks".

    Raises:
        ConfigurationError: There is no user, a name holds a colon, or a password is short.
    """

    def __init__(self, users: Mapping[str, str], *, realm: str = "tasks") -> None:
        if not users:
            raise ConfigurationError('BasicAuth got no users, and would let nobody in: BasicAuth({"ada": password})')
        for name, password in users.items():
            if ":" in name or not name:
                raise ConfigurationError(f"BasicAuth: {name!r} is no user's name; it must not be empty or hold a colon")
            if len(password) < _SHORTEST:
                raise ConfigurationError(
                    f"BasicAuth: the password of {name!r} has {len(password)} characters; give at least {_SHORTEST}"
                )
        if not realm.isprintable() or '"' in realm:
            raise ConfigurationError(f"BasicAuth: realm {realm!r} cannot stand in a header; use letters")
        # Digests have one length, so comparing them takes one time, whatever was sent.
        self._users = {name: _digest(f"{name}:{password}") for name, password in users.items()}
        self._challenge = {"www-authenticate": f'Basic realm="{realm}", charset="UTF-8"'}

    async def __call__(self, connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        """Let a request pass that carries a name and its password.

        Raises:
            NotAuthorizedException: It does not; the browser asks for them.
        """
        sent = _credentials(connection.headers.get("authorization", ""))
        digest, passed = _digest(sent), ""
        for name, expected in self._users.items():  # all of them: which one fits does not show in the time
            if secrets.compare_digest(digest, expected):
                passed = name
        if not passed:
            if sent:
                address = connection.client.host if connection.client else "an unknown address"
                logger.warning("a wrong name or password was sent to the dashboard from %s", address)
            raise NotAuthorizedException("This needs a name and a password.", headers=dict(self._challenge))
        connection.scope.setdefault("state", {})[USER] = passed

    def __repr__(self) -> str:
        return f"<BasicAuth for {', '.join(self._users)}>"


def _credentials(header: str) -> str:
    """``name:password`` out of the header; "" where there is none that can be read."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value.strip(), validate=True).decode()
    except (binascii.Error, UnicodeError, ValueError):
        return ""


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
