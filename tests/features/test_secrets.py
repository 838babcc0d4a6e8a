"""What is annotated ``Secret`` is read by the task and its callers, and by nobody between them."""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar

import attrs
import msgspec
import pydantic
import pytest
from cryptography.fernet import Fernet
from litestar import Litestar
from saq.job import Job
from saq.types import Context

from litestar_tasks import (
    RESULT,
    ConfigurationError,
    CurrentJob,
    Discard,
    InvalidScheduleError,
    InvalidTaskError,
    JobError,
    JobFailedError,
    PayloadError,
    Registry,
    Retry,
    Secret,
    Snooze,
    StartupError,
    TasksConfig,
    TasksPlugin,
    enqueue_many,
)
from litestar_tasks.dashboard.redaction import Redactor
from litestar_tasks.keyring import Keyring, is_sealed
from litestar_tasks.queues.schedule_book import QueueSchedules
from litestar_tasks.redaction import HIDDEN, masked_end, masked_start, masked_text, spellings
from litestar_tasks.secret import secrets_of
from tests.features.conftest import Broker, Run

# Always the same, as they are part of the tests' names.
KEY, OTHER = (urlsafe_b64encode(letter * 32).decode() for letter in (b"k", b"o"))
HUNTER = "hunter2-correct-horse"

T = TypeVar("T")


@dataclass
class Account:
    name: str
    password: Secret[str]
    old: list[Secret[str]] = field(default_factory=list[str])


class Card(msgspec.Struct, rename="camel"):
    card_number: Secret[int]
    holder: str = ""


class Row(msgspec.Struct, array_like=True, tag=True):
    plain: str
    hidden: Secret[str]


@attrs.define
class Login:
    user: str
    password: Secret[str]


class Options(TypedDict, total=False):
    user: str
    password: Secret[str]


class Pair(NamedTuple):
    left: str
    right: Secret[bytes]


@dataclass
class Box(Generic[T]):
    content: Secret[T]


@dataclass
class Tree:
    token: Secret[str]
    children: list[Tree] = field(default_factory=list["Tree"])


class Form(pydantic.BaseModel):
    user: str
    password: Secret[str] | None = None


class Wrapped(pydantic.BaseModel):
    form: Form


class Stars(pydantic.BaseModel):
    password: pydantic.SecretStr


