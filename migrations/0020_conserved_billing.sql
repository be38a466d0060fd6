-- From ledger to invoice nothing vanishes: plan history, billing periods that follow Stripe also in
-- the past, and billing targets that say what became of each unit of usage.

-- Which plan a customer had from when on (seconds since 1970, UTC). The first plan also holds for
-- usage of before the customer's row. A trigger adds a row with each change of `customers.plan`;
-- `plan_set_by` is whoever changes it, in the same UPDATE. Rows are never changed or deleted, so a
-- period that is over keeps its terms.
ALTER TABLE customers ADD COLUMN plan_set_by TEXT NOT NULL DEFAULT 'backend' CHECK (length(plan_set_by) BETWEEN 1 AND 256);

CREATE TABLE customer_plans (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    customer TEXT    NOT NULL CHECK (customer <> ''),
    plan     TEXT    NOT NULL CHECK (length(plan) BETWEEN 1 AND 64),
    from_at  INTEGER NOT NULL CHECK (from_at >= 0),
    set_by   TEXT    NOT NULL CHECK (set_by <> '')
) STRICT;

CREATE INDEX customer_plans_by_customer ON customer_plans (customer, from_at, seq);

INSERT INTO customer_plans (customer, plan, from_at, set_by) SELECT id, plan, 0, plan_set_by FROM customers;

CREATE TRIGGER customers_begin_with_a_plan AFTER INSERT ON customers
BEGIN
    -- a customer who signs up again under a deleted id has a plan already
    INSERT INTO customer_plans (customer, plan, from_at, set_by)
    SELECT NEW.id, NEW.plan, iif(EXISTS (SELECT 1 FROM customer_plans WHERE customer = NEW.id), unixepoch(), 0), NEW.plan_set_by;
END;

CREATE TRIGGER customers_change_plans AFTER UPDATE OF plan ON customers WHEN NEW.plan <> OLD.plan
BEGIN
    INSERT INTO customer_plans (customer, plan, from_at, set_by) VALUES (NEW.id, NEW.plan, unixepoch(), NEW.plan_set_by);
END;

CREATE TRIGGER customer_plans_stay BEFORE UPDATE ON customer_plans
BEGIN
    SELECT RAISE(ABORT, 'the plans that a customer had are history and never change: add a row');
END;

CREATE TRIGGER customer_plans_are_not_deleted BEFORE DELETE ON customer_plans
BEGIN
    SELECT RAISE(ABORT, 'the plans that a customer had are history and are never deleted');
END;

CREATE TRIGGER customer_plans_make_due AFTER INSERT ON customer_plans
BEGIN
    INSERT INTO stripe_due (customer, due_at) VALUES (NEW.customer, 0) ON CONFLICT (customer) DO UPDATE SET due_at = 0, from_day = '';
END;

-- A changed budget changes what may be billed.
CREATE TRIGGER budgets_make_due AFTER INSERT ON overage_budget_changes
BEGIN
    INSERT INTO stripe_due (customer, due_at) VALUES (NEW.customer, 0) ON CONFLICT (customer) DO UPDATE SET due_at = 0, from_day = '';
END;

-- Billing periods of usage follow what Stripe says now, also for the past; only the TURN count of a
-- closed period is history. `month_days` are the days of the month that the period was to be
-- part of when it began, `planned_last_day` the last of its days if nothing had cut it. Null: the
-- next roll_periods computes them.
DROP TRIGGER billing_periods_closed_stay;
DROP TRIGGER billing_periods_closed_are_not_deleted;
ALTER TABLE billing_periods ADD COLUMN month_days INTEGER CHECK (month_days > 0);
ALTER TABLE billing_periods ADD COLUMN planned_last_day TEXT;
UPDATE customers SET periods_until = NULL;

DROP TRIGGER changed_periods_make_due;
CREATE TRIGGER changed_periods_make_due
AFTER UPDATE OF ends_at, subscription, first_day, last_day, month_days, planned_last_day ON billing_periods
BEGIN
    INSERT INTO stripe_due (customer, due_at) VALUES (NEW.customer, 0) ON CONFLICT (customer) DO UPDATE SET due_at = 0, from_day = '';
END;

