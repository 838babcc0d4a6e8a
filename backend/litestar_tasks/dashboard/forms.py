"""A form for the arguments of a task, from its signature, and what was typed into it as a payload."""

from __future__ import annotations

import inspect
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from math import inf, isfinite
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union, get_args, get_origin
from uuid import UUID

import msgspec

from litestar_tasks.dashboard.redaction import Redactor
from litestar_tasks.exceptions import ConfigurationError, PayloadError
from litestar_tasks.redaction import MASK
from litestar_tasks.signature import Kind

if TYPE_CHECKING:
    from litestar_tasks.task import AnyTask

__all__ = ("Field", "fields_of", "read_fields", "read_number", "secret_arguments", "typed")

_TEXTS: Final = (str, UUID, datetime, date, time, timedelta, Decimal, bytes)
_LIMIT: Final = 300_000
_HIDDEN: Final = "litestar_tasks.secret"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One argument of a task in a form."""

    name: str
    type: str
    """Its annotation as people write it."""
    control: Literal["text", "number", "choice", "area"]
    choices: Sequence[str] = ()
    required: bool
    withheld: bool = False
    """Whether what it was once is not known any more, so that it has to be given again."""
    default: str = ""
    """What holds where nothing is given, as JSON."""
    value: str = ""
    """What stands in it."""
    example: str = ""
    """What a value may look like."""
    error: str = ""


def fields_of(
    task: AnyTask,
    redactor: Redactor,
    *,
    stored: Mapping[str, Any] | None = None,
    given: Mapping[str, str] | None = None,
    error: PayloadError | None = None,
    withheld: Collection[str] = (),
) -> list[Field]:
    """The fields of a task's form: its payload, without what a worker supplies.

    Args:
        task: The task.
        redactor: Makes of values what may be shown.
        stored: A payload to begin with. Defaults to None: an empty form.
        given: What was typed, which wins. Defaults to None: nothing.
        error: What was wrong with it. Defaults to None: nothing.
        withheld: The names of those that were given once, and are not known any more. Defaults to none.
    """
    defaults = inspect.signature(task.fn).parameters
    wrong, place = (
        (str(error), (error.path or "").lstrip("$.").partition(".")[0].partition("[")[0]) if error else ("", "")
    )
    masked = _masked(task, redactor, stored or {})
    found: list[Field] = []
    for parameter in task.parameters:
        if parameter.kind is not Kind.PAYLOAD:
            continue
        control, choices, example = _control(parameter.annotation)
        value = "" if parameter.name not in masked else typed(masked[parameter.name], parameter.annotation)
        default = "" if parameter.required else _json(defaults[parameter.name].default)
        found.append(
            Field(
                name=parameter.name,
                type=_spelled(parameter.annotation),
                control=control,
                choices=choices,
                required=parameter.required or parameter.name in withheld,
                withheld=parameter.name in withheld,
                default=redactor.text(default) if not redactor.is_secret(parameter.name) else MASK if default else "",
                value=given.get(parameter.name, "") if given is not None else value,
                example=example,
                error=wrong if place == parameter.name else "",
            )
        )
    return found


def read_fields(
    task: AnyTask, given: Mapping[str, str], redactor: Redactor, *, stored: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What was typed, as the payload of a call; not yet checked against the signature.

    What was hidden when the form was made, and left as it was, is what is stored.

    Args:
        task: The task.
        given: The texts by argument.
        redactor: What the form was made with.
        stored: The payload that the form began with. Defaults to None: none.

    Raises:
        PayloadError: A text that is no JSON where JSON is asked for, a hidden part that is not there any more, or one
            that was encrypted with a key that this process does not have.
    """
    masked = _masked(task, redactor, stored or {})
    known = task.opened(stored) if stored else {}
    payload: dict[str, Any] = {}
    for parameter in task.parameters:
        if parameter.kind is not Kind.PAYLOAD or (text := given.get(parameter.name)) is None:
            continue
        text = text.replace("\r\n", "\n")
        before = masked.get(parameter.name)
        if parameter.name in masked and text == typed(before, parameter.annotation).replace("\r\n", "\n"):
            payload[parameter.name] = known[parameter.name]
            continue
        if not text and not (parameter.required and _takes_text(parameter.annotation)):
            continue
        value = _value(task.name, parameter.name, text, parameter.annotation)
        if parameter.name in masked:
            value = _unmasked(value, before, known[parameter.name])
        if _holds_mask(value):
            raise PayloadError(
                task.name,
                f"holds {MASK}, which stands for what is hidden here; write the whole value",
                path=parameter.name,
            )
        payload[parameter.name] = value
    return payload


