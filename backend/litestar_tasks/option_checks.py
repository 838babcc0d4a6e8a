"""What is wrong with the value of an option, and with options beside each other."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, cast

from litestar.di import Provide

from litestar_tasks.durations import seconds
from litestar_tasks.exceptions import ConfigurationError
from litestar_tasks.follow_ups import MOST, BoundCall
from litestar_tasks.options import EnqueueOptions, RegistryOptions, SharedOptions
from litestar_tasks.retry import Backoff, Constant, Exponential, Linear
from litestar_tasks.uniqueness import Debounce, Exclusive, Throttle, Unique

__all__ = ("check_middleware", "check_on_enqueue", "check_options", "check_together")


def check_options(
    options: Mapping[str, Any], kind: type, *, subject: str, arguments: Collection[str] = ()
) -> dict[str, Any]:
    """Check options and bring durations to seconds.

    Args:
        options: As they were given.
        kind: ``RegistryOptions``, ``TaskOptions`` or ``EnqueueOptions``: which names are known.
        subject: What they belong to, for errors: "task 'send_receipt'".
        arguments: What the task takes, which is no option. Defaults to nothing that is known.

    Raises:
        ConfigurationError: An unknown option, or a value that cannot work.
    """
    known = kind.__annotations__.keys() | SharedOptions.__annotations__.keys()
    if unknown := options.keys() - known:
        name = min(unknown)
        hint = _HABITS.get(name, "").format(options[name])
        if name in arguments:
            hint = " (it is an argument of the task: give it to enqueue or bind)"
        elif name in RegistryOptions.__annotations__:
            hint = " (it is an option of the task or the registry, not of a call)"
        raise ConfigurationError(f"{subject}: unknown option {name!r}{hint}; known: {', '.join(sorted(known))}")
    if "delay" in options and "run_at" in options:
        raise ConfigurationError(f"{subject}: both delay and run_at were given; give one")
    checked = {name: _CHECKS[name](value, f"{subject}: {name}") for name, value in options.items()}
    if kind is EnqueueOptions:
        _check_storable(checked, subject)
    return checked


# What users of other libraries write for the same thing; the braces are for what they gave.
_HABITS: Final = {
    "max_retries": " (max_attempts counts runs: one more)",
    "max_tries": " (it is max_attempts)",
    "retries": " (it is max_attempts)",
    "retry_delay": " (write backoff=Constant({0!r}))",
    "retry_backoff": " (write backoff=Exponential())",
    "retry_kwargs": " (they are max_attempts and backoff)",
    "autoretry_for": " (it is retry_on)",
    "scheduled": " (it is run_at or delay)",
    "scheduled_at": " (it is run_at)",
    "schedule": " (it is run_at)",
    "at": " (it is run_at)",
}


def _check_run_at(value: Any, subject: str) -> datetime:
    """Refuse a moment that would mean different things on different machines."""
    if not isinstance(value, datetime):
        raise ConfigurationError(f"{subject} is {value!r}; give an aware datetime")
    if value.tzinfo is None:
        raise ConfigurationError(
            f"{subject} is {value!r}, which has no time zone; write datetime.now(UTC) + …, or give it a tzinfo"
        )
    return value


def _check_duration(value: Any, subject: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | timedelta) or not 0 <= seconds(value) < 2**31:
        raise ConfigurationError(f"{subject} is {value!r}; give seconds or a timedelta, not negative")
    return seconds(value)


def _check_limit(value: Any, subject: str) -> float | None:
    return None if value is None else _check_duration(value, subject)


def _check_timeout(value: Any, subject: str) -> float | None:
    if (limit := _check_limit(value, subject)) == 0:
        raise ConfigurationError(f"{subject} is {value!r}; give more than 0 seconds, or None for no limit")
    return limit


def _check_name(value: Any, subject: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{subject} is {value!r}; give a text that is not empty")
    return value


def _check_session(value: Any, subject: str) -> Any:
    # Not isinstance, which would load SQLAlchemy.
    if value is not None and not hasattr(value, "sync_session"):
        raise ConfigurationError(
            f"{subject} is {value!r}; give SQLAlchemy's AsyncSession, such as a route's db_session"
        )
    return value


def _check_tag(value: Any, subject: str) -> str | None:
    if value is not None and (not isinstance(value, str) or not 0 < len(value) <= 100):
        raise ConfigurationError(f"{subject} is {value!r}; give a text of 1 to 100 characters, or None for none")
    return value


def _check_bool(value: Any, subject: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{subject} is {value!r}; give True or False")
    return value


def _check_alike(kind: type, *, plain: type | tuple[type, ...], remedy: str) -> Callable[[Any, str], Any]:
    """What brings an option to its class: plain values stand for one with defaults, False and None for none."""

    def check(value: Any, subject: str) -> Any:
        if value is None or value is False:
            return None
        if isinstance(value, kind):
            return value
        if value is True and plain is bool:
            return kind()
        if isinstance(value, (type, bool)) or not isinstance(value, plain):
            raise ConfigurationError(f"{subject} is {value!r}; {remedy}")
        try:
            return kind(value)
        except ConfigurationError as error:
            raise ConfigurationError(f"{subject}: {error}") from None

    return check


def check_together(levels: Mapping[str, Any], subject: str) -> None:
    """Refuse options of which one makes no sense beside another.

    Args:
        levels: The options that hold, of all levels, checked.
        subject: What they belong to, for errors.

    Raises:
        ConfigurationError: Says which, and what to write instead.
    """
    given = [name for name in ("unique", "debounce", "throttle") if levels.get(name) is not None]
    if len(given) > 1:
        first, second, *_ = given
        off = "False" if first == "unique" else "None"
        hint = ", or unique=Unique(window=…) for both in one" if given == ["unique", "throttle"] else ""
        raise ConfigurationError(
            f"{subject}: {first} and {second} both say what becomes of a second call; give one of them, and "
            f"{first}={off} where another level gives it{hint}"
        )
    if levels.get("debounce") is None:
        return
    for name in ("delay", "run_at"):
        if levels.get(name):
            raise ConfigurationError(f"{subject}: debounce says when the job starts; leave out {name}")
    if levels.get("key") is not None:
        raise ConfigurationError(
            f"{subject}: a call that is debounced may become part of a job that has a key already; leave out key, and "
            "say which calls are alike by debounce=Debounce(…, by=…)"
        )


def _check_backoff(value: Any, subject: str) -> Backoff:
    if isinstance(value, type):
        raise ConfigurationError(f"{subject} is the class {value.__name__}; make one: {value.__name__}(…)")
    if isinstance(value, int | float | timedelta):
        raise ConfigurationError(f"{subject} is {value!r}; write backoff=Constant({value!r}) for that pause every time")
    if not callable(value) or inspect.iscoroutinefunction(value):
        raise ConfigurationError(
            f"{subject} is {value!r}; give Constant(…), Linear(…), Exponential(…), or a plain function of the number "
            "of the attempt"
        )
    return cast("Backoff", value)


def _check_storable(options: Mapping[str, Any], subject: str) -> None:
    """Refuse policies that cannot travel with a job: what the worker looks up with the task may be any code."""
    if "backoff" in options and type(options["backoff"]) not in (Constant, Linear, Exponential):
        raise ConfigurationError(
            f"{subject}: backoff is {options['backoff']!r}, which cannot be stored with a job; give a call "
            "Constant(…), Linear(…) or Exponential(…), and the task or the registry a function"
        )
    for name in ("retry_on", "discard_on"):
        for one in options.get(name, ()):
            if one.__module__ == "__main__":
                raise ConfigurationError(
                    f"{subject}: {name} holds {one.__name__}, which the worker knows by another name, as it is part of "
                    "the program; move it to a module"
                )


def _check_errors(value: Any, subject: str) -> tuple[type[Exception], ...]:
    kinds = value if isinstance(value, tuple) else (value,)
    for kind in kinds:
        if not isinstance(kind, type) or not issubclass(kind, Exception):
            raise ConfigurationError(
                f"{subject} holds {kind!r}; give a class of exceptions, or a tuple of such classes"
            )
    return kinds


def _check_executor(value: Any, subject: str) -> str:
    if value not in ("thread", "process"):
        raise ConfigurationError(f"{subject} is {value!r}; give 'thread' or 'process'")
    return cast("str", value)


def _check_dependencies(value: Any, subject: str) -> dict[str, Provide]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{subject} is {value!r}; give a mapping of names to providers")
    providers: Mapping[Any, Any] = value
    for name, provide in providers.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ConfigurationError(f"{subject} names {name!r}, which cannot be a parameter; use a name like 'client'")
        if not callable(provide):
            raise ConfigurationError(
                f"{subject}: {name!r} is {provide!r}; give a function that returns it, or Provide(…) around one"
            )
    return {name: one if isinstance(one, Provide) else Provide(one, **_in_loop(one)) for name, one in providers.items()}


def _in_loop(provide: Callable[..., Any]) -> dict[str, bool]:
    """A plain function is called as it is: whoever wants a thread for it says so, as Litestar asks."""
    return {} if inspect.iscoroutinefunction(provide) or _is_generator(provide) else {"sync_to_thread": False}


def _is_generator(provide: Callable[..., Any]) -> bool:
    return inspect.isgeneratorfunction(provide) or inspect.isasyncgenfunction(provide)


def _check_callables(what: str, *, is_async: bool) -> Callable[[Any, str], tuple[Any, ...]]:
    def check(value: Any, subject: str) -> tuple[Any, ...]:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ConfigurationError(f"{subject} is {value!r}; give a list of {what}")
        members: Sequence[Any] = value
        for one in members:
            if not callable(one) or (inspect.isfunction(one) and inspect.iscoroutinefunction(one) is not is_async):
                raise ConfigurationError(f"{subject} holds {one!r}; {what} are wanted")
        return tuple(members)

    return check


check_middleware: Final = _check_callables("functions async def (job, call_next)", is_async=True)
check_on_enqueue: Final = _check_callables("plain functions def (spec)", is_async=False)


def _check_follow_ups(value: Any, subject: str) -> tuple[BoundCall, ...]:
    calls: tuple[Any, ...] = tuple(value) if isinstance(value, Sequence) else (value,)
    for call in calls:
        if isinstance(call, str) or not isinstance(call, BoundCall):
            raise ConfigurationError(
                f"{subject} is {value!r}; give a bound call, other_task.bind(…), or a list of them"
            )
    if len(calls) > MOST:
        raise ConfigurationError(
            f"{subject} holds {len(calls)} calls; up to {MOST} can follow one job. Let one of them enqueue the others"
        )
    return calls


def _check_int(low: int, high: int) -> Callable[[Any, str], int]:
    def check(value: Any, subject: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ConfigurationError(f"{subject} is {value!r}; give a whole number from {low} to {high}")
        return value

    return check


_DURATION: Final = (int, float, timedelta)
_CHECKS: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "name": _check_name,
    "queue": _check_name,
    "key": _check_name,
    "session": _check_session,
    "timeout": _check_timeout,
    "ttl": _check_limit,
    "max_attempts": _check_int(1, 1_000_000),
    "priority": _check_int(-100, 100),
    "at_most_once": _check_bool,
    "max_losses": _check_int(1, 1_000),
    "expires": _check_timeout,
    "failed_ttl": _check_duration,
    "backoff": _check_backoff,
    "retry_on": _check_errors,
    "discard_on": _check_errors,
    "payload_limit": _check_int(1, 512 * 2**20),
    "result_limit": _check_int(1, 512 * 2**20),
    "executor": _check_executor,
    "dependencies": _check_dependencies,
    "middleware": check_middleware,
    "on_enqueue": check_on_enqueue,
    "tag": _check_tag,
    "unique": _check_alike(Unique, plain=bool, remedy="give True, False or Unique(…)"),
    "exclusive": _check_alike(Exclusive, plain=bool, remedy="give True, False or Exclusive(…)"),
    "debounce": _check_alike(Debounce, plain=_DURATION, remedy="give seconds, a timedelta or Debounce(…)"),
    "throttle": _check_alike(Throttle, plain=_DURATION, remedy="give seconds, a timedelta or Throttle(…)"),
    "delay": _check_duration,
    "run_at": _check_run_at,
    "on_success": _check_follow_ups,
    "on_failure": _check_follow_ups,
}
