-- What AWS charges, customer by customer: cost meters sum a column of money. Their entries are in
-- the ledger like those of usage, booked with the same version and proven in the same way. The
-- name of such a meter ends with its currency, `chime_cost(USD)`, which no name of usage can. So
-- amounts in two currencies are never one sum, and no reader takes money for usage.

-- Every kind of line that a cost meter claims, beside `bill_lines`: a line may be usage of a meter
-- and have a cost. Amounts are exact decimal text in the currency of the bill.
CREATE TABLE cost_lines (
    version_id   INTEGER NOT NULL REFERENCES bill_versions (id),
    product      TEXT    NOT NULL,
    usage_type   TEXT    NOT NULL,
    unit         TEXT    NOT NULL,
    line_type    TEXT    NOT NULL,
    claim        TEXT    NOT NULL CHECK (claim IN ('counted', 'excluded')),
    meter        TEXT    NOT NULL CHECK (meter GLOB '?*([A-Z][A-Z][A-Z])'),
    lines        INTEGER NOT NULL,
    tagged_lines INTEGER NOT NULL,
    amount       TEXT    NOT NULL,
    PRIMARY KEY (version_id, product, usage_type, unit, line_type)
) STRICT, WITHOUT ROWID;

DROP VIEW booked_usage;

-- What counts as used: the entries of bookings that have a version, without those of cost meters.
CREATE VIEW booked_usage AS
SELECT b.version_id, b.payer, b.month, e.customer, e.meter, e.day, e.quantity, e.kind
FROM ledger_entries e CROSS JOIN bookings b ON b.id = e.booking_id AND b.version_id IS NOT NULL
WHERE e.meter NOT LIKE '%)';

-- What AWS charges: the entries of cost meters. `amount` is in 10^-10 of the currency.
CREATE VIEW booked_costs AS
SELECT b.version_id, b.payer, b.month, e.customer, e.meter, e.day, e.quantity AS amount
FROM ledger_entries e CROSS JOIN bookings b ON b.id = e.booking_id AND b.version_id IS NOT NULL
WHERE e.meter LIKE '%)';
