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
from litestar_tasks.signature import INJECTED, Kind

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


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one task needs: the parameters that are supplied, and a provider for each name on the way to them."""

    parameters: tuple[str, ...]
    providers: Mapping[str, _Provider]


class Dependencies:
    """The providers of one application, and what each task needs of them.

    A name means the first of these that has it: the task's ``dependencies``, its registry's, the resources of the
    worker's lifespans, the app's.

    Args:
        app: The application, whose ``dependencies`` are looked up by name.
        sessions: Context managers that replace the app's provider of the same name: database sessions.
        resources: What the worker's lifespans yielded, by name. Defaults to None: nothing.
        more_to_come: Whether there are lifespans that have not been entered yet. Then a name that is missing is no
            problem: it may be one of theirs. Defaults to False.
    """

    def __init__(
        self,
        app: Litestar,
        sessions: Mapping[str, Callable[[], AbstractAsyncContextManager[object]]],
        resources: Mapping[str, object] | None = None,
        *,
        more_to_come: bool = False,
    ) -> None:
        self._app = app
        self._sessions = sessions
        self._more_to_come = more_to_come
        self._plans: dict[str, _Plan] = {}
        self.resources: Mapping[str, object] = resources or {}

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
        return (self._plans.get(task.name) or self._plan(task)).parameters

    @asynccontextmanager
    async def resolve(self, task: AnyTask) -> AsyncGenerator[dict[str, Any]]:
        """The dependencies of one attempt, by parameter name.

        Each provider is called once per attempt. Generators are continued in reverse order when the block ends, in
        this asyncio task; they see the exception that ended it, and cannot swallow it.

        Raises:
            DependencyError: The task was registered after the start, and needs what cannot be supplied.
        """
        plan = self._plans.get(task.name) or self._plan(task)
        values: dict[str, Any] = {}
        async with AsyncExitStack() as stack:
            for name in plan.parameters:
                await self._open(plan, name, values, stack)
            yield {name: values[name] for name in plan.parameters}

    async def _open(self, plan: _Plan, name: str, values: dict[str, Any], stack: AsyncExitStack) -> None:
        if name in values:
            return
        provider = plan.providers[name]
        for need in provider.needs:
            await self._open(plan, need, values, stack)
        manager = provider.open({need: values[need] for need in provider.needs})
        values[name] = await stack.enter_async_context(_Unswallowing(manager))

    def _plan(self, task: AnyTask) -> _Plan:
        parameters: list[str] = []
        providers: dict[str, _Provider] = {}
        for parameter in task.parameters:
            if parameter.kind is not Kind.INJECTED:
                continue
            if self._known(parameter.name, task):
                self._plan_provider(parameter.name, (f"task {task.name!r}",), task, providers)
                parameters.append(parameter.name)
            elif parameter.required and not self._more_to_come:
                kind = getattr(parameter.annotation, "__name__", str(parameter.annotation))
                raise DependencyError(
                    f"task {task.name!r} ({task.source}), parameter {parameter.name!r}: the app has no dependency "
                    f"{parameter.name!r}{self._near(parameter.name, task)}, and an object of the class {kind} cannot "
                    "be stored as an argument; pass an id, or add the dependency to the app"
                )
        plan = self._plans[task.name] = _Plan(tuple(parameters), providers)
        return plan

    def _plan_provider(self, name: str, path: tuple[str, ...], task: AnyTask, providers: dict[str, _Provider]) -> None:
        way = " → ".join((*path, repr(name)))
        if repr(name) in path:
            raise DependencyError(f"{way}: the dependencies need each other in a circle")
        if name in providers:
            return
        provide: Any = task.dependencies.get(name)
        if provide is None:
            if name in self.resources:
                resource = self.resources[name]
                providers[name] = _Provider(lambda _: _value(resource), ())
                return
            if name in self._sessions:
                session = self._sessions[name]
                providers[name] = _Provider(lambda _: session(), ())
                return
            if name == "state":
                providers[name] = _Provider(lambda _: _value(self._app.state), ())
                return
            provide = self._app.dependencies[name]
        if not isinstance(provide, Provide):
            provide = Provide(provide)
        needs: list[str] = []
        for parameter in _signature(provide).parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            required = parameter.default is parameter.empty or parameter.default is INJECTED
            if self._known(parameter.name, task):
                needs.append(parameter.name)
            elif parameter.name in _REQUEST_ONLY and required:
                raise DependencyError(
                    f"{way} needs {parameter.name!r}, which exists only in a request; give the task a dependency that "
                    "works without one"
                )
            elif required and not self._more_to_come:
                raise DependencyError(f"{way} needs {parameter.name!r}, which the app does not provide")
        for need in needs:
            self._plan_provider(need, (*path, repr(name)), task, providers)
        providers[name] = _Provider(lambda values: _open_provide(provide, values), tuple(needs))

    def _known(self, name: str, task: AnyTask) -> bool:
        return name == "state" or any(name in known for known in self._levels(task))

    def _levels(self, task: AnyTask) -> tuple[Mapping[str, object], ...]:
        return task.dependencies, self.resources, self._sessions, self._app.dependencies

    def _near(self, name: str, task: AnyTask) -> str:
        close = [known for level in self._levels(task) for known in level if name in known or known in name]
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
