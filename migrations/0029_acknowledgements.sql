-- Acknowledging becomes appended entries with a reason, in place of columns that change.

-- What people handled outside of the books: a difference of Stripe's total, a total that Stripe
-- does not have, or a deferred amount. `meter reconcile CUSTOMER --acknowledge` adds entries, and
-- everything else is computed from them:
--
--   difference: Stripe's total is `amount` below what was sent (below 0: above it). The total of a
--               billing target may differ by the sum of its entries for the Stripe customer that
--               it is read from.
--   no_total:   Stripe has no total of that Stripe customer. Holds until a total is read
--               (`billing_targets.total_at`).
--   deferred:   the amount that was deferred, and why. Holds while the newest entry has the
--               amount and reason of the target, and the reason has not changed since.
CREATE TABLE acknowledgements (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,
    at              INTEGER NOT NULL,                     -- seconds since 1970, UTC
    actor           TEXT    NOT NULL CHECK (actor <> ''),
    reason          TEXT    NOT NULL CHECK (trim(reason) <> ''),
    customer        TEXT    NOT NULL CHECK (customer <> ''),
    meter           TEXT    NOT NULL CHECK (meter <> ''),
    period_start    INTEGER NOT NULL,
    kind            TEXT    NOT NULL CHECK (kind IN ('difference', 'no_total', 'deferred')),
    amount          INTEGER CHECK (amount <> 0),
    stripe_customer TEXT    CHECK (stripe_customer <> ''),
    deferred_reason TEXT    CHECK (deferred_reason <> ''),
    CHECK ((kind = 'no_total') = (amount IS NULL)),
    CHECK ((kind = 'deferred') = (stripe_customer IS NULL)),
    CHECK ((kind = 'deferred') = (deferred_reason IS NOT NULL))
) STRICT;

CREATE INDEX acknowledgements_by_target ON acknowledgements (customer, meter, period_start, kind);

CREATE TRIGGER acknowledgements_stay BEFORE UPDATE ON acknowledgements
BEGIN
    SELECT RAISE(ABORT, 'what was acknowledged is history and never changes: add an entry');
END;

CREATE TRIGGER acknowledgements_are_not_deleted BEFORE DELETE ON acknowledgements
BEGIN
    SELECT RAISE(ABORT, 'what was acknowledged is history and is never deleted: add an entry');
END;

DROP TRIGGER billing_targets_deferred_differs;
DROP TRIGGER customers_other_totals;

-- What was acknowledged before. Who did it and why is in the newest act of `audit_log`; the Stripe
-- customer of a difference is the one that the total is read from; without one, nothing is read.
INSERT INTO acknowledgements (at, actor, reason, customer, meter, period_start, kind, amount, stripe_customer, deferred_reason)
SELECT max(coalesce(a.at, unixepoch()), coalesce(t.since, 0)), coalesce(a.actor, 'unknown'), coalesce(nullif(trim(a.reason), ''), 'unknown'),
       t.customer, t.meter, t.period_start, t.kind, t.amount, t.stripe_customer, t.deferred_reason
FROM (SELECT customer, meter, period_start, 'difference' AS kind, acknowledged AS amount,
             coalesce((SELECT s.stripe_customer FROM billing_periods p JOIN subscriptions s ON s.id = p.subscription
                       WHERE p.customer = b.customer AND p.starts_at = b.period_start),
                      (SELECT stripe_customer_id FROM customers WHERE id = b.customer)) AS stripe_customer,
             NULL AS deferred_reason, NULL AS since
      FROM billing_targets b WHERE acknowledged <> 0
      UNION ALL SELECT customer, meter, period_start, 'no_total', NULL, no_total_acknowledged, NULL, NULL
      FROM billing_targets WHERE no_total_acknowledged <> ''
      UNION ALL SELECT customer, meter, period_start, 'deferred', deferred, NULL, deferred_reason, deferred_since
      FROM billing_targets WHERE deferred <> 0 AND deferred_acknowledged = deferred) t
LEFT JOIN audit_log a ON a.seq = (SELECT max(seq) FROM audit_log WHERE action = 'reconcile --acknowledge' AND target = 'customer ' || t.customer)
WHERE t.kind = 'deferred' OR t.stripe_customer <> ''
ORDER BY 1;

DROP VIEW stripe_comparison;
DROP VIEW readable_totals;
DROP VIEW deferred_amounts;
ALTER TABLE billing_targets DROP COLUMN acknowledged;
ALTER TABLE billing_targets DROP COLUMN no_total_acknowledged;
ALTER TABLE billing_targets DROP COLUMN deferred_acknowledged;
-- nothing reads it
ALTER TABLE billing_targets DROP COLUMN agreed_at;
-- When Stripe last gave a total. `read_at` is when it was last asked for one.
ALTER TABLE billing_targets ADD COLUMN total_at INTEGER;

-- Amounts that cannot be sent now, and whether a person has acknowledged the amount.
CREATE VIEW deferred_amounts AS
SELECT customer, meter, period_start, deferred AS amount, deferred_reason AS reason, deferred_since AS since,
       coalesce((SELECT a.amount = t.deferred AND a.deferred_reason = t.deferred_reason AND a.at >= t.deferred_since
                 FROM acknowledgements a
                 WHERE a.customer = t.customer AND a.meter = t.meter AND a.period_start = t.period_start AND a.kind = 'deferred'
                 ORDER BY a.seq DESC LIMIT 1), 0) AS acknowledged
FROM billing_targets t INDEXED BY billing_targets_deferred
WHERE deferred <> 0;

