"""Under which number a worker claims, and the fencing tokens that follow from it."""

from __future__ import annotations

import random
from typing import Final

__all__ = ("TOKENS", "Incarnation")

TOKENS: Final = 1 << 27
"""Tokens of one incarnation. With fewer than 2**26 incarnations a token stays below 2**53, where doubles end."""


class Incarnation:
    """One lease of one worker process, and the tokens it may use.

    The worker, not the server, chooses the token of a claim: so it knows what it may hold when an answer was lost.
    The first token is random within the lower half. A server that forgot the last writes might give the same number
    twice; then tokens of the two will not be the same all the same.

    Args:
        number: The number, from the server.
        uuid: Tells this holder from another of the same number.
    """

    __slots__ = ("_next", "number", "uuid")

    def __init__(self, number: int, uuid: str) -> None:
        self.number = number
        self.uuid = uuid
        self._next = number * TOKENS + random.randrange(TOKENS // 2)  # noqa: S311  # no secret

    def __repr__(self) -> str:
        return f"<Incarnation {self.holder}>"

    @property
    def holder(self) -> str:
        """Its name among the leases."""
        return f"{self.number}:{self.uuid}"

    @property
    def left(self) -> int:
        """How many tokens are left."""
        return (self.number + 1) * TOKENS - self._next

    def take(self, count: int) -> int:
        """Set tokens aside, and return the first of them."""
        first = self._next
        self._next += count
        return first

    def owns(self, token: int) -> bool:
        """Whether a token is one of this incarnation's."""
        return token // TOKENS == self.number
