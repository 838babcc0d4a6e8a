"""One type's way into JSON and back: what a queue can store of it, and what comes out again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Final, Generic, TypeVar, cast

import msgspec
from msgspec import inspect as types

__all__ = (
    "SEALED",
    "Codec",
    "Hooks",
    "UnstorableTypeError",
    "could_become",
    "json_size",
    "split_path",
    "unstorable",
    "walk",
)

T = TypeVar("T")

SEALED: Final = "litestar_tasks.secret"
"""Marks, among what an annotation says beside the type, what is stored encrypted."""
_ABSENT: Final = object()
_json: Final = msgspec.json.Encoder()
_PATH: Final = re.compile(r"^(?P<message>.*?)(?: - at (?P<key>`key` in )?`(?P<path>[^`]*)`)?$", re.DOTALL)


class UnstorableTypeError(TypeError):
    """A type that cannot be stored as JSON and read back."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """How types that msgspec does not know are stored: Litestar's ``type_encoders`` and ``type_decoders``.

    pydantic models are known without an entry: by their own JSON form, under their aliases. Litestar's plugin for them
    has one for their base class, which is for answers of routes, and loses what cannot be read back.
    """

    encoders: Mapping[Any, Callable[[Any], Any]] = field(default_factory=dict[Any, Callable[[Any], Any]])
    decoders: Sequence[tuple[Callable[[Any], bool], Callable[[type, Any], Any]]] = ()

    def storable(self, cls: type) -> bool:
        """Whether values of ``cls`` go in and come out again."""
        if cls is object or _is_pydantic(cls):
            return True
        return any(accepts(cls) for accepts, _ in self.decoders) and self._encoder(cls) is not None

    def encode(self, value: Any) -> Any:
        """msgspec's ``enc_hook``."""
        if self._models(type(value)):
            return value.model_dump(mode="json", by_alias=True, round_trip=True)
        if (encoder := self._encoder(type(value))) is not None:
            return encoder(value)
        raise UnstorableTypeError(
            f"an object of the class {type(value).__name__} cannot be stored; use its id or plain data instead"
        )

    def can_encode(self, value: Any) -> bool:
        """Whether JSON's own types can be made of a value and of all that it holds."""
        try:
            msgspec.to_builtins(value, str_keys=True, enc_hook=self.encode)
        except UnstorableTypeError:
            return False
        return True

    def decode(self, cls: type, value: Any) -> Any:
        """msgspec's ``dec_hook``."""
        if cls is object or isinstance(value, cls):
            return value
        if self._models(cls):
            return _validated(cls, value)
        for accepts, decoder in self.decoders:
            if accepts(cls):
                return decoder(cls, value)
        raise UnstorableTypeError(f"a {cls.__name__} cannot be read back")

    def _models(self, cls: type) -> bool:
        """Whether a class is a pydantic model, and the app has no way of its own for it."""
        return _is_pydantic(cls) and cls not in self.encoders

    def _encoder(self, cls: type) -> Callable[[Any], Any] | None:
        return next((self.encoders[base] for base in cls.__mro__ if base in self.encoders), None)


def unstorable(annotation: Any, hooks: Hooks) -> type | None:
    """The first class within an annotation that cannot be stored, or None.

    Raises:
        UnstorableTypeError: The annotation as a whole cannot be told apart in JSON, such as ``UUID | str``.
    """
    for node in _tree(annotation):
        if isinstance(node, types.DictType) and any(isinstance(one, _NO_KEYS) for one in walk(node.key_type)):
            raise UnstorableTypeError("the keys of a dictionary are text in JSON; use a list of pairs")
        if isinstance(node, types.CustomType) and not hooks.storable(node.cls):
            return node.cls
    return None


def could_become(source: Any, target: Any) -> bool:
    """Whether any value of one type, stored as JSON, can be read back as the other; by the outermost forms alone."""
    try:
        made, read = _forms(types.type_info(source)), _forms(types.type_info(target), read=True)
    except (TypeError, NameError):
        return True  # what is wrong with them is said elsewhere
    return made is None or read is None or bool(made & read)


