"""What type checkers see of a task: which arguments a call takes, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, Generic, TypeAlias

from saq.types import Context
from typing_extensions import ParamSpec, TypeVar, Unpack

from litestar_tasks.task.task import AnyTask

if TYPE_CHECKING:
    from litestar_tasks.handle import JobHandle
    from litestar_tasks.options import EnqueueOptions
    from litestar_tasks.task.call import Call, Enqueuer

__all__ = ("ContextTask", "SyncContextTask", "Task")

P = ParamSpec("P")
R = TypeVar("R")
CallR = TypeVar("CallR", default=Coroutine[Any, Any, R])
Async: TypeAlias = Callable[Concatenate[Context, P], Coroutine[Any, Any, R]]
Sync: TypeAlias = Callable[Concatenate[Context, P], R]
AsyncF_co = TypeVar("AsyncF_co", bound=Callable[Concatenate[Context, ...], Coroutine[Any, Any, Any]], covariant=True)
SyncF_co = TypeVar("SyncF_co", bound=Callable[Concatenate[Context, ...], Any], covariant=True)

if TYPE_CHECKING:
    # Three faces of AnyTask that differ in how a call is written. Which one a function gets is chosen by the overloads
    # of TaskDecorator.

    class Task(AnyTask, Generic[P, R, CallR]):
        """A task without context; ``CallR`` is what a direct call returns."""

        def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> CallR: ...
        async def enqueue(self, /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]: ...
        def bind(self, /, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
        def using(self, **options: Unpack[EnqueueOptions]) -> Enqueuer[P, R]: ...
        def job(self, id: str) -> JobHandle[R]: ...

    class ContextTask(AnyTask, Generic[AsyncF_co]):
        """An async task with the context first; a direct call takes any mapping for it."""

        def __call__(
            self: ContextTask[Async[P, R]], ctx: Mapping[str, Any], /, *args: P.args, **kwargs: P.kwargs
        ) -> Coroutine[Any, Any, R]: ...
        async def enqueue(self: ContextTask[Async[P, R]], /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]: ...
        def bind(self: ContextTask[Async[P, R]], /, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
        def using(self: ContextTask[Async[P, R]], **options: Unpack[EnqueueOptions]) -> Enqueuer[P, R]: ...
        def job(self: ContextTask[Async[..., R]], id: str) -> JobHandle[R]: ...

    class SyncContextTask(AnyTask, Generic[SyncF_co]):
        """A sync task with the context first."""

        def __call__(
            self: SyncContextTask[Sync[P, R]], ctx: Mapping[str, Any], /, *args: P.args, **kwargs: P.kwargs
        ) -> R: ...
        async def enqueue(self: SyncContextTask[Sync[P, R]], /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]: ...
        def bind(self: SyncContextTask[Sync[P, R]], /, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
        def using(self: SyncContextTask[Sync[P, R]], **options: Unpack[EnqueueOptions]) -> Enqueuer[P, R]: ...
        def job(self: SyncContextTask[Sync[..., R]], id: str) -> JobHandle[R]: ...

else:

    class Task(AnyTask):
        """The class of every task at run time; see ``AnyTask``."""

        def __class_getitem__(cls, parameters: object) -> type[Task]:
            """``Task[..., Any]`` in annotations that are evaluated."""
            return cls

    ContextTask = SyncContextTask = Task
