-- Entitlements: whether a customer may use a meter now, and what that decision rests on. One row
-- for each customer and meter, for the current billing period.
--
-- `used`, `included` and `effective_limit` count 10⁻¹⁰ units. `effective_limit` is the quantity at
-- which the meter must stop, given the cost of the other meters (null: no limit); allowed means
-- used < effective_limit. `overage_cost_minor` is the cost of all the customer's meters beyond the
-- plan, rounded once, `meter_cost_minor` that of this meter; `budget_minor` and
-- `meter_budget_minor` are the budgets for them. `as_of` is the end of the bill's newest day with
-- usage, or the delivery of the bill if that was earlier (null: no bill yet, or the live TURN
-- counter); `freshness` says how old that is. A row is written when something in it changes, so
-- `decided_at` is the time of the last change.
CREATE TABLE entitlements (
    customer           TEXT    NOT NULL,
    meter              TEXT    NOT NULL,
    period_start       INTEGER NOT NULL,
    period_end         INTEGER NOT NULL,
    allowed            INTEGER NOT NULL CHECK (allowed IN (0, 1)),
    reason             TEXT    NOT NULL CHECK (reason <> ''),
    used               INTEGER NOT NULL,
    included           INTEGER NOT NULL,
    effective_limit    INTEGER,
    overage_cost_minor INTEGER NOT NULL,
    meter_cost_minor   INTEGER NOT NULL,
    budget_minor       INTEGER NOT NULL,
    meter_budget_minor INTEGER,
    currency           TEXT    NOT NULL,
    as_of              INTEGER,
    freshness          TEXT    NOT NULL CHECK (freshness IN ('live', 'fresh', 'stale', 'none')),
    decided_at         INTEGER NOT NULL,
    PRIMARY KEY (customer, meter)
) STRICT, WITHOUT ROWID;

-- Every decision that differs from the one before: another answer, reason, included amount, budget
-- or period. Append-only.
CREATE TABLE entitlement_changes (
    seq                INTEGER PRIMARY KEY AUTOINCREMENT,
    customer           TEXT    NOT NULL,
    meter              TEXT    NOT NULL,
    period_start       INTEGER NOT NULL,
    period_end         INTEGER NOT NULL,
    allowed            INTEGER NOT NULL,
    reason             TEXT    NOT NULL,
    used               INTEGER NOT NULL,
    included           INTEGER NOT NULL,
    effective_limit    INTEGER,
    overage_cost_minor INTEGER NOT NULL,
    meter_cost_minor   INTEGER NOT NULL,
    budget_minor       INTEGER NOT NULL,
    meter_budget_minor INTEGER,
    currency           TEXT    NOT NULL,
    as_of              INTEGER,
    freshness          TEXT    NOT NULL,
    decided_at         INTEGER NOT NULL
) STRICT;

CREATE INDEX entitlement_changes_by_customer ON entitlement_changes (customer, meter, seq);

CREATE TRIGGER entitlement_changes_stay BEFORE UPDATE ON entitlement_changes
BEGIN
    SELECT RAISE(ABORT, 'entitlement_changes is history and never changes');
END;

CREATE TRIGGER entitlement_changes_are_not_deleted BEFORE DELETE ON entitlement_changes
BEGIN
    SELECT RAISE(ABORT, 'entitlement_changes is history and never changes');
END;

-- A deleted customer is entitled to nothing; counts and history stay under the id.
CREATE TRIGGER customers_leave AFTER DELETE ON customers
BEGIN
    DELETE FROM entitlements WHERE customer = OLD.id;
    UPDATE turn_periods SET allowed_until = 0, reason = 'canceled' WHERE customer = OLD.id AND closed_at IS NULL;
END;