class Codec(Generic[T]):
    """Validates a value against a type, makes JSON's own types of it, and restores it.

    Strict: nothing is coerced but the JSON forms of types that JSON does not have (a UUID's text is a UUID; ``"1"``
    is no int, 1.0 is no int, 1 is a float). What JSON would change on its way is refused: NaN and infinity, and, where
    the type says no more than ``Any`` or ``object``, everything that does not come back as it went in.

    Args:
        annotation: The type.
        hooks: How types that msgspec does not know are stored.
        outermost_is_checked: Whether ``encode`` is only given what ``validate`` has built, so that the outermost
            object needs no second look. Defaults to False.
    """

    def __init__(self, annotation: type[T], hooks: Hooks, *, outermost_is_checked: bool = False) -> None:
        self._type = annotation
        self._hooks = hooks
        tree = _tree(annotation)
        nodes = tree[1 if outermost_is_checked else 0 :]
        self._takes_none = _takes_none(tree[0])
        self._scalar = annotation if annotation in (int, bool) else None
        # Text, numbers and the like are validated completely by `convert`. What holds floats or untyped values has to
        # make the round trip, and so do objects: msgspec takes an instance of the right class as it is.
        self._loose = any(isinstance(node, _LOOSE) for node in nodes)
        msgspec.json.Decoder(annotation, dec_hook=hooks.decode)  # refuses what can't be decoded, here rather than later

    def validate(self, value: Any) -> T:
        """Check a value that a caller gave.

        Raises:
            msgspec.ValidationError: It does not fit the type; ``split_path`` tells where.
        """
        return msgspec.convert(
            value, self._type, strict=True, builtin_types=(bytes, bytearray), dec_hook=self._hooks.decode
        )

    def encode(self, value: T) -> Any:
        """A validated value in JSON's own types.

        Raises:
            UnstorableTypeError: It holds something that cannot be stored.
            msgspec.ValidationError: It holds an object whose fields do not fit its own class.
            UnicodeEncodeError: It holds text that is no Unicode, such as a lone surrogate.
        """
        stored = msgspec.to_builtins(value, str_keys=True, enc_hook=self._hooks.encode)
        if self._loose:
            self._round_trip(value, stored)
        return stored

    def ordered(self, value: Any) -> Any:
        """A value in JSON's own types, with sets in one certain order; nothing is validated.

        Raises:
            TypeError, ValueError: It has none.
        """
        try:
            return msgspec.to_builtins(value, str_keys=True, enc_hook=self._hooks.encode, order="sorted")
        except TypeError:  # a set of several types has no order
            return msgspec.to_builtins(value, str_keys=True, enc_hook=self._hooks.encode)

    def encode_unchecked(self, value: Any) -> Any:
        """A value that nobody has validated in JSON's own types: what a task returned.

        Raises:
            UnstorableTypeError: It holds something that cannot be stored.
            msgspec.ValidationError: What would be stored does not fit the type.
            UnicodeEncodeError: It holds text that is no Unicode, such as a lone surrogate.
        """
        if type(value) is self._scalar or (value is None and self._takes_none):
            return value
        stored = self.encode(cast("T", value))
        if not self._loose:  # else it has made the round trip already
            self.decode(stored)
        return stored

    def decode(self, stored: Any) -> T:
        """Restore a value from what ``encode`` made of it, after any way through JSON.

        Raises:
            msgspec.ValidationError: It does not fit the type.
        """
        return msgspec.convert(stored, self._type, strict=True, str_keys=True, dec_hook=self._hooks.decode)

    def _round_trip(self, value: T, stored: Any) -> None:
        try:
            restored = self.decode(msgspec.json.decode(msgspec.json.encode(stored)))
        except msgspec.ValidationError as error:
            if "Expected `float`, got `null`" in str(error):
                _, path = split_path(error)
                raise msgspec.ValidationError(f"NaN and infinity have no JSON form - at `$.{path}`") from error
            raise
        changed = self._changed(value, restored)
        if changed is not None:
            raise msgspec.ValidationError(
                "JSON would change it: it holds NaN or infinity, or, where the annotation says no more than Any, a "
                f"value that JSON has no form for; annotate it precisely or pass its JSON form - at `$.{changed}`"
            )

    def _changed(self, before: Any, after: Any) -> str | None:
        """The path to the first difference, or None."""
        if type(before) is not type(after):
            # An int is a float to type checkers, and comes back as the one that the annotation says.
            return None if type(before) is int and type(after) is float and before == after else ""
        for name, one, other in _parts(before, after):
            if (path := self._changed(one, other)) is not None:
                return f"{name}{'.' if path[:1] not in ('', '.', '[') else ''}{path}"
        if before == after or _has_parts(before):
            return None
        compared = cast("object", type(before).__eq__) is not object.__eq__
        if compared and before == before:  # but for what is never equal, such as Decimal("NaN")
            return ""
        # Two objects of a class without equality are the same if they are stored as the same.
        stored = (msgspec.to_builtins(one, enc_hook=self._hooks.encode) for one in (before, after))
        return None if next(stored) == next(stored) else ""


def json_size(stored: Any) -> int:
    """How many bytes of JSON a value has that ``Codec.encode`` has made."""
    return len(_json.encode(stored))


def split_path(error: Exception) -> tuple[str, str]:
    """A msgspec error as (what is wrong, where): ``("expected int, got str", "items[2].name")``."""
    match = _PATH.match(str(error))
    message, path = (match["message"], match["path"] or "") if match else (str(error), "")
    message = message.replace("`", "").replace(" | UnsetType", "")
    message = re.sub(r"\bgot null$", "got None", message)
    if match and match["key"]:
        message += " as a key"
    if message.startswith("Expected"):
        message = "e" + message[1:]
    return message, path.removeprefix("$").removeprefix(".").replace("[...]", "[]")


