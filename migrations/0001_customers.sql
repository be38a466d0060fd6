-- Who uses the product, and the counters that the web backend reads before it hands out
-- credentials.
--
-- The row is created by the web backend on sign-up. `id` is the value of the cost allocation tag on
-- everything that the customer uses in AWS (the Cognito user id), compared byte for byte. Usage
-- under a tag that has no row here is booked all the same; it becomes the customer's when the row
-- appears.
--
-- The three AWS counters are derived: always the sum of ledger entries of the days of
-- `counters_period`, written in the transaction that books the entries. They are plain numbers
-- because JavaScript reads them; nothing is ever computed from them. `counters_period` is null
-- until the first computation. `turn_allocations_used` is the backend's own.
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
