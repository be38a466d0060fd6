-- The ledger. Entries are appended and never changed: a restated bill becomes entries of kind
-- 'adjustment' (new quantity minus booked quantity), and `version_id` names the version that caused
-- them.
--
-- `quantity` counts 10⁻¹⁰ units of the meter, so sums are exact. The CHECK keeps every quantity
-- well inside 64 bits: 900 million units for one customer, meter and day. (SQLite would silently
-- turn an overflowing sum into a float.) `customer` is the tag value; '' stands for lines without a
-- tag, which are booked too, so that no usage can vanish.
CREATE TABLE ledger_entries (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    version_id INTEGER NOT NULL REFERENCES bill_versions (id),
    payer      TEXT    NOT NULL,
    month      TEXT    NOT NULL,
    customer   TEXT    NOT NULL,
    meter      TEXT    NOT NULL,
    day        TEXT    NOT NULL CHECK (day GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]'),
    quantity   INTEGER NOT NULL CHECK (quantity <> 0 AND quantity BETWEEN -9000000000000000000 AND 9000000000000000000),
    kind       TEXT    NOT NULL CHECK (kind IN ('usage', 'adjustment')),
    booked_at  TEXT    NOT NULL
) STRICT;

CREATE INDEX ledger_entries_by_version ON ledger_entries (version_id);
CREATE INDEX ledger_entries_by_customer ON ledger_entries (customer, meter, day);

CREATE TRIGGER ledger_entries_are_not_updated BEFORE UPDATE ON ledger_entries
BEGIN
    SELECT RAISE(ABORT, 'ledger_entries is append-only: book an adjustment instead');
END;

-- REPLACE deletes without firing the trigger below
CREATE TRIGGER ledger_entries_are_not_replaced BEFORE INSERT ON ledger_entries
WHEN EXISTS (SELECT 1 FROM ledger_entries WHERE seq = NEW.seq)
BEGIN
    SELECT RAISE(ABORT, 'ledger_entries is append-only: book an adjustment instead');
END;

CREATE TRIGGER ledger_entries_are_not_deleted BEFORE DELETE ON ledger_entries
BEGIN
    SELECT RAISE(ABORT, 'ledger_entries is append-only: book an adjustment instead');
END;
