"""Why a server did not do what it was asked, in words for a log."""

from __future__ import annotations

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

__all__ = ("reason_of",)


def reason_of(error: BaseException) -> str:
    """What went wrong, in words for a log."""
    match error:
        case AuthenticationError():
            return f"it refuses the credentials ({error})"
        case NoPermissionError():
            return f"it refuses a command to this user ({error})"
        case BusyLoadingError():
            return "it is loading its data"
        case ReadOnlyError():
            return "it is a read-only replica"
        case ResponseError() if isinstance(error, (MovedError, ClusterCrossSlotError)) or "non local key" in str(error):
            return "it is a node of a cluster; write redis+cluster://"
        case OutOfMemoryError():
            return "it is out of memory"
        case RedisError():
            return str(error).rstrip(".") or type(error).__name__
        case _:
            return f"{type(error).__name__}: {error}"
