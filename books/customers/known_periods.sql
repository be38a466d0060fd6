-- What decides the periods of customers, and what is stored of them; ?1 a JSON array of customers.
-- A row for each customer, with lists in JSON: over a network a row for each subscription and
-- period would be four times as long. Subscriptions that never began are left out. One that was
-- cancelled without a date ended when its row was last written. An anchor that lies behind, as
-- Stripe's `billing_cycle_anchor=now` makes it, holds from itself on, one to come from when it was
-- known. Of the TURN periods, the newest that is closed and the open ones after it.
SELECT j.value,
       (SELECT json_group_array(json_array(
                 s.id, s.started_at,
                 CASE WHEN s.status = 'canceled' THEN coalesce(s.ended_at, max(s.updated_at, s.started_at + 1)) ELSE s.ended_at END,
                 s.anchor_at,
                 json((SELECT json_group_array(json_array(a.seq, min(a.anchor_at, a.known_at), a.anchor_at))
                       FROM subscription_anchors a WHERE a.subscription = s.id))))
        FROM subscriptions s WHERE s.customer = j.value AND s.status NOT IN ('incomplete', 'incomplete_expired')),
       (SELECT json_group_array(json_array(
                 b.starts_at, b.ends_at, b.subscription, b.first_day, b.last_day, b.planned_last_day, b.month_days))
        FROM billing_periods b WHERE b.customer = j.value),
       (SELECT json_group_array(json_array(t.starts_at, t.ends_at, t.closed_at, t.used, t.refused, t.allowed_until))
        FROM turn_periods t
        WHERE t.customer = j.value
          AND t.starts_at >= coalesce((SELECT max(starts_at) FROM turn_periods
                                       WHERE customer = j.value AND closed_at IS NOT NULL), 0)),
       (SELECT min(day) FROM booked_usage WHERE customer = j.value)
FROM json_each(?1) j
