-- Which Stripe customer a subscription belongs to, and what customers, subscriptions and items were
-- before: history instead of the present state alone. Instants are seconds since 1970, UTC.

-- What `sync_stripe` alone writes of a subscription; null until it has read the subscription.
-- `stripe_customer` never changes at Stripe: a customer who gets another Stripe id gets another
-- subscription. `currency` is what Stripe charges in. `unsupported` names, with `, ` between them,
-- what the subscription has at Stripe that is not billed rightly; '' is nothing.
ALTER TABLE subscriptions ADD COLUMN stripe_customer TEXT CHECK (length(stripe_customer) BETWEEN 1 AND 255);
ALTER TABLE subscriptions ADD COLUMN currency TEXT CHECK (currency GLOB '[A-Z][A-Z][A-Z]');
ALTER TABLE subscriptions ADD COLUMN unsupported TEXT NOT NULL DEFAULT '';

CREATE TRIGGER subscriptions_read_at_stripe_make_due AFTER UPDATE OF stripe_customer, currency ON subscriptions
WHEN (OLD.stripe_customer, OLD.currency) IS NOT (NEW.stripe_customer, NEW.currency)
BEGIN
    INSERT INTO stripe_due (customer, due_at) VALUES (NEW.customer, 0) ON CONFLICT (customer) DO UPDATE SET due_at = 0, from_day = '';
END;

-- What an item charges. `unit_amount` is exact decimal text: minor units of the price's own
-- currency for each of Stripe's units; null for a price in tiers (`tiered`), and for rows from
-- before this migration. `currency` is that of the subscription, which the item is charged in; a
-- price with another currency of its own is named in `unsupported`. `quantity` is null at Stripe
-- for usage. `created_at` is Stripe's: the item bills no usage before it. `seen_at` is when
-- `sync_stripe` asked for what the row says, `gone_at` when it found the item gone, in the
-- transaction that deletes the row.
ALTER TABLE subscription_items ADD COLUMN unit_amount TEXT;
ALTER TABLE subscription_items ADD COLUMN quantity INTEGER;
ALTER TABLE subscription_items ADD COLUMN tiered INTEGER NOT NULL DEFAULT 0 CHECK (tiered IN (0, 1));
ALTER TABLE subscription_items ADD COLUMN unsupported TEXT NOT NULL DEFAULT '';
ALTER TABLE subscription_items ADD COLUMN created_at INTEGER;
ALTER TABLE subscription_items ADD COLUMN seen_at INTEGER;
ALTER TABLE subscription_items ADD COLUMN gone_at INTEGER;

-- The next run of `sync_stripe` reads every subscription, to fill these columns.
INSERT OR REPLACE INTO settings (name, value) SELECT name, '0' FROM settings WHERE name = 'synced_full';

-- Every Stripe id that a customer had, kept by triggers on `customers`. `known_at` is when the
-- books got it, `until` when they got another one; null: it is the customer's now. A subscription
-- of an earlier Stripe id is still the customer's.
CREATE TABLE stripe_customers (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,
    customer        TEXT    NOT NULL CHECK (customer <> ''),
    stripe_customer TEXT    NOT NULL CHECK (stripe_customer <> ''),
    known_at        INTEGER NOT NULL,
    until           INTEGER CHECK (until IS NULL OR until >= known_at)
) STRICT;

CREATE INDEX stripe_customers_by_stripe_customer ON stripe_customers (stripe_customer, seq);
CREATE INDEX stripe_customers_by_customer ON stripe_customers (customer, seq);

INSERT INTO stripe_customers (customer, stripe_customer, known_at)
SELECT id, stripe_customer_id, unixepoch() FROM customers WHERE stripe_customer_id <> '';

CREATE TRIGGER customers_begin_with_a_stripe_customer AFTER INSERT ON customers WHEN NEW.stripe_customer_id <> ''
BEGIN
    INSERT INTO stripe_customers (customer, stripe_customer, known_at) VALUES (NEW.id, NEW.stripe_customer_id, unixepoch());
END;

CREATE TRIGGER customers_change_stripe_customers AFTER UPDATE OF id, stripe_customer_id ON customers
WHEN (OLD.id, OLD.stripe_customer_id) IS NOT (NEW.id, NEW.stripe_customer_id)
BEGIN
    UPDATE stripe_customers SET until = max(unixepoch(), known_at) WHERE customer = OLD.id AND until IS NULL;
    INSERT INTO stripe_customers (customer, stripe_customer, known_at)
    SELECT NEW.id, NEW.stripe_customer_id, unixepoch() WHERE NEW.stripe_customer_id <> '';
