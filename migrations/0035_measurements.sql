-- AWS's bill is half a day to two days late. The web backend knows at once who uses what, and says
-- so here.

-- How usage of a meter is measured: the configuration of the workers (`meters[].accrues`,
-- `measure`), because the web backend's statements take it from here and have no other source.
-- Workers write it when they start, and so does `fold_measurements`. `accrues` is null for a meter
-- that is measured no more. `longest_use` is the bound of a use in seconds, null for a meter of
-- which nothing runs. `upload_days` is S3's lifecycle rule, null for a meter without stored
-- objects. Whatever ended before `folded_until` may be folded, so nothing older is taken. It never
-- goes back.
CREATE TABLE measured_meters (
    meter        TEXT    NOT NULL PRIMARY KEY,
    accrues      TEXT    CHECK (accrues IN ('attendee-minutes', 'gb-months', 'gb')),
    longest_use  INTEGER CHECK (longest_use > 0),
    upload_days  INTEGER CHECK (upload_days > 0),
    folded_until INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- The default configuration until the first worker starts.
INSERT INTO measured_meters (meter, accrues, longest_use, upload_days)
VALUES ('chime_minutes', 'attendee-minutes', 86400, NULL), ('storage_gb', 'gb-months', 86400, 1), ('transfer_gb', 'gb', NULL, NULL);

-- What the web backend measured. It writes by the statements of docs/backend-contract.md, and
-- `fold_measurements` removes what is old. The customer need not exist. A repeat is the same row.
-- There is no other index, because each one is another row written.
--
-- A row is a `quantity` at the instant `started_at`, or a `level` from `started_at` on, or an end
-- whose start is not known yet. A level counts until `ended_at`, but never beyond `expires_at`, the
-- bound of a use. The end of a stored object is known at once. Quantities and levels are integers
-- in the smallest unit: attendees and attendee-seconds, bytes and byte-seconds. Instants are
-- seconds.
CREATE TABLE measurements (
    customer   TEXT    NOT NULL
        CONSTRAINT "measurements.customer: 1 to 256 characters, none of them a control character, no blank at the ends; it is the value of the cost allocation tag"
        CHECK (length(customer) BETWEEN 1 AND 256 AND trim(customer, ' ' || char(160)) = customer AND instr(CAST(customer AS BLOB), x'00') = 0
               AND customer NOT GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*'),
    meter      TEXT    NOT NULL,
    id         TEXT    NOT NULL
        CONSTRAINT "measurements.id: 1 to 1024 bytes, none of them of a control character; it names the use, the report or the stored object"
        CHECK (length(CAST(id AS BLOB)) BETWEEN 1 AND 1024 AND instr(CAST(id AS BLOB), x'00') = 0
               AND id NOT GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*'),
    quantity   INTEGER
        CONSTRAINT "measurements.quantity: 0 to 10^18 of the smallest unit of the meter"
        CHECK (quantity BETWEEN 0 AND 1000000000000000000),
    level      INTEGER
        CONSTRAINT "measurements.level: 0 to 10^15 of the smallest unit of the meter"
        CHECK (level BETWEEN 0 AND 1000000000000000),
    started_at INTEGER
        CONSTRAINT "measurements.started_at: seconds since 1970"
        CHECK (started_at BETWEEN 0 AND 99999999999),
    ended_at   INTEGER
        CONSTRAINT "measurements.ended_at: seconds since 1970"
        CHECK (ended_at BETWEEN 0 AND 99999999999),
    expires_at INTEGER,
    PRIMARY KEY (customer, meter, id),
    CONSTRAINT "measurements: a row is a quantity at an instant, a level with a start, or an end; an id is one of them"
    CHECK (CASE
        WHEN quantity IS NOT NULL THEN level IS NULL AND started_at IS NOT NULL AND ended_at IS NULL AND expires_at IS NULL
        WHEN level IS NOT NULL THEN started_at IS NOT NULL AND coalesce(ended_at, expires_at) IS NOT NULL
        ELSE started_at IS NULL AND ended_at IS NOT NULL AND expires_at IS NULL
    END)
) STRICT, WITHOUT ROWID;

-- Measurements of long ago: what they add to a customer's day, in the smallest unit of the meter:
-- `units` × 10¹⁰ + `rest`. `fold_measurements` adds and removes the measurement in one transaction,
-- so each counts in one of the two tables.
CREATE TABLE measured_days (
    customer TEXT    NOT NULL,
    meter    TEXT    NOT NULL,
    day      TEXT    NOT NULL,
    units    INTEGER NOT NULL,
    rest     INTEGER NOT NULL,
    PRIMARY KEY (customer, meter, day)
) STRICT, WITHOUT ROWID;
