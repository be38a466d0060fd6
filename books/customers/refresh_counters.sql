-- ?1 the month, ?2 a version or null. Counters never go back to an earlier month: a long run that
-- began before midnight must not undo the move into the new month. sum() over INTEGER is exact and
-- fails on overflow; the division makes a plain number for JavaScript.
UPDATE customers
SET chime_minutes_used = (SELECT coalesce(sum(quantity), 0) FROM usage_days
                          WHERE customer = customers.id AND meter = 'chime_minutes'
                            AND substr(day, 1, 7) = max(coalesce(customers.counters_period, ''), ?1)) / 1e10,
    storage_gb_used    = (SELECT coalesce(sum(quantity), 0) FROM usage_days
                          WHERE customer = customers.id AND meter = 'storage_gb'
                            AND substr(day, 1, 7) = max(coalesce(customers.counters_period, ''), ?1)) / 1e10,
    transfer_gb_used   = (SELECT coalesce(sum(quantity), 0) FROM usage_days
                          WHERE customer = customers.id AND meter = 'transfer_gb'
                            AND substr(day, 1, 7) = max(coalesce(customers.counters_period, ''), ?1)) / 1e10,
    counters_period    = max(coalesce(counters_period, ''), ?1)
WHERE counters_period IS NULL OR counters_period < ?1
   OR id IN (SELECT customer FROM ledger_entries WHERE version_id = ?2)
