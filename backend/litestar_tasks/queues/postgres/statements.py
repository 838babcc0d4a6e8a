"""What is asked of the tables. Each is one statement, so one transaction and one round trip.

``%(queue)s`` is the queue's name on the wire. The server's clock counts everywhere: leases are compared across
machines.
"""

# ruff: noqa: S608  # what is put into these texts are other constants of this module

from __future__ import annotations

from typing import Final

JOBS: Final = "litestar_tasks_jobs"

_TAIL: Final = "nextval('litestar_tasks_positions')"
_KEPT: Final = "(expire_at IS NULL OR expire_at > now())"


def _patched(document: str, fields: str) -> str:
    """A document with fields put behind those that it has, where they win over earlier ones of the same name."""
    return (
        f"CASE WHEN length({document}) > 2 AND get_byte({document}, length({document}) - 1) = 125 "
        f"THEN substring({document} FROM 1 FOR length({document}) - 1) || convert_to(',' || {fields} || '}}', 'UTF8') "
        f"ELSE {document} END"
    )


def _aborted(document: str, reason: str) -> str:
    return _patched(
        document,
        f"""'"status":"aborted","completed":' || (extract(epoch FROM now()) * 1000)::bigint"""
        f""" || ',"error":' || to_json({reason}::text)::text""",
    )


# The claim is over: nobody holds the row any more.
_LET_GO: Final = "owner = NULL, token = NULL, started = NULL, worker = NULL"

# ---------------------------------------------------------------------------------------------------- the producer

_COLUMNS: Final = "key, job, priority, group_key, scheduled, max_losses, attempts, task, tag, follows"
_STORE: Final = f"""
ON CONFLICT (queue, key) DO UPDATE SET
    job = excluded.job, status = 'queued', priority = excluded.priority, group_key = excluded.group_key,
    scheduled = excluded.scheduled, expire_at = NULL, position = excluded.position, task = excluded.task,
    tag = excluded.tag, follows = excluded.follows, attempts = excluded.attempts, enqueued = now(), {_LET_GO},
    losses = 0, lock = NULL, max_losses = excluded.max_losses, abort = NULL, ended = NULL, quarantined = false
WHERE {JOBS}.status NOT IN ('queued', 'active') AND (NOT %(once)s OR {JOBS}.expire_at <= now())
"""

ENQUEUE_ONE: Final = f"""
INSERT INTO {JOBS} (queue, status, {_COLUMNS}) VALUES (
    %(queue)s, 'queued', %(key)s, %(job)b, %(priority)s, %(group_key)s,
    CASE WHEN %(due)s::float8 > extract(epoch FROM now()) THEN to_timestamp(%(due)s::float8) END,
    %(max_losses)s, %(attempts)s, %(task)s, %(tag)s, %(follows)s)
{_STORE} RETURNING 1
"""

ENQUEUE_MANY: Final = f"""
INSERT INTO {JOBS} (queue, status, {_COLUMNS})
SELECT %(queue)s, 'queued', key, job, priority, group_key,
    CASE WHEN due > extract(epoch FROM now()) THEN to_timestamp(due) END, max_losses, attempts, task, tag, follows
FROM unnest(%(keys)s::text[], %(jobs)b::bytea[], %(priorities)s::int[], %(group_keys)s::text[], %(dues)s::float8[],
    %(max_losses)s::int[], %(attempts)s::int[], %(tasks)s::text[], %(tags)s::text[], %(follows)s::bool[])
    WITH ORDINALITY AS new (key, job, priority, group_key, due, max_losses, attempts, task, tag, follows, number)
ORDER BY number
{_STORE} RETURNING key
"""

LOCK_OUT: Final = "SELECT pg_advisory_xact_lock(number) FROM unnest(%(numbers)s::bigint[]) AS number"

STANDING: Final = f"""
SELECT key FROM {JOBS} WHERE queue = %(queue)s AND key = ANY (%(keys)s::text[])
    AND (status IN ('queued', 'active') OR (%(once)s AND {_KEPT}))
"""