class TestEverywhere:
    """On each broker."""

    async def test_secrets_of_a_schedule_are_written_anew_only_when_they_have_changed(
        self, run: Run, broker: Broker, registry: Registry
    ) -> None:
        seen: list[str] = []

        @registry.task
        async def log_in(*, password: Secret[str]) -> None:
            seen.append(password)

        def declared(password: str) -> QueueSchedules:
            registry._schedules.clear()
            registry.schedule(log_in, every=timedelta(days=9), kwargs={"password": password})
            return QueueSchedules(registry, {queue.label: queue})

        async with run(registry, secret_keys=[KEY]) as plugin:
            queue = plugin.get_queue("default")
            assert declared(HUNTER).digest() == declared(HUNTER).digest() != declared("other").digest()
            await declared(HUNTER).reconcile(queue)
            before = await queue.schedules.read_all()
            await declared(HUNTER).reconcile(queue)
            assert await queue.schedules.read_all() == before
            await declared("hunter2 changed").reconcile(queue)
            assert await queue.schedules.read_all() != before
            await (await registry.run_schedule("log_in")).result(timeout=20)
            await registry.change_schedule("log_in", kwargs={"password": "hunter2 by hand"})
            await (await registry.run_schedule("log_in")).result(timeout=20)
            assert b"hunter2" not in broker.raw(plugin, "default")
        assert seen == ["hunter2 changed", "hunter2 by hand"]

    async def test_the_broker_never_holds_what_callers_and_tasks_read(
        self, run: Run, broker: Broker, registry: Registry, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        seen: list[Any] = []

        @registry.task
        async def log_in(ctx: Context, *, user: str, password: Secret[str], pin: Secret[int] | None = None) -> str:
            seen.append((user, password, pin))
            assert HUNTER not in repr(ctx["job"])
            return user

        @registry.task(queue="others")
        def change(account: Account, /) -> Secret[str]:
            seen.append(account)
            return f"was {account.password}"

        @registry.task(max_attempts=2)
        async def break_down(*, password: Secret[str], job: CurrentJob) -> None:
            await job.set_progress(0.5, f"knows {password}")
            await job.log(f"still knows {password}")
            raise PermissionError(f"refused {password!r}, attempt {job.attempt}")

        registry.schedule(log_in, every=timedelta(seconds=1), kwargs={"user": "cron", "password": f"{HUNTER} 0"})

        async with run(registry, secret_keys=[KEY]) as plugin:
            queue = plugin.get_queue("default")
            typed = await log_in.enqueue(user="typed", password=f"{HUNTER} 1", pin=4711_0815)
            by_name = await queue.enqueue("log_in", user="by name", password=f"{HUNTER} 2")
            options = await registry.get_task("log_in").using(priority=5).enqueue(user="u", password=f"{HUNTER} 3")
            many = await enqueue_many([log_in.bind(user=f"{n}", password=f"{HUNTER} 4") for n in range(2)])
            other = await change.enqueue(Account("ada", f"{HUNTER} 5", [f"{HUNTER} 6"]))
            by_hand = await queue.enqueue(Job("log_in", kwargs={"user": "hand", "password": f"{HUNTER} 7"}))
            broken = await break_down.enqueue(password=HUNTER)
            for handle in (typed, options, *many, registry.job(by_name.id), registry.job(by_hand.id)):
                await handle.result(timeout=20)
            assert await other.result(timeout=20) == f"was {HUNTER} 5"
            assert is_sealed(await registry.job(other.id).result(timeout=20))
            outcome = await broken.outcome(timeout=20)
            assert outcome.attempts == 2
            assert outcome.error is not None
            assert "refused '***', attempt 2" in outcome.error
            assert [line.text for line in await broken.logs()] == ["still knows ***"] * 2
            with pytest.raises(JobFailedError) as failed:
                await broken.result(timeout=0)
            assert HUNTER not in str(failed.value) + repr(await other.outcome(timeout=20))
            deadline = asyncio.get_running_loop().time() + 20
            while ("cron", f"{HUNTER} 0", None) not in seen:
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.02)
            raw = broker.raw(plugin, "default", "others")
            assert b"by name" in raw, "the broker was not read"
            assert b"hunter2" not in raw
            assert b"47110815" not in raw
        assert ("typed", f"{HUNTER} 1", 4711_0815) in seen
        assert ("hand", f"{HUNTER} 7", None) in seen
        assert Account("ada", f"{HUNTER} 5", [f"{HUNTER} 6"]) in seen
        assert "hunter2" not in caplog.text
        assert "refused '***'" in caplog.text

    async def test_follow_ups_hand_them_on_and_nobody_else_reads_them(self, broker: Broker, run: Run) -> None:
        seen: list[tuple[str, str]] = []
        registry = Registry("test", allow_local=True)

        @registry.task
        async def use(*, token: Secret[str], pin: Secret[str]) -> None:
            seen.append((token, pin))

        after = use.bind(token=RESULT, pin=f"{HUNTER} pin")

        @registry.task(on_success=after)
        async def issue(*, user: str) -> Secret[str]:
            return f"{HUNTER} {user}"

        async with run(registry, secret_keys=[KEY]) as plugin:
            await issue.enqueue(user="ada")
            await issue.using(delay=3600).enqueue(user="later")
            await issue.using(on_success=[after, after.using(delay=3600)]).enqueue(user="bob")
            deadline = asyncio.get_running_loop().time() + 20
            while len(seen) < 2:
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.02)
            raw = broker.raw(plugin, "default")
            assert b"follow_ups" in raw, "the broker was not read"
            assert b"hunter2" not in raw
        assert sorted(seen) == [(f"{HUNTER} {user}", f"{HUNTER} pin") for user in ("ada", "bob")]

    async def test_a_job_of_a_key_that_was_retired_is_quarantined_and_says_so(
        self, run: Run, registry: Registry
    ) -> None:
        @registry.task
        async def log_in(*, password: Secret[str]) -> Secret[str]:
            return password[::-1]

        async with run(registry, secret_keys=[KEY, OTHER]) as plugin:
            queue = plugin.get_queue("default")
            old = await queue.enqueue(Job("log_in", kwargs={"password": Keyring([OTHER]).seal("old")}))
            assert await log_in.job(old.id).result(timeout=20) == "dlo"
            retired = Keyring([Fernet.generate_key().decode()]).seal("older")
            older = await queue.enqueue(Job("log_in", kwargs={"password": retired}))
            with pytest.raises(JobFailedError, match="argument 'password': was encrypted with a key that this process"):
                await log_in.job(older.id).result(timeout=20)

    async def test_keys_rotate_from_one_release_to_the_next(self, run: Run, broker: Broker, registry: Registry) -> None:
        if broker.url == "memory://":
            pytest.skip("its jobs end with the app")

        @registry.task
        async def log_in(*, password: Secret[str]) -> Secret[str]:
            return password[::-1]

        async with run(registry, secret_keys=[OTHER]):
            job = await log_in.enqueue(password=HUNTER)
            assert await job.result(timeout=20) == HUNTER[::-1]
        async with run(registry, secret_keys=[KEY, OTHER], worker=False):
            assert await log_in.job(job.id).result(timeout=20) == HUNTER[::-1]
            newer = await log_in.enqueue(password=HUNTER)
        async with run(registry, secret_keys=[OTHER]):
            with pytest.raises(JobFailedError, match=r"secret_keys=\[…\]"):
                await log_in.job(newer.id).result(timeout=20)
        async with run(registry, secret_keys=[KEY]):
            with pytest.raises(JobError, match="was encrypted with a key that this process does not have"):
                await log_in.job(job.id).result(timeout=20)


