"""Which jobs are meant, in one queue or in all of them, and a page of them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec
from litestar.exceptions import ValidationException

from litestar_tasks.dashboard.asking import asking
from litestar_tasks.dashboard.job_view import JobRow, job_row
from litestar_tasks.exceptions import ConfigurationError
from litestar_tasks.queues.operations import STATES, JobFilter, JobState

if TYPE_CHECKING:
    from saq.job import Job

    from litestar_tasks.dashboard.visit import Visit
    from litestar_tasks.queues.base import TaskQueue

__all__ = (
    "AGES",
    "CAP",
    "Found",
    "Listing",
    "Search",
    "count_matches",
    "find",
    "matches",
    "queues_of",
    "read_moment",
    "read_search",
)

CAP: Final = 1_000
"""So many matches are counted where records have to be read for it."""
AGES: Final = {
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "24h": timedelta(days=1),
    "7d": timedelta(days=7),
}
_READ: Final = 500
"""Records that are looked through for a text, for one page."""
_UNTAKEN: Final = ""
_END: Final = "-"


@dataclass(frozen=True, slots=True)
class Search:
    """Which jobs are meant."""

    state: JobState
    queue: str = ""
    task: str = ""
    tag: str = ""
    text: str = ""
    since: str = ""
    """An age such as "1h", or a moment in ISO's form."""
    until: str = ""
    oldest_first: bool = False

    @property
    def moments(self) -> tuple[datetime | None, datetime | None]:
        """The span that is meant."""
        ages = f"one of {', '.join(AGES)}"
        since = datetime.now(UTC) - AGES[self.since] if self.since in AGES else read_moment(self.since, "since", ages)
        return since, read_moment(self.until, "until", ages)

    @property
    def narrowed(self) -> bool:
        """Whether anything but the state and the queue narrows it."""
        return bool(self.task or self.tag or self.text or self.since or self.until)

    def pinned(self) -> Search:
        """The same with its span as fixed moments."""
        since, until = self.moments
        return replace(self, since=since.isoformat() if since else "", until=until.isoformat() if until else "")

    def filter(self) -> JobFilter:
        """What a queue is asked for; the text is looked for in what it answers.

        Raises:
            ValidationException: A span that is none.
        """
        since, until = self.moments
        try:
            return JobFilter(
                state=self.state,
                task=self.task or None,
                tag=self.tag or None,
                since=since,
                until=until,
                newest_first=not self.oldest_first,
            )
        except ConfigurationError as error:
            raise ValidationException(str(error)) from error

    def params(self, **changes: str) -> dict[str, str]:
        """It as the parameters of an address, with changes; empty ones are left out."""
        fields = {
            "state": self.state,
            "queue": self.queue,
            "task": self.task,
            "tag": self.tag,
            "q": self.text,
            "since": self.since,
            "until": self.until,
            "order": "oldest" if self.oldest_first else "",
            **changes,
        }
        return {name: value for name, value in fields.items() if value}


