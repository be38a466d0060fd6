-- A booking of any size without a long transaction.
--
-- libSQL's server rolls back a write transaction older than five seconds as soon as somebody else
-- wants to write. So a booking is staged: its entries are appended in short transactions, and
-- nobody sees them. One small transaction then gives it a version, and with that all its entries
-- count at once. A booking that is never finished is removed.
--
-- `usage_days` goes: it was a second copy of the ledger, which had to change with every entry.
-- Sums of usage are sums of entries now, from `booked_usage`. `ledger_entries` keeps what only an
-- entry knows; the rest is the booking's. An entry costs the database two written rows, itself and
-- one index entry, and cost seven before.
DROP VIEW stripe_comparison;

CREATE TABLE bookings (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    payer      TEXT    NOT NULL CHECK (payer <> ''),
    month      TEXT    NOT NULL CHECK (month GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]'),
    -- names the version, the rules and the entries; `against` the version they were compared with
    identity   TEXT    NOT NULL,
    against    INTEGER REFERENCES bill_versions (id),
    entries    INTEGER NOT NULL CHECK (entries >= 0),
    started_at INTEGER NOT NULL,                                 -- seconds since 1970, UTC
    version_id INTEGER UNIQUE REFERENCES bill_versions (id),     -- null while nobody sees it
    -- whether the counters on the rows of its customers were computed since it has a version
    counted    INTEGER NOT NULL DEFAULT 0 CHECK (counted = 0 OR counted = 1 AND version_id IS NOT NULL)
) STRICT;

CREATE INDEX bookings_of_bill ON bookings (payer, month);
CREATE INDEX bookings_not_counted ON bookings (id) WHERE counted = 0;

INSERT INTO bookings (id, payer, month, identity, against, entries, started_at, version_id, counted)
SELECT id, payer, month, '', supersedes, (SELECT count(*) FROM ledger_entries e WHERE e.version_id = v.id),
       coalesce(unixepoch(decided_at), 0), id, 1
FROM bill_versions v WHERE state = 'applied';

-- `push_stripe` has planned the usage of all versions up to this one.
UPDATE settings
SET name = 'planned_version',
    value = CASE WHEN CAST(value AS INTEGER) = (SELECT max(seq) FROM ledger_entries)
            THEN (SELECT max(id) FROM bill_versions WHERE state = 'applied') ELSE '0' END
WHERE name = 'entry';

CREATE TABLE old_entries AS
SELECT version_id, customer, meter, day, sum(quantity) AS quantity, min(kind) AS kind
FROM ledger_entries GROUP BY version_id, customer, meter, day HAVING sum(quantity) <> 0;

DROP TABLE ledger_entries;

DROP TABLE usage_days;

-- The ledger. Entries are appended to a booking and never changed: a restated bill becomes entries
-- of kind 'adjustment' (new quantity minus booked quantity). They count when the booking has a
-- version.
--
-- `quantity` counts 10⁻¹⁰ units of the meter, so sums are exact. The CHECK keeps every quantity
-- well inside 64 bits: 900 million units for one customer, meter and day. (SQLite would silently
-- turn an overflowing sum into a float.) `customer` is the tag value; '' stands for lines without a
-- tag, which are booked too, so that no usage can vanish.
CREATE TABLE ledger_entries (
    booking_id INTEGER NOT NULL REFERENCES bookings (id),
    customer   TEXT    NOT NULL,
    meter      TEXT    NOT NULL,
    day        TEXT    NOT NULL CHECK (day GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]'),
    quantity   INTEGER NOT NULL CHECK (quantity <> 0 AND quantity BETWEEN -9000000000000000000 AND 9000000000000000000),
    kind       TEXT    NOT NULL CHECK (kind IN ('usage', 'adjustment')),
    PRIMARY KEY (booking_id, customer, meter, day)
) STRICT, WITHOUT ROWID;

CREATE INDEX ledger_entries_by_customer ON ledger_entries (customer, meter, day, booking_id, quantity);

INSERT INTO ledger_entries (booking_id, customer, meter, day, quantity, kind)
SELECT version_id, customer, meter, day, quantity, kind FROM old_entries ORDER BY 1, 2, 3, 4;

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

