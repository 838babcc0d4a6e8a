"""Which calls are alike, and which options go together."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from litestar_tasks import (
    ConfigurationError,
    Debounce,
    Exclusive,
    JobSpec,
    PayloadError,
    Registry,
    TasksConfig,
    TasksPlugin,
    Throttle,
    Unique,
    enqueue_many,
)
from litestar_tasks.codec import Hooks
from litestar_tasks.queues.locks import LOCK, lock_of
from litestar_tasks.task import AnyTask
from litestar_tasks.uniqueness import Lock

if TYPE_CHECKING:
    Later: TypeAlias = int

registry = Registry("test", allow_local=True)


@dataclass
class Address:
    street: str
    tags: set[str] = field(default_factory=set)


@registry.task(unique=True)
async def ship(order: int, /, *, address: Address, notes: dict[str, int] | None = None, fast: bool = False) -> None: ...


@registry.task
async def noop(number: int, text: str = "", when: datetime | None = None) -> None: ...


def lock(spec: JobSpec) -> Lock:
    assert spec.lock is not None
    return spec.lock


def name_of(task: AnyTask, *args: Any, **kwargs: Any) -> str:
    return lock(task.spec(args, kwargs)).name


HOME = Address("Main Street", {"a", "b", "c"})


def test_however_a_call_is_written_it_is_the_same() -> None:
    first = name_of(ship, 1, address=HOME, notes={"a": 1, "b": 2})
    assert first == name_of(ship, 1, notes={"b": 2, "a": 1}, address=Address("Main Street", {"c", "b", "a"}))
    assert first == name_of(ship, 1, address=HOME, notes={"a": 1, "b": 2}, fast=False)
    assert name_of(ship, 1, address=HOME) == name_of(ship, 1, address=HOME, notes=None)
    task = registry.get_task("noop")
    number = lock(task.bind(1).using(unique=True).spec()).name
    assert number == lock(task.bind(number=1, text="").using(unique=True).spec()).name


def test_calls_with_other_arguments_or_of_other_tasks_differ() -> None:
    names = {
        name_of(ship, 1, address=HOME),
        name_of(ship, 2, address=HOME),
        name_of(ship, 1, address=HOME, fast=True),
        name_of(ship, 1, address=Address("Main Street")),
        name_of(ship, 1, address=HOME, notes={}),
        lock(noop.bind(1).using(unique=True).spec()).name,
        lock(noop.bind(1).using(throttle=60).spec()).name,
        lock(noop.bind(1).using(debounce=60).spec()).name,
    }
    assert len(names) == 8


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=12,
)


@registry.task(unique=True)
async def anything(value: Any, other: Any = None) -> None: ...


def shuffled(value: Any) -> Any:
    if isinstance(value, dict):
        pairs = [(key, shuffled(one)) for key, one in value.items()]
        random.shuffle(pairs)
        return dict(pairs)
    return [shuffled(one) for one in value] if isinstance(value, list) else value


@settings(max_examples=200, deadline=None)
@given(json_values, json_values)
def test_calls_are_alike_if_and_only_if_their_arguments_are_the_same_json(one: Any, other: Any) -> None:
    assert name_of(anything, one) == name_of(anything, value=shuffled(one), other=None)
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (name_of(anything, one) == name_of(anything, other)) is same
    assert (name_of(anything, one, other) == name_of(anything, other, one)) is same


@pytest.mark.usefixtures("light_starts")
def test_every_process_finds_the_same_name() -> None:
    program = (
        "from tests.unit.test_uniqueness import HOME, name_of, ship\n"
        "print(name_of(ship, 7, address=HOME, notes={'x': 1, 'a': 2}))"
    )
    names = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": str(seed), "PYTHONPATH": ":".join(filter(None, sys.path))},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in (1, 2)
    }
    assert names == {name_of(ship, 7, address=HOME, notes={"a": 2, "x": 1})}


def test_the_name_tells_nothing_of_the_arguments() -> None:
    spec = noop.bind(1, "hunter2").using(unique=True, exclusive=Exclusive(by="text")).spec()
    assert "hunter2" not in lock(spec).name
    assert "hunter2" not in (spec.group or "")
    assert len(lock(spec).name) == 32


def test_chosen_arguments_alone_tell_calls_apart() -> None:
    by_number = noop.using(unique=Unique(by="number"))
    assert lock(by_number.bind(1, "a").spec()).name == lock(by_number.bind(1, "b").spec()).name
    assert lock(by_number.bind(1).spec()).name != lock(by_number.bind(2).spec()).name
    by_both = noop.using(unique=Unique(by=("text", "number")))
    assert (
        lock(by_both.bind(1).spec()).name == lock(noop.using(unique=Unique(by=["number", "text"])).bind(1).spec()).name
    )
    assert lock(by_both.bind(1, "a").spec()).name != lock(by_both.bind(1, "b").spec()).name
    of_the_task = noop.using(unique=Unique(by=()))
    assert lock(of_the_task.bind(1).spec()).name == lock(of_the_task.bind(2, "b").spec()).name


def test_a_function_of_the_arguments_tells_calls_apart() -> None:
    seen: list[Mapping[str, Any]] = []

    def decade(arguments: Mapping[str, Any]) -> int:
        seen.append(arguments)
        return int(arguments["number"]) // 10

    by_decade = noop.using(unique=Unique(by=decade))
    when = datetime(2030, 1, 1, tzinfo=UTC)
    assert lock(by_decade.bind(11, when=when).spec()).name == lock(by_decade.bind(19).spec()).name
    assert lock(by_decade.bind(11).spec()).name != lock(by_decade.bind(21).spec()).name
    assert seen[0] == {"number": 11, "text": "", "when": "2030-01-01T00:00:00Z"}


def test_what_a_function_returns_has_to_have_a_json_form() -> None:
    task = noop.using(unique=Unique(by=lambda arguments: object()))
    with pytest.raises(PayloadError, match=r"unique: its function by returned <object .*return text or a number"):
        task.bind(1).spec()


UNSTORABLE: Any = object()


def test_a_default_that_cannot_be_stored_is_like_none() -> None:
    registry = Registry("test", allow_local=True)

    @registry.task(unique=True)
    async def odd(number: int, token: UUID = UNSTORABLE) -> None: ...

    token = UUID(int=1)
    assert name_of(odd, 1) == name_of(odd, 1) != name_of(odd, 1, token)
    assert name_of(odd, 1, token) == name_of(odd, 1, str(token))
    by_token = odd.using(unique=Unique(by="token"))
    assert lock(by_token.bind(1).spec()).name == lock(by_token.bind(2).spec()).name


def test_names_are_checked_also_where_the_signature_is_known_late() -> None:
    late = Registry("test", allow_local=True)

    @late.task
    async def later(number: Later) -> None: ...

    call = later.using(unique=Unique(by="numbr"))
    later.compile({"Later": int}, Hooks(encoders={}, decoders=()))
    with pytest.raises(ConfigurationError, match="by names 'numbr', which is no argument of the task; it takes number"):
        call.bind(1).spec()


def test_defaults_are_no_options_and_cost_nothing() -> None:
    spec = noop.bind(1).spec()
    assert (spec.lock, spec.group, dict(spec.meta)) == (None, None, {})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"unique": True}, ("finished", 0, False)),
        ({"unique": Unique(until="started", window=timedelta(minutes=1))}, ("started", 60, False)),
        ({"throttle": 5}, ("enqueued", 5, False)),
        ({"throttle": Throttle(timedelta(hours=1))}, ("enqueued", 3600, False)),
        ({"debounce": timedelta(seconds=5)}, ("started", 0, True)),
    ],
)
def test_each_option_says_how_long_a_call_is_found(options: Any, expected: tuple[str, float, bool]) -> None:
    found = lock(noop.using(**options).bind(1).spec())
    assert (found.until, found.window, found.debounce) == expected


def test_debouncing_says_when_the_job_starts_and_how_long_it_may_be_put_off() -> None:
    now = datetime.now(UTC)
    spec = noop.using(debounce=Debounce(60, max_wait=timedelta(minutes=5))).bind(1).spec()
    assert spec.run_at is not None
    assert timedelta(seconds=59) < spec.run_at - now < timedelta(seconds=90)
    assert 299 < lock(spec).deadline - now.timestamp() < 330


def test_a_level_overrules_those_above_it() -> None:
    registry = Registry("test", allow_local=True, unique=True, exclusive=True)

    @registry.task(unique=False)
    async def free() -> None: ...

    @registry.task(exclusive=False)
    async def bound() -> None: ...

    assert free.bind().spec().lock is None
    assert free.bind().spec().group is not None
    assert bound.bind().spec().lock is not None
    assert bound.bind().spec().group is None
    assert bound.using(unique=False).bind().spec().lock is None
    assert bound.using(unique=False, throttle=60).bind().spec().lock is not None


BOTH = "both say what becomes of a second call"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unique": "number"}, r"unique is 'number'; give True, False or Unique\(…\)"),
        ({"unique": Unique}, r"unique is <class .*Unique'>; give True, False or Unique"),
        ({"exclusive": 1}, r"exclusive is 1; give True, False or Exclusive"),
        ({"debounce": True}, r"debounce is True; give seconds, a timedelta or Debounce"),
        ({"debounce": 0}, "debounce: Debounce: delay is 0; give seconds or a timedelta, more than 0"),
        ({"throttle": "1h"}, r"throttle is '1h'; give seconds, a timedelta or Throttle"),
        ({"throttle": timedelta(0)}, "Throttle: period is datetime.timedelta"),
        ({"unique": True, "throttle": 5}, rf"unique and throttle {BOTH}.*unique=False.*Unique\(window=…\)"),
        ({"unique": True, "debounce": 5}, f"unique and debounce {BOTH}"),
        ({"debounce": 5, "throttle": 5}, f"debounce and throttle {BOTH}.*debounce=None"),
        ({"debounce": 5, "delay": 5}, "debounce says when the job starts; leave out delay"),
        ({"debounce": 5, "run_at": datetime(2030, 1, 1, tzinfo=UTC)}, "leave out run_at"),
        ({"debounce": 5, "key": "k"}, "leave out key"),
        (
            {"unique": Unique(by="numbr")},
            "unique: by names 'numbr', which is no argument of the task; it takes number, text",
        ),
        ({"exclusive": Exclusive(by=("number", "ctx"))}, "exclusive: by names 'ctx'"),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_is_given(options: Any, message: str) -> None:
    assert noop.payload
    with pytest.raises(ConfigurationError, match=f"task 'noop': .*{message}"):
        noop.using(**options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Unique(until="ended"), 'Unique: until is \'ended\'; give "started" or "finished"'),  # type: ignore[arg-type]  # what it is about
        (lambda: Unique(window=0), "Unique: window is 0; give seconds"),
        (lambda: Unique(by=1), "Unique: by is 1; give the name of an argument"),  # type: ignore[arg-type]  # likewise
        (lambda: Unique(by=""), "Unique: by is ''"),
        (lambda: Exclusive(by=dict), "Exclusive: by is <class 'dict'>"),
        (lambda: Exclusive(by=_async), "a plain function of the arguments"),
        (lambda: Debounce(60, max_wait=5), "max_wait is 5, less than the delay of 60"),
        (lambda: Throttle(-1), "Throttle: period is -1"),
    ],
)
def test_values_that_cannot_work_are_refused_as_they_are_made(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


async def _async(arguments: Mapping[str, Any]) -> str:
    return ""


def test_a_task_is_refused_whose_options_contradict_its_signature_or_its_registry() -> None:
    registry = Registry("test", allow_local=True, throttle=60)
    with pytest.raises(ConfigurationError, match="task 'early': debounce and throttle both"):

        @registry.task(debounce=5)
        async def early() -> None: ...

    with pytest.raises(ConfigurationError, match="task 'typo': exclusive: by names 'user', which is no argument"):

        @registry.task(exclusive=Exclusive(by="user"))
        async def typo(user_id: int) -> None: ...


def test_a_stored_lock_that_is_none_is_ignored() -> None:
    from saq.job import Job

    for stored in (None, 1, {}, {"name": "x", "until": "finished"}, {"name": "a" * 32, "until": "never"}):
        assert lock_of(Job("noop", meta={LOCK: stored})) is None
    assert lock_of(Job("noop", meta={LOCK: {"name": "a" * 32, "until": "finished"}})) is not None


async def test_a_second_call_gets_a_handle_that_says_so() -> None:
    from litestar import Litestar

    registry = Registry("test", allow_local=True)

    @registry.task(unique=True)
    async def once(number: int) -> int:
        return number

    @registry.task(throttle=3600, ttl=0)
    async def rarely() -> None: ...

    plugin = TasksPlugin(TasksConfig(registry=registry, broker_url="memory://"))
    Litestar(plugins=[plugin])
    async with plugin.attached():
        first, second = await once.enqueue(1), await once.enqueue(number=1)
        assert (first.deduplicated, second.deduplicated, second.id == first.id) == (False, True, True)
        calls = [once.bind(1), once.bind(2), once.bind(2)]
        handles = await enqueue_many(calls)
        assert [handle.deduplicated for handle in handles] == [True, False, True]
        assert handles[0].id == first.id
        assert handles[1].id == handles[2].id
        assert await first.abort()
        assert not (await once.enqueue(1)).deduplicated
        once_more = await once.using(unique=False).enqueue(1)
        assert not once_more.deduplicated
        assert (await rarely.enqueue()).id == (await rarely.enqueue()).id
