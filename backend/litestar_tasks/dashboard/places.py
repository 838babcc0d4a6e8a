"""Addresses: which part of the dashboard a request means, and how its page links to the others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from litestar.types import Scope

__all__ = ("Place", "locate")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request points."""

    rest: str
    """The path below the dashboard's own, percent-encoded as it was sent: "", "/", "/queues/default/jobs/a%2Fb"."""
    home: str
    """The dashboard's own path as a URL from there: a relative one, which holds under any prefix, also under one that a
    proxy strips without telling the app."""

    def link(self, *parts: str) -> str:
        """A URL below the dashboard: ``link("queues", "default", "jobs", "a/b")`` ends in ``/jobs/a%2Fb``."""
        return "/".join([self.home, *map(_segment, parts)])


@lru_cache(maxsize=2_000)
def _segment(part: str) -> str:
    """A part of a path; a page has the same names in many links."""
    return quote(part, safe="")


def locate(scope: Scope, path: str) -> Place:
    """Where a request points, in the dashboard at ``path``.

    The server's decoded path can't be used: in it a slash within a job's key and one between two parts look the same.
    """
    own, root = quote(path), quote(scope.get("root_path", ""))
    raw = (scope.get("raw_path") or b"").decode("latin-1").partition("?")[0]
    for candidate in (raw.removeprefix(root), raw):  # servers disagree on whether it holds the root path
        rest = candidate.removeprefix(own)
        if rest != candidate and (not rest or rest[0] == "/"):
            depth = rest.count("/")
            home = "/".join([".."] * (depth - 1)) or "." if depth else "./" + own.rpartition("/")[2]
            return Place(rest, home)
    # The server sends no raw path, or something rewrote it. What the browser's address is can only be guessed.
    return Place(quote(scope["path"].removeprefix(path)), root + own)
