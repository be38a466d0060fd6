-- What an operator is told of the queue and of the audit.
--
-- `due_at`: since when a job that waited, failed or was taken back is due again, in milliseconds
-- since 1970; null: since it was enqueued. Only people and dashboards ask, so the database's clock
-- will do.
ALTER TABLE jobs ADD COLUMN due_at INTEGER;

CREATE TRIGGER jobs_become_due AFTER UPDATE OF state ON jobs WHEN NEW.state = 'pending' AND OLD.state <> 'pending'
BEGIN
    UPDATE jobs SET due_at = CAST(unixepoch('subsec') * 1000 AS INTEGER) WHERE seq = NEW.seq;
END;

-- The newest audit by `verify_books`: how often each rule was broken. Jobs and their reports are
-- removed after some days; this stays.
CREATE TABLE audits (
    name       TEXT    NOT NULL PRIMARY KEY CHECK (name <> ''),
    violations INTEGER NOT NULL CHECK (violations >= 0),
    at         INTEGER NOT NULL                               -- seconds since 1970, UTC
) STRICT, WITHOUT ROWID;
