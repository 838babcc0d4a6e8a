"""A job's document: SAQ's JSON, written and read fast, and never trusted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from saq.job import Job, Status

if TYPE_CHECKING:
    from saq.queue.base import Queue

__all__ = (
    "UNDECODABLE",
    "UndecodableError",
    "check",
    "completed",
    "decode",
    "encode",
    "is_extensible",
    "mend",
    "restore",
    "to_json",
)

JobT = TypeVar("JobT", bound=Job)

UNDECODABLE: Final = "(undecodable)"
"""What stands for the task of a job whose document could not be read."""

# What a document leaves out. The default of a field that it always has equals no value.
_DEFAULTS: Final[dict[str, Any]] = {
    **{field.name: field.default for field in dataclasses.fields(Job)},
    "meta": {},
}
_STATUSES: Final = {status.value: status for status in Status}
_NUMBER: Final = (int, float)
_TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    "function": str,
    "kwargs": (dict, type(None)),
    "queue": str,
    "key": str,
    "retry_backoff": (bool, int, float),
    "result": object,
    "error": (str, type(None)),
    "status": str,
    "group_key": (str, type(None)),
    "meta": dict,
    "worker_id": (str, type(None)),
    **{
        name: (*_NUMBER, type(None)) if name in {"timeout", "heartbeat"} else _NUMBER
        for name, default in _DEFAULTS.items()
        if isinstance(default, _NUMBER) and name != "retry_backoff"
    },
}
_SHAPES: Final[set[tuple[object, ...]]] = set()
"""Field names and types of documents that were found to be right. Records look alike, so there are few."""
_MOST_SHAPES: Final = 1_000
_BRACE: Final = ord("}")
_Record: Final = msgspec.defstruct(
    "_Record",
    [
        (field.name, Any)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        else (field.name, Any, msgspec.field(default_factory=dict) if field.name == "meta" else field.default)
        for field in dataclasses.fields(Job)
    ],
    kw_only=True,
    omit_defaults=True,
    gc=False,
)
"""A document's fields on their way into JSON, which msgspec writes without those that have their default."""
_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder()


class UndecodableError(ValueError):
    """A stored document that is no job of this queue."""


def encode(job: Job, **changed: Any) -> bytes:
    """The document of a job; fields that have their default are left out, as SAQ does.

    Args:
        job: The job.
        changed: Fields to be written with another value than the job's.
    """
    fields = {**job.__dict__, **changed}
    if (queue := fields["queue"]) is not None:
        fields["queue"] = queue.name
    try:
        record = _Record(**fields)
    except TypeError:  # there is something that is no field of SAQ's, such as the token of a claim
        record = _Record(**{name: value for name, value in fields.items() if name in _DEFAULTS})
    return to_json(record)


def check(job: Job) -> None:
    """Refuse a job whose document nobody could read: what a task does with its own may be anything.

    Raises:
        TypeError: A field is not what it has to be.
    """
    for name, value in job.__dict__.items():
        if name != "queue" and not isinstance(value, _TYPES.get(name, object)):
            raise TypeError(f"its {name!r} is a {type(value).__name__}")


def mend(job: Job) -> None:
    """Leave out of a job's fields what cannot be stored."""
    for name in job.__dict__.keys() & _DEFAULTS.keys() - {"queue", "function", "key"}:
        value = getattr(job, name)
        if name == "meta":
            known: Mapping[Any, Any] = value if isinstance(value, dict) else {}
            job.meta = {key: one for key, one in known.items() if isinstance(key, str) and _storable(one)}
        elif not isinstance(value, _TYPES.get(name, object)) or not _storable(value):
            setattr(job, name, _DEFAULTS[name])


def completed(job: Job, document: bytes, worker: bytes) -> bytes:
    """The document of a job that is complete, from the one that it was claimed with.

    What the attempt has changed is put behind it, where it wins: the last of several fields of a name counts, in every
    reader of JSON. That takes less time than ``encode``. A document never grows by it twice, because a job that
    goes back to its queue is encoded anew.

    Args:
        job: The job, of which nothing else has changed.
        document: What was claimed; see ``is_extensible``.
        worker: The worker's id as JSON.
    """
    return (
        b'%b,"status":"complete","started":%d,"worker_id":%b,"attempts":%d,"touched":%d,"completed":%d,'
        b'"progress":1.0,"result":%b}'
        % (
            document[:-1],
            job.started,
            worker,
            job.attempts,
            job.touched,
            job.completed,
            to_json(job.result),
        )
    )


