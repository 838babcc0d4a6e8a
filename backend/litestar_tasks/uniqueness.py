"""What keeps a task from running too often: one job instead of two, or one at a time."""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeAlias

import msgspec

from litestar_tasks.durations import seconds
from litestar_tasks.exceptions import ConfigurationError, PayloadError

__all__ = ("By", "Debounce", "Exclusive", "Lock", "Throttle", "Unique", "bonds_of", "check_by")

By: TypeAlias = str | Sequence[str] | Callable[[Mapping[str, Any]], object] | None
"""What tells one call from another: names of arguments, ``()`` for none of them (all calls of the task are alike), None
for all of them, or a plain function. It gets the arguments by name as they are stored, in JSON's own types and with
those that were left out, and returns text, a number, or a list of such."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unique:
    """Of calls that are alike, one job waits or runs; a further one gets a handle to it.

    Raises:
        ConfigurationError: A field that cannot work.
    """

    by: By = None
    """Which calls are alike. Defaults to None: those with the same arguments."""
    until: Literal["started", "finished"] = "finished"
    """When the next one is a job of its own again: once this one has started, so that what changed meanwhile is seen by
    another run, or once it has ended, in whatever way. Defaults to "finished"."""
    window: float | timedelta | None = None
    """For so long after the enqueue, in seconds or as a timedelta, a further call gets the first job's handle, even
    when that job has ended. Defaults to None: no longer than ``until``."""

    def __post_init__(self) -> None:
        """Check every field."""
        _check_by(self.by, "Unique")
        if self.until not in ("started", "finished"):
            raise ConfigurationError(f'Unique: until is {self.until!r}; give "started" or "finished"')
        if self.window is not None:
            _check_duration(self.window, "Unique: window")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusive:
    """Of jobs that are alike, one runs at a time; the others wait, in order, and leave the workers to other jobs.

    Raises:
        ConfigurationError: A field that cannot work.
    """

    by: By = ()
    """Which calls are alike. Defaults to (): all calls of the task."""

    def __post_init__(self) -> None:
        """Check every field."""
        _check_by(self.by, "Exclusive")


@dataclass(frozen=True, slots=True)
class Debounce:
    """Run once the calls have ceased: a further one replaces the arguments of the job that waits, and puts it off.

    Raises:
        ConfigurationError: A field that cannot work.
    """

    delay: float | timedelta
    """How long after the last call the job starts, in seconds or as a timedelta."""
    by: By = ()
    """Which calls are alike. Defaults to (): all calls of the task."""
    max_wait: float | timedelta | None = None
    """How long after the first call it starts at the latest. Defaults to None: it is put off as long as calls come."""

    def __post_init__(self) -> None:
        """Check every field."""
        _check_by(self.by, "Debounce")
        _check_duration(self.delay, "Debounce: delay")
        if self.max_wait is not None:
            _check_duration(self.max_wait, "Debounce: max_wait")
            if seconds(self.max_wait) < seconds(self.delay):
                raise ConfigurationError(
                    f"Debounce: max_wait is {self.max_wait!r}, less than the delay of {self.delay!r}; give more, or a "
                    "plain delay"
                )


@dataclass(frozen=True, slots=True)
class Throttle:
    """One job in each period: a further call within it gets the handle of the first one's job.

    Raises:
        ConfigurationError: A field that cannot work.
    """

    period: float | timedelta
    """How long after an enqueue the next one is a job of its own, in seconds or as a timedelta."""
    by: By = ()
    """Which calls are alike. Defaults to (): all calls of the task."""

    def __post_init__(self) -> None:
        """Check every field."""
        _check_by(self.by, "Throttle")
        _check_duration(self.period, "Throttle: period")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """What a job holds so that calls that are alike find it. Its record keeps it."""

    name: str
    """What those calls have in common; unique within the queue."""
    until: Literal["started", "finished", "enqueued"]
    """When it is given up; with "enqueued" there is but the window."""
    window: float = 0
    """Seconds after the enqueue for which the job is found, whatever has become of it; 0 for none."""
    debounce: bool = False
    """Whether a further call replaces the arguments of the job, and puts it off."""
    deadline: float = 0
    """Seconds since the epoch to which it is put off at the most; 0 for none."""


def bonds_of(
    task: str,
    levels: Mapping[str, Any],
    arguments: Callable[[Sequence[str] | None], Mapping[str, Any]],
    *,
    key: bytes = b"",
) -> tuple[Lock | None, str | None]:
    """The lock that a call takes, and the group of which its job runs alone.

    Args:
        task: The task's name.
        levels: The options that hold for the call.
        arguments: Returns all arguments, as ``Payload.complete`` does; called where they are needed, with the names of
            those that count, or None where all do.
        key: What the digest of arguments that are secret is made with. Defaults to none.

    Raises:
        ConfigurationError: ``by`` names what is no argument of the task.
        PayloadError: The function ``by`` returned what has no JSON form.
    """

    def name(kind: str, by: By) -> str:
        return _identity(kind, task, by, arguments, key)

    lock: Lock | None = None
    unique: Unique | None = levels["unique"]
    debounce: Debounce | None = levels["debounce"]
    throttle: Throttle | None = levels["throttle"]
    exclusive: Exclusive | None = levels["exclusive"]
    if unique is not None:
        window = 0 if unique.window is None else seconds(unique.window)
        lock = Lock(name=name("unique", unique.by), until=unique.until, window=window)
    elif debounce is not None:
        deadline = 0 if debounce.max_wait is None else round(time.time() + seconds(debounce.max_wait), 3)
        lock = Lock(name=name("debounce", debounce.by), until="started", debounce=True, deadline=deadline)
    elif throttle is not None:
        lock = Lock(name=name("throttle", throttle.by), until="enqueued", window=seconds(throttle.period))
    return lock, None if exclusive is None else name("exclusive", exclusive.by)


def check_by(levels: Mapping[str, Any], known: Sequence[str], subject: str) -> None:
    """Refuse options that go by what is no argument of the task.

    Args:
        levels: The options that hold.
        known: The task's arguments.
        subject: What they belong to, for errors.

    Raises:
        ConfigurationError: Names what is none, and those that are.
    """
    for kind in ("unique", "exclusive", "debounce", "throttle"):
        if (option := levels.get(kind)) is not None:
            _check_names(option.by, known, f"{subject}: {kind}")


def _identity(
    kind: str, task: str, by: By, arguments: Callable[[Sequence[str] | None], Mapping[str, Any]], key: bytes
) -> str:
    """What calls that are alike have in common: 32 digits, which tell nothing of the arguments."""
    part: object
    if by is None:
        part = arguments(None)
    elif callable(by):
        part = by(arguments(None))
    elif names := _names(by):
        known = arguments(names)
        _check_names(by, [*known], f"task {task!r}: {kind}")
        part = {name: known[name] for name in names}
    else:
        part = {}
    try:
        text = msgspec.json.encode((kind, task, part), order="sorted")
    except (TypeError, ValueError) as error:
        shown = "what is secret" if key else repr(part)
        raise PayloadError(
            task, f"{kind}: its function by returned {shown}, which has no JSON form; return text or a number"
        ) from (None if key else error)
    return hashlib.blake2b(text, digest_size=16, key=key).hexdigest()


def _names(by: By) -> tuple[str, ...]:
    if by is None or callable(by):
        return ()
    return (by,) if isinstance(by, str) else tuple(by)


def _check_names(by: By, known: Sequence[str], subject: str) -> None:
    for name in _names(by):
        if name not in known:
            raise ConfigurationError(
                f"{subject}: by names {name!r}, which is no argument of the task; it takes "
                f"{', '.join(known) or 'no arguments'}"
            )


def _check_by(value: Any, subject: str) -> None:
    if value is None or (isinstance(value, str) and value):
        return
    if callable(value) and not inspect.iscoroutinefunction(value) and not isinstance(value, type):
        return
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(name, str) for name in value):
        raise ConfigurationError(
            f"{subject}: by is {value!r}; give the name of an argument, a tuple of names, a plain function of the "
            "arguments, () for none of them, or None for all"
        )


def _check_duration(value: Any, subject: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | timedelta) or not 0 < seconds(value) < 2**31:
        raise ConfigurationError(f"{subject} is {value!r}; give seconds or a timedelta, more than 0")
