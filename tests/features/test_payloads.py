"""Arguments and results come out as what they were, by annotation, or are refused where they were given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, Union
from uuid import UUID

import msgspec
import pytest
from litestar import Litestar
from saq.types import Context

from litestar_tasks import (
    InvalidTaskError,
    JobFailedError,
    PayloadError,
    Registry,
    StartupError,
    TasksConfig,
    TasksPlugin,
)
from tests.features.conftest import Broker, Run
from tests.features.payload_types import (
    Address,
    Camel,
    Cat,
    Colour,
    Dog,
    Everything,
    Invoice,
    Keyed,
    Level,
    Options,
    Page,
    Pair,
    Person,
    Point,
    Size,
    Team,
    User,
    UserId,
)

if TYPE_CHECKING:
    from fractions import Fraction
    from ipaddress import IPv4Address

BERLIN = datetime.fromisoformat("2026-03-29T02:30:00+02:00")

EVERYTHING = Everything(
    when=BERLIN,
    day=date(2026, 2, 28),
    clock=time(12, 30, 1, 5),
    span=timedelta(days=-1, microseconds=1),
    id=UUID(int=1),
    amount=Decimal("10.50"),
    colour=Colour.RED,
    raw=b"\x00\xff",
    tags={"a", "b"},
    frozen=frozenset({1, 2}),
    pair=Pair(1, UUID(int=2)),
    options={"name": "x", "dry": True},
    point=Point(0.1, 2.0),
    either=1,
    page=Page([Address("Main", 1)], 1),
    keyed=Keyed({UUID(int=3): [Point(1.0, 2.0)]}),
    animal=Dog("Rex"),
    rows=((1, "a"), (2, "b")),
    invoice=Invoice(7, Decimal(1), [Address("x", 2)]),
    user=User(name="Ada", age=36, joined=datetime(2026, 1, 1, tzinfo=UTC)),
    positive=2**70,
    short="abc",
)

VALUES: list[tuple[Any, Any]] = [
    (Everything, EVERYTHING),
    (list[Everything], [EVERYTHING]),
    (Person, Person("Ada", date(1815, 12, 10), Address("St James's Square", 12), [Person("Mary", date(1797, 8, 30))])),
    (Page[Page[int]], Page([Page([1], 1)], 1)),
    (Keyed[str, Cat | Dog], Keyed({"a": Cat(9), "b": Dog("Rex")})),
    (Invoice, Invoice(7, Decimal("0.10"))),
    (list[Invoice] | None, [Invoice(7, Decimal("0.10"))]),
    (User, User(name="Ada")),
    (dict[str, User], {"a": User(name="Ada", age=3)}),
    (Team, Team(teamLead=User(name="Ada"), size=Decimal("2.5"))),
    (Camel, Camel("Ada")),
    (Options, {"name": "x"}),
    (Pair, Pair(1, UUID(int=2))),
    (UserId, UserId(7)),
    (Size, Size.SMALL),
    (Level, Level.HIGH),
    (Literal["a", "b", None], None),
    (Optional[int], None),  # noqa: UP045  # the older spelling is a type, too
    (Union[int, str, list[int], None], [1]),  # noqa: UP007  # as above
    (int | str, "1"),
    (int | float | None, 0.5),
    (UUID | int, UUID(int=4)),
    (Colour | None, Colour.RED),
    (Point | list[Point], [Point(1.5, 2.5)]),
    (Sequence[int], [1, 2]),
    (Mapping[str, Sequence[Address]], {"a": [Address("x", 1)]}),
    (tuple[()], ()),
    (Annotated[list[Annotated[int, msgspec.Meta(ge=1)]], msgspec.Meta(max_length=2)], [1, 2]),
    (Annotated[datetime, msgspec.Meta(tz=True)], BERLIN),
]


def echo(registry: Registry, annotation: Any, *, sync: bool = False) -> Any:
    """A task that returns its argument, both of one type."""

    def plain(x):  # type: ignore[no-untyped-def]  # annotated below, with the type under test
        return x

    async def echoing(x):  # type: ignore[no-untyped-def]  # as above
        return x

    function = plain if sync else echoing
    function.__annotations__ = {"x": annotation, "return": annotation}
    return registry.task(name="echo")(function)


class TestTypes:
    async def test_every_type_goes_in_and_comes_out_of_the_broker(self, run: Run) -> None:
        for annotation, value in VALUES:
            registry = Registry("test", allow_local=True)
            task = echo(registry, annotation)
            async with run(registry) as plugin:
                job = await task.enqueue(value)
                result = await job.result(timeout=20)
                assert (result, type(result)) == (value, type(value))
                by_name = await plugin.get_queue("default").enqueue("echo", x=value)
                assert await task.job(by_name.id).result(timeout=20) == value

    async def test_another_process_gets_results_as_what_they_were(
        self, run: Run, broker: Broker, registry: Registry
    ) -> None:
        @registry.task
        async def pay(*, person: Person) -> Invoice:
            return Invoice(person.born.year, Decimal("1.10"), [Address("x", 1)])

        async with run(registry):
            job = await pay.enqueue(person=Person("Ada", date(1815, 12, 10)))
            assert await job.result(timeout=20) == Invoice(1815, Decimal("1.10"), [Address("x", 1)])
            outcome = await pay.job(job.id).outcome(timeout=20)
            assert outcome.result == Invoice(1815, Decimal("1.10"), [Address("x", 1)])
            assert await registry.job(job.id).result() == {
                "number": 1815,
                "amount": "1.10",
                "lines": [{"street": "x", "number": 1}],
            }
        if broker.url == "memory://":
            return  # its jobs have ended with the app

        other = Registry("elsewhere", allow_local=True)
        elsewhere = other.task(name="pay")(pay.fn)
        async with run(other, worker=False):
            assert await elsewhere.job(job.id).result(timeout=20) == Invoice(1815, Decimal("1.10"), [Address("x", 1)])

    @pytest.mark.parametrize(
        "annotation",
        [
            UUID | str,
            datetime | date,
            datetime | str,
            bytes | str,
            Colour | str,
            Address | Person,
            Address | dict[str, int],
            Point | Camel,
            list[int] | tuple[int, ...],
            set[int] | list[int],
            UUID | Decimal | None,
            dict[str, list[UUID | str]],
            dict[tuple[int, int], str],
            Page[UUID | str],
            User | int,
        ],
        ids=str,
    )
    def test_what_json_cannot_tell_apart_is_refused_at_import(self, registry: Registry, annotation: Any) -> None:
        async def argument(x):  # type: ignore[no-untyped-def]  # annotated below, with the type under test
            ...

        def result():  # type: ignore[no-untyped-def]  # as above
            ...

        argument.__annotations__ = {"x": annotation}
        result.__annotations__ = {"return": annotation}
        with pytest.raises(InvalidTaskError, match=r"task 'argument'.*cannot be stored"):
            registry.task(argument)
        with pytest.raises(InvalidTaskError, match=r"task 'result' .*its result cannot be stored"):
            registry.task(result)
        assert registry.get_all_tasks() == []


class TestSignatures:
    async def test_arguments_by_position_and_by_name_reach_each_kind_of_parameter(
        self, run: Run, registry: Registry
    ) -> None:
        @registry.task
        async def plain(a: int, b: int = 2) -> list[int]:
            return [a, b]

        @registry.task
        async def split(ctx: Context, a: int, /, b: int, *, c: int = 3) -> list[int]:
            return [a, b, c]

        @registry.task
        def keyword(*, a: int, b: list[int] | None = None) -> list[int]:
            return [a, *(b or [])]

        @registry.task
        def positional(a: int = 1, b: int = 2, /) -> list[int]:
            return [a, b]

        async with run(registry) as plugin:
            queue = plugin.get_queue("default")
            jobs = {
                (1, 2): await plain.enqueue(1),
                (1, 5): await plain.enqueue(1, 5),
                (6, 7): await plain.enqueue(b=7, a=6),
                (1, 2, 3): await split.enqueue(1, 2),
                (1, 2, 4): await split.enqueue(1, b=2, c=4),
                (8,): await keyword.enqueue(a=8),
                (8, 9): await keyword.using(priority=3).enqueue(a=8, b=[9]),
                (3, 2): await positional.enqueue(3),
            }
            for expected, job in jobs.items():
                assert await job.result(timeout=20) == list(expected)
            by_name = await queue.enqueue("split", a=1, b=2)
            assert await split.job(by_name.id).result(timeout=20) == [1, 2, 3]

    @pytest.mark.parametrize(
        ("call", "says"),
        [
            (lambda task: task.enqueue(), "missing arguments a, b"),
            (lambda task: task.enqueue("1", 2), "argument 'a': expected int, got str"),
            (lambda task: task.enqueue(1, 2, 3), "takes 2 positional arguments, got 3"),
            (lambda task: task.enqueue(1, 2, b=2), "argument 'b': given by position and by name"),
            (lambda task: task.enqueue(1, b=2, d=4), "argument 'd': unknown argument; the task takes a, b, c"),
            (
                lambda task: task.enqueue(1, 2, c=[{"x": [0, "1"]}]),
                r"argument 'c\[0\]\[\]\[1\]': expected int, got str",
            ),
            (lambda task: task.enqueue(1, 2, c=[{1: [0]}]), r"argument 'c\[0\]': expected str, got int as a key"),
        ],
    )
    async def test_a_wrong_call_raises_in_the_caller_with_the_path(
        self, run: Run, registry: Registry, call: Callable[[Any], Any], says: str
    ) -> None:
        @registry.task
        async def fn(a: int, /, b: int, *, c: list[dict[Literal["x"], list[int]]] | None = None) -> None: ...

        async with run(registry, worker=False) as plugin:
            with pytest.raises(PayloadError, match=says) as caught:
                await call(fn)
            assert str(caught.value).startswith("task 'fn'")
            assert await plugin.get_queue("default").count("queued") == 0

    @pytest.mark.parametrize(
        ("annotation", "value", "says"),
        [
            (Annotated[int, msgspec.Meta(ge=1, le=5)], 6, "expected int <= 5"),
            (Annotated[str, msgspec.Meta(min_length=2)], "x", "expected str of length >= 2"),
            (Annotated[str, msgspec.Meta(pattern="^a")], "b", "expected str matching regex '\\^a'"),
            (
                list[Annotated[int, msgspec.Meta(multiple_of=2)]],
                [2, 3],
                r"argument 'x\[1\]': expected int that's a multi",
            ),
            (Annotated[dict[str, int], msgspec.Meta(min_length=1)], {}, "expected object of length >= 1"),
            (Annotated[datetime, msgspec.Meta(tz=True)], datetime(2026, 1, 1), "expected datetime with a timezone"),
            (Everything, {"when": "never"}, "Invalid RFC3339"),
            (User, {"name": "Ada", "age": -1}, "argument 'x': age: Input should be greater than or equal to 0"),
            (list[Team], [{"lead": 1}], r"argument 'x\[0\]': teamLead: Field required"),
            (Options, {"dry": True}, "missing required field name"),
            (Literal["a"], "b", "Invalid enum value 'b'"),
        ],
    )
    def test_constraints_hold_for_arguments_and_results(
        self, registry: Registry, annotation: Any, value: Any, says: str
    ) -> None:
        task = echo(registry, annotation)
        with pytest.raises(PayloadError, match=says):
            task.bind(value)
        with pytest.raises(ValueError, match=r"Expected|Invalid|Object missing|Input should|Field required"):
            task.result.encode(value)

    async def test_names_that_exist_later_or_only_for_type_checkers_are_resolved(self, registry: Registry) -> None:
        @registry.task
        async def fn(address: Later, host: IPv4Address | None = None) -> list[Later]:
            return [address]

        assert not fn.resolved
        plugin = TasksPlugin(TasksConfig(registry=registry, broker_url="memory://", dashboard=None))
        import ipaddress

        namespace = {"IPv4Address": ipaddress.IPv4Address, "Later": Later}
        codecs: dict[str, Any] = {
            "type_encoders": {ipaddress.IPv4Address: str},
            "type_decoders": [(lambda kind: kind is ipaddress.IPv4Address, lambda kind, value: kind(value))],
        }
        async with Litestar(plugins=[plugin], logging_config=None, signature_namespace=namespace, **codecs).lifespan():
            host = ipaddress.IPv4Address("10.0.0.1")
            stored = fn.spec((Later(Later(None)), host), {}).kwargs
            assert stored == {"address": {"inner": {"inner": None}}, "host": "10.0.0.1"}
            assert fn.payload.decode(stored) == ([], {"address": Later(Later(None)), "host": host})

    async def test_a_name_that_nothing_knows_refuses_the_start_with_the_remedy(self, registry: Registry) -> None:
        @registry.task
        async def fn(share: Fraction) -> None: ...

        plugin = TasksPlugin(TasksConfig(registry=registry, broker_url="memory://", dashboard=None))
        with pytest.raises(BaseExceptionGroup) as caught:
            async with Litestar(plugins=[plugin], logging_config=None).lifespan():
                pass
        (error,) = caught.value.exceptions
        assert isinstance(error, StartupError)
        assert "name 'Fraction' is not defined; import it outside of TYPE_CHECKING, or add it to" in str(error)


class Later(msgspec.Struct):
    inner: Later | None


class TestResults:
    async def test_one_that_cannot_be_stored_fails_the_job_once_and_is_not_run_again(
        self, run: Run, registry: Registry
    ) -> None:
        runs: list[str] = []

        @registry.task(max_attempts=3)
        async def wrong() -> int:
            runs.append("wrong")
            return "seven"  # type: ignore[return-value]  # the mistake under test

        @registry.task(max_attempts=3)
        def inner() -> Page[Address]:
            runs.append("inner")
            return Page([Address("x", "1")], 1)  # type: ignore[arg-type]  # as above

        @registry.task(max_attempts=3)
        def untyped():  # type: ignore[no-untyped-def]  # as above
            runs.append("untyped")
            return {1, 2}

        @registry.task(max_attempts=3, result_limit=100)
        async def large() -> str:
            runs.append("large")
            return "x" * 200

        async with run(registry):
            for task, says in (
                (wrong, "expected int, got str"),
                (inner, r"expected int, got str \(at items\[0\]\.number\)"),
                (untyped, "JSON would change it"),
                (large, "it has 202 bytes as JSON, and 100 are allowed"),
            ):
                job = await registry.get_task(task.name).enqueue()
                with pytest.raises(JobFailedError, match=rf"result: task '{task.name}' ran.*{says}"):
                    await job.result(timeout=20)
                outcome = await job.outcome(timeout=20)
                assert (outcome.reason, outcome.attempts) == ("result", 1)
        assert runs == ["wrong", "inner", "untyped", "large"]
