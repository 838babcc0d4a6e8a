"""What an operator asks of a queue: which jobs there are, what becomes of many at once, how the last day went."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, Final, Literal, TypeAlias

from litestar_tasks.exceptions import ConfigurationError
from litestar_tasks.moments import maybe_moment

if TYPE_CHECKING:
    from saq.job import Job

__all__ = (
    "BOUNDS",
    "ENDED",
    "PURGED",
    "STATES",
    "WAITING",
    "BulkAction",
    "BulkStep",
    "Capability",
    "JobFilter",
    "JobState",
    "Minute",
    "Operations",
    "Page",
    "Pause",
    "TaskMinute",
)

JobState: TypeAlias = Literal[
    "queued", "scheduled", "retrying", "active", "complete", "failed", "aborted", "quarantined"
]
"""Where jobs are listed. ``retrying`` are the scheduled ones that have failed before, ``quarantined`` the failed ones
that never ran: nobody could read them, or no worker knew their task. Both are listed under the wider state, too."""

WAITING: Final[tuple[JobState, ...]] = ("queued", "scheduled", "retrying")
ENDED: Final[tuple[JobState, ...]] = ("complete", "failed", "aborted", "quarantined")
STATES: Final[tuple[JobState, ...]] = (*WAITING, "active", *ENDED)

BY_OPERATOR: Final = "aborted with others by an operator"
"""The reason of jobs that are aborted in bulk."""
PURGED: Final = "purged by an operator"
"""What is said of a job that was. Its record is gone, so only who listens hears it."""

BulkAction: TypeAlias = Literal["retry", "abort", "delete"]
"""``retry`` gives jobs that have ended a new life, and starts retrying ones now; ``abort`` ends those that wait or run;
``delete`` forgets those that have ended, with their records."""

_ACTS_ON: Final[Mapping[BulkAction, tuple[JobState, ...]]] = {
    "retry": (*ENDED, "retrying"),
    "abort": (*WAITING, "active"),
    "delete": ENDED,
}

Capability: TypeAlias = Literal[
    "shared", "leases", "priorities", "pause", "listing", "bulk", "metrics", "stock_producers"
]
"""What a broker can do. ``shared``: several processes see the same jobs, and they outlive each of them. ``leases``: the
jobs of a process that died are recovered. ``stock_producers``: a stock SAQ queue can enqueue into it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs of a queue.

    Raises:
        ConfigurationError: An unknown state, a moment without a time zone, or a span that ends before it begins.
    """

    state: JobState
    """Where they stand."""
    task: str | None = None
    """Of this task alone. Defaults to None: of all."""
    tag: str | None = None
    """With this tag alone. Defaults to None: with any or none."""
    since: datetime | None = None
    """From this moment on, aware: when jobs ended, are due, were started (``active``) or were enqueued (``queued``).
    Defaults to None: no bound."""
    until: datetime | None = None
    """Before this moment, aware. Defaults to None: no bound."""
    newest_first: bool = True
    """The order of that moment. Defaults to True. Queued jobs are listed in the order in which they will be claimed,
    or its reverse; of active ones, those of one worker stand together."""

    def __post_init__(self) -> None:
        """Check what would otherwise find nothing."""
        if self.state not in STATES:
            raise ConfigurationError(f"there is no state {self.state!r} of jobs; there are {', '.join(STATES)}")
        for name, bound in (("since", self.since), ("until", self.until)):
            if bound is not None and bound.tzinfo is None:
                raise ConfigurationError(f"{name} is {bound}, which has no time zone; use datetime.now(UTC)")
        if self.since is not None and self.until is not None and self.until <= self.since:
            raise ConfigurationError(f"the span from {self.since} until {self.until} holds no moment")

    @property
    def walks(self) -> bool:
        """Whether records have to be read to tell which jobs are meant."""
        return self.task is not None or self.tag is not None

    def means(self, job: Job) -> bool:
        """Whether a job that stands there is one of these, as far as its record tells.

        That leaves the moments of ended, scheduled and retrying jobs to the index that they were found in.
        """
        if self.task not in (None, job.function) or (self.tag is not None and job.meta.get("tag") != self.tag):
            return False
        if self.state in ENDED:
            return job.status.value == ("failed" if self.state == "quarantined" else self.state)
        if self.state not in ("queued", "active"):
            return True
        if (since := maybe_moment(job.started if self.state == "active" else job.queued)) is None:
            return self.since is None and self.until is None
        return (self.since is None or since >= self.since) and (self.until is None or since < self.until)

    def allows(self, action: BulkAction) -> None:
        """Refuse an action that these jobs' state leaves no room for.

        Raises:
            ConfigurationError: Names the states that it is for.
        """
        if self.state not in _ACTS_ON[action]:
            raise ConfigurationError(
                f"jobs that are {self.state} cannot be subject to {action!r}; it is for {', '.join(_ACTS_ON[action])}"
            )


@dataclass(frozen=True, slots=True)
class Page:
    """Some jobs of a listing.

    Each page is made of a bounded number of records and bytes, so one of a listing by task or tag, or of huge records,
    may hold few jobs, or none, and still not be the last one.
    """

    jobs: list[Job]
    cursor: str | None
    """Where the next page begins; None where there is none. Opaque, and good for the same filter only."""


@dataclass(frozen=True, slots=True)
class BulkStep:
    """What one bounded step of an operation on many jobs has done."""

    done: int
    """Jobs that were changed."""
    skipped: int
    """Jobs that were looked at and left: they did not match, or had changed their state meanwhile."""
    cursor: str | None
    """Where to go on; None at the end."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Why nothing is claimed from a queue."""

    since: datetime
    by: str
    """Who paused it; "" where nobody said."""


