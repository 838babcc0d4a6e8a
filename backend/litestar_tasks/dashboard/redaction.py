"""Values as text: without secrets, and cut to a length. Nothing leaves a queue for a browser but through here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

__all__ = ("MASK", "masked_text", "printable", "shown", "shown_end")

MASK: Final = "***"

_DEEPEST: Final = 32
_LONGEST_NAME: Final = 200
# Texts are searched this much further than they are shown: a secret that begins before the cut is found whole.
_MARGIN: Final = 1_024

# Names that say it by one of their words, and names that hold it without a word's limits (`accesstoken`).
_WORDS: Final = re.compile(
    "auth|bearer|cards?|cookies?|credentials?|cvc|cvv|dsn|iban|jwt|otp|pan|passphrase|passwd|password|pin|pwd|secrets?|"
    "signature|ssn|tokens?"
)
_PARTS: Final = re.compile(
    "accesskey|apikey|authorization|cardnumber|credential|creditcard|passphrase|passwd|password|privatekey|secret|"
    "sessionid|token"
)
_EACH_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

# How a value is written behind its name: in escaped quotes, in quotes, or bare.
_QUOTED: Final = r"""\\"(?:(?!\\")[^\n])*(?:\\")?|"(?:[^"\\\n]|\\.)*"?|'(?:[^'\\\n]|\\.)*'?"""
_ASSIGNED: Final = r"""[\w-]{0,40}\\?["']?\s{0,4}[:=]\s{0,4}"""
# Every repetition that could begin anew at each character is bounded: the text is a stranger's, the event loop is ours.
_IN_TEXT: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    # scheme://user:password@host. A password with an unescaped "/" or "@" ends at the last "@".
    (re.compile(r"""(?i)([a-z][a-z0-9+.-]{0,30}://)([^\s/:@'"<>]{0,200}):[^\s'"<>]{0,500}@"""), rf"\1\2:{MASK}@"),
    # scheme://token@host
    (re.compile(r"""(?i)([a-z][a-z0-9+.-]{0,30}://)[^\s/:@'"<>]{1,500}@"""), rf"\1{MASK}@"),
    (re.compile(r"(?s)-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)"), MASK),
    (re.compile(r"(?i:\b(bearer|basic))\s{1,4}(?=\S{0,200}[A-Z0-9=])[\w.~+/=-]{8,}"), rf"\1 {MASK}"),
    # JSON Web Tokens, and keys whose issuers gave them a prefix by which they can be found.
    (re.compile(r"\beyJ[\w-]{8,300}\.[\w-]+(?:\.[\w-]*)?"), MASK),
    (re.compile(r"\b(?:[rsp]k_(?:live|test)_|sk-|gh[opsur]_|github_pat_|glpat-|xox[abprs]-|AKIA|AIza)[\w-]{6,}"), MASK),
    # Authorization: Token …, whose value is more than one word
    (re.compile(rf"""(?i)((?:authorization|cookie){_ASSIGNED})(?:{_QUOTED}|[^\n"']+)"""), rf"\1{MASK}"),
    # password=…, "api_key": "…"
    (
        re.compile(
            r"(?i)((?:access[_-]?key|api[_-]?key|credential|cvc|cvv|passphrase|passwd|password|private[_-]?key|pwd|secret"
            rf"""|token){_ASSIGNED})(?:{_QUOTED}|[^\s,;&)\]}}"'\\]+)"""
        ),
        rf"\1{MASK}",
    ),
)


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
    if len(text) <= limit:
        return printable(masked_text(text))
    # Begins at the start of a line, so that no secret's name is cut off and its value left behind.
    rest = text[-(limit + _MARGIN) :]
    rest = rest.partition("\n")[2] or rest.partition(" ")[2]
    return printable("…\n" + masked_text(rest)[-limit:])


def masked_text(text: str) -> str:
    """A text without what looks like a secret."""
    for pattern, replacement in _IN_TEXT:
        text = pattern.sub(replacement, text)
    return text


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
            found[masked_text(name)] = MASK if _is_secret(name) else self.mask(item, depth + 1)
        return found

    def _items(self, value: Iterable[Any], depth: int) -> list[Any]:
        found: list[Any] = []
        for item in value:
            found.append(self.mask(item, depth + 1))
            if self._left <= 0:
                found.append("…")
                break
        return found


def _is_secret(name: str) -> bool:
    """Whether a field of this name holds what nobody should read: ``password``, ``apiKey``, ``CARD_NUMBER``."""
    if any(_WORDS.fullmatch(word.lower()) for word in _EACH_WORD.findall(name)):
        return True
    return _PARTS.search(re.sub(r"[^a-z]", "", name.lower())) is not None
