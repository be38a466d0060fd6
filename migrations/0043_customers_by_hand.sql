-- Customers by hand: a name that people know them by, and the erasure of personal data.

-- What people call the customer; null as long as nobody has said. Nothing is computed from it.
ALTER TABLE customers ADD COLUMN display_name TEXT
    CONSTRAINT "customers.display_name: 1 to 256 characters, none of them a control character, no blank at the ends; write NULL as long as there is none"
    CHECK (length(display_name) BETWEEN 1 AND 256 AND trim(display_name, ' ' || char(160)) = display_name AND instr(CAST(display_name AS BLOB), x'00') = 0
           AND display_name NOT GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*');

-- Customers whose personal data was erased (`meter customer erase`). The id is gone from every
-- table, and `pseudonym` stands in its place. `digest` is the SHA-256 of a random key (`settings`,
-- `erasure_key`) and the old id: AWS's files and S3's reports still have that id, and what they say
-- of it is booked to the pseudonym.
CREATE TABLE erased_customers (
    digest    TEXT    NOT NULL PRIMARY KEY CHECK (length(digest) = 64 AND digest NOT GLOB '*[^0-9a-f]*'),
    pseudonym TEXT    NOT NULL UNIQUE CHECK (pseudonym GLOB 'erased-*' AND length(pseudonym) = 23),
    erased_at INTEGER NOT NULL                             -- seconds since 1970, UTC
) STRICT, WITHOUT ROWID;

-- The erasure that is under way. Its transaction inserts the row and removes it again, so nobody
-- else ever sees one. The triggers below allow that this customer's id becomes the pseudonym, and
-- nothing else; without a row they are what they were.
CREATE TABLE erasing (
    customer  TEXT NOT NULL PRIMARY KEY,
    pseudonym TEXT NOT NULL
) STRICT, WITHOUT ROWID;

DROP TRIGGER ledger_entries_are_not_updated;
CREATE TRIGGER ledger_entries_are_not_updated BEFORE UPDATE ON ledger_entries
WHEN NOT EXISTS (SELECT 1 FROM erasing WHERE customer = OLD.customer AND pseudonym = NEW.customer)
  OR (OLD.booking_id, OLD.meter, OLD.day, OLD.quantity, OLD.kind)
     IS NOT (NEW.booking_id, NEW.meter, NEW.day, NEW.quantity, NEW.kind)
BEGIN
    SELECT RAISE(ABORT, 'ledger_entries is append-only: book an adjustment instead');
END;

DROP TRIGGER customer_plans_stay;
CREATE TRIGGER customer_plans_stay BEFORE UPDATE ON customer_plans
WHEN NOT EXISTS (SELECT 1 FROM erasing WHERE customer = OLD.customer AND pseudonym = NEW.customer)
  OR (OLD.seq, OLD.plan, OLD.from_at)
     IS NOT (NEW.seq, NEW.plan, NEW.from_at)
BEGIN
    SELECT RAISE(ABORT, 'the plans that a customer had are history and never change: add a row');
END;

DROP TRIGGER acknowledgements_stay;
CREATE TRIGGER acknowledgements_stay BEFORE UPDATE ON acknowledgements
WHEN NOT EXISTS (SELECT 1 FROM erasing WHERE customer = OLD.customer AND pseudonym = NEW.customer)
  OR (OLD.seq, OLD.at, OLD.actor, OLD.meter, OLD.period_start, OLD.kind, OLD.amount, OLD.stripe_customer,
      OLD.deferred_reason)
     IS NOT (NEW.seq, NEW.at, NEW.actor, NEW.meter, NEW.period_start, NEW.kind, NEW.amount, NEW.stripe_customer,
             NEW.deferred_reason)
BEGIN
    SELECT RAISE(ABORT, 'what was acknowledged is history and never changes: add an entry');
END;

DROP TRIGGER entitlement_changes_stay;
CREATE TRIGGER entitlement_changes_stay BEFORE UPDATE ON entitlement_changes
WHEN NOT EXISTS (SELECT 1 FROM erasing WHERE customer = OLD.customer AND pseudonym = NEW.customer)
  OR (OLD.seq, OLD.meter, OLD.period_start, OLD.period_end, OLD.allowed, OLD.reason, OLD.used, OLD.included,
      OLD.effective_limit, OLD.overage_cost_minor, OLD.meter_cost_minor, OLD.budget_minor,
      OLD.meter_budget_minor, OLD.currency, OLD.as_of, OLD.freshness, OLD.decided_at, OLD.used_measured,
      OLD.blocked_at)
     IS NOT (NEW.seq, NEW.meter, NEW.period_start, NEW.period_end, NEW.allowed, NEW.reason, NEW.used, NEW.included,
             NEW.effective_limit, NEW.overage_cost_minor, NEW.meter_cost_minor, NEW.budget_minor,
             NEW.meter_budget_minor, NEW.currency, NEW.as_of, NEW.freshness, NEW.decided_at, NEW.used_measured,
             NEW.blocked_at)
BEGIN
    SELECT RAISE(ABORT, 'entitlement_changes is history and never changes');
END;

DROP TRIGGER overage_budget_changes_stay;
CREATE TRIGGER overage_budget_changes_stay BEFORE UPDATE ON overage_budget_changes
WHEN NOT EXISTS (SELECT 1 FROM erasing WHERE customer = OLD.customer AND pseudonym = NEW.customer)
  OR (OLD.seq, OLD.meter, OLD.amount_minor, OLD.currency, OLD.set_at)
     IS NOT (NEW.seq, NEW.meter, NEW.amount_minor, NEW.currency, NEW.set_at)
BEGIN
    SELECT RAISE(ABORT, 'overage_budget_changes is history and never changes');
END;

DROP TRIGGER stripe_customers_stay;
CREATE TRIGGER stripe_customers_stay BEFORE UPDATE OF seq, customer, stripe_customer, known_at ON stripe_customers
WHEN NOT EXISTS (SELECT 1 FROM erasing WHERE customer = OLD.customer AND pseudonym = NEW.customer)
  OR (OLD.seq, OLD.stripe_customer, OLD.known_at)
     IS NOT (NEW.seq, NEW.stripe_customer, NEW.known_at)
BEGIN
    SELECT RAISE(ABORT, 'the Stripe ids that a customer had are history and never change');
END;

DROP TRIGGER meter_events_are_frozen;
CREATE TRIGGER meter_events_are_frozen BEFORE UPDATE OF seq, identifier, customer, meter, period_start, billed_start, billed_end, stripe_customer, event_name, value, timestamp, send_before, created_at ON meter_events
WHEN NOT EXISTS (SELECT 1 FROM erasing WHERE customer = OLD.customer AND pseudonym = NEW.customer)
  OR (OLD.seq, OLD.identifier, OLD.meter, OLD.period_start, OLD.billed_start, OLD.billed_end,
      OLD.stripe_customer, OLD.event_name, OLD.value, OLD.timestamp, OLD.send_before, OLD.created_at)
     IS NOT (NEW.seq, NEW.identifier, NEW.meter, NEW.period_start, NEW.billed_start, NEW.billed_end,
             NEW.stripe_customer, NEW.event_name, NEW.value, NEW.timestamp, NEW.send_before, NEW.created_at)
BEGIN
    SELECT RAISE(ABORT, 'what an event sends is fixed when it is made: make a new one');
END;

DROP TRIGGER turn_periods_closed_stay;
CREATE TRIGGER turn_periods_closed_stay BEFORE UPDATE ON turn_periods
WHEN OLD.closed_at IS NOT NULL
  AND (NOT EXISTS (SELECT 1 FROM erasing WHERE customer = OLD.customer AND pseudonym = NEW.customer)
  OR (OLD.starts_at, OLD.ends_at, OLD.used, OLD.refused, OLD.granted, OLD.allowed_until, OLD.reason,
      OLD.closed_at, OLD.decided_until)
     IS NOT (NEW.starts_at, NEW.ends_at, NEW.used, NEW.refused, NEW.granted, NEW.allowed_until, NEW.reason,
             NEW.closed_at, NEW.decided_until))
BEGIN
    SELECT RAISE(ABORT, 'a closed count of turn_periods is history and never changes');
END;

DROP TRIGGER subscription_item_history_stays;
CREATE TRIGGER subscription_item_history_stays BEFORE UPDATE ON subscription_item_history
WHEN (OLD.until IS NOT NULL AND NOT EXISTS (SELECT 1 FROM erasing WHERE customer = OLD.customer AND pseudonym = NEW.customer))
  OR (OLD.customer IS NOT NEW.customer AND NOT EXISTS (SELECT 1 FROM erasing WHERE customer = OLD.customer AND pseudonym = NEW.customer))
  OR (OLD.item, OLD.subscription, OLD.stripe_meter, OLD.price, OLD.currency, OLD.known_at)
     IS NOT (NEW.item, NEW.subscription, NEW.stripe_meter, NEW.price, NEW.currency, NEW.known_at)
BEGIN
    SELECT RAISE(ABORT, 'what an item charged is history and never changes');
END;

-- Acts of people name a customer in their target, and may in their reason.
DROP TRIGGER audit_log_stays;
CREATE TRIGGER audit_log_stays BEFORE UPDATE ON audit_log
WHEN NOT EXISTS (SELECT 1 FROM erasing) OR (OLD.seq, OLD.at, OLD.actor, OLD.action) IS NOT (NEW.seq, NEW.at, NEW.actor, NEW.action)
BEGIN
    SELECT RAISE(ABORT, 'audit_log is history and never changes');
END;

-- A Stripe customer to whom nothing was ever billed goes with the personal data.
DROP TRIGGER stripe_customers_are_not_deleted;
CREATE TRIGGER stripe_customers_are_not_deleted BEFORE DELETE ON stripe_customers
WHEN NOT EXISTS (SELECT 1 FROM erasing WHERE OLD.customer IN (customer, pseudonym))
BEGIN
    SELECT RAISE(ABORT, 'the Stripe ids that a customer had are history and are never deleted');
END;

-- A new name of the customer is no change of an item or of a budget.
DROP TRIGGER subscription_items_change;
CREATE TRIGGER subscription_items_change AFTER UPDATE ON subscription_items
WHEN ((OLD.subscription, OLD.customer, OLD.stripe_meter, OLD.price, OLD.currency, OLD.quantity, OLD.tiered, OLD.unsupported)
  IS NOT (NEW.subscription, NEW.customer, NEW.stripe_meter, NEW.price, NEW.currency, NEW.quantity, NEW.tiered, NEW.unsupported)
  OR OLD.unit_amount IS NOT NEW.unit_amount AND OLD.created_at IS NOT NULL)
  AND NOT EXISTS (SELECT 1 FROM erasing)
BEGIN
    UPDATE subscription_item_history SET until = max(coalesce(NEW.seen_at, unixepoch()), from_at) WHERE item = NEW.id AND until IS NULL;
    INSERT INTO subscription_item_history
        (item, subscription, customer, stripe_meter, price, unit_amount, currency, quantity, tiered, unsupported, from_at, known_at)
    VALUES (NEW.id, NEW.subscription, NEW.customer, NEW.stripe_meter, NEW.price, NEW.unit_amount, NEW.currency, NEW.quantity, NEW.tiered,
            NEW.unsupported, coalesce(NEW.seen_at, unixepoch()), coalesce(NEW.seen_at, unixepoch()));
END;

DROP TRIGGER overage_budgets_changed;
CREATE TRIGGER overage_budgets_changed AFTER UPDATE ON overage_budgets
WHEN NOT EXISTS (SELECT 1 FROM erasing)
BEGIN
    INSERT INTO overage_budget_changes (customer, meter, amount_minor, currency, set_by, set_at)
    VALUES (NEW.customer, NEW.meter, NEW.amount_minor, NEW.currency, NEW.set_by, NEW.set_at);
END;
