-- Effects of `probe` jobs, by which the queue is tried: the first run of a name makes the row and counts one effect; every other
-- run of it finds the row and counts as a repeat. `effects` can never be anything but 1, whatever happens to the worker.
CREATE TABLE probes (
    name    TEXT    NOT NULL PRIMARY KEY,
    effects INTEGER NOT NULL CHECK (effects = 1),
    repeats INTEGER NOT NULL DEFAULT 0,
    done_at TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX probes_by_age ON probes (done_at);