@dataclass(frozen=True, slots=True)
class Found:
    """A job that was found."""

    queue: TaskQueue
    job: Job


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of jobs."""

    rows: Sequence[JobRow]
    cursor: str
    """Where the next page begins; "" where there is none."""
    searched: int
    """How many records were looked through for a text; 0 where none was looked for."""


def read_search(values: Mapping[str, Any], *, state: JobState = "failed") -> Search:
    """A search from the parameters of an address or a form.

    Args:
        values: The parameters.
        state: Where none is given. Defaults to "failed".

    Raises:
        ValidationException: An unknown state, or a moment that cannot be read.
    """
    given = {name: str(values.get(name) or "").strip() for name in ("state", "queue", "task", "tag", "q")}
    if given["state"] and given["state"] not in STATES:
        raise ValidationException(f"There is no state {given['state']!r} of jobs; there are {', '.join(STATES)}.")
    search = Search(
        state=given["state"] or state,
        queue=given["queue"],
        task=given["task"],
        tag=given["tag"],
        text=given["q"],
        since=str(values.get("since") or "").strip(),
        until=str(values.get("until") or "").strip(),
        oldest_first=values.get("order") == "oldest",
    )
    search.filter()
    return search


def queues_of(visit: Visit, search: Search) -> list[TaskQueue]:
    """The queues that a search looks into."""
    return [visit.queue(search.queue)] if search.queue else list(visit.queues.values())


async def find(visit: Visit, search: Search, *, cursor: str = "", limit: int = 50) -> Listing:
    """A page of the jobs that are meant, by their moments, whichever queues they are in.

    Raises:
        ValidationException: The cursor is none of this search.
        HTTPException: The broker did not answer.
    """
    queues = queues_of(visit, search)
    places = _read_cursor(cursor, queues)
    which = search.filter()
    asked = [queue for queue in queues if places.get(queue.label, _UNTAKEN) != _END]
    pages = await asyncio.gather(
        *(_page(visit, queue, which, search.text, places.get(queue.label), limit, len(asked)) for queue in asked)
    )
    found = [(queue, position, job) for queue, page in zip(asked, pages, strict=True) for position, job in page.jobs]
    found.sort(key=lambda one: _rank(one[2], search), reverse=not search.oldest_first)
    taken = found[:limit]
    following: dict[str, str] = {queue.label: _END for queue in queues if queue not in asked}
    for queue, page in zip(asked, pages, strict=True):
        positions = [position for own, position, _ in taken if own is queue]
        if len(positions) == len(page.jobs):
            following[queue.label] = page.cursor or _END
        elif not positions:
            following[queue.label] = places.get(queue.label) or _UNTAKEN
        else:
            # The cursor behind the last one that was taken.
            async with asking(queue):
                again = await queue.page(which, limit=max(positions) + 1, cursor=places.get(queue.label) or None)
            following[queue.label] = again.cursor or _END
    more = any(place != _END for place in following.values())
    return Listing(
        # The listing knows better than the record when a job is due.
        [job_row(job, visit.redactor, status=search.state) for _, _, job in taken],
        _write_cursor(following) if more else "",
        sum(page.read for page in pages) if search.text else 0,
    )


async def matches(visit: Visit, queue: TaskQueue, search: Search) -> AsyncGenerator[Found, None]:
    """Every job of a queue that is meant, in bounded steps."""
    which, cursor = search.filter(), None
    while True:
        async with asking(queue):
            page = await queue.page(which, limit=_READ, cursor=cursor)
        for job in page.jobs:
            if not search.text or mentions(visit, job, search.text):
                yield Found(queue, job)
        if (cursor := page.cursor) is None:
            return


async def count_matches(visit: Visit, search: Search) -> tuple[int, bool]:
    """How many jobs are meant, and whether there are more than were counted."""
    queues = queues_of(visit, search)
    if not search.narrowed:
        for queue in queues:
            visit.watch.forget(queue)  # a number to act on is no old one
        looks = await visit.watch.looks(queues)
        capped = any(look.cap is not None and look.counts[search.state] >= look.cap for look in looks)
        return sum(look.counts[search.state] for look in looks), capped
    number = 0
    for queue in queues:
        async for _ in matches(visit, queue, search):
            if number == CAP:
                return CAP, True
            number += 1
    return number, False


def mentions(visit: Visit, job: Job, text: str) -> bool:
    """Whether a job's key, arguments, tag or error hold a text, as they are shown: secrets cannot be searched for."""
    wanted = text.casefold()
    # Most hold it nowhere, which is seen at once.
    tag, kwargs = (job.meta or {}).get("tag"), json.dumps(job.kwargs, ensure_ascii=False, default=str)
    raw = f"{job.id}\n{job.function}\n{tag}\n{kwargs}\n{job.error}"
    if wanted not in raw.casefold():
        return False
    row = job_row(job, visit.redactor)
    if any(wanted in part.casefold() for part in (row.key, row.function, row.tag, row.error, job.id)):
        return True
    if wanted in visit.redactor.shown(job.kwargs or {}, 20_000).casefold():
        return True
    return bool(job.error) and wanted in visit.redactor.end(job.error, 20_000).casefold()


@dataclass(frozen=True, slots=True)
class _Page:
    jobs: list[tuple[int, Job]]
    """With the place that each has on the queue's own page."""
    cursor: str | None
    read: int


async def _page(
    visit: Visit, queue: TaskQueue, which: JobFilter, text: str, cursor: str | None, limit: int, among: int
) -> _Page:
    async with asking(queue):
        try:
            page = await queue.page(which, limit=max(limit, _READ // among) if text else limit, cursor=cursor or None)
        except ConfigurationError as error:
            raise ValidationException("That page is of another search. Begin again at its first page.") from error
    jobs = [(at, job) for at, job in enumerate(page.jobs) if not text or mentions(visit, job, text)]
    return _Page(jobs, page.cursor, len(page.jobs))


def _rank(job: Job, search: Search) -> float:
    moments: dict[str, float] = {
        "queued": job.queued,
        "active": job.started,
        "scheduled": job.scheduled * 1000,
        "retrying": job.scheduled * 1000,
    }
    return moments.get(search.state, job.completed)


def read_moment(text: str, name: str, ages: str) -> datetime | None:
    """A moment that somebody typed, in UTC unless it says otherwise; None for nothing.

    Args:
        text: The text.
        name: What it is for.
        ages: The ages that could have been given, in words.

    Raises:
        ValidationException: It is none.
    """
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValidationException(f"{name} is {text!r}; give a moment such as 2026-01-31T09:00Z, or {ages}.") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _write_cursor(places: Mapping[str, str]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(places)).rstrip(b"=").decode()


def _read_cursor(cursor: str, queues: Sequence[TaskQueue]) -> dict[str, str]:
    if not cursor:
        return {}
    try:
        places = msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=dict[str, str])
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        raise ValidationException("That page cannot be found. Begin again at the first one.") from error
    known = {queue.label for queue in queues}
    return {label: place for label, place in places.items() if label in known}
