-- A day of a shared bucket that its reports do not divide: the bill says nothing of its customers,
-- so what was measured counts, although the bill settles the day.

-- The few days of a version that are not divided: each run of `enforce_budgets` asks for them.
CREATE INDEX bucket_shares_undivided ON bucket_shares (version_id, meter, day)
WHERE state IN ('no_report', 'held');

-- Days of the newest run that bills had settled and that were not divided: a JSON array of objects
-- with `meter` and `day`.
ALTER TABLE enforcement ADD COLUMN undivided_days TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(undivided_days));