HOLDERS: Final = f"""
SELECT lock, key, extract(epoch FROM put_off_until)::float8 FROM {JOBS}
WHERE queue = %(queue)s AND lock = ANY (%(locks)s::text[]) AND status IN ('queued', 'active')
"""

OPEN_WINDOWS: Final = """
SELECT lock, key FROM litestar_tasks_windows
WHERE queue = %(queue)s AND lock = ANY (%(locks)s::text[]) AND expires > now()
"""

BIND: Final = f"""
UPDATE {JOBS} AS job SET lock = new.lock, lock_until_start = new.until_start,
    put_off_until = to_timestamp(new.deadline)
FROM unnest(%(keys)s::text[], %(locks)s::text[], %(until_starts)s::bool[], %(deadlines)s::float8[])
    AS new (key, lock, until_start, deadline)
WHERE job.queue = %(queue)s AND job.key = new.key
"""

WINDOWS: Final = """
INSERT INTO litestar_tasks_windows (queue, lock, key, expires)
SELECT %(queue)s, lock, key, now() + seconds * interval '1 second'
FROM unnest(%(locks)s::text[], %(keys)s::text[], %(windows)s::float8[]) AS new (lock, key, seconds)
ON CONFLICT (queue, lock) DO UPDATE SET key = excluded.key, expires = excluded.expires
"""

REPLACE: Final = f"""
UPDATE {JOBS} SET job = %(job)b, priority = %(priority)s, group_key = %(group_key)s, max_losses = %(max_losses)s,
    tag = %(tag)s, follows = %(follows)s, scheduled = CASE WHEN %(due)s::float8 > extract(epoch FROM now())
        THEN to_timestamp(%(due)s::float8) END
WHERE queue = %(queue)s AND key = %(key)s AND status = 'queued'
"""

# The same for rows of an outbox in another database, each of which is heeded once.
HEED: Final = """
INSERT INTO litestar_tasks_seen (queue, outbox_row, expire_at)
SELECT %(queue)s, unnest(%(rows)s::text[]), now() + interval '7 days'
ON CONFLICT DO NOTHING RETURNING outbox_row
"""

DELIVER_MANY: Final = f"""
WITH fresh AS ({HEED})
INSERT INTO {JOBS} (queue, status, {_COLUMNS})
SELECT %(queue)s, 'queued', key, job, priority, group_key,
    CASE WHEN due > extract(epoch FROM now()) THEN to_timestamp(due) END, max_losses, attempts, task, tag, follows
FROM unnest(%(keys)s::text[], %(jobs)b::bytea[], %(priorities)s::int[], %(group_keys)s::text[], %(dues)s::float8[],
    %(max_losses)s::int[], %(attempts)s::int[], %(tasks)s::text[], %(tags)s::text[], %(follows)s::bool[],
    %(rows)s::text[])
    WITH ORDINALITY AS new (key, job, priority, group_key, due, max_losses, attempts, task, tag, follows, outbox_row,
    number)
WHERE outbox_row IN (SELECT outbox_row FROM fresh) ORDER BY number
{_STORE} RETURNING key
"""

# Heed rows that are gone for one more hour, and forget those whose time is over.
LET_GO_OF_ROWS: Final = """
WITH expired AS (
    DELETE FROM litestar_tasks_seen WHERE queue = %(queue)s AND expire_at <= now()
)
UPDATE litestar_tasks_seen SET expire_at = now() + interval '1 hour'
WHERE queue = %(queue)s AND outbox_row = ANY (%(rows)s::text[]) AND expire_at > now()
"""

# What stays the same as long as the server cannot have forgotten a commit.
SERVER_RUN: Final = "SELECT pg_postmaster_start_time()::text"

