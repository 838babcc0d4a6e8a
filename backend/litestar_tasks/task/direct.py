"""Calling a task's function here and now, where no worker supplies anything."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from litestar_tasks.exceptions import DependencyError
from litestar_tasks.signature import INJECTED, SUPPLIED, Kind

if TYPE_CHECKING:
    from litestar_tasks.task.declaration import Declaration

__all__ = ("refuse_unfilled",)


def refuse_unfilled(task: Declaration, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse a direct call that leaves out what a worker would supply.

    Raises:
        DependencyError: Names the parameter, and how to pass it.
    """
    given = inspect.signature(task.fn).bind_partial(*args, **kwargs)
    given.apply_defaults()
    for parameter in task.parameters:
        name = parameter.name
        if parameter.kind not in SUPPLIED or given.arguments.get(name, INJECTED) is not INJECTED:
            continue
        if parameter.kind is Kind.CONTEXT:
            raise DependencyError(
                f"task {task.name!r} was called directly without its context, which only a worker supplies; pass a "
                f"mapping with what it reads of it first: {task.name}({{}}, …)"
            )
        what = "the running job" if parameter.kind is Kind.JOB else "its dependency"
        raise DependencyError(
            f"task {task.name!r} was called directly without {what} {name!r}, which only a worker supplies; pass "
            f"it: {task.name}(…, {name}=…)"
        )
