"""``Secret[T]``: which parts of a type are stored encrypted, and the way of a value there and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Annotated, Any, Final, TypeAlias, TypeVar, cast

import msgspec
from msgspec import Meta
from msgspec import inspect as types

from litestar_tasks.codec import SEALED, UnstorableTypeError, split_path, walk
from litestar_tasks.keyring import Keyring, is_sealed

__all__ = ("Secret", "Secrets", "secrets_of")

T = TypeVar("T")

Secret: TypeAlias = Annotated[T, Meta(extra={SEALED: True})]
"""A value that is stored encrypted: ``password: Secret[str]``.

For type checkers, for callers and for the task it is the plain type: whoever enqueues passes a text, and the function
gets one. Between the two, in the broker, on the dashboard, in logs and in errors, nobody can read it. It can be any
type that can be stored, and stand anywhere within one: ``list[Secret[str]]``, a field of a dataclass, the result.

The keys are ``TasksConfig(secret_keys=[…])``; an app whose tasks have secrets does not start without.
"""

_SHORTEST: Final = 3
"""Characters of a text that is looked for in errors. Shorter ones would be found in every other word."""

# What msgspec says without quoting the value.
_NAMES: Final = "null|bool|int|float|str|bytes|array|object|datetime|date|time|duration|uuid|decimal"
_QUOTES_NOTHING: Final = re.compile(
    rf"expected (?:(?:{_NAMES})(?: \| )?)+(?:(?: of length)? [<>=]+ [\d.e+-]+)?(?:, got (?:{_NAMES}))?"
    r"|Object missing required field \w+"
)


@dataclass(slots=True, eq=False)
class Secrets:
    """Where the secrets are in a stored value of one type."""

    whole: bool = False
    """The value is one."""
    optional: bool = False
    """It may be null instead, which is stored as such."""
    fields: dict[str | int, Secrets | None] = field(default_factory=dict[str | int, "Secrets | None"])
    """The parts of an object by name, or of an array by index; None for those without secrets."""
    each: Secrets | None = None
    """Every item of an array, or value of an object."""

    def seal(self, stored: Any, keyring: Keyring) -> Any:
        """A value of JSON's own types with its secrets encrypted; those that are already are left."""
        return self._changed(stored, lambda secret: secret if is_sealed(secret) else keyring.seal(secret))

    def open(self, stored: Any, keyring: Keyring) -> Any:
        """What ``seal`` made, with its secrets readable.

        Raises:
            ValueError: One is not encrypted, or with a key that is not there; ``split_path`` tells which.
        """
        return self._changed(stored, keyring.open)

    def identified(self, stored: Any, key: bytes) -> Any:
        """A value of JSON's own types with a digest in place of each secret, which nobody finds without the key."""

        def digest(secret: Any) -> str:
            return blake2b(msgspec.json.encode(secret, order="deterministic"), digest_size=16, key=key).hexdigest()

        return self._changed(stored, digest)

    def texts(self, opened: Any) -> frozenset[str]:
        """Every text in the secrets of a value that could show up elsewhere, such as in an error."""
        found: set[str] = set()
        self._changed(opened, lambda secret: found.update(_texts(secret)))
        return frozenset(text for text in found if len(text) >= _SHORTEST)

    def problem(self, error: Exception) -> tuple[str, str]:
        """What ``split_path`` says of an error, without the value where that is, or may hold, a secret."""
        message, path = split_path(error)
        hidden = self._hidden(path)
        if hidden is None:
            return message, path
        return message if _QUOTES_NOTHING.fullmatch(message) else "does not fit its type; it is secret", hidden

    def _changed(self, value: Any, change: Callable[[Any], Any], path: str = "$") -> Any:
        if self.optional and value is None:
            return None
        if self.whole:
            try:
                return change(value)
            except ValueError as error:
                raise ValueError(f"{error} - at `{path}`" if path != "$" else str(error)) from None
        if isinstance(value, Mapping):
            named = cast("Mapping[str, Any]", value)
            return {
                name: part._changed(one, change, f"{path}.{name}") if (part := self._part(name)) else one
                for name, one in named.items()
            }
        if isinstance(value, list | tuple):
            items = cast("Sequence[Any]", value)
            return [
                part._changed(one, change, f"{path}[{index}]") if (part := self._part(index)) else one
                for index, one in enumerate(items)
            ]
        return value  # of another type, which is refused elsewhere

    def _part(self, name: str | int) -> Secrets | None:
        return self.each or self.fields.get(name)

    def _hidden(self, path: str) -> str | None:
        """The path to a value that is a secret, or holds one, or to the secret that it lies within; None for others."""
        here: Secrets | None = self
        for found in re.finditer(r"[^.\[\]]+|\[(\d*)\]", path):
            if here is None:
                return None
            if here.whole:
                return path[: found.start()].removesuffix(".")
            key = found[0] if found[1] is None else int(found[1] or -1)
            # A name that is not known may be half of one that has a dot in it.
            here = here.each or here.fields.get(key, here)
        return None if here is None else path


