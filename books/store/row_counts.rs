//! The rows that a remote database read and wrote for all processes of `meter`, by day. A plan
//! limits them by the month.
//!
//! Each process adds its counts now and then to a setting of the month. What a process did shortly
//! before it was killed is missing, and so are the statements of the web backend.

use std::collections::BTreeMap;
use std::ops::Add;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::Serialize;

use super::connection::{Connection, params};
use super::database::Database;
use super::error::BooksError;
use super::traffic::RowCounts;
use crate::units::calendar::Month;

/// Fewer rows than these are not worth a statement.
const WORTH_KEEPING: RowCounts = RowCounts { read: 1000, written: 100 };

/// The rows of a month, as far as they are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub struct MonthRows {
    /// Since midnight, UTC.
    pub today: RowCounts,
    /// Since the first of the month.
    pub so_far: RowCounts,
    /// At the end of the month, when today and each day after it are like yesterday, or like today
    /// so far if that is more.
    pub by_end: RowCounts,
}

impl MonthRows {
    fn of(days: &BTreeMap<Date, (u64, u64)>, today: Date) -> Self {
        let on =
            |day: Date| days.get(&day).map_or_else(RowCounts::default, |&(read, written)| RowCounts { read, written });
        let before = days.range(today.first_of_month()..today).map(|(day, _)| on(*day));
        let before = before.fold(RowCounts::default(), Add::add);
        let pace = today.yesterday().map_or_else(|_| RowCounts::default(), on).each(on(today), u64::max);
        let left = u64::try_from(today.days_in_month() - today.day() + 1).unwrap_or(1);
        let left = RowCounts { read: left, written: left };
        Self { today: on(today), so_far: before + on(today), by_end: before + pace.each(left, u64::saturating_mul) }
    }
}

fn name(month: Month) -> String {
    format!("rows {month}")
}

/// The rows of the month of `now`.
pub async fn month_rows(c: &Connection, now: Timestamp) -> Result<MonthRows, BooksError> {
    let month = Month::of(now);
    let sql = "SELECT value FROM settings WHERE name IN (?1, ?2)";
    let mut rows = c.query(sql, params![name(month.previous()), name(month)]).await?;
    let mut days = BTreeMap::new();
    while let Some(row) = rows.next().await? {
        // an estimate is not worth an error
        days.extend(serde_json::from_str::<BTreeMap<Date, (u64, u64)>>(&row.get::<String>(0)?).unwrap_or_default());
    }
    Ok(MonthRows::of(&days, now.to_zoned(TimeZone::UTC).date()))
}

impl Database {
    /// Adds the rows of this process since the last call to those of the day, unless they are few.
    /// A local file has none.
    pub async fn keep_row_counts(&self, now: Timestamp) -> Result<(), BooksError> {
        let process = self.counters().process();
        let mut kept = process.kept.lock().await;
        let all = process.traffic().rows();
        let new = all - *kept;
        if new.read < WORTH_KEEPING.read && new.written < WORTH_KEEPING.written {
            return Ok(());
        }
        let day = format!("$.\"{}\"", now.to_zoned(TimeZone::UTC).date());
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let values = params![name(Month::of(now)), day, number(new.read), number(new.written)];
        let sql = "INSERT INTO settings (name, value) VALUES (?1, json_set('{}', ?2, json_array(?3, ?4))) \
                   ON CONFLICT (name) DO UPDATE SET value = json_set(value, ?2, json_array( \
                   coalesce(value ->> (?2 || '[0]'), 0) + ?3, coalesce(value ->> (?2 || '[1]'), 0) + ?4))";
        self.with_connection(async move |c| c.execute(sql, values).await).await?;
        *kept = all;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> Date {
        text.parse().unwrap()
    }

    #[test]
    fn a_month_ends_at_the_larger_pace_of_yesterday_and_today() {
        let rows = |read, written| RowCounts { read, written };
        // today, what was counted on which day, so far, by the end
        type Case = (&'static str, &'static [(&'static str, (u64, u64))], RowCounts, RowCounts);
        let cases: [Case; 6] = [
            ("2026-11-29", &[], rows(0, 0), rows(0, 0)),
            ("2026-11-29", &[("2026-11-29", (7, 1))], rows(7, 1), rows(14, 2)),
            ("2026-11-29", &[("2026-11-28", (10, 0)), ("2026-11-29", (7, 1))], rows(17, 1), rows(30, 2)),
            ("2026-11-30", &[("2026-11-02", (100, 50)), ("2026-11-29", (10, 3))], rows(110, 53), rows(120, 56)),
            // yesterday was of another month
            ("2026-12-01", &[("2026-11-30", (10, 3)), ("2026-12-01", (1, 1))], rows(1, 1), rows(310, 93)),
            ("2026-02-01", &[("2026-02-01", (u64::MAX, 1))], rows(u64::MAX, 1), rows(u64::MAX, 28)),
        ];
        for (today, counted, so_far, by_end) in cases {
            let days = counted.iter().map(|(at, rows)| (day(at), *rows)).collect();
            let found = MonthRows::of(&days, day(today));
            assert_eq!((found.so_far, found.by_end), (so_far, by_end), "{today}: {counted:?}");
        }
    }
}
