-- ?5 is a JSON array of [customer, meter, day, quantity, kind] in ledger order. Arrays and not
-- objects: a first delivery appends a million entries, and their keys would double the text.
INSERT INTO ledger_entries (version_id, payer, month, booked_at, customer, meter, day, quantity, kind)
SELECT ?1, ?2, ?3, ?4,
       json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
       json_extract(value, '$[3]'), json_extract(value, '$[4]')
FROM json_each(?5)
ORDER BY key
