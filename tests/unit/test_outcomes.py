"""What becomes of a job by what its task says, raises and returns, on the in-memory queue."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import FrozenInstanceError, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict

import pytest
from litestar.di import Provide

from litestar_tasks import (
    Backoff,
    Constant,
    CurrentJob,
    Discard,
    JobAbortedError,
    JobDiscardedError,
    JobFailedError,
    JobHandle,
    JobNotFoundError,
    PayloadError,
    Registry,
    Retry,
    Snooze,
)
from litestar_tasks.job import ENDED
from litestar_tasks.queues.history import history
from tests.unit.test_worker import running


@pytest.fixture
def registry() -> Registry:
    return Registry("test", allow_local=True, backoff=Constant(0.01))


async def past(plugin: Any, handle: JobHandle[Any]) -> list[dict[str, Any]]:
    """The attempts that a job's record keeps."""
    job = await plugin.get_queue("default").job(handle.id.rpartition(":")[2])
    assert job is not None
    return history(job)


async def stands(handle: JobHandle[Any], status: str) -> None:
    """Wait until a job has this status, or fail."""
    deadline = time.monotonic() + 20
    while await handle.status() != status:
        assert time.monotonic() < deadline, f"the job never was {status}"
        await asyncio.sleep(0.005)


class TestRetry:
    async def test_it_counts_and_the_last_one_fails_the_job(self, registry: Registry) -> None:
        attempts: list[int] = []

        @registry.task(max_attempts=3)
        async def again(job: CurrentJob) -> None:
            attempts.append(job.attempt)
            raise Retry("the printer is busy", delay=0.01)

        async with running(registry) as plugin:
            handle = await again.enqueue()
            with pytest.raises(JobFailedError) as caught:
                await handle.result(timeout=20)
            assert caught.value.error_type == "Retry"
            assert "the printer is busy" in caught.value.error
            assert caught.value.error.endswith(
                "task 'again' asked for a retry, and no attempt is left: this was attempt 3 of 3"
            )
            assert [(one["outcome"], one["error_type"]) for one in await past(plugin, handle)] == [
                ("retry", "Retry")
            ] * 2
        assert attempts == [1, 2, 3]

    async def test_it_names_the_moment_of_the_next_attempt(self, registry: Registry) -> None:
        @registry.task(max_attempts=2)
        async def at_six() -> None:
            raise Retry(run_at=datetime.now(UTC) + timedelta(hours=1))

        @registry.task(max_attempts=2)
        async def in_an_hour() -> None:
            raise Retry(delay=timedelta(hours=1))

        async with running(registry) as plugin:
            for task in (at_six, in_an_hour):
                handle = await task.enqueue()
                await stands(handle, "scheduled")
                job = await plugin.get_queue("default").job(handle.id.rpartition(":")[2])
                assert job is not None
                assert 3500 < job.scheduled - datetime.now(UTC).timestamp() <= 3601

    async def test_without_a_moment_the_backoff_says_when(self, registry: Registry) -> None:
        asked: list[int] = []

        def backoff(attempt: int) -> float:
            asked.append(attempt)
            return 0.0

        @registry.task(max_attempts=3, backoff=backoff, retry_on=())
        async def again() -> None:
            raise Retry

        async with running(registry):
            assert not (await (await again.enqueue()).outcome(timeout=20)).success
        assert asked == [1, 2]

    async def test_a_sync_task_and_a_dependency_can_say_it_too(self, registry: Registry) -> None:
        seen: list[str] = []

        async def connection(job: Any = None) -> AsyncGenerator[object, None]:
            seen.append("opened")
            try:
                yield object()
            except Retry as signal:
                seen.append(f"saw {signal}")
                raise

        @registry.task(max_attempts=2)
        def printing(*, connection: Thing) -> str:
            if len(seen) == 1:
                raise Retry("once more", delay=0)
            return "printed"

        busy = [True]

        async def line() -> AsyncGenerator[object, None]:
            if busy.pop():
                busy.append(False)
                raise Snooze("engaged", delay=0)
            yield object()

        @registry.task
        async def calling(*, line: Thing) -> str:
            return "called"

        async with running(registry, dependencies={"connection": Provide(connection), "line": Provide(line)}):
            assert await (await printing.enqueue()).result(timeout=20) == "printed"
            assert await (await calling.enqueue()).result(timeout=20) == "called"
        assert seen == ["opened", "saw once more", "opened"]


