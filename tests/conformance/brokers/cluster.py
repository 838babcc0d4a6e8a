"""A Redis Cluster of three nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from litestar_tasks.queues.operations import Capability
from litestar_tasks.queues.redis import RedisQueue
from tests.conformance.brokers import Broker, Unavailable
from tests.conformance.brokers.redis import RedisBroker
from tests.servers import BINARIES, RedisCluster


class ClusterBroker(RedisBroker):
    """One cluster for the session; each test has a namespace of its own, and so, by chance, one of its nodes."""

    capabilities: ClassVar[frozenset[Capability]] = RedisQueue.from_url("redis+cluster://localhost").capabilities

    def __init__(self) -> None:
        super().__init__("redis-7")

    def start(self) -> None:
        if not BINARIES:
            raise Unavailable("there is no Redis on this machine")
        self._server: Any = RedisCluster()


BROKERS: dict[str, Callable[[], Broker]] = {"redis-cluster": ClusterBroker}
