-- ?1 a JSON array of rows, as for entitlements.
INSERT INTO entitlement_changes (customer, meter, period_start, allowed, reason, used, included, effective_limit,
                                 overage_cost_minor, budget_minor, meter_budget_minor, as_of, freshness, decided_at)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8, value ->> 9,
       value ->> 11, value ->> 12, value ->> 14, value ->> 15, value ->> 16
FROM json_each(?1) ORDER BY key
