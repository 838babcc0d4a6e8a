"""Which tasks can run in a process of the pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litestar_tasks.codec import Hooks
from litestar_tasks.current import CurrentJob
from litestar_tasks.exceptions import DeclarationError, InvalidTaskError
from litestar_tasks.signature import SUPPLIED, read_parameters
from litestar_tasks.task.result import Result

if TYPE_CHECKING:
    from litestar_tasks.task.declaration import Declaration

__all__ = ("check_executor",)


def check_executor(task: Declaration) -> None:
    """Refuse a task that could not run where its executor says.

    Raises:
        InvalidTaskError: Says why.
    """
    where = f"task {task.name!r} ({task.source}): executor={task.option('executor')!r}"
    if task.is_async and "executor" in task.options:
        raise InvalidTaskError(f"{where} is for sync functions, and this one is async; write def, or leave it out")
    if task.executor != "process":
        return
    if task.fn.__module__ == "__main__" or "<locals>" in task.fn.__qualname__:
        raise InvalidTaskError(
            f"{where} needs a function that another process can import, and {task.fn.__qualname__!r} is part of "
            f"{'the program' if task.fn.__module__ == '__main__' else 'another function'}; move it to a module"
        )
    try:
        # As that process will see it: there is no app there.
        parameters, returns = read_parameters(
            task.fn, name=task.name, job_type=CurrentJob, supplied=task.dependencies.keys(), namespace={}
        )
        Result(task, returns, Hooks())
    except DeclarationError as error:
        raise InvalidTaskError(f"{where}: its types have to be known without the app: {error}") from error
    if task.has_secrets:
        raise InvalidTaskError(f"{where}: secrets are not handed to another process; use executor='thread'")
    for parameter in parameters:
        if parameter.kind in SUPPLIED:
            raise InvalidTaskError(
                f"{where}: parameter {parameter.name!r} is supplied by the worker, and does not exist in another "
                "process; take it out, and do what needs it in an async task that awaits this one, or use "
                "executor='thread'"
            )