@pytest.fixture
def attached(registry: Registry) -> Any:
    """A script on the in-memory queue, with a key."""
    return TasksPlugin(TasksConfig(registry=registry, broker_url="memory://", secret_keys=[KEY])).attached()


VALUES: list[tuple[Any, Any]] = [
    (Secret[str], "a-secret"),
    (Secret[str] | None, "a-secret"),
    (Secret[str] | None, None),
    (Secret[str | None], None),
    (Secret[bytes], b"a-secret"),
    (Secret[dict[str, int]], {"a-secret": 1}),
    (Secret[Any], {"a-secret": [1, None]}),
    (list[Secret[str]], ["a-secret", "b"]),
    (set[Secret[str]], {"a-secret"}),
    (tuple[int, Secret[str]], (1, "a-secret")),
    (tuple[Secret[str], ...], ("a-secret",)),
    (dict[str, Secret[str]], {"x": "a-secret"}),
    (dict[int, list[Account]], {1: [Account("ada", "a-secret", ["a-secret"])]}),
    (Secret[Annotated[str, msgspec.Meta(min_length=3)]], "a-secret"),
    (Annotated[Secret[str], msgspec.Meta(min_length=3)], "a-secret"),
    (Account, Account("ada", "a-secret")),
    (Account | None, Account("ada", "a-secret")),
    (Card, Card(424242)),
    (Row, Row("x", "a-secret")),
    (Login, Login("ada", "a-secret")),
    (Options, {"user": "ada", "password": "a-secret"}),
    (Options, {"user": "ada"}),
    (Pair, Pair("x", b"a-secret")),
    (Box[str], Box("a-secret")),
    (Box[Account], Box(Account("a", "a-secret"))),
    (Tree, Tree("a-secret", [Tree("b", [Tree("a-secret")])])),
    (Secret[Form], Form(user="ada", password="a-secret")),
]


