"""What the processes of the command line say where the app has not set up logging."""

from __future__ import annotations

import logging
import sys

__all__ = ("configure_logging", "plain_handler")

_COLOURS = {logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "31"}


class _Lines(logging.Formatter):
    """``12:00:00 worker: message``; on a terminal, warnings in yellow and errors in red, in the place of a bar."""

    def __init__(self, name: str) -> None:
        super().__init__(f"%(asctime)s {name.replace('%', '%%')}: %(message)s", "%H:%M:%S")
        self._terminal = sys.stderr.isatty()

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        if not self._terminal:
            return line
        colour = _COLOURS.get(record.levelno)
        # What stands in the terminal's line, such as another process's progress bar, is erased first.
        return "\r\x1b[K" + (f"\x1b[{colour}m{line}\x1b[0m" if colour else line)


def plain_handler(name: str) -> logging.Handler:
    """A handler that writes each record to stderr in one piece, named after the process."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines(name))
    return handler


def configure_logging(name: str) -> None:
    """Let this package's messages be seen, unless the app has decided where they go."""
    ours = logging.getLogger("litestar_tasks")
    if not ours.hasHandlers():
        logging.getLogger().addHandler(plain_handler(name))
        if ours.level == logging.NOTSET:
            ours.setLevel(logging.INFO)
