"""What follows jobs that have ended is looked for until the queue is closed."""

from __future__ import annotations

import asyncio

from litestar_tasks.exceptions import BrokerError
from litestar_tasks.queues.relay import Relay


async def test_it_ends_though_its_broker_answers_the_end_with_an_error() -> None:
    asked = asyncio.Event()

    async def deliver() -> bool:
        if asked.is_set():  # the last look
            return False
        asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise BrokerError("the connection was closed") from None
        return False

    relay = Relay("default", deliver, every=60)
    relay.start()
    await asked.wait()
    async with asyncio.timeout(30):
        await relay.close()
