"""What an operator does with a queue on Redis: in short calls, of which none grows with the queue."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from redis.exceptions import RedisError, ResponseError
from saq.job import Job, Status

from litestar_tasks.exceptions import QueueUnavailableError
from litestar_tasks.queues import cursors, records, tallies
from litestar_tasks.queues.history import begin_anew
from litestar_tasks.queues.operations import (
    ENDED,
    STATES,
    BulkAction,
    BulkStep,
    JobFilter,
    JobState,
    Minute,
    Operations,
    Page,
    Pause,
)
from litestar_tasks.queues.redis.connection import ANSWER_TIMEOUT, never_sent
from litestar_tasks.queues.redis.lua import LIMIT, Script
from litestar_tasks.queues.redis.producer import max_losses_of, terms_of
from litestar_tasks.queues.redis.reasons import reason_of

if TYPE_CHECKING:
    from saq.queue.base import Queue

    from litestar_tasks.queues.redis.connection import Endpoint, Link
    from litestar_tasks.queues.redis.layout import Layout
    from litestar_tasks.queues.retention import Limits

__all__ = ("RedisOperations",)

logger = logging.getLogger("litestar_tasks.queues")

_ABORT: Final = Script("abort")
_COUNTS: Final = Script("counts")
_DELETE: Final = Script("delete")
_LANES: Final = Script("lanes")
_PAGE: Final = Script("page")
_PAUSE: Final = Script("pause")
_PURGE: Final = Script("purge")
_RERUN: Final = Script("rerun")
_TALLY: Final = Script("tally")

_READ: Final = 500
"""Records that are read for one page at the most, however few of them match."""
_LOOKS: Final = 20
"""Calls that one page is put together of at the most."""
_BYTES: Final = 2_000_000
"""Bytes of records after which one call answers with what it has."""
_CHANGED: Final = 50
"""Records that one call writes anew at the most: their digests are made while the server answers nobody else."""
_ROUNDS: Final = 100
_TALLIED: Final = 1_000
_UNREADABLE: Final = "(undecodable)"

AnswerT = TypeVar("AnswerT")


class _Mark(msgspec.Struct):
    """By what a search tells one record from another."""

    function: str = ""
    meta: dict[str, Any] = {}


_marks: Final = msgspec.json.Decoder(_Mark)


@dataclass(slots=True)
class _Found:
    """A job that was read in the course of a listing."""

    job_id: bytes
    document: bytes
    state: bytes | str
    """Its score in the set that it was found in; while it is the same, so is the job's state."""
    place: cursors.Place


@dataclass(slots=True)
class _Walk:
    """What one look at a listing has found."""

    matches: list[tuple[_Found, Job]]
    read: int
    place: cursors.Place | None
    """Where to go on; None at the end."""


