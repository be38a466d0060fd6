-- Meter events for Stripe, and the state of each. Instants are seconds since 1970, UTC.
--
-- `push_stripe` makes an event in the transaction that finds a difference between the billing
-- target of a period (`period_start`) and what was sent for it. The contents of an event are fixed
-- before its first attempt. `billed_start` to before `billed_end` is the invoiced period. It is
-- the period itself while its invoice is open or in grace. Otherwise it is the period that was
-- open when the event was made: the amount is carried forward.
--
--   pending     --> sending | discarded
--   pending     --> not received (never sent, and its invoice is closed or has changed)
--   sending     --> accepted | refused | unconfirmed
--   sending     --> pending (Stripe certainly did not take it: 429, no connection)
--   unconfirmed --> sending (same identifier, for 23 hours)
--   unconfirmed --> accepted | not received (Stripe's totals decide) | discarded
--   accepted    --> refused (Stripe's error report)
--   accepted    --> not received (Stripe's totals have not included it for a day)
--   refused     --> not received (a person: send again) | discarded
--
-- Only a person discards an event: it is never sent.
--
-- `not received` counts as not in Stripe, so its amount is planned again. So does the amount of an
-- event that is on no invoice. Every other event counts as sent. `maybe_applied`: Stripe may have
-- applied an attempt. `next_at`: when the next attempt is due; an unconfirmed event without it is
-- decided by Stripe's totals only.
CREATE TABLE meter_events (
    seq              INTEGER PRIMARY KEY AUTOINCREMENT,
    identifier       TEXT    NOT NULL CHECK (length(identifier) BETWEEN 1 AND 100 AND identifier LIKE '%-' || seq),
    customer         TEXT    NOT NULL,
    meter            TEXT    NOT NULL,
    period_start     INTEGER NOT NULL,
    billed_start     INTEGER NOT NULL CHECK (billed_start >= period_start),
    billed_end       INTEGER NOT NULL,
    stripe_customer  TEXT    NOT NULL,
    event_name       TEXT    NOT NULL,
    value            INTEGER NOT NULL CHECK (value <> 0 AND value BETWEEN -999999999999999 AND 999999999999999),
    timestamp        INTEGER NOT NULL CHECK (timestamp >= billed_start AND timestamp < billed_end),
    send_before      INTEGER NOT NULL,
    state            TEXT    NOT NULL DEFAULT 'pending'
                     CHECK (state IN ('pending', 'sending', 'accepted', 'unconfirmed', 'refused', 'not_received', 'discarded')),
    maybe_applied         INTEGER NOT NULL DEFAULT 0 CHECK (maybe_applied IN (0, 1) AND (state <> 'unconfirmed' OR maybe_applied = 1)),
    attempts         INTEGER NOT NULL DEFAULT 0,
    key_no           INTEGER NOT NULL DEFAULT 0,         -- in the Idempotency-Key; another one after a stored 5xx
    first_attempt_at INTEGER,
    last_attempt_at  INTEGER CHECK (state <> 'sending' OR last_attempt_at IS NOT NULL),
    next_at          INTEGER CHECK (CASE state WHEN 'pending' THEN next_at IS NOT NULL WHEN 'unconfirmed' THEN true ELSE next_at IS NULL END),
    created_at       INTEGER NOT NULL,
    settled_at       INTEGER,
    taken_at         INTEGER,                            -- when Stripe took it, as far as is known
    request_id       TEXT,                                -- `Request-Id` of Stripe's last answer
    error            TEXT CHECK (state <> 'refused' OR error IS NOT NULL)
) STRICT;

CREATE INDEX meter_events_by_time ON meter_events (customer, meter, timestamp);
CREATE INDEX meter_events_due ON meter_events (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX meter_events_open ON meter_events (customer, meter, seq) WHERE state IN ('pending', 'sending', 'unconfirmed');
CREATE INDEX meter_events_in_flight ON meter_events (last_attempt_at) WHERE state = 'sending';
CREATE INDEX meter_events_unconfirmed ON meter_events (first_attempt_at) WHERE state = 'unconfirmed';
CREATE INDEX meter_events_refused ON meter_events (customer, meter) WHERE state = 'refused';

CREATE TRIGGER meter_events_are_frozen
BEFORE UPDATE OF seq, identifier, customer, meter, period_start, billed_start, billed_end, stripe_customer, event_name, value, timestamp, send_before, created_at
ON meter_events
BEGIN
    SELECT RAISE(ABORT, 'what an event sends is fixed when it is made: make a new one');
END;

CREATE TRIGGER meter_events_go_from_state_to_state BEFORE UPDATE OF state ON meter_events
WHEN NEW.state <> OLD.state AND OLD.state || ' ' || NEW.state NOT IN (
    'pending sending', 'pending not_received', 'pending discarded',
    'sending pending', 'sending accepted', 'sending unconfirmed', 'sending refused',
    'unconfirmed sending', 'unconfirmed accepted', 'unconfirmed not_received', 'unconfirmed discarded',
    'accepted refused', 'accepted not_received', 'refused not_received', 'refused discarded')
  OR NEW.state = 'not_received' AND OLD.state = 'pending' AND OLD.maybe_applied = 1
BEGIN
    SELECT RAISE(ABORT, 'an event cannot go from that state to this one');
END;

CREATE TRIGGER meter_events_are_not_deleted BEFORE DELETE ON meter_events
BEGIN
    SELECT RAISE(ABORT, 'an event is history and is never deleted');
END;

-- Until when an invoice covers a billing period, as far as is known now: until the period's end,
-- or until the subscription ended, if that became known after the period was closed. A period
-- without a subscription has no invoice: its `covered_until` is its start.
CREATE VIEW covered_periods AS
SELECT p.customer, p.starts_at, p.ends_at, p.subscription,
       CASE WHEN p.subscription IS NULL THEN p.starts_at
            ELSE max(p.starts_at, min(p.ends_at, coalesce((SELECT ended_at FROM subscriptions s WHERE s.id = p.subscription), p.ends_at)))
       END AS covered_until
FROM billing_periods p;

-- Billing periods with an invoice. `ends_at` is the end of the time that the invoice covers.
CREATE VIEW invoiced_periods AS
SELECT customer, starts_at, covered_until AS ends_at FROM covered_periods WHERE covered_until > starts_at;

-- The invoice that an event is on: the invoice of the period that contains `timestamp`, if it
-- covers that instant and Stripe took the event before the invoice was final. The grace is the one
-- that held when the event was made: `send_before` - `billed_end`, and the ten minutes before the
-- end of the grace in which no event is sent. An event without a row here is on no invoice. A row
-- alone does not mean that the event is billed: its state says whether Stripe has it.
CREATE VIEW event_invoices AS
SELECT i.seq, b.starts_at, b.ends_at
FROM meter_events i
JOIN invoiced_periods b ON b.customer = i.customer
 AND b.starts_at = (SELECT max(starts_at) FROM billing_periods WHERE customer = i.customer AND starts_at <= i.timestamp)
WHERE i.timestamp < b.ends_at AND coalesce(i.taken_at < b.ends_at + i.send_before - i.billed_end + 600, true);

-- Billing targets: the quantity that Stripe should bill for a customer, meter and billing period,
-- and what Stripe's total was when it was last read.
--
-- `target` is the quantity in Stripe's units. `deferred` is the part of it that cannot be sent
-- now; `deferred_reason` says why. `plan` is the plan that sets the terms of the period: the
-- customer's plan until the period is over, and then it stays. `seen` is Stripe's total of the
-- events on this period's invoice, and `expected` what it should have been when it was read.
-- `shortfall` is the amount by which Stripe has had too little since `shortfall_since` (below 0: a
-- surplus).
--
-- The `alarm_*` columns are the alarm that needs a person, as it was when it was raised.
-- `alarm_kind` is the case. `stripe_has_less` and `stripe_has_more`: of the events before
-- `alarm_until` Stripe had `alarm_total`, which was `alarm_shortfall` too little (below 0: too
-- much). `no_total`: Stripe gave no total of `alarm_stripe_customer`; `alarm_answer` is its
-- answer.
CREATE TABLE billing_targets (
    customer      TEXT    NOT NULL,
    meter         TEXT    NOT NULL,
    period_start  INTEGER NOT NULL,
    period_end    INTEGER NOT NULL,
    plan          TEXT    NOT NULL,
    target        INTEGER NOT NULL,
    deferred          INTEGER NOT NULL DEFAULT 0,
    deferred_reason  TEXT    CHECK ((deferred = 0) = (deferred_reason IS NULL)),
    deferred_since    INTEGER CHECK ((deferred = 0) = (deferred_since IS NULL)),
    seen          INTEGER,
    expected      INTEGER,
    read_at       INTEGER,
    shortfall         INTEGER,
    shortfall_since   INTEGER CHECK ((shortfall IS NULL) = (shortfall_since IS NULL)),
    agreed_at     INTEGER,                                -- when Stripe's total last was as expected
    alarm_kind            TEXT    CHECK (alarm_kind IN ('stripe_has_less', 'stripe_has_more', 'no_total')),
    alarm_shortfall       INTEGER,
    alarm_total           INTEGER CHECK ((alarm_total IS NULL) = (alarm_shortfall IS NULL)),
    alarm_until           INTEGER CHECK ((alarm_until IS NULL) = (alarm_shortfall IS NULL)),
    alarm_stripe_customer TEXT,
    alarm_answer          TEXT    CHECK ((alarm_answer IS NULL) = (alarm_stripe_customer IS NULL)),
    final_at      INTEGER,                                -- the total agreed after the invoice was final: not read again
    PRIMARY KEY (customer, meter, period_start),
    CHECK ((alarm_kind IS NOT NULL AND alarm_kind <> 'no_total') = (alarm_shortfall IS NOT NULL)),
    CHECK ((alarm_kind IS NOT NULL AND alarm_kind = 'no_total') = (alarm_stripe_customer IS NOT NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX billing_targets_deferred ON billing_targets (customer) WHERE deferred <> 0;
CREATE INDEX billing_targets_to_read ON billing_targets (read_at) WHERE final_at IS NULL;
CREATE INDEX billing_targets_shortfall ON billing_targets (read_at) WHERE shortfall IS NOT NULL;
CREATE INDEX billing_targets_alarms ON billing_targets (customer) WHERE alarm_kind IS NOT NULL;

-- Customers that are due for planning from `due_at` on. Usage on days before `from_day` has not
-- changed.
CREATE TABLE stripe_due (
    customer TEXT    NOT NULL PRIMARY KEY,
    due_at   INTEGER NOT NULL,
    from_day TEXT    NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;

CREATE INDEX stripe_due_by_time ON stripe_due (due_at);

-- Meters as they are in Stripe. Event name and unit of a meter never change, because the events
-- that were sent cannot be counted in other units.
CREATE TABLE stripe_meters (
    meter      TEXT    NOT NULL PRIMARY KEY,
    event_name TEXT    NOT NULL UNIQUE,
    per_unit   TEXT    NOT NULL,                          -- Stripe's units for each unit of the meter, exact decimal
    stripe_id  TEXT    NOT NULL,
    seen_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Values that runs keep for later runs, by name.
CREATE TABLE settings (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The prefix of these books' identifiers. It is random, so two books never send the same
-- identifier.
INSERT INTO settings (name, value) VALUES ('prefix', 'meter-' || lower(hex(randomblob(4))));

INSERT INTO settings (name, value) VALUES ('entry', '0');

-- Metered items of subscriptions, as `sync_stripe` last read them. Without an item for a meter, a
-- subscription cannot bill its usage.
CREATE TABLE subscription_items (
    id           TEXT    NOT NULL PRIMARY KEY CHECK (id <> ''),
    subscription TEXT    NOT NULL,
    customer     TEXT    NOT NULL,
    stripe_meter TEXT    NOT NULL,
    price        TEXT    NOT NULL,
    currency     TEXT    NOT NULL,                        -- ISO 4217, capitals
    starts_at    INTEGER NOT NULL,
    ends_at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX subscription_items_by_customer ON subscription_items (customer);
CREATE INDEX subscription_items_by_subscription ON subscription_items (subscription);

-- Stripe's error reports about events that it had taken. The web backend inserts each
-- `v1.billing.meter.error_report_triggered` and `v1.billing.meter.no_meter_found`, whole as it was
-- fetched; `push_stripe` reads it.
CREATE TABLE stripe_error_reports (
    id          TEXT    NOT NULL PRIMARY KEY CHECK (id <> ''),
    body        TEXT    NOT NULL CHECK (json_valid(body)),
    received_at INTEGER NOT NULL DEFAULT (unixepoch()),
    read_at     INTEGER,
    outcome     TEXT    CHECK ((read_at IS NULL) = (outcome IS NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX stripe_error_reports_new ON stripe_error_reports (received_at) WHERE read_at IS NULL;

-- Requests for totals by UTC day: Stripe limits the number of reads.
CREATE TABLE stripe_reads (
    day   TEXT    NOT NULL PRIMARY KEY,
    reads INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Every change of the data that a billing target depends on makes the customer due. New ledger
-- entries have no trigger, because a bill books a million of them: `push_stripe` finds them by
-- their number.
CREATE TRIGGER customers_are_due AFTER INSERT ON customers
BEGIN
    INSERT INTO stripe_due (customer, due_at) VALUES (NEW.id, 0) ON CONFLICT (customer) DO UPDATE SET due_at = 0, from_day = '';
END;

CREATE TRIGGER changed_customers_are_due AFTER UPDATE OF plan, status, stripe_customer_id ON customers
WHEN (OLD.plan, OLD.status, OLD.stripe_customer_id) IS NOT (NEW.plan, NEW.status, NEW.stripe_customer_id)
BEGIN
    INSERT INTO stripe_due (customer, due_at) VALUES (NEW.id, 0) ON CONFLICT (customer) DO UPDATE SET due_at = 0, from_day = '';
END;

CREATE TRIGGER subscriptions_make_due AFTER INSERT ON subscriptions
BEGIN
    INSERT INTO stripe_due (customer, due_at) VALUES (NEW.customer, 0) ON CONFLICT (customer) DO UPDATE SET due_at = 0, from_day = '';
END;

CREATE TRIGGER changed_subscriptions_make_due AFTER UPDATE ON subscriptions
WHEN (OLD.customer, OLD.anchor_at, OLD.started_at, OLD.status, OLD.ended_at)
  IS NOT (NEW.customer, NEW.anchor_at, NEW.started_at, NEW.status, NEW.ended_at)
BEGIN
    INSERT INTO stripe_due (customer, due_at) SELECT DISTINCT value, 0 FROM json_each(json_array(OLD.customer, NEW.customer)) WHERE true
    ON CONFLICT (customer) DO UPDATE SET due_at = 0, from_day = '';
END;

CREATE TRIGGER items_make_due AFTER INSERT ON subscription_items
BEGIN
    INSERT INTO stripe_due (customer, due_at) VALUES (NEW.customer, 0) ON CONFLICT (customer) DO UPDATE SET due_at = 0, from_day = '';
END;

CREATE TRIGGER changed_items_make_due AFTER UPDATE ON subscription_items
BEGIN
    INSERT INTO stripe_due (customer, due_at) VALUES (NEW.customer, 0) ON CONFLICT (customer) DO UPDATE SET due_at = 0, from_day = '';
END;

CREATE TRIGGER items_that_go_make_due AFTER DELETE ON subscription_items
BEGIN
    INSERT INTO stripe_due (customer, due_at) VALUES (OLD.customer, 0) ON CONFLICT (customer) DO UPDATE SET due_at = 0, from_day = '';
END;

CREATE TRIGGER changed_periods_make_due AFTER UPDATE OF ends_at, subscription, first_day, last_day ON billing_periods
BEGIN
    INSERT INTO stripe_due (customer, due_at) VALUES (NEW.customer, 0) ON CONFLICT (customer) DO UPDATE SET due_at = 0, from_day = '';
END;

CREATE TRIGGER new_periods_make_due AFTER INSERT ON billing_periods
BEGIN
    INSERT INTO stripe_due (customer, due_at, from_day) VALUES (NEW.customer, 0, NEW.first_day)
    ON CONFLICT (customer) DO UPDATE SET due_at = 0, from_day = min(from_day, excluded.from_day);
END;

CREATE TRIGGER periods_that_go_make_due AFTER DELETE ON billing_periods
BEGIN
    INSERT INTO stripe_due (customer, due_at) VALUES (OLD.customer, 0) ON CONFLICT (customer) DO UPDATE SET due_at = 0, from_day = '';
    DELETE FROM billing_targets WHERE customer = OLD.customer AND period_start = OLD.starts_at;
END;

-- The amount of an event that is not received is planned again. An event that was accepted,
-- refused or discarded may make it possible to send a deferred amount.
CREATE TRIGGER settled_events_make_due AFTER UPDATE OF state ON meter_events
WHEN NEW.state <> OLD.state AND (NEW.state IN ('not_received', 'refused', 'discarded')
     OR NEW.state = 'accepted' AND EXISTS (SELECT 1 FROM billing_targets WHERE customer = NEW.customer AND deferred <> 0))
BEGIN
    INSERT INTO stripe_due (customer, due_at, from_day) VALUES (NEW.customer, 0, iif(NEW.state = 'accepted', '9999', ''))
    ON CONFLICT (customer) DO UPDATE SET due_at = 0, from_day = min(from_day, excluded.from_day);
    UPDATE billing_targets SET final_at = NULL WHERE customer = NEW.customer AND meter = NEW.meter AND period_start = NEW.billed_start AND final_at IS NOT NULL;
END;

INSERT INTO stripe_due (customer, due_at) SELECT id, 0 FROM customers;