class Thing:
    pass


class TestSnooze:
    async def test_it_costs_no_attempt_and_is_one_entry_of_the_history(self, registry: Registry) -> None:
        runs: list[int] = []

        @registry.task
        async def later(job: CurrentJob) -> int:
            runs.append(job.attempt)
            if len(runs) < 20:
                raise Snooze("not yet: token=abc123", delay=0)
            return len(runs)

        async with running(registry) as plugin:
            handle = await later.enqueue()
            assert await handle.result(timeout=20) == 20
            assert (await handle.outcome()).attempts == 1
            (entry,) = await past(plugin, handle)
        assert set(runs) == {1}
        assert (entry["outcome"], entry["times"], entry["error"]) == ("snooze", 19, "not yet: token=***")


class TestDiscard:
    async def test_the_job_ends_as_aborted_whatever_attempts_are_left(self, registry: Registry) -> None:
        @registry.task(max_attempts=5)
        async def pointless() -> None:
            raise Discard("the user has gone")

        async with running(registry):
            handle = await pointless.enqueue()
            with pytest.raises(JobDiscardedError, match="was discarded: the user has gone") as caught:
                await handle.result(timeout=20)
            assert isinstance(caught.value, JobAbortedError)
            outcome = await handle.outcome()
            assert await handle.status() == "aborted"
        assert (outcome.reason, outcome.error, outcome.attempts) == ("discarded", "the user has gone", 1)

    async def test_an_abort_is_no_discard(self, registry: Registry) -> None:
        @registry.task
        async def endless() -> None:
            await asyncio.sleep(3600)

        async with running(registry):
            handle = await endless.enqueue()
            assert await handle.abort("discarded: says its caller")
            with pytest.raises(JobAbortedError) as caught:
                await handle.result(timeout=20)
        assert type(caught.value) is JobAbortedError


