"""What a process of the pool does: it runs sync tasks, one after the other, as its worker asks for them.

What it is asked and what it answers are frames: four bytes of length, and so many bytes. A request is JSON. An answer
begins with its kind, one of the four below. Arguments and results cross as the JSON that the broker stores, and only
the exceptions of tasks as pickles, which nobody else can put there: the socket has no name, and two ends.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from typing import Any, BinaryIO, Final, cast

from litestar_tasks.correlation import correlation_id
from litestar_tasks.queues import records
from litestar_tasks.task import load
from litestar_tasks.worker.ordinary import ordinary

__all__ = ("ERROR", "LENGTH", "RESULT", "STARTED", "UNSTORABLE", "main")

LENGTH: Final = struct.Struct(">I")
STARTED: Final = b"s"
"""The function begins now."""
RESULT: Final = b"r"
"""It has returned this, as JSON."""
UNSTORABLE: Final = b"u"
"""It has returned what cannot be stored, for this reason."""
ERROR: Final = b"e"
"""It has raised this: a pickle of the exception and its traceback as a text."""

_SET_DEATH_SIGNAL: Final = 1


def main(fd: int, parent: int) -> None:
    """Serve until the other end is closed.

    Args:
        fd: The socket.
        parent: The worker's process id; this process does not outlive it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        # Ctrl-C and service managers mean every process; it is the worker that decides how long tasks have.
        signal.signal(number, lambda *_: None)
    _end_with(parent)
    os.set_inheritable(fd, False)
    with socket.socket(fileno=fd) as connection, connection.makefile("rwb") as stream:
        while header := stream.read(LENGTH.size):
            request = records.decode(stream.read(LENGTH.unpack(header)[0]))
            answer = _run(cast("BinaryIO", stream), request)
            _send(cast("BinaryIO", stream), answer)


def _run(stream: BinaryIO, request: dict[str, Any]) -> bytes:
    try:
        task = load(*request["task"])
        args, kwargs = task.payload.decode(request["kwargs"])
        correlation_id.set(request["correlation_id"])
        _send(stream, STARTED)
        value = task.fn(*args, **kwargs)
    except BaseException as error:
        return ERROR + _pickled(error)
    try:
        return RESULT + records.to_json(task.result.encode(value))
    except (TypeError, ValueError, RecursionError) as error:
        return UNSTORABLE + str(error).encode("utf-8", "replace")
    except Exception as error:  # of the code that a result's own classes run
        return UNSTORABLE + traceback.format_exception_only(error)[0].strip().encode("utf-8", "replace")


def _send(stream: BinaryIO, answer: bytes) -> None:
    stream.write(LENGTH.pack(len(answer)) + answer)
    stream.flush()


def _pickled(error: BaseException) -> bytes:
    text = "".join(traceback.format_exception(error))
    try:
        data = pickle.dumps((error, text))
        pickle.loads(data)  # noqa: S301  # our own; some exceptions can be written and not be read
    except Exception:
        shown = traceback.format_exception_only(error)[-1].strip()
        return pickle.dumps((RuntimeError(f"{shown} (the exception itself cannot be pickled)"), text))
    return data if isinstance(error, Exception) else pickle.dumps((ordinary(error), text))


def _end_with(parent: int) -> None:
    """Let the kernel end this process, whatever it is doing, when its worker has ended; elsewhere look for that."""
    try:
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    except (AttributeError, OSError, TypeError):
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        sys.exit()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
