-- ?1 a JSON array of customers, ?2 of meters, ?3 now. Usage of each customer's current billing
-- period, as `exact_sum!` of store/rows.rs writes it. Each sum is one range of a covering index.
SELECT p.customer, m.value,
       (SELECT sum(quantity / 10000000000) || ' ' || sum(quantity % 10000000000) FROM booked_usage u
        WHERE u.customer = p.customer AND u.meter = m.value AND u.day BETWEEN p.first_day AND p.last_day) AS used
FROM json_each(?1) j
CROSS JOIN billing_periods p ON p.customer = j.value AND p.starts_at =
    (SELECT max(starts_at) FROM billing_periods WHERE customer = j.value AND starts_at <= ?3) AND p.ends_at > ?3
CROSS JOIN json_each(?2) m
