"""Values as text: without secrets, and cut to a length. Nothing leaves a queue for a browser but through here."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, cast

from litestar_tasks.keyring import is_sealed
from litestar_tasks.redaction import MASK, is_secret_name, masked_end, masked_text

__all__ = ("Redactor", "printable")

_DEEPEST: Final = 32
_LONGEST_NAME: Final = 200
# Texts are searched this much further than they are shown: a secret that begins before the cut is found whole.
_MARGIN: Final = 1_024


class Redactor:
    """Makes of values what may be shown.

    Args:
        patterns: Regular expressions for what is secret beside what is known for it, as ``DashboardConfig.redact``.
            Defaults to none.
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self._own = re.compile("|".join(f"(?:{one})" for one in patterns), re.IGNORECASE) if patterns else None

    @property
    def knows_more(self) -> bool:
        """Whether it hides what is hidden nowhere else."""
        return self._own is not None

    def text(self, text: str) -> str:
        """A text without what looks like a secret."""
        masked = masked_text(text)
        return printable(masked if self._own is None else self._own.sub(MASK, masked))

    def end(self, text: str | None, limit: int) -> str:
        """The end of a text, where a traceback says what happened: masked, of at most about ``limit`` characters."""
        if not text:
            return ""
        masked = masked_end(text, limit)
        return printable(masked if self._own is None else self._own.sub(MASK, masked))

    def value(self, value: Any, limit: int, *, secret: Collection[str] = ()) -> Any:
        """A value in JSON's own types: masked, of at most about ``limit`` characters.

        Args:
            value: Anything that a record holds.
            limit: Where to stop.
            secret: Names of its own fields that are hidden, whatever they are called. Defaults to none.
        """
        if secret and isinstance(value, Mapping):
            value = {name: MASK if name in secret else item for name, item in value.items()}
        return _Budget(self, limit).mask(value, 0)

    def shown(self, value: Any, limit: int, *, secret: Collection[str] = (), indent: int | None = None) -> str:
        """A value as text, JSON unless it is text already: masked, of at most about ``limit`` characters."""
        if value is None:
            return ""
        masked = self.value(value, limit, secret=secret)
        text = masked if isinstance(masked, str) else json.dumps(masked, ensure_ascii=False, indent=indent)
        # What names and punctuation add to the budget; a text's own cut says how long it was.
        return printable(text if indent or len(text) <= limit + _LONGEST_NAME else f"{text[:limit]}…")

    def is_secret(self, name: str) -> bool:
        """Whether a field of this name holds what nobody should read: ``password``, ``apiKey``, ``CARD_NUMBER``."""
        return is_secret_name(name) or (self._own is not None and self._own.search(name) is not None)


def printable(text: str) -> str:
    """A text that can be sent: JSON can carry halves of characters that UTF-8 has no form for."""
    return text.encode("utf-8", "replace").decode()


class _Budget:
    """Masks a value's parts until enough characters are there to be shown: payloads can be large, pages are not."""

    def __init__(self, redactor: Redactor, limit: int) -> None:
        self._redactor = redactor
        self._left = limit

    def mask(self, value: Any, depth: int) -> Any:
        if self._left <= 0 or depth > _DEEPEST:
            return "…"
        if isinstance(value, Mapping):
            return MASK if is_sealed(value) else self._mapping(value, depth)
        if isinstance(value, (list, tuple, set, frozenset)):
            return self._items(cast("Iterable[Any]", value), depth)
        if value is None or isinstance(value, (bool, int, float)):
            self._left -= 8
            return value
        return self._text(value if isinstance(value, str) else repr(value))

    def _text(self, text: str) -> str:
        limit = self._left
        self._left -= len(text)
        masked = self._redactor.text(text[: limit + _MARGIN])
        return masked if len(text) <= limit else f"{masked[:limit]}… ({len(text)} characters)"

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, item in value.items():
            if self._left <= 0:
                found["…"] = "…"
                break
            name = str(key)[:_LONGEST_NAME]
            self._left -= len(name)
            shown = self._redactor.text(name)
            found[shown] = MASK if self._redactor.is_secret(name) else self.mask(item, depth + 1)
        return found

    def _items(self, value: Iterable[Any], depth: int) -> list[Any]:
        found: list[Any] = []
        for item in value:
            found.append(self.mask(item, depth + 1))
            if self._left <= 0:
                found.append("…")
                break
        return found
