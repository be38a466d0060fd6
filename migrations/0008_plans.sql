-- Plans: what a subscription includes, and what usage beyond it costs.
--
-- A plan has versions, each with the instant from which it holds (seconds since 1970, UTC). A
-- billing period has the version that held when it began, so terms never change in mid-period. If
-- the plan itself is younger than the period, its first version counts. A version that holds
-- already is never edited: `meter plan apply` adds the next one.
CREATE TABLE plans (
    name           TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    effective_from INTEGER NOT NULL CHECK (effective_from >= 0),
    currency       TEXT    NOT NULL CHECK (currency GLOB '[A-Z][A-Z][A-Z]'),
    applied_at     INTEGER NOT NULL,
    PRIMARY KEY (name, effective_from)
) STRICT, WITHOUT ROWID;

-- `included` counts 10⁻¹⁰ units in each billing period. `price` is exact decimal text in the plan's
-- currency (ISO 4217), for each unit beyond the included amount; null = none can be used. A meter
-- without a row is not part of the plan. `report` selects what goes to Stripe: all usage, usage
-- beyond the included amount, or nothing.
CREATE TABLE plan_meters (
    plan           TEXT    NOT NULL,
    effective_from INTEGER NOT NULL,
    meter          TEXT    NOT NULL CHECK (meter <> ''),
    included       INTEGER NOT NULL CHECK (included BETWEEN 0 AND 9000000000000000000),
    price          TEXT,
    report         TEXT    NOT NULL CHECK (report IN ('total', 'overage', 'none')),
    PRIMARY KEY (plan, effective_from, meter),
    FOREIGN KEY (plan, effective_from) REFERENCES plans (name, effective_from)
) STRICT, WITHOUT ROWID;

-- The default plan, as in plans.toml.
INSERT INTO plans (name, effective_from, currency, applied_at) VALUES ('core', 0, 'USD', 0);

INSERT INTO plan_meters (plan, effective_from, meter, included, price, report)
VALUES ('core', 0, 'turn_allocations', 5000000000000, NULL, 'none');

ALTER TABLE customers ADD COLUMN plan TEXT NOT NULL DEFAULT 'core' CHECK (length(plan) BETWEEN 1 AND 64);
