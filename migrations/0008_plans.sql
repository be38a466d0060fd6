-- What a customer gets for the subscription, and what more costs.
--
-- A plan has versions by the instant from which they hold. A billing period has the terms that were
-- in force when it began, so nobody's terms change in mid-period; a plan that began later than the
-- period counts with its first version. Versions are never edited once they hold: `meter plan
-- apply` adds the next one.
CREATE TABLE plans (
    name           TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    effective_from INTEGER NOT NULL CHECK (effective_from >= 0),            -- seconds since 1970, UTC
    currency       TEXT    NOT NULL CHECK (currency GLOB '[A-Z][A-Z][A-Z]'), -- ISO 4217
    applied_at     INTEGER NOT NULL,
    PRIMARY KEY (name, effective_from)
) STRICT, WITHOUT ROWID;

-- `included` counts 10⁻¹⁰ units a billing period, like the ledger. `price` is exact decimal text in
-- the plan's currency for each unit beyond it; null = nothing beyond it can be had. A meter without
-- a row is not part of the plan. `report` says what goes to Stripe: all usage, what is beyond the
-- included amount, or nothing.
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
