"""Values as text: without secrets, and cut to a length. Nothing leaves a queue for a browser but through here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from litestar_tasks.redaction import MASK, is_secret_name, masked_end, masked_text

__all__ = ("printable", "shown", "shown_end")

_DEEPEST: Final = 32
_LONGEST_NAME: Final = 200
# Texts are searched this much further than they are shown: a secret that begins before the cut is found whole.
_MARGIN: Final = 1_024


def shown(value: Any, limit: int) -> str:
    """A value as text, JSON unless it is text already: masked, of at most about ``limit`` characters."""
    if value is None:
        return ""
    masked = _Budget(limit).mask(value, 0)
    text = masked if isinstance(masked, str) else json.dumps(masked, ensure_ascii=False)
    # What names and punctuation add to the budget; a text's own cut says how long it was.
    return printable(text if len(text) <= limit + _LONGEST_NAME else f"{text[:limit]}…")


def shown_end(text: str | None, limit: int) -> str:
    """The end of a text, where a traceback says what happened: masked, of at most about ``limit`` characters."""
    if not text:
        return ""
    return printable(masked_end(text, limit))


def printable(text: str) -> str:
    """A text that can be sent: JSON can carry halves of characters that UTF-8 has no form for."""
    return text.encode("utf-8", "replace").decode()


class _Budget:
    """Masks a value's parts until enough characters are there to be shown: payloads can be large, pages are not."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def mask(self, value: Any, depth: int) -> Any:
        if self._left <= 0 or depth > _DEEPEST:
            return "…"
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, (list, tuple, set, frozenset)):
            return self._items(cast("Iterable[Any]", value), depth)
        if value is None or isinstance(value, (bool, int, float)):
            self._left -= 8
            return value
        return self._text(value if isinstance(value, str) else repr(value))

    def _text(self, text: str) -> str:
        limit = self._left
        self._left -= len(text)
        masked = masked_text(text[: limit + _MARGIN])
        return masked if len(text) <= limit else f"{masked[:limit]}… ({len(text)} characters)"

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, item in value.items():
            if self._left <= 0:
                found["…"] = "…"
                break
            name = str(key)[:_LONGEST_NAME]
            self._left -= len(name)
            found[masked_text(name)] = MASK if is_secret_name(name) else self.mask(item, depth + 1)
        return found

    def _items(self, value: Iterable[Any], depth: int) -> list[Any]:
        found: list[Any] = []
        for item in value:
            found.append(self.mask(item, depth + 1))
            if self._left <= 0:
                found.append("…")
                break
        return found
