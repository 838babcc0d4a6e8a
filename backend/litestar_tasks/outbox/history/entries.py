"""Rows of the history, made of jobs: bounded, and without what is secret."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from saq.job import Status

from litestar_tasks.correlation import CORRELATION
from litestar_tasks.follow_ups import PARENT
from litestar_tasks.job import ENDED
from litestar_tasks.keyring import is_sealed
from litestar_tasks.outbox.history.models import COMPLETE
from litestar_tasks.queues.history import HISTORY, history
from litestar_tasks.queues.records import to_json
from litestar_tasks.redaction import MASK, is_secret_name, masked_end, masked_text

if TYPE_CHECKING:
    from saq.job import Job

    from litestar_tasks.queues.base import Moment

__all__ = ("Entry", "entry")

Entry: TypeAlias = dict[str, Any]
"""A row's values by column. One that is not there is NULL."""

_STAGES: Final[Mapping[Moment, int]] = {"enqueued": 0, "attempted": 1, "ended": 2}
_ARGUMENT: Final = 10_000
"""Characters of each argument of a job. One that goes beyond is withheld."""
_RESULT: Final = 1_000
_LINE: Final = 500
_TRACEBACK: Final = 10_000
_LONGEST: Final = 600
"""Characters of a tag, a correlation id and the like: as many as an index of Postgres takes, whichever they are."""
_MARGIN: Final = 1_024
_DEEPEST: Final = 32
_PLAIN: Final = frozenset({int, float, bool, type(None)})
"""Types of values that hide nothing."""
_OF_META: Final = {"tag": "tag", PARENT: "parent", CORRELATION: "correlation"}
"""Columns that stand in a job's ``meta``, by their names there."""


def entry(job: Job, label: str, job_id: str, moment: Moment) -> Entry:
    """The row of a job, as it stands after something has happened to it.

    Most jobs are complete with their first attempt, and leave most columns empty: nothing is made or sent for those.

    Args:
        job: Its record, or a copy of it.
        label: The label of its queue.
        job_id: Its id.
        moment: What has happened.
    """
    enqueued, ended = int(job.queued), int(job.completed or job.touched or job.queued)
    values: Entry = {
        "id": job_id,
        "enqueued": enqueued or ended,  # what nobody could read does not say when
        "task": _name(job.function),
        "queue": label,
        "stage": _STAGES[moment],
        "priority": int(job.priority),
        "attempts": int(job.attempts),
        "arguments": "{}",
    }
    if job.kwargs:
        _add_arguments(values, job.kwargs)
    meta = job.meta
    if meta:
        values |= {column: _text(meta[name]) for name, column in _OF_META.items() if name in meta}
        if HISTORY in meta:
            values["log"] = _log(job)
    if moment == "ended":
        values["changed"] = values["ended"] = ended
        values["started"] = int(job.started) or None
        if job.worker_id:
            values["worker"] = _name(job.worker_id)
        if job.status is Status.COMPLETE:
            values["status"] = COMPLETE
            if job.result is not None:
                values["result"] = _summary(job.result)
        else:
            values["status"] = job.status.value
            values |= _failure(job, meta or {})
    else:
        values["changed"] = changed = int(job.touched) if moment == "attempted" else enqueued
        values["status"] = "scheduled" if job.scheduled * 1000 > changed else "queued"
    return values


def _log(job: Job) -> str | None:
    """The attempts before the last one of a job that has ended, which is the row's own, or all of one that has not."""
    past = history(job)
    return to_json(past).decode() if past else None


def _failure(job: Job, meta: Mapping[str, Any]) -> Entry:
    how = meta.get(ENDED)
    how = cast("dict[str, Any]", how) if isinstance(how, dict) else {}
    text = masked_end(job.error.strip(), _TRACEBACK) if job.error else ""
    return {
        "error_type": _text(how.get("error_type")),
        "error": _text(text.rpartition("\n")[2][-_LINE:]),
        "traceback": _clean(text) if "\n" in text else None,
        "reason": _text(how.get("reason")),
    }


def _add_arguments(values: Entry, kwargs: Mapping[str, Any]) -> None:
    """Add the arguments as JSON, and the names of those that had to be changed."""
    for name, value in kwargs.items():
        if type(value) not in _PLAIN or is_secret_name(name):
            break
    else:
        values["arguments"] = to_json(kwargs).decode()
        return
    kept: dict[str, Any] = {}
    withheld: list[str] = []
    for name, value in kwargs.items():
        masking = _Masking(_ARGUMENT)
        kept[name] = masking.named(name, value)
        if masking.changed:
            withheld.append(name)
    values["arguments"] = to_json(kept).decode()
    if withheld:
        values["withheld"] = to_json(withheld).decode()


def _summary(result: Any) -> str:
    if type(result) in _PLAIN:
        return to_json(result).decode()
    # What is cut has to stay JSON, or nobody could tell names from values in it.
    limit = _RESULT
    while len(text := to_json(_Masking(limit).value(result)).decode()) > 2 * _RESULT and limit:
        limit //= 2
    return text


class _Masking:
    """Hides what is secret in a value, and whatever comes after so many characters.

    Args:
        left: The characters.

    Attributes:
        changed: Whether it had to hide something.
    """

    def __init__(self, left: int) -> None:
        self._left = left
        self.changed = False

    def named(self, name: str, value: Any, depth: int = 0) -> Any:
        """What may be kept of a value that stands under a name."""
        self._left -= len(name)
        if is_sealed(value):
            return value  # encrypted: whoever runs the job again needs it
        if is_secret_name(name) and value is not None:
            return self._hidden()
        return self.value(value, depth)

    def value(self, value: Any, depth: int = 0) -> Any:
        """What may be kept of a value."""
        if is_sealed(value):
            return value
        if value is None or isinstance(value, bool | int | float):
            self._left -= 8
            return value
        if self._left <= 0 or depth > _DEEPEST:
            return self._hidden("…")
        if isinstance(value, str):
            return self._text(value)
        self._left -= 2  # its brackets
        if isinstance(value, Mapping):
            found: dict[str, Any] = {}
            for name, item in cast("Mapping[str, Any]", value).items():
                if self._left <= 0:
                    self._hidden()
                    break
                found[self._text(str(name))] = self.named(str(name), item, depth + 1)
            return found
        return self._items(cast("Iterable[Any]", value), depth)

    def _items(self, value: Iterable[Any], depth: int) -> list[Any]:
        found: list[Any] = []
        for item in value:
            if self._left <= 0:
                self._hidden()
                break
            found.append(self.value(item, depth + 1))
        return found

    def _text(self, text: str) -> str:
        limit = self._left
        self._left -= len(text)
        masked = masked_text(text[: limit + _MARGIN])[:limit]
        if masked != text:
            self.changed = True
        return masked

    def _hidden(self, sign: str = MASK) -> str:
        self.changed = True
        return sign


@lru_cache(maxsize=1_000)
def _name(value: str) -> str | None:
    """The text of a name, of which there are few."""
    return _text(value)


def _text(value: object) -> str | None:
    return _clean(str(value)[:_LONGEST]) if value is not None and value != "" else None


def _clean(text: str) -> str:
    """A text that any database can store."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
