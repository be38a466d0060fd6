-- Forecasts of month ends, so that pages, metrics and `meter status` read a few rows instead of the
-- usage of every customer.

-- What a customer will have used of a meter at the end of a month, as the newest run of
-- `forecast_usage` expects it; the customer '' is all usage of the meter. Quantities are exact
-- decimals of the meter's unit. `p90` is null when too few past errors are known. `included_on` and
-- `limit_on` are the days on which what the plan includes is used up and the limit is reached: the
-- day before the run when it is already, null when it is not in the current billing period. The
-- last four are the meter's line on the bill of that period, in minor units, with its last day.
CREATE TABLE forecasts (
    customer    TEXT NOT NULL,
    meter       TEXT NOT NULL CHECK (meter <> ''),
    month       TEXT NOT NULL CHECK (month GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]'),
    booked      TEXT NOT NULL,
    p50         TEXT NOT NULL,
    p90         TEXT,
    included_on TEXT,
    limit_on    TEXT,
    currency    TEXT,
    last_day    TEXT,
    bill_p50    INTEGER,
    bill_p90    INTEGER,
    PRIMARY KEY (customer, month, meter)
) STRICT, WITHOUT ROWID;

-- How good the forecasts of a meter are: the errors of all rules in past months, and the rule that
-- is used. `found` is an object. `forecast_usage` writes it.
CREATE TABLE forecast_accuracy (
    meter TEXT    NOT NULL PRIMARY KEY CHECK (meter <> ''),
    found TEXT    NOT NULL CHECK (json_valid(found)),
    at    INTEGER NOT NULL                               -- seconds since 1970, UTC
) STRICT, WITHOUT ROWID;

-- Settled days of the last week that are far outside of what was expected of them, of a meter.
-- `found` is an object: how many there are, and the largest ones with their customers and likely
-- causes. The newest run of `forecast_usage` writes all rows.
CREATE TABLE unusual_days (
    meter TEXT    NOT NULL PRIMARY KEY CHECK (meter <> ''),
    found TEXT    NOT NULL CHECK (json_valid(found)),
    at    INTEGER NOT NULL                               -- seconds since 1970, UTC
) STRICT, WITHOUT ROWID;