class TestTypes:
    @pytest.mark.parametrize(("annotation", "value"), VALUES, ids=lambda value: str(value)[:50])
    async def test_a_secret_anywhere_in_a_type_is_encrypted_and_comes_back(
        self, registry: Registry, attached: Any, annotation: Any, value: Any
    ) -> None:
        async def fn(x):  # type: ignore[no-untyped-def]  # annotated below, with the type under test
            ...

        fn.__annotations__ = {"x": annotation, "return": annotation}
        task = registry.task(fn)
        async with attached:
            spec = task.spec((value,), {})
            stored = msgspec.json.decode(msgspec.json.encode(dict(spec.kwargs)))
            assert "a-secret" not in str(stored)
            assert "424242" not in str(stored)
            assert task.payload.decode(task.opened(stored)) == ([], {"x": value})
            result = task.result.encode(value)
            assert "a-secret" not in str(result)
            assert task.result.decode(msgspec.json.decode(msgspec.json.encode(result))) == value
        assert "a-secret" not in repr(spec)

    async def test_only_what_is_secret_is_encrypted_and_equal_ones_look_different(
        self, registry: Registry, attached: Any
    ) -> None:
        @registry.task
        async def fn(*, account: Account, ticket: Card, note: Secret[str] | None = None) -> None: ...

        async with attached:
            stored = fn.spec((), {"account": Account("ada", "x", ["x"]), "ticket": Card(1, "Ada"), "note": None}).kwargs
        assert stored["account"]["name"] == "ada"
        assert stored["ticket"]["holder"] == "Ada"
        assert stored["note"] is None
        tokens = [stored["account"]["password"], stored["account"]["old"][0], stored["ticket"]["cardNumber"]]
        assert all(is_sealed(one) for one in tokens)
        assert tokens[0] != tokens[1]
        assert Redactor().shown(stored, 1_000) == (
            '{"account": {"name": "ada", "password": "***", "old": ["***"]}, "ticket": {"cardNumber": "***", '
            '"holder": "Ada"}, "note": null}'
        )

    @pytest.mark.parametrize(
        ("annotation", "says"),
        [
            (Secret[str] | int, r"Secret\[… \| …\]"),
            (Account | int, r"Secret\[… \| …\]"),
            (dict[Secret[str], int], r"the keys of a dictionary cannot be secret"),
            (Form, r"Form has a secret field, and encodes itself; make all of it secret: Secret\[Form\]"),
            (list[Wrapped], r"Secret\[Wrapped\]"),
        ],
    )
    def test_secrets_that_cannot_be_encrypted_apart_are_refused_at_import(
        self, registry: Registry, annotation: Any, says: str
    ) -> None:
        def argument(x):  # type: ignore[no-untyped-def]  # annotated below, with the type under test
            ...

        def result():  # type: ignore[no-untyped-def]  # as above
            ...

        argument.__annotations__ = {"x": annotation}
        result.__annotations__ = {"return": annotation}
        with pytest.raises(InvalidTaskError, match=says):
            registry.task(argument)
        with pytest.raises(InvalidTaskError, match=says):
            registry.task(result)

    def test_pydantic_s_own_secrets_are_refused_instead_of_stored_as_stars(self, registry: Registry) -> None:
        @registry.task
        async def fn(*, form: Stars) -> None: ...

        fn.fn.__annotations__["form"] = Stars
        with pytest.raises(PayloadError, match="argument 'form': JSON would change it"):
            fn.bind(form=Stars(password=pydantic.SecretStr("x")))


def everything(error: BaseException) -> str:
    """All that a log or a reporter of errors could find in an exception."""
    found = "".join(traceback.format_exception(error)) + repr(error)
    for one in (error.__cause__, error.__context__):
        if one is not None:
            found += everything(one)
    return found


class Picky:
    def __init__(self, text: str) -> None:
        self.text = text


