-- The queue: jobs, worker processes, and schedules.
--
-- One row is one job for all of its life. Its states:
--
--   scheduled --(run_at is reached, or the jobs that it awaits are finished)--> pending
--   pending   --(claimed)--> running
--   running   --> done | dead | cancelled
--   running   --(failed)--> retrying --(run_at is reached)--> pending
--   running   --(handed back, or its lease expired)--> pending
--
-- A claim of a `pending` job reads no clock, so a clock that jumps cannot delay work that is due.
-- `lease` counts the claims: it is the fencing token that a run must still hold when it commits.
-- `attempts` counts the claims that were not handed back. The worker raises `heartbeat` while it
-- runs the job; another worker that sees it unchanged for the length of a lease may take the job
-- away. Only one unfinished job has a given `key`. Jobs of one `lane` run one after another. A job
-- that `awaits` is parked until its children (jobs with it as `parent`) are finished, which costs
-- it no attempt. Instants are milliseconds since 1970, UTC.
CREATE TABLE jobs (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT    NOT NULL UNIQUE CHECK (length(id) = 26),       -- ULID
    kind         TEXT    NOT NULL CHECK (kind <> ''),
    payload      TEXT    NOT NULL CHECK (json_valid(payload)),
    state        TEXT    NOT NULL
                 CHECK (state IN ('pending', 'scheduled', 'running', 'retrying', 'done', 'dead', 'cancelled')),
    -- higher runs first
    priority     INTEGER NOT NULL DEFAULT 0 CHECK (priority BETWEEN -100 AND 100),
    key          TEXT,
    lane         TEXT,
    parent       INTEGER,
    -- the run of the parent that enqueued it
    parent_lease INTEGER CHECK ((parent IS NULL) = (parent_lease IS NULL)),
    origin       TEXT    NOT NULL,                                      -- what enqueued it
    run_at       INTEGER CHECK ((state IN ('scheduled', 'retrying')) = (run_at IS NOT NULL)),
    attempts     INTEGER NOT NULL DEFAULT 0 CHECK (attempts BETWEEN 0 AND max_attempts),
    max_attempts INTEGER NOT NULL CHECK (max_attempts BETWEEN 1 AND 1000),
    lease        INTEGER NOT NULL DEFAULT 0 CHECK (lease >= attempts),
    worker       TEXT    CHECK ((state = 'running') = (worker IS NOT NULL)),
    lease_until  INTEGER CHECK ((state = 'running') = (lease_until IS NOT NULL)),
    heartbeat    INTEGER NOT NULL DEFAULT 0,
    awaits       INTEGER NOT NULL DEFAULT 0 CHECK (awaits = 0 OR (awaits = 1 AND state = 'scheduled')),
    -- cancellation was requested while it runs
    cancel       INTEGER NOT NULL DEFAULT 0 CHECK (cancel IN (0, 1)),
    -- why the last attempt did not end with a report
    reason       TEXT,
    report       TEXT    CHECK (report IS NULL OR state = 'done'),
    -- the report needs a person's attention
    attention    INTEGER NOT NULL DEFAULT 0 CHECK (attention = 0 OR (attention = 1 AND state = 'done')),
    enqueued_at  INTEGER NOT NULL,
    started_at   INTEGER,
    finished_at  INTEGER CHECK ((state IN ('done', 'dead', 'cancelled')) = (finished_at IS NOT NULL)),
    CHECK (state NOT IN ('retrying', 'dead') OR reason IS NOT NULL),
    CHECK (state <> 'running' OR attempts >= 1),
    CHECK (state <> 'done' OR report IS NOT NULL)
) STRICT;

-- Indexes that serve the running of jobs cover only the few unfinished ones, so a million finished
-- jobs do not slow them down. The others find finished, dead or cancelled jobs, and children.
CREATE INDEX jobs_pending ON jobs (kind, priority DESC, seq) WHERE state = 'pending';
CREATE INDEX jobs_waiting ON jobs (run_at) WHERE state IN ('scheduled', 'retrying');
CREATE INDEX jobs_running ON jobs (worker) WHERE state = 'running';
CREATE INDEX jobs_finished ON jobs (state, finished_at) WHERE state IN ('done', 'dead', 'cancelled');
CREATE INDEX jobs_given_up_key ON jobs (key, seq) WHERE key IS NOT NULL AND state IN ('dead', 'cancelled');
CREATE INDEX jobs_parent ON jobs (parent) WHERE parent IS NOT NULL;
CREATE INDEX jobs_lane ON jobs (lane) WHERE lane IS NOT NULL AND state IN ('pending', 'scheduled', 'running', 'retrying');
CREATE UNIQUE INDEX jobs_lane_running ON jobs (lane) WHERE lane IS NOT NULL AND state = 'running';
CREATE UNIQUE INDEX jobs_key ON jobs (key) WHERE key IS NOT NULL AND state IN ('pending', 'scheduled', 'running', 'retrying');

-- Worker processes, as they last reported themselves.
CREATE TABLE workers (
    id          TEXT    NOT NULL PRIMARY KEY,
    host        TEXT    NOT NULL,
    pid         INTEGER NOT NULL,
    version     TEXT    NOT NULL,
    kinds       TEXT    NOT NULL CHECK (json_valid(kinds)),
    concurrency INTEGER NOT NULL,
    state       TEXT    NOT NULL CHECK (state IN ('working', 'stopping', 'stopped')),
    running     INTEGER NOT NULL DEFAULT 0,
    started_at  INTEGER NOT NULL,
    seen_at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The last tick of each schedule that was turned into jobs. The worker that raises it enqueues the
-- jobs, in the same transaction.
CREATE TABLE schedules (
    name       TEXT    NOT NULL PRIMARY KEY,
    last_tick  INTEGER NOT NULL,
    claimed_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