-- Stripe's total of each billing target. It is read from the Stripe customer that the period's
-- subscription belongs to, whatever the customer's Stripe id is now; an unconfirmed event is looked
-- for where it was sent. `acknowledged`: by how much the total may be below what was sent (below 0:
-- above it). `stripe_meter`: null if Stripe's meter is not known, so that no total can be read.
-- `was_sent`: an event of the invoice was ever attempted.
CREATE VIEW target_totals AS
SELECT customer, meter, period_start, period_end, stripe_customer,
       (SELECT stripe_id FROM stripe_meters WHERE meter = t.meter) AS stripe_meter,
       coalesce((SELECT sum(a.amount) FROM acknowledgements a
                 WHERE a.customer = t.customer AND a.meter = t.meter AND a.period_start = t.period_start
                   AND a.kind = 'difference' AND a.stripe_customer = t.stripe_customer), 0) AS acknowledged,
       shortfall, shortfall_since, alarm_kind, alarm_shortfall, alarm_total, alarm_until, alarm_stripe_customer, alarm_answer,
       read_at, final_at,
       EXISTS (SELECT 1 FROM meter_events i INDEXED BY meter_events_by_time
               WHERE i.customer = t.customer AND i.meter = t.meter AND i.timestamp >= t.period_start AND i.timestamp < t.period_end
                 AND i.attempts > 0) AS was_sent
FROM (SELECT *, coalesce((SELECT i.stripe_customer FROM meter_events i INDEXED BY meter_events_by_time
                          WHERE i.customer = b.customer AND i.meter = b.meter AND i.timestamp >= b.period_start AND i.timestamp < b.period_end
                            AND i.state = 'unconfirmed' LIMIT 1),
                         (SELECT s.stripe_customer FROM billing_periods p JOIN subscriptions s ON s.id = p.subscription
                          WHERE p.customer = b.customer AND p.starts_at = b.period_start),
                         (SELECT stripe_customer_id FROM customers WHERE id = b.customer)) AS stripe_customer
      FROM billing_targets b) t;

-- Bill, ledger and Stripe beside each other, for each billing period and each meter that a plan,
-- the ledger or Stripe knows. `bill` and `ledger` are sums of usage in units and a rest of 10^-10
-- units. `events` are sums of the values of the events for usage of the period, by what became of
-- them; an event on no invoice is in none, unless a person discarded it. `accepted_on_invoice`
-- counts the events on the period's invoice, whichever period their usage was in. `used` to
-- `currency` are the billing target's.
CREATE VIEW stripe_comparison AS
SELECT p.customer, m.meter, p.starts_at AS period_start, p.ends_at AS period_end, p.subscription IS NOT NULL AS billed,
       (SELECT sum(quantity / 10000000000) || ' ' || sum(quantity % 10000000000)
        FROM usage_days u WHERE u.customer = p.customer AND u.meter = m.meter AND u.day BETWEEN p.first_day AND p.last_day) AS bill,
       (SELECT sum(quantity / 10000000000) || ' ' || sum(quantity % 10000000000)
        FROM ledger_entries u WHERE u.customer = p.customer AND u.meter = m.meter AND u.day BETWEEN p.first_day AND p.last_day) AS ledger,
       coalesce(t.target, 0) AS target,
       (SELECT json_object(
                 'accepted',  coalesce(sum(i.value) FILTER (WHERE i.state = 'accepted'), 0),
                 'open',      coalesce(sum(i.value) FILTER (WHERE i.state IN ('pending', 'sending', 'unconfirmed')), 0),
                 'refused',   coalesce(sum(i.value) FILTER (WHERE i.state = 'refused'), 0),
                 'discarded', coalesce(sum(i.value) FILTER (WHERE i.state = 'discarded'), 0))
        FROM meter_events i
        WHERE i.customer = p.customer AND i.meter = m.meter AND i.timestamp >= p.starts_at
          AND i.period_start >= p.starts_at AND i.period_start < p.ends_at
          AND (i.state = 'discarded' OR EXISTS (SELECT 1 FROM event_invoices WHERE seq = i.seq))) AS events,
       coalesce(t.deferred, 0) AS deferred, t.deferred_reason,
       coalesce((SELECT acknowledged FROM deferred_amounts d
                 WHERE d.customer = t.customer AND d.meter = t.meter AND d.period_start = t.period_start), 0) AS deferred_acknowledged,
       (SELECT count(*) FROM meter_events i INDEXED BY meter_events_by_time
        WHERE i.customer = p.customer AND i.meter = m.meter AND i.timestamp >= p.starts_at AND i.timestamp < p.ends_at
          AND i.state = 'accepted') AS accepted_on_invoice,
       coalesce(t.used, 0) AS used, coalesce(t.within, 0) AS within, coalesce(t.billable, 0) AS billable,
       coalesce(t.house, 0) AS house, coalesce(t.not_priced, 0) AS not_priced, coalesce(t.advance, 0) AS advance,
       coalesce(t.billable_minor, 0) AS billable_minor, coalesce(t.house_minor, 0) AS house_minor,
       coalesce(t.currency, '') AS currency,
       t.seen, t.expected, t.read_at, coalesce(l.acknowledged, 0) AS acknowledged,
       t.alarm_kind, t.alarm_shortfall, t.alarm_total, t.alarm_until, t.alarm_stripe_customer, t.alarm_answer
FROM billing_periods p
CROSS JOIN (SELECT meter FROM plan_meters UNION SELECT meter FROM stripe_meters UNION SELECT meter FROM usage_totals) m
LEFT JOIN billing_targets t ON t.customer = p.customer AND t.meter = m.meter AND t.period_start = p.starts_at
LEFT JOIN target_totals l ON l.customer = t.customer AND l.meter = t.meter AND l.period_start = t.period_start;
