//! What customers measured on some days, as a part of a statement that has the customers.
//!
//! The same as [`Database::measured`](crate::store::database::Database::measured) sums, but summed
//! by the database: a page of customers may have more measurements than an answer can hold.

/// A SELECT of `meter`, `day`, `high` and `low` for the customer `c.id`, from `c.first_day` to
/// `c.last_day`, before ?2. It needs the tables `watched (meter)` and `open (day, start)`. Levels
/// times seconds can be larger than a cell, so they are summed in two parts, for [`weight`].
macro_rules! weights_by_day {
    () => {
        concat!(
            "SELECT meter, day, sum(high) AS high, sum(low) AS low FROM ( \
               SELECT meter, day, amount / 10000000 * seconds AS high, amount % 10000000 * seconds AS low FROM ( \
                 SELECT w.meter, o.day, coalesce(m.quantity, m.level) AS amount, \
                        iif(m.quantity IS NULL, min(o.start + 86400, ?2, ",
            $crate::measured::measurements::over_at!(),
            ") - max(o.start, m.started_at), m.started_at >= o.start AND m.started_at < min(o.start + 86400, ?2)) AS seconds \
                 FROM watched w CROSS JOIN measurements m ON m.customer = c.id AND m.meter = w.meter \
                 CROSS JOIN open o ON o.day BETWEEN c.first_day AND c.last_day \
                 WHERE m.started_at < ?2 AND ",
            $crate::measured::measurements::over_at!(),
            " >= max((SELECT min(start) FROM open), unixepoch(c.first_day))) WHERE seconds > 0 \
               UNION ALL \
               SELECT d.meter, d.day, d.units * 1000 + d.rest / 10000000, d.rest % 10000000 \
               FROM watched w CROSS JOIN measured_days d ON d.customer = c.id AND d.meter = w.meter \
                AND d.day BETWEEN max(c.first_day, (SELECT min(day) FROM open)) AND c.last_day \
               WHERE +d.day IN (SELECT day FROM open)) \
             GROUP BY meter, day"
        )
    };
}
pub(crate) use weights_by_day;

/// Puts together the parts of `weights_by_day!`.
pub(crate) fn weight(high: i64, low: i64) -> i128 {
    i128::from(high) * 10_000_000 + i128::from(low)
}
