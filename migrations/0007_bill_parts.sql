-- Sums of the parts of a large bill, until its version is applied.
--
-- A version is split into groups of files. The job that reads a group stores its sums here; the run
-- that finds all groups merges them and applies the version in one transaction, which also deletes
-- the bill's rows. `groups` is the number of groups; a row without `sums` is not read yet.
-- `identity` names the version, the files as they were seen, and the rules, so parts of different
-- readings are never merged.
CREATE TABLE bill_parts (
    payer      TEXT    NOT NULL,
    month      TEXT    NOT NULL CHECK (month GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]'),
    identity   TEXT    NOT NULL,
    part       INTEGER NOT NULL CHECK (part BETWEEN 0 AND groups - 1),
    groups     INTEGER NOT NULL CHECK (groups >= 1),
    -- key, size and etag of each file when the version was split
    files      TEXT    NOT NULL CHECK (json_valid(files)),
    facts      TEXT    CHECK (facts IS NULL OR json_valid(facts)),
    sums       BLOB    CHECK ((sums IS NULL) = (facts IS NULL)),        -- zlib over JSON
    planned_at TEXT    NOT NULL,
    PRIMARY KEY (payer, month, identity, part)
) STRICT, WITHOUT ROWID;
