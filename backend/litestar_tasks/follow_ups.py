"""Calls that are enqueued when another job has ended: how they are given, and how they travel with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, runtime_checkable

__all__ = ("ERROR", "FOLLOW_UPS", "MOST", "PARENT", "RESULT", "BoundCall", "Placeholder", "stored_follow_ups")

FOLLOW_UPS: Final = "follow_ups"
"""Where a job's ``meta`` keeps what follows it: lists of stored calls, by "success" and "failure"."""
PARENT: Final = "parent"
"""Where a follow-up's ``meta`` keeps the id of the job that it follows."""
MOST: Final = 50
"""Follow-ups of one end of a job."""


class Placeholder:
    """Stands for what is known only when the parent has ended. There are two, ``RESULT`` and ``ERROR``."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name.upper()


RESULT: Final[Any] = Placeholder("result")
"""As an argument of a bound follow-up: what the job before it has returned."""
ERROR: Final[Any] = Placeholder("error")
"""As an argument of a bound follow-up: why the job before it did not succeed, a text: the traceback or a sentence."""


@runtime_checkable
class BoundCall(Protocol):
    """What ``bind`` makes."""

    def follow_up(self) -> dict[str, Any]:
        """The call as it is stored with its parent, in JSON's own types."""
        ...


def stored_follow_ups(success: Sequence[BoundCall], failure: Sequence[BoundCall]) -> Mapping[str, Any]:
    """The entry of a job's ``meta``; empty where nothing follows it."""
    stored = {"success": [one.follow_up() for one in success], "failure": [one.follow_up() for one in failure]}
    return {FOLLOW_UPS: {end: calls for end, calls in stored.items() if calls}} if success or failure else {}
