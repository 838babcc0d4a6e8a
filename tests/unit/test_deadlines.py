"""Time limits that share one timer: each ends its own block, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from litestar_tasks.worker.deadlines import Deadlines, Limit

FOREVER = 3600.0
SHORT = 0.01


async def _stay_in(limit: Limit) -> None:
    with limit:
        await asyncio.Event().wait()


async def test_a_block_that_takes_longer_is_cancelled_and_ends_with_a_timeout() -> None:
    limit = Deadlines().limit(SHORT)
    with pytest.raises(TimeoutError):
        await _stay_in(limit)
    assert limit.expired
    own = asyncio.current_task()
    assert own is not None
    assert not own.cancelling()


async def test_a_short_limit_does_not_wait_for_a_longer_one_that_began_before() -> None:
    deadlines = Deadlines()
    long = asyncio.create_task(_stay_in(deadlines.limit(FOREVER)))
    await asyncio.sleep(0)
    limits = [deadlines.limit(SHORT * factor) for factor in (3, 1, 2)]
    answers = await asyncio.gather(*map(_stay_in, limits), return_exceptions=True)
    assert [type(answer) for answer in answers] == [TimeoutError] * 3
    assert not long.done()
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long


async def test_a_limit_still_holds_when_an_earlier_one_was_left_in_time() -> None:
    deadlines = Deadlines()
    with deadlines.limit(SHORT):
        pass
    with pytest.raises(TimeoutError):
        await _stay_in(deadlines.limit(2 * SHORT))


async def test_a_cancellation_from_outside_is_not_taken_for_the_limit() -> None:
    limit = Deadlines().limit(FOREVER)
    task = asyncio.create_task(_stay_in(limit))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not limit.expired


async def test_a_cancellation_from_outside_wins_over_a_limit_that_expires_with_it() -> None:
    limit = Deadlines().limit(FOREVER)
    task = asyncio.create_task(_stay_in(limit))
    await asyncio.sleep(0)
    limit.expire()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_block_itself_comes_out_as_it_is() -> None:
    with pytest.raises(TimeoutError, match="mine"), Deadlines().limit(FOREVER):
        raise TimeoutError("mine")


async def test_a_block_that_finishes_all_the_same_leaves_its_task_uncancelled() -> None:
    limit = Deadlines().limit(SHORT)
    with limit:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
    own = asyncio.current_task()
    assert limit.expired
    assert own is not None
    assert not own.cancelling()
