-- ?1 the month, ?2 a JSON array of customers. Counters never go back to an earlier month: a long
-- run that began before midnight must not undo the move into the new month. sum() over INTEGER is
-- exact and fails on overflow, so units and the rest are summed apart; the division makes a plain
-- number for JavaScript.
UPDATE customers
SET chime_minutes_used = (SELECT coalesce(sum(quantity / 10000000000) * 10000000000 + sum(quantity % 10000000000), 0) FROM booked_usage
                          WHERE customer = customers.id AND meter = 'chime_minutes'
                            AND day BETWEEN max(coalesce(customers.counters_period, ''), ?1) || '-01'
                                        AND max(coalesce(customers.counters_period, ''), ?1) || '-31') / 1e10,
    storage_gb_used    = (SELECT coalesce(sum(quantity / 10000000000) * 10000000000 + sum(quantity % 10000000000), 0) FROM booked_usage
                          WHERE customer = customers.id AND meter = 'storage_gb'
                            AND day BETWEEN max(coalesce(customers.counters_period, ''), ?1) || '-01'
                                        AND max(coalesce(customers.counters_period, ''), ?1) || '-31') / 1e10,
    transfer_gb_used   = (SELECT coalesce(sum(quantity / 10000000000) * 10000000000 + sum(quantity % 10000000000), 0) FROM booked_usage
                          WHERE customer = customers.id AND meter = 'transfer_gb'
                            AND day BETWEEN max(coalesce(customers.counters_period, ''), ?1) || '-01'
                                        AND max(coalesce(customers.counters_period, ''), ?1) || '-31') / 1e10,
    counters_period    = max(coalesce(counters_period, ''), ?1)
WHERE id IN (SELECT value FROM json_each(?2))
