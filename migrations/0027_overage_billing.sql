-- Who pays for usage beyond a budget, from when on (`stripe.overage_billing`). A change holds for
-- billing periods that begin after it, so a period that is over keeps its terms. The first row
-- holds for everything before it, too. Append-only.
CREATE TABLE overage_billing_changes (
    from_at INTEGER NOT NULL PRIMARY KEY,                 -- seconds since 1970, UTC
    mode    TEXT    NOT NULL CHECK (mode IN ('up-to-budget', 'all'))
) STRICT;

CREATE TRIGGER overage_billing_changes_stay BEFORE UPDATE ON overage_billing_changes
BEGIN
    SELECT RAISE(ABORT, 'overage_billing_changes is append-only');
END;

CREATE TRIGGER overage_billing_changes_are_kept BEFORE DELETE ON overage_billing_changes
BEGIN
    SELECT RAISE(ABORT, 'overage_billing_changes is append-only');
END;
