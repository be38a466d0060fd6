-- The first decisions about many customers record five notifications of each as `known`. Their ids
-- are digests, so an index of ids is written at another place with each of them: with 100,000
-- customers each transaction wrote most of the index anew. The ids of known notifications are in no
-- index now, and no reader needed the one by customer. What makes a notification unique is the key
-- that its id is a digest of. The table is made anew, because SQLite drops no UNIQUE of a column.
ALTER TABLE notifications RENAME TO old_notifications;

DROP INDEX notifications_due;
DROP INDEX notifications_expiring;
DROP INDEX notifications_dead;
DROP INDEX notifications_by_customer;

-- Notifications to the web backend (outbox): a share of an included amount or of a budget is used
-- up, or a meter was blocked or unblocked.
--
-- The transaction of the decision inserts the row, once for each crossing. `base` is the amount
-- that was crossed (an included amount in 10⁻¹⁰ units, a budget in minor units), so that a raised
-- budget can be crossed again; for a block or unblock it is a number that differs from that of
-- every other one. `id` is a digest of this key. `deliver_notifications` sends `body` unchanged,
-- under `id`, until the backend answers with 2xx or a day has passed. A crossing that lay behind,
-- when somebody began to look, is `known`: it is not sent. Instants are seconds.
CREATE TABLE notifications (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT    NOT NULL CHECK (id <> ''),   -- webhook-id
    customer     TEXT    NOT NULL,
    meter        TEXT    NOT NULL,                            -- '' = the budget of all meters
    kind         TEXT    NOT NULL CHECK (kind IN ('included_used', 'budget_used', 'blocked', 'unblocked')),
    period_start INTEGER NOT NULL,
    percent      INTEGER NOT NULL DEFAULT 0,
    base         INTEGER NOT NULL,
    body         TEXT    NOT NULL CHECK (json_valid(body)),
    state        TEXT    NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'dead', 'known')),
    attempts     INTEGER NOT NULL DEFAULT 0,
    created_at   INTEGER NOT NULL,
    give_up_at   INTEGER NOT NULL,
    next_at      INTEGER CHECK ((state = 'pending') = (next_at IS NOT NULL)),
    delivered_at INTEGER CHECK ((state = 'delivered') = (delivered_at IS NOT NULL)),
    error        TEXT    CHECK (state NOT IN ('dead', 'known') OR error IS NOT NULL),
    UNIQUE (customer, meter, kind, period_start, percent, base)
) STRICT;

INSERT INTO notifications (seq, id, customer, meter, kind, period_start, percent, base, body, state, attempts,
                           created_at, give_up_at, next_at, delivered_at, error)
SELECT seq, id, customer, meter, kind, period_start, percent, base, body, state, attempts,
       created_at, give_up_at, next_at, delivered_at, error
FROM old_notifications
ORDER BY seq;

DROP TABLE old_notifications;

CREATE UNIQUE INDEX notifications_by_id ON notifications (id) WHERE state <> 'known';
CREATE INDEX notifications_due ON notifications (next_at) WHERE state = 'pending';
CREATE INDEX notifications_expiring ON notifications (give_up_at) WHERE state = 'pending';
CREATE INDEX notifications_dead ON notifications (seq) WHERE state = 'dead';
