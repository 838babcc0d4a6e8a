"""What goes into a job comes out as what it was, or is refused where it was given."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from saq.job import Job
from saq.types import Context

from litestar_tasks import INJECTED, ConfigurationError, CurrentJob, InvalidTaskError, PayloadError, Registry
from litestar_tasks.signature import Kind

registry = Registry("payloads", allow_local=True)


class Colour(Enum):
    RED = "red"


@dataclass
class Address:
    street: str
    number: int


class Point(msgspec.Struct):
    x: float
    y: float


class Pair(NamedTuple):
    left: int
    right: str


class Options(TypedDict, total=False):
    dry: bool


class Service:
    pass


def stored(task: Any, *args: Any, **kwargs: Any) -> Any:
    """The arguments after a way through JSON text, as the function gets them."""
    return task.payload.decode(json.loads(msgspec.json.encode(task.payload.encode(args, kwargs))))


VALUES: list[tuple[Any, Any]] = [
    (int, 2**70),
    (int, 9007199254740993),
    (float, 0.1),
    (bool, True),
    (str, "naïve \x00 ✓"),
    (bytes, b"\x00\xff"),
    (datetime, datetime(2026, 3, 29, 2, 30, tzinfo=UTC)),
    (datetime, datetime(2026, 3, 29, 2, 30)),
    (date, date(2026, 2, 28)),
    (time, time(12, 30)),
    (timedelta, timedelta(days=1, microseconds=1)),
    (UUID, UUID(int=1)),
    (Decimal, Decimal("10.50")),
    (Colour, Colour.RED),
    (Address, Address("Main", 1)),
    (Point, Point(1.5, 2.5)),
    (Pair, Pair(1, "x")),
    (Options, {"dry": True}),
    (list[UUID], [UUID(int=2)]),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"a"})),
    (tuple[int, str], (1, "a")),
    (dict[str, list[Address]], {"a": [Address("b", 2)]}),
    (dict[int, str], {1: "a"}),
    (Address | None, None),
    (Any, {"a": [1, None, "x", 1.5, True]}),
    (object, {"a": []}),
    (dict[str, object], {"a": {"b": []}}),
    (Annotated[int, msgspec.Meta(ge=1)], 1),
]


class TestRoundTrip:
    @pytest.mark.parametrize(("annotation", "value"), VALUES, ids=lambda value: str(value)[:40])
    def test_a_value_comes_out_as_what_it_was(self, annotation: Any, value: Any) -> None:
        async def fn(x):  # type: ignore[no-untyped-def]  # annotated below, with the type under test
            ...

        fn.__annotations__ = {"x": annotation}
        task = Registry("t", allow_local=True).task(fn)
        (_, kwargs) = stored(task, x=value)
        assert kwargs == {"x": value}
        assert type(kwargs["x"]) is type(value)

    def test_every_field_of_saqs_job_is_a_possible_argument(self) -> None:
        names = [field.name for field in fields(Job)]
        namespace: dict[str, Any] = {}
        exec(f"async def every(*, {', '.join(f'{name}: str' for name in names)}): ...", namespace)
        task = Registry("t", allow_local=True).task(namespace["every"])
        values = {name: f"my {name}" for name in names}
        assert stored(task, **values) == ([], values)

    @given(st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), st.lists, max_leaves=5))
    def test_untyped_json_comes_out_as_it_went_in(self, value: Any) -> None:
        try:
            (_, kwargs) = stored(untyped, x=value)
        except PayloadError:
            # The only text that is refused is text that is no Unicode.
            with pytest.raises(UnicodeEncodeError):
                json.dumps(value, ensure_ascii=False).encode()
        else:
            assert kwargs == {"x": value}

    def test_positional_only_parameters_are_passed_by_position(self) -> None:
        async def fn(a: int, /, b: int, *, c: int = 3) -> None: ...

        task = Registry("t", allow_local=True).task(fn)
        assert stored(task, 1, 2) == ([1], {"b": 2})
        assert stored(task, 1, b=2, c=4) == ([1], {"b": 2, "c": 4})

    def test_defaults_are_left_to_the_release_that_runs_the_job(self) -> None:
        async def fn(*, size: int = 50) -> None: ...

        task = Registry("t", allow_local=True).task(fn)
        assert task.payload.encode((), {}) == {}
        assert stored(task) == ([], {})

    def test_the_callers_arguments_are_not_touched(self) -> None:
        given_ = {"x": {"a": [1]}}
        untyped.payload.encode((), given_)
        assert given_ == {"x": {"a": [1]}}


@registry.task
async def untyped(*, x: Any) -> None: ...


@registry.task
async def typed(
    ctx: Context,
    *,
    user_id: int,
    ratio: float = 1.0,
    raw: bytes = b"",
    address: Address | None = None,
    tags: tuple[str, ...] = (),
    session: Service,
    job: CurrentJob,
) -> None: ...


class TestRefusing:
    @pytest.mark.parametrize(
        ("kwargs", "says"),
        [
            ({}, "missing argument user_id"),
            ({"user_id": "1"}, "argument 'user_id': expected int, got str"),
            ({"user_id": 1.0}, "expected int, got float"),
            ({"user_id": True}, "expected int, got bool"),
            ({"user_id": 1, "name": "x"}, "argument 'name': unknown argument; the task takes user_id"),
            ({"user_id": 1, "timeout": 30}, r"options are set apart from arguments: using\(timeout=…\)"),
            ({"user_id": 1, "ctx": {}}, "argument 'ctx': is supplied by the worker"),
            ({"user_id": 1, "session": Service()}, "argument 'session': is supplied by the worker"),
            ({"user_id": 1, "job": None}, "argument 'job': is supplied by the worker"),
            ({"user_id": 1, "ratio": math.nan}, "argument 'ratio': NaN and infinity have no JSON form"),
            ({"user_id": 1, "ratio": math.inf}, "NaN and infinity"),
            ({"user_id": 1, "raw": "abcd"}, "expected bytes, got str"),
            ({"user_id": 1, "address": Address("x", "1")}, r"argument 'address.number': expected int, got str"),  # type: ignore[arg-type]  # the mistake under test
            ({"user_id": 1, "address": {"street": "x"}}, "argument 'address'"),
            ({"user_id": 1, "tags": ["a", 2]}, r"argument 'tags\[1\]': expected str, got int"),
        ],
    )
    def test_arguments_that_do_not_fit_are_named(self, kwargs: dict[str, Any], says: str) -> None:
        with pytest.raises(PayloadError, match=says) as caught:
            typed.payload.encode((), kwargs)
        assert str(caught.value).startswith("task 'typed'")

    @pytest.mark.parametrize(
        "value",
        [
            UUID(int=3),
            date(2026, 1, 1),
            (1, 2),
            {1, 2},
            {1: "a"},
            [math.nan],
            {"deep": [{"er": Decimal(1)}]},
            b"x",
            Address("x", 1),
            "\ud800",
            pytest.param(object(), id="an object"),
        ],
        ids=repr,
    )
    def test_what_json_would_change_is_refused_where_the_annotation_says_nothing(self, value: Any) -> None:
        with pytest.raises(PayloadError, match="task 'untyped'"):
            untyped.payload.encode((), {"x": value})

    def test_an_object_where_the_annotation_says_nothing_is_refused_by_its_argument_and_class(self) -> None:
        @registry.task(name="charge")
        async def charge(*, cents: int, order: Any) -> None: ...

        with pytest.raises(PayloadError, match=r"task 'charge', argument 'order': an object of the class object_row"):
            charge.bind(cents=5, order=[type("object_row", (), {})()])

    def test_an_argument_among_the_options_is_sent_where_it_belongs(self) -> None:
        @registry.task(name="refund")
        async def refund(*, cents: int) -> None: ...

        with pytest.raises(
            ConfigurationError, match=r"unknown option 'cents' \(it is an argument of the task: give it to"
        ):
            refund.using(cents=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # the mistake under test

    def test_positional_arguments_are_counted_and_not_taken_twice(self) -> None:
        async def fn(a: int, b: int = 2) -> None: ...

        task = Registry("t", allow_local=True).task(fn)
        with pytest.raises(PayloadError, match="takes 2 positional arguments, got 3"):
            task.payload.encode((1, 2, 3), {})
        with pytest.raises(PayloadError, match="by position and by name"):
            task.payload.encode((1,), {"a": 1})

    def test_a_stored_payload_cannot_supply_a_dependency(self) -> None:
        with pytest.raises(PayloadError, match="does not fit"):
            typed.payload.decode({"user_id": 1, "session": "forged"})


class TestParameters:
    def test_the_signature_alone_decides_what_is_injected(self) -> None:
        kinds = {parameter.name: parameter.kind for parameter in typed.parameters}
        assert kinds["ctx"] is Kind.CONTEXT
        assert kinds["session"] is Kind.INJECTED
        assert kinds["job"] is Kind.JOB
        assert kinds["user_id"] is Kind.PAYLOAD

    def test_a_marked_parameter_is_injected_whatever_its_type(self) -> None:
        from litestar.di import NamedDependency

        async def fn(a: int = INJECTED, *, b: NamedDependency[str]) -> None: ...

        fn.__annotations__["b"] = NamedDependency[str]
        task = Registry("t", allow_local=True).task(fn)
        assert [parameter.kind for parameter in task.parameters] == [Kind.INJECTED, Kind.INJECTED]

    def test_an_unannotated_ctx_is_the_context(self) -> None:
        def fn(ctx, n):  # type: ignore[no-untyped-def]  # as beginners write it
            ...

        task = Registry("t", allow_local=True).task(fn)
        assert [parameter.kind for parameter in task.parameters] == [Kind.CONTEXT, Kind.PAYLOAD]

    def test_a_ctx_of_another_type_and_a_context_that_is_not_first_are_refused(self) -> None:
        async def wrong_type(ctx: dict[str, Any]) -> None: ...

        async def not_first(n: int, ctx: Context) -> None: ...

        with pytest.raises(InvalidTaskError, match=r"annotate it with saq\.types\.Context"):
            Registry("t", allow_local=True).task(wrong_type)
        with pytest.raises(InvalidTaskError, match="the context is the first parameter"):
            Registry("t", allow_local=True).task(not_first)

    def test_a_context_with_more_fields_is_a_context(self) -> None:
        class AppContext(Context):
            http_client: str

        async def fn(ctx: AppContext, *, n: int) -> None: ...

        fn.__annotations__["ctx"] = AppContext
        task = Registry("t", allow_local=True).task(fn)
        assert task.parameters[0].kind is Kind.CONTEXT


class TestForeignTypes:
    def test_pydantic_like_models_and_app_codecs_make_a_type_storable(self) -> None:
        from litestar_tasks.codec import Hooks

        class Money:
            def __init__(self, cents: int) -> None:
                self.cents = cents

            def __eq__(self, other: object) -> bool:
                return isinstance(other, Money) and other.cents == self.cents

        hooks = Hooks(
            encoders={Money: lambda money: money.cents},
            decoders=[(lambda kind: kind is Money, lambda kind, value: kind(value))],
        )

        async def pay(*, amount: Money) -> Mapping[str, int]: ...  # type: ignore[empty-body]  # not run

        pay.__annotations__["amount"] = Money
        task = Registry("t", allow_local=True).task(pay)
        assert task.parameters[0].kind is Kind.INJECTED
        task.compile({}, hooks)
        assert task.payload.encode((), {"amount": Money(150)}) == {"amount": 150}
        assert stored(task, amount=Money(150)) == ([], {"amount": Money(150)})
