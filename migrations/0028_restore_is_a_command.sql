-- Restored books are on hold until `meter restore finish`, also those whose import an earlier build
-- had begun. The steps before it are commands, and no job knows of them; these are the states of
-- their checklist.
--
-- `not_imported`: Stripe's answer, when it gave no total of a period that is to be imported.
ALTER TABLE billing_targets ADD COLUMN not_imported TEXT;

-- Bills that are to be read again before totals are imported: what the lost books had sent was sent
-- for usage that these bills have. Written by `meter restore import-totals`, emptied by
-- `meter restore finish`.
DROP TABLE restored_bills;
CREATE TABLE restored_bills (
    export  TEXT    NOT NULL CHECK (export <> ''),
    month   TEXT    NOT NULL CHECK (month GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]'),
    -- `without`: a person has said that it cannot be read any more
    state   TEXT    NOT NULL CHECK (state IN ('read', 'on_hold', 'unreadable', 'without')),
    -- why it was not read
    note    TEXT    NOT NULL,
    read_at INTEGER NOT NULL,                             -- seconds since 1970, UTC
    PRIMARY KEY (export, month)
) STRICT, WITHOUT ROWID;
