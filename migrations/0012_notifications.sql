-- Notifications to the web backend (outbox): a share of an included amount or of a budget is used
-- up, or a meter was blocked or unblocked.
--
-- The transaction of the decision inserts the row, once for each crossing. `base` is the amount
-- that was crossed (an included amount in 10⁻¹⁰ units, a budget in minor units), so that a raised
-- budget can be crossed again; for a block or unblock it is the `seq` of `entitlement_changes`.
-- `deliver_notifications` sends `body` unchanged, under `id`, until the backend answers with 2xx or
-- a day has passed. Instants are seconds.
CREATE TABLE notifications (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT    NOT NULL UNIQUE CHECK (id <> ''),   -- webhook-id
    customer     TEXT    NOT NULL,
    meter        TEXT    NOT NULL,                            -- '' = the budget of all meters
    kind         TEXT    NOT NULL CHECK (kind IN ('included_used', 'budget_used', 'blocked', 'unblocked')),
    period_start INTEGER NOT NULL,
    percent      INTEGER NOT NULL DEFAULT 0,
    base         INTEGER NOT NULL,
    body         TEXT    NOT NULL CHECK (json_valid(body)),
    state        TEXT    NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'dead')),
    attempts     INTEGER NOT NULL DEFAULT 0,
    created_at   INTEGER NOT NULL,
    give_up_at   INTEGER NOT NULL,
    next_at      INTEGER CHECK ((state = 'pending') = (next_at IS NOT NULL)),
    delivered_at INTEGER CHECK ((state = 'delivered') = (delivered_at IS NOT NULL)),
    error        TEXT    CHECK (state <> 'dead' OR error IS NOT NULL),
    UNIQUE (customer, meter, kind, period_start, percent, base)
) STRICT;

CREATE INDEX notifications_due ON notifications (next_at) WHERE state = 'pending';
CREATE INDEX notifications_expiring ON notifications (give_up_at) WHERE state = 'pending';
CREATE INDEX notifications_dead ON notifications (seq) WHERE state = 'dead';
CREATE INDEX notifications_by_customer ON notifications (customer, seq);
