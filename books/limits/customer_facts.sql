-- Continues customers/customer_facts.sql, which is `c` here: ?2 is now, ?3 a JSON array of meters.
-- `facts` is all that decides for a customer but usage: a JSON array that is put together as text,
-- because SQLite would parse each list in it again. `used` is the usage of each meter in the
-- current period, as `exact_sum!` of store/rows.rs writes it. Each sum is one range of an index,
-- and leaves out the few bookings that nobody sees yet: the view `booked_usage` looks up one for
-- each entry.
-- `measured` and `edges` follow: what was measured on open days, with what is billed of them, and
-- what runs from now on.
SELECT c.id,
    '[' || json_array(
        c.status, c.plan, c.subscription, c.starts_at, c.ends_at, c.first_day, c.last_day, c.planned_last_day, c.month_days,
        (SELECT min(at) FROM (
            SELECT c.ends_at AS at
            UNION ALL SELECT min(starts_at) FROM billing_periods WHERE customer = c.id AND starts_at > ?2
            UNION ALL SELECT min(iif(started_at > ?2, started_at, ended_at)) FROM subscriptions
                WHERE customer = c.id AND (started_at > ?2 OR ended_at > ?2))))
    || ',' || (SELECT json_group_array(json_array(starts_at, ends_at, used, allowed_until, reason, decided_until)) FROM (
        SELECT * FROM turn_periods WHERE customer = c.id AND closed_at IS NULL AND ends_at > ?2 ORDER BY ends_at))
    || ',' || (SELECT json_group_array(json_array(starts_at, ends_at, used)) FROM (
        SELECT * FROM turn_periods WHERE customer = c.id AND ends_at <= ?2 AND ends_at > ?2 - 366 * 86400
        ORDER BY starts_at))
    || ',' || (SELECT json_group_object(meter, json_array(amount_minor, currency))
        FROM overage_budgets WHERE customer = c.id)
    || ',' || (SELECT json_group_array(json_array(from_at, plan)) FROM (
        SELECT * FROM customer_plans WHERE customer = c.id ORDER BY from_at, seq))
    || ',' || (SELECT json_group_object(meter, advance) FROM billing_targets
        WHERE customer = c.id AND advance > 0 AND period_end = c.starts_at)
    || ',' || (SELECT json_group_array(json_array(
            customer, meter, period_start, period_end, allowed, reason, used, included, effective_limit,
            overage_cost_minor, meter_cost_minor, budget_minor, meter_budget_minor, currency, as_of, freshness,
            decided_at, used_measured, blocked_at))
        FROM entitlements WHERE customer = c.id) || ']' AS facts,
    (SELECT json_group_object(m.value, (
            SELECT sum(quantity / 10000000000) || ' ' || sum(quantity % 10000000000) FROM ledger_entries u
            WHERE u.customer = c.id AND u.meter = m.value AND u.day BETWEEN c.first_day AND c.last_day
              AND u.booking_id NOT IN (SELECT id FROM bookings WHERE version_id IS NULL)))
        FROM json_each(?3) m) AS used,
    (SELECT json_group_array(json_array(meter, day, high, low, (
            SELECT sum(quantity / 10000000000) || ' ' || sum(quantity % 10000000000) FROM booked_usage u
            WHERE u.customer = c.id AND u.meter = d.meter AND u.day = d.day)))