# Whether another connection is to the same table, and may write to it: compared with what it answers itself.
IDENTITY: Final = f"""
SELECT pg_postmaster_start_time()::text, (SELECT oid FROM pg_database WHERE datname = current_database())::text,
    to_regclass('{JOBS}')::oid::text, CASE WHEN to_regclass('{JOBS}') IS NULL THEN false ELSE
    has_table_privilege('{JOBS}', 'INSERT') AND has_table_privilege('{JOBS}', 'UPDATE')
    AND has_table_privilege('{JOBS}', 'SELECT')
    AND has_sequence_privilege('litestar_tasks_positions', 'USAGE') END
"""

NOTIFY: Final = "SELECT pg_notify(channel, payload) FROM unnest(%s::text[], %s::text[]) AS said (channel, payload)"

# ---------------------------------------------------------------------------------------------------- the reader

STATE: Final = """status, (extract(epoch FROM started) * 1000)::bigint, worker,
    extract(epoch FROM scheduled)::float8"""
ROW: Final = f"key, job, {STATE}"

READ: Final = f"""
SELECT {ROW} FROM {JOBS} WHERE queue = %(queue)s AND key = ANY (%(keys)s::text[]) AND {_KEPT}
"""

CANCEL: Final = f"""
UPDATE {JOBS} SET
    status = CASE status WHEN 'queued' THEN 'aborted' ELSE status END,
    job = CASE status WHEN 'queued' THEN {_aborted("job", "%(reason)s")} ELSE job END,
    ended = CASE status WHEN 'queued' THEN now() END,
    expire_at = CASE status WHEN 'queued' THEN now() + %(failed_ttl)s * interval '1 second' END,
    abort = CASE status WHEN 'active' THEN %(reason)s END
WHERE queue = %(queue)s AND key = ANY (%(keys)s::text[]) AND status = ANY (%(statuses)s::text[])
RETURNING key, status, owner, follows
"""

PATCH: Final = f"""
UPDATE {JOBS} SET job = {_patched("job", "%(fields)s::text")}
WHERE queue = %(queue)s AND key = %(key)s AND status IN ('queued', 'active')
"""

# ---------------------------------------------------------------------------------------------------- the worker

ENTER: Final = "INSERT INTO litestar_tasks_queues (queue) VALUES (%(queue)s) ON CONFLICT DO NOTHING"

REGISTER: Final = """
INSERT INTO litestar_tasks_leases (queue, worker, machine, process, expires)
VALUES (%(queue)s, %(worker)s, %(machine)s, %(process)s, now() + %(lease)s * interval '1 second') RETURNING id
"""

# Say that the server is there. When nobody could say so for a third of a lease, then nobody could renew either, and for
# the length of a lease no lease counts as lost: an outage of the server costs no worker its jobs.
BEAT: Final = """
UPDATE litestar_tasks_queues SET pulse = now(),
    guard = CASE WHEN pulse IS NULL OR pulse < now() - %(lease)s / 3 * interval '1 second'
        THEN now() + %(lease)s * interval '1 second' ELSE guard END
WHERE queue = %(queue)s AND (pulse IS NULL OR pulse < now() - %(lease)s / 30 * interval '1 second')
"""

# Of the jobs it knows nothing: a lock on their table, such as of ALTER TABLE, must cost nobody a lease.
RENEW: Final = f"""
WITH beat AS ({BEAT}), mine AS (
    UPDATE litestar_tasks_leases SET expires = now() + %(lease)s * interval '1 second'
    WHERE id = %(owner)s RETURNING id
)
SELECT count(*) FROM mine
"""

ABORTS: Final = f"""
SELECT token, abort FROM {JOBS}
WHERE queue = %(queue)s AND owner = %(owner)s AND abort IS NOT NULL AND status = 'active'
"""

# Jobs that are due go to the tail of the ready ones.
# One at a time: of two, one could make later jobs ready, and claim them, before the other has made earlier ones ready.
PROMOTE: Final = f"""
WITH due AS MATERIALIZED (
    SELECT key, {_TAIL} AS place FROM (
        SELECT key FROM {JOBS} AS job,
            (SELECT pg_try_advisory_xact_lock(hashtextextended('litestar_tasks_due:' || %(queue)s, 0)) AS mine) AS turn
        WHERE mine AND queue = %(queue)s AND status = 'queued' AND scheduled IS NOT NULL AND scheduled <= now()
        ORDER BY scheduled, position LIMIT %(limit)s FOR UPDATE OF job SKIP LOCKED
    ) AS found
)
UPDATE {JOBS} AS job SET scheduled = NULL, position = due.place FROM due
WHERE job.queue = %(queue)s AND job.key = due.key
RETURNING 1
"""

