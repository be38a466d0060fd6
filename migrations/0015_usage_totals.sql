-- The sum of all customers' usage by meter and day, so that dashboards need not add up every
-- customer at each reading. `attributed`: whether the entries have a customer.
--
-- A trigger maintains the table, as it does `usage_days`, so the sums stay complete even if a
-- worker of an older build still books while this migration is applied. The audit compares them
-- with the ledger. A sum may exceed a 64-bit number of 10^-10 units, so it is stored as whole
-- units and a rest.
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