CREATE TRIGGER bookings_keep_their_version BEFORE UPDATE OF id, payer, month, entries, version_id ON bookings
WHEN OLD.version_id IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'a booking with a version does not change: book an adjustment instead');
END;

CREATE TRIGGER bookings_are_not_deleted BEFORE DELETE ON bookings WHEN OLD.version_id IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'a booking with a version is not deleted: book an adjustment instead');
END;

-- What counts as used: the entries of bookings that have a version.
CREATE VIEW booked_usage AS
SELECT b.version_id, b.payer, b.month, e.customer, e.meter, e.day, e.quantity, e.kind
FROM ledger_entries e CROSS JOIN bookings b ON b.id = e.booking_id AND b.version_id IS NOT NULL;

-- Ledger and Stripe beside each other, for each billing period and each meter that a plan, the
-- ledger or Stripe knows. `ledger` is a sum of usage in units and a rest of 10^-10 units. `events`
-- are sums of the values of the events for usage of the period, by what became of them; an event on
-- no invoice is in none, unless a person discarded it. `accepted_on_invoice` counts the events on
-- the period's invoice, whichever period their usage was in. `used` to `currency` are the billing
-- target's.
CREATE VIEW stripe_comparison AS
SELECT p.customer, m.meter, p.starts_at AS period_start, p.ends_at AS period_end, p.subscription IS NOT NULL AS billed,
       (SELECT sum(quantity / 10000000000) || ' ' || sum(quantity % 10000000000)
        FROM booked_usage u WHERE u.customer = p.customer AND u.meter = m.meter AND u.day BETWEEN p.first_day AND p.last_day) AS ledger,
       coalesce(t.target, 0) AS target,
       (SELECT json_object(
                 'accepted',  coalesce(sum(i.value) FILTER (WHERE i.state = 'accepted'), 0),
                 'open',      coalesce(sum(i.value) FILTER (WHERE i.state IN ('pending', 'sending', 'unconfirmed')), 0),
                 'refused',   coalesce(sum(i.value) FILTER (WHERE i.state = 'refused'), 0),
                 'discarded', coalesce(sum(i.value) FILTER (WHERE i.state = 'discarded'), 0))
        FROM meter_events i
        WHERE i.customer = p.customer AND i.meter = m.meter AND i.timestamp >= p.starts_at
          AND i.period_start >= p.starts_at AND i.period_start < p.ends_at
          AND (i.state = 'discarded' OR EXISTS (SELECT 1 FROM event_invoices WHERE seq = i.seq))) AS events,
       coalesce(t.deferred, 0) AS deferred, t.deferred_reason,
       coalesce((SELECT acknowledged FROM deferred_amounts d
                 WHERE d.customer = t.customer AND d.meter = t.meter AND d.period_start = t.period_start), 0) AS deferred_acknowledged,
       (SELECT count(*) FROM meter_events i INDEXED BY meter_events_by_time
        WHERE i.customer = p.customer AND i.meter = m.meter AND i.timestamp >= p.starts_at AND i.timestamp < p.ends_at
          AND i.state = 'accepted') AS accepted_on_invoice,
       coalesce(t.used, 0) AS used, coalesce(t.within, 0) AS within, coalesce(t.billable, 0) AS billable,
       coalesce(t.house, 0) AS house, coalesce(t.not_priced, 0) AS not_priced, coalesce(t.advance, 0) AS advance,
       coalesce(t.billable_minor, 0) AS billable_minor, coalesce(t.house_minor, 0) AS house_minor,
       coalesce(t.currency, '') AS currency,
       t.seen, t.expected, t.read_at, coalesce(l.acknowledged, 0) AS acknowledged,
       t.alarm_kind, t.alarm_shortfall, t.alarm_total, t.alarm_until, t.alarm_stripe_customer, t.alarm_answer
FROM billing_periods p
CROSS JOIN (SELECT meter FROM plan_meters UNION SELECT meter FROM stripe_meters UNION SELECT meter FROM usage_totals) m
LEFT JOIN billing_targets t ON t.customer = p.customer AND t.meter = m.meter AND t.period_start = p.starts_at
LEFT JOIN target_totals l ON l.customer = t.customer AND l.meter = t.meter AND l.period_start = t.period_start;
