-- Restored books are on hold until `meter restore finish`, also those whose import an earlier build
-- had begun. The steps before it are commands, and no job knows of them; these are the states of
-- their checklist.
--
-- `not_imported`: Stripe's answer, when it gave no total of a period that is to be imported.
ALTER TABLE billing_targets ADD COLUMN not_imported TEXT;

-- Bills are read again by one command, which notes in `settings` when it has read all of them.
DROP TABLE restored_bills;
