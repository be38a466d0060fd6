-- ?1 a JSON array of customers. Subscriptions that never began are left out. One that was cancelled
-- without a date ended when its row was last written.
SELECT s.customer, s.id, s.anchor_at, s.started_at,
       CASE WHEN s.status = 'canceled' THEN coalesce(s.ended_at, max(s.updated_at, s.started_at + 1)) ELSE s.ended_at END
FROM json_each(?1) j JOIN subscriptions s ON s.customer = j.value
WHERE s.status NOT IN ('incomplete', 'incomplete_expired')
