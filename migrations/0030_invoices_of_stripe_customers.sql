-- An invoice is that of one Stripe customer. An event that went to a customer's earlier Stripe id,
-- whose subscription had ended already, is on no invoice, although the next subscription's period
-- contains its time.
DROP VIEW event_invoices;
-- The invoice that an event is on: the invoice of the period that contains `timestamp`, if it
-- covers that instant, Stripe took the event before the invoice was final, and a subscription of
-- the Stripe customer that got the event lived at that instant. A subscription that `sync_stripe`
-- has not read counts as one of that Stripe customer. The grace is the one that held when the event
-- was made: `send_before` - `billed_end`, and the ten minutes before the end of the grace in which
-- no event is sent. An event without a row here is on no invoice. A row alone does not mean that
-- the event is billed: its state says whether Stripe has it.
CREATE VIEW event_invoices AS
SELECT i.seq, b.starts_at, b.ends_at
FROM meter_events i
JOIN invoiced_periods b ON b.customer = i.customer
 AND b.starts_at = (SELECT max(starts_at) FROM billing_periods WHERE customer = i.customer AND starts_at <= i.timestamp)
WHERE i.timestamp < b.ends_at AND coalesce(i.taken_at < b.ends_at + i.send_before - i.billed_end + 600, true)
  AND EXISTS (SELECT 1 FROM subscriptions s
              WHERE s.customer = i.customer AND coalesce(s.stripe_customer, i.stripe_customer) = i.stripe_customer
                AND s.started_at <= i.timestamp AND coalesce(i.timestamp < s.ended_at, true)
                AND s.status NOT IN ('incomplete', 'incomplete_expired'));

-- It decides which events are on an invoice.
CREATE TRIGGER subscriptions_of_other_stripe_customers_make_due AFTER UPDATE OF stripe_customer ON subscriptions
WHEN NEW.stripe_customer IS NOT OLD.stripe_customer
BEGIN
    INSERT INTO stripe_due (customer, due_at) VALUES (NEW.customer, 0) ON CONFLICT (customer) DO UPDATE SET due_at = 0, from_day = '';
END;
