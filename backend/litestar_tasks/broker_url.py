"""A broker's URL: what it says, and what can't be meant by it, without its password."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from litestar_tasks.exceptions import ConfigurationError

__all__ = ("REDIS_SCHEMES", "Address", "RedisURL", "redact")

Address: TypeAlias = tuple[str, int]
"""Host and port."""

REDIS_SCHEMES: Final = (
    *("redis", "rediss", "unix", "valkey", "valkeys"),
    *("redis+cluster", "rediss+cluster", "valkey+cluster", "valkeys+cluster"),
    *("redis+sentinel", "rediss+sentinel", "valkey+sentinel", "valkeys+sentinel"),
)
"""What Redis and Valkey are reached by, in small letters."""

_PARTS: Final = re.compile(r"([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?", re.DOTALL)
_PORTS: Final = {"": 6379, "cluster": 6379, "sentinel": 26379}
_REMEDY: Final = "a '/', '#', '?', '@' or ':' in the password must be percent-encoded"


@dataclass(frozen=True, slots=True)
class RedisURL:
    """What the URL of a Redis or Valkey says.

    Attributes:
        plain: The same for one server, as redis-py reads it; in a cluster or behind Sentinel, with the first host.
        topology: What is reached by it: one server, a cluster, or whichever server the sentinels name.
        hosts: The server, some nodes of the cluster, or some of the sentinels; empty for a socket.
        service: The sentinels' name for the servers; empty without them.
    """

    plain: str
    topology: Literal["", "cluster", "sentinel"]
    hosts: tuple[Address, ...]
    service: str

    @classmethod
    def parse(cls, url: str) -> RedisURL:
        """Read a URL.

        Raises:
            ConfigurationError: It is none of Redis, or it can't be meant; says what was read, without credentials.
        """
        scheme, separator, rest = url.partition("://")
        scheme = scheme.lower()
        if not separator or scheme not in REDIS_SCHEMES:
            raise ConfigurationError(
                f"broker_url {redact(url)!r} has an unknown scheme; Redis is reached by one of "
                + ", ".join(f"{name}://" for name in REDIS_SCHEMES)
            )
        parts = _PARTS.fullmatch(rest)
        authority, path, query, fragment = parts.groups("") if parts else ("", "", "", "")
        if scheme == "unix":
            if not path.strip("/"):
                raise ConfigurationError("broker_url names no socket; write unix:///run/redis/redis.sock")
            return cls(f"unix://{rest}", "", (), "")
        base, _, kind = scheme.partition("+")
        topology: Literal["", "cluster", "sentinel"] = "cluster" if kind == "cluster" else "sentinel" if kind else ""
        login, at, places = authority.rpartition("@")
        hosts = tuple(_address(place, _PORTS[topology]) for place in places.split(","))
        service, database = "", path.strip("/")
        if topology == "sentinel":
            service, _, database = database.partition("/")
            service = unquote(service)
        _check(topology, hosts, service, database, fragment)
        shown = f"[{hosts[0][0]}]" if ":" in hosts[0][0] else hosts[0][0]
        plain = f"{'rediss' if base.endswith('s') and base != 'redis' else 'redis'}://{login}{at}{shown}:{hosts[0][1]}"
        return cls(f"{plain}/{database}{query}", topology, hosts, service)


def redact(url: str) -> str:
    """A URL without its user, password and query, for logs and errors."""
    scheme, separator, rest = url.partition("://")
    before, _, after = rest.rpartition("@")
    if not separator or "?" in before:  # it can't be told where its password ends
        return "(a URL that cannot be read)"
    return f"{scheme}://{re.split(r'[?#]', after, maxsplit=1)[0]}"


def _address(place: str, default: int) -> Address:
    try:
        parts = urlsplit(f"//{place}")
        return parts.hostname or "", parts.port or default
    except ValueError:  # its text may show a part of the password
        raise ConfigurationError(
            f"broker_url cannot be read: what follows the ':' behind the host is no port; {_REMEDY}"
        ) from None


def _check(topology: str, hosts: tuple[Address, ...], service: str, database: str, fragment: str) -> None:
    """Refuse what was read and cannot be meant."""
    where = ", ".join(f"host {host or None!r}, port {port}" for host, port in hosts)
    if topology == "sentinel" and (not service or not all(host for host, _ in hosts)):
        raise ConfigurationError(
            f"broker_url was read as sentinels at {where}, service {service!r}, which cannot be meant; write "
            f"redis+sentinel://host:26379,host:26379/service/0; {_REMEDY}"
        )
    if topology == "cluster" and database.strip("0"):
        raise ConfigurationError(
            f"broker_url was read as a cluster with nodes at {where}, database {database!r}, which cannot be meant; a "
            f"cluster has database 0 alone; {_REMEDY}"
        )
    if not topology and len(hosts) > 1:
        raise ConfigurationError(
            f"broker_url names several servers, {where}; write redis+cluster:// for nodes of a cluster, and "
            "redis+sentinel:// for sentinels"
        )
    if not all(host for host, _ in hosts) or (database and not database.isdigit()) or fragment:
        raise ConfigurationError(
            f"broker_url was read as {where}, database {database!r}, which cannot be meant; {_REMEDY}"
        )
