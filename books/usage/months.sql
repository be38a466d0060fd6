-- For each payer and each month of the JSON array ?1: the payer's first month, the newest booked
-- version, or else the newest on hold, and the newest on hold. Each is a seek in an index.
WITH RECURSIVE payers (payer) AS (
    SELECT min(payer) FROM bill_versions
    UNION ALL SELECT (SELECT min(payer) FROM bill_versions WHERE payer > payers.payer) FROM payers WHERE payers.payer IS NOT NULL),
newest AS (
    SELECT p.payer, m.value AS month,
           (SELECT max(id) FROM bill_versions WHERE payer = p.payer AND month = m.value AND state = 'applied') AS applied,
           (SELECT max(id) FROM bill_versions WHERE payer = p.payer AND month = m.value AND state = 'on_hold') AS on_hold
    FROM payers p CROSS JOIN json_each(?1) m WHERE p.payer IS NOT NULL)
SELECT n.payer, (SELECT min(month) FROM bill_versions WHERE payer = n.payer), n.month, n.applied IS NOT NULL, h.manifest_digest, h.decided_at,
       v.export, v.version, v.manifest_digest, v.delivered_at, v.decided_at,
       (SELECT t.manifest_digest FROM applied_plan_versions p JOIN bill_versions t ON t.id = p.reverts WHERE p.version_id = n.applied)
FROM newest n LEFT JOIN bill_versions v ON v.id = coalesce(n.applied, n.on_hold)
              LEFT JOIN bill_versions h ON h.id = n.on_hold
