-- A total is read from the Stripe customer that the period's subscription belongs to: its events
-- are on that customer's invoice, whatever the customer's Stripe id is now.
DROP VIEW readable_totals;
-- Billing targets whose total can be read at Stripe, and from which Stripe customer: an unconfirmed
-- event is looked for where it was sent, whatever the customer's Stripe id is now. `was_sent`: an
-- event of the invoice was ever attempted. `current_end` and `covered_until` are those of the
-- billing period, null when there is none any more.
CREATE VIEW readable_totals AS
SELECT t.customer, t.meter, t.period_start, t.period_end,
       coalesce((SELECT i.stripe_customer FROM meter_events i INDEXED BY meter_events_by_time
                 WHERE i.customer = t.customer AND i.meter = t.meter AND i.timestamp >= t.period_start AND i.timestamp < t.period_end
                   AND i.state = 'unconfirmed' LIMIT 1),
                (SELECT s.stripe_customer FROM billing_periods b JOIN subscriptions s ON s.id = b.subscription
                 WHERE b.customer = t.customer AND b.starts_at = t.period_start), c.stripe_customer_id) AS stripe_customer,
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

