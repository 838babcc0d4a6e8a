"""A bad network between workers and their broker: it delays, cuts and swallows."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path


class Proxy:
    """Forwards connections from a port of its own to a unix socket, from a thread of its own."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._deaf: set[asyncio.StreamWriter] = set()
        self._answering: set[asyncio.StreamWriter] = set()
        self.delay = 0.0
        self.swallow = False
        """Take every byte and pass none on, on old connections and on new ones."""
        self.swallow_answers = False
        """Pass on what the server is told, and none of its answers."""
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port: int = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        self.url = f"redis://127.0.0.1:{self.port}"

    def cut(self) -> int:
        """Reset every connection, and return how many there were."""
        return asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result()

    def go_deaf(self) -> None:
        """Swallow what comes on the connections that exist, without closing them; new ones work."""
        self._deaf |= self._writers

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self) -> int:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._carry(reader, writer)
        except asyncio.CancelledError:
            writer.close()  # the proxy is being closed; the server would report this task's cancellation as an error

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_unix_connection(str(self._target))
        except OSError:
            writer.close()
            return
        self._writers |= {writer, there_writer}
        self._answering.add(writer)
        await asyncio.gather(self._pump(reader, there_writer), self._pump(there_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                unheard = self.swallow_answers and writer in self._answering
                if not (self.swallow or unheard or writer in self._deaf):
                    writer.write(data)
                    await writer.drain()
        except OSError:
            pass
        finally:
            self._writers.discard(writer)
            self._answering.discard(writer)
            writer.close()

    async def _cut(self) -> int:
        writers, self._writers = self._writers, set()
        for writer in writers:
            writer.transport.abort()
        return len(writers)

    async def _close(self) -> None:
        self._server.close()
        await asyncio.sleep(0)  # who has just come in begins, or nobody would close its connection
        await self._cut()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
