-- Differences that a person has handled outside of the books: by a credit note, an invoice by hand,
-- or a write-off. The ledger is not changed, and `meter reconcile` still shows the difference. It
-- alerts again when it changes.
--
-- `acknowledged`: by how much Stripe may be short (below 0: over) of what was accepted; `shortfall`
-- and `alarm_shortfall` are what is beyond it. `no_total_acknowledged`: the Stripe customer without
-- a total. `deferred_acknowledged`: the amount deferred.
ALTER TABLE billing_targets ADD COLUMN acknowledged INTEGER NOT NULL DEFAULT 0;
ALTER TABLE billing_targets ADD COLUMN no_total_acknowledged TEXT;
ALTER TABLE billing_targets ADD COLUMN deferred_acknowledged INTEGER;

CREATE TRIGGER billing_targets_deferred_differs AFTER UPDATE OF deferred, deferred_reason ON billing_targets
WHEN NEW.deferred_acknowledged IS NOT NULL AND (NEW.deferred <> OLD.deferred OR NEW.deferred_reason IS NOT OLD.deferred_reason)
BEGIN
    UPDATE billing_targets SET deferred_acknowledged = NULL WHERE customer = NEW.customer AND meter = NEW.meter AND period_start = NEW.period_start;
END;

-- An acknowledged difference is one of the total of a Stripe customer; another Stripe id ends it.
CREATE TRIGGER customers_other_totals AFTER UPDATE OF stripe_customer_id ON customers WHEN NEW.stripe_customer_id IS NOT OLD.stripe_customer_id
BEGIN
    UPDATE billing_targets SET acknowledged = 0, shortfall = NULL, shortfall_since = NULL WHERE customer = NEW.id AND acknowledged <> 0 AND final_at IS NULL;
END;

-- After a restoration: months of exports that were looked at since, and of which nothing waits for
-- a person. What the lost books had sent was sent for usage that the bills tell again; before they
-- have, a total has nothing to be compared with.
CREATE TABLE restored_bills (
    export  TEXT    NOT NULL CHECK (export <> ''),
    month   TEXT    NOT NULL CHECK (month GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]'),
    read_at INTEGER NOT NULL,                             -- seconds since 1970, UTC
    -- a person has said that it cannot be read any more
    without INTEGER NOT NULL DEFAULT 0 CHECK (without IN (0, 1)),
    PRIMARY KEY (export, month)
) STRICT, WITHOUT ROWID;
