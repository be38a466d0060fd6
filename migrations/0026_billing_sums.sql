-- All usage of a meter by what became of it, as the newest audit summed it. `sums` is an object:
-- quantities as exact decimals of the meter's unit, money in minor units by currency.
CREATE TABLE billing_sums (
    meter TEXT    NOT NULL PRIMARY KEY CHECK (meter <> ''),
    sums  TEXT    NOT NULL CHECK (json_valid(sums)),
    at    INTEGER NOT NULL                               -- seconds since 1970, UTC
) STRICT, WITHOUT ROWID;
