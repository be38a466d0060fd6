-- Somebody who asks whether a meter may be used must see when somebody last decided, and must know
-- what holds when nobody does. And a crossing that lay behind, when notifications were switched
-- on, is recorded and not sent.

-- The newest run of `enforce_budgets` that looked at every customer; one row, none before the first
-- run. `on_stale` and `stale_after` (seconds) are its configuration: the web backend's statement
-- applies them when nobody decides. `thresholds` (a JSON array) and `notifies` (whether a webhook
-- was configured) are compared by the next run, and so is `restored`: which restored backup the run
-- knew, and when its bills were read again.
CREATE TABLE enforcement (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    enforced_at INTEGER NOT NULL,
    stale_after INTEGER NOT NULL CHECK (stale_after > 0),
    on_stale    TEXT    NOT NULL CHECK (on_stale IN ('keep', 'warn', 'block-overage')),
    notifies    INTEGER NOT NULL CHECK (notifies IN (0, 1)),
    thresholds  TEXT    NOT NULL CHECK (json_valid(thresholds)),
    restored    TEXT
) STRICT;

-- Books of an older build: the newest decision, and the default configuration until the next run.
INSERT INTO enforcement (id, enforced_at, stale_after, on_stale, notifies, thresholds)
SELECT 1, newest, 259200, 'warn', EXISTS (SELECT 1 FROM notifications WHERE attempts > 0), '[50,80,100]'
FROM (SELECT max(decided_at) AS newest FROM entitlements) WHERE newest IS NOT NULL;

-- A new state: `known` was not sent, and `error` says why. The table is made anew, because SQLite
-- changes no CHECK.
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
-- budget can be crossed again; for a block or unblock it is the `seq` of `entitlement_changes`.
-- `deliver_notifications` sends `body` unchanged, under `id`, until the backend answers with 2xx or
-- a day has passed. A crossing that lay behind, when somebody began to look, is `known`: it is not
-- sent. Instants are seconds.
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
    state        TEXT    NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'dead', 'known')),
    attempts     INTEGER NOT NULL DEFAULT 0,
    created_at   INTEGER NOT NULL,
    give_up_at   INTEGER NOT NULL,
    next_at      INTEGER CHECK ((state = 'pending') = (next_at IS NOT NULL)),
    delivered_at INTEGER CHECK ((state = 'delivered') = (delivered_at IS NOT NULL)),
    error        TEXT    CHECK (state NOT IN ('dead', 'known') OR error IS NOT NULL),
    UNIQUE (customer, meter, kind, period_start, percent, base)
) STRICT;

-- What an older build kept while no webhook was configured lies behind, too.
INSERT INTO notifications (seq, id, customer, meter, kind, period_start, percent, base, body, state, attempts,
                           created_at, give_up_at, next_at, delivered_at, error)
SELECT seq, id, customer, meter, kind, period_start, percent, base, body, iif(unsent, 'known', state), attempts,
       created_at, give_up_at, iif(unsent, NULL, next_at), delivered_at,
       iif(unsent, 'no webhook was configured (notifications.url)', error)
FROM (SELECT *, state = 'dead' AND error = 'no webhook was configured (notifications.url)'
             OR state = 'pending' AND NOT EXISTS (SELECT 1 FROM old_notifications WHERE attempts > 0) AS unsent
      FROM old_notifications)
ORDER BY seq;

DROP TABLE old_notifications;

CREATE INDEX notifications_due ON notifications (next_at) WHERE state = 'pending';
CREATE INDEX notifications_expiring ON notifications (give_up_at) WHERE state = 'pending';
CREATE INDEX notifications_dead ON notifications (seq) WHERE state = 'dead';
CREATE INDEX notifications_by_customer ON notifications (customer, seq);
