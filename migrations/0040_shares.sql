-- Whose the billed amount of a shared bucket is: apportioned by the weights of `bucket_weights`,
-- and booked with the version of the bill.

-- What a version was apportioned by: the digest of the reports of its shared buckets. Empty for a
-- version without usage of a shared bucket. When it is another by now, the version is read again.
ALTER TABLE bill_versions ADD COLUMN reports_digest TEXT NOT NULL DEFAULT ''
    CHECK (reports_digest = '' OR length(reports_digest) = 64);

-- attributed + apportioned + unattributed + excluded = total, in the unit of the bill.
ALTER TABLE bill_totals ADD COLUMN apportioned TEXT NOT NULL DEFAULT '0';

-- What a version bills for a shared bucket, by meter, measure, storage class and day, and how much
-- of it is customers'. `predicted` is what the reports of the day (`digest`) account for, with
-- nobody's objects and requests; null when it has no report. Amounts are in the unit of the bill.
--   apportioned  by the weights of the day
--   open         the bill does not settle the day yet
--   no_report    nothing of the day was read
--   held         the reports account for less than the floor, or for more than the ceiling; a
--                person may accept the day
-- Of days that are not apportioned, all stays without a customer. A version with such a row is
-- current or was; rows of a version are written with it and never changed.
CREATE TABLE bucket_shares (
    version_id  INTEGER NOT NULL REFERENCES bill_versions (id),
    bucket      TEXT    NOT NULL,
    meter       TEXT    NOT NULL,
    measure     TEXT    NOT NULL CHECK (measure IN ('byte_seconds', 'bytes_sent', 'requests_1', 'requests_2')),
    class       TEXT    NOT NULL,
    day         TEXT    NOT NULL CHECK (day GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]'),
    state       TEXT    NOT NULL CHECK (state IN ('apportioned', 'open', 'no_report', 'held')),
    billed      TEXT    NOT NULL,
    predicted   TEXT,
    apportioned TEXT    NOT NULL,
    digest      TEXT    NOT NULL,
    PRIMARY KEY (version_id, bucket, meter, measure, class, day),
    CHECK (state = 'apportioned' OR apportioned = '0'),
    CHECK (state NOT IN ('apportioned', 'held') OR predicted IS NOT NULL AND length(digest) = 64)
) STRICT, WITHOUT ROWID;

-- Held days that a person accepted, as their reports were then.
CREATE TABLE bucket_acceptances (
    bucket      TEXT    NOT NULL,
    day         TEXT    NOT NULL CHECK (day GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]'),
    digest      TEXT    NOT NULL CHECK (length(digest) = 64),
    accepted_at INTEGER NOT NULL CHECK (accepted_at BETWEEN 0 AND 99999999999),  -- seconds since 1970
    PRIMARY KEY (bucket, day, digest)
) STRICT, WITHOUT ROWID;

-- The ledger as before, with a third kind of entry: 'apportioned' changes a share of a shared
-- bucket. Which bill and which reports it follows from is in `bucket_shares` of the version.
CREATE TABLE old_entries AS SELECT * FROM ledger_entries;

DROP TABLE ledger_entries;

CREATE TABLE ledger_entries (
    booking_id INTEGER NOT NULL REFERENCES bookings (id),
    customer   TEXT    NOT NULL,
    meter      TEXT    NOT NULL,
    day        TEXT    NOT NULL CHECK (day GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]'),
    quantity   INTEGER NOT NULL CHECK (quantity <> 0 AND quantity BETWEEN -9000000000000000000 AND 9000000000000000000),
    kind       TEXT    NOT NULL CHECK (kind IN ('usage', 'adjustment', 'apportioned')),
    PRIMARY KEY (booking_id, customer, meter, day)
) STRICT, WITHOUT ROWID;

CREATE INDEX ledger_entries_by_customer ON ledger_entries (customer, meter, day, booking_id, quantity);

INSERT INTO ledger_entries (booking_id, customer, meter, day, quantity, kind)
SELECT booking_id, customer, meter, day, quantity, kind FROM old_entries ORDER BY 1, 2, 3, 4;

DROP TABLE old_entries;

CREATE TRIGGER ledger_entries_are_not_updated BEFORE UPDATE ON ledger_entries
BEGIN
    SELECT RAISE(ABORT, 'ledger_entries is append-only: book an adjustment instead');
END;

-- Also against REPLACE, which deletes without firing the trigger below.
CREATE TRIGGER ledger_entries_come_before_the_version BEFORE INSERT ON ledger_entries
WHEN (SELECT version_id FROM bookings WHERE id = NEW.booking_id) IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'ledger_entries is append-only: make another booking instead');
END;

CREATE TRIGGER ledger_entries_are_not_deleted BEFORE DELETE ON ledger_entries
WHEN (SELECT version_id FROM bookings WHERE id = OLD.booking_id) IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'ledger_entries is append-only: book an adjustment instead');
END;
