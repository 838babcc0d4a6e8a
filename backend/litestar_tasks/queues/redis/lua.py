"""The Lua scripts: loaded from their files, run by their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any, Final

from redis.exceptions import NoScriptError, ResponseError

from litestar_tasks.queues.redis.connection import ANSWER_TIMEOUT, Link
from litestar_tasks.queues.redis.layout import Layout

__all__ = ("LIMIT", "Script", "is_rejection")

LIMIT: Final = 200
"""How many jobs one call of a script handles at the most, so that the server answers everybody else in between."""

_FILES: Final = resources.files("litestar_tasks.queues.redis").joinpath("scripts")
_COMMON: Final = _FILES.joinpath("common.lua").read_text("utf-8")


class Script:
    """One of the scripts in ``scripts/``.

    Args:
        name: Its file's name without the ending.
        calling: Another script, which it calls as a function of that name with a table of arguments. Defaults to none.
    """

    __slots__ = ("digest", "name", "source")

    def __init__(self, name: str, *, calling: str | None = None) -> None:
        self.name = name
        called = f"local function {calling}(ARGV)\n{_text_of(calling)}\nend\n" if calling is not None else ""
        self.source = f"{_COMMON}\n{called}{_text_of(name)}"
        self.digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def __repr__(self) -> str:
        return f"<Script {self.name}>"

    async def run(
        self, link: Link, layout: Layout, args: Sequence[bytes | str | float] = (), timeout: float = ANSWER_TIMEOUT
    ) -> Any:
        """Run it on a queue, once. A server that does not know it yet, being new, or restarted, is given its source.

        Raises:
            RedisError: As ``Link.call``.
        """
        try:
            return await link.call(("EVALSHA", self.digest, 1, layout.incomplete, layout.prefix, *args), timeout)
        except NoScriptError:
            return await link.call(("EVAL", self.source, 1, layout.incomplete, layout.prefix, *args), timeout)


def _text_of(name: str) -> str:
    return _FILES.joinpath(f"{name}.lua").read_text("utf-8")


def is_rejection(error: BaseException) -> bool:
    """Whether a script refused its arguments, having written nothing."""
    return isinstance(error, ResponseError) and "litestar-tasks:" in str(error)
