-- ?1 a JSON array of customers. The open periods of each in order, after the newest closed one.
SELECT b.customer, b.starts_at, b.ends_at, b.subscription, b.first_day, b.last_day, b.closed_at,
       coalesce(t.used, 0), coalesce(t.refused, 0), t.allowed_until
FROM json_each(?1) j
JOIN billing_periods b ON b.customer = j.value
LEFT JOIN turn_periods t ON t.customer = b.customer AND t.starts_at = b.starts_at
WHERE b.starts_at >= coalesce((SELECT max(starts_at) FROM billing_periods
                               WHERE customer = j.value AND closed_at IS NOT NULL), 0)
ORDER BY b.customer, b.starts_at
