-- ?1 a JSON array of customers. The open TURN periods of each in order, after the newest that is
-- closed.
SELECT t.customer, t.starts_at, t.ends_at, t.closed_at, t.used, t.refused, t.allowed_until
FROM json_each(?1) j
JOIN turn_periods t ON t.customer = j.value
WHERE t.starts_at >= coalesce((SELECT max(starts_at) FROM turn_periods
                               WHERE customer = j.value AND closed_at IS NOT NULL), 0)
ORDER BY t.customer, t.starts_at
