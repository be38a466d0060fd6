-- Overage budgets: how much a customer is willing to pay beyond the plan in each billing period.
-- Without a row, nothing.
--
-- The row with meter '' is for all meters together; a row with a meter's name caps that meter. If
-- there is no row for all meters, each meter may use its own. `amount_minor` counts the currency's
-- minor unit (cents). The backend and `meter budget set` write the row, and put the person who
-- changed it into `set_by`; triggers keep every change.
CREATE TABLE overage_budgets (
    customer     TEXT    NOT NULL CHECK (customer <> ''),
    meter        TEXT    NOT NULL DEFAULT '',
    amount_minor INTEGER NOT NULL CHECK (amount_minor BETWEEN 0 AND 100000000000),
    currency     TEXT    NOT NULL CHECK (currency GLOB '[A-Z][A-Z][A-Z]'),
    set_by       TEXT    NOT NULL CHECK (set_by <> ''),
    set_at       INTEGER NOT NULL DEFAULT (unixepoch()),
    PRIMARY KEY (customer, meter)
) STRICT, WITHOUT ROWID;

CREATE TABLE overage_budget_changes (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    customer     TEXT    NOT NULL,
    meter        TEXT    NOT NULL,
    amount_minor INTEGER,                                   -- null: removed
    currency     TEXT    NOT NULL,
    set_by       TEXT    NOT NULL,
    set_at       INTEGER NOT NULL
) STRICT;

CREATE INDEX overage_budget_changes_by_customer ON overage_budget_changes (customer, seq);

CREATE TRIGGER overage_budgets_set AFTER INSERT ON overage_budgets
BEGIN
    INSERT INTO overage_budget_changes (customer, meter, amount_minor, currency, set_by, set_at)
    VALUES (NEW.customer, NEW.meter, NEW.amount_minor, NEW.currency, NEW.set_by, NEW.set_at);
END;

CREATE TRIGGER overage_budgets_changed AFTER UPDATE ON overage_budgets
BEGIN
    INSERT INTO overage_budget_changes (customer, meter, amount_minor, currency, set_by, set_at)
    VALUES (NEW.customer, NEW.meter, NEW.amount_minor, NEW.currency, NEW.set_by, NEW.set_at);
END;

CREATE TRIGGER overage_budgets_taken_away AFTER DELETE ON overage_budgets
BEGIN
    INSERT INTO overage_budget_changes (customer, meter, amount_minor, currency, set_by, set_at)
    VALUES (OLD.customer, OLD.meter, NULL, OLD.currency, OLD.set_by, unixepoch());
END;

CREATE TRIGGER overage_budget_changes_stay BEFORE UPDATE ON overage_budget_changes
BEGIN
    SELECT RAISE(ABORT, 'overage_budget_changes is history and never changes');
END;

CREATE TRIGGER overage_budget_changes_are_not_deleted BEFORE DELETE ON overage_budget_changes
BEGIN
    SELECT RAISE(ABORT, 'overage_budget_changes is history and never changes');
END;
