-- Figures of the queue and of the audit for operators.
--
-- `due_at`: when a job became due again after it waited, failed, was handed back or was taken
-- away, in milliseconds since 1970. Null: it is due since it was enqueued. Only people and
-- dashboards read it, so the database's clock is good enough.
ALTER TABLE jobs ADD COLUMN due_at INTEGER;

CREATE TRIGGER jobs_become_due AFTER UPDATE OF state ON jobs WHEN NEW.state = 'pending' AND OLD.state <> 'pending'
BEGIN
    UPDATE jobs SET due_at = CAST(unixepoch('subsec') * 1000 AS INTEGER) WHERE seq = NEW.seq;
END;

-- The newest audit by `verify_books`: the violations of each rule. Jobs and their reports are
-- removed after some days; these rows stay.
CREATE TABLE audits (
    name       TEXT    NOT NULL PRIMARY KEY CHECK (name <> ''),
    violations INTEGER NOT NULL CHECK (violations >= 0),
    at         INTEGER NOT NULL                               -- seconds since 1970, UTC
) STRICT, WITHOUT ROWID;
