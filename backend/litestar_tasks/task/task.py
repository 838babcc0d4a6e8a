"""A declared function as its users see it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Self

from typing_extensions import Unpack

from litestar_tasks.handle import JobHandle
from litestar_tasks.job import JobSpec
from litestar_tasks.options import EnqueueOptions
from litestar_tasks.signature import SUPPLIED
from litestar_tasks.task.call import Call, Enqueuer
from litestar_tasks.task.declaration import Declaration, Home
from litestar_tasks.task.direct import refuse_unfilled
from litestar_tasks.task.naming import load

__all__ = ("AnyTask",)

_NO_OPTIONS: Final[Mapping[str, Any]] = MappingProxyType({})


class AnyTask(Declaration):
    """A declared function and its options.

    It is called like the function: ``await my_task(ctx, user_id=1)`` runs it here and now. ``__name__`` and
    ``__qualname__`` are the task's name, which SAQ and its tools go by; the function itself is ``fn``.

    This is the one class that exists at run time. Type checkers see ``Task``, ``ContextTask`` or
    ``SyncContextTask`` instead, which differ in what a call looks like.
    """

    __name__: str
    __qualname__: str

    def __init__(self, fn: Callable[..., Any], registry: Home, options: Mapping[str, Any]) -> None:
        super().__init__(fn, registry, options)
        functools.update_wrapper(self, fn, updated=())
        self.__name__ = self.__qualname__ = self.name
        if self.is_async:
            _mark_as_coroutine_function(self)

    def using(self, **options: Unpack[EnqueueOptions]) -> Enqueuer[..., Any]:
        """The task with options for one or more calls: ``my_task.using(delay=60).enqueue(user_id=1)``.

        Args:
            options: See ``EnqueueOptions``.

        Raises:
            ConfigurationError: An unknown option, or a value that cannot work.
        """
        return Enqueuer(self, self.call_options({}, options))

    def bind(self, /, *args: Any, **kwargs: Any) -> Call[Any]:
        """A call that is validated now and enqueued later, alone or with others by ``enqueue_many``.

        Raises:
            PayloadError: The arguments do not fit the signature.
        """
        return Call(self, *self.payload.bind(args, kwargs), _NO_OPTIONS)

    async def enqueue(self, /, *args: Any, **kwargs: Any) -> JobHandle[Any]:
        """Enqueue a call of the task. Once this has returned, the job will run.

        Args:
            args: The function's positional arguments, without the context.
            kwargs: Its arguments by name.

        Raises:
            PayloadError: The arguments do not fit the signature; nothing was stored.
            NotAttachedError: No app is running whose queue it could go to.
            QueueUnavailableError: The broker did not answer in time.
        """
        return await self.bind(*args, **kwargs).enqueue()

    def job(self, id: str) -> JobHandle[Any]:
        """The handle of a job of this task, by its id.

        Raises:
            JobNotFoundError: The id is not one of this broker's.
        """
        attachment = self.registry.attachment()
        label, key = attachment.locate(id)
        # A handle can do without what its task returns, which nobody may have compiled yet.
        return JobHandle(attachment.queue(label), key, decode=lambda stored: self.result.decode(stored))

    def spec(self, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any] | None = None) -> JobSpec:
        """What a queue stores of a call.

        Args:
            args: Positional arguments, without the context.
            kwargs: Arguments by name.
            options: Checked options of the call, durations in seconds. Defaults to none.

        Raises:
            PayloadError: The arguments do not fit.
        """
        return self.stored_spec(self.payload.encode(tuple(args), kwargs), options or {})

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the function here and now; the context, if it takes one, comes first.

        Raises:
            DependencyError: A parameter that a worker would supply was left out.
        """
        if any(parameter.kind in SUPPLIED for parameter in self.parameters):
            refuse_unfilled(self, args, kwargs)
        return self.fn(*args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Self:
        """A task is no method: found on a class it is itself."""
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} from {self.source}>"

    def __reduce__(self) -> tuple[Callable[..., Declaration], tuple[str, str, str]]:
        """Pickle by reference, so that a spawned process finds its own registry's task."""
        return load, (self.fn.__module__, self.fn.__qualname__, self.name)


def _mark_as_coroutine_function(task: AnyTask) -> None:
    # asyncio.iscoroutinefunction looks for this up to Python 3.13, inspect's from 3.12 on for its own mark.
    task._is_coroutine = _ASYNCIO_MARK  # type: ignore[attr-defined]  # asyncio's protocol, not ours
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(task)


_ASYNCIO_MARK = getattr(asyncio.coroutines, "_is_coroutine", True)
