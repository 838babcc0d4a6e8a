"""Turning the pages of a list, back as well: an address carries the cursors of the pages that led to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlencode

if TYPE_CHECKING:
    from litestar.datastructures import MultiDict

__all__ = ("Turns", "read_turns")

_FIRST: Final = "first"
"""What stands for the first page, which has no cursor."""
_LONGEST: Final = 3_000
"""Characters that the cursors behind may take of an address; beyond them the earliest pages are forgotten."""


class Search(Protocol):
    """What a list shows."""

    def params(self, **changes: str) -> dict[str, str]:
        """It as the parameters of an address, with changes."""
        ...


@dataclass(frozen=True, slots=True)
class Turns:
    """Which page of a list it is, and how one came to it."""

    cursor: str = ""
    """Where it begins; "" for the first one."""
    behind: tuple[str, ...] = ()
    """Where the pages before it begin, as far as they are remembered."""

    def previous(self, search: Search) -> str:
        """The parameters of the page before; "" where it is not known."""
        if not self.behind:
            return ""
        *earlier, cursor = self.behind
        return _written(search, "" if cursor == _FIRST else cursor, earlier)

    def following(self, search: Search, cursor: str) -> str:
        """The parameters of the page that begins at a cursor, behind this one; "" where there is none."""
        if not cursor:
            return ""
        behind = [*self.behind, self.cursor or _FIRST]
        while sum(map(len, behind)) > _LONGEST:
            del behind[0]
        return _written(search, cursor, behind)


def read_turns(values: MultiDict[str]) -> Turns:
    """What an address says of the page that it is about."""
    cursor = values.get("cursor", "").strip()
    return Turns(cursor, tuple(values.getall("behind", [])) if cursor else ())


def _written(search: Search, cursor: str, behind: list[str]) -> str:
    return urlencode([*search.params(cursor=cursor).items(), *(("behind", one) for one in behind)])