class TestExceptions:
    async def test_one_that_is_not_in_retry_on_fails_the_job_at_once(self, registry: Registry) -> None:
        runs: list[str] = []

        @registry.task(max_attempts=3, retry_on=(ConnectionError, TimeoutError))
        async def fetch(*, what: str) -> None:
            runs.append(what)
            raise {"lookup": LookupError, "refused": ConnectionRefusedError}[what]

        async with running(registry):
            lookup = await (await fetch.enqueue(what="lookup")).outcome(timeout=20)
            refused = await (await fetch.enqueue(what="refused")).outcome(timeout=20)
        assert (lookup.error_type, lookup.attempts) == ("LookupError", 1)
        assert (refused.error_type, refused.attempts) == ("ConnectionRefusedError", 3)
        assert runs == ["lookup"] + ["refused"] * 3

    async def test_one_in_discard_on_discards_it_even_if_it_is_in_retry_on(self, registry: Registry) -> None:
        @registry.task(max_attempts=3, retry_on=LookupError, discard_on=KeyError)
        async def find() -> None:
            raise KeyError("password=hunter2")

        async with running(registry):
            outcome = await (await find.enqueue()).outcome(timeout=20)
        assert (outcome.status, outcome.reason, outcome.error_type) == ("aborted", "discarded", "KeyError")
        assert "hunter2" not in (outcome.error or "")

    async def test_a_timeout_is_a_timeout_error_like_any_other(self, registry: Registry) -> None:
        @registry.task(max_attempts=2, timeout=0.02, retry_on=TimeoutError)
        async def retried() -> None:
            await asyncio.sleep(3600)

        @registry.task(max_attempts=2, timeout=0.02, retry_on=OSError, discard_on=TimeoutError)
        async def discarded() -> None:
            await asyncio.sleep(3600)

        async with running(registry):
            assert (await (await retried.enqueue()).outcome(timeout=20)).attempts == 2
            assert (await (await discarded.enqueue()).outcome(timeout=20)).reason == "discarded"

    @pytest.mark.parametrize(
        "backoff",
        [
            lambda attempt: 1 / 0,
            lambda attempt: "soon",
            lambda attempt: None,
            lambda attempt: -1,
            lambda: 1,
        ],
    )
    async def test_a_backoff_that_is_of_no_use_costs_nobody_the_job(
        self, registry: Registry, backoff: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("litestar_tasks.worker.execution.DEFAULT_BACKOFF", Constant(0.01))

        @registry.task(max_attempts=2, backoff=backoff)
        async def flaky(job: CurrentJob) -> int:
            if job.attempt == 1:
                raise OSError
            return job.attempt

        async with running(registry):
            assert await (await flaky.enqueue()).result(timeout=20) == 2
        assert "task 'flaky': its backoff is of no use after attempt 1; the default one is taken" in caplog.text

    async def test_an_exception_that_cannot_be_printed_fails_its_job_like_any_other(self, registry: Registry) -> None:
        class Unprintable(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no text")

        @registry.task(max_attempts=2)
        async def odd() -> None:
            raise Unprintable

        async with running(registry):
            outcome = await (await odd.enqueue()).outcome(timeout=20)
        assert (outcome.error_type, outcome.attempts) == ("Unprintable", 2)


class TestSecrets:
    async def test_no_record_and_no_log_shows_what_an_exception_quotes(
        self, registry: Registry, caplog: pytest.LogCaptureFixture
    ) -> None:
        @registry.task(max_attempts=2)
        async def connect() -> None:
            raise OSError(
                "postgresql://app:hunter2@db/app refused password=hunter3 Authorization: Bearer hunter4abc=\n"
                'and {"api_key": "hunter5"}'
            )

        with caplog.at_level(logging.DEBUG):
            async with running(registry) as plugin:
                handle = await connect.enqueue()
                outcome = await handle.outcome(timeout=20)
                entries = await past(plugin, handle)
        assert "app:***@db/app" in (outcome.error or "")
        assert "task 'connect' failed, attempt 2 of 2" in caplog.text
        for shown in (outcome.error, str(entries), caplog.text):
            assert "hunter" not in str(shown)
        assert not [record for record in caplog.records if record.exc_info], "a handler would write it unmasked"

    async def test_a_traceback_is_kept_within_bounds_with_its_end(self, registry: Registry) -> None:
        @registry.task(max_attempts=2)
        async def verbose() -> None:
            raise ValueError("x" * 1_000_000 + "\nthe end")

        async with running(registry) as plugin:
            handle = await verbose.enqueue()
            outcome = await handle.outcome(timeout=20)
            (entry,) = await past(plugin, handle)
        assert len(outcome.error or "") < 25_000
        assert (outcome.error or "").endswith("the end\n")
        assert entry["error"] == "the end"
        assert len(entry["traceback"]) < 2_500


class TestExpires:
    async def test_a_job_that_nobody_started_in_time_is_discarded_and_never_runs(self, registry: Registry) -> None:
        ran: list[int] = []

        @registry.task(expires=timedelta(milliseconds=1))
        async def notify(*, n: int) -> None:
            ran.append(n)

        async with running(registry, concurrency=1) as plugin:
            queue = plugin.get_queue("default")
            await queue.pause()
            late = await notify.enqueue(n=1)
            patient = await notify.using(expires=None).enqueue(n=2)
            await asyncio.sleep(0.01)
            await queue.resume()
            with pytest.raises(JobDiscardedError, match="expired: a worker came to it"):
                await late.result(timeout=20)
            await patient.result(timeout=20)
            outcome = await late.outcome()
        assert ran == [2]
        assert (outcome.reason, outcome.attempts, outcome.started) == ("expired", 0, None)

    def test_the_time_counts_from_the_moment_at_which_the_job_may_start(self, registry: Registry) -> None:
        @registry.task
        async def notify() -> None: ...

        now = datetime.now(UTC).timestamp()
        at_once = notify.spec((), {}, {"expires": 60.0}).meta["expires"]
        delayed = notify.spec((), {}, {"expires": 60.0, "delay": 3600.0}).meta["expires"]
        overdue = notify.spec((), {}, {"expires": 60.0, "run_at": datetime(2020, 1, 1, tzinfo=UTC)}).meta["expires"]
        assert [round(moment - now, -1) for moment in (at_once, delayed, overdue)] == [60, 3660, 60]
        assert "expires" not in notify.spec((), {}).meta

    async def test_a_job_that_was_started_in_time_does_not_expire_before_its_next_attempt(
        self, registry: Registry
    ) -> None:
        @registry.task(expires=30, max_attempts=2)
        async def slow(job: CurrentJob) -> int:
            runs.append(job.attempt)
            if len(runs) == 1:
                raise Snooze(delay=0)
            if len(runs) == 2:
                raise OSError
            return job.attempt

        runs: list[int] = []
        async with running(registry) as plugin:
            handle = await slow.enqueue()
            assert await handle.result(timeout=20) == 2
            job = await plugin.get_queue("default").job(handle.id.rpartition(":")[2])
            assert job is not None
            assert "expires" not in job.meta
        assert runs == [1, 1, 2]

    async def test_an_operator_s_re_run_does_not_expire(self, registry: Registry) -> None:
        @registry.task(expires=0.001)
        async def notify() -> str:
            return "told"

        async with running(registry) as plugin:
            queue = plugin.get_queue("default")
            await queue.pause()
            handle = await notify.enqueue()
            await asyncio.sleep(0.01)
            await queue.resume()
            assert (await handle.outcome(timeout=20)).reason == "expired"
            assert await queue.rerun(handle.id.rpartition(":")[2])
            assert await handle.result(timeout=20) == "told"
            outcome = await handle.outcome()
        assert (outcome.success, outcome.reason) == (True, None)


@dataclass
class Receipt:
    number: int
    total: float


class Row(TypedDict):
    id: int


class TestResults:
    async def test_one_that_does_not_fit_the_annotation_fails_the_job_once(
        self, registry: Registry, caplog: pytest.LogCaptureFixture
    ) -> None:
        runs: list[str] = []

        @registry.task(max_attempts=3)
        async def number() -> int:
            runs.append("number")
            return "seven"  # type: ignore[return-value]  # the mistake under test

        @registry.task(max_attempts=3)
        async def nothing() -> dict[str, int]:
            runs.append("nothing")
            return None  # type: ignore[return-value]  # the mistake under test

        @registry.task(max_attempts=3)
        async def row() -> Row:
            runs.append("row")
            return {"id": "1"}  # type: ignore[typeddict-item]  # the mistake under test

        async with running(registry):
            for task, message in (
                (number, "expected int, got str; the task is annotated '-> int'"),
                (nothing, r"got None; the task is annotated '-> dict\[str, int\]'"),
                (row, r"expected int, got str \(at id\); "),
            ):
                handle: JobHandle[Any] = await task.enqueue()
                with pytest.raises(JobFailedError, match=f"result: task '{task.name}' ran, but .*{message}"):
                    await handle.result(timeout=20)
                outcome = await handle.outcome()
                assert (outcome.reason, outcome.attempts, outcome.error_type) == ("result", 1, None)
        assert runs == ["number", "nothing", "row"]
        assert "task 'number' ran, but its result cannot be stored" in caplog.text

    async def test_one_that_fits_comes_back_as_what_it_was(self, registry: Registry) -> None:
        @registry.task
        async def receipt() -> Receipt | None:
            return Receipt(1, 2)

        @registry.task
        async def whole() -> float:
            return 1

        @registry.task
        async def none() -> None: ...

        @registry.task
        async def untyped():  # type: ignore[no-untyped-def]  # the case under test
            return {"any": [1, "thing"]}

        async with running(registry):
            assert (await (await receipt.enqueue()).outcome(timeout=20)).result == Receipt(1, 2.0)
            assert await (await whole.enqueue()).result(timeout=20) == 1.0
            assert await (await none.enqueue()).result(timeout=20) is None
            assert await (await untyped.enqueue()).result(timeout=20) == {"any": [1, "thing"]}

    async def test_one_that_is_too_large_fails_the_job_once(self, registry: Registry) -> None:
        runs: list[int] = []

        @registry.task(max_attempts=3)
        async def export(*, size: int) -> str:
            runs.append(size)
            return "x" * size

        @registry.task(result_limit=2**22)
        async def allowed() -> str:
            return "x" * 2**21

        async with running(registry):
            assert len(await (await export.enqueue(size=2**20 - 2)).result(timeout=20)) == 2**20 - 2
            handle = await export.enqueue(size=2**20)
            with pytest.raises(JobFailedError, match="1,048,578 bytes as JSON, and 1,048,576 are allowed"):
                await handle.result(timeout=20)
            assert (await handle.outcome()).reason == "result"
            assert len(await (await allowed.enqueue()).result(timeout=20)) == 2**21
        assert runs == [2**20 - 2, 2**20]


class TestPayloads:
    async def test_one_that_is_too_large_is_refused_by_the_call(self, registry: Registry) -> None:
        @registry.task
        async def load(*, rows: list[str]) -> int:
            return len(rows)

        @registry.task(payload_limit=2**20)
        async def allowed(*, rows: list[str]) -> int:
            return len(rows)

        rows = ["x" * 1000] * 300
        async with running(registry) as plugin:
            refused = "task 'load': the arguments have 300,910 bytes as JSON, and 262,144 are allowed"
            with pytest.raises(PayloadError, match=refused):
                await load.enqueue(rows=rows)
            with pytest.raises(PayloadError, match=refused):
                await load.using(delay=1).enqueue(rows=rows)
            with pytest.raises(PayloadError, match=refused):
                await plugin.get_queue("default").enqueue("load", rows=rows)
            assert await (await allowed.enqueue(rows=rows)).result(timeout=20) == 300


class TestOutcomes:
    async def test_it_says_how_a_job_ended_and_where_and_when(self, registry: Registry) -> None:
        @registry.task(queue="default", max_attempts=2)
        async def flaky(job: CurrentJob) -> Receipt:
            if job.attempt == 1:
                raise OSError("once")
            return Receipt(7, 1.5)

        before = datetime.now(UTC) - timedelta(seconds=1)
        async with running(registry) as plugin:
            handle = await flaky.enqueue()
            outcome = await handle.outcome(timeout=20)
            by_id = await registry.job(handle.id).outcome()
            (entry,) = await past(plugin, handle)
        assert (outcome.id, outcome.status, outcome.success) == (handle.id, "complete", True)
        assert (outcome.result, outcome.error, outcome.error_type, outcome.reason) == (
            Receipt(7, 1.5),
            None,
            None,
            None,
        )
        assert (outcome.attempts, outcome.queue) == (2, "default")
        assert outcome.started is not None
        assert outcome.ended is not None
        assert before < outcome.started <= outcome.ended
        assert outcome.worker == entry["worker"]
        assert (entry["outcome"], entry["error"], entry["error_type"]) == ("retry", "OSError: once", "OSError")
        assert "test_outcomes.py" in entry["traceback"]
        assert by_id.result == {"number": 7, "total": 1.5}
        with pytest.raises(FrozenInstanceError):
            outcome.status = "failed"  # type: ignore[misc]  # the mistake under test

    async def test_it_does_not_raise_for_a_job_that_failed(self, registry: Registry) -> None:
        @registry.task
        async def broken() -> int:
            raise ValueError("broken")

        async with running(registry):
            handle = await broken.enqueue()
            outcome = await handle.outcome(timeout=20)
            with pytest.raises(JobFailedError) as caught:
                await handle.result()
        assert (outcome.status, outcome.success, outcome.result) == ("failed", False, None)
        assert (outcome.error, outcome.error_type) == (caught.value.error, caught.value.error_type)
        assert outcome.error_type == "ValueError"
        assert "ValueError: broken" in (outcome.error or "")

    async def test_it_raises_for_one_that_runs_on_and_for_one_that_never_was(self, registry: Registry) -> None:
        @registry.task
        async def job() -> None: ...

        async with running(registry):
            waiting = await job.using(delay=60).enqueue()
            with pytest.raises(TimeoutError):
                await waiting.outcome(timeout=0.01)
            with pytest.raises(JobNotFoundError):
                await job.job("saq:job:default:nobody").outcome()

    async def test_a_re_run_moves_how_it_ended_into_its_history(self, registry: Registry) -> None:
        mended = False

        @registry.task
        async def broken() -> str:
            if not mended:
                raise ValueError("broken")
            return "mended"

        async with running(registry) as plugin:
            handle = await broken.enqueue()
            assert (await handle.outcome(timeout=20)).error_type == "ValueError"
            mended = True
            queue, key = plugin.get_queue("default"), handle.id.rpartition(":")[2]
            assert await queue.rerun(key)
            assert await handle.result(timeout=20) == "mended"
            job = await queue.job(key)
            assert job is not None
            assert ENDED not in job.meta
            (entry,) = history(job)
        assert (entry["outcome"], entry["error_type"]) == ("failed", "ValueError")

    async def test_a_job_that_completes_at_once_carries_nothing_more(self, registry: Registry) -> None:
        @registry.task
        async def job() -> int:
            return 1

        async with running(registry) as plugin:
            handle = await job.enqueue()
            await handle.result(timeout=20)
            stored = await plugin.get_queue("default").job(handle.id.rpartition(":")[2])
        assert stored is not None
        assert stored.meta == {}


def test_a_policy_of_one_s_own_has_a_type(registry: Registry) -> None:
    squared: Backoff = lambda attempt: attempt**2  # noqa: E731  # as it is written in a decorator

    @registry.task(backoff=squared)
    async def job() -> None: ...

    assert job.option("backoff")(3) == 9


class TestPoliciesOfACall:
    async def test_they_win_over_those_of_the_task(self, registry: Registry) -> None:
        @registry.task(max_attempts=2, backoff=Constant(3600), retry_on=(), discard_on=ValueError)
        async def fail(*, how: str) -> None:
            raise {"value": ValueError, "key": KeyError}[how]

        async with running(registry):
            patient = fail.using(backoff=Constant(0.01), retry_on=LookupError, discard_on=())
            outcome = await (await patient.enqueue(how="key")).outcome(timeout=20)
            assert (outcome.status, outcome.attempts) == ("failed", 2)
            outcome = await (await patient.enqueue(how="value")).outcome(timeout=20)
            assert (outcome.status, outcome.attempts) == ("failed", 1)
            outcome = await (await fail.using(discard_on=LookupError).enqueue(how="key")).outcome(timeout=20)
            assert (outcome.status, outcome.reason) == ("aborted", "discarded")
            outcome = await (await fail.enqueue(how="value")).outcome(timeout=20)
            assert (outcome.status, outcome.reason) == ("aborted", "discarded")

    async def test_a_stored_policy_that_is_none_costs_nobody_the_job(
        self, registry: Registry, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("litestar_tasks.worker.execution.DEFAULT_BACKOFF", Constant(0.01))

        @registry.task(max_attempts=2)
        async def flaky(*, job: CurrentJob) -> int:
            if job.attempt == 1:
                raise ValueError
            return job.attempt

        async with running(registry) as plugin:
            spec = flaky.bind().spec()
            spec.meta = {"backoff": ["random", 7]}
            job = (await plugin.get_queue("default").submit(spec)).job
            assert await flaky.job(job.id).result(timeout=20) == 2
        assert "its backoff is of no use after attempt 1; the default one is taken" in caplog.text
