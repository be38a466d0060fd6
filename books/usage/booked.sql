-- The booked usage of bill ?1 ?2, of customers from ?3 to before ?4 (null: no bound; text is less
-- than any blob). One row for each customer: each meter's name and then `day:quantity`, all
-- separated by blanks, where the day counts from the first of the month and `e9` stands for nine
-- zeros, which the minutes of a bill end with. Over a network it is a sixth of a row for each cell.
SELECT customer, group_concat(meter || ' ' || days, ' ')
FROM (SELECT customer, meter,
             group_concat(((unixepoch(day) - unixepoch(?2 || '-01')) / 86400) || ':'
                          || iif(quantity % 1000000000 = 0, (quantity / 1000000000) || 'e9', quantity), ' ') AS days
      FROM (SELECT e.customer, e.meter, e.day, sum(e.quantity) AS quantity
            FROM bookings b
            CROSS JOIN ledger_entries e ON e.booking_id = b.id AND e.customer >= coalesce(?3, '') AND e.customer < coalesce(?4, x'')
            WHERE b.payer = ?1 AND b.month = ?2 AND b.version_id IS NOT NULL
            GROUP BY e.customer, e.meter, e.day HAVING sum(e.quantity) <> 0)
      GROUP BY customer, meter)
GROUP BY customer
