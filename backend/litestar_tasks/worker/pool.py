"""Processes for sync tasks with ``executor="process"``: one task each at a time, killed where it has to stop."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from litestar_tasks.correlation import correlation_id
from litestar_tasks.queues import records
from litestar_tasks.worker import pooled
from litestar_tasks.worker.child import describe

if TYPE_CHECKING:
    from litestar_tasks.task import AnyTask

__all__ = ("ProcessPool", "UnstorableResultError")

_MAIN: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[3]); "
    "from litestar_tasks.worker.pooled import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)
_START: Final = 60.0
"""Seconds that a new process has to import the task's module."""


class UnstorableResultError(ValueError):
    """The task ran, and its result cannot be stored."""


class RemoteTraceback(Exception):
    """The cause of an exception that comes from another process: what its traceback was there."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class ProcessPool:
    """Runs functions in processes of their own, which import the task's module and are used again.

    A function that is given up is ended with its process, at once, whatever it does; the next one gets another process.
    Processes end with the worker, however that ends.

    Of the pools there are, ``concurrent.futures``' is broken for good by the first process that is killed, and
    ``anyio.to_process`` sends pickles of arguments and results, throws away what a process prints, and leaves a busy
    one behind when its parent is killed.

    Args:
        size: How many there are at the most. They are started when they are first needed.
    """

    def __init__(self, size: int) -> None:
        self._places = asyncio.Semaphore(size)
        self._idle: list[_Process] = []

    async def run(self, task: AnyTask, payload: dict[str, Any] | None, limit: AbstractContextManager[object]) -> Any:
        """Run a task, and return its result in JSON's own types.

        Args:
            task: The task, which has to be found by its name in its module.
            payload: The arguments as they are stored.
            limit: Limits the time of the function, from its start.

        Raises:
            UnstorableResultError: The result cannot be stored.
            ChildProcessError: The process ended before the task did, or could not be started.
            Exception: What the task raised.
        """
        _, reference = task.__reduce__()
        request = {"task": reference, "kwargs": payload or {}, "correlation_id": correlation_id.get()}
        async with self._process() as process:
            await process.start(records.to_json(request))
            with limit:
                kind, content = await process.receive()
        if kind == pooled.ERROR:
            error, text = pickle.loads(content)  # noqa: S301  # from a process of ours, over a socket without a name
            raise error from RemoteTraceback(text)
        if kind == pooled.UNSTORABLE:
            raise UnstorableResultError(content.decode())
        return records.decode(content)

    async def close(self) -> None:
        """End the idle processes. Those that are busy end with what they are busy with."""
        idle, self._idle = self._idle, []
        await asyncio.gather(*(process.kill() for process in idle))

    @asynccontextmanager
    async def _process(self) -> AsyncGenerator[_Process, None]:
        """A process for the block; it is killed with a block that does not come to its end."""
        async with self._places:
            process = self._take_idle() or await _Process.make()
            try:
                yield process
            except BaseException:
                await process.kill()
                raise
            self._idle.append(process)

    def _take_idle(self) -> _Process | None:
        while self._idle:
            if (process := self._idle.pop()).alive:
                return process
        return None


class _Process:
    def __init__(
        self, popen: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._popen = popen
        self._reader = reader
        self._writer = writer

    @classmethod
    async def make(cls) -> _Process:
        ours, theirs = socket.socketpair()
        with theirs:
            # Not by asyncio, whose way of waiting for processes depends on the event loop and its thread.
            popen = subprocess.Popen(  # noqa: ASYNC220  # it takes a millisecond or two
                [sys.executable, "-c", _MAIN, str(theirs.fileno()), str(os.getpid()), json.dumps(sys.path)],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        try:
            return cls(popen, *await asyncio.open_unix_connection(sock=ours))
        except BaseException:
            popen.kill()
            popen.wait()
            ours.close()
            raise

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    async def start(self, request: bytes) -> None:
        self._writer.write(pooled.LENGTH.pack(len(request)) + request)
        try:
            async with asyncio.timeout(_START):
                kind, content = await self.receive()
        except TimeoutError:
            raise ChildProcessError(f"the process could not import the task within {_START:g} s") from None
        if kind != pooled.STARTED:
            error, text = pickle.loads(content)  # noqa: S301  # as above
            raise error from RemoteTraceback(text)

    async def receive(self) -> tuple[bytes, bytes]:
        try:
            (length,) = pooled.LENGTH.unpack(await self._reader.readexactly(pooled.LENGTH.size))
            answer = await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, OSError):
            await self.kill()
            raise ChildProcessError(f"the process that ran the task {describe(self._popen.returncode)}") from None
        return answer[:1], answer[1:]

    async def kill(self) -> None:
        """End the process, and wait until it has ended, also where the caller is cancelled meanwhile."""
        if self._popen.returncode is None:
            self._popen.kill()
        self._writer.close()
        ended = asyncio.get_running_loop().run_in_executor(None, self._popen.wait)
        while not ended.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({ended})
