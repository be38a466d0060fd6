-- Customers, and the counters that the web backend reads before it hands out credentials.
--
-- The web backend creates the row on sign-up. `id` is the value of the cost allocation tag on
-- everything that the customer uses in AWS (the Cognito user id), compared byte for byte. Usage
-- under a tag without a row here is booked all the same; it belongs to the customer once the row
-- exists.
--
-- The three AWS counters are derived: each is the sum of the ledger entries for the days of
-- `counters_period`, written in the transaction that books the entries. They are floats because
-- JavaScript reads them; nothing is computed from them. `counters_period` is null until the first
-- computation. The backend alone writes `turn_allocations_used`.
CREATE TABLE customers (
    id                    TEXT    NOT NULL PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 256),
    instance_id           TEXT    UNIQUE,
    stripe_customer_id    TEXT    UNIQUE,
    stripe_subscription_id TEXT   UNIQUE,
    status                TEXT    NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'past_due', 'canceled')),
    turn_allocations_used INTEGER NOT NULL DEFAULT 0 CHECK (turn_allocations_used >= 0),
    chime_minutes_used    REAL    NOT NULL DEFAULT 0,
    storage_gb_used       REAL    NOT NULL DEFAULT 0,
    transfer_gb_used      REAL    NOT NULL DEFAULT 0,
    counters_period       TEXT    CHECK (counters_period GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]'),
    created_at            TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;

CREATE INDEX customers_by_counters_period ON customers (counters_period);
