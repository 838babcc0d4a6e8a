"""Whether the app's database answers: said once for each change."""

from __future__ import annotations

import logging
import time

from litestar_tasks.outbox.database import reason_of

__all__ = ("Outage",)


class Outage:
    """The state of the way to the database, as one part of this package sees it.

    Args:
        part: Which part, "outbox" or "history".
        meanwhile: What goes on without the database, for the log.
    """

    def __init__(self, part: str, meanwhile: str) -> None:
        self._part = part
        self._meanwhile = meanwhile
        self._since: float | None = None
        self._logger = logging.getLogger(f"litestar_tasks.{part}")
        self.reason = ""
        """Why it did not answer; "" while it answers."""

    def failed(self, error: BaseException) -> None:
        """Note that it did not answer."""
        self.reason = reason_of(error)
        if self._since is None:
            self._since = time.monotonic()
            self._logger.error("the %s's database does not answer: %s. %s", self._part, self.reason, self._meanwhile)

    def succeeded(self) -> None:
        """Note that it answered."""
        if self._since is not None:
            away = time.monotonic() - self._since
            self._since, self.reason = None, ""
            self._logger.warning("the %s's database answers again, after %.1f s", self._part, away)
