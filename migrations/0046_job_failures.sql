-- Runs of jobs that failed, or whose worker was lost: a job keeps only the reason of its last one.
-- A run that succeeds has its report, and costs no row here.
CREATE TABLE job_failures (
    job        INTEGER NOT NULL,
    lease      INTEGER NOT NULL,           -- the claim that the run was
    attempt    INTEGER NOT NULL,
    worker     TEXT    NOT NULL,
    started_at INTEGER,                    -- milliseconds since 1970
    failed_at  INTEGER NOT NULL,
    reason     TEXT    NOT NULL,
    PRIMARY KEY (job, lease)
) STRICT, WITHOUT ROWID;

-- A job that is handed back keeps the reason that it had, and did not fail.
CREATE TRIGGER jobs_fail AFTER UPDATE OF state ON jobs
WHEN OLD.state = 'running' AND NEW.reason IS NOT NULL
    AND (NEW.state IN ('retrying', 'dead') OR (NEW.state = 'pending' AND NEW.reason IS NOT OLD.reason))
BEGIN
    INSERT INTO job_failures (job, lease, attempt, worker, started_at, failed_at, reason)
    VALUES (OLD.seq, OLD.lease, OLD.attempts, OLD.worker, OLD.started_at,
            CAST(unixepoch('subsec') * 1000 AS INTEGER), NEW.reason)
    ON CONFLICT (job, lease) DO UPDATE SET failed_at = excluded.failed_at, reason = excluded.reason;
END;

CREATE TRIGGER jobs_removed AFTER DELETE ON jobs
BEGIN
    DELETE FROM job_failures WHERE job = OLD.seq;
END;
