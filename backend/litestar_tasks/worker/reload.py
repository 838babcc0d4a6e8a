"""Which source files were edited."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ("Edits",)

logger = logging.getLogger("litestar_tasks.supervisor")

_NOT_OURS = frozenset({"__pycache__", "node_modules", "site-packages"})
_QUIET_MS = 100
_AT_LATEST_MS = 500
"""Edits that follow each other within the first of the two are one, such as a checkout; after the second they are told
all the same."""
_PATIENCE_S = 10.0


class Edits:
    """Collects the Python files below some folders that were written, added or removed, while it is entered.

    Hidden folders (``.venv``, ``.git``, ``.litestar-tasks``), caches and installed packages are left out.

    Args:
        folders: Where to look, with everything below.
        notify: Called from another thread when there is something to ``take``.
    """

    def __init__(self, folders: Sequence[Path], notify: Callable[[], None]) -> None:
        self._folders = [folder.resolve() for folder in folders]
        self._notify = notify
        self._edited: set[Path] = set()
        self._lock = threading.Lock()
        self._watching = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch-files", daemon=True)

    def __enter__(self) -> Self:
        if self._folders:
            self._thread.start()
            # What is read from now on is watched: no edit falls between a child's start and the watch.
            self._watching.wait(_PATIENCE_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        if self._folders:
            # Native code that comes back into an interpreter that is ending would crash it.
            self._thread.join(_PATIENCE_S)

    def take(self) -> list[Path]:
        """What was edited since the last call, sorted."""
        with self._lock:
            edited, self._edited = sorted(self._edited), set()
        return edited

    def _watch(self) -> None:
        try:
            import watchfiles

            logging.getLogger("watchfiles").setLevel(logging.WARNING)  # It tells every change, ours or not.
            for changes in watchfiles.watch(
                *self._folders,
                watch_filter=None,
                debounce=_AT_LATEST_MS,
                step=_QUIET_MS,
                rust_timeout=_QUIET_MS,
                yield_on_timeout=True,
                stop_event=self._stopped,
                ignore_permission_denied=True,
            ):
                self._watching.set()
                found = {
                    path
                    for change, name in changes
                    for path in self._sources(Path(name), new=change is watchfiles.Change.added)
                }
                with self._lock:
                    self._edited |= found
                if found:
                    self._notify()
        except Exception:
            logger.exception("edits are not seen any more; start anew to have them seen")
        finally:
            self._watching.set()

    def _sources(self, path: Path, *, new: bool) -> Iterator[Path]:
        if not self._is_ours(path):
            return
        if path.suffix == ".py":
            yield path
        elif new and path.is_dir():
            # Only the folder itself is told: what lay in it before it was watched has to be looked for.
            yield from filter(self._is_ours, path.rglob("*.py"))

    def _is_ours(self, path: Path) -> bool:
        for folder in self._folders:
            if path.is_relative_to(folder):
                # Only what lies below counts: the project itself may lie in a hidden folder.
                return not any(part.startswith(".") or part in _NOT_OURS for part in path.relative_to(folder).parts)
        return False
