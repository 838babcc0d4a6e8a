"""Jobs on Redis or Valkey, in SAQ's documents: claimed under fencing tokens, kept by leases, settled in batches.

The parts, each in a module of its own: ``queue`` is the face, ``layout`` names the keys, ``scripts/`` changes them,
``connection`` reaches the server, ``producer`` stores jobs, ``consumer`` holds a worker's claims, with ``cycles`` for
its traffic, ``lease`` for its sign of life and ``recovery`` for others who have lost theirs; ``announcements`` hears
what others say.
"""

from litestar_tasks.queues.redis.queue import RedisQueue

__all__ = ("RedisQueue",)
