"""What producers and readers can rely on."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from saq.job import Job, Status

from litestar_tasks import PayloadError, Registry, UnknownTaskError
from litestar_tasks.queues.base import TaskQueue
from tests.conformance.hands import Hand, MakeQueue, enqueue, keys_of, millis, record, spec

VALUES = [
    None,
    True,
    0,
    -7,
    2**53 - 1,
    0.1,
    1e-300,
    "",
    "ü — 漢 \U0001f600 \x7f",
    'quotes " \\ and \n lines',
    [],
    [[[]]],
    {},
    {"": {"nested": [1, {"deep": None}]}},
    "x" * 50_000,
]
KEYS = ["a/b", "a b", "100%", "ü?x=1&y#z", "a\\b", "x:y:z", "'\"", "-", "\U0001f600", "k" * 200]


async def test_a_job_is_stored_as_it_was_given(queue: TaskQueue) -> None:
    submission = await queue.submit(
        spec("k", kwargs={"i": 7}, timeout=2.5, max_attempts=3, ttl=600, priority=4, meta={"tag": "t"})
    )
    assert not submission.deduplicated
    job = await record(queue, "k")
    assert (job.function, job.kwargs, job.timeout, job.retries, job.ttl) == ("noop", {"i": 7}, 2.5, 3, 600)
    assert (job.key, job.priority, job.status, job.attempts) == ("k", 4, Status.QUEUED, 0)
    assert job.meta["tag"] == "t"
    assert abs(job.queued - millis()) < 60_000
    assert job.id == queue.job_id("k")


async def test_a_job_without_a_key_gets_one_of_its_own(queue: TaskQueue) -> None:
    first, second = await queue.submit(spec()), await queue.submit(spec())
    assert first.job.key != second.job.key
    assert await queue.count("queued") == 2


async def test_a_second_enqueue_of_a_key_returns_the_job_that_is_there(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await queue.submit(spec("k", kwargs={"i": 1}))
    waiting = await queue.submit(spec("k", kwargs={"i": 2}))
    assert (waiting.deduplicated, waiting.job.kwargs) == (True, {"i": 1})
    await hand.one()
    running = await queue.submit(spec("k", kwargs={"i": 3}))
    assert (running.deduplicated, running.job.kwargs) == (True, {"i": 1})
    assert await queue.count("incomplete") == 1


async def test_a_delayed_job_holds_its_key(queue: TaskQueue) -> None:
    await queue.submit(spec("k", delay=60))
    assert (await queue.submit(spec("k"))).deduplicated
    assert await queue.status("k") == "scheduled"


async def test_a_key_is_free_again_once_its_job_has_ended(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await hand.finish("k")
    again = await queue.submit(spec("k", kwargs={"i": 2}))
    assert not again.deduplicated
    assert await queue.status("k") == "queued"
    assert (await hand.one()).kwargs == {"i": 2}


async def test_once_refuses_the_key_of_a_job_that_has_ended_too(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await hand.finish("k")
    again = await queue.submit(spec("k", once=True))
    assert (again.deduplicated, again.job.status) == (True, Status.COMPLETE)


async def test_many_jobs_are_stored_in_order(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    keys = [f"k{number}" for number in range(450)]
    submissions = await queue.submit_many([spec(key) for key in keys])
    assert [submission.job.key for submission in submissions] == keys
    assert keys_of(await hand.take(450)) == keys


async def test_one_key_twice_among_many_is_stored_once(queue: TaskQueue) -> None:
    submissions = await queue.submit_many([spec("a"), spec("b"), spec("a")])
    assert [submission.deduplicated for submission in submissions] == [False, False, True]
    assert await queue.count("queued") == 2


async def test_concurrent_enqueues_of_a_key_make_one_job(queue: TaskQueue) -> None:
    submissions = await asyncio.gather(*(queue.submit(spec("k")) for _ in range(20)))
    assert sum(not submission.deduplicated for submission in submissions) == 1


async def test_a_moment_that_has_passed_means_now(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await queue.submit(spec("k", delay=-3600))
    assert await queue.status("k") == "queued"
    assert (await hand.one()).key == "k"


async def test_payloads_and_results_come_back_as_they_were(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    for number, value in enumerate(VALUES):
        await queue.submit(spec(f"k{number}", kwargs={"value": value}))
        job = await hand.one()
        assert job.kwargs == {"value": value}
        await hand.end(job, result={"value": value})
        ended = await record(queue, f"k{number}")
        assert (ended.kwargs, ended.result) == ({"value": value}, {"value": value})


async def test_any_text_can_be_a_key(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    for key in KEYS:
        await queue.submit(spec(key))
        assert await queue.status(key) == "queued"
        job = await hand.one()
        assert job.key == key
        await hand.end(job)
        assert await queue.status(key) == "complete"
    assert keys_of([job for job in await queue.jobs(KEYS) if job]) == KEYS


async def test_what_is_no_text_is_refused_by_itself_and_costs_no_other_call_anything(queue: TaskQueue) -> None:
    half = "\ud800"
    odd = [spec(half), spec("odd", meta={"tag": half}), spec("odd", task=f"echo{half}"), spec("odd", group=half)]
    calls = [call for number, one in enumerate(odd) for call in (spec(f"k{number}"), one, spec(f"l{number}"))]
    answers = await asyncio.gather(*map(queue.submit, calls), return_exceptions=True)
    for call, answer in zip(calls, answers, strict=True):
        if call in odd:
            assert isinstance(answer, PayloadError)
            assert "is no Unicode text" in str(answer)
        else:
            assert not isinstance(answer, BaseException), answer
    hand = await Hand(queue).open()
    claimed = {(await hand.one()).key for _ in range(2 * len(odd))}
    assert claimed == {call.key for call in calls if call not in odd}


async def test_what_is_within_a_document_may_be_no_text(queue: TaskQueue) -> None:
    await queue.submit(spec("k", kwargs={"half": "\ud800"}))
    hand = await Hand(queue).open()
    assert (await hand.one()).kwargs == {"half": "\ud800"}


async def test_tasks_are_enqueued_by_name_and_checked(make: MakeQueue) -> None:
    registry = Registry("conformance", allow_local=True)

    @registry.task
    async def double(*, n: int) -> int:
        return 2 * n

    queue = await make(registry=registry)
    job = await queue.enqueue("double", n=4)
    assert (job.function, job.kwargs) == ("double", {"n": 4})
    with pytest.raises(UnknownTaskError, match="double"):
        await queue.enqueue("duoble", n=4)
    with pytest.raises(PayloadError, match="n"):
        await queue.enqueue("double", n="four")
    assert await queue.count("queued") == 1


async def test_saqs_own_jobs_are_stored_too(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await queue.enqueue(Job("noop", {"a": 1}, key="k", retries=5))
    job = await hand.one()
    assert (job.key, job.kwargs, job.retries) == ("k", {"a": 1}, 5)


async def test_nothing_is_known_of_a_job_that_never_was(queue: TaskQueue) -> None:
    assert await queue.job("never") is None
    assert await queue.status("never") is None
    assert await queue.wait("never", 5) is None
    assert await queue.jobs(["never"]) == [None]


async def test_namespaces_and_labels_keep_jobs_apart(queue: TaskQueue, make: MakeQueue) -> None:
    others = [await make("other"), await make(namespace="elsewhere")]
    await enqueue(queue, "k", "only")
    for other in others:
        await enqueue(other, "k")
        assert await other.count("queued") == 1
        assert await other.status("only") is None
    assert await queue.count("queued") == 2
    assert len({one.job_id("k") for one in (queue, *others)}) == 3


async def test_the_summary_counts_what_waits_and_runs(queue: TaskQueue) -> None:
    hand = await Hand(queue).open()
    await enqueue(queue, "a", "b", "c")
    await enqueue(queue, "later", delay=60)
    await hand.one()
    info = await queue.info(jobs=True, limit=10)
    assert (info["queued"], info["active"], info["scheduled"]) == (2, 1, 1)
    assert {job["key"] for job in info["jobs"]} == {"a", "b", "c", "later"}
    assert [await queue.count(kind) for kind in ("queued", "active", "incomplete")] == [2, 1, 4]


async def test_a_delay_counts_from_the_enqueue(queue: TaskQueue) -> None:
    before = datetime.now(UTC)
    await queue.submit(spec("k", delay=100))
    job = await record(queue, "k")
    assert timedelta(seconds=95) < datetime.fromtimestamp(job.scheduled, UTC) - before < timedelta(seconds=160)
