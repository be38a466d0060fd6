-- ?2 is a JSON array of [customer, meter, day, quantity, kind] in the order of the entries. Arrays
-- and not objects: a first delivery appends a million entries, and their keys would double the
-- text.
INSERT INTO ledger_entries (booking_id, customer, meter, day, quantity, kind)
SELECT ?1, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4
FROM json_each(?2)
WHERE EXISTS (SELECT 1 FROM bookings WHERE id = ?1 AND identity = ?3 AND version_id IS NULL)
ORDER BY key
ON CONFLICT DO NOTHING
