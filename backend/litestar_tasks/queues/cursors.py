"""Where a listing goes on: a text that holds a place in an order, good for one filter only."""

from __future__ import annotations

import base64
import binascii
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

import msgspec

from litestar_tasks.exceptions import ConfigurationError
from litestar_tasks.queues.operations import JobFilter

__all__ = ("Place", "check_limit", "from_text", "milliseconds", "read", "to_text", "write")

Place: TypeAlias = list[int | float | str]
"""A place in an order, in a broker's own terms: it is what comes after it that is listed next."""

_MOST: Final = 500
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_decoder: Final = msgspec.json.Decoder(Place)


def check_limit(limit: int) -> int:
    """Refuse what is no number of jobs for one step.

    Raises:
        ConfigurationError: It is below 1 or above 500.
    """
    if not 1 <= limit <= _MOST:
        raise ConfigurationError(f"limit is {limit!r}; give a whole number from 1 to {_MOST}")
    return limit


def milliseconds(moment: datetime) -> int:
    """A bound in whole milliseconds since the epoch: what is not before the moment is not below it."""
    return -((_EPOCH - moment) // timedelta(milliseconds=1))


def write(which: JobFilter, place: Place) -> str:
    """The cursor of a place in the listing of a filter."""
    return f"{_mark(which)}.{to_text(place)}"


def read(which: JobFilter, cursor: str, *shape: type | tuple[type, ...]) -> Place:
    """The place that a cursor holds.

    Args:
        which: The filter of the listing.
        cursor: The text.
        shape: The types of what the place consists of.

    Raises:
        ConfigurationError: It is not one of such a listing.
    """
    mark, _, text = cursor.partition(".")
    if mark == _mark(which) and (place := from_text(text, *shape)) is not None:
        return place
    raise ConfigurationError(
        f"cursor {cursor[:100]!r} is none of this listing; give that of the page before, with the same filter, or "
        "none to begin anew"
    )


def to_text(place: Place) -> str:
    """A place as a text that may stand in an address."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).rstrip(b"=").decode()


def from_text(text: str, *shape: type | tuple[type, ...]) -> Place | None:
    """The place that ``to_text`` made a text of; None where it holds none of that shape."""
    try:
        place = _decoder.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, msgspec.DecodeError, ValueError):
        return None
    return place if len(place) == len(shape) and all(map(isinstance, place, shape)) else None


def _mark(which: JobFilter) -> str:
    """Tells one filter's cursors from another's."""
    fields = (which.state, which.task, which.tag, which.since, which.until, which.newest_first)
    return hashlib.blake2b(repr(fields).encode(), digest_size=6).hexdigest()
