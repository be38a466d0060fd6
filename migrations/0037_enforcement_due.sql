-- Enforcement follows change: who is to be decided, and when.
--
-- One row for each customer. `due_at` (seconds) is the instant at which the decision would become
-- another one by time alone: the end of a period, a share that somebody is notified of, a limit
-- that running usage reaches. Triggers set it to 0 when something changes that decides. A run takes
-- those that are due by moving them twenty seconds on, decides, and stores the next instant; what
-- changes meanwhile is 0 again, so it is not lost, and neither is a run that dies.
CREATE TABLE enforcement_due (
    customer TEXT    NOT NULL PRIMARY KEY,
    due_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX enforcement_due_next ON enforcement_due (due_at);

INSERT INTO enforcement_due (customer, due_at) SELECT id, 0 FROM customers;

-- What the newest run decided by, so that the next one looks at everybody only when it must.
-- `as_of` is the end of the usage that the bill can contain, `open_days` a JSON array of the days
-- that no bill had settled, `inputs` a digest of plans and configuration. `swept_at` is the newest
-- run that looked at everybody, and `missed` is how many customers it found changed although
-- nothing had made them due.
ALTER TABLE enforcement ADD COLUMN as_of INTEGER;
ALTER TABLE enforcement ADD COLUMN open_days TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(open_days));
ALTER TABLE enforcement ADD COLUMN inputs TEXT NOT NULL DEFAULT '';
ALTER TABLE enforcement ADD COLUMN swept_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE enforcement ADD COLUMN missed INTEGER NOT NULL DEFAULT 0;

UPDATE enforcement SET as_of = (SELECT max(as_of) FROM entitlements);

-- `as_of` and `freshness` of a row are those of the bill that the decision rested on. Whoever asks
-- later takes `enforcement.as_of`, so a new bill does not change the rows of everybody.
-- `blocked_at` is when running uses take the meter to its limit, at the present level; null when
-- they do not before anything else changes.
ALTER TABLE entitlements ADD COLUMN blocked_at INTEGER;
ALTER TABLE entitlement_changes ADD COLUMN blocked_at INTEGER;

-- The count at which the decision is made anew: the next share of what is included that somebody
-- is notified of, the limit, or a hundredth of what is included more than the count was.
ALTER TABLE turn_periods ADD COLUMN decided_until INTEGER;

CREATE TRIGGER customers_are_decided AFTER INSERT ON customers
BEGIN
    INSERT INTO enforcement_due (customer, due_at) VALUES (NEW.id, 0)
    ON CONFLICT (customer) DO UPDATE SET due_at = 0;
END;

CREATE TRIGGER renamed_customers_are_decided AFTER UPDATE OF id ON customers WHEN OLD.id <> NEW.id
BEGIN
    DELETE FROM enforcement_due WHERE customer = OLD.id;
    INSERT INTO enforcement_due (customer, due_at) VALUES (NEW.id, 0)
    ON CONFLICT (customer) DO UPDATE SET due_at = 0;
END;

CREATE TRIGGER customers_that_go_are_not_decided AFTER DELETE ON customers
BEGIN
    DELETE FROM enforcement_due WHERE customer = OLD.id;
END;

CREATE TRIGGER changed_customers_are_decided AFTER UPDATE OF status, plan ON customers
WHEN (OLD.status, OLD.plan) IS NOT (NEW.status, NEW.plan)
BEGIN
    UPDATE enforcement_due SET due_at = 0 WHERE customer = NEW.id AND due_at > 0;
END;

CREATE TRIGGER customer_plans_are_decided AFTER INSERT ON customer_plans
BEGIN
    UPDATE enforcement_due SET due_at = 0 WHERE customer = NEW.customer AND due_at > 0;
END;

CREATE TRIGGER subscriptions_are_decided AFTER INSERT ON subscriptions
BEGIN
    UPDATE enforcement_due SET due_at = 0 WHERE customer = NEW.customer AND due_at > 0;
END;

CREATE TRIGGER changed_subscriptions_are_decided AFTER UPDATE ON subscriptions
WHEN (OLD.customer, OLD.started_at, OLD.status, OLD.ended_at) IS NOT (NEW.customer, NEW.started_at, NEW.status, NEW.ended_at)
BEGIN
    UPDATE enforcement_due SET due_at = 0 WHERE customer IN (OLD.customer, NEW.customer) AND due_at > 0;
END;

CREATE TRIGGER subscriptions_that_go_are_decided AFTER DELETE ON subscriptions
BEGIN
    UPDATE enforcement_due SET due_at = 0 WHERE customer = OLD.customer AND due_at > 0;
END;

CREATE TRIGGER periods_are_decided AFTER INSERT ON billing_periods
BEGIN
    UPDATE enforcement_due SET due_at = 0 WHERE customer = NEW.customer AND due_at > 0;
END;

