"""What runs in a process of its own keeps no worker from saying that it is alive, on each broker."""

from __future__ import annotations

import pytest

from litestar_tasks import JobHandle
from tests.conformance.hands import Hand, MakeQueue, needs, stands
from tests.conformance.test_working import working
from tests.processes import hold_the_lock, registry


@needs("leases")
@pytest.mark.usefixtures("light_starts")
async def test_a_task_that_holds_the_lock_of_its_interpreter_for_several_leases_costs_no_lease(
    make: MakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    queue, other = await make(registry=registry, lease=1.0), await make(registry=registry, lease=1.0)
    async with working(queue, registry):
        spec = hold_the_lock.using(timeout=3, max_attempts=1).bind().spec()
        key = (await queue.submit(spec)).job.key
        await stands(queue, key, "active")
        await Hand(other).open()
        outcome = await JobHandle(queue, key).outcome(timeout=60)
    assert (outcome.error_type, outcome.attempts) == ("TimeoutError", 1)
    assert "was lost" not in caplog.text
    assert "taken for lost" not in caplog.text
