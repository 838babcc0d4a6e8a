"""The arguments of a task's calls: what they may be, and how they are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from litestar_tasks.codec import Codec, Hooks, UnstorableTypeError, json_size, split_path
from litestar_tasks.exceptions import InvalidTaskError, PayloadError
from litestar_tasks.follow_ups import Placeholder
from litestar_tasks.secret import Secrets, secrets_of
from litestar_tasks.signature import Kind, Parameter, tidy

__all__ = ("Payload",)

_NO_PLACEHOLDERS: Final[Mapping[str, str]] = MappingProxyType({})
"""One for all calls: what is bound by the thousand keeps the garbage collector busy with each object more."""


class Payload:
    """The payload of one task, compiled from its signature: what a call may hold, and how it is stored.

    Args:
        task: The task's name, for errors.
        parameters: All parameters of the task, none of them unresolved.
        hooks: How the app stores types that msgspec does not know.
        limit: How many bytes of JSON a call's arguments may have.

    Attributes:
        secrets: Which parts of the arguments are stored encrypted; None where there are none.

    Raises:
        InvalidTaskError: A parameter's type cannot be stored.
    """

    def __init__(self, task: str, parameters: list[Parameter], hooks: Hooks, *, limit: int) -> None:
        self._task = task
        self._limit = limit
        self._hooks = hooks
        self._parameters = parameters
        self._partly: dict[frozenset[str], Payload] = {}
        self._fields = [parameter for parameter in parameters if parameter.kind is Kind.PAYLOAD]
        self._names = frozenset(field.name for field in self._fields)
        self._required = frozenset(field.name for field in self._fields if field.required)
        self._positional = [field.name for field in self._fields if field.positional]
        self._positional_only = frozenset(field.name for field in self._fields if field.positional_only)
        self._supplied = frozenset(parameter.name for parameter in parameters) - self._names
        try:
            struct = msgspec.defstruct(
                task,
                [
                    (field.name, field.annotation)
                    if field.required
                    # Defaults are not stored: the release that runs the job applies its own.
                    else (field.name, field.annotation | UnsetType, UNSET)
                    for field in self._fields
                ],
                kw_only=True,
                forbid_unknown_fields=True,
                omit_defaults=True,
            )
            self._struct = struct
            self._codec: Codec[Any] = Codec(struct, hooks, outermost_is_checked=True)
            self.secrets: Secrets | None = secrets_of(struct)
        except (TypeError, ValueError) as error:
            raise InvalidTaskError(f"task {task!r}: its arguments cannot be stored: {tidy(error)}") from error

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments; types that msgspec does not know may be anything."""
        return msgspec.json.schema(self._struct, schema_hook=lambda _: {})

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Validate a call's arguments and make JSON's own types of them, by name.

        Raises:
            PayloadError: They do not fit, or cannot be stored; names the argument, what was expected and what came.
        """
        values = self._by_name(args, kwargs) if args else kwargs
        if values.keys() != self._names:
            self._check_names(values)
        refused: PayloadError | None = None
        stored: dict[str, Any] = {}
        size = 0
        try:
            stored = self._codec.encode(self._codec.validate(values))
            size = json_size(stored) if stored else 0
        except (TypeError, ValueError, RecursionError) as error:
            refused = self._refused(error)
            if isinstance(error, UnstorableTypeError):  # which msgspec does not place
                refused = PayloadError(self._task, str(error), path=self._unstorable(values))
        if refused is not None:
            raise refused
        if size > self._limit:
            raise PayloadError(
                self._task,
                f"the arguments have {size:,} bytes as JSON, and {self._limit:,} are allowed; store the data elsewhere "
                "and pass its id, or raise the task's payload_limit",
            )
        return stored

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, str]]:
        """``encode`` for a call that may have placeholders among its arguments: whole arguments, not parts of them.

        Returns:
            What is known of the payload, and by the names of the other arguments what they stand for.

        Raises:
            PayloadError: As ``encode``.
        """
        try:
            return self.encode(args, kwargs), _NO_PLACEHOLDERS
        except PayloadError:
            if not any(isinstance(value, Placeholder) for value in (*args, *kwargs.values())):
                raise
        values = self._by_name(args, kwargs)
        self._check_names(values)
        takes = {name: value.name for name, value in values.items() if isinstance(value, Placeholder)}
        rest = {name: value for name, value in values.items() if name not in takes}
        return self._without(frozenset(takes)).encode((), rest), takes

    def annotation(self, name: str) -> Any:
        """What an argument has to be."""
        return next(field.annotation for field in self._fields if field.name == name)

    def decode(self, stored: Mapping[str, Any] | None) -> tuple[list[Any], dict[str, Any]]:
        """Restore a stored payload as the arguments of the function: by position where they must be, else by name.

        Raises:
            PayloadError: It does not fit the signature, which has changed since, or was never checked against it.
        """
        refused: PayloadError | None = None
        struct: Any = None
        try:
            struct = self._codec.decode(stored or {})
        except (TypeError, ValueError) as error:
            refused = self._refused(error, "the stored payload does not fit: ")
        if refused is not None:
            raise refused
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for field in self._fields:
            value = getattr(struct, field.name)
            if value is UNSET:
                continue
            if field.name in self._positional_only:
                args.append(value)
            else:
                kwargs[field.name] = value
        return args, kwargs

    def _refused(self, error: Exception, why: str = "") -> PayloadError:
        """What is raised for an error; to be raised outside of its ``except``, as it may quote what is secret."""
        message, path = self.secrets.problem(error) if self.secrets else split_path(error)
        refused = PayloadError(self._task, why + message, path=path)
        if self.secrets is None:
            refused.__cause__ = error
        return refused

    def _unstorable(self, values: Mapping[str, Any]) -> str:
        """The first argument that holds what cannot be stored, or an empty text."""
        return next((name for name, value in values.items() if not self._hooks.can_encode(value)), "")

    def _without(self, names: frozenset[str]) -> Payload:
        """The payload of a call that may leave out these arguments."""
        if names not in self._partly:
            parameters = [replace(one, required=one.required and one.name not in names) for one in self._parameters]
            self._partly[names] = Payload(self._task, parameters, self._hooks, limit=self._limit)
        return self._partly[names]

    def complete(self, stored: Mapping[str, Any], *, without: frozenset[str] = frozenset()) -> dict[str, Any]:
        """All arguments of a call by name, in JSON's own types, with the defaults of those that were left out.

        It is the same for calls that mean the same: however they were written, in whatever order their sets and
        dictionaries are.

        Args:
            stored: The payload.
            without: Arguments that it does not hold, for which nothing of use is returned. Defaults to none.
        """
        if without:
            return self._without(without).complete(stored)
        struct = self._codec.decode(stored)
        for name, default in self._storable_defaults.items():
            if getattr(struct, name) is UNSET:
                setattr(struct, name, default)
        # A default that cannot be stored is like none.
        return {**dict.fromkeys(self.names), **self._codec.ordered(struct)}

    @property
    def names(self) -> Sequence[str]:
        """The arguments of a call, in the order of the signature."""
        return [field.name for field in self._fields]

    @cached_property
    def _storable_defaults(self) -> dict[str, Any]:
        """Defaults are the author's, and need not fit the annotation, nor be anything that could be stored."""
        found: dict[str, Any] = {}
        for field in self._fields:
            with suppress(TypeError, ValueError):
                if not field.required:
                    self._codec.ordered(field.default)
                    found[field.name] = field.default
        return found

    def _by_name(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        if len(args) > len(self._positional):
            raise PayloadError(self._task, f"takes {len(self._positional)} positional arguments, got {len(args)}")
        values = dict(zip(self._positional, args, strict=False))
        for name, value in kwargs.items():
            if name in values:
                raise PayloadError(self._task, "given by position and by name", path=name)
            values[name] = value
        return values

    def _check_names(self, values: Mapping[str, Any]) -> None:
        for name in values:
            if name in self._supplied:
                raise PayloadError(self._task, "is supplied by the worker and cannot be passed", path=name)
        if unknown := [name for name in values if name not in self._names]:
            takes = ", ".join(field.name for field in self._fields) or "no arguments"
            option = _OPTIONS.get(unknown[0])
            hint = f"; options are set apart from arguments: using({option}=…)" if option else ""
            raise PayloadError(self._task, f"unknown argument; the task takes {takes}{hint}", path=unknown[0])
        if missing := [field.name for field in self._fields if field.name in self._required - values.keys()]:
            raise PayloadError(self._task, f"missing argument{'s' if len(missing) > 1 else ''} {', '.join(missing)}")


# What users of SAQ and others may write among the arguments of an enqueue, out of habit, and what it is called here.
_OPTIONS: Final = {
    **{
        name: name
        for name in (
            "debounce",
            "delay",
            "exclusive",
            "expires",
            "key",
            "max_attempts",
            "priority",
            "queue",
            "run_at",
            "throttle",
            "timeout",
            "ttl",
            "unique",
        )
    },
    "retries": "max_attempts",
    "schedule": "run_at",
    "scheduled": "run_at",
    "scheduled_at": "run_at",
}
