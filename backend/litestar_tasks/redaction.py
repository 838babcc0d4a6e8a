"""Texts without secrets: what a task raised is kept and logged, and may quote what nobody should read."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Collection, Iterator
from contextvars import ContextVar
from functools import lru_cache
from typing import Final

__all__ = (
    "HIDDEN",
    "MASK",
    "is_secret_name",
    "masked_end",
    "masked_start",
    "masked_text",
    "spellings",
    "without_known",
)

MASK: Final = "***"

HIDDEN: Final[ContextVar[Collection[str]]] = ContextVar("hidden", default=())
"""Texts that are masked wherever they stand, the longest first: the secrets of the attempt that runs here."""

# Texts are searched this much further than they are kept: a secret that begins before the cut is found whole.
_MARGIN: Final = 1_024

# How a value is written behind its name: in escaped quotes, in quotes, or bare.
_QUOTED: Final = r"""\\"(?:(?!\\")[^\n])*(?:\\")?|"(?:[^"\\\n]|\\.)*"?|'(?:[^'\\\n]|\\.)*'?"""
_ASSIGNED: Final = r"""[\w-]{0,40}\\?["']?\s{0,4}[:=]\s{0,4}"""
# Every repetition that could begin anew at each character is bounded: the text is a stranger's, the event loop is ours.
# Before each pattern stands what every match of it holds, which is found much faster. Most texts have none of that.
_IN_TEXT: Final[tuple[tuple[re.Pattern[str], re.Pattern[str], str], ...]] = (
    # scheme://user:password@host. A password with an unescaped "/" or "@" ends at the last "@".
    (
        re.compile("://"),
        re.compile(r"""(?i)([a-z][a-z0-9+.-]{0,30}://)([^\s/:@'"<>]{0,200}):[^\s'"<>]{0,500}@"""),
        rf"\1\2:{MASK}@",
    ),
    # scheme://token@host
    (re.compile("://"), re.compile(r"""(?i)([a-z][a-z0-9+.-]{0,30}://)[^\s/:@'"<>]{1,500}@"""), rf"\1{MASK}@"),
    (
        re.compile("-----BEGIN"),
        re.compile(r"(?s)-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)"),
        MASK,
    ),
    (
        re.compile(r"(?i:bearer|basic)\s"),
        re.compile(r"(?i:\b(bearer|basic))\s{1,4}(?=\S{0,200}[A-Z0-9=])[\w.~+/=-]{8,}"),
        rf"\1 {MASK}",
    ),
    # JSON Web Tokens, and keys whose issuers gave them a prefix by which they can be found.
    (re.compile("eyJ"), re.compile(r"\beyJ[\w-]{8,300}\.[\w-]+(?:\.[\w-]*)?"), MASK),
    (
        re.compile(r"[rsp]k_|sk-|gh[opsur]_|github_pat_|glpat-|xox|AKIA|AIza"),
        re.compile(r"\b(?:[rsp]k_(?:live|test)_|sk-|gh[opsur]_|github_pat_|glpat-|xox[abprs]-|AKIA|AIza)[\w-]{6,}"),
        MASK,
    ),
    # Authorization: Token …, whose value is more than one word
    (
        re.compile("[:=]"),
        re.compile(rf"""(?i)((?:authorization|cookie){_ASSIGNED})(?:{_QUOTED}|[^\n"']+)"""),
        rf"\1{MASK}",
    ),
    # password=…, "api_key": "…"
    (
        re.compile("[:=]"),
        re.compile(
            r"(?i)((?:access[_-]?key|api[_-]?key|credential|cvc|cvv|passphrase|passwd|password|private[_-]?key|pwd|secret"
            rf"""|token){_ASSIGNED})(?:{_QUOTED}|[^\s,;&)\]}}"'\\]+)"""
        ),
        rf"\1{MASK}",
    ),
)

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


def masked_text(text: str) -> str:
    """A text without secrets: those that are known here, and what looks like one."""
    text = without_known(text)
    for held, pattern, replacement in _IN_TEXT:
        if held.search(text):
            text = pattern.sub(replacement, text)
    return text


def masked_start(text: str, limit: int) -> str:
    """The start of a text: masked, of about ``limit`` characters at the most."""
    return masked_text(without_known(text)[:limit])


def masked_end(text: str, limit: int) -> str:
    """The end of a text, where a traceback says what happened: masked, of at most about ``limit`` characters."""
    text = without_known(text)  # before it is cut, as a known secret can have any length
    if len(text) <= limit:
        return masked_text(text)
    # Begins at the start of a line, so that no secret's name is cut off and its value left behind.
    rest = text[-(limit + _MARGIN) :]
    rest = rest.partition("\n")[2] or rest.partition(" ")[2]
    return "…\n" + masked_text(rest)[-limit:]


@lru_cache(maxsize=1_000)
def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds what nobody should read: ``password``, ``apiKey``, ``CARD_NUMBER``."""
    if any(_WORDS.fullmatch(word.lower()) for word in _EACH_WORD.findall(name)):
        return True
    return _PARTS.search(re.sub(r"[^a-z]", "", name.lower())) is not None


def without_known(text: str) -> str:
    """A text without the secrets of the attempt that runs here."""
    for known in HIDDEN.get():
        text = text.replace(known, MASK)
    return text


def spellings(texts: Collection[str]) -> tuple[str, ...]:
    """Secrets as they may be spelled in errors, for ``HIDDEN``: as they are, in a repr, in JSON, out of base64."""
    found = {spelling for text in texts for spelling in (*_spellings(text), *_spellings(text.strip()))}
    return tuple(sorted(found - {""}, key=len, reverse=True))


def _spellings(text: str) -> Iterator[str]:
    yield text
    yield repr(text)[1:-1]
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    try:
        # Bytes are stored as base64, and shown by repr.
        if decoded := b64decode(text, validate=True):
            yield repr(decoded)[2:-1]
    except ValueError:
        pass