-- What became of the usage of a billing target's period, in 10^-10 units of the meter:
-- `used` = `within` the plan + `billable` + `house` + `not_priced`. `house` is usage beyond the
-- overage budget, which the company pays; `not_priced` is usage beyond the plan for which the plan
-- reports nothing to Stripe. `target` is what is reported of it, in Stripe's units. `advance` is
-- what was used in advance of the months that are over: it is taken off the next included amount.
ALTER TABLE billing_targets ADD COLUMN used INTEGER NOT NULL DEFAULT 0;
ALTER TABLE billing_targets ADD COLUMN within INTEGER NOT NULL DEFAULT 0;
ALTER TABLE billing_targets ADD COLUMN billable INTEGER NOT NULL DEFAULT 0;
ALTER TABLE billing_targets ADD COLUMN house INTEGER NOT NULL DEFAULT 0;
ALTER TABLE billing_targets ADD COLUMN not_priced INTEGER NOT NULL DEFAULT 0;
ALTER TABLE billing_targets ADD COLUMN advance INTEGER NOT NULL DEFAULT 0;
CREATE INDEX billing_targets_advance ON billing_targets (customer, period_start) WHERE advance > 0;

-- the amount that `billable` and `house` are worth at the plan's price, in minor units
ALTER TABLE billing_targets ADD COLUMN billable_minor INTEGER NOT NULL DEFAULT 0;
ALTER TABLE billing_targets ADD COLUMN house_minor INTEGER NOT NULL DEFAULT 0;
ALTER TABLE billing_targets ADD COLUMN currency TEXT NOT NULL DEFAULT '';

-- Bill, ledger and Stripe beside each other, for each billing period and each meter that a plan,
-- the ledger or Stripe knows. `bill` and `ledger` are sums of usage in units and a rest of 10^-10
-- units. `events` are sums of the values of the events for usage of the period, by what became of
-- them; an event on no invoice is in none. `accepted_on_invoice` counts the events on the period's
-- invoice, whichever period their usage was in. `used` to `currency` are the billing target's.
DROP VIEW stripe_comparison;
CREATE VIEW stripe_comparison AS
SELECT p.customer, m.meter, p.starts_at AS period_start, p.ends_at AS period_end, p.subscription IS NOT NULL AS billed,
       (SELECT sum(quantity / 10000000000) || ' ' || sum(quantity % 10000000000)
        FROM usage_days u WHERE u.customer = p.customer AND u.meter = m.meter AND u.day BETWEEN p.first_day AND p.last_day) AS bill,
       (SELECT sum(quantity / 10000000000) || ' ' || sum(quantity % 10000000000)
        FROM ledger_entries u WHERE u.customer = p.customer AND u.meter = m.meter AND u.day BETWEEN p.first_day AND p.last_day) AS ledger,
       coalesce(t.target, 0) AS target,
       (SELECT json_object(
                 'accepted',  coalesce(sum(i.value) FILTER (WHERE i.state = 'accepted'), 0),
                 'open',      coalesce(sum(i.value) FILTER (WHERE i.state IN ('pending', 'sending', 'unconfirmed')), 0),
                 'refused',   coalesce(sum(i.value) FILTER (WHERE i.state = 'refused'), 0),
                 'discarded', coalesce(sum(i.value) FILTER (WHERE i.state = 'discarded'), 0))
        FROM meter_events i
        WHERE i.customer = p.customer AND i.meter = m.meter AND i.timestamp >= p.starts_at
          AND i.period_start >= p.starts_at AND i.period_start < p.ends_at
          AND EXISTS (SELECT 1 FROM event_invoices WHERE seq = i.seq)) AS events,
       coalesce(t.deferred, 0) AS deferred, t.deferred_reason,
       coalesce(t.deferred <> 0 AND t.deferred_acknowledged IS t.deferred, 0) AS deferred_acknowledged,
       (SELECT count(*) FROM meter_events i INDEXED BY meter_events_by_time
        WHERE i.customer = p.customer AND i.meter = m.meter AND i.timestamp >= p.starts_at AND i.timestamp < p.ends_at
          AND i.state = 'accepted') AS accepted_on_invoice,
       coalesce(t.used, 0) AS used, coalesce(t.within, 0) AS within, coalesce(t.billable, 0) AS billable,
       coalesce(t.house, 0) AS house, coalesce(t.not_priced, 0) AS not_priced, coalesce(t.advance, 0) AS advance,
       coalesce(t.billable_minor, 0) AS billable_minor, coalesce(t.house_minor, 0) AS house_minor,
       coalesce(t.currency, '') AS currency,
       t.seen, t.expected, t.read_at, coalesce(t.acknowledged, 0) AS acknowledged,
       t.alarm_kind, t.alarm_shortfall, t.alarm_total, t.alarm_until, t.alarm_stripe_customer, t.alarm_answer
FROM billing_periods p
CROSS JOIN (SELECT meter FROM plan_meters UNION SELECT meter FROM stripe_meters UNION SELECT meter FROM usage_totals) m
LEFT JOIN billing_targets t ON t.customer = p.customer AND t.meter = m.meter AND t.period_start = p.starts_at;
