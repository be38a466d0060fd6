-- Manual actions and their reasons: every action that changes what is sent to Stripe. Append-only.
CREATE TABLE audit_log (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,                            -- seconds since 1970, UTC
    actor   TEXT    NOT NULL CHECK (actor <> ''),          -- user@host
    action  TEXT    NOT NULL CHECK (action <> ''),
    target  TEXT    NOT NULL CHECK (target <> ''),
    reason  TEXT    NOT NULL CHECK (trim(reason) <> '')
) STRICT;

CREATE TRIGGER audit_log_stays BEFORE UPDATE ON audit_log
BEGIN
    SELECT RAISE(ABORT, 'audit_log is history and never changes');
END;

CREATE TRIGGER audit_log_is_not_deleted BEFORE DELETE ON audit_log
BEGIN
    SELECT RAISE(ABORT, 'audit_log is history and never changes');
END;
