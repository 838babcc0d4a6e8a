"""What can follow a job: what is refused where it is written, and chains by hand beside it."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import pytest

from litestar_tasks import (
    ERROR,
    RESULT,
    ConfigurationError,
    CurrentJob,
    Exclusive,
    PayloadError,
    Registry,
    Secret,
    Unique,
    UnknownQueueError,
    enqueue_many,
)
from litestar_tasks.codec import could_become
from tests.unit.test_worker import running, until

told: list[Any] = []


@dataclass(frozen=True)
class Receipt:
    number: int
    of: UUID


@pytest.fixture
def registry() -> Registry:
    told.clear()
    registry = Registry("test", allow_local=True)

    @registry.task
    async def charge(*, amount: int) -> Receipt:
        if amount < 0:
            raise ValueError("a charge is not negative")
        return Receipt(amount, UUID(int=7))

    @registry.task
    async def send(receipt: Receipt, *, note: str = "", job: CurrentJob) -> None:
        told.append((receipt, note, job.parent_id))

    @registry.task
    async def alert(*, why: str) -> None:
        told.append(why)

    @registry.task
    async def count(*, number: int) -> None:
        told.append(number)

    return registry


async def test_a_result_arrives_as_what_it_was(registry: Registry) -> None:
    charge, send, alert = map(registry.get_task, ("charge", "send", "alert"))
    call = charge.using(on_success=send.bind(RESULT, note="thanks"), on_failure=alert.bind(why=ERROR))
    async with running(registry):
        job = await call.enqueue(amount=5)
        await until(lambda: told == [(Receipt(5, UUID(int=7)), "thanks", job.id)], seconds=20)
        await call.enqueue(amount=-1)
        await until(lambda: len(told) == 2, seconds=20)
        assert "a charge is not negative" in told[1]


async def test_a_task_s_own_follow_ups_hold_where_a_call_has_none(registry: Registry) -> None:
    alert = registry.get_task("alert")

    @registry.task(on_failure=alert.bind(why=ERROR), on_success=[alert.bind(why="done"), alert.bind(why="really")])
    async def fail(*, really: bool) -> None:
        if really:
            raise LookupError("nothing there")

    async with running(registry):
        await fail.enqueue(really=False)
        await until(lambda: sorted(told) == ["done", "really"], seconds=20)
        told.clear()
        await fail.using(on_failure=alert.bind(why="otherwise")).enqueue(really=True)
        await until(lambda: told == ["otherwise"], seconds=20)
        await fail.using(on_failure=()).enqueue(really=True)
        told.clear()
        await fail.enqueue(really=True)
        await until(lambda: len(told) == 1, seconds=20)
        assert "nothing there" in told[0]


async def test_a_task_that_enqueues_stages_and_uses_their_results_needs_no_room_of_its_own(registry: Registry) -> None:
    @registry.task
    async def double(*, n: int) -> int:
        return 2 * n

    @registry.task
    async def total(*, numbers: list[int]) -> int:
        doubled = await enqueue_many(double.bind(n=n) for n in numbers)
        first = [await job.result() for job in doubled]
        last = await double.enqueue(n=sum(first))
        return await last.result()

    async with running(registry, concurrency=1):
        jobs = await enqueue_many([total.bind(numbers=[1, 2, 3]) for _ in range(3)])
        assert [await job.result(timeout=60) for job in jobs] == [24, 24, 24]


@pytest.mark.parametrize("value", [7, "alert", [7]])
def test_what_is_no_bound_call_cannot_follow(registry: Registry, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"on_success is .*; give a bound call, other_task\.bind"):
        registry.get_task("charge").using(on_success=value)


def test_a_task_has_to_be_bound_to_follow(registry: Registry) -> None:
    with pytest.raises(ConfigurationError, match=r"give a bound call, other_task\.bind"):
        registry.get_task("charge").using(on_success=registry.get_task("alert"))  # type: ignore[typeddict-item]  # so is this


def test_no_more_follow_than_one_step_can_store(registry: Registry) -> None:
    with pytest.raises(ConfigurationError, match="holds 51 calls; up to 50 can follow one job"):
        registry.get_task("charge").using(on_success=[registry.get_task("alert").bind(why="x")] * 51)


def test_arguments_that_are_still_to_come_tell_no_calls_apart(registry: Registry) -> None:
    charge, alert = registry.get_task("charge"), registry.get_task("alert")
    with pytest.raises(ConfigurationError, match=r"cannot tell calls apart by why, still to come from the job"):
        charge.using(on_failure=alert.using(unique=True).bind(why=ERROR))
    charge.using(on_failure=alert.using(unique=True).bind(why="known"))
    charge.using(on_failure=alert.using(unique=Unique(by=())).bind(why=ERROR))


def test_arguments_that_are_known_tell_calls_apart_whatever_else_is_to_come(registry: Registry) -> None:
    send = registry.get_task("send").using(unique=Unique(by="note"), exclusive=Exclusive(by="note"))
    first, second, default = (
        registry.get_task("charge").using(on_success=call).bind(amount=1).spec().meta["follow_ups"]["success"][0]
        for call in (
            send.bind(receipt=RESULT, note="a"),
            send.bind(receipt=RESULT, note="b"),
            send.bind(receipt=RESULT),
        )
    )
    assert first["lock"]["name"] != second["lock"]["name"]
    assert first["group"] != second["group"]
    alone = send.bind(receipt=Receipt(1, UUID(int=7)), note="a").spec()
    assert alone.lock is not None
    assert (first["lock"]["name"], first["group"]) == (alone.lock.name, alone.group)
    assert default["lock"]["name"] == send.bind(receipt=RESULT, note="").follow_up()["lock"]["name"]


def test_a_result_has_to_fit_what_takes_it(registry: Registry) -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"on_success: count\.bind\(number=RESULT\): what task 'charge' returns is Receipt; 'number' takes int",
    ):
        registry.get_task("charge").using(on_success=registry.get_task("count").bind(number=RESULT))


def test_an_error_is_a_text(registry: Registry) -> None:
    with pytest.raises(ConfigurationError, match=r"the error, which is a text, is str; 'number' takes int"):
        registry.get_task("charge").using(on_failure=registry.get_task("count").bind(number=ERROR))


def test_what_is_secret_is_handed_to_what_is_secret_and_nothing_else(registry: Registry) -> None:
    @registry.task
    async def log_in() -> Secret[str]:
        return "a session"

    @registry.task
    async def use(*, session: Secret[str]) -> None: ...

    alert = registry.get_task("alert")
    log_in.using(on_success=use.bind(session=RESULT))
    with pytest.raises(ConfigurationError, match=r"what task 'log_in' returns is Secret\[str\]; 'why' takes str"):
        log_in.using(on_success=alert.bind(why=RESULT))
    with pytest.raises(ConfigurationError, match=r"a text, is str; 'session' takes Secret\[str\]"):
        log_in.using(on_failure=use.bind(session=ERROR))


def test_a_job_that_failed_has_no_result_and_a_complete_one_no_error(registry: Registry) -> None:
    charge, alert = registry.get_task("charge"), registry.get_task("alert")
    with pytest.raises(ConfigurationError, match=r"bind\(why=RESULT\): there is no result then; it may take ERROR"):
        charge.using(on_failure=alert.bind(why=RESULT))
    with pytest.raises(ConfigurationError, match=r"bind\(why=ERROR\): there is no error then; it may take RESULT"):
        charge.using(on_success=alert.bind(why=ERROR))


async def test_a_call_with_a_placeholder_follows_something_or_is_refused(registry: Registry) -> None:
    alert = registry.get_task("alert")
    async with running(registry) as plugin:
        for wrong in (alert.bind(why=ERROR).enqueue(), alert.enqueue(why=ERROR), enqueue_many([alert.bind(why=ERROR)])):
            with pytest.raises(PayloadError, match="ERROR stands for the error of a job that this one follows"):
                await wrong
        with pytest.raises(PayloadError, match="argument 'why'"):
            await plugin.get_queue("default").enqueue("alert", why=ERROR)


async def test_a_follow_up_goes_to_its_task_s_queue_and_an_unknown_one_is_refused(registry: Registry) -> None:
    @registry.task(queue="mail")
    async def post(*, text: str, job: CurrentJob) -> None:
        told.append((text, job.id.split(":")[2]))

    charge, alert = registry.get_task("charge"), registry.get_task("alert")
    async with running(registry):
        await charge.using(on_success=post.bind(text="x")).enqueue(amount=1)
        await until(lambda: told == [("x", "mail")], seconds=20)
        lost = alert.using(queue="nowhere").bind(why="x")
        for call in (
            charge.using(on_failure=lost),
            charge.using(on_success=post.using(on_success=lost).bind(text="x")),
        ):
            with pytest.raises(UnknownQueueError, match="unknown queue 'nowhere'"):
                await call.enqueue(amount=1)


def test_the_other_arguments_of_a_placeholder_s_call_are_checked(registry: Registry) -> None:
    send = registry.get_task("send")
    for arguments in ({"receipt": RESULT, "note": 7}, {"receipt": RESULT, "nonsense": 1}, {"note": RESULT}):
        with pytest.raises(PayloadError):
            send.bind(**arguments)
    with pytest.raises(PayloadError, match="given by position and by name"):
        send.bind(RESULT, receipt=RESULT)


def test_what_follows_is_bounded_with_all_that_follows_it(registry: Registry) -> None:
    @registry.task(payload_limit=2_000)
    async def small(*, text: str) -> None: ...

    call = small.bind(text="x" * 1_000)
    small.using(on_success=call).bind(text="y").spec()
    with pytest.raises(PayloadError, match=r"on_success and on_failure have 2,\d+ bytes as JSON, with their own"):
        small.using(on_success=[call, call]).bind(text="y").spec()


@pytest.mark.parametrize(
    ("source", "target", "fits"),
    [
        (int, float, True),
        (float, int, False),
        (int, str, False),
        (int, int | None, True),
        (None, int, False),
        (None, int | None, True),
        (int | None, int, True),
        (UUID, str, True),
        (Decimal, str, True),
        (float, Decimal, True),
        (list[int], set[int], True),
        (list[int], dict[str, int], False),
        (Receipt, dict[str, Any], True),
        (Receipt, Any, True),
        (Any, int, True),
        (bool, int, False),
        (Literal["a"], str, True),
    ],
)
def test_types_fit_by_their_forms_in_json(source: Any, target: Any, fits: bool) -> None:
    assert could_become(source, target) is fits