class TestErrors:
    @pytest.mark.parametrize(
        ("annotation", "value", "says"),
        [
            (Secret[int], HUNTER, "argument 'x': expected int, got str"),
            (Secret[Annotated[str, msgspec.Meta(max_length=3)]], HUNTER, "expected str of length <= 3"),
            (Secret[Literal["a", "b"]], HUNTER, "argument 'x': does not fit its type; it is secret"),
            (Secret[Annotated[str, msgspec.Meta(pattern="^a")]], HUNTER, "it is secret"),
            (Secret[Account], {"name": "a", "password": 7}, "argument 'x': expected str, got int"),
            (Secret[Form], {"user": "ada", "password": [HUNTER]}, "it is secret"),
            (Secret[str], HUNTER + "\ud800", "it is secret"),
            (Secret[float], float("nan"), "it is secret"),
            (Secret[Any], {HUNTER: {1, 2}}, "it is secret"),
            (list[Secret[Literal["a"]]], ["a", HUNTER], r"argument 'x\[1\]': does not fit its type; it is secret"),
            (dict[str, Secret[Literal["a"]]], {"k": HUNTER}, "it is secret"),
            (Box[Literal["a"]], {"content": HUNTER}, "it is secret"),
        ],
    )
    async def test_a_wrong_value_is_refused_and_never_quoted(
        self, registry: Registry, annotation: Any, value: Any, says: str
    ) -> None:
        async def fn(x):  # type: ignore[no-untyped-def]  # annotated below, with the type under test
            ...

        fn.__annotations__ = {"x": annotation, "return": annotation}
        task = registry.task(fn)
        with pytest.raises(PayloadError, match=says) as caught:
            task.bind(x=value)
        assert "hunter2" not in everything(caught.value)
        with pytest.raises(ValueError, match=r"\w") as refused:
            task.result.encode(value)
        assert "hunter2" not in everything(refused.value)
        with pytest.raises(PayloadError) as undecodable:
            task.payload.decode({"x": value, "y": 1} if says.endswith("is secret") else {"x": value})
        assert "hunter2" not in everything(undecodable.value)
        with pytest.raises(InvalidScheduleError) as unscheduled:
            registry.schedule(task, cron="0 0 * * *", kwargs={"x": value})
        assert "hunter2" not in everything(unscheduled.value)

    def test_a_check_of_the_whole_object_does_not_quote_its_secret_part(self, registry: Registry) -> None:
        @registry.task
        async def fn(*, account: Checked) -> None: ...

        with pytest.raises(PayloadError, match="argument 'account': does not fit its type; it is secret") as caught:
            fn.bind(account={"password": HUNTER})
        assert "hunter2" not in everything(caught.value)

    def test_what_is_not_secret_is_told_as_ever(self, registry: Registry) -> None:
        @registry.task
        async def fn(*, password: Secret[str], colour: Literal["red"], account: Account | None = None) -> None: ...

        with pytest.raises(PayloadError, match="argument 'colour': Invalid enum value 'green'"):
            fn.bind(password=HUNTER, colour="green")  # type: ignore[arg-type]  # the mistake under test
        with pytest.raises(PayloadError, match=r"argument 'account\.name': expected str, got int"):
            fn.bind(password=HUNTER, colour="red", account={"name": 1, "password": HUNTER})  # type: ignore[arg-type]  # as above
        with pytest.raises(PayloadError, match="missing argument password"):
            fn.bind(colour="red")  # type: ignore[call-arg]  # as above

    async def test_what_the_task_says_of_its_end_does_not_show_it_either(
        self, registry: Registry, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        long = "s3cr3t " * 2_000

        @registry.task(max_attempts=2)
        async def fn(*, how: str, password: Secret[str], raw: Secret[bytes] = b"") -> Secret[int]:
            match how:
                case "discard":
                    raise Discard(f"no use for {password}")
                case "retry":
                    raise Retry(password * 2, delay=0.01)
                case "snooze":
                    if not snoozed:
                        snoozed.append(1)
                        raise Snooze(password, delay=0.01)
                case "bytes":
                    raise ValueError(raw)
                case "key":
                    raise KeyError({"x": f"'{password}'\n"})
                case "chained":
                    try:
                        raise ValueError(password)
                    except ValueError as error:
                        raise ConnectionError("the bank is closed") from error
                case _:
                    return password  # type: ignore[return-value]  # the mistake under test
            return 1

        snoozed: list[int] = []
        plugin = TasksPlugin(
            TasksConfig(
                registry=registry, broker_url="memory://", dashboard=None, in_process_worker=True, secret_keys=[KEY]
            )
        )
        async with Litestar(plugins=[plugin], logging_config=None).lifespan():
            for how in ("discard", "retry", "snooze", "bytes", "key", "chained", "result"):
                for password in (HUNTER, f"hunter2'\"\n\\ü{how}", long):
                    job = await fn.enqueue(how=how, password=password, raw=b"hunter2-\xff" if how == "bytes" else b"")
                    outcome = await job.outcome(timeout=20)
                    assert "hunter2" not in str(outcome), (how, outcome.error)
                    assert "s3cr3t s3cr3t" not in str(outcome), how
                    assert (outcome.error is None) == (how == "snooze")
            raw = b"".join(plugin.get_queue("default")._state.records.values())  # type: ignore[attr-defined]  # memory's
        assert b"hunter2" not in raw
        assert "hunter2" not in caplog.text
        assert "s3cr3t s3cr3t" not in caplog.text


@dataclass
class Checked:
    password: Secret[str]

    def __post_init__(self) -> None:
        if len(self.password) > 3:
            raise ValueError(f"{self.password} is too long")


class TestKeys:
    async def test_an_app_with_secrets_and_no_key_does_not_start(self, registry: Registry) -> None:
        @registry.task
        async def argument(*, password: Secret[str]) -> None: ...

        @registry.task
        async def result() -> list[Secret[str]]: ...  # type: ignore[empty-body]  # not run

        @registry.task
        async def neither() -> None: ...

        app = Litestar(plugins=[TasksPlugin(TasksConfig(registry=registry, broker_url="memory://", dashboard=None))])
        with pytest.raises(BaseExceptionGroup) as caught:
            async with app.lifespan():
                pass
        (error,) = caught.value.exceptions
        assert isinstance(error, StartupError)
        assert len(error.problems) == 2
        assert "task 'argument' (" in str(error.problems[0])
        assert "set TasksConfig(secret_keys=[…]), and install litestar-tasks[secrets]" in str(error.problems[0])

    async def test_a_script_without_keys_enqueues_nothing_secret(self, registry: Registry) -> None:
        @registry.task
        async def fn(*, password: Secret[str]) -> None: ...

        plugin = TasksPlugin(TasksConfig(registry=registry, broker_url="memory://"))
        async with plugin.attached():
            with pytest.raises(ConfigurationError, match="there is no key"):
                await fn.enqueue(password="x")
            assert await plugin.get_queue("default").count("queued") == 0

    @pytest.mark.parametrize(
        "keys",
        ["a text" + KEY, b"bytes", [""], ["hunter2"], [KEY, KEY[:-1]], [KEY, KEY.encode()], [KEY[:-2] + "??"], [None]],
    )
    def test_what_is_no_list_of_keys_is_refused_without_being_shown(self, registry: Registry, keys: Any) -> None:
        with pytest.raises(ConfigurationError, match="secret_keys") as caught:
            TasksConfig(registry=registry, secret_keys=keys)
        assert KEY[:20] not in everything(caught.value)
        assert "hunter2" not in everything(caught.value)

    def test_a_missing_extra_is_named_with_its_remedy(
        self, registry: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "cryptography", None)
        with pytest.raises(ConfigurationError, match=r"pip install 'litestar-tasks\[secrets\]'"):
            TasksConfig(registry=registry, secret_keys=[KEY])
        TasksConfig(registry=registry)

    def test_keys_are_not_in_the_settings_repr(self, registry: Registry) -> None:
        assert KEY not in repr(TasksConfig(registry=registry, secret_keys=[KEY]))

    async def test_a_secret_that_somebody_stored_in_the_clear_is_not_accepted(
        self, registry: Registry, attached: Any
    ) -> None:
        @registry.task
        async def fn(*, password: Secret[str]) -> None: ...

        async with attached:
            with pytest.raises(PayloadError, match="argument 'password': is secret, and was stored without") as caught:
                fn.opened({"password": HUNTER})
            assert "hunter2" not in everything(caught.value)
            with pytest.raises(PayloadError, match="was encrypted with a key"):
                fn.opened({"password": {"$secret": "no token"}})


class TestUniqueness:
    async def test_calls_that_are_alike_are_one_job_and_nobody_finds_their_secrets_by_trying(
        self, run: Run, registry: Registry
    ) -> None:
        @registry.task(unique=True)
        async def log_in(*, pin: Secret[int]) -> None: ...

        async with run(registry, worker=False, secret_keys=[KEY]):
            first, again, other = [await log_in.using(delay=60).enqueue(pin=pin) for pin in (4711, 4711, 815)]
            assert [one.deduplicated for one in (first, again, other)] == [False, True, False]
            lock = log_in.spec((), {"pin": 4711}).lock
        async with TasksPlugin(
            TasksConfig(registry=registry, broker_url="memory://", namespace="other", secret_keys=[OTHER])
        ).attached():
            assert lock is not None
            assert lock != log_in.spec((), {"pin": 4711}).lock


class TestMasking:
    def test_known_texts_are_masked_before_a_text_is_cut(self) -> None:
        token = HIDDEN.set(spellings({"abc" * 1_000, "x\ny", "p'w"}))
        try:
            text = "begin " + "abc" * 1_000 + " end"
            assert masked_start(text, 10) == "begin *** "
            assert masked_end(text, 2_000) == "begin *** end"
            assert masked_text(repr("x\ny") + ' "x\\ny"' + repr({"k": "p'w"})) == "'***' \"***\"{'k': \"***\"}"
        finally:
            HIDDEN.reset(token)
        assert masked_text("abcabc") == "abcabc"


def test_a_direct_call_takes_and_returns_the_plain_value(registry: Registry) -> None:
    @registry.task
    def fn(*, password: Secret[str]) -> Secret[str]:
        return password.upper()

    assert fn(password="x") == "X"


def test_types_without_secrets_cost_nothing(registry: Registry) -> None:
    makers: list[Callable[[], Any]] = [lambda: int, lambda: dict[str, Any], lambda: Stars]
    assert [secrets_of(make()) for make in makers] == [None, None, None]
