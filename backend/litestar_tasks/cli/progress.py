"""How far a drain has come: a bar in a terminal, and now and then a line elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from litestar_tasks.worker.board import Snapshot

__all__ = ("DrainProgress",)

logger = logging.getLogger("litestar_tasks.supervisor")

_ENDED: Final = ("complete", "failed", "aborted", "quarantined")
_EVERY: Final = 5.0


class DrainProgress:
    """Shows progress on stderr while it is entered."""

    def __init__(self) -> None:
        self._told = 0.0
        self._ended: Counter[str] = Counter()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("draining"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("jobs"),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                auto_refresh=False,  # It is drawn with each report; a thread would draw into the lines of others.
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._row = self._bar.add_task("", total=None)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, snapshot: Snapshot) -> None:
        """Bring it up to date."""
        self._ended = Counter(dict.fromkeys(_ENDED, 0))
        for (_, _, outcome), count in snapshot.ended.items():
            if outcome in _ENDED:
                self._ended[outcome] += count
        if snapshot.depths:
            self._draw(sum(depth.queued + depth.active for depth in snapshot.depths.values()))

    def finish(self) -> None:
        """Say what was done."""
        self._draw(0, last=True)
        ended = ", ".join(f"{count} {outcome}" for outcome, count in self._ended.items() if count)
        logger.info("drained: %s", ended or "there was nothing to do")

    def _draw(self, left: int, *, last: bool = False) -> None:
        done = self._ended.total()
        if self._bar is not None:
            self._bar.update(self._row, completed=done, total=done + left, refresh=True)
            # What the workers write takes the place of the bar, which is then drawn below it.
            sys.stderr.write("\r")
            sys.stderr.flush()
        elif not last and time.monotonic() - self._told >= _EVERY:
            self._told = time.monotonic()
            logger.info("draining: %d jobs done, %d left", done, left)
