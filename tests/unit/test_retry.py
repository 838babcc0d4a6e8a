"""How long a retry waits, and what a task can say about its next attempt."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from litestar_tasks import ConfigurationError, Constant, Discard, Exponential, Linear, Registry, Retry, Snooze
from litestar_tasks.retry import DEFAULT_BACKOFF, Backoff, holds, pause_after, restored_backoff, stored_policies


def pauses(backoff: Backoff, count: int = 5) -> list[float]:
    return [pause_after(attempt, backoff) for attempt in range(1, count + 1)]


class TestBackoff:
    def test_a_constant_one_waits_the_same_time_after_each_attempt(self) -> None:
        assert pauses(Constant(60), 3) == pauses(Constant(timedelta(minutes=1)), 3) == [60, 60, 60]

    def test_a_linear_one_grows_by_its_step_up_to_its_cap(self) -> None:
        assert pauses(Linear(10, cap=35)) == [10, 20, 30, 35, 35]
        assert pauses(Linear(timedelta(minutes=2))) == [120, 240, 300, 300, 300]

    def test_an_exponential_one_doubles_up_to_its_cap(self) -> None:
        assert pauses(Exponential(base=2, cap=20, jitter=False)) == [2, 4, 8, 16, 20]

    def test_with_jitter_it_is_a_random_part_of_that(self) -> None:
        found = [pause_after(4, Exponential(base=1)) for _ in range(1000)]
        assert all(0 <= pause <= 8 for pause in found)
        assert len({round(pause) for pause in found}) == 9

    def test_the_default_is_exponential_with_jitter_and_never_more_than_five_minutes(self) -> None:
        assert Exponential(base=1, cap=300, jitter=True) == DEFAULT_BACKOFF
        assert max(pauses(DEFAULT_BACKOFF, 3000)) <= 300

    def test_any_function_of_the_attempt_will_do(self) -> None:
        assert pauses(lambda attempt: attempt**2) == [1, 4, 9, 16, 25]
        assert pauses(lambda attempt: timedelta(minutes=attempt), 2) == [60, 120]

    def test_a_later_attempt_than_floats_can_count_still_has_a_pause(self) -> None:
        assert pause_after(10_000, Exponential(jitter=False)) == 300
        assert pause_after(10_000, Exponential(base=timedelta(hours=1), cap=timedelta(days=1), jitter=False)) == 86_400

    @pytest.mark.parametrize("pause", [-1, math.nan, math.inf, 1e300, None, "1", True, timedelta(days=-1)])
    def test_what_is_no_pause_is_refused(self, pause: Any) -> None:
        with pytest.raises(ConfigurationError, match="not negative and up to a year"):
            pause_after(1, lambda attempt: pause)
        for make in (Constant, Linear, Exponential, lambda value: Linear(1, cap=value)):
            with pytest.raises(ConfigurationError):
                make(pause)


class TestSignals:
    def test_they_say_how_long_to_wait(self) -> None:
        assert Retry("later").pause is None
        assert Retry("later", delay=5).pause == Snooze(delay=timedelta(seconds=5)).pause == 5
        pause = Snooze(run_at=datetime.now(UTC) + timedelta(hours=1)).pause
        assert pause is not None
        assert 3500 < pause <= 3600
        assert Retry(run_at=datetime.now(UTC) - timedelta(hours=1)).pause == 0

    def test_the_reason_is_their_text(self) -> None:
        assert [str(signal) for signal in (Retry("a"), Snooze("b", delay=1), Discard("c"))] == ["a", "b", "c"]
        assert (Retry("a").reason, Discard("c").reason, Discard().reason) == ("a", "c", "")

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: Retry(delay=1, run_at=datetime.now(UTC)), "both delay and run_at"),
            (lambda: Retry(delay=-1), "not negative"),
            (
                lambda: Retry(run_at=datetime(2026, 1, 1)),
                r"has no time zone; write datetime.now\(UTC\)",
            ),  # the mistake under test
            (lambda: Snooze(run_at="soon"), "give an aware datetime"),  # type: ignore[arg-type]
            (lambda: Snooze(run_at=datetime(9999, 1, 1, tzinfo=UTC)), "within a year"),
            (lambda: Snooze("why"), "give delay or run_at"),
        ],
    )
    def test_what_they_cannot_mean_is_refused_with_the_remedy(self, make: Callable[[], object], message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            make()

    def test_they_survive_the_way_out_of_another_process(self) -> None:
        moment = datetime.now(UTC) + timedelta(hours=1)
        for signal in (Retry("a", delay=5), Retry("b"), Snooze("c", delay=timedelta(seconds=7))):
            restored = pickle.loads(pickle.dumps(signal))
            assert (type(restored), restored.reason, restored.pause) == (type(signal), signal.reason, signal.pause)
        assert pickle.loads(pickle.dumps(Snooze(run_at=moment))).pause > 3500
        assert pickle.loads(pickle.dumps(Discard("d"))).reason == "d"


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"retry_delay": 60}, r"unknown option 'retry_delay' \(write backoff=Constant\(60\)\)"),
            ({"retry_backoff": True}, r"write backoff=Exponential\(\)"),
            ({"autoretry_for": (OSError,)}, "it is retry_on"),
            ({"backoff": 60}, r"write backoff=Constant\(60\)"),
            ({"backoff": Exponential}, r"the class Exponential; make one: Exponential\(…\)"),
            ({"backoff": "exponential"}, "give Constant"),
            ({"retry_on": "OSError"}, "a class of exceptions"),
            ({"retry_on": [OSError]}, "a class of exceptions"),
            ({"discard_on": (OSError, KeyboardInterrupt)}, "holds <class 'KeyboardInterrupt'>"),
            ({"expires": 0}, "more than 0 seconds"),
            ({"payload_limit": 0}, "a whole number from 1"),
            ({"result_limit": 1.5}, "a whole number from 1"),
        ],
    )
    def test_one_that_cannot_work_is_refused_where_it_is_declared(self, options: Any, message: str) -> None:
        registry = Registry("test", allow_local=True)

        async def job() -> None: ...

        with pytest.raises(ConfigurationError, match=message):
            registry.task(**options)(job)
        with pytest.raises(ConfigurationError, match=message):
            Registry("test", **options)

    def test_a_coroutine_function_is_no_backoff(self) -> None:
        async def backoff(attempt: int) -> float:
            return 1

        with pytest.raises(ConfigurationError, match="a plain function"):
            Registry("test", backoff=backoff)  # type: ignore[arg-type]  # the mistake under test

    def test_what_cannot_be_stored_is_no_option_of_a_call(self) -> None:
        registry = Registry("test", allow_local=True)

        @registry.task
        async def job() -> None: ...

        with pytest.raises(ConfigurationError, match="an option of the task or the registry, not of a call"):
            job.using(payload_limit=1)  # type: ignore[call-arg]  # the mistake under test
        with pytest.raises(ConfigurationError, match=r"cannot be stored with a job; give a call Constant\(…\)"):
            job.using(backoff=lambda attempt: attempt**2)

    def test_an_exception_of_the_program_itself_is_no_option_of_a_call(self) -> None:
        registry = Registry("test", allow_local=True)

        @registry.task
        async def job() -> None: ...

        class LocalError(Exception): ...

        LocalError.__module__ = "__main__"
        with pytest.raises(ConfigurationError, match="holds LocalError, which the worker knows by another name"):
            job.using(discard_on=LocalError)

    @pytest.mark.parametrize(
        "policy",
        [
            Constant(timedelta(minutes=2)),
            Linear(2, cap=timedelta(seconds=5)),
            Exponential(2, cap=60, jitter=False),
        ],
    )
    def test_a_policy_of_a_call_is_stored_whole(self, policy: Backoff) -> None:
        stored = msgspec.json.decode(msgspec.json.encode(stored_policies({"backoff": policy})))
        assert pauses(restored_backoff(stored["backoff"])) == pauses(policy)

    def test_exceptions_are_stored_by_their_names_and_hold_subclasses(self) -> None:
        (names,) = stored_policies({"retry_on": (OSError, LookupError)}).values()
        assert holds(names, TimeoutError())
        assert holds(names, KeyError())
        assert not holds(names, ValueError())

    def test_a_task_has_its_registry_s_unless_it_has_its_own(self) -> None:
        registry = Registry("test", allow_local=True, backoff=Constant(1), retry_on=OSError, payload_limit=10)

        @registry.task(backoff=Linear(2))
        async def job() -> None: ...

        assert [
            job.option(name) for name in ("backoff", "retry_on", "discard_on", "payload_limit", "result_limit")
        ] == [
            Linear(2),
            (OSError,),
            (),
            10,
            2**20,
        ]
