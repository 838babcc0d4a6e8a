"""One suite for every broker: what a queue promises, whatever it stands on.

What a broker cannot do is left out of its capabilities, and ``@needs("…")`` skips what asks for it, naming it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterator
from importlib import import_module
from pkgutil import iter_modules
from secrets import token_hex
from typing import Any

import pytest

from litestar_tasks.queues.base import TaskQueue
from tests.conformance import brokers
from tests.conformance.brokers import Broker, Unavailable
from tests.conformance.hands import MakeQueue

BROKERS: dict[str, Callable[[], Broker]] = {
    name: make
    for module in iter_modules(brokers.__path__)
    for name, make in import_module(f"{brokers.__name__}.{module.name}").BROKERS.items()
}


@pytest.fixture(scope="session", params=sorted(BROKERS))
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    one = BROKERS[request.param]()
    try:
        one.start()
    except Unavailable as error:
        if os.environ.get("CI"):
            pytest.fail(f"{request.param} cannot be tested: {error}")
        pytest.skip(str(error))
    yield one
    one.stop()


@pytest.fixture(autouse=True)
def capable(request: pytest.FixtureRequest, broker: Broker) -> None:
    """Skips what the broker says that it cannot do."""
    for mark in request.node.iter_markers("needs"):
        if missing := set(mark.args) - broker.capabilities:
            pytest.skip(f"not a capability of this broker: {', '.join(sorted(missing))}")


@pytest.fixture
def namespace() -> str:
    return token_hex(6)


@pytest.fixture
async def make(broker: Broker, namespace: str) -> AsyncGenerator[MakeQueue, None]:
    """Makes queue objects; without options further ones of the same queue."""
    made: list[TaskQueue] = []

    async def one(label: str = "default", **options: Any) -> TaskQueue:
        made.append(await broker.make(label, **{"namespace": namespace, **options}))
        return made[-1]

    yield one
    for queue in made:
        await broker.close(queue)


@pytest.fixture
async def queue(make: MakeQueue) -> TaskQueue:
    """An empty queue."""
    return await make()
