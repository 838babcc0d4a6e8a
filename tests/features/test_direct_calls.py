"""A task is a function: called directly it runs here and now, with what a worker would supply passed by hand."""

from __future__ import annotations

import inspect
import threading

import pytest
from saq.types import Context

from litestar_tasks import INJECTED, CurrentJob, DependencyError, Registry


class Client:
    name = "mine"


registry = Registry("direct", allow_local=True)


@registry.task
async def bare(ctx: Context, *, user_id: int) -> dict[str, object]:
    return {"user": user_id, "queue": ctx["queue"]}


@registry.task(queue="emails", max_attempts=5)
async def injected(n: int, *, client: Client = INJECTED, dry: bool = False) -> tuple[int, str, bool]:
    return n, client.name, dry


@registry.task
def sync(ctx: Context, n: int) -> tuple[int, int]:
    return n, threading.get_ident()


@registry.task
def without_context(n: int, /, client: Client) -> int:
    return n


@registry.task
async def with_job(n: int, job: CurrentJob) -> int:
    return n


@registry.scheduled_task(cron="0 2 * * *", kwargs={"size": 100})
async def scheduled(ctx: Context, *, size: int = 50) -> int:
    return size


async def test_the_context_is_any_mapping_and_comes_first() -> None:
    assert await bare({"queue": "mine"}, user_id=7) == {"user": 7, "queue": "mine"}
    assert await scheduled({}) == 50


async def test_dependencies_are_passed_by_name_or_position() -> None:
    client = Client()
    assert await injected(1, client=client) == (1, "mine", False)
    assert without_context(1, client) == 1


def test_a_sync_task_returns_its_value_from_this_thread() -> None:
    assert sync({}, 3) == (3, threading.get_ident())
    assert not inspect.isawaitable(sync({}, 3))


async def test_nothing_is_validated_or_coerced() -> None:
    assert (await bare({"queue": None}, user_id="7"))["user"] == "7"  # type: ignore[arg-type]  # as in a test of one's own


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: injected(1),
            (
                "task 'injected' was called directly without its dependency 'client', which only a worker supplies; "
                "pass it: injected(…, client=…)"
            ),
        ),
        (lambda: injected(1, client=INJECTED), "without its dependency 'client'"),
        (lambda: without_context(1), "pass it: without_context(…, client=…)"),
        (
            lambda: with_job(1),
            "without the running job 'job', which only a worker supplies; pass it: with_job(…, job=…)",
        ),
        (
            lambda: bare(user_id=1),
            (
                "task 'bare' was called directly without its context, which only a worker supplies; pass a mapping "
                "with what it reads of it first: bare({}, …)"
            ),
        ),
        (lambda: sync(), "pass a mapping with what it reads of it first"),
    ],
)
def test_a_call_that_leaves_out_what_a_worker_supplies_says_how_to_fill_it(call: object, says: str) -> None:
    with pytest.raises(DependencyError) as caught:
        call()  # type: ignore[operator]  # a function
    assert says in str(caught.value)


def test_other_mistakes_are_python_s_own() -> None:
    with pytest.raises(TypeError, match="user_idd"):
        bare({}, user_idd=1)  # type: ignore[call-arg]  # the mistake under test
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'user_id'"):
        bare({})  # type: ignore[call-arg]  # as above