def is_extensible(fields: Mapping[str, Any], document: bytes) -> bool:
    """Whether ``completed`` may be used for a job of this document: it says nothing of an earlier end."""
    return document[-1] == _BRACE and "error" not in fields and "result" not in fields


def to_json(value: Any) -> bytes:
    """JSON, as msgspec writes it.

    It writes null for NaN and infinity, which the standard library's JSON, and so SAQ's, keeps; it refuses text that is
    not Unicode, which the other escapes. So where either may be in a value, the other one writes it.
    """
    try:
        data = _encoder.encode(value)
    except UnicodeEncodeError:
        return _to_json_slowly(value)
    if b"null" in data and _has_unwritable_float(value):
        return _to_json_slowly(value)
    return data


def decode(data: bytes | str) -> Any:
    """The value of a JSON text, whichever of the two wrote it.

    Raises:
        UndecodableError: It is none.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise UndecodableError(f"the document is not JSON: {error}") from None
    except RecursionError:
        raise UndecodableError("the document is nested too deeply") from None


def restore(kind: type[JobT], queue: Queue, data: bytes | dict[str, Any], *, key: str | None = None) -> JobT:
    """A job from its document.

    Args:
        kind: The class of the job.
        queue: The queue that it was read from.
        data: The document, decoded or not; a decoded one is taken over.
        key: The key that it was stored under, to be compared with the one it says. Defaults to None: not compared.

    Raises:
        UndecodableError: The document is no job of this queue, or one of a newer SAQ.
    """
    fields = data if isinstance(data, dict) else decode(data)
    if not isinstance(fields, dict):
        raise UndecodableError(f"the document is a JSON {type(fields).__name__}, not an object")
    if (shape := (*fields, *map(type, fields.values()))) not in _SHAPES:
        _check_types(fields)
        if len(_SHAPES) < _MOST_SHAPES:
            _SHAPES.add(shape)
    if fields.get("queue") != queue.name:
        raise UndecodableError(f"the document says that it belongs to queue {fields.get('queue')!r}")
    if "function" not in fields or "key" not in fields:
        raise UndecodableError("the document names no function or no key")
    if key is not None and fields["key"] != key:
        raise UndecodableError(f"the document was stored under the key {key!r} and says {fields['key']!r}")
    status = _STATUSES.get(fields.get("status", "new"))
    if status is None:
        raise UndecodableError(f"the document has an unknown status {fields['status']!r}")
    fields["queue"] = queue
    fields["status"] = status
    if "meta" not in fields:
        fields["meta"] = {}
    job = kind.__new__(kind)
    job.__dict__ = fields  # what a document leaves out, the class has
    return job


def _storable(value: Any) -> bool:
    try:
        to_json(value)
    except Exception:  # whatever a foreign object raises
        return False
    return True


def _check_types(fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        expected = _TYPES.get(name)
        if expected is None:
            raise UndecodableError(f"the document has a field {name!r}, which this version of SAQ does not know")
        if not isinstance(value, expected):
            raise UndecodableError(f"the document's {name!r} is a {type(value).__name__}")


def _to_json_slowly(value: Any) -> bytes:
    if isinstance(value, _Record):
        defaults = _DEFAULTS
        value = {name: found for name, found in msgspec.structs.asdict(value).items() if found != defaults[name]}
    return json.dumps(value).encode()


def _has_unwritable_float(value: Any) -> bool:
    if isinstance(value, _Record):
        return any(_has_unwritable_float(getattr(value, name)) for name in _DEFAULTS)
    if isinstance(value, float):
        return value != value or value in (float("inf"), float("-inf"))  # only NaN differs from itself
    if isinstance(value, dict):
        return any(map(_has_unwritable_float, value.values()))
    return isinstance(value, (list, tuple, set, frozenset)) and any(map(_has_unwritable_float, value))
