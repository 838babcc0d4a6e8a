"""A traceback as frames, with the lines around each where the source is at hand."""

from __future__ import annotations

import linecache
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ("Frame", "Traceback", "read_traceback")

_FRAME: Final = re.compile(r'  File "(?P<file>[^"\n]+)", line (?P<line>\d+), in (?P<name>[^\n]+)\n')
_AROUND: Final = 3
_MOST: Final = 100
_OF_OTHERS: Final = ("site-packages", "dist-packages", "/lib/python", "<frozen")


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a function was."""

    file: str
    line: int
    name: str
    code: str
    """The line as the traceback has it."""
    context: Sequence[tuple[int, str]]
    """Lines around it with their numbers; none where this process runs another source."""
    own: bool
    """Whether it is the app's code rather than a library's."""


@dataclass(frozen=True, slots=True)
class Traceback:
    """What a task raised."""

    text: str
    """All of it."""
    frames: Sequence[Frame]
    """Those of the error itself, the innermost last."""
    error: str
    """What was raised: the lines below the frames."""


def read_traceback(text: str, shown: Callable[[str], str]) -> Traceback:
    """Read a text that may be a traceback; what is none has no frames.

    Args:
        text: The text, as it may be shown.
        shown: Makes of a line of source what may be shown.
    """
    last = text.rpartition("Traceback (most recent call last):\n")[2]
    found = list(_FRAME.finditer(last))[:_MOST]
    frames: list[Frame] = []
    end = 0
    for index, match in enumerate(found):
        limit = found[index + 1].start() if index + 1 < len(found) else len(last)
        lines: list[str] = []
        end = match.end()
        for line in last[match.end() : limit].splitlines(keepends=True):
            if not line.startswith("    "):
                break
            lines.append(line)
            end += len(line)
        code = lines[0].strip() if lines else ""
        file, number = match["file"], int(match["line"])
        own = not any(part in file for part in _OF_OTHERS) and "litestar_tasks/" not in file
        frames.append(Frame(_short(file), number, match["name"], code, _context(file, number, code, shown), own))
    return Traceback(text, frames, last[end:].strip("\n"))


def _context(file: str, number: int, code: str, shown: Callable[[str], str]) -> list[tuple[int, str]]:
    """Lines around one, if this process has loaded that file as a module: a record could name any file."""
    if not code or file not in _sources():
        return []
    lines = linecache.getlines(file)
    if number > len(lines) or shown(lines[number - 1].strip()) != code:
        return []  # another release than this process's
    first = max(1, number - _AROUND)
    return [(at, shown(lines[at - 1].rstrip("\n"))) for at in range(first, min(len(lines), number + _AROUND) + 1)]


def _sources() -> set[str]:
    return {file for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}


def _short(file: str) -> str:
    """A path from the package's folder on, or its last parts."""
    for marker in ("site-packages/", "dist-packages/"):
        if marker in file:
            return file.rpartition(marker)[2]
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except ValueError:
        return file