# Claims are given only to who holds a lease. Of a group one job is taken, where none of it runs; where two workers take
# one each at the same moment the unique index refuses the second.
# The answer has at least one row: whether there is a lease, whether the queue is paused, how many jobs were in reach,
# seconds until the next job is due, then the claim.
CLAIM: Final = f"""
WITH picked AS MATERIALIZED (
    SELECT key, priority, position, group_key FROM {JOBS} AS job
    WHERE queue = %(queue)s AND status = 'queued' AND scheduled IS NULL
        AND EXISTS (SELECT FROM litestar_tasks_leases WHERE id = %(owner)s)
        AND NOT EXISTS (SELECT FROM litestar_tasks_queues WHERE queue = %(queue)s AND paused IS NOT NULL)
        AND (group_key IS NULL OR NOT EXISTS (
            SELECT FROM {JOBS} AS running
            WHERE running.queue = job.queue AND running.group_key = job.group_key AND running.status = 'active'))
    ORDER BY priority, position LIMIT %(want)s FOR UPDATE SKIP LOCKED
), chosen AS MATERIALIZED (
    SELECT key, nextval('litestar_tasks_tokens') AS token FROM (
        SELECT key, group_key, priority, position,
            row_number() OVER (PARTITION BY group_key ORDER BY priority, position) AS nth,
            row_number() OVER (ORDER BY priority, position) AS turn
        FROM picked ORDER BY turn
    ) AS ordered WHERE group_key IS NULL OR (nth = 1 AND NOT EXISTS (
        SELECT FROM {JOBS} AS earlier
        WHERE earlier.queue = %(queue)s AND earlier.group_key = ordered.group_key AND earlier.status = 'queued'
            AND earlier.scheduled IS NULL
            AND (earlier.priority, earlier.position) < (ordered.priority, ordered.position)))
), claimed AS (
    UPDATE {JOBS} AS job SET status = 'active', owner = %(owner)s, token = chosen.token, started = now(),
        worker = %(worker)s, lock = CASE WHEN job.lock_until_start THEN NULL ELSE job.lock END
    FROM chosen WHERE job.queue = %(queue)s AND job.key = chosen.key
    RETURNING job.token, job.key, job.job
)
SELECT state.*, (extract(epoch FROM now()) * 1000)::bigint, claimed.token, claimed.key, claimed.job
FROM (SELECT
    EXISTS (SELECT FROM litestar_tasks_leases WHERE id = %(owner)s),
    EXISTS (SELECT FROM litestar_tasks_queues WHERE queue = %(queue)s AND paused IS NOT NULL),
    (SELECT count(*) FROM picked),
    (SELECT extract(epoch FROM scheduled - now())::float8 FROM {JOBS}
        WHERE queue = %(queue)s AND status = 'queued' AND scheduled IS NOT NULL
        ORDER BY scheduled, position LIMIT 1)
) AS state LEFT JOIN claimed ON true
ORDER BY claimed.token
"""

_WANTED_ENDED: Final = "(job.abort IS NOT NULL AND op.status = 'queued')"

