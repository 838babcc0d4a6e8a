"""Which server serves a queue, where that can change: in a cluster, and behind Sentinel.

It is found out for every connection anew, by asking whoever of the known nodes or sentinels answers first. Nothing is
kept that could be out of date. The questions block, and event loops ask them in threads: connections are made by
threads, too, and seldom.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import redis
import redis.backoff
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from litestar_tasks.broker_url import Address, RedisURL

__all__ = ("ClusterRoute", "MisdirectedError", "Route", "SentinelRoute", "WrongServerError", "route_to")

_PATIENCE: Final = 1.0
"""Seconds that one node or sentinel has for being connected to, and for its answer."""
_MOVING: Final = "its hash slot is being moved to another node, and the queue waits until it is there"


class MisdirectedError(RedisConnectionError):
    """This server is not the one that serves the queue (any more). It has refused a command, and done nothing of it."""


class WrongServerError(ResponseError):
    """The servers are not of the kind that the URL says."""


_DECISIVE: Final = (AuthenticationError, NoPermissionError, WrongServerError)
"""What does not change by waiting."""


class Route(ABC):
    """The way to the server of one queue.

    Args:
        hosts: Whom to ask, at first.
        settings: How to connect to them: redis-py's options.
        tls: Whether to do so with TLS.
    """

    checks_role: ClassVar[bool] = False
    """Whether a server that was found has to say that it is a master."""

    def __init__(self, hosts: Sequence[Address], settings: Mapping[str, Any], *, tls: bool) -> None:
        self._hosts = list(hosts)
        self._settings = settings
        self._tls = tls

    @property
    @abstractmethod
    def address(self) -> str:
        """Where all of them are, in words."""

    def to(self, queue: str) -> Route:
        """The way to the server of a queue; the same for all where there is but one master."""
        return self

    @abstractmethod
    def find(self) -> Address:
        """The server to connect to now. Blocks for as long as one after the other does not answer.

        Raises:
            WrongServerError: Those that answer are no cluster.
            RedisError: Nobody knows, or nobody answers.
        """

    @abstractmethod
    def refusal(self, error: ResponseError) -> str:
        """Why a server refused a command because it is the wrong one; empty for any other error."""

    def _ask(self, *command: str) -> tuple[Address, Any]:
        """What the first says that has an answer, and who that is. It is asked first the next time."""
        failure: Exception | None = None
        for host in list(self._hosts):
            try:
                answer = self._ask_one(host, command)
            except (RedisError, OSError) as error:
                failure = failure if isinstance(failure, _DECISIVE) else error
                continue
            if answer:
                self._hosts = [host, *(other for other in self._hosts if other != host)]
                return host, answer
        if isinstance(failure, _DECISIVE):
            raise failure
        raise RedisConnectionError(f"{self._ignorance()}{f': {failure}' if failure else ''}")

    def _ask_one(self, host: Address, command: Sequence[str]) -> Any:
        kind: Any = redis.SSLConnection if self._tls else redis.Connection  # redis-py leaves parts of it without types
        connection = kind(**self._settings, host=host[0], port=host[1])
        try:
            connection.connect()
            connection.send_command(*command)
            return connection.read_response()
        finally:
            connection.disconnect()

    @abstractmethod
    def _ignorance(self) -> str:
        """That nobody knows the server, in words."""


class SentinelRoute(Route):
    """To the server that the sentinels take for the master."""

    checks_role = True

    def __init__(self, hosts: Sequence[Address], settings: Mapping[str, Any], *, tls: bool, service: str) -> None:
        super().__init__(hosts, settings, tls=tls)
        self._service = service
        self._sentinels = _join(hosts)

    @property
    def address(self) -> str:
        """See ``Route.address``."""
        return f"{self._service!r} of the sentinels {self._sentinels}"

    def find(self) -> Address:
        """See ``Route.find``."""
        _, (host, port) = self._ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        return host.decode(), int(port)

    def refusal(self, error: ResponseError) -> str:
        """See ``Route.refusal``."""
        return _demoted(error)

    def _ignorance(self) -> str:
        return f"no sentinel of {self._sentinels} knows a master {self._service!r}"


class ClusterRoute(Route):
    """To the node that owns the hash slot of a queue's keys."""

    def __init__(self, hosts: Sequence[Address], settings: Mapping[str, Any], *, tls: bool, queue: str = "") -> None:
        super().__init__(hosts, settings, tls=tls)
        self._seeds = tuple(hosts)
        self._slot = key_slot(queue.encode())
        self._told: Address | None = None

    @property
    def address(self) -> str:
        """See ``Route.address``."""
        return f"the cluster {_join(self._seeds)}"

    def to(self, queue: str) -> Route:
        """See ``Route.to``."""
        return ClusterRoute(self._seeds, self._settings, tls=self._tls, queue=queue)

    def find(self) -> Address:
        """See ``Route.find``. Whom the last owner named goes first: others may not have heard of it yet."""
        told, self._told = self._told, None
        if told is not None:
            return told
        asked, ranges = self._ask("CLUSTER", "SLOTS")
        nodes = [[_node(node, asked) for node in served] for _, _, *served in ranges]
        everybody = dict.fromkeys((asked, *(node for served in nodes for node in served), *self._seeds))
        self._hosts = list(everybody)
        for (first, last, *_), served in zip(ranges, nodes, strict=True):
            if first <= self._slot <= last:
                return served[0]
        raise RedisConnectionError(f"no node of the cluster serves hash slot {self._slot}")

    def refusal(self, error: ResponseError) -> str:
        """See ``Route.refusal``."""
        text = str(error)
        if isinstance(error, MovedError):
            self._told = (error.host, error.port) if error.host else None
            return f"its hash slot has moved to {error.host}:{error.port}"
        if isinstance(error, (AskError, TryAgainError)) or "non local key" in text:
            return _MOVING
        if isinstance(error, ClusterDownError) or "the cluster is down" in text:
            return f"the cluster does not serve it ({text})"
        return _demoted(error)

    def _ask_one(self, host: Address, command: Sequence[str]) -> Any:
        try:
            return super()._ask_one(host, command)
        except ResponseError as error:
            if "cluster support disabled" in str(error):
                raise WrongServerError(
                    f"{host[0]}:{host[1]} is no node of a cluster; write redis:// or redis+sentinel:// in place of "
                    "redis+cluster://"
                ) from error
            raise

    def _ignorance(self) -> str:
        return f"no node of {self.address} tells who serves hash slot {self._slot}"