class RedisOperations(Operations):
    """An operator's side of one queue.

    Args:
        queue: The queue, for the jobs made here.
        label: Its name, for errors.
        endpoint: The server.
        layout: The queue's keys.
        limits: What is kept of jobs that have ended.
    """

    def __init__(self, queue: Queue, label: str, endpoint: Endpoint, layout: Layout, limits: Limits) -> None:
        self._queue = queue
        self._label = label
        self._layout = layout
        self._limits = limits
        self._link = endpoint.link()
        self._probe = 0

    async def close(self) -> None:
        """Close the connection; the next call opens it again."""
        await self._link.close()

    # Listing

    async def counts(self) -> dict[JobState, int]:
        """See ``Operations.counts``."""
        more, rounds, numbers = 1, 0, []
        while more and rounds < _ROUNDS:
            more, *numbers = await self._run(_COUNTS, self._probe, again=True)
            self._probe, rounds = self._probe + 100, rounds + 1
        order: tuple[JobState, ...] = ("queued", "scheduled", "retrying", "active", *ENDED)
        found = dict(zip(order, map(int, numbers), strict=True))
        return {state: found[state] for state in STATES}

    async def page(self, which: JobFilter, *, limit: int = 50, cursor: str | None = None) -> Page:
        """See ``Operations.page``."""
        walk = await self._walk(which, self._place(which, cursor), cursors.check_limit(limit), _READ)
        return Page([job for _, job in walk.matches], None if walk.place is None else cursors.write(which, walk.place))

    def _place(self, which: JobFilter, cursor: str | None) -> cursors.Place | None:
        if cursor is None:
            return None
        if which.state == "queued":
            return cursors.read(which, cursor, str, int, str, int)
        return cursors.read(which, cursor, str, str)

    async def _walk(
        self, which: JobFilter, place: cursors.Place | None, limit: int, most: int, until: int | None = None
    ) -> _Walk:
        """Go through a listing from a place on, until so many jobs are found or so many records are read."""
        walk = _Walk([], 0, place)
        for _ in range(_LOOKS):
            if walk.read >= most or len(walk.matches) == limit:
                break
            wanted = min(LIMIT, most - walk.read, LIMIT if _decodes(which) else limit - len(walk.matches))
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
    ) -> tuple[bool, list[_Found], cursors.Place]:
        name, low, high = _range_of(which, until)
        score, job_id = place or ("", "")
        downwards = which.newest_first != (which.state == "active")  # the latest claim has the lowest score
        more, last, last_score, lengths, data = await self._run(
            _PAGE, name, low, high, int(downwards), score, job_id, limit, _BYTES, again=True
        )
        found = [
            _Found(one, document, state, [state.decode(), one.decode()])
            for one, state, document in _in_parts(lengths, data, 3)
        ]
        return bool(more), found, [last_score.decode(), last.decode()]

    async def _look_at_lanes(
        self, which: JobFilter, place: cursors.Place | None, limit: int, until: int | None
    ) -> tuple[bool, list[_Found], cursors.Place]:
        more, lane, index, last, length, lengths, data = await self._run(
            _LANES, int(which.newest_first), *(place or ("", 0, "", 0)), limit, _BYTES, again=True
        )
        found = [
            _Found(one, document, "0", [own_lane.decode(), int(at), one.decode(), len(document)])
            for own_lane, at, one, document in _in_parts(lengths, data, 4)
        ]
        return bool(more), found, [lane.decode(), int(index), last.decode(), int(length)]

    def _match(self, which: JobFilter, found: _Found) -> Job | None:
        """The job, if the filter means it."""
        if which.walks and _is_another(which, found.document):
            return None
        try:
            job = records.restore(Job, self._queue, found.document, key=self._layout.job_key(found.job_id.decode()))
        except records.UndecodableError as error:
            logger.warning("queue %r: the record of %s can't be read: %s", self._layout.name, found.job_id, error)
            return None
        return job if which.means(job) else None

    # Changing

    async def bulk(
        self, action: BulkAction, which: JobFilter, *, limit: int = 200, cursor: str | None = None
    ) -> BulkStep:
        """See ``Operations.bulk``."""
        which.allows(action)
        cursors.check_limit(limit)
        # What ends again while the operation goes on stands behind its beginning, and is left to the next one.
        place: cursors.Place | None = None
        if cursor is None:
            seconds, micros = await self._call(("TIME",), again=True)
            horizon = int(seconds) * 1000 + int(micros) // 1000 + 1
            if which.state in ENDED:
                await asyncio.sleep(0.002)  # so that it lies behind before the first job is changed
        else:
            shape = (str, int, str, int) if which.state == "queued" else (str, str)
            first, *place = cursors.read(which, cursor, int, *shape)
            horizon = int(first)
        walk = await self._walk(which, place, limit, limit, horizon if which.state in ENDED else None)
        done = 0
        for start in range(0, len(walk.matches), _CHANGED):
            done += await self._act(action, which, walk.matches[start : start + _CHANGED])
        following = None if walk.place is None else cursors.write(which, [horizon, *walk.place])
        return BulkStep(done, walk.read - done, following)

    async def _act(self, action: BulkAction, which: JobFilter, found: Sequence[tuple[_Found, Job]]) -> int:
        if action == "retry":
            return await self._rerun([(one.job_id, one.document, job) for one, job in found])
        pairs = [value for one, _ in found for value in (one.job_id, one.state)]
        if action == "delete":
            return sum(await self._run(_DELETE, which.state, *pairs))
        reason = records.to_json("aborted with others by an operator")
        answer = await self._run(_ABORT, reason, self._limits.failed_ttl, self._limits.others, *pairs)
        return sum(map(bool, answer))

    async def rerun(self, key: str) -> bool:
        """See ``Operations.rerun``."""
        job_id = self._layout.job_id(key)
        document = await self._call(("GET", job_id), again=True)
        if document is None:
            return False
        try:
            job = records.restore(Job, self._queue, document, key=key)
        except records.UndecodableError:
            return False
        return bool(await self._rerun([(job_id, document, job)]))

    async def _rerun(self, found: Sequence[tuple[bytes | str, bytes, Job]]) -> int:
        args: list[bytes | str | float] = []
        done = size = 0
        for job_id, document, job in found:
            digest = new = b""
            if job.status in (Status.COMPLETE, Status.FAILED, Status.ABORTED) and job.function != _UNREADABLE:
                digest = hashlib.sha1(document, usedforsecurity=False).hexdigest().encode()
                begin_anew(job)
                new = records.encode(job)
            args += (job_id, digest, new, job.priority, max_losses_of(job), terms_of(job, anew=True) if new else "")
            size += len(document)
            if size > _BYTES:
                done, args, size = done + sum(await self._run(_RERUN, *args)), [], 0
        return done + (sum(await self._run(_RERUN, *args)) if args else 0)

    async def delete(self, key: str) -> bool:
        """See ``Operations.delete``."""
        (gone,) = await self._run(_DELETE, "", self._layout.job_id(key), "")
        return bool(gone)

    async def purge(self) -> int:
        """See ``Operations.purge``."""
        waiting = sum(number for state, number in (await self.counts()).items() if state in ("queued", "scheduled"))
        # Beside the jobs, lists hold ids of those that were aborted; and while jobs come, there is no end to wait for.
        enough = 4 * waiting + 100 * LIMIT
        total = seen = 0
        while seen < enough:
            removed, looked = await self._run(_PURGE, LIMIT)
            total, seen = total + removed, seen + looked
            if not looked:
                break
        return total

    # Pausing

    async def pause(self, *, by: str = "") -> None:
        """See ``Operations.pause``."""
        await self._run(_PAUSE, records.to_json({"since": int(time.time() * 1000), "by": by}), again=True)

    async def resume(self) -> None:
        """See ``Operations.resume``."""
        await self._run(_PAUSE, "", again=True)

    async def paused(self) -> Pause | None:
        """See ``Operations.paused``."""
        text = await self._call(("GET", self._layout.key("paused")), again=True)
        if text is None:
            return None
        try:
            fields = json.loads(text)
            return Pause(datetime.fromtimestamp(fields["since"] / 1000, UTC), str(fields["by"]))
        except (ValueError, TypeError, LookupError, OverflowError):
            return Pause(datetime.fromtimestamp(0, UTC), "")  # written by hand; that there is something counts

    # Counting

    async def add_minutes(self, minutes: Sequence[Minute]) -> None:
        """See ``Operations.add_minutes``."""
        triples = [(minute, f"{task}:{field}", number) for minute, task, field, number in tallies.flatten(minutes)]
        for start in range(0, len(triples), _TALLIED):
            await self._run(_TALLY, *(value for triple in triples[start : start + _TALLIED] for value in triple))

    async def minutes(self, since: datetime, until: datetime) -> list[Minute]:
        """See ``Operations.minutes``."""
        wanted = list(tallies.span(since, until))
        found: list[Minute] = []
        for start in range(0, len(wanted), LIMIT):
            part = wanted[start : start + LIMIT]
            commands = [("HGETALL", self._layout.key(f"m:{minute}")) for minute in part]
            for minute, answer in zip(part, await self._ask(partial(_all, commands), again=True), strict=True):
                if answer:
                    found.append(tallies.restore(minute, _fields(answer)))
        return found

    # Asking the server

    async def _run(self, script: Script, *args: bytes | str | float, again: bool = False) -> Any:
        arguments = (self._layout.prefix, *args)
        return await self._ask(lambda link: script.run(link, self._layout.incomplete, arguments), again=again)

    async def _call(self, command: Sequence[bytes | str | float], *, again: bool) -> Any:
        return await self._ask(lambda link: link.call(command), again=again)

    async def _ask(self, ask: Callable[[Link], Awaitable[AnswerT]], *, again: bool) -> AnswerT:
        """Ask, and once more if the connection was a dead one; with ``again`` also where the first may have arrived."""
        try:
            try:
                return await ask(self._link)
            except (RedisError, OSError) as error:
                if isinstance(error, ResponseError) or not (again or never_sent(error)):
                    raise
                return await ask(self._link)
        except (RedisError, OSError) as error:
            raise QueueUnavailableError(self._label, reason_of(error)) from error


async def _all(commands: Sequence[Sequence[str]], link: Link) -> list[Any]:
    answers = await link.call_all(commands, ANSWER_TIMEOUT, last=ANSWER_TIMEOUT)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def _fields(answer: Sequence[bytes]) -> Iterator[tuple[str, str, int]]:
    """Task, field and number out of a minute's hash. A task's name may hold a colon."""
    for name, number in zip(answer[::2], answer[1::2], strict=True):
        task, _, field = name.decode().rpartition(":")
        yield task, field, int(number)


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
