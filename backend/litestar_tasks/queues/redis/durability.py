"""When a stored job counts as accepted, where the server's memory is not enough: the settings "disk" and "replicas:n".

A guarantee is a question that is sent behind the jobs, over the same connection and in the same write, and a judgement
of its answer. Many jobs share one question.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

from redis.exceptions import NoPermissionError, ReadOnlyError, ResponseError

from litestar_tasks.config import check_durability
from litestar_tasks.exceptions import BrokerError
from litestar_tasks.queues.redis.reasons import reason_of

if TYPE_CHECKING:
    import redis.asyncio

__all__ = ("Guarantee", "NotDurableError", "guarantee_of")

logger = logging.getLogger("litestar_tasks.queues")

_MARGIN: Final = 0.5
"""Seconds before an enqueue's deadline at which the server is to answer how far it has come; its clock ticks by 0.1."""
_EVERYSEC_DEADLINE: Final = 3.0
"""An enqueue may wait for two flushes, each within little more than a second: the one under way, and its own."""
_PROBE: Final = ("WAITAOF", 1, 0, 1)
_SETTINGS: Final = ("CONFIG", "GET", "*append*")
_ALWAYS: Final = {"appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no"}


class NotDurableError(Exception):
    """The server has the job, and did not confirm in time that it is as safe as the setting asks for."""


class Guarantee(ABC):
    """What a queue asks its server beside storing a job.

    Args:
        setting: How it is written: ``"disk"`` or ``"replicas:n"``.
        client: A client of the server.
        queue: The queue's name, for errors and the log.
        address: The server's, without credentials.
        deadline: Seconds that an enqueue may take.

    Attributes:
        inspected: Whether the server has been found fit.
        patience: Seconds that the server has to confirm.
    """

    def __init__(self, setting: str, client: redis.asyncio.Redis, *, queue: str, address: str, deadline: float) -> None:
        self.setting = setting
        self.inspected = False
        self.patience = deadline - min(_MARGIN, deadline / 2)
        self._client: Any = client
        self._queue = queue
        self._address = address
        self._deadline = deadline

    async def inspect(self) -> None:
        """See to it, once, that the server can keep it.

        Raises:
            BrokerError: It cannot; says what was found and what to do.
            RedisError: It does not answer now.
        """
        if not self.inspected:
            await self._inspect()
            self.inspected = True

    def judge(self, answer: Any) -> None:
        """Judge the answer to ``question``, which may be an error.

        Raises:
            NotDurableError: It is no confirmation.
        """
        if isinstance(answer, ResponseError):
            self.inspected = False  # the server's settings, or the server, have changed
            found = f"it cannot be confirmed: {reason_of(answer)}"
        else:
            found = self._shortfall(answer)
        if found:
            raise NotDurableError(f"durability={self.setting!r}: {found}")

    @abstractmethod
    def question(self) -> tuple[str | int, ...]:
        """The command whose answer tells whether what its connection wrote before is safe."""

    @abstractmethod
    async def _inspect(self) -> None: ...

    @abstractmethod
    def _shortfall(self, answer: Any) -> str:
        """What is missing, or an empty text."""

    def _refuse(self, found: str) -> NoReturn:
        raise BrokerError(
            f"queue {self._queue!r}: Redis at {self._address} cannot keep durability={self.setting!r}: {found}"
        )


