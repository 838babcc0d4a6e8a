"""The tables, as versioned steps of plain SQL. They are made by ``litestar tasks migrate``, and by nothing else.

A step is never edited once it has been released; a change is a further step, which the release before can live with:
tables are migrated first, while its processes still run.
"""

from __future__ import annotations

from typing import Final

__all__ = ("LEDGER", "STEPS", "VERSION", "done", "script")

STEPS: Final[tuple[tuple[str, str], ...]] = (
    (
        "jobs, leases, queues, workers and counters",
        """\
CREATE SEQUENCE litestar_tasks_positions;
CREATE SEQUENCE litestar_tasks_tokens;

-- One row for each job. Columns of SAQ's table keep their names: key, job (its JSON), queue, status, priority,
-- group_key, scheduled, expire_at.
CREATE TABLE litestar_tasks_jobs (
    queue text NOT NULL,
    key text NOT NULL,
    job bytea NOT NULL,
    status text NOT NULL,                 -- queued, active, complete, failed, aborted
    priority integer NOT NULL DEFAULT 0,  -- lower first
    group_key text,                       -- of one group, one job runs at a time
    scheduled timestamptz,                -- waits until then; null: ready
    expire_at timestamptz,                -- of the record of a job that has ended; null: never
    position bigint NOT NULL DEFAULT nextval('litestar_tasks_positions'),  -- first in, first out
    task text NOT NULL,
    tag text,
    attempts integer NOT NULL DEFAULT 0,
    enqueued timestamptz NOT NULL DEFAULT now(),
    owner bigint,                         -- the lease that an active job is held under
    token bigint,                         -- the fence: names the claim, and grows from claim to claim
    started timestamptz,
    worker text,
    losses integer NOT NULL DEFAULT 0,    -- workers that were lost with it
    max_losses integer,                   -- with so many it is failed; null: the queue's number
    abort text,                           -- why an active job is to be ended
    ended timestamptz,                    -- null for records that are not listed, too
    quarantined boolean NOT NULL DEFAULT false,
    PRIMARY KEY (queue, key)
) WITH (
    -- Every job is written three times: dead rows are cleaned up early, or claims would have to step over them.
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0.05
);
CREATE INDEX litestar_tasks_ready ON litestar_tasks_jobs (queue, priority, position)
    WHERE status = 'queued' AND scheduled IS NULL;
CREATE INDEX litestar_tasks_due ON litestar_tasks_jobs (queue, scheduled, position)
    WHERE status = 'queued' AND scheduled IS NOT NULL;
CREATE INDEX litestar_tasks_retrying ON litestar_tasks_jobs (queue, scheduled, position)
    WHERE status = 'queued' AND scheduled IS NOT NULL AND attempts > 0;
CREATE INDEX litestar_tasks_active ON litestar_tasks_jobs (queue, token) WHERE status = 'active';
CREATE UNIQUE INDEX litestar_tasks_groups ON litestar_tasks_jobs (queue, group_key)
    WHERE status = 'active' AND group_key IS NOT NULL;
CREATE INDEX litestar_tasks_aborting ON litestar_tasks_jobs (queue, owner) WHERE abort IS NOT NULL;
CREATE INDEX litestar_tasks_ended ON litestar_tasks_jobs (queue, status, ended, position) INCLUDE (expire_at)
    WHERE ended IS NOT NULL;
CREATE INDEX litestar_tasks_quarantined ON litestar_tasks_jobs (queue, ended, position) INCLUDE (expire_at)
    WHERE quarantined;
CREATE INDEX litestar_tasks_expiring ON litestar_tasks_jobs (queue, expire_at) WHERE expire_at IS NOT NULL;

-- One row for each worker process and queue that it works on.
CREATE TABLE litestar_tasks_leases (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue text NOT NULL,
    worker text NOT NULL,
    started timestamptz NOT NULL DEFAULT now(),
    expires timestamptz NOT NULL,
    machine text,                         -- where the process is one, and which: others there see whether it has ended
    process text,
    leaving boolean NOT NULL DEFAULT false  -- it has stopped, but for code that cannot be; its jobs lose nothing
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 200);
CREATE INDEX litestar_tasks_lease_of ON litestar_tasks_leases (queue);

CREATE TABLE litestar_tasks_queues (
    queue text PRIMARY KEY,
    paused timestamptz,
    paused_by text NOT NULL DEFAULT '',
    pulse timestamptz,                    -- when somebody last renewed a lease
    guard timestamptz,                    -- until then no lease counts as lost
    swept timestamptz                     -- when old records were last removed
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 200);

-- What workers say of themselves, for those who look.
CREATE TABLE litestar_tasks_workers (
    queue text NOT NULL,
    worker text NOT NULL,
    info jsonb NOT NULL,
    expire_at timestamptz NOT NULL,
    PRIMARY KEY (queue, worker)
);

-- What the attempts of a minute came to, by task: counters and buckets of histograms; kept for a day.
CREATE TABLE litestar_tasks_minutes (
    queue text NOT NULL,
    minute integer NOT NULL,              -- since the epoch
    task text NOT NULL,
    field text NOT NULL,
    value bigint NOT NULL,
    PRIMARY KEY (queue, minute, task, field)
);
""",
    ),
    (
        "locks",
        """\
ALTER TABLE litestar_tasks_jobs
    ADD COLUMN lock text,                 -- what calls that are alike have in common; null: it takes none
    ADD COLUMN lock_until_start boolean NOT NULL DEFAULT false,  -- it is given up when the job starts, not when it ends
    ADD COLUMN put_off_until timestamptz; -- calls that replace its arguments put it off at most to then; null: for ever
CREATE UNIQUE INDEX litestar_tasks_locks ON litestar_tasks_jobs (queue, lock)
    WHERE lock IS NOT NULL AND status IN ('queued', 'active');
-- Who is next of a group, also while another worker has just locked that row.
CREATE INDEX litestar_tasks_turns ON litestar_tasks_jobs (queue, group_key, priority, position)
    WHERE status = 'queued' AND scheduled IS NULL AND group_key IS NOT NULL;

-- For how long a job stands for calls that are alike, whatever becomes of it.
CREATE TABLE litestar_tasks_windows (
    queue text NOT NULL,
    lock text NOT NULL,
    key text NOT NULL,
    expires timestamptz NOT NULL,
    PRIMARY KEY (queue, lock)
);
CREATE INDEX litestar_tasks_closing ON litestar_tasks_windows (queue, expires);
""",
    ),
    (
        "what follows jobs that have ended",
        """\
ALTER TABLE litestar_tasks_jobs ADD COLUMN follows boolean NOT NULL DEFAULT false;  -- whether anything follows the job

-- Records of such jobs that have ended, until what follows them is enqueued.
CREATE TABLE litestar_tasks_owed (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue text NOT NULL,
    job bytea NOT NULL
);
CREATE INDEX litestar_tasks_owed_of ON litestar_tasks_owed (queue, number);

-- Whichever statement ends a job, this is part of it.
CREATE FUNCTION litestar_tasks_owe() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO litestar_tasks_owed (queue, job) VALUES (NEW.queue, NEW.job);
    RETURN NULL;
END
$$;
CREATE TRIGGER litestar_tasks_owe AFTER UPDATE OF status ON litestar_tasks_jobs FOR EACH ROW
    WHEN (NEW.follows AND OLD.status IN ('queued', 'active') AND NEW.status NOT IN ('queued', 'active'))
    EXECUTE FUNCTION litestar_tasks_owe();
""",
    ),
    (
        "the rows of outboxes that have become jobs",
        """\
-- A row of an outbox in another database is heeded once, as long as this is kept.
CREATE TABLE litestar_tasks_seen (
    queue text NOT NULL,
    outbox_row text NOT NULL,
    expire_at timestamptz NOT NULL,
    PRIMARY KEY (queue, outbox_row)
);
CREATE INDEX litestar_tasks_seen_until ON litestar_tasks_seen (queue, expire_at);
""",
    ),
    (
        "schedules, and the releases that declare them",
        """\
CREATE TABLE litestar_tasks_schedules (
    queue text NOT NULL,
    id text NOT NULL,
    document bytea NOT NULL,              -- all that is known of it, as JSON; replaced as a whole
    due bigint,                           -- when it is to be fired, in ms since the epoch; null: not at all
    PRIMARY KEY (queue, id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 200);
CREATE INDEX litestar_tasks_schedules_due ON litestar_tasks_schedules (queue, due) WHERE due IS NOT NULL;

-- One row for each worker process and queue: which release it is of, and until when it counts as alive.
CREATE TABLE litestar_tasks_releases (
    queue text NOT NULL,
    holder text NOT NULL,
    digest text NOT NULL,                 -- of what the release declares
    first_seen timestamptz NOT NULL,      -- the release
    expires timestamptz NOT NULL,
    PRIMARY KEY (queue, holder)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 200);
""",
    ),
)
"""What each step brings, and its statements."""

VERSION: Final = len(STEPS)
"""The version that this release needs; it works with newer ones."""

LEDGER: Final = """\
CREATE TABLE IF NOT EXISTS litestar_tasks_schema (
    version integer PRIMARY KEY,
    applied timestamptz NOT NULL DEFAULT now()
);
"""
"""Where the steps that were taken are noted."""


def script() -> str:
    """All statements that make the tables, from nothing, as one transaction."""
    steps = [
        f"-- Version {number}: {what}\n{statements}\n{done(number)}"
        for number, (what, statements) in enumerate(STEPS, start=1)
    ]
    return "\n".join(("BEGIN;\n", LEDGER, *steps, "COMMIT;"))


def done(number: int) -> str:
    """The statement that notes a step as taken."""
    return f"INSERT INTO litestar_tasks_schema (version) VALUES ({number});\n"  # noqa: S608  # our own number
