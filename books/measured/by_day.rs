//! What customers measured on some days, as a part of a statement that has the customers.
//!
//! The same as [`Database::measured`](crate::store::database::Database::measured) sums, but summed
//! by the database: a page of customers may have more measurements than an answer can hold.

/// A SELECT of `meter`, `day`, `high` and `low` for the customer `c.id`, from `c.first_day` to
/// `c.last_day`, before ?2. It needs the tables `watched (meter)` and `open (day, start, meter)`,
/// in which a day without a meter is one of all meters. Levels times seconds can be larger than a
/// cell, so they are summed in two parts, for [`weight`].
///
/// `days_first` reads each use once for each open day of the period: for few days, and uses that
/// are mostly on them. `uses_first` reads each use once, and each open day for those that reach
/// them.
macro_rules! weights_by_day {
    (days_first) => {
        $crate::measured::by_day::weights_by_day!(
            "(SELECT meter FROM watched w WHERE EXISTS \
               (SELECT 1 FROM measurements m WHERE m.customer = c.id AND m.meter = w.meter)) w \
             CROSS JOIN open o ON o.day BETWEEN c.first_day AND c.last_day AND coalesce(o.meter, w.meter) = w.meter \
             CROSS JOIN measurements m ON m.customer = c.id AND m.meter = w.meter"
        )
    };
    (uses_first) => {
        $crate::measured::by_day::weights_by_day!(
            "watched w CROSS JOIN measurements m ON m.customer = c.id AND m.meter = w.meter \
             CROSS JOIN open o ON o.day BETWEEN c.first_day AND c.last_day AND coalesce(o.meter, w.meter) = w.meter"
        )
    };
    ($uses_on_days:literal) => {
        concat!(
            "SELECT meter, day, sum(high) AS high, sum(low) AS low FROM ( \
               SELECT meter, day, amount / 10000000 * seconds AS high, amount % 10000000 * seconds AS low FROM ( \
                 SELECT w.meter, o.day, coalesce(m.quantity, m.level) AS amount, \
                        iif(m.quantity IS NULL, min(o.start + 86400, ?2, ",
            $crate::measured::measurements::over_at!(),
            ") - max(o.start, m.started_at), m.started_at >= o.start AND m.started_at < min(o.start + 86400, ?2)) AS seconds \
                 FROM ",
            $uses_on_days,
            " WHERE m.started_at < ?2 AND ",
            $crate::measured::measurements::over_at!(),
            " >= max((SELECT min(start) FROM open), unixepoch(c.first_day))) WHERE seconds > 0 \
               UNION ALL \
               SELECT d.meter, d.day, d.units * 1000 + d.rest / 10000000, d.rest % 10000000 \
               FROM watched w CROSS JOIN measured_days d ON d.customer = c.id AND d.meter = w.meter \
                AND d.day BETWEEN max(c.first_day, (SELECT min(day) FROM open)) AND c.last_day \
               WHERE +d.day IN (SELECT day FROM open WHERE meter IS NULL) \
                OR (+d.day, d.meter) IN (SELECT day, meter FROM open WHERE meter IS NOT NULL) \
               UNION ALL \
               SELECT w.meter, date(?2, 'unixepoch'), 0, 0 FROM watched w \
               WHERE date(?2, 'unixepoch') BETWEEN c.first_day AND c.last_day AND date(?2, 'unixepoch') IN (SELECT day FROM open WHERE meter IS NULL) \
                AND EXISTS (SELECT 1 FROM measurements m WHERE m.customer = c.id AND m.meter = w.meter)) \
             GROUP BY meter, day"
        )
    };
}
pub(crate) use weights_by_day;

/// A SELECT of `meter`, `at`, `level_high`, `level_low`, `quantity_high` and `quantity_low` for the
/// customer `c.id`: what begins, ends and is counted from ?2 on. It needs the table
/// `watched (meter)`. A level that runs already begins at ?2. Levels can add up to more than a
/// cell, so they are summed in two parts, for [`weight`].
macro_rules! edges_from_now {
    () => {
        concat!(
            "SELECT meter, at, sum(level / 10000000) AS level_high, sum(level % 10000000) AS level_low, \
                    sum(quantity / 10000000) AS quantity_high, sum(quantity % 10000000) AS quantity_low FROM ( \
               SELECT w.meter, CASE WHEN m.level IS NULL THEN m.started_at WHEN e.value = 1 THEN max(m.started_at, ?2) ELSE ",
            $crate::measured::measurements::over_at!(),
            " END AS at, coalesce(m.level, 0) * e.value AS level, coalesce(m.quantity, 0) AS quantity \
               FROM watched w CROSS JOIN measurements m ON m.customer = c.id AND m.meter = w.meter \
                AND (m.level > 0 AND ",
            $crate::measured::measurements::over_at!(),
            " > max(m.started_at, ?2) OR m.quantity > 0 AND m.started_at >= ?2) \
               CROSS JOIN json_each('[1,-1]') e ON e.value = 1 OR m.level > 0) \
             GROUP BY meter, at"
        )
    };
}
pub(crate) use edges_from_now;

/// Puts together the parts of `weights_by_day!`.
pub(crate) fn weight(high: i64, low: i64) -> i128 {
    i128::from(high) * 10_000_000 + i128::from(low)
}
