"""What became of jobs, in the app's own database: it lasts longer than the broker's records, and can be searched.

Nothing waits for it. What happens to jobs in a process is heard at ``TaskQueue.instrument``, noted in memory, and
written by a task of its own, many jobs in one statement; some seconds later where jobs keep the process busy. While the
database does not answer, a bounded number of them is remembered; what comes on top is counted, and the gap becomes a
row of its own when the database is back.

A row is one life of one job: its id and the moment at which it was enqueued. Processes write about the same life in any
order, so each row says how far that had come, and is never overwritten by what was earlier.

It is part of this package because it shares its knowledge of the app's database. The parts: ``models`` is the tables,
``entries`` makes rows of jobs without what is secret, ``rows`` is what is asked of the tables, ``recorder`` hears and
writes, ``history`` is what users search, and ``values`` what they get.
"""

from __future__ import annotations

from litestar_tasks.outbox.history.history import HistoryDatabase, JobHistory
from litestar_tasks.outbox.history.models import history_tables
from litestar_tasks.outbox.history.values import HistoryAttempt, HistoryGap, HistoryJob, HistoryPage

__all__ = (
    "HistoryAttempt",
    "HistoryDatabase",
    "HistoryGap",
    "HistoryJob",
    "HistoryPage",
    "JobHistory",
    "history_tables",
)
