-- ?1 the month, ?2 and ?3 its first and last day, ?4 a version or null.
-- The division makes a plain number for JavaScript; sum() over INTEGER is exact and fails, rather than drift, on overflow.
UPDATE customers
SET chime_minutes_used = (SELECT coalesce(sum(quantity), 0) FROM usage_days
                          WHERE customer = customers.id AND meter = 'chime_minutes' AND day BETWEEN ?2 AND ?3) / 1e10,
    storage_gb_used    = (SELECT coalesce(sum(quantity), 0) FROM usage_days
                          WHERE customer = customers.id AND meter = 'storage_gb' AND day BETWEEN ?2 AND ?3) / 1e10,
    transfer_gb_used   = (SELECT coalesce(sum(quantity), 0) FROM usage_days
                          WHERE customer = customers.id AND meter = 'transfer_gb' AND day BETWEEN ?2 AND ?3) / 1e10,
    counters_period    = ?1
WHERE counters_period IS NOT ?1
   OR id IN (SELECT customer FROM ledger_entries WHERE version_id = ?4)
