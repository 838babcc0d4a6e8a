"""Renewing a lease in Postgres."""

from __future__ import annotations

import time

import psycopg

from litestar_tasks.exceptions import BrokerError
from litestar_tasks.queues import lease
from litestar_tasks.queues.postgres.connection import Link
from litestar_tasks.queues.postgres.statements import ABORTS, RENEW

__all__ = ("LeaseThread",)


class LeaseThread(lease.LeaseThread[Link]):
    """Renews one lease.

    It reports the lease's number, whether it is still there, and the tokens and reasons of its jobs that somebody wants
    ended.
    """

    _failures = (BrokerError, psycopg.Error, OSError)
    _owner: int | None = None

    def keep(self, owner: int | None) -> None:
        """Renew this lease from now on, and no other."""
        self._owner = owner
        self.renewed = time.monotonic()

    async def _renew(self, link: Link) -> None:
        if (owner := self._owner) is None:
            return
        parameters = {"queue": self._queue, "owner": owner, "lease": self._lease}
        ((held,),) = await link.ask(RENEW, parameters, timeout=self._timeout)
        self.renewed = time.monotonic()
        self._report(owner, bool(held), ())
        if held and (aborts := await link.ask(ABORTS, parameters, timeout=self._timeout)):
            self._report(owner, True, aborts)
