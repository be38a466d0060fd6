-- Subscriptions, billing periods, and the TURN credentials of each period.
--
-- Instants are seconds since 1970, UTC; a period begins with `starts_at` and ends before `ends_at`.
-- A customer's periods follow each other without a gap. They come from the subscription, month by
-- month from its anchor; without one they are calendar months. The current period and the next two
-- are open in advance, so that a period begins on time even if no job runs.

-- When the customer's open periods end; null = they must be computed anew (new customer, changed
-- subscription).
ALTER TABLE customers ADD COLUMN periods_until INTEGER;

CREATE INDEX customers_by_periods_until ON customers (periods_until);

-- A customer's subscriptions, as Stripe has them, written by the web backend from Stripe's
-- webhooks. `status` is Stripe's. `anchor_at` is Stripe's `billing_cycle_anchor`, in seconds, not
-- milliseconds.
CREATE TABLE subscriptions (
    id         TEXT    NOT NULL PRIMARY KEY CHECK (id <> ''),
    customer   TEXT    NOT NULL CHECK (customer <> ''),
    status     TEXT    NOT NULL CHECK (status IN ('trialing', 'active', 'past_due', 'unpaid', 'canceled', 'incomplete',
                                                  'incomplete_expired', 'paused')),
    anchor_at  INTEGER NOT NULL CHECK (anchor_at BETWEEN 0 AND 32503680000),
    started_at INTEGER NOT NULL CHECK (started_at BETWEEN 0 AND 32503680000),
    ended_at   INTEGER CHECK (ended_at IS NULL OR ended_at BETWEEN started_at AND 32503680000),
    updated_at INTEGER NOT NULL DEFAULT (unixepoch())
) STRICT, WITHOUT ROWID;

CREATE INDEX subscriptions_by_customer ON subscriptions (customer);

CREATE TRIGGER subscriptions_make_periods_anew AFTER INSERT ON subscriptions
BEGIN
    UPDATE customers SET periods_until = NULL WHERE id = NEW.customer;
END;

CREATE TRIGGER subscriptions_changed_make_periods_anew AFTER UPDATE ON subscriptions
WHEN (OLD.customer, OLD.anchor_at, OLD.started_at, OLD.status, OLD.ended_at)
  IS NOT (NEW.customer, NEW.anchor_at, NEW.started_at, NEW.status, NEW.ended_at)
BEGIN
    UPDATE customers SET periods_until = NULL WHERE id IN (OLD.customer, NEW.customer);
END;

-- `first_day` to `last_day`, both included, are the days of usage in the period; it has none if the
-- first is after the last. A day that a subscription's period shares with a calendar month belongs
-- to the subscription's period.
CREATE TABLE billing_periods (
    customer     TEXT    NOT NULL CHECK (customer <> ''),
    starts_at    INTEGER NOT NULL,
    ends_at      INTEGER NOT NULL CHECK (ends_at > starts_at),
    subscription TEXT,                                      -- null: a calendar month
    first_day    TEXT    NOT NULL,
    last_day     TEXT    NOT NULL,
    opened_at    INTEGER NOT NULL,
    closed_at    INTEGER CHECK (closed_at IS NULL OR closed_at >= ends_at),
    PRIMARY KEY (customer, starts_at)
) STRICT, WITHOUT ROWID;

-- The TURN counter of each period. The web backend counts `used` up in the row of the current
-- period, until `allowed_until`; `reason` says why it must stop there. `enforce_budgets` writes
-- both. A closed count is history and never changes. `granted` is the answer to the last request.
CREATE TABLE turn_periods (
    customer      TEXT    NOT NULL CHECK (customer <> ''),
    starts_at     INTEGER NOT NULL,
    ends_at       INTEGER NOT NULL CHECK (ends_at > starts_at),
    used          INTEGER NOT NULL DEFAULT 0 CHECK (used >= 0),
    refused       INTEGER NOT NULL DEFAULT 0 CHECK (refused >= 0),
    granted       INTEGER NOT NULL DEFAULT 0 CHECK (granted IN (0, 1)),
    allowed_until INTEGER CHECK (allowed_until >= 0),                   -- null: no limit
    reason        TEXT    NOT NULL CHECK (reason <> ''),
    closed_at     INTEGER CHECK (closed_at IS NULL OR closed_at >= ends_at),
    PRIMARY KEY (customer, starts_at)
) STRICT, WITHOUT ROWID;

CREATE INDEX turn_periods_open ON turn_periods (customer, ends_at) WHERE closed_at IS NULL;
CREATE INDEX turn_periods_to_close ON turn_periods (ends_at) WHERE closed_at IS NULL;

CREATE TRIGGER turn_periods_closed_stay BEFORE UPDATE ON turn_periods WHEN OLD.closed_at IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'a closed count of turn_periods is history and never changes');
END;

CREATE TRIGGER turn_periods_closed_are_not_deleted BEFORE DELETE ON turn_periods WHEN OLD.closed_at IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'a closed count of turn_periods is history and never changes');
END;

CREATE TRIGGER billing_periods_closed_stay BEFORE UPDATE ON billing_periods WHEN OLD.closed_at IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'a closed row of billing_periods is history and never changes');
END;

CREATE TRIGGER billing_periods_closed_are_not_deleted BEFORE DELETE ON billing_periods WHEN OLD.closed_at IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'a closed row of billing_periods is history and never changes');
END;

