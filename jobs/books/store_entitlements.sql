-- ?1 a JSON array of rows.
INSERT INTO entitlements (customer, meter, period_start, period_end, allowed, reason, used, included, effective_limit,
                          overage_cost_minor, meter_cost_minor, budget_minor, meter_budget_minor, currency, as_of, freshness,
                          decided_at)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8,
       value ->> 9, value ->> 10, value ->> 11, value ->> 12, value ->> 13, value ->> 14, value ->> 15, value ->> 16
FROM json_each(?1) WHERE true
ON CONFLICT (customer, meter) DO UPDATE SET
    period_start = excluded.period_start, period_end = excluded.period_end, allowed = excluded.allowed,
    reason = excluded.reason, used = excluded.used, included = excluded.included,
    effective_limit = excluded.effective_limit, overage_cost_minor = excluded.overage_cost_minor,
    meter_cost_minor = excluded.meter_cost_minor, budget_minor = excluded.budget_minor,
    meter_budget_minor = excluded.meter_budget_minor, currency = excluded.currency, as_of = excluded.as_of,
    freshness = excluded.freshness, decided_at = excluded.decided_at
