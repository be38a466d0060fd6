-- Views of billing targets, so that each rule is written once.

-- Amounts that cannot be sent now, and whether a person has acknowledged the amount.
CREATE VIEW deferred_amounts AS
SELECT customer, meter, period_start, deferred AS amount, deferred_reason AS reason, deferred_since AS since,
       deferred_acknowledged IS deferred AS acknowledged
FROM billing_targets INDEXED BY billing_targets_deferred
WHERE deferred <> 0;

-- Billing targets whose total can be read at Stripe, and from which Stripe customer: an unconfirmed
-- event is looked for where it was sent, whatever the customer's Stripe id is now. `was_sent`: an
-- event of the invoice was ever attempted. `current_end` and `covered_until` are those of the
-- billing period, null when there is none any more.
CREATE VIEW readable_totals AS
SELECT t.customer, t.meter, t.period_start, t.period_end,
       coalesce((SELECT i.stripe_customer FROM meter_events i INDEXED BY meter_events_by_time
                 WHERE i.customer = t.customer AND i.meter = t.meter AND i.timestamp >= t.period_start AND i.timestamp < t.period_end
                   AND i.state = 'unconfirmed' LIMIT 1), c.stripe_customer_id) AS stripe_customer,
       m.stripe_id AS stripe_meter, t.shortfall, t.shortfall_since, t.acknowledged, t.read_at, t.final_at,
       EXISTS (SELECT 1 FROM meter_events i INDEXED BY meter_events_by_time
               WHERE i.customer = t.customer AND i.meter = t.meter AND i.timestamp >= t.period_start AND i.timestamp < t.period_end
                 AND i.attempts > 0) AS was_sent,
       t.imported_until,
       (SELECT ends_at FROM covered_periods b WHERE b.customer = t.customer AND b.starts_at = t.period_start) AS current_end,
       (SELECT covered_until FROM covered_periods b WHERE b.customer = t.customer AND b.starts_at = t.period_start) AS covered_until
FROM billing_targets t
JOIN stripe_meters m ON m.meter = t.meter
LEFT JOIN customers c ON c.id = t.customer;

-- Bill, ledger and Stripe beside each other, for each billing period and each meter that a plan,
-- the ledger or Stripe knows. `bill` and `ledger` are sums of usage in units and a rest of 10^-10
-- units. `events` are sums of the values of the events for usage of the period, by what became of
-- them; an event on no invoice is in none.
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
          AND EXISTS (SELECT 1 FROM event_invoices WHERE seq = i.seq)) AS events,
       coalesce(t.deferred, 0) AS deferred, t.deferred_reason,
       coalesce(t.deferred <> 0 AND t.deferred_acknowledged IS t.deferred, 0) AS deferred_acknowledged,
       t.seen, t.expected, t.read_at, coalesce(t.acknowledged, 0) AS acknowledged,
       t.alarm_kind, t.alarm_shortfall, t.alarm_total, t.alarm_until, t.alarm_stripe_customer, t.alarm_answer
FROM billing_periods p
CROSS JOIN (SELECT meter FROM plan_meters UNION SELECT meter FROM stripe_meters UNION SELECT meter FROM usage_totals) m
LEFT JOIN billing_targets t ON t.customer = p.customer AND t.meter = m.meter AND t.period_start = p.starts_at;
