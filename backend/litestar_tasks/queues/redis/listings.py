"""Going through a queue's jobs on Redis in the order of a listing, in short calls that do not grow with the queue."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
from saq.job import Job

from litestar_tasks.queues import cursors, records
from litestar_tasks.queues.operations import ENDED, JobFilter
from litestar_tasks.queues.redis.lua import Script

if TYPE_CHECKING:
    from saq.queue.base import Queue

    from litestar_tasks.queues.redis.layout import Layout
    from litestar_tasks.queues.redis.retrying import RetryingLink

__all__ = ("BYTES", "Found", "Listings", "Walk")

logger = logging.getLogger("litestar_tasks.queues")

_LANES: Final = Script("lanes")
_PAGE: Final = Script("page")
_LOOKS: Final = 20
"""Calls that one page is put together of at the most."""
BYTES: Final = 2_000_000
"""Bytes of records after which one call answers with what it has."""


class _Mark(msgspec.Struct):
    """By what a search tells one record from another."""

    function: str = ""
    meta: dict[str, Any] = {}


_marks: Final = msgspec.json.Decoder(_Mark)


@dataclass(slots=True)
class Found:
    """A job that was read in the course of a listing."""

    job_id: bytes
    document: bytes
    state: bytes | str
    """Its score in the set that it was found in; while it is the same, so is the job's state."""
    place: cursors.Place


@dataclass(slots=True)
class Walk:
    """What one look at a listing has found."""

    matches: list[tuple[Found, Job]]
    read: int
    place: cursors.Place | None
    """Where to go on; None at the end."""


class Listings:
    """What there is to be listed of one queue.

    Args:
        queue: The queue, for the jobs made here.
        layout: Its keys.
        link: The connection.
    """

    def __init__(self, queue: Queue, layout: Layout, link: RetryingLink) -> None:
        self._queue = queue
        self._layout = layout
        self._link = link

    async def walk(
        self, which: JobFilter, place: cursors.Place | None, limit: int, most: int, until: int | None = None
    ) -> Walk:
        """Go through a listing from a place on, until so many jobs are found or so many records are read."""
        walk = Walk([], 0, place)
        for _ in range(_LOOKS):
            if walk.read >= most or len(walk.matches) == limit:
                break
            # All that a search may read is one call, of 2 ms: each one more waits for the machine's other processes.
            wanted = min(most - walk.read, most if _decodes(which) else limit - len(walk.matches))
            look = self._look_at_lanes if which.state == "queued" else self._look_at_set
            more, found, walk.place = await look(which, walk.place, wanted, until)
            for one in found:
                walk.read += 1
                job = self._match(which, one)
                if job is None:
                    continue
                walk.matches.append((one, job))
                if len(walk.matches) == limit:
                    more, walk.place = more or one is not found[-1], one.place
                    break
            if not more:
                walk.place = None
                break
        return walk

    async def _look_at_set(
        self, which: JobFilter, place: cursors.Place | None, limit: int, until: int | None
    ) -> tuple[bool, list[Found], cursors.Place]:
        name, low, high = _range_of(which, until)
        score, job_id = place or ("", "")
        downwards = which.newest_first != (which.state == "active")  # the latest claim has the lowest score
        more, last, last_score, lengths, data = await self._link.run(
            _PAGE, name, low, high, int(downwards), score, job_id, limit, BYTES, again=True
        )
        found = [
            Found(one, document, state, [state.decode(), one.decode()])
            for one, state, document in _in_parts(lengths, data, 3)
        ]
        return bool(more), found, [last_score.decode(), last.decode()]

    async def _look_at_lanes(
        self, which: JobFilter, place: cursors.Place | None, limit: int, until: int | None
    ) -> tuple[bool, list[Found], cursors.Place]:
        more, lane, index, last, length, lengths, data = await self._link.run(
            _LANES, int(which.newest_first), *(place or ("", 0, "", 0)), limit, BYTES, again=True
        )
        found = [
            Found(one, document, "0", [own_lane.decode(), int(at), one.decode(), len(document)])
            for own_lane, at, one, document in _in_parts(lengths, data, 4)
        ]
        return bool(more), found, [lane.decode(), int(index), last.decode(), int(length)]

    def _match(self, which: JobFilter, found: Found) -> Job | None:
        """The job, if the filter means it."""
        if which.walks and _is_another(which, found.document):
            return None
        try:
            job = records.restore(Job, self._queue, found.document, key=self._layout.job_key(found.job_id.decode()))
        except records.UndecodableError as error:
            logger.warning("queue %r: the record of %s can't be read: %s", self._layout.name, found.job_id, error)
            return None
        return job if which.means(job) else None


def _is_another(which: JobFilter, document: bytes) -> bool:
    """Whether a record is certainly not searched for. Most of them are not, and reading the whole takes longer."""
    try:
        mark = _marks.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return which.task not in (None, mark.function) or which.tag not in (None, mark.meta.get("tag"))


def _decodes(which: JobFilter) -> bool:
    """Whether the order itself does not tell which jobs are meant."""
    return which.walks or (which.state in ("queued", "active") and (which.since or which.until) is not None)


def _in_parts(lengths: bytes, data: bytes, size: int) -> Iterator[tuple[bytes, ...]]:
    """So many texts at a time, out of an answer of two parts; see `packed` in ``common.lua``."""
    texts: list[bytes] = []
    start = 0
    for length in map(int, lengths.split()):
        texts.append(data[start : start + length])
        start += length
        if len(texts) == size:
            yield tuple(texts)
            texts.clear()


def _range_of(which: JobFilter, until: int | None) -> tuple[str, str, str]:
    """The set that holds such jobs, and their lowest and highest score in it.

    Args:
        which: The filter.
        until: A moment in ms before which they have to have ended, beside the filter's own. Defaults to None: no other.
    """
    if which.state == "active":
        return "incomplete", "-inf", "-1"
    low = "-inf" if which.since is None else cursors.milliseconds(which.since)
    if which.until is not None:
        before = cursors.milliseconds(which.until)
        until = before if until is None else min(before, until)
    high = "+inf" if until is None else until - 1
    if which.state in ENDED:
        return which.state, str(low), str(high)
    lowest = "1" if low == "-inf" else f"{max(int(low), 1000) / 1000:.3f}"
    highest = high if isinstance(high, str) else f"{max(high, 0) / 1000:.3f}"
    return "retrying" if which.state == "retrying" else "incomplete", lowest, highest
