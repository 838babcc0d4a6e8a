"""The names of a queue's keys on Redis. What each holds is drawn in ``scripts/common.lua`` and DELIVERY's table.

==============================  =======  ===========================================================================
``saq:job:<name>:<key>``        string   the job's document; its name is also the channel of its changes of status
``saq:<name>:incomplete``       zset     the state of every job that has not ended, and the fence: see ``common.lua``
``saq:<name>:queued``           list     the jobs of priority 0 that wait; SAQ's producers push here
``saq:<name>:queued:<p>``       list     the lane of another priority; ``lanes`` is the zset of those in use
``saq:<name>:prio``             hash     id to priority, where it is not 0
``saq:<name>:max_losses``       hash     id to the losses that fail it, where it is not the queue's number
``saq:<name>:follows``          hash     id to 1, of jobs that others follow when they have ended
``saq:<name>:owed``             hash     records of such jobs that have ended, until what follows is enqueued, each
                                         under a number that ``owing`` counts
``saq:<name>:inbox:<inc>``      list     what a worker was woken for and has not claimed yet
``saq:<name>:leases``           zset     ``<inc>:<uuid>`` to the moment (ms) at which the worker counts as lost
``saq:<name>:workers``          hash     ``<inc>:<uuid>`` to the worker's id
``saq:<name>:machines``         hash     ``<inc>:<uuid>`` to the machine it is on, where that is known
``saq:<name>:machine:<id>``     hash     ``<inc>:<uuid>`` to its process on that machine: see ``presence.py``
``saq:<name>:left``             set      ``<inc>:<uuid>`` of workers that stopped, and left what they could not end
``saq:<name>:incs``             int      the last incarnation number
``saq:<name>:graves``           zset     incarnations that are gone, for an hour
``saq:<name>:pulse``            string   when somebody last renewed; ``guard`` exists while nobody is recovered
``saq:<name>:aborts``           hash     id to reason (JSON), of running jobs that are to be aborted
``saq:<name>:losses``           hash     id to the number of workers that were lost with it
``saq:<name>:locks``            hash     lock to its holder: see ``common.lua``, also for the next five
``saq:<name>:window:<lock>``    string   the job that stands for all that are alike until the string expires
``saq:<name>:bonds``            hash     id to the lock that it holds and the group that it is in, if any
``saq:<name>:turns``            hash     group to the one of its jobs that runs, or is next
``saq:<name>:parked``           zset     queued jobs that wait for others of their groups; of one group in
                                         ``group:<group>``
``saq:<name>:parkings``         int      how many jobs were set aside so far
``saq:<name>:complete``         zset     finished jobs by the moment (ms) of their end; likewise ``failed``,
                                         ``aborted`` and ``quarantined`` (which is also in ``failed``)
``saq:<name>:retrying``         zset     of the jobs that wait until a moment, those that have failed before
``saq:<name>:paused``           string   who paused the queue and when (JSON); exists while nothing is claimed
``saq:<name>:m:<minute>``       hash     ``<task>:<counter>`` to a number, for a day: see ``tallies.py``
``saq:<name>:seen:<row>``       string   exists for a row of an outbox that has become a job, for a week
``saq:<name>:sched:spec``       hash     id to document of each schedule; ``sched:next`` is the zset of the moments
                                         (ms) at which they are due
``saq:<name>:sched:releases``   hash     what a release declares (a digest) to the moment at which it was first seen
``saq:<name>:sched:live``       zset     workers and their releases by the moment until which they count as alive
``saq:<name>:written``          string   written behind jobs that are to be on disk or on replicas; means nothing
``saq:<name>:ctl``              channel  tells workers what to do at once
==============================  =======  ===========================================================================

On a cluster the name stands in braces: what is between them alone decides on which node a key is, so that all of a
queue are on one. SAQ's producers know no such names.
"""

from __future__ import annotations

__all__ = ("Layout",)


class Layout:
    """The keys of one queue.

    Args:
        name: The queue's name on the wire.
        tagged: Whether it is the hash tag of the keys. Defaults to False.
    """

    __slots__ = ("_job_prefix", "incomplete", "name", "prefix", "queued")

    def __init__(self, name: str, *, tagged: bool = False) -> None:
        self.name = name
        shown = f"{{{name}}}" if tagged else name
        self.prefix = f"saq:{shown}:"
        self._job_prefix = f"saq:job:{shown}:"
        self.incomplete = f"{self.prefix}incomplete"
        """Routes every script."""
        self.queued = f"{self.prefix}queued"

    def job_id(self, key: str) -> str:
        """The id of a job, which is the name of its document and of its channel."""
        return self._job_prefix + key

    def job_key(self, job_id: str) -> str:
        """The key within an id."""
        return job_id[len(self._job_prefix) :]

    def key(self, name: str) -> str:
        """Another of the queue's keys."""
        return self.prefix + name
