"""Whatever a task does to end, its job ends with it, and neither its worker nor another job does."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from saq.types import Context

from litestar_tasks import Registry
from tests.features.conftest import Run


class Interruption(BaseException):
    """What is no ``Exception``, as libraries raise that want to get past every handler."""


def leave() -> None:
    sys.exit("gone")


def interrupt() -> None:
    raise KeyboardInterrupt("stop")


def interrupt_otherwise() -> None:
    raise Interruption("enough")


def interrupt_together() -> None:
    raise BaseExceptionGroup("several", [ValueError("one"), Interruption("two")])


def close() -> None:
    raise GeneratorExit("closed")


def find_nothing() -> None:
    next(iter([]))


ENDS = {
    "SystemExit: gone": leave,
    "KeyboardInterrupt: stop": interrupt,
    "Interruption: enough": interrupt_otherwise,
    "BaseExceptionGroup: several": interrupt_together,
    "GeneratorExit: closed": close,
    "StopIteration": find_nothing,
}


@pytest.mark.parametrize("said", ENDS)
async def test_what_is_no_exception_fails_the_job_by_its_policy_and_ends_no_worker(
    run: Run, registry: Registry, said: str
) -> None:
    end = ENDS[said]

    @registry.task(max_attempts=2)
    async def on_the_loop() -> None:
        end()

    @registry.task(max_attempts=2)
    def in_a_thread() -> None:
        end()

    @registry.task
    async def another() -> str:
        return "done"

    async with run(registry):
        for task in (on_the_loop, in_a_thread):
            outcome = await (await task.enqueue()).outcome(timeout=20)
            assert (outcome.status, outcome.error_type, outcome.attempts) == ("failed", "RuntimeError", 2)
            assert outcome.error is not None
            assert said in outcome.error
        assert await (await another.enqueue()).result(timeout=20) == "done"


@dataclass
class Order:
    """A payload's class that breaks, in its own code, once it is not the caller's any more."""

    number: int
    broken: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if Order.broken:
            raise LookupError("no such order")


async def test_a_payload_whose_own_code_breaks_in_the_worker_is_put_aside(
    run: Run, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    @registry.task(max_attempts=3)
    async def ship(*, order: Order) -> None:
        raise AssertionError("it ran")

    async with run(registry) as plugin:
        handle = await ship.using(delay=0.3).enqueue(order=Order(1))
        monkeypatch.setattr(Order, "broken", True)
        outcome = await handle.outcome(timeout=20)
        assert outcome.status == "failed"
        assert outcome.error is not None
        assert "the stored payload cannot be decoded: LookupError: no such order" in outcome.error
        assert (await plugin.get_queue("default").counts())["quarantined"] == 1


@pytest.mark.parametrize("executor", ["loop", "thread"])
async def test_a_result_whose_own_code_breaks_fails_the_job_once(
    run: Run, registry: Registry, monkeypatch: pytest.MonkeyPatch, executor: str
) -> None:
    runs: list[str] = []

    def make() -> Order:
        runs.append("ran")
        order = Order(1)
        monkeypatch.setattr(Order, "broken", True)
        return order

    @registry.task(name="ship", max_attempts=3)
    async def on_the_loop() -> Order:
        return make()

    @registry.task(name="ship_too", max_attempts=3)
    def in_a_thread() -> Order:
        return make()

    async with run(registry):
        task = on_the_loop if executor == "loop" else in_a_thread
        outcome = await (await task.enqueue()).outcome(timeout=20)
        assert (outcome.status, outcome.reason, runs) == ("failed", "result", ["ran"])
        assert outcome.error is not None
        assert "its result cannot be stored: LookupError: no such order" in outcome.error


def put_an_object_into_meta(job: Any) -> None:
    job.meta["client"] = object()


def replace_the_meta(job: Any) -> None:
    job.meta = None


def replace_the_arguments(job: Any) -> None:
    job.kwargs = {"client": object()}


def count_in_words(job: Any) -> None:
    job.attempts = "one"


@pytest.mark.parametrize("spoil", [put_an_object_into_meta, replace_the_meta, replace_the_arguments, count_in_words])
async def test_a_job_whose_record_its_task_has_spoiled_ends_as_failed_and_can_be_read(
    run: Run, registry: Registry, spoil: Callable[[Any], None]
) -> None:
    @registry.task(max_attempts=3)
    async def work(ctx: Context) -> str:
        spoil(ctx["job"])
        return "done"

    @registry.task
    async def another() -> str:
        return "done"

    async with run(registry):
        handle = await work.enqueue()
        outcome = await handle.outcome(timeout=20)
        assert (outcome.status, outcome.reason) == ("failed", "result")
        assert outcome.error is not None
        assert "result: task 'work' ran, but its record cannot be stored" in outcome.error
        assert await handle.status() == "failed"
        assert await (await another.enqueue()).result(timeout=20) == "done"


async def test_an_aborted_task_that_turns_its_cancellation_into_another_error_is_aborted(
    run: Run, registry: Registry
) -> None:
    started = asyncio.Event()

    @registry.task
    async def query() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ConnectionError("the connection was closed in the midst of a query") from None

    async with run(registry):
        handle = await query.enqueue()
        await started.wait()
        await handle.abort("changed my mind")
        outcome = await handle.outcome(timeout=20)
        assert (outcome.status, outcome.error) == ("aborted", "changed my mind")