# Write what became of claimed jobs; refused, without an error, where the claim was lost. One that goes back to the
# queue although somebody wants it ended is ended.
SETTLE: Final = f"""
UPDATE {JOBS} AS job SET
    job = CASE WHEN {_WANTED_ENDED} THEN {_aborted("op.job", "job.abort")} ELSE op.job END,
    status = CASE WHEN {_WANTED_ENDED} THEN 'aborted' ELSE op.status END,
    scheduled = CASE WHEN op.delay > 0 AND NOT {_WANTED_ENDED} THEN now() + op.delay * interval '1 second' END,
    position = CASE WHEN op.tail THEN {_TAIL} ELSE job.position END,
    attempts = op.attempts,
    owner = CASE op.status WHEN 'active' THEN job.owner END,
    token = CASE op.status WHEN 'active' THEN job.token END,
    started = CASE op.status WHEN 'active' THEN job.started END,
    worker = CASE op.status WHEN 'active' THEN job.worker END,
    abort = CASE op.status WHEN 'active' THEN job.abort END,
    ended = CASE WHEN op.listed OR {_WANTED_ENDED} THEN now() END,
    expire_at = CASE WHEN {_WANTED_ENDED} THEN now() + %(failed_ttl)s * interval '1 second'
        ELSE now() + op.ttl * interval '1 second' END,
    quarantined = op.quarantined
FROM unnest(%(keys)s::text[], %(tokens)s::bigint[], %(statuses)s::text[], %(jobs)b::bytea[], %(delays)s::float8[],
    %(tails)s::bool[], %(attempts)s::int[], %(listed)s::bool[], %(ttls)s::float8[], %(quarantined)s::bool[])
    AS op (key, token, status, job, delay, tail, attempts, listed, ttl, quarantined)
WHERE job.queue = %(queue)s AND job.key = op.key AND job.token = op.token AND job.status = 'active'
RETURNING op.token, job.status
"""

_BACK: Final = f"""
    status = CASE WHEN abort IS NULL THEN 'queued' ELSE 'aborted' END,
    job = CASE WHEN abort IS NULL THEN job ELSE {_aborted("job", "abort")} END,
    ended = CASE WHEN abort IS NOT NULL THEN now() END,
    expire_at = CASE WHEN abort IS NOT NULL THEN now() + %(failed_ttl)s * interval '1 second' END,
    abort = NULL, {_LET_GO}"""

RELEASE: Final = f"""
UPDATE {JOBS} SET {_BACK}
WHERE queue = %(queue)s AND status = 'active' AND owner = %(owner)s AND token = ANY (%(tokens)s::bigint[])
RETURNING key, status
"""

HELD: Final = (
    f"SELECT token, key, max_losses FROM {JOBS} WHERE queue = %(queue)s AND status = 'active' AND owner = %(owner)s"
)

LEAVE: Final = "DELETE FROM litestar_tasks_leases WHERE id = %(owner)s"
GIVE_UP: Final = "UPDATE litestar_tasks_leases SET expires = '-infinity', leaving = true WHERE id = %(owner)s"
STAY: Final = "UPDATE litestar_tasks_leases SET leaving = true WHERE id = %(owner)s"

# ---------------------------------------------------------------------------------------------------- recovery

GUARD: Final = """
SELECT greatest(0, extract(epoch FROM guard - now()))::float8 FROM litestar_tasks_queues WHERE queue = %(queue)s
"""

EXTEND: Final = """
UPDATE litestar_tasks_leases SET expires = now() + %(lease)s * interval '1 second' WHERE id = %(owner)s RETURNING 1
"""

NEXT_LAPSE: Final = """
SELECT extract(epoch FROM min(expires) - now())::float8 FROM litestar_tasks_leases
WHERE queue = %(queue)s AND expires > now()
"""

# While there is a guard, only a lease that its holder gave up counts as one.
LAPSED: Final = """
SELECT id, worker, leaving FROM litestar_tasks_leases
WHERE queue = %(queue)s AND expires <= CASE WHEN %(guarded)s THEN '-infinity' ELSE now() END AND id <> %(owner)s
ORDER BY expires, id LIMIT 1 FOR UPDATE SKIP LOCKED
"""

# The guard does not hold for it: it protects those of whom only silence is known. Who has renewed since its process was
# seen to have ended was mistaken for it.
ENDED: Final = """
SELECT id, worker, leaving FROM litestar_tasks_leases
WHERE id = %(lost)s AND expires = %(seen)s FOR UPDATE SKIP LOCKED
"""

