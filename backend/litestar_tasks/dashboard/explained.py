"""Errors whose page says more than their status does."""

from __future__ import annotations

from litestar.exceptions import HTTPException

__all__ = ("Explained",)


class Explained(HTTPException):
    """An error with a heading, a hint and perhaps a link of its own.

    Args:
        detail: What is wrong, for people and scripts.
        status_code: The status.
        title: The page's heading.
        hint: What to do. Defaults to nothing.
        link: What the page leads to, in words and as an address. Defaults to None: to the overview alone.
    """

    def __init__(
        self, detail: str, *, status_code: int, title: str, hint: str = "", link: tuple[str, str] | None = None
    ) -> None:
        super().__init__(detail, status_code=status_code)
        self.title = title
        self.hint = hint
        self.link = link
