"""Which recorded jobs are meant, and a page of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from litestar.exceptions import ValidationException

from litestar_tasks.dashboard.forms import secret_arguments
from litestar_tasks.dashboard.recorded_view import RecordedRow, recorded_row
from litestar_tasks.dashboard.search import read_moment
from litestar_tasks.exceptions import ConfigurationError
from litestar_tasks.job import JobStatus

if TYPE_CHECKING:
    from litestar_tasks.dashboard.visit import Visit
    from litestar_tasks.outbox.history import HistoryJob, JobHistory

__all__ = ("STATUSES", "RecordedListing", "RecordedSearch", "find_recorded", "read_recorded_search")

STATUSES: Final[tuple[JobStatus, ...]] = ("complete", "failed", "aborted", "queued", "scheduled")
"""Those that are recorded: of a job that runs, its end is."""
_AGE: Final = re.compile(r"(\d{1,4}) ?(m|h|d)")
_UNITS: Final = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_STEPS: Final = 20
"""Pages that are looked through for a text, for one page."""


@dataclass(frozen=True, slots=True)
class RecordedSearch:
    """Which recorded jobs are meant."""

    status: str = ""
    queue: str = ""
    task: str = ""
    tag: str = ""
    text: str = ""
    since: str = ""
    """Enqueued then or later: an age such as "36h", or a moment in ISO's form."""
    until: str = ""
    """Enqueued before; an age or a moment."""

    @property
    def narrowed(self) -> bool:
        """Whether anything narrows it."""
        return bool(self.params())

    @property
    def moments(self) -> tuple[datetime | None, datetime | None]:
        """The span that is meant.

        Raises:
            ValidationException: One of them is neither an age nor a moment.
        """
        return _moment(self.since, "since"), _moment(self.until, "until")

    def params(self, **changes: str) -> dict[str, str]:
        """It as the parameters of an address, with changes; empty ones are left out."""
        fields = {
            "status": self.status,
            "queue": self.queue,
            "task": self.task,
            "tag": self.tag,
            "q": self.text,
            "since": self.since,
            "until": self.until,
            **changes,
        }
        return {name: value for name, value in fields.items() if value}


@dataclass(frozen=True, slots=True)
class RecordedListing:
    """A page of recorded jobs."""

    rows: Sequence[RecordedRow]
    cursor: str
    """Where the next page begins; "" where there is none."""
    searched: int = 0
    """How many jobs were looked through for a text; 0 where the database found it."""


def read_recorded_search(values: Mapping[str, Any]) -> RecordedSearch:
    """A search from the parameters of an address, as they were typed."""
    names = {"text": "q"}
    return RecordedSearch(
        **{name: str(values.get(names.get(name, name)) or "").strip() for name in RecordedSearch.__dataclass_fields__}
    )


async def find_recorded(visit: Visit, search: RecordedSearch, *, cursor: str = "", limit: int = 50) -> RecordedListing:
    """A page of the recorded jobs that are meant, those first that were enqueued last.

    Raises:
        ValidationException: A status, a span or a cursor that is none.
        HTTPException: The database did not answer.
    """
    if search.status and search.status not in get_args(JobStatus):
        raise ValidationException(f"There is no status {search.status!r} of jobs; there are {', '.join(STATUSES)}.")
    since, until = search.moments
    if since and until and since >= until:
        raise ValidationException(f"since ({search.since}) is not before until ({search.until}).")
    criteria: dict[str, Any] = {
        "task": search.task or None,
        "queue": search.queue or None,
        "status": cast("JobStatus", search.status) or None,
        "tag": search.tag or None,
        "since": since,
        "until": until,
    }
    async with visit.archive.asking() as history:
        try:
            if search.text and visit.redactor.knows_more:
                return await _look_through(visit, history, search.text, criteria, cursor, limit)
            page = await history.search(**criteria, text=search.text or None, limit=limit, cursor=cursor or None)
        except ConfigurationError as error:
            raise ValidationException("That page cannot be found. Begin again at the first one.") from error
    return RecordedListing([_row(visit, job) for job in page.jobs], page.cursor or "")


async def _look_through(
    visit: Visit, history: JobHistory, text: str, criteria: Mapping[str, Any], cursor: str, limit: int
) -> RecordedListing:
    """Look for a text in what may be shown. The database would find what only the dashboard hides, bit by bit."""
    wanted, rows, read = text.casefold(), list[RecordedRow](), 0
    place: str | None = cursor or None
    for _ in range(_STEPS):
        page = await history.search(**criteria, limit=limit - len(rows), cursor=place)
        place, read = page.cursor, read + len(page.jobs)
        rows += [_row(visit, job) for job in page.jobs if _mentions(visit, job, wanted)]
        if place is None or len(rows) == limit:
            break
    return RecordedListing(rows, place or "", read)


def _mentions(visit: Visit, job: HistoryJob, wanted: str) -> bool:
    shown, hide = visit.redactor.shown, visit.redactor.text
    secret = secret_arguments(visit.registry.find_task(job.task))
    texts = (hide(job.tag or ""), shown(job.arguments, 20_000, secret=secret), hide(job.error or ""))
    return any(wanted in one.casefold() for one in (job.id, job.task, *texts))


def _row(visit: Visit, job: HistoryJob) -> RecordedRow:
    return recorded_row(job, visit.redactor, secret=secret_arguments(visit.registry.find_task(job.task)))


def _moment(text: str, name: str) -> datetime | None:
    if (age := _AGE.fullmatch(text)) is not None:
        return datetime.now(UTC) - int(age[1]) * _UNITS[age[2]]
    return read_moment(text, name, "an age such as 45m, 36h or 30d")
