-- Bills and their versions.
--
-- A bill is one payer's month. AWS delivers it again and again, each time whole; each delivery is a
-- version (assemblyId of a legacy report, executionId of CUR 2.0). The applied versions of a bill
-- form a chain through `supersedes`: it is null for the first, and each version can be superseded
-- once. So of two workers that apply at the same moment, only one succeeds. A version that is on
-- hold waits until a person accepts it; it is released when any version of its bill is applied
-- after it.
CREATE TABLE bill_versions (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    payer           TEXT    NOT NULL CHECK (payer <> ''),
    month           TEXT    NOT NULL CHECK (month GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]'),
    export          TEXT    NOT NULL,
    format          TEXT    NOT NULL CHECK (format IN ('legacy', 'cur2')),
    version         TEXT    NOT NULL CHECK (version <> ''),
    manifest_key    TEXT    NOT NULL,
    manifest_digest TEXT    NOT NULL,
    rules_digest    TEXT    NOT NULL,
    account         TEXT    NOT NULL,           -- payer account in the manifest, '' if it has none
    delivered_at    TEXT    NOT NULL,           -- instant that orders versions, fixed-width UTC
    state           TEXT    NOT NULL CHECK (state IN ('applied', 'on_hold', 'released')),
    hold_reason     TEXT    NOT NULL DEFAULT '' CHECK ((state = 'applied') = (hold_reason = '')),
    accepted        TEXT    NOT NULL DEFAULT '', -- what a person accepted, so that it was applied
    supersedes      INTEGER UNIQUE REFERENCES bill_versions (id),
    rows            INTEGER NOT NULL,
    counted_rows    INTEGER NOT NULL,
    rounded_amounts INTEGER NOT NULL,           -- amounts with more than ten decimals in the file
    newest_day      TEXT,                       -- newest day with counted usage
    decided_at      TEXT    NOT NULL
) STRICT;

CREATE UNIQUE INDEX bill_versions_one_first ON bill_versions (payer, month) WHERE state = 'applied' AND supersedes IS NULL;
CREATE UNIQUE INDEX bill_versions_on_hold_once ON bill_versions (payer, month, version, manifest_digest, rules_digest)
    WHERE state = 'on_hold';
CREATE INDEX bill_versions_by_bill ON bill_versions (payer, month, state, id);

-- The files of an applied version, as they were when they were read.
CREATE TABLE bill_files (
    version_id   INTEGER NOT NULL REFERENCES bill_versions (id),
    key          TEXT    NOT NULL,
    size         INTEGER NOT NULL,
    etag         TEXT    NOT NULL,
    rows         INTEGER NOT NULL,
    row_groups   INTEGER NOT NULL,
    counted_rows INTEGER NOT NULL,
    PRIMARY KEY (version_id, key)
) STRICT, WITHOUT ROWID;

-- Every kind of line of the watched products in that version, and what claims it. Amounts are exact
-- decimal text in the unit of the bill, because a sum over a whole bill may not fit an INTEGER.
CREATE TABLE bill_lines (
    version_id   INTEGER NOT NULL REFERENCES bill_versions (id),
    product      TEXT    NOT NULL,
    usage_type   TEXT    NOT NULL,
    unit         TEXT    NOT NULL,
    line_type    TEXT    NOT NULL,
    claim        TEXT    NOT NULL CHECK (claim IN ('counted', 'excluded', 'ignored', 'unrecognised', 'not_usage')),
    meter        TEXT    NOT NULL CHECK ((claim IN ('counted', 'excluded')) = (meter <> '')),
    lines        INTEGER NOT NULL,
    tagged_lines INTEGER NOT NULL,
    amount       TEXT    NOT NULL,
    PRIMARY KEY (version_id, product, usage_type, unit, line_type)
) STRICT, WITHOUT ROWID;

-- The proof of conservation, meter by meter: attributed + unattributed + excluded = total, in the
-- unit of the bill. `booked` is the ledger's sum for the bill after this version, in the unit of
-- the meter.
CREATE TABLE bill_totals (
    version_id   INTEGER NOT NULL REFERENCES bill_versions (id),
    meter        TEXT    NOT NULL,
    unit         TEXT    NOT NULL,
    lines        INTEGER NOT NULL,
    total        TEXT    NOT NULL,
    attributed   TEXT    NOT NULL,
    unattributed TEXT    NOT NULL,
    excluded     TEXT    NOT NULL,
    booked       TEXT    NOT NULL,
    PRIMARY KEY (version_id, meter)
) STRICT, WITHOUT ROWID;
