"""Jobs in the memory of one process: for tests, and for trying things out. They are lost with it."""

from __future__ import annotations

from litestar_tasks.queues.memory.queue import MemoryQueue

__all__ = ("MemoryQueue",)
