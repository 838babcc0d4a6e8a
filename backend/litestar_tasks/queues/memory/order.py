"""Keys in an order, in which a place can be found."""

from __future__ import annotations

import itertools
from bisect import bisect_left, insort
from collections.abc import Iterator
from math import inf
from typing import Final, TypeAlias

__all__ = ("Order", "Rank", "latest")

Rank: TypeAlias = tuple[float, int]
"""By what a key is ordered, and which of those that are equal in it came first. No two keys have the same."""

_TAIL: Final = itertools.count(1)
_HEAD: Final = itertools.count(-1, -1)


def latest() -> int:
    """A number above those of all keys that have been entered at the end of an order, and below those to come."""
    return next(_TAIL)


class Order:
    """Keys, each at its rank."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, str]] = []
        self._ranks: dict[str, Rank] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._ranks

    def put(self, key: str, by: float, *, first: bool = False) -> None:
        """Enter a key, behind those that are equal, or with ``first`` before them."""
        self.drop(key)
        rank = self._ranks[key] = by, next(_HEAD if first else _TAIL)
        insort(self._entries, (*rank, key))

    def drop(self, key: str) -> bool:
        """Take a key out; False where it is not there."""
        rank = self._ranks.pop(key, None)
        if rank is None:
            return False
        del self._entries[bisect_left(self._entries, (*rank, key))]
        return True

    def by(self, key: str) -> float | None:
        """By what a key is ordered; None where it is not there."""
        rank = self._ranks.get(key)
        return rank[0] if rank else None

    def first(self) -> float | None:
        """By what the first one is ordered; None where there is none."""
        return self._entries[0][0] if self._entries else None

    def take(self, limit: int) -> list[str]:
        """Take the first keys out."""
        taken = [key for *_, key in self._entries[:limit]]
        del self._entries[:limit]
        for key in taken:
            del self._ranks[key]
        return taken

    def keys(self) -> Iterator[str]:
        """All keys in order; the order must not be changed meanwhile."""
        return (key for *_, key in self._entries)

    def take_until(self, by: float) -> list[str]:
        """Take out those that are ordered by this much or less."""
        return self.take(bisect_left(self._entries, (by, inf, "")))

    def walk(
        self, *, low: float = -inf, high: float = inf, down: bool, after: Rank | None
    ) -> Iterator[tuple[Rank, str]]:
        """The keys in order, from a place on.

        Args:
            low: The least by which they are ordered. Defaults to any.
            high: They are ordered by less than this. Defaults to any.
            down: Backwards.
            after: The rank behind which it begins. Defaults to None: at the beginning.
        """
        entries = self._entries
        start, stop = bisect_left(entries, (low, -inf, "")), bisect_left(entries, (high, -inf, ""))
        if after is not None and down:
            stop = min(stop, bisect_left(entries, (*after, "")))
        elif after is not None:
            start = max(start, bisect_left(entries, (after[0], after[1] + 1, "")))
        for index in range(stop - 1, start - 1, -1) if down else range(start, stop):
            by, number, key = entries[index]
            yield (by, number), key