PROCESSES: Final = """
SELECT id, process, expires FROM litestar_tasks_leases
WHERE queue = %(queue)s AND machine = %(machine)s AND id <> %(owner)s AND expires > '-infinity'
"""

# Jobs that are held under no lease at all: their worker claimed while its lease was being taken away.
ORPHANED: Final = f"""
SELECT owner, coalesce(worker, '?'), false FROM {JOBS} AS job
WHERE queue = %(queue)s AND status = 'active'
    AND NOT EXISTS (SELECT FROM litestar_tasks_leases AS lease WHERE lease.id = job.owner)
LIMIT 1
"""

# What one lost worker held waits at the head again, in the order in which it was claimed: it has its position still.
# Jobs that were lost too often are claimed anew, to be failed.
TAKE: Final = f"""
WITH lost AS MATERIALIZED (
    SELECT key, abort IS NULL AND CASE WHEN %(leaving)s THEN coalesce(max_losses, 0) = 1
        ELSE losses + 1 >= coalesce(max_losses, %(max_losses)s) END AS finished
    FROM {JOBS}
    WHERE queue = %(queue)s AND status = 'active' AND owner = %(lost)s
    ORDER BY token LIMIT %(limit)s FOR UPDATE
)
UPDATE {JOBS} AS job SET
    status = CASE WHEN finished THEN 'active' WHEN abort IS NOT NULL THEN 'aborted' ELSE 'queued' END,
    job = CASE WHEN abort IS NOT NULL THEN {_aborted("job", "abort")} ELSE job END,
    losses = losses + CASE WHEN %(leaving)s THEN 0 ELSE 1 END,
    ended = CASE WHEN abort IS NOT NULL THEN now() END,
    expire_at = CASE WHEN abort IS NOT NULL THEN now() + %(failed_ttl)s * interval '1 second' END,
    abort = NULL,
    owner = CASE WHEN finished THEN %(owner)s::bigint END,
    token = CASE WHEN finished THEN nextval('litestar_tasks_tokens') END,
    started = CASE WHEN finished THEN started END,
    worker = CASE WHEN finished THEN worker END
FROM lost WHERE job.queue = %(queue)s AND job.key = lost.key
RETURNING job.status, job.key, job.token, CASE job.status WHEN 'active' THEN job.job END
"""

# ---------------------------------------------------------------------------------------------------- follow-ups

# What the trigger of the jobs' table has written. Whoever comes at the same time takes others.
OWED: Final = """
SELECT number, job FROM litestar_tasks_owed WHERE queue = %(queue)s
ORDER BY number LIMIT %(limit)s FOR UPDATE SKIP LOCKED
"""
PAID: Final = "DELETE FROM litestar_tasks_owed WHERE number = ANY (%(numbers)s::bigint[])"
OWES: Final = "SELECT EXISTS (SELECT FROM litestar_tasks_owed WHERE queue = %(queue)s)"

# ---------------------------------------------------------------------------------------------------- old records

SWEEP_TURN: Final = """
UPDATE litestar_tasks_queues SET swept = now()
WHERE queue = %(queue)s AND (swept IS NULL OR swept < now() - %(every)s * interval '1 second') RETURNING 1
"""

EXPIRED: Final = f"""
DELETE FROM {JOBS} WHERE queue = %(queue)s AND key IN (
    SELECT key FROM {JOBS} WHERE queue = %(queue)s AND expire_at <= now() AND status NOT IN ('queued', 'active')
    ORDER BY expire_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
) RETURNING 1
"""

# The newest record of a status that is one too many.
BOUNDARY: Final = f"""
SELECT ended, position FROM {JOBS}
WHERE queue = %(queue)s AND status = %(status)s AND ended IS NOT NULL
ORDER BY ended DESC, position DESC OFFSET %(keep)s LIMIT 1
"""

