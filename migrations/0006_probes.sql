-- Effects of `probe` jobs, which test the queue. The first run of a name makes the row and counts
-- one effect; every further run finds the row and counts as a repeat. `effects` is always 1,
-- whatever happens to the worker.
CREATE TABLE probes (
    name    TEXT    NOT NULL PRIMARY KEY,
    effects INTEGER NOT NULL CHECK (effects = 1),
    repeats INTEGER NOT NULL DEFAULT 0,
    done_at TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX probes_by_age ON probes (done_at);

-- A new probe removes some that are a week old.
CREATE TRIGGER probes_are_forgotten AFTER INSERT ON probes
BEGIN
    DELETE FROM probes WHERE name IN
        (SELECT name FROM probes WHERE done_at < strftime('%Y-%m-%dT%H:%M:%SZ', NEW.done_at, '-7 days') LIMIT 10);
END;