def route_to(url: RedisURL, settings: dict[str, Any], *, tls: bool) -> Route | None:
    """The way that a URL names; None for that of one server.

    Args:
        url: The URL.
        settings: redis-py's options for connections to the servers. Those for the sentinels are taken out of them.
        tls: Whether the connections use TLS.
    """
    if not url.topology:
        return None
    login = {name: settings.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    chosen = {name: value for name, value in settings.items() if name.startswith("ssl_") or name in login}
    if url.topology == "sentinel":
        chosen.update(login)  # sentinels have users of their own
    chosen.update(
        protocol=2,
        socket_connect_timeout=_PATIENCE,
        socket_timeout=_PATIENCE,
        retry=Retry(redis.backoff.NoBackoff(), 0),
    )
    if url.topology == "sentinel":
        return SentinelRoute(url.hosts, chosen, tls=tls, service=url.service)
    return ClusterRoute(url.hosts, chosen, tls=tls)


def _demoted(error: ResponseError) -> str:
    """Why a server that was a master does not act as one; empty for any other error.

    What a script met is in the text alone: older servers put an error of their own around it.
    """
    text = str(error)
    if isinstance(error, ReadOnlyError) or "READONLY" in text:
        return "it is a read-only replica"
    if text.startswith(("MASTERDOWN", "UNBLOCKED")) or isinstance(error, ClusterDownError):
        return "it has become a replica"
    return "it has too few replicas to write" if "NOREPLICAS" in text else ""


def _node(node: Sequence[Any], asked: Address) -> Address:
    """A node of an answer to CLUSTER SLOTS; one that does not know its own host is where it was reached."""
    host = node[0].decode() if node[0] else ""
    return host if host not in ("", "?") else asked[0], int(node[1])


def _join(hosts: Sequence[Address]) -> str:
    return ", ".join(f"{host}:{port}" for host, port in hosts)