def walk(root: types.Type) -> list[types.Type]:
    """Every node of a type's tree, each once, the outermost first."""
    found: dict[int, types.Type] = {}
    todo: list[Any] = [root]
    while todo:
        node = todo.pop()
        if isinstance(node, tuple):
            todo.extend(node)
        elif isinstance(node, types.Field):
            todo.append(node.type)
        elif isinstance(node, types.Type) and id(node) not in found:
            found[id(node)] = node
            todo.extend(getattr(node, name) for name in node.__struct_fields__)
    return list(found.values())


_LOOSE: Final = (
    types.AnyType,
    types.FloatType,
    types.CustomType,
    types.DataclassType,
    types.StructType,
    types.TypedDictType,
    types.NamedTupleType,
)


_NO_KEYS: Final = (
    types.CollectionType,
    types.CustomType,
    types.DataclassType,
    types.DictType,
    types.NamedTupleType,
    types.StructType,
    types.TupleType,
    types.TypedDictType,
)


def _field_names(value: Any) -> tuple[str, ...]:
    """The fields of an object that msgspec stores field by field."""
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    if is_dataclass(value):
        return tuple(field.name for field in fields(value))
    return tuple(field.name for field in getattr(type(value), "__attrs_attrs__", ()))


def _has_parts(value: Any) -> bool:
    return isinstance(value, dict | list | tuple) or bool(_field_names(value))


def _parts(before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    """What two values of one type consist of, pair by pair, each with its path."""
    if isinstance(before, dict):
        for key in before.keys() | after.keys():
            yield str(key), before.get(key, _ABSENT), after.get(key, _ABSENT)
    elif isinstance(before, list | tuple):
        for index in range(max(len(before), len(after))):
            one, other = (part[index] if index < len(part) else _ABSENT for part in (before, after))
            yield f"[{index}]", one, other
    else:
        for name in _field_names(before):
            yield name, getattr(before, name), getattr(after, name)


def _tree(annotation: Any) -> list[types.Type]:
    try:
        return walk(types.type_info(annotation))
    except (TypeError, NameError) as error:
        raise UnstorableTypeError(str(error)) from error


_FORMS: Final[Sequence[tuple[tuple[type, ...], set[str], set[str]]]] = (
    ((types.NoneType,), {"null"}, {"null"}),
    ((types.BoolType,), {"bool"}, {"bool"}),
    ((types.IntType,), {"int"}, {"int"}),
    ((types.FloatType,), {"float"}, {"float", "int"}),
    ((types.DecimalType,), {"str"}, {"str", "float", "int"}),
    (
        (
            types.StrType,
            types.BytesType,
            types.UUIDType,
            types.DateTimeType,
            types.DateType,
            types.TimeType,
            types.TimeDeltaType,
        ),
        {"str"},
        {"str"},
    ),
    (
        (types.ListType, types.SetType, types.FrozenSetType, types.VarTupleType, types.TupleType, types.NamedTupleType),
        {"array"},
        {"array"},
    ),
    ((types.DictType, types.TypedDictType, types.DataclassType), {"object"}, {"object"}),
)
"""The JSON forms in which values of types are stored, and from which they are read."""


def _forms(node: types.Type, *, read: bool = False) -> set[str] | None:
    """The JSON forms of a type's values; None where it does not tell."""
    if isinstance(node, types.Metadata):
        return {"sealed"} if (node.extra or {}).get(SEALED) else _forms(node.type, read=read)
    if isinstance(node, types.UnionType):
        parts = [_forms(one, read=read) for one in node.types]
        return None if None in parts else {form for part in parts for form in part or ()}
    if isinstance(node, types.StructType):
        return {"array" if node.array_like else "object"}
    for kinds, made, taken in _FORMS:
        if isinstance(node, kinds):
            return taken if read else made
    return None


def _takes_none(node: types.Type) -> bool:
    """Whether None fits for certain, whatever an app's own types make of it."""
    if isinstance(node, types.UnionType):
        return any(isinstance(one, types.NoneType) for one in node.types)
    return isinstance(node, (types.AnyType, types.NoneType))


def _validated(model: Any, value: Any) -> Any:
    try:
        return model.model_validate(value)
    except ValueError as error:
        found = getattr(error, "errors", None)  # pydantic is not a dependency of ours
        if found is None:
            raise
        said = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}".removeprefix(": ") for one in found()]
        raise ValueError("; ".join(said)) from error


def _is_pydantic(cls: type) -> bool:
    return hasattr(cls, "model_validate") and hasattr(cls, "model_dump")