class _OnDisk(Guarantee):
    """A job is accepted when it is on the disk of the server's machine.

    Servers since 7.2 tell when that is so. Older ones flush before they answer if they are set to: the question is for
    these settings, since they can be changed at any time.
    """

    _waits = True

    def question(self) -> tuple[str | int, ...]:
        return ("WAITAOF", 1, 0, int(self.patience * 1000)) if self._waits else _SETTINGS

    def _shortfall(self, answer: Any) -> str:
        if self._waits:
            flushed, _ = answer
            return "" if flushed else f"not flushed within {self.patience:g} s; is the server's disk slow or full?"
        words = [word.decode() for word in answer]
        return _unlike_always(dict(zip(words[::2], words[1::2], strict=True)))

    async def _inspect(self) -> None:
        forbidden, settings = "", dict[str, str]()
        try:
            settings = await self._client.config_get(_SETTINGS[2])
        except ResponseError as error:
            forbidden = reason_of(error)
        try:
            await self._client.execute_command(*_PROBE)
        except NoPermissionError as error:
            self._refuse(f"{reason_of(error)}; allow this user WAITAOF")
        except ResponseError as error:
            self._explain(error, settings, forbidden)
            self._waits = False
            return
        self._waits = True
        rhythm = settings.get("appendfsync")
        if rhythm == "no":
            self._refuse("appendfsync is 'no', so that nothing is flushed in time; set it to 'always' or 'everysec'")
        if rhythm == "everysec" and self._deadline < _EVERYSEC_DEADLINE:
            logger.warning(
                "queue %r: Redis at %s has appendfsync 'everysec'; an enqueue waits up to a second for the next flush, "
                "and up to two where others are waiting, which may be longer than its timeout of %g s: set appendfsync "
                "'always' there, or enqueue_timeout=5",
                self._queue,
                self._address,
                self._deadline,
            )

    def _explain(self, error: ResponseError, settings: Mapping[str, str], forbidden: str) -> None:
        """Say why the server does not wait, unless it is an old one that need not."""
        told = str(error)
        if "unknown command" not in told.lower():
            if "appendonly" in told:
                self._refuse("appendonly is 'no', so that nothing is on its disk; set 'appendonly yes'")
            raise ReadOnlyError(told) if "replica" in told else error
        if forbidden:
            self._refuse(
                f"it has no WAITAOF, as before Redis 7.2, and whether it flushes each write cannot be checked: "
                f"{forbidden}; allow this user CONFIG GET, or use Redis 7.2 or later, or Valkey"
            )
        if found := _unlike_always(settings):
            self._refuse(found)


class _OnReplicas(Guarantee):
    """A job is accepted when so many replicas have it, too."""

    def __init__(self, setting: str, *args: Any, **options: Any) -> None:
        super().__init__(setting, *args, **options)
        self._wanted = int(setting.partition(":")[2])

    def question(self) -> tuple[str | int, ...]:
        return ("WAIT", self._wanted, int(self.patience * 1000))

    def _shortfall(self, answer: Any) -> str:
        if answer >= self._wanted:
            return ""
        return (
            f"{answer} of {self._wanted} replicas acknowledged within {self.patience:g} s; INFO replication shows "
            "those that are missing or behind"
        )

    async def _inspect(self) -> None:
        try:
            info: Mapping[str, Any] = await self._client.info("replication")
        except NoPermissionError:
            return  # each enqueue will tell
        connected = info.get("connected_slaves", 0)
        if info.get("role") == "master" and connected < self._wanted:
            logger.warning(
                "queue %r: Redis at %s has %d connected replicas, and durability=%r needs %d: until they are there "
                "each enqueue raises QueueUnavailableError. Set 'min-replicas-to-write %d' there, so that nothing else "
                "is written without them, either",
                self._queue,
                self._address,
                connected,
                self.setting,
                self._wanted,
                self._wanted,
            )


def guarantee_of(
    setting: str, client: redis.asyncio.Redis, *, queue: str, address: str, deadline: float
) -> Guarantee | None:
    """What a setting asks for; None where it is "process", which asks for nothing.

    Args:
        setting: ``"process"``, ``"disk"`` or ``"replicas:n"``.
        client: As for ``Guarantee``.
        queue: As there.
        address: As there.
        deadline: As there.

    Raises:
        ConfigurationError: There is no such setting.
    """
    check_durability(setting)
    if setting == "process":
        return None
    kind = _OnDisk if setting == "disk" else _OnReplicas
    return kind(setting, client, queue=queue, address=address, deadline=deadline)


def _unlike_always(settings: Mapping[str, str]) -> str:
    """What keeps a server without WAITAOF from flushing each write before it answers."""
    for name, wanted in _ALWAYS.items():
        if (found := settings.get(name)) != wanted:
            return (
                f"{name} is {found!r}, and it has no WAITAOF, as before Redis 7.2; set '{name} {wanted}', or use Redis "
                "7.2 or later, or Valkey"
            )
    return ""
