"""Classes whose instances are arguments and results; in a module of their own, for annotations that name them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Generic, Literal, NamedTuple, NewType, Required, TypedDict, TypeVar
from uuid import UUID

import attrs
import msgspec
import pydantic
from msgspec import Meta

T = TypeVar("T")
K = TypeVar("K")

UserId = NewType("UserId", int)


class Colour(Enum):
    RED = "red"


class Size(IntEnum):
    SMALL = 1


class Level(StrEnum):
    HIGH = "high"


@dataclass(frozen=True)
class Address:
    street: str
    number: int


@dataclass
class Person:
    name: str
    born: date
    address: Address | None = None
    friends: list[Person] = field(default_factory=list["Person"])


@dataclass
class Page(Generic[T]):
    items: list[T]
    total: int


class Point(msgspec.Struct, frozen=True):
    x: float
    y: float


class Keyed(msgspec.Struct, Generic[K, T]):
    entries: dict[K, T]


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    name: str


class Camel(msgspec.Struct, rename="camel", array_like=False):
    first_name: str


@attrs.define
class Invoice:
    number: int
    amount: Decimal
    lines: list[Address] = attrs.field(factory=list)


class User(pydantic.BaseModel):
    name: str
    age: Annotated[int, pydantic.Field(ge=0)] = 0
    joined: datetime | None = None


class Team(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)

    lead: User = pydantic.Field(alias="teamLead")
    size: Decimal = Decimal(1)


class Options(TypedDict, total=False):
    name: Required[str]
    dry: bool


class Pair(NamedTuple):
    left: int
    right: UUID


@dataclass
class Everything:
    when: datetime
    day: date
    clock: time
    span: timedelta
    id: UUID
    amount: Decimal
    colour: Colour
    raw: bytes
    tags: set[str]
    frozen: frozenset[int]
    pair: Pair
    options: Options
    point: Point
    either: Literal["a", 1]
    page: Page[Address]
    keyed: Keyed[UUID, list[Point]]
    animal: Cat | Dog
    rows: tuple[tuple[int, str], ...]
    invoice: Invoice
    user: User | None
    positive: Annotated[int, Meta(gt=0)]
    short: Annotated[str, Meta(max_length=3, pattern="^a")]
