"""A task's signature: which parameters are arguments of a call, and which are supplied."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from types import SimpleNamespace
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

from litestar.di import Dependency
from saq.types import Context

from litestar_tasks.codec import Hooks, UnstorableTypeError, unstorable
from litestar_tasks.exceptions import DeclarationError, DependencyError, InvalidTaskError

__all__ = ("INJECTED", "SUPPLIED", "Kind", "Parameter", "read_parameters", "tidy")


class _Injected:
    """The type of ``INJECTED``, so that it reads well in signatures and errors."""

    def __repr__(self) -> str:
        return "INJECTED"


INJECTED: Final[Any] = _Injected()
"""The default of a parameter that the worker supplies: ``db_session: AsyncSession = INJECTED``."""


class Kind(Enum):
    """Where a parameter's value comes from. The signature alone decides."""

    CONTEXT = "context"
    """SAQ's ``Context``: the first parameter if it is annotated so, or is named ``ctx`` and not annotated."""
    JOB = "job"
    """The running job: a parameter annotated ``CurrentJob``."""
    INJECTED = "injected"
    """A dependency: its default is ``INJECTED``, its annotation a ``NamedDependency``, the task or its registry has one
    of its name, or its type can't be stored."""
    PAYLOAD = "payload"
    """An argument of the call."""
    UNRESOLVED = "unresolved"
    """Its annotation names what exists only once the app runs (an import under ``TYPE_CHECKING``)."""


SUPPLIED: Final = (Kind.CONTEXT, Kind.JOB, Kind.INJECTED)
"""What a worker supplies."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a task."""

    name: str
    kind: Kind
    annotation: Any
    """The resolved annotation; ``Any`` where there is none."""
    required: bool
    """Whether it has no default, or ``INJECTED`` for one."""
    positional_only: bool
    positional: bool
    """Whether it can be passed by position."""
    default: Any = None
    """What it is where the call leaves it out; of no meaning for a required one."""


def read_parameters(
    fn: Callable[..., Any],
    *,
    name: str,
    job_type: type,
    supplied: Collection[str] = (),
    namespace: Mapping[str, Any] | None = None,
    hooks: Hooks | None = None,
) -> tuple[list[Parameter], Any]:
    """Read a function's parameters and its return annotation.

    Args:
        fn: The task's function.
        name: The task's name, for errors.
        job_type: The class that stands for the running job in annotations.
        supplied: Names for which the task or its registry has a dependency. Defaults to none.
        namespace: Names that annotations may use beside the function's module, or None at import, when names that
            cannot be resolved yet are left as ``Kind.UNRESOLVED``.
        hooks: How the app stores types that msgspec does not know. Defaults to none.

    Raises:
        InvalidTaskError: A signature that no call could be stored for.
    """
    signature = inspect.signature(fn)
    parameters: list[Parameter] = []
    for position, parameter in enumerate(signature.parameters.values()):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise InvalidTaskError(
                f"task {name!r}: parameter '{parameter}' takes any arguments, so nothing can be checked or stored by "
                "name; list the parameters"
            )
        kind, annotation = _classify(fn, parameter, position, name, job_type, supplied, namespace, hooks or Hooks())
        parameters.append(
            Parameter(
                name=parameter.name,
                kind=kind,
                annotation=annotation,
                required=parameter.default is parameter.empty or parameter.default is INJECTED,
                positional_only=parameter.kind is parameter.POSITIONAL_ONLY,
                positional=parameter.kind is not parameter.KEYWORD_ONLY,
                default=parameter.default,
            )
        )
    returns = _resolve(fn, "return", signature.return_annotation, namespace)
    return parameters, returns


def _classify(
    fn: Callable[..., Any],
    parameter: inspect.Parameter,
    position: int,
    task: str,
    job_type: type,
    supplied: Collection[str],
    namespace: Mapping[str, Any] | None,
    hooks: Hooks,
) -> tuple[Kind, Any]:
    where = f"task {task!r}, parameter {parameter.name!r}"
    if parameter.annotation is parameter.empty:
        if parameter.name == "ctx":
            if position:
                raise InvalidTaskError(f"{where}: the context is the first parameter of a task")
            return Kind.CONTEXT, Context
        return (Kind.INJECTED if parameter.default is INJECTED or parameter.name in supplied else Kind.PAYLOAD), Any
    annotation = _resolve(fn, parameter.name, parameter.annotation, namespace)
    if annotation is _LATER:
        return Kind.UNRESOLVED, parameter.annotation
    plain = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if _is_context(plain):
        if position:
            raise InvalidTaskError(f"{where}: the context is the first parameter of a task")
        return Kind.CONTEXT, annotation
    if parameter.name == "ctx" and position == 0:
        raise InvalidTaskError(
            f"{where} is annotated {plain!r}, which a type checker takes for an argument of the call; annotate it "
            "with saq.types.Context, or give the argument another name"
        )
    if plain is job_type:
        return Kind.JOB, annotation
    if parameter.default is INJECTED or parameter.name in supplied or _is_dependency(annotation):
        return Kind.INJECTED, annotation
    try:
        foreign = unstorable(annotation, hooks)
    except UnstorableTypeError as error:
        raise InvalidTaskError(f"{where} cannot be stored: {tidy(error)}") from error
    return (Kind.PAYLOAD if foreign is None else Kind.INJECTED), annotation


_LATER: Final = object()


def _resolve(fn: Callable[..., Any], name: str, annotation: Any, namespace: Mapping[str, Any] | None) -> Any:
    """An annotation with its names looked up; ``_LATER`` for one that needs the app's names."""
    if annotation is inspect.Parameter.empty:
        return Any
    target = inspect.unwrap(fn)
    try:
        hints = get_type_hints(
            SimpleNamespace(__annotations__={name: annotation}),
            globalns={**(namespace or {}), **target.__globals__},
            include_extras=True,
        )
    except NameError as error:
        if namespace is None:
            return _LATER
        raise DependencyError(
            f"{name!r} of {target.__module__}.{target.__qualname__} is annotated {annotation!r}, and {error}; import "
            "it outside of TYPE_CHECKING, or add it to the app's signature_namespace"
        ) from error
    except (TypeError, SyntaxError) as error:
        raise DeclarationError(
            f"{name!r} of {target.__module__}.{target.__qualname__} has an annotation that cannot be read: {error}"
        ) from error
    return hints[name]


def _is_context(annotation: Any) -> bool:
    if annotation is Context:
        return True
    return any(_is_context(base) for base in getattr(annotation, "__orig_bases__", ()))


def _is_dependency(annotation: Any) -> bool:
    return get_origin(annotation) is Annotated and any(
        isinstance(extra, Dependency) or extra is Dependency for extra in get_args(annotation)[1:]
    )


def tidy(error: Exception) -> str:
    """What an error says, in the quotation marks of our own."""
    return str(error).replace("`", "'")