END;

CREATE TRIGGER customers_that_go_leave_stripe_customers AFTER DELETE ON customers
BEGIN
    UPDATE stripe_customers SET until = max(unixepoch(), known_at) WHERE customer = OLD.id AND until IS NULL;
END;

CREATE TRIGGER stripe_customers_stay BEFORE UPDATE OF seq, customer, stripe_customer, known_at ON stripe_customers
BEGIN
    SELECT RAISE(ABORT, 'the Stripe ids that a customer had are history and never change');
END;

CREATE TRIGGER stripe_customers_are_not_deleted BEFORE DELETE ON stripe_customers
BEGIN
    SELECT RAISE(ABORT, 'the Stripe ids that a customer had are history and are never deleted');
END;

-- Every anchor that a subscription had, kept by triggers on `subscriptions`. `known_at` is when the
-- writer of the subscription asked Stripe. An anchor that is reset to now at Stripe ends the
-- running period there, so its periods begin with `anchor_at`.
CREATE TABLE subscription_anchors (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    subscription TEXT    NOT NULL CHECK (subscription <> ''),
    anchor_at    INTEGER NOT NULL,
    known_at     INTEGER NOT NULL
) STRICT;

CREATE INDEX subscription_anchors_by_subscription ON subscription_anchors (subscription, seq);

INSERT INTO subscription_anchors (subscription, anchor_at, known_at) SELECT id, anchor_at, updated_at FROM subscriptions;

CREATE TRIGGER subscriptions_begin_with_an_anchor AFTER INSERT ON subscriptions
BEGIN
    INSERT INTO subscription_anchors (subscription, anchor_at, known_at) VALUES (NEW.id, NEW.anchor_at, NEW.updated_at);
END;

CREATE TRIGGER subscriptions_change_anchors AFTER UPDATE OF anchor_at ON subscriptions WHEN NEW.anchor_at <> OLD.anchor_at
BEGIN
    INSERT INTO subscription_anchors (subscription, anchor_at, known_at) VALUES (NEW.id, NEW.anchor_at, NEW.updated_at);
END;

CREATE TRIGGER subscription_anchors_stay BEFORE UPDATE ON subscription_anchors
BEGIN
    SELECT RAISE(ABORT, 'the anchors that a subscription had are history and never change: add a row');
END;

CREATE TRIGGER subscription_anchors_are_not_deleted BEFORE DELETE ON subscription_anchors
BEGIN
    SELECT RAISE(ABORT, 'the anchors that a subscription had are history and are never deleted');
END;

-- What the items of subscriptions charged, and from when to when, kept by triggers on
-- `subscription_items`. `from_at` is Stripe's creation of the item, and for an item that changed
-- when `sync_stripe` saw it: Stripe does not say when a price was changed. `until` is when
-- `sync_stripe` saw the change, or that the item was gone; null: the item is so now. The items of a
-- subscription that has ended stay; its `ended_at` ends them.
CREATE TABLE subscription_item_history (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    item         TEXT    NOT NULL,
    subscription TEXT    NOT NULL,
    customer     TEXT    NOT NULL,
    stripe_meter TEXT    NOT NULL,
    price        TEXT    NOT NULL,
    unit_amount  TEXT,
    currency     TEXT    NOT NULL,
    quantity     INTEGER,
    tiered       INTEGER NOT NULL,
    unsupported  TEXT    NOT NULL,
    from_at      INTEGER NOT NULL,
    known_at     INTEGER NOT NULL,
    until        INTEGER
) STRICT;

CREATE INDEX subscription_item_history_by_subscription ON subscription_item_history (subscription, stripe_meter, seq);
CREATE INDEX subscription_item_history_now ON subscription_item_history (item) WHERE until IS NULL;

INSERT INTO subscription_item_history
    (item, subscription, customer, stripe_meter, price, unit_amount, currency, quantity, tiered, unsupported, from_at, known_at)
SELECT i.id, i.subscription, i.customer, i.stripe_meter, i.price, i.unit_amount, i.currency, i.quantity, i.tiered, i.unsupported,
       coalesce((SELECT started_at FROM subscriptions s WHERE s.id = i.subscription), i.starts_at), unixepoch()
FROM subscription_items i;

