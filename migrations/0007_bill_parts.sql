-- What the parts of a large bill came to, while its version is not applied yet.
--
-- A version is planned as groups of files; whoever reads a group stores its sums here, and the run
-- that finds all groups merges them and applies the version in one transaction, which also empties
-- this table of the bill. The plan is in the rows: `groups` is how many there are, and a row
-- without `sums` is not read yet. `identity` names the version, the files as they were seen and the
-- rules, so that parts of different readings can never meet.
CREATE TABLE bill_parts (
    payer      TEXT    NOT NULL,
    month      TEXT    NOT NULL CHECK (month GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]'),
    identity   TEXT    NOT NULL,
    part       INTEGER NOT NULL CHECK (part BETWEEN 0 AND groups - 1),
    groups     INTEGER NOT NULL CHECK (groups >= 1),
    files      TEXT    NOT NULL CHECK (json_valid(files)),              -- key, size and etag of each, as they were when planned
    facts      TEXT    CHECK (facts IS NULL OR json_valid(facts)),
    sums       BLOB    CHECK ((sums IS NULL) = (facts IS NULL)),        -- zlib over JSON
    planned_at TEXT    NOT NULL,
    PRIMARY KEY (payer, month, identity, part)
) STRICT, WITHOUT ROWID;