def secrets_of(annotation: Any) -> Secrets | None:
    """Where the secrets are in values of a type that can be stored; None where there are none.

    Raises:
        UnstorableTypeError: It has secrets where they cannot be encrypted apart from the rest.
    """
    return _secrets_of(types.type_info(annotation), {})


def _secrets_of(node: types.Type, known: dict[int, Secrets]) -> Secrets | None:
    if id(node) in known:
        return known[id(node)]  # a type that holds itself
    if not any(_is_secret(one) or _hides_secrets(one) for one in walk(node)):
        return None
    found = known[id(node)] = Secrets()
    match node:
        case types.Metadata() if _is_secret(node):
            found.whole = True
        case types.Metadata():
            return _secrets_of(node.type, known)
        case types.UnionType():
            some = [one for one in node.types if not isinstance(one, types.NoneType)]
            if len(some) > 1:
                raise UnstorableTypeError(
                    "a union holds a secret beside other types, and encrypted they look alike; make all of it secret: "
                    "Secret[… | …]"
                )
            inner = _secrets_of(some[0], known)
            assert inner is not None
            found.whole, found.fields, found.each, found.optional = inner.whole, inner.fields, inner.each, True
        case types.DictType():
            if _secrets_of(node.key_type, known) is not None:
                raise UnstorableTypeError(
                    "the keys of a dictionary cannot be secret; make all of it secret: Secret[dict[…]]"
                )
            found.each = _secrets_of(node.value_type, known)
        case types.CollectionType():
            found.each = _secrets_of(node.item_type, known)
        case types.TupleType():
            found.fields = {index: _secrets_of(one, known) for index, one in enumerate(node.item_types)}
        case types.StructType(array_like=True):
            start = 0 if node.tag is None else 1
            found.fields = {index: _secrets_of(one.type, known) for index, one in enumerate(node.fields, start=start)}
        case types.NamedTupleType():
            found.fields = {index: _secrets_of(one.type, known) for index, one in enumerate(node.fields)}
        case types.StructType() | types.DataclassType() | types.TypedDictType():
            found.fields = {one.encode_name: _secrets_of(one.type, known) for one in node.fields}
        case types.CustomType():
            raise UnstorableTypeError(
                f"{node.cls.__name__} has a secret field, and encodes itself; make all of it secret: "
                f"Secret[{node.cls.__name__}]"
            )
        case _:
            raise UnstorableTypeError(f"secrets within {node!r} cannot be encrypted; make all of it secret: Secret[…]")
    return found


def _is_secret(node: types.Type) -> bool:
    return isinstance(node, types.Metadata) and bool((node.extra or {}).get(SEALED))


def _hides_secrets(node: types.Type) -> bool:
    """Whether a pydantic model has secrets, which nobody but pydantic could encrypt."""
    if not isinstance(node, types.CustomType):
        return False
    todo: list[Any] = [node.cls]
    seen: list[Any] = []
    while todo:
        one = todo.pop()
        if one in seen:
            continue
        seen.append(one)
        if isinstance(one, Meta) and (one.extra or {}).get(SEALED):
            return True
        todo += [*getattr(one, "__metadata__", ()), *getattr(one, "__args__", ())]
        for info in getattr(one, "model_fields", {}).values() if isinstance(one, type) else ():
            todo += [info.annotation, *info.metadata]
    return False


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for one in cast("Mapping[str, Any]", value).values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif value is not None and not isinstance(value, bool):
        yield str(value)
