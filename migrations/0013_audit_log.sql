-- What people did by hand, and why: every act that changes what is sent to Stripe. Appended only.
CREATE TABLE audit_log (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,                            -- seconds since 1970, UTC
    who     TEXT    NOT NULL CHECK (who <> ''),          -- user@host
    act     TEXT    NOT NULL CHECK (act <> ''),
    subject TEXT    NOT NULL CHECK (subject <> ''),
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
