-- Books that were restored from a backup import from Stripe's totals what the lost books sent to
-- Stripe after the backup was made.
--
-- A copy made by `meter backup` has `backup_at` in `settings`. The first `push_stripe` that finds
-- it replaces it by `restored_at`, `restored_from` (the instant of the backup) and
-- `restored_since` (the instant from which the lost books may have sent events that these books do
-- not know). An event that is `imported` was sent by the lost books, as Stripe's total shows.
-- There is one for each total that differed. It is `accepted` from the start, and on the invoice
-- of its period.
ALTER TABLE meter_events ADD COLUMN imported INTEGER NOT NULL DEFAULT 0 CHECK (imported IN (0, 1));

CREATE TRIGGER meter_events_imported_stays BEFORE UPDATE OF imported ON meter_events
BEGIN
    SELECT RAISE(ABORT, 'who sent an event is fixed when it is made');
END;

-- Until when the period's total was imported: until the end of what its invoice covers, or the
-- instant of the restore, whichever came first. Null, or another instant than that: the total is
-- still to be imported.
ALTER TABLE billing_targets ADD COLUMN imported_until INTEGER;
