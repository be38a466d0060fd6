//! Usage that a test books without a bill.

/// The statements that book a quantity as one more version of a bill. `day` and `quantity` (in
/// 10⁻¹⁰ units) are SQL.
pub fn booking(customer: &str, meter: &str, day: &str, quantity: &str) -> [String; 5] {
    let entry = format!("'{customer}', '{meter}', {day}, {quantity}, 'usage'");
    bookings(&format!("substr({day}, 1, 7)"), &format!("SELECT {entry}"))
}

/// As [`booking`], of many entries: `entries` selects customer, meter, day, quantity and kind.
pub fn bookings(month: &str, entries: &str) -> [String; 5] {
    let last = "(SELECT max(id) FROM bookings)";
    [
        format!(
            "INSERT INTO bill_versions (payer, month, export, format, version, manifest_key, manifest_digest, rules_digest, account, \
             delivered_at, state, supersedes, rows, counted_rows, rounded_amounts, decided_at) \
             SELECT 'p', {month}, 'e', 'cur2', 'v', 'k', 'd', 'r', '', strftime('%Y-%m-%dT%H:%M:%SZ'), 'applied', \
             (SELECT max(id) FROM bill_versions WHERE payer = 'p' AND month = {month}), 0, 0, 0, strftime('%Y-%m-%dT%H:%M:%SZ')"
        ),
        format!(
            "INSERT INTO bookings (payer, month, identity, entries, started_at) \
             SELECT 'p', {month}, 'test', (SELECT count(*) FROM ({entries})), 0"
        ),
        format!(
            "INSERT INTO ledger_entries (booking_id, customer, meter, day, quantity, kind) SELECT {last}, * FROM ({entries})"
        ),
        format!(
            "INSERT INTO usage_totals (meter, day, attributed, units, rest) \
             SELECT meter, day, customer <> '', sum(quantity / 10000000000), sum(quantity % 10000000000) FROM ledger_entries \
             WHERE booking_id = {last} AND meter NOT LIKE '%)' GROUP BY 1, 2, 3 \
             ON CONFLICT (meter, day, attributed) DO UPDATE SET units = units + excluded.units, rest = rest + excluded.rest"
        ),
        format!("UPDATE bookings SET version_id = (SELECT max(id) FROM bill_versions), counted = 1 WHERE id = {last}"),
    ]
}
