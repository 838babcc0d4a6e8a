"""What the worker supplies: an application's own dependencies, resolved without a request."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from litestar.di import Provide

from litestar_tasks.exceptions import DependencyError
from litestar_tasks.payload import INJECTED, Kind

if TYPE_CHECKING:
    from litestar import Litestar

    from litestar_tasks.task import AnyTask

__all__ = ("Dependencies",)

# What Litestar passes to a provider out of the request, which a task does not have.
_REQUEST_ONLY: Final = frozenset({"body", "cookies", "data", "headers", "query", "request", "scope", "socket"})


@dataclass(frozen=True, slots=True)
class _Provider:
    """One way to make a value, and the names of what it needs for that."""

    open: Callable[[Mapping[str, Any]], AbstractAsyncContextManager[Any]]
    needs: tuple[str, ...]


class Dependencies:
    """The providers of one application, and what each task needs of them.

    Args:
        app: The application, whose ``dependencies`` are looked up by name.
        sessions: Context managers that replace the app's provider of the same name: database sessions.
    """

    def __init__(
        self, app: Litestar, sessions: Mapping[str, Callable[[], AbstractAsyncContextManager[object]]]
    ) -> None:
        self._app = app
        self._sessions = sessions
        self._providers: dict[str, _Provider] = {}
        self._needs: dict[str, tuple[str, ...]] = {}

    def check(self, tasks: Iterable[AnyTask]) -> list[DependencyError]:
        """Plan every task's dependencies, depth first, and return what cannot be supplied, with the path to it."""
        problems: list[DependencyError] = []
        for task in tasks:
            try:
                self._plan(task)
            except DependencyError as error:
                problems.append(error)
        return problems

    def needs(self, task: AnyTask) -> tuple[str, ...]:
        """The names of the parameters that ``resolve`` supplies.

        Raises:
            DependencyError: The task was registered after the start, and needs what cannot be supplied.
        """
        known = self._needs.get(task.name)
        return self._plan(task) if known is None else known

    @asynccontextmanager
    async def resolve(self, task: AnyTask) -> AsyncGenerator[dict[str, Any]]:
        """The dependencies of one attempt, by parameter name.

        Each provider is called once per attempt. Generators are continued in reverse order when the block ends, in
        this asyncio task; they see the exception that ended it, and cannot swallow it.

        Raises:
            DependencyError: The task was registered after the start, and needs what cannot be supplied.
        """
        needs = self.needs(task)
        values: dict[str, Any] = {}
        async with AsyncExitStack() as stack:
            for name in needs:
                await self._open(name, values, stack)
            yield {name: values[name] for name in needs}

    async def _open(self, name: str, values: dict[str, Any], stack: AsyncExitStack) -> None:
        if name in values:
            return
        provider = self._providers[name]
        for need in provider.needs:
            await self._open(need, values, stack)
        manager = provider.open({need: values[need] for need in provider.needs})
        values[name] = await stack.enter_async_context(_Unswallowing(manager))

    def _plan(self, task: AnyTask) -> tuple[str, ...]:
        needs: list[str] = []
        for parameter in task.parameters:
            if parameter.kind is not Kind.INJECTED:
                continue
            if self._known(parameter.name):
                self._plan_provider(parameter.name, (f"task {task.name!r}",))
                needs.append(parameter.name)
            elif parameter.required:
                kind = getattr(parameter.annotation, "__name__", str(parameter.annotation))
                raise DependencyError(
                    f"task {task.name!r} ({task.source}), parameter {parameter.name!r}: the app has no dependency "
                    f"{parameter.name!r}{self._near(parameter.name)}, and a {kind} cannot be stored as an argument; "
                    "pass an id, or add the dependency to the app"
                )
        self._needs[task.name] = tuple(needs)
        return self._needs[task.name]

    def _plan_provider(self, name: str, path: tuple[str, ...]) -> None:
        way = " → ".join((*path, repr(name)))
        if repr(name) in path:
            raise DependencyError(f"{way}: the dependencies need each other in a circle")
        if name in self._providers:
            return
        if name in self._sessions:
            session = self._sessions[name]
            self._providers[name] = _Provider(lambda _: session(), ())
            return
        if name == "state":
            self._providers[name] = _Provider(lambda _: _value(self._app.state), ())
            return
        provide = self._app.dependencies[name]
        if not isinstance(provide, Provide):
            provide = Provide(provide)
        needs: list[str] = []
        for parameter in _signature(provide).parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            required = parameter.default is parameter.empty or parameter.default is INJECTED
            if self._known(parameter.name):
                needs.append(parameter.name)
            elif parameter.name in _REQUEST_ONLY and required:
                raise DependencyError(
                    f"{way} needs {parameter.name!r}, which exists only in a request; give the task a dependency that "
                    "works without one"
                )
            elif required:
                raise DependencyError(f"{way} needs {parameter.name!r}, which the app does not provide")
        for need in needs:
            self._plan_provider(need, (*path, repr(name)))
        self._providers[name] = _Provider(lambda values: _open_provide(provide, values), tuple(needs))

    def _known(self, name: str) -> bool:
        return name in self._sessions or name in self._app.dependencies or name == "state"

    def _near(self, name: str) -> str:
        close = [known for known in (*self._sessions, *self._app.dependencies) if name in known or known in name]
        return f" (did you mean {close[0]!r}?)" if close else ""


class _Unswallowing:
    """A context manager that cannot make an exception disappear: a failed attempt stays failed."""

    def __init__(self, manager: AbstractAsyncContextManager[Any]) -> None:
        self._manager = manager

    async def __aenter__(self) -> Any:
        return await self._manager.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._manager.__aexit__(kind, error, trace)


@asynccontextmanager
async def _open_provide(provide: Provide, values: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
    if provide.has_async_generator_dependency:
        async with asynccontextmanager(provide.dependency)(**values) as value:
            yield value
    elif provide.has_sync_generator_dependency:
        with contextmanager(provide.dependency)(**values) as value:
            yield value
    else:
        yield await provide(**values)


@asynccontextmanager
async def _value(value: Any) -> AsyncGenerator[Any, None]:
    yield value


def _signature(provide: Provide) -> inspect.Signature:
    # With sync_to_thread=True, Litestar has wrapped the function, and its wrapper shows no signature.
    function = provide.dependency
    wrapped = getattr(function, "func", function)
    return inspect.signature(getattr(wrapped, "args", (wrapped,))[0] if wrapped is not function else function)