BOUNDS: Final = tuple(timedelta(milliseconds=2**power) for power in range(21))
"""Upper bounds of the buckets of a histogram: 1 ms, 2 ms, 4 ms, … about 17 minutes. One more bucket holds the rest."""


@dataclass(slots=True)
class TaskMinute:
    """How one task fared in one minute. Counts are of attempts, by how they ended."""

    complete: int = 0
    failed: int = 0
    aborted: int = 0
    retried: int = 0
    waited: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    """Attempts by the time between being ready and being started, in buckets as ``BOUNDS`` says."""
    ran: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    """Attempts by the time that they took, in the same buckets."""


@dataclass(frozen=True, slots=True)
class Minute:
    """How a queue fared in one minute, or in as many as were added up."""

    start: datetime
    tasks: dict[str, TaskMinute]
    """By the task's name."""


class Operations(ABC):
    """What an operator can do with a queue, whatever its broker."""

    capabilities: frozenset[Capability]
    """What this broker can do."""
    counted_up_to: ClassVar[int | None] = None
    """Where ``counts`` stops: a state with this number holds so many jobs or more. None where it counts them all."""

    @abstractmethod
    async def counts(self) -> dict[JobState, int]:
        """How many jobs are listed under each state, at no cost that grows with their number.

        Redis and memory keep the numbers, and say them exactly. Postgres has to walk over what it counts, so it stops:
        there no number is above ``counted_up_to``, and one that is equal to it means "so many or more".

        Raises:
            QueueUnavailableError: The broker did not answer.
        """

    @abstractmethod
    async def page(self, which: JobFilter, *, limit: int = 50, cursor: str | None = None) -> Page:
        """List jobs, a page at a time.

        The effort does not grow with the queue. While jobs come and go between two pages, one that stays is neither
        left out nor listed twice; among queued and active jobs, which move on, that holds as far as they stay.

        Args:
            which: Which jobs, in which order.
            limit: How many at the most, from 1 to 500. Defaults to 50.
            cursor: That of the page before. Defaults to None: the first page.

        Raises:
            ConfigurationError: The limit is out of range, or the cursor is not one of such a listing.
            QueueUnavailableError: The broker did not answer.
        """

    @abstractmethod
    async def bulk(
        self, action: BulkAction, which: JobFilter, *, limit: int = 200, cursor: str | None = None
    ) -> BulkStep:
        """Take one step of an operation on many jobs; it is done when the step's ``cursor`` is None.

        Jobs that come to the state while it goes on are not treated twice, so it ends.

        Args:
            action: What to do with them.
            which: Which jobs.
            limit: How many to look at in this step, from 1 to 500. Defaults to 200.
            cursor: That of the step before. Defaults to None: the first step.

        Raises:
            ConfigurationError: The action is not for jobs in that state, or the limit or the cursor is none.
            QueueUnavailableError: The broker did not answer.
        """

    @abstractmethod
    async def rerun(self, key: str) -> bool:
        """Give a job that has ended a new life: same id and arguments, attempts from 0, its history kept.

        Returns:
            False, and no change, where it has not ended or is not there, or where its task is ``unique`` and another
            job that is alike waits or runs. (One that waits for its next attempt is started at once, which is True.)

        Raises:
            QueueUnavailableError: The broker did not answer.
        """

    @abstractmethod
    async def delete(self, key: str) -> bool:
        """Forget a job that has ended, with its record; False, and no change, for any other.

        Raises:
            QueueUnavailableError: The broker did not answer.
        """

    @abstractmethod
    async def purge(self) -> int:
        """Forget every job that waits, with its record: queued, scheduled and retrying ones. Who waits for one is told.

        Running jobs and those that have ended stay. In bounded steps: jobs that are enqueued meanwhile may go as well.

        Returns:
            How many jobs there were.

        Raises:
            QueueUnavailableError: The broker did not answer.
        """

    @abstractmethod
    async def pause(self, *, by: str = "") -> None:
        """Claim nothing more from this queue, in any worker, until ``resume``. Running jobs go on.

        It takes effect at once, and outlives workers and the broker's restart. Enqueueing goes on. A queue that is
        paused already stays as it is, with the one who paused it first.

        Args:
            by: Who wants it, for those who ask later. Defaults to "".

        Raises:
            QueueUnavailableError: The broker did not answer.
        """

    @abstractmethod
    async def resume(self) -> None:
        """Claim again. Without effect on a queue that is not paused.

        Raises:
            QueueUnavailableError: The broker did not answer.
        """

    @abstractmethod
    async def paused(self) -> Pause | None:
        """Since when and by whom the queue is paused; None where it is not."""

    @abstractmethod
    async def add_minutes(self, minutes: Sequence[Minute]) -> None:
        """Add what a worker counted to what is known of these minutes. They are kept for a day.

        Raises:
            QueueUnavailableError: The broker did not answer.
        """

    @abstractmethod
    async def minutes(self, since: datetime, until: datetime, *, every: int = 1) -> list[Minute]:
        """How the queue fared, minute by minute, oldest first; minutes in which nothing ended are left out.

        Args:
            since: Aware, rounded down to its minute.
            until: Aware; the minute that it lies in is included.
            every: How many minutes the broker adds up to one before it answers; 15 makes quarters of an hour, by the
                clock. At the ends of the span such a sum holds the minutes of the span alone. Defaults to 1.

        Raises:
            ConfigurationError: One of the moments has no time zone, or ``every`` is not from 1 to 1,440.
            QueueUnavailableError: The broker did not answer.
        """
