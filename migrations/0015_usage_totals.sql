-- The sum of all customers' usage by meter and day, so that dashboards need not add up every
-- customer each time they look.
--
-- A trigger keeps it, as `usage_days`, by whether entries have a customer, so that a worker of an
-- older build that still books while this is applied cannot leave it behind; the audit compares it
-- with the ledger. A sum may be larger than what one 64-bit number of 10^-10 units holds, so it is
-- kept as whole units and the rest.
CREATE TABLE usage_totals (
    meter      TEXT    NOT NULL,
    day        TEXT    NOT NULL,
    attributed INTEGER NOT NULL CHECK (attributed IN (0, 1)),
    units      INTEGER NOT NULL,
    rest       INTEGER NOT NULL,                              -- of 10^-10 units; not normalised
    PRIMARY KEY (meter, day, attributed)
) STRICT, WITHOUT ROWID;

CREATE INDEX usage_totals_by_day ON usage_totals (day);

INSERT INTO usage_totals (meter, day, attributed, units, rest)
SELECT meter, day, customer <> '', sum(quantity / 10000000000), sum(quantity % 10000000000) FROM ledger_entries GROUP BY 1, 2, 3;

CREATE TRIGGER ledger_entries_make_usage_totals AFTER INSERT ON ledger_entries
BEGIN
    INSERT INTO usage_totals (meter, day, attributed, units, rest)
    VALUES (NEW.meter, NEW.day, NEW.customer <> '', NEW.quantity / 10000000000, NEW.quantity % 10000000000)
    ON CONFLICT (meter, day, attributed) DO UPDATE SET units = units + excluded.units, rest = rest + excluded.rest;
END;
