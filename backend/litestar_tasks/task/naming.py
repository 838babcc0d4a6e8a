"""How another process finds a task again: by its module and its name."""

from __future__ import annotations

import functools
import importlib
import inspect
from types import FunctionType
from typing import Any, cast

from litestar_tasks.exceptions import InvalidTaskError
from litestar_tasks.task.declaration import Declaration

__all__ = ("load", "refuse_unnameable")


def refuse_unnameable(fn: object, *, allow_local: bool) -> None:
    """Refuse what a worker in another process could not find again by its name.

    Raises:
        InvalidTaskError: Says what it is, and what to write instead.
    """
    if isinstance(fn, Declaration):
        raise InvalidTaskError(
            f"{fn.name!r} ({fn.source}) is a task already; a further schedule is registry.schedule(task, cron=…)"
        )
    if isinstance(fn, staticmethod | classmethod):
        raise InvalidTaskError(f"{fn!r}: put @task below @{type(fn).__name__}")
    if isinstance(fn, functools.partial):
        raise InvalidTaskError(f"{fn!r} is a partial, which has no name of its own; write a function that calls it")
    if inspect.ismethod(fn):
        raise InvalidTaskError(f"{fn!r} is bound to an object, which cannot be stored; write a function that calls it")
    if not inspect.isfunction(fn):
        raise InvalidTaskError(f"{fn!r} is not a function; write a function that calls it")
    if "<lambda>" in fn.__qualname__:
        raise InvalidTaskError(
            f"a lambda ({fn.__code__.co_filename}:{fn.__code__.co_firstlineno}) has no name; use def"
        )
    if "<locals>" in fn.__qualname__ and not allow_local:
        raise InvalidTaskError(
            f"{fn.__qualname__!r} ({fn.__code__.co_filename}:{fn.__code__.co_firstlineno}) is local to a function, so "
            "a worker cannot import it; move it to module level (a decorator below @task: use functools.wraps; in "
            "tests: Registry(allow_local=True))"
        )
    if _is_method(fn):
        raise InvalidTaskError(
            f"{fn.__qualname__!r} ({fn.__code__.co_filename}:{fn.__code__.co_firstlineno}) is a method, and its object "
            "cannot be stored; write a function"
        )
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise InvalidTaskError(f"{fn.__qualname__!r} is a generator; a task returns its result")


def _is_method(fn: FunctionType) -> bool:
    """Whether a function stands in a class, and takes the object or the class first."""
    in_class = "." in fn.__qualname__.rpartition("<locals>.")[2]
    return in_class and next(iter(inspect.signature(fn).parameters), None) in ("self", "cls")


def load(module: str, qualname: str, name: str) -> Declaration:
    """Find a pickled task again: by its module attribute, or else as ``alias = task(function)``.

    Raises:
        LookupError: The module does not hold it any more.
    """
    namespace = importlib.import_module(module)
    found: Any = namespace
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if isinstance(found, Declaration) and found.name == name:
        return found
    for value in vars(namespace).values():
        if isinstance(value, Declaration) and value.name == name:
            return value
        find = getattr(type(value), "find_task", None)  # a Registry that the module uses
        if find is not None and (task := find(value, name)) is not None:
            return cast("Declaration", task)
    raise LookupError(f"task {name!r} was not found in module {module!r}; bind it to a name at module level")