SURPLUS: Final = f"""
DELETE FROM {JOBS} WHERE queue = %(queue)s AND key IN (
    SELECT key FROM {JOBS}
    WHERE queue = %(queue)s AND status = %(status)s AND ended IS NOT NULL
        AND (ended, position) <= (%(ended)s, %(position)s)
    ORDER BY ended, position LIMIT %(limit)s FOR UPDATE SKIP LOCKED
) RETURNING 1
"""

CLOSED_WINDOWS: Final = """
DELETE FROM litestar_tasks_windows WHERE queue = %(queue)s AND lock IN (
    SELECT lock FROM litestar_tasks_windows WHERE queue = %(queue)s AND expires <= now() LIMIT %(limit)s
) AND expires <= now() RETURNING 1
"""

FORGET_WORKERS: Final = "DELETE FROM litestar_tasks_workers WHERE expire_at <= now()"
FORGET_MINUTES: Final = """
DELETE FROM litestar_tasks_minutes
WHERE queue = %(queue)s AND minute < (extract(epoch FROM now()) / 60 - %(minutes)s)::integer
"""

# ---------------------------------------------------------------------------------------------------- operations

MOST_COUNTED: Final = 10_000
"""Jobs of a state that are counted at the most: Postgres can only count rows by walking over them."""


def _counted(condition: str, order: str) -> str:
    """How many rows, along an index, and no further than needed: the latest first, as the oldest may have expired."""
    return (
        f"(SELECT count(*) FROM (SELECT FROM {JOBS} WHERE queue = %(queue)s AND {condition} "
        f"ORDER BY {order} LIMIT {MOST_COUNTED}) AS found)"
    )


_QUEUED: Final = "status = 'queued' AND scheduled IS NULL"
_SCHEDULED: Final = "status = 'queued' AND scheduled IS NOT NULL"
_LATEST: Final = "ended DESC, position DESC"

COUNTS: Final = f"""
SELECT {_counted(_QUEUED, "priority, position")},
    {_counted(f"{_SCHEDULED} AND scheduled <= now()", "scheduled, position")},
    {_counted(f"{_SCHEDULED} AND scheduled > now()", "scheduled, position")},
    {_counted(f"{_SCHEDULED} AND scheduled > now() AND attempts > 0", "scheduled, position")},
    {_counted("status = 'active'", "token")},
    {_counted(f"status = 'complete' AND ended IS NOT NULL AND {_KEPT}", _LATEST)},
    {_counted(f"status = 'failed' AND ended IS NOT NULL AND {_KEPT}", _LATEST)},
    {_counted(f"status = 'aborted' AND ended IS NOT NULL AND {_KEPT}", _LATEST)},
    {_counted(f"quarantined AND {_KEPT}", _LATEST)}
"""
"""In the order queued, due, scheduled, retrying, active, complete, failed, aborted, quarantined."""

LIVE_COUNTS: Final = f"""
SELECT
    (SELECT count(*) FROM {JOBS} WHERE queue = %(queue)s AND status = 'queued' AND scheduled IS NULL),
    (SELECT count(*) FROM {JOBS} WHERE queue = %(queue)s AND status = 'queued' AND scheduled IS NOT NULL
        AND scheduled <= now()),
    (SELECT count(*) FROM {JOBS} WHERE queue = %(queue)s AND status = 'queued' AND scheduled IS NOT NULL
        AND scheduled > now()),
    (SELECT count(*) FROM {JOBS} WHERE queue = %(queue)s AND status = 'active')
"""

# Their documents were read before; one whose row has changed since is left.
RERUN: Final = f"""
UPDATE {JOBS} AS job SET job = new.job, status = 'queued', position = {_TAIL}, attempts = 0, losses = 0,
    scheduled = NULL, enqueued = now(), ended = NULL, expire_at = NULL, quarantined = false,
    lock = new.lock, put_off_until = NULL
FROM unnest(%(keys)s::text[], %(statuses)s::text[], %(positions)s::bigint[], %(jobs)b::bytea[], %(locks)s::text[])
    AS new (key, status, position, job, lock)
WHERE job.queue = %(queue)s AND job.key = new.key AND job.status = new.status AND job.position = new.position
    AND job.status NOT IN ('queued', 'active')
    AND NOT EXISTS (SELECT FROM {JOBS} AS holder
        WHERE holder.queue = %(queue)s AND holder.lock = new.lock AND holder.status IN ('queued', 'active'))
RETURNING job.key
"""

