"""What becomes of an attempt that did not succeed: how long the next one waits, and what a task can say about it."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, TypeAlias

from litestar_tasks.durations import seconds
from litestar_tasks.exceptions import ConfigurationError

__all__ = (
    "DEFAULT_BACKOFF",
    "Backoff",
    "Constant",
    "Discard",
    "Exponential",
    "Linear",
    "Retry",
    "Snooze",
    "holds",
    "pause_after",
    "restored_backoff",
    "stored_policies",
)

_LONGEST: Final = 366 * 86_400.0
"""Seconds that a job can be put off at the most: whatever is longer is a slip of a formula."""


def _check(subject: str, **pauses: object) -> None:
    for name, value in pauses.items():
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float | timedelta)
            or not 0 <= seconds(value) <= _LONGEST
        ):
            raise ConfigurationError(
                f"{subject}: {name} is {value!r}; give seconds or a timedelta, not negative and up to a year"
            )


@dataclass(frozen=True, slots=True)
class Constant:
    """The same pause after every attempt.

    Args:
        delay: Seconds, or a timedelta.

    Raises:
        ConfigurationError: It is negative, or longer than a year.
    """

    delay: float | timedelta

    def __post_init__(self) -> None:
        """Check the pause."""
        _check("Constant", delay=self.delay)

    def __call__(self, attempt: int, /) -> float:
        """Seconds after this attempt, which is counted from 1."""
        return seconds(self.delay)


@dataclass(frozen=True, slots=True)
class Linear:
    """A pause that grows by the same amount with every attempt: one step, two, three.

    Args:
        step: Seconds, or a timedelta.
        cap: The longest pause, in seconds or as a timedelta. Defaults to 300 seconds.

    Raises:
        ConfigurationError: One is negative, or longer than a year.
    """

    step: float | timedelta
    cap: float | timedelta = 300.0

    def __post_init__(self) -> None:
        """Check the pauses."""
        _check("Linear", step=self.step, cap=self.cap)

    def __call__(self, attempt: int, /) -> float:
        """Seconds after this attempt, which is counted from 1."""
        return min(seconds(self.cap), seconds(self.step) * attempt)


@dataclass(frozen=True, slots=True)
class Exponential:
    """A pause whose limit doubles with every attempt: the base, two, four, eight times it.

    With jitter the pause is a random part of the limit, which keeps jobs that failed together from coming back
    together ("full jitter" in Marc Brooker's "Exponential Backoff and Jitter").

    Args:
        base: The limit after the first attempt, in seconds or as a timedelta. Defaults to 1 second.
        cap: The highest limit, in seconds or as a timedelta. Defaults to 300 seconds.
        jitter: Whether the pause is a random part of the limit, and not the limit itself. Defaults to True.

    Raises:
        ConfigurationError: One is negative, or longer than a year.
    """

    base: float | timedelta = 1.0
    cap: float | timedelta = 300.0
    jitter: bool = True

    def __post_init__(self) -> None:
        """Check the pauses."""
        _check("Exponential", base=self.base, cap=self.cap)

    def __call__(self, attempt: int, /) -> float:
        """Seconds after this attempt, which is counted from 1."""
        limit = min(seconds(self.cap), seconds(self.base) * 2.0 ** min(attempt - 1, 60))
        return random.uniform(0, limit) if self.jitter else limit  # noqa: S311  # spreads load, keeps no secret


Backoff: TypeAlias = Callable[[int], float | timedelta]
"""Given the number of the attempt that failed, from 1: how long the next one waits, in seconds or as a timedelta.

``Constant``, ``Linear`` and ``Exponential`` make such functions; so is ``lambda attempt: attempt**2`` one."""

DEFAULT_BACKOFF: Final[Backoff] = Exponential()


def pause_after(attempt: int, backoff: Backoff) -> float:
    """Seconds until the next attempt.

    Args:
        attempt: The attempt that failed, from 1.
        backoff: The policy. What it raises comes through.

    Raises:
        ConfigurationError: The policy returned no duration, a negative one, or one longer than a year.
    """
    pause = backoff(attempt)
    _check(f"what backoff returned for attempt {attempt}", pause=pause)
    return seconds(pause)


_POLICIES: Final[Mapping[str, Callable[..., Backoff]]] = {
    "constant": Constant,
    "linear": Linear,
    "exponential": Exponential,
}


def stored_policies(options: Mapping[str, Any]) -> dict[str, Any]:
    """What a job's ``meta`` keeps of the policies of its call: of a backoff its numbers, of exceptions their names.

    Args:
        options: Checked options of the call, of which others than ``backoff``, ``retry_on`` and ``discard_on`` are left
            out.
    """
    stored: dict[str, Any] = {name: [*map(_name, options[name])] for name in _EXCEPTIONS if name in options}
    if (policy := options.get("backoff")) is not None:
        values = [getattr(policy, field.name) for field in fields(policy)]
        numbers = [value if isinstance(value, bool) else seconds(value) for value in values]
        stored["backoff"] = [type(policy).__name__.lower(), *numbers]
    return stored


_EXCEPTIONS: Final = ("retry_on", "discard_on")


def restored_backoff(stored: Any) -> Backoff:
    """A policy out of what ``stored_policies`` has made of it.

    Raises:
        ValueError, TypeError, LookupError, ConfigurationError: It is none.
    """
    kind, *numbers = stored
    return _POLICIES[kind](*numbers)


def holds(names: Collection[Any], error: BaseException) -> bool:
    """Whether an exception is of one of these classes, which are known by their names alone.

    Nothing is imported for it: the names are compared with those of the classes that the exception has.
    """
    return any(_name(kind) in names for kind in type(error).__mro__)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


class _Again(Exception):  # signals, not errors: see the classes below
    """A task wants to be run again later. Of ``delay`` and ``run_at`` one at the most is given."""

    def __init__(
        self, reason: str = "", *, delay: float | timedelta | None = None, run_at: datetime | None = None
    ) -> None:
        super().__init__(str(reason))
        name = type(self).__name__
        if delay is not None and run_at is not None:
            raise ConfigurationError(f"{name}: both delay and run_at were given; give one")
        if delay is not None:
            _check(name, delay=delay)
        if run_at is not None:
            _check_moment(name, run_at)
        self.reason = str(reason)
        self._delay = delay
        self._run_at = run_at

    @property
    def pause(self) -> float | None:
        """Seconds from now on; None where the task leaves it open."""
        if self._run_at is not None:
            return max(0.0, (self._run_at - datetime.now(UTC)).total_seconds())
        return None if self._delay is None else seconds(self._delay)

    def __reduce__(self) -> tuple[Any, ...]:
        """Whole, on the way out of another process: an exception's own way forgets keyword arguments."""
        return partial(type(self), delay=self._delay, run_at=self._run_at), (self.reason,)


class Retry(_Again):
    """Raised in a task: this attempt failed, try again.

    It counts as an attempt, so where none is left the job fails with the reason. Without a moment the task's
    ``backoff`` says when. ``retry_on`` and ``discard_on`` do not apply to it.

    Args:
        reason: For the log and the job's history. Defaults to "".
        delay: Seconds or a timedelta until the next attempt. Defaults to None: as the task's backoff says.
        run_at: The moment of the next attempt, an aware datetime. Defaults to None.

    Raises:
        ConfigurationError: Both were given, the delay is negative, or the moment has no time zone.
    """


class Snooze(_Again):
    """Raised in a task: not now; run it later, as if this attempt had not been.

    It costs no attempt, so a task that always snoozes goes on for ever.

    Args:
        reason: For the log and the job's history. Defaults to "".
        delay: Seconds or a timedelta until the next attempt.
        run_at: The moment of the next attempt, an aware datetime.

    Raises:
        ConfigurationError: Neither was given or both were, the delay is negative, or the moment has no time zone.
    """

    def __init__(
        self, reason: str = "", *, delay: float | timedelta | None = None, run_at: datetime | None = None
    ) -> None:
        super().__init__(reason, delay=delay, run_at=run_at)
        if delay is None and run_at is None:
            raise ConfigurationError("Snooze: give delay or run_at; a job that is put off has to know until when")


class Discard(Exception):
    """Raised in a task: this job has become pointless. It ends as aborted, at once, whatever attempts are left.

    Args:
        reason: For the log and for who waits for the job. Defaults to "".
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(str(reason))
        self.reason = str(reason)


def _check_moment(subject: str, run_at: object) -> None:
    if not isinstance(run_at, datetime):
        raise ConfigurationError(f"{subject}: run_at is {run_at!r}; give an aware datetime")
    if run_at.tzinfo is None:
        raise ConfigurationError(
            f"{subject}: run_at is {run_at!r}, which has no time zone; write datetime.now(UTC) + …, or give it a tzinfo"
        )
    if (run_at - datetime.now(UTC)).total_seconds() > _LONGEST:
        raise ConfigurationError(f"{subject}: run_at is {run_at}; give a moment within a year")