def typed(value: Any, annotation: Any) -> str:
    """A value as somebody would type it into its field."""
    if isinstance(value, str) and _takes_text(annotation):
        return value
    return _json(value, indent=2 if isinstance(value, (dict, list)) else None)


def read_number(name: str, text: str) -> float:
    """A number that somebody typed.

    Raises:
        ConfigurationError: It is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = inf
    if not isfinite(number):
        raise ConfigurationError(f"{name} is {text!r}; give a number")
    return number


def secret_arguments(task: AnyTask | None) -> frozenset[str]:
    """The arguments of a task that are annotated as secret."""
    if task is None:
        return frozenset()
    return frozenset(one.name for one in task.parameters if _is_secret(one.annotation))


def _is_secret(annotation: Any) -> bool:
    """Whether it is a ``Secret``, or holds one: what is stored of it cannot be read anyway."""
    marks = (getattr(extra, "extra", None) or {} for extra in getattr(annotation, "__metadata__", ()))
    return any(_HIDDEN in mark for mark in marks) or any(map(_is_secret, get_args(annotation)))


def _masked(task: AnyTask, redactor: Redactor, stored: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = redactor.value(stored, _LIMIT, secret=secret_arguments(task))
    return found


def _value(task: str, name: str, text: str, annotation: Any) -> Any:
    if _takes_text(annotation) and not (text == "null" and _takes_none(annotation)):
        return text
    choices = _choices(annotation)
    if text in choices:
        return choices[text]
    try:
        return json.loads(text)
    except ValueError as error:
        if str in _parts(annotation) or _plain(annotation) is Any:
            return text
        raise PayloadError(task, f"is no JSON: {error}", path=name) from error


def _unmasked(value: Any, masked: Any, stored: Any) -> Any:
    """A value with what is hidden in it put back from where it stood."""
    if value == masked:
        return stored
    if isinstance(value, dict) and isinstance(masked, dict) and isinstance(stored, dict):
        return {
            name: _unmasked(item, masked[name], stored[name]) if name in masked and name in stored else item
            for name, item in value.items()
        }
    if isinstance(value, list) and isinstance(masked, list) and len(value) == len(masked) == len(stored):
        return [_unmasked(*parts) for parts in zip(value, masked, stored, strict=True)]
    return value


def _holds_mask(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_mask, value.values()))
    if isinstance(value, list):
        return any(map(_holds_mask, value))
    return isinstance(value, str) and MASK in value


def _control(annotation: Any) -> tuple[Literal["text", "number", "choice", "area"], Sequence[str], str]:
    if choices := _choices(annotation):
        return "choice", list(choices), ""
    parts = _parts(annotation)
    kinds = [part for part in parts if part is not NoneType]
    if len(kinds) == 1 and kinds[0] in (int, float):
        return "number", (), ""
    if kinds and all(kind in _TEXTS for kind in kinds):
        examples = {datetime: "2026-01-31T09:00:00Z", date: "2026-01-31", UUID: "xxxxxxxx-xxxx-…", timedelta: "PT1H30M"}
        return ("area" if kinds == [str] else "text"), (), examples.get(kinds[0], "")
    origin = get_origin(kinds[0]) if len(kinds) == 1 else None
    return "area", (), "[…]" if origin in (list, tuple, set) else "{…}" if kinds else "JSON"


def _choices(annotation: Any) -> dict[str, Any]:
    """The values of what has few, by how they are shown."""
    found: dict[str, Any] = {}
    for part in _parts(annotation):
        if part is bool:
            found |= {"true": True, "false": False}
        elif part is NoneType:
            found["null"] = None
        elif get_origin(part) is Literal:
            found |= {one if isinstance(one, str) else json.dumps(one): one for one in get_args(part)}
        elif isinstance(part, type) and issubclass(part, Enum):
            found |= {str(one.value): one.value for one in part}
        else:
            return {}
    return found if any(value is not None for value in found.values()) else {}


def _takes_text(annotation: Any) -> bool:
    kinds = [part for part in _parts(annotation) if part is not NoneType]
    return bool(kinds) and all(kind in _TEXTS for kind in kinds)


def _takes_none(annotation: Any) -> bool:
    return NoneType in _parts(annotation)


def _parts(annotation: Any) -> tuple[Any, ...]:
    plain = _plain(annotation)
    return tuple(map(_plain, get_args(plain))) if get_origin(plain) in (Union, UnionType) else (plain,)


def _plain(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _spelled(annotation: Any) -> str:
    if annotation is Any:
        return "any JSON"
    if get_origin(annotation) is None and isinstance(annotation, type):
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("NoneType", "None")


def _json(value: Any, *, indent: int | None = None) -> str:
    try:
        return json.dumps(msgspec.to_builtins(value), ensure_ascii=False, indent=indent)
    except (TypeError, ValueError):
        return repr(value)
