INSERT INTO billing_targets (
    customer, meter, period_start, period_end, plan, target, deferred, deferred_reason, deferred_since,
    used, within, billable, house, not_priced, advance, billable_minor, house_minor, currency
)
SELECT value ->> 'customer', value ->> 'meter', value ->> 'period_start', value ->> 'period_end', value ->> 'plan',
       value ->> 'target', value ->> 'deferred', value ->> 'deferred_reason', iif(value ->> 'deferred' = 0, NULL, ?2),
       value ->> 'used', value ->> 'within', value ->> 'billable', value ->> 'house', value ->> 'not_priced',
       value ->> 'advance', value ->> 'billable_minor', value ->> 'house_minor', value ->> 'currency'
FROM json_each(?1) WHERE true
ON CONFLICT (customer, meter, period_start) DO UPDATE SET
    period_end = excluded.period_end, plan = excluded.plan, target = excluded.target,
    deferred = excluded.deferred, deferred_reason = excluded.deferred_reason,
    deferred_since = iif(billing_targets.deferred_reason IS excluded.deferred_reason,
                         billing_targets.deferred_since, excluded.deferred_since),
    final_at = iif(billing_targets.period_end = excluded.period_end, billing_targets.final_at, NULL),
    seen = iif(billing_targets.period_end = excluded.period_end, billing_targets.seen, NULL),
    expected = iif(billing_targets.period_end = excluded.period_end, billing_targets.expected, NULL),
    used = excluded.used, within = excluded.within, billable = excluded.billable, house = excluded.house,
    not_priced = excluded.not_priced, advance = excluded.advance,
    billable_minor = excluded.billable_minor, house_minor = excluded.house_minor, currency = excluded.currency