RERUN_READ: Final = f"""
SELECT key, job, status, position FROM {JOBS}
WHERE queue = %(queue)s AND key = ANY (%(keys)s::text[]) AND status NOT IN ('queued', 'active') AND {_KEPT}
"""

HORIZON: Final = "SELECT last_value FROM litestar_tasks_positions"

RETRY_NOW: Final = f"""
UPDATE {JOBS} SET scheduled = NULL, position = {_TAIL}
WHERE queue = %(queue)s AND key = ANY (%(keys)s::text[]) AND status = 'queued'
    AND scheduled IS NOT NULL AND attempts > 0
RETURNING key
"""

DELETE: Final = f"""
DELETE FROM {JOBS} WHERE queue = %(queue)s AND key = ANY (%(keys)s::text[]) AND status = ANY (%(statuses)s::text[])
RETURNING key
"""

# With a condition that names one of the two indexes of waiting jobs, and what to answer of each job.
PURGE: Final = f"""
DELETE FROM {JOBS} WHERE queue = %(queue)s AND key IN (
    SELECT key FROM {JOBS} WHERE queue = %(queue)s AND status = 'queued' AND {{}} AND position <= %(horizon)s
    LIMIT %(limit)s FOR UPDATE SKIP LOCKED
) RETURNING {{}}
"""

PAUSE: Final = """
INSERT INTO litestar_tasks_queues (queue, paused, paused_by) VALUES (%(queue)s, now(), %(by)s)
ON CONFLICT (queue) DO UPDATE SET paused = now(), paused_by = excluded.paused_by
WHERE litestar_tasks_queues.paused IS NULL
"""
RESUME: Final = "UPDATE litestar_tasks_queues SET paused = NULL, paused_by = '' WHERE queue = %(queue)s"
PAUSED: Final = "SELECT paused, paused_by FROM litestar_tasks_queues WHERE queue = %(queue)s AND paused IS NOT NULL"

ADD_MINUTES: Final = """
INSERT INTO litestar_tasks_minutes AS known (queue, minute, task, field, value)
SELECT %(queue)s, minute, task, field, value
FROM unnest(%(minutes)s::int[], %(tasks)s::text[], %(fields)s::text[], %(values)s::bigint[])
    AS new (minute, task, field, value)
ORDER BY minute, task, field
ON CONFLICT (queue, minute, task, field) DO UPDATE SET value = known.value + excluded.value
"""
"""In the order of the key, so that two workers that add at the same time wait for each other in turn."""

MINUTES: Final = """
SELECT minute / %(every)s * %(every)s AS start, task, field, sum(value)::bigint FROM litestar_tasks_minutes
WHERE queue = %(queue)s AND minute BETWEEN %(first)s AND %(last)s GROUP BY start, task, field
"""

WRITE_WORKER: Final = """
INSERT INTO litestar_tasks_workers (queue, worker, info, expire_at)
VALUES (%(queue)s, %(worker)s,
    coalesce(jsonb_set(%(info)s::jsonb, '{process,seen}', to_jsonb((extract(epoch FROM now()) * 1000)::bigint
        + (%(info)s::jsonb #>> '{process,seen}')::numeric::bigint - %(now)s)), %(info)s::jsonb),
    now() + %(ttl)s * interval '1 second')
ON CONFLICT (queue, worker) DO UPDATE SET info = excluded.info, expire_at = excluded.expire_at
"""
WORKERS: Final = """
SELECT worker, info, (extract(epoch FROM now()) * 1000)::bigint FROM litestar_tasks_workers
WHERE queue = %(queue)s AND expire_at > now()
"""

KEPT: Final = _KEPT
