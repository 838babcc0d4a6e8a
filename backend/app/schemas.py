"""Types that the schemas of all domains share."""

from __future__ import annotations

from typing import Annotated

from litestar.params import PathParameter
from msgspec import Meta

__all__ = ("Email", "Id", "Line", "PathId", "Text")

Id = Annotated[int, Meta(ge=1, le=2**63 - 1)]
PathId = Annotated[int, PathParameter(ge=1, le=2**63 - 1)]
# One line of text: no control characters, no separators of lines.
Line = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$(?!\n)")]
# Anything but NUL, which PostgreSQL does not store.
Text = Annotated[str, Meta(min_length=1, max_length=10_000, pattern=r"^[^\x00]*$")]
# What browsers accept in <input type="email">.
Email = Annotated[
    str,
    Meta(
        max_length=254,
        pattern=r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*$(?!\n)",
        examples=["ada@example.com"],
    ),
]
