-- ?2 is a JSON array of [customer, meter, day, quantity, kind] in the order of the entries. Arrays
-- and not objects: a first delivery appends a million entries, and their keys would double the
-- text.
INSERT INTO ledger_entries (booking_id, customer, meter, day, quantity, kind)
SELECT ?1, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4
FROM json_each(?2)
WHERE true
ORDER BY key
ON CONFLICT DO NOTHING