-- The customer's row shows the counter that changed last; after a rollover, the counter of the
-- current period.
CREATE TRIGGER turn_periods_show_on_customers AFTER UPDATE OF used ON turn_periods WHEN NEW.used <> OLD.used
BEGIN
    UPDATE customers SET turn_allocations_used = NEW.used WHERE id = NEW.customer;
END;

-- A new customer gets calendar months at once, the current one and the next two. The plan's
-- included amount limits the TURN counters. A customer who signs up again under a deleted id
-- continues with the open periods. The rules are those of `enforce_budgets`: the plan version that
-- held when the period began counts, else the plan's first one; a customer with subscriptions of
-- which none is good gets nothing.
CREATE TRIGGER customers_have_periods AFTER INSERT ON customers
BEGIN
    INSERT INTO billing_periods (customer, starts_at, ends_at, first_day, last_day, opened_at)
    SELECT NEW.id, unixepoch('now', 'start of month', n.value || ' months'), unixepoch('now', 'start of month', (n.value + 1) || ' months'),
           date('now', 'start of month', n.value || ' months'), date('now', 'start of month', (n.value + 1) || ' months', '-1 day'), unixepoch()
    FROM json_each('[0,1,2]') n
    WHERE NOT EXISTS (SELECT 1 FROM billing_periods WHERE customer = NEW.id AND closed_at IS NULL);
    INSERT INTO turn_periods (customer, starts_at, ends_at, used, allowed_until, reason)
    SELECT NEW.id, unixepoch('now', 'start of month', n.value || ' months'), unixepoch('now', 'start of month', (n.value + 1) || ' months'),
           iif(n.value = 0, NEW.turn_allocations_used, 0), 0, 'unknown_plan'
    FROM json_each('[0,1,2]') n
    WHERE NOT EXISTS (SELECT 1 FROM turn_periods WHERE customer = NEW.id AND closed_at IS NULL);
    UPDATE turn_periods
    SET reason = CASE
            WHEN NEW.status = 'canceled'
              OR (EXISTS (SELECT 1 FROM subscriptions WHERE customer = NEW.id AND status NOT IN ('incomplete', 'incomplete_expired'))
                  AND NOT EXISTS (SELECT 1 FROM subscriptions WHERE customer = NEW.id AND status IN ('active', 'trialing', 'past_due')
                                  AND (ended_at IS NULL OR ended_at > unixepoch()))) THEN 'canceled'
            WHEN NOT EXISTS (SELECT 1 FROM plans WHERE name = NEW.plan) THEN 'unknown_plan'
            ELSE coalesce((SELECT iif(price IS NULL, 'included_used', 'no_budget') FROM plan_meters
                           WHERE plan = NEW.plan AND meter = 'turn_allocations' AND effective_from = coalesce(
                              (SELECT max(effective_from) FROM plans WHERE name = NEW.plan AND effective_from <= starts_at),
                              (SELECT min(effective_from) FROM plans WHERE name = NEW.plan))), 'not_in_plan') END
    WHERE customer = NEW.id AND closed_at IS NULL;
    UPDATE turn_periods
    SET allowed_until = (SELECT included / 10000000000 FROM plan_meters
                         WHERE plan = NEW.plan AND meter = 'turn_allocations' AND effective_from = coalesce(
                            (SELECT max(effective_from) FROM plans WHERE name = NEW.plan AND effective_from <= starts_at),
                            (SELECT min(effective_from) FROM plans WHERE name = NEW.plan)))
    WHERE customer = NEW.id AND closed_at IS NULL AND reason IN ('included_used', 'no_budget');
    UPDATE customers SET turn_allocations_used = coalesce((SELECT used FROM turn_periods WHERE customer = NEW.id AND closed_at IS NULL
                                                          ORDER BY starts_at LIMIT 1), 0)
    WHERE id = NEW.id;
END;

-- A canceled customer gets no credential from that moment on; a reactivated one waits for the next
-- enforcement.
CREATE TRIGGER customers_canceled_get_nothing AFTER UPDATE OF status ON customers WHEN NEW.status = 'canceled'
BEGIN
    UPDATE turn_periods SET allowed_until = 0, reason = 'canceled' WHERE customer = NEW.id AND closed_at IS NULL;
END;

-- Customers from before this migration get periods; their TURN counts go on.
INSERT INTO billing_periods (customer, starts_at, ends_at, first_day, last_day, opened_at)
SELECT customers.id, unixepoch('now', 'start of month', n.value || ' months'), unixepoch('now', 'start of month', (n.value + 1) || ' months'),
       date('now', 'start of month', n.value || ' months'), date('now', 'start of month', (n.value + 1) || ' months', '-1 day'), unixepoch()
FROM customers, json_each('[0,1,2]') n;

INSERT INTO turn_periods (customer, starts_at, ends_at, used, allowed_until, reason)
SELECT customers.id, unixepoch('now', 'start of month', n.value || ' months'), unixepoch('now', 'start of month', (n.value + 1) || ' months'),
       iif(n.value = 0, turn_allocations_used, 0), iif(status = 'canceled', 0, 500), iif(status = 'canceled', 'canceled', 'included_used')
FROM customers, json_each('[0,1,2]') n;
