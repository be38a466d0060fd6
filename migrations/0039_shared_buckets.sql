-- All customers' files lie in one bucket, and AWS's bill has one untagged sum for it. Whose they
-- are is read from S3's own reports, day by day.

-- A day of a shared bucket that was read from one source: `inventory` (S3 Inventory: who stored how
-- much for how long) or `access_logs` (S3 server access logs: who fetched how much). `digest` is
-- the SHA-256 of what the weights follow from: files and rules. While it stays the same, nothing of
-- the day is written again. `files` were read, and of their objects or lines `counted` counted.
-- `repeated` were there before, `of_nobody` name no customer, `contradictions` name two, and
-- `bad_lines` could not be read. `ingest_inventory` and `ingest_access_logs` write the row, with
-- all weights of the day in one transaction.
CREATE TABLE bucket_days (
    bucket         TEXT    NOT NULL
        CONSTRAINT "bucket_days.bucket: 1 to 255 letters, digits, dots, hyphens and underscores; it is the name of the bucket in the bill"
        CHECK (length(bucket) BETWEEN 1 AND 255 AND bucket NOT GLOB '*[^A-Za-z0-9._-]*'),
    source         TEXT    NOT NULL CHECK (source IN ('inventory', 'access_logs')),
    day            TEXT    NOT NULL CHECK (day GLOB '[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]'),
    digest         TEXT    NOT NULL CHECK (length(digest) = 64 AND digest NOT GLOB '*[^0-9a-f]*'),
    files          INTEGER NOT NULL CHECK (files >= 0),
    counted        INTEGER NOT NULL CHECK (counted >= 0),
    repeated       INTEGER NOT NULL CHECK (repeated >= 0),
    of_nobody      INTEGER NOT NULL CHECK (of_nobody >= 0),
    contradictions INTEGER NOT NULL CHECK (contradictions >= 0),
    bad_lines      INTEGER NOT NULL CHECK (bad_lines >= 0),
    read_at        INTEGER NOT NULL CHECK (read_at BETWEEN 0 AND 99999999999),  -- seconds since 1970
    PRIMARY KEY (bucket, source, day)
) STRICT, WITHOUT ROWID;

-- What a customer has of such a day: no amount of the bill, but the weight by which it can be seen
-- whose an amount is. `customer` is empty for what is nobody's, and need not exist. `class` is S3's
-- storage class, and empty for requests. `amount` is an integer in the measure's smallest unit, as
-- decimal digits, because the byte-seconds of a large bucket exceed 64 bits; what would be 0 has no
-- row.
CREATE TABLE bucket_weights (
    bucket   TEXT NOT NULL,
    source   TEXT NOT NULL,
    day      TEXT NOT NULL,
    measure  TEXT NOT NULL CHECK (measure IN ('byte_seconds', 'bytes_sent', 'requests_1', 'requests_2')),
    class    TEXT NOT NULL
        CONSTRAINT "bucket_weights.class: a storage class of S3, at most 64 capital letters, digits and underscores"
        CHECK (length(class) <= 64 AND class NOT GLOB '*[^A-Z0-9_]*'),
    customer TEXT NOT NULL
        CONSTRAINT "bucket_weights.customer: at most 256 characters, none of them a control character, no blank at the ends; empty for what is nobody's"
        CHECK (length(customer) <= 256 AND trim(customer, ' ' || char(160)) = customer AND instr(CAST(customer AS BLOB), x'00') = 0
               AND customer NOT GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*'),
    amount   TEXT NOT NULL
        CONSTRAINT "bucket_weights.amount: 1 to 39 decimal digits, the first of them not 0"
        CHECK (length(amount) BETWEEN 1 AND 39 AND amount NOT GLOB '*[^0-9]*' AND amount NOT GLOB '0*'),
    PRIMARY KEY (bucket, source, day, measure, class, customer),
    FOREIGN KEY (bucket, source, day) REFERENCES bucket_days (bucket, source, day),
    CONSTRAINT "bucket_weights: an inventory has byte-seconds by storage class; access logs have bytes and requests without one"
    CHECK (CASE source WHEN 'inventory' THEN measure = 'byte_seconds' ELSE measure <> 'byte_seconds' AND class = '' END)
) STRICT, WITHOUT ROWID;