CREATE TRIGGER subscription_items_begin AFTER INSERT ON subscription_items
BEGIN
    INSERT INTO subscription_item_history
        (item, subscription, customer, stripe_meter, price, unit_amount, currency, quantity, tiered, unsupported, from_at, known_at)
    VALUES (NEW.id, NEW.subscription, NEW.customer, NEW.stripe_meter, NEW.price, NEW.unit_amount, NEW.currency, NEW.quantity, NEW.tiered,
            NEW.unsupported, coalesce(NEW.created_at, NEW.starts_at), coalesce(NEW.seen_at, unixepoch()));
END;

-- The amount of a row from before this migration, when it becomes known, is no change.
CREATE TRIGGER subscription_items_change AFTER UPDATE ON subscription_items
WHEN (OLD.subscription, OLD.customer, OLD.stripe_meter, OLD.price, OLD.currency, OLD.quantity, OLD.tiered, OLD.unsupported)
  IS NOT (NEW.subscription, NEW.customer, NEW.stripe_meter, NEW.price, NEW.currency, NEW.quantity, NEW.tiered, NEW.unsupported)
  OR OLD.unit_amount IS NOT NEW.unit_amount AND OLD.created_at IS NOT NULL
BEGIN
    UPDATE subscription_item_history SET until = max(coalesce(NEW.seen_at, unixepoch()), from_at) WHERE item = NEW.id AND until IS NULL;
    INSERT INTO subscription_item_history
        (item, subscription, customer, stripe_meter, price, unit_amount, currency, quantity, tiered, unsupported, from_at, known_at)
    VALUES (NEW.id, NEW.subscription, NEW.customer, NEW.stripe_meter, NEW.price, NEW.unit_amount, NEW.currency, NEW.quantity, NEW.tiered,
            NEW.unsupported, coalesce(NEW.seen_at, unixepoch()), coalesce(NEW.seen_at, unixepoch()));
END;

CREATE TRIGGER subscription_items_become_complete AFTER UPDATE ON subscription_items
WHEN OLD.created_at IS NULL AND NEW.created_at IS NOT NULL
BEGIN
    UPDATE subscription_item_history SET unit_amount = NEW.unit_amount, from_at = min(from_at, NEW.created_at)
    WHERE item = NEW.id AND until IS NULL AND unit_amount IS NULL AND price = NEW.price;
END;

CREATE TRIGGER subscription_items_go AFTER DELETE ON subscription_items
BEGIN
    UPDATE subscription_item_history SET until = max(coalesce(OLD.gone_at, unixepoch()), from_at) WHERE item = OLD.id AND until IS NULL;
END;

CREATE TRIGGER subscription_item_history_stays BEFORE UPDATE ON subscription_item_history
WHEN OLD.until IS NOT NULL
  OR (OLD.item, OLD.subscription, OLD.customer, OLD.stripe_meter, OLD.price, OLD.currency, OLD.known_at)
     IS NOT (NEW.item, NEW.subscription, NEW.customer, NEW.stripe_meter, NEW.price, NEW.currency, NEW.known_at)
BEGIN
    SELECT RAISE(ABORT, 'what an item charged is history and never changes');
END;

CREATE TRIGGER subscription_item_history_is_not_deleted BEFORE DELETE ON subscription_item_history
BEGIN
    SELECT RAISE(ABORT, 'what an item charged is history and is never deleted');
END;

-- Subscriptions that began and have not ended, with what Stripe says of them. The customer's Stripe
-- id of now stands in for one that `sync_stripe` has not read yet.
CREATE VIEW started_subscriptions AS
SELECT s.id, s.customer, s.status, coalesce(s.stripe_customer, c.stripe_customer_id) AS stripe_customer, s.currency, s.unsupported, c.plan
FROM subscriptions s LEFT JOIN customers c ON c.id = s.customer
WHERE s.ended_at IS NULL AND s.status IN ('trialing', 'active', 'past_due', 'unpaid', 'paused');

-- Items that Stripe bills now. Two rows of one customer and meter under one Stripe customer bill
-- its usage twice.
CREATE VIEW living_items AS
SELECT i.customer, i.stripe_meter, s.stripe_customer, s.id AS subscription, s.status, i.id AS item, i.price, i.unit_amount, i.currency,
       i.quantity, i.tiered, i.unsupported, i.created_at, i.starts_at, i.ends_at
FROM started_subscriptions s JOIN subscription_items i ON i.subscription = s.id;
