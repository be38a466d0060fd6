-- Every version with what it did; ?1 is a month or null for all.
SELECT v.id, v.payer, v.month, v.export, v.version, v.delivered_at, v.state,
       v.state = 'applied' AND NOT EXISTS (SELECT 1 FROM bill_versions n WHERE n.supersedes = v.id) AS current,
       v.hold_reason, v.accepted, v.rows, v.counted_rows, v.rounded_amounts, v.newest_day,
       (SELECT coalesce(sum(l.lines), 0) FROM bill_lines l WHERE l.version_id = v.id AND l.claim = 'unrecognised'),
       coalesce((SELECT entries FROM bookings b WHERE b.version_id = v.id), 0),
       v.decided_at
FROM bill_versions v
WHERE ?1 IS NULL OR v.month = ?1
ORDER BY v.month DESC, v.payer, v.id DESC
