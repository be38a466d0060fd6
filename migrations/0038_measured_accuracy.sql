-- What the daily comparison of measured and billed usage found, so that metrics, pages and
-- `meter status` need not read every customer again.

-- A meter that somebody has measured. `since` is the first day that anybody measured, which is not
-- compared; days before it count for nothing. `found` is an object: the settled days with their
-- sums, the findings, and the customers that differ most; quantities are exact decimals of the
-- meter's unit. It is null for a meter that is measured no more. `fold_measurements` writes it.
CREATE TABLE measured_accuracy (
    meter TEXT    NOT NULL PRIMARY KEY CHECK (meter <> ''),
    since TEXT    NOT NULL CHECK (since GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]'),
    found TEXT    CHECK (json_valid(found)),
    at    INTEGER NOT NULL                               -- seconds since 1970, UTC
) STRICT, WITHOUT ROWID;
