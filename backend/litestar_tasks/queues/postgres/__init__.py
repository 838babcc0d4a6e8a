"""Jobs on Postgres, in SAQ's documents: claimed under fencing tokens, kept by leases, settled in batches.

The table of jobs has SAQ's columns under SAQ's names, and ours beside them, but it is not SAQ's ``saq_jobs``:

* SAQ's primary key is ``key``, so that the same key on two queues is one job. Here it is ``(queue, key)``, on which
  SAQ's own ``ON CONFLICT (key)`` would fail, so a stock producer couldn't share the table anyway.
* A stock worker on the same table would claim jobs past the fence, and a stock queue migrates its tables whenever it
  connects. In tables of their own neither can happen by mistake.

What waits keeps its ``position``: SAQ orders by the second in which jobs became due. A claim changes the row and not
the document, which tells only how a job began or ended; who reads a record puts the row's state over it.

The parts, each in a module of its own: ``queue`` is the face, ``schema`` has the tables and their migrations,
``statements`` what is asked of them, ``connection`` reaches the server, ``producer`` stores jobs, ``consumer`` holds a
worker's claims, with ``settling`` for what is to become of them, ``lease`` for its sign of life and ``upkeep`` for
others who have lost theirs and for records that have had their time; ``listener`` hears what is announced, ``records``
reads rows, ``listings`` pages through them.
"""

from litestar_tasks.queues.postgres.queue import PostgresQueue

__all__ = ("PostgresQueue",)