CREATE TRIGGER changed_periods_are_decided AFTER UPDATE ON billing_periods
WHEN (OLD.starts_at, OLD.ends_at, OLD.first_day, OLD.last_day, OLD.planned_last_day, OLD.month_days)
  IS NOT (NEW.starts_at, NEW.ends_at, NEW.first_day, NEW.last_day, NEW.planned_last_day, NEW.month_days)
BEGIN
    UPDATE enforcement_due SET due_at = 0 WHERE customer = NEW.customer AND due_at > 0;
END;

CREATE TRIGGER periods_that_go_are_decided AFTER DELETE ON billing_periods
BEGIN
    UPDATE enforcement_due SET due_at = 0 WHERE customer = OLD.customer AND due_at > 0;
END;

CREATE TRIGGER turn_periods_are_decided AFTER INSERT ON turn_periods
BEGIN
    UPDATE enforcement_due SET due_at = 0 WHERE customer = NEW.customer AND due_at > 0;
END;

CREATE TRIGGER turn_periods_that_go_are_decided AFTER DELETE ON turn_periods
BEGIN
    UPDATE enforcement_due SET due_at = 0 WHERE customer = OLD.customer AND due_at > 0;
END;

CREATE TRIGGER changed_turn_periods_are_decided AFTER UPDATE OF starts_at, ends_at, closed_at ON turn_periods
WHEN (OLD.starts_at, OLD.ends_at, OLD.closed_at) IS NOT (NEW.starts_at, NEW.ends_at, NEW.closed_at)
BEGIN
    UPDATE enforcement_due SET due_at = 0 WHERE customer = NEW.customer AND due_at > 0;
END;

-- An allocation that is given back can open what was blocked.
CREATE TRIGGER counted_turn_periods_are_decided AFTER UPDATE OF used ON turn_periods
WHEN NEW.used >= NEW.decided_until AND OLD.used < NEW.decided_until
  OR NEW.used < NEW.allowed_until AND OLD.used >= NEW.allowed_until
BEGIN
    UPDATE enforcement_due SET due_at = 0 WHERE customer = NEW.customer AND due_at > 0;
END;

CREATE TRIGGER budgets_are_decided AFTER INSERT ON overage_budgets
BEGIN
    UPDATE enforcement_due SET due_at = 0 WHERE customer = NEW.customer AND due_at > 0;
END;

CREATE TRIGGER changed_budgets_are_decided AFTER UPDATE ON overage_budgets
WHEN (OLD.customer, OLD.meter, OLD.amount_minor, OLD.currency) IS NOT (NEW.customer, NEW.meter, NEW.amount_minor, NEW.currency)
BEGIN
    UPDATE enforcement_due SET due_at = 0 WHERE customer IN (OLD.customer, NEW.customer) AND due_at > 0;
END;

CREATE TRIGGER budgets_that_go_are_decided AFTER DELETE ON overage_budgets
BEGIN
    UPDATE enforcement_due SET due_at = 0 WHERE customer = OLD.customer AND due_at > 0;
END;

CREATE TRIGGER advances_are_decided AFTER INSERT ON billing_targets WHEN NEW.advance > 0
BEGIN
    UPDATE enforcement_due SET due_at = 0 WHERE customer = NEW.customer AND due_at > 0;
END;

CREATE TRIGGER changed_advances_are_decided AFTER UPDATE OF advance, period_end ON billing_targets
WHEN (OLD.advance, OLD.period_end) IS NOT (NEW.advance, NEW.period_end)
BEGIN
    UPDATE enforcement_due SET due_at = 0 WHERE customer = NEW.customer AND due_at > 0;
END;

CREATE TRIGGER advances_that_go_are_decided AFTER DELETE ON billing_targets WHEN OLD.advance > 0
BEGIN
    UPDATE enforcement_due SET due_at = 0 WHERE customer = OLD.customer AND due_at > 0;
END;

-- The entries of a booking count at once, when it gets its version. A booking has many entries for
-- each customer, so this looks once for each customer and not at each entry.
CREATE TRIGGER booked_customers_are_decided AFTER UPDATE OF version_id ON bookings
WHEN NEW.version_id IS NOT NULL AND OLD.version_id IS NULL
BEGIN
    UPDATE enforcement_due SET due_at = 0
    WHERE due_at > 0 AND EXISTS (SELECT 1 FROM ledger_entries e WHERE e.booking_id = NEW.id AND e.customer = enforcement_due.customer);
END;

CREATE TRIGGER measurements_are_decided AFTER INSERT ON measurements WHEN coalesce(NEW.quantity, NEW.level) > 0
BEGIN
    UPDATE enforcement_due SET due_at = 0 WHERE customer = NEW.customer AND due_at > 0;
END;

-- A repeat writes the same row again.
CREATE TRIGGER changed_measurements_are_decided AFTER UPDATE ON measurements
WHEN (OLD.quantity, OLD.level, OLD.started_at, OLD.ended_at, OLD.expires_at)
  IS NOT (NEW.quantity, NEW.level, NEW.started_at, NEW.ended_at, NEW.expires_at)
BEGIN
    UPDATE enforcement_due SET due_at = 0 WHERE customer = NEW.customer AND due_at > 0;
END;
