-- ?1 a JSON array of customers. One that never began is none; one that was cancelled without a date ended when that was heard.
SELECT customer, id, anchor_at, started_at,
       CASE WHEN status = 'canceled' THEN coalesce(ended_at, max(updated_at, started_at + 1)) ELSE ended_at END
FROM json_each(?1) j JOIN subscriptions s ON s.customer = j.value
WHERE status NOT IN ('incomplete', 'incomplete_expired')
