-- ?1 a JSON array of customers, ?2 now. The governing subscription is a living one if there is one;
-- one that has ended counts as cancelled.
SELECT c.id, c.status, c.plan,
       (SELECT CASE WHEN s.ended_at <= ?2 THEN 'canceled' ELSE s.status END FROM subscriptions s
        WHERE s.customer = c.id AND s.started_at <= ?2 AND s.status NOT IN ('incomplete', 'incomplete_expired')
        ORDER BY s.status = 'canceled' OR coalesce(s.ended_at <= ?2, 0), s.started_at DESC, s.id DESC LIMIT 1),
       p.starts_at, p.ends_at, p.first_day, p.last_day, p.planned_last_day, p.month_days
FROM json_each(?1) j
JOIN customers c ON c.id = j.value
LEFT JOIN billing_periods p ON p.customer = c.id AND p.starts_at =
    (SELECT max(starts_at) FROM billing_periods WHERE customer = c.id AND starts_at <= ?2) AND p.ends_at > ?2
