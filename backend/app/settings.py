"""What the environment decides. Nothing is read when this module is imported."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

__all__ = ("Settings", "SettingsError")


class SettingsError(ValueError):
    """Environment variables that cannot be used: all of them, in one message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings. Each is read from the environment variable of its name, in capitals.

    By default all that a run writes goes into ``.litestar-tasks`` in the working directory.
    """

    environment: str = "development"
    """Keeps the jobs of environments apart that share a broker. Letters, digits, ``-`` and ``_``."""
    debug: bool = False
    """Detailed error pages, and the dashboard open to this machine. Never in production."""
    port: int = 8000
    """Where the web process listens; ``app.manage prepare`` names it in what it prints."""
    tasks_broker_url: str | None = field(default=None, repr=False)
    """Where jobs wait: ``redis://…``, ``unix://…``, ``memory://``. None: the embedded server, in ``embedded_dir``."""
    embedded_dir: Path = Path(".litestar-tasks/broker")
    """The folder of the embedded server."""
    database_url: str = field(default="sqlite+aiosqlite:///.litestar-tasks/app.sqlite3", repr=False)
    """SQLAlchemy's URL of the database, with an async driver."""
    mailbox: Path = Path(".litestar-tasks/mailbox")
    """The folder that mails are written to."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings from environment variables. One that is empty counts as not set.

        Raises:
            SettingsError: Names each variable that cannot be used, what was found, and what is expected.
        """
        values: dict[str, Any] = {}
        problems: list[str] = []
        for variable, read in _READERS.items():
            if found := environ.get(variable, "").strip():
                try:
                    values[variable.lower()] = read(found)
                except ValueError as expected:
                    problems.append(f"{variable} is {_redact(found)!r}; expected {expected}")
        if problems:
            raise SettingsError("\n".join(problems))
        return cls(**values)


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", value):
        raise ValueError("letters, digits, '-' and '_', such as production")
    return value


def _flag(value: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if value.lower() not in known:
        raise ValueError("1 or 0 (true, false, yes, no, on and off will do, too)")
    return known[value.lower()]


def _port(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", value) or not 1 <= int(value) <= 65535:
        raise ValueError("a whole number from 1 to 65535")
    return int(value)


def _broker_url(value: str) -> str:
    schemes = ("redis", "rediss", "unix", "valkey", "valkeys", "memory")
    scheme, found, _ = value.partition("://")
    if not found or scheme not in schemes:
        known = ", ".join(f"{scheme}://" for scheme in schemes)
        raise ValueError(f"a URL such as redis://localhost:6379/0, starting with one of {known}")
    return value


def _database_url(value: str) -> str:
    expected = "a URL with an async driver, such as sqlite+aiosqlite:///file or postgresql+psycopg://user@host/name"
    try:
        url = make_url(value)
        dialect = url.get_dialect().get_async_dialect_cls(url)
    except (ArgumentError, ImportError):  # no URL, or one of a database that nothing here knows
        raise ValueError(expected) from None
    if not dialect.is_async:
        raise ValueError(f"{expected} ({dialect.driver} is a synchronous one)")
    return value


def _redact(value: str) -> str:
    """A value as errors may show it: a URL without its user, password and query."""
    head, at, tail = value.rpartition("@")
    if at:
        scheme, separator, _ = head.partition("://")
        value = f"{scheme}://***@{tail}" if separator else f"***@{tail}"
    return value.partition("?")[0]


_READERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "ENVIRONMENT": _name,
    "DEBUG": _flag,
    "PORT": _port,
    "TASKS_BROKER_URL": _broker_url,
    "EMBEDDED_DIR": Path,
    "DATABASE_URL": _database_url,
    "MAILBOX": Path,
}
