-- Books that were restored from a backup take over from Stripe what the books of before had sent
-- after it.
--
-- A copy made by `meter backup` has `backup_at` in `settings`; the first `push_stripe` that finds
-- it makes `restored_at`, `restored_from` (the instant of the backup) and `restored_since` (from
-- when on the lost books may have sent what these do not know) of it. An event that is `imported`
-- was sent by the lost books, as far as Stripe's total shows: one for each total that differed,
-- `accepted` from the start, and on the invoice of its period.
ALTER TABLE meter_events ADD COLUMN imported INTEGER NOT NULL DEFAULT 0 CHECK (imported IN (0, 1));

CREATE TRIGGER meter_events_imported_stays BEFORE UPDATE OF imported ON meter_events
BEGIN
    SELECT RAISE(ABORT, 'who sent an event is fixed when it is made');
END;

-- Up to when the period's total was taken over: the end of its invoice or the instant of the
-- restoration, whatever came first. Null, or another instant than that: it is still to be.
ALTER TABLE billing_targets ADD COLUMN imported_until INTEGER;
