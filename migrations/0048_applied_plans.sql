-- Changes of the books that a person looked at before: plans of a change, and what became of them.
--
-- `meter ingest --plan` writes what it would book into a file, `meter apply` books exactly that,
-- and `meter revert` books the opposite. What a plan changed are the entries of its bookings, so
-- they are kept once, in the ledger.

-- Plans that were applied, by number. `digest` names the plan with the state that it rested on;
-- `summary` has its bills, without names of customers.
CREATE TABLE applied_plans (
    number     INTEGER PRIMARY KEY AUTOINCREMENT,
    applied_at INTEGER NOT NULL,                             -- seconds since 1970, UTC
    actor      TEXT    NOT NULL CHECK (actor <> ''),          -- user@host
    reason     TEXT    NOT NULL CHECK (trim(reason) <> ''),
    digest     TEXT    NOT NULL UNIQUE CHECK (length(digest) = 64),
    summary    TEXT    NOT NULL CHECK (json_valid(summary))
) STRICT;

-- What a plan meant for customers, as it was looked at: their money in a billing period, and meters
-- that became blocked or unblocked. `what` has no name of a customer.
CREATE TABLE applied_plan_effects (
    plan     INTEGER NOT NULL REFERENCES applied_plans (number),
    place    INTEGER NOT NULL,
    customer TEXT    NOT NULL,
    effect   TEXT    NOT NULL CHECK (effect IN ('money', 'blocked', 'unblocked')),
    what     TEXT    NOT NULL CHECK (json_valid(what)),
    PRIMARY KEY (plan, place)
) STRICT, WITHOUT ROWID;

-- Plans that were taken back. Each can be once.
CREATE TABLE reverted_plans (
    plan        INTEGER NOT NULL PRIMARY KEY REFERENCES applied_plans (number),
    reverted_at INTEGER NOT NULL,                            -- seconds since 1970, UTC
    actor       TEXT    NOT NULL CHECK (actor <> ''),
    reason      TEXT    NOT NULL CHECK (trim(reason) <> '')
) STRICT;

-- The versions that a plan booked, and those that took them back: the entries of such a version are
-- the opposite of the entries of `reverts`. While it is the current one of its bill, the version
-- that it took back is not booked again by itself.
CREATE TABLE applied_plan_versions (
    version_id INTEGER NOT NULL PRIMARY KEY REFERENCES bill_versions (id),
    plan       INTEGER NOT NULL REFERENCES applied_plans (number),
    reverts    INTEGER UNIQUE REFERENCES bill_versions (id)
) STRICT;

CREATE INDEX applied_plan_versions_of_plan ON applied_plan_versions (plan);

CREATE TRIGGER applied_plans_stay BEFORE UPDATE ON applied_plans
WHEN NOT EXISTS (SELECT 1 FROM erasing)
  OR (OLD.number, OLD.applied_at, OLD.actor, OLD.digest, OLD.summary)
     IS NOT (NEW.number, NEW.applied_at, NEW.actor, NEW.digest, NEW.summary)
BEGIN
    SELECT RAISE(ABORT, 'an applied plan is history and never changes');
END;

CREATE TRIGGER applied_plans_are_not_deleted BEFORE DELETE ON applied_plans
BEGIN
    SELECT RAISE(ABORT, 'an applied plan is history and is never deleted');
END;

CREATE TRIGGER applied_plan_effects_stay BEFORE UPDATE ON applied_plan_effects
WHEN NOT EXISTS (SELECT 1 FROM erasing WHERE customer = OLD.customer AND pseudonym = NEW.customer)
  OR (OLD.plan, OLD.place, OLD.effect, OLD.what) IS NOT (NEW.plan, NEW.place, NEW.effect, NEW.what)
BEGIN
    SELECT RAISE(ABORT, 'an applied plan is history and never changes');
END;

CREATE TRIGGER applied_plan_effects_are_not_deleted BEFORE DELETE ON applied_plan_effects
BEGIN
    SELECT RAISE(ABORT, 'an applied plan is history and is never deleted');
END;

CREATE TRIGGER reverted_plans_stay BEFORE UPDATE ON reverted_plans
WHEN NOT EXISTS (SELECT 1 FROM erasing)
  OR (OLD.plan, OLD.reverted_at, OLD.actor) IS NOT (NEW.plan, NEW.reverted_at, NEW.actor)
BEGIN
    SELECT RAISE(ABORT, 'a reverted plan is history and never changes');
END;

CREATE TRIGGER reverted_plans_are_not_deleted BEFORE DELETE ON reverted_plans
BEGIN
    SELECT RAISE(ABORT, 'a reverted plan is history and is never deleted');
END;

CREATE TRIGGER applied_plan_versions_stay BEFORE UPDATE ON applied_plan_versions
BEGIN
    SELECT RAISE(ABORT, 'what a plan booked is history and never changes');
END;

CREATE TRIGGER applied_plan_versions_are_not_deleted BEFORE DELETE ON applied_plan_versions
BEGIN
    SELECT RAISE(ABORT, 'what a plan booked is history and is never deleted');
END;
