//! What the newest booked bills say: until when usage is booked, and which days are settled.
//!
//! AWS goes on adding usage to a day for hours after its end. A day is *settled* when a bill came
//! so long after it that nothing is expected to be missing; every other day is *open*. On a settled
//! day the bill counts, whatever was measured. On an open one the larger of both does.
//!
//! A settled day of a shared bucket can be *undivided*: it has no report, or is held. The bill then
//! says nothing of its customers, so the larger one counts there, too.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::measured::accrual::Accrues;
use crate::measured::metered_day::MeteredDay;
use crate::store::connection::Connection;
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{delivered, json};
use crate::units::calendar::{Day, Month};
use crate::units::quantity::Quantity;

/// Days before today that can be in a current billing period, which is a month at most.
const PERIOD_DAYS: i32 = 40;

/// The newest booked version of a payer's month.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewestBill {
    pub payer: String,
    pub month: Month,
    /// The newest day with counted usage.
    pub newest_day: Option<Day>,
    pub delivered_at: Timestamp,
    /// Days of shared buckets that it does not divide, although it settles them.
    pub undivided: Vec<MeteredDay>,
}

/// Reads the newest booked version of every payer and month.
pub async fn newest_bills(c: &Connection) -> Result<Vec<NewestBill>, BooksError> {
    let sql = "SELECT payer, month, newest_day, delivered_at, \
                 (SELECT json_group_array(DISTINCT json_object('meter', meter, 'day', day)) FROM bucket_shares \
                  WHERE version_id = v.id AND state IN ('no_report', 'held')) \
               FROM bill_versions v WHERE state = 'applied' \
               AND NOT EXISTS (SELECT 1 FROM bill_versions n WHERE n.supersedes = v.id)";
    let (mut rows, mut found) = (c.query(sql, ()).await?, vec![]);
    let wrong = |e: &dyn std::fmt::Display| BooksError::Integrity(format!("bill_versions: {e}"));
    while let Some(row) = rows.next().await? {
        let newest_day: Option<String> = row.get(2)?;
        found.push(NewestBill {
            payer: row.get(0)?,
            month: row.get::<String>(1)?.parse().map_err(|e| wrong(&e))?,
            newest_day: newest_day.map(|day| day.parse()).transpose().map_err(|e| wrong(&e))?,
            delivered_at: delivered(&row.get::<String>(3)?)?,
            undivided: serde_json::from_str(&row.get::<String>(4)?).map_err(|e| wrong(&e))?,
        });
    }
    Ok(found)
}

/// Until when each payer's usage is booked: the end of the newest day with usage, or the time of
/// delivery, if the day was not over then.
pub fn usage_through(bills: &[NewestBill]) -> BTreeMap<String, Timestamp> {
    let mut found: BTreeMap<String, Timestamp> = BTreeMap::new();
    for bill in bills {
        let Some(day) = bill.newest_day else { continue };
        let through = day.end().min(bill.delivered_at);
        found.entry(bill.payer.clone()).and_modify(|at| *at = through.max(*at)).or_insert(through);
    }
    found
}

/// Which days every payer has settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettledDays {
    /// By month: days that had ended by then are settled.
    ended_by: BTreeMap<Month, Timestamp>,
    undivided: BTreeSet<MeteredDay>,
}

impl SettledDays {
    /// A day is settled when the newest bill of its month was delivered `settle` or longer after
    /// its end, from each of the `payers`. Without payers no day is.
    pub fn new(payers: &BTreeSet<&str>, bills: &[NewestBill], settle: SignedDuration) -> Self {
        let mut by_month: BTreeMap<Month, BTreeMap<&str, Timestamp>> = BTreeMap::new();
        let mut undivided = BTreeSet::new();
        for bill in bills.iter().filter(|bill| payers.contains(bill.payer.as_str())) {
            by_month.entry(bill.month).or_default().insert(&bill.payer, bill.delivered_at);
            undivided.extend(bill.undivided.iter().cloned());
        }
        by_month.retain(|_, delivered| delivered.len() == payers.len());
        let ended_by = |delivered: BTreeMap<&str, Timestamp>| {
            let oldest = delivered.into_values().min()?;
            Some(oldest.checked_sub(settle).unwrap_or(Timestamp::MIN))
        };
        let ended_by = by_month.into_iter().filter_map(|(month, of)| Some((month, ended_by(of)?)));
        Self { ended_by: ended_by.collect(), undivided }
    }

    /// The settled days that are undivided.
    pub fn undivided(&self) -> BTreeSet<MeteredDay> {
        self.undivided.iter().filter(|of| self.has(of.day)).cloned().collect()
    }

    /// Whether a day is settled.
    pub fn has(&self, day: Day) -> bool {
        self.ended_by.get(&day.month()).is_some_and(|by| day.end() <= *by)
    }

    /// The settled days from `from` to `to`, both included, in order.
    pub fn between(&self, from: Day, to: Day) -> Vec<Day> {
        (from.epoch()..=to.epoch()).filter_map(Day::from_epoch).filter(|day| self.has(*day)).collect()
    }

    /// The newest settled days of those that [`Self::open`] looks at, in order.
    pub fn newest(&self, now: Timestamp, most: usize) -> Vec<Day> {
        let today = i32::try_from(now.as_second().div_euclid(86_400)).unwrap_or(i32::MAX);
        let of = |days_ago: i32| Day::from_epoch(today.saturating_sub(days_ago)).unwrap_or(Day::EPOCH);
        let mut days = self.between(of(PERIOD_DAYS), of(0));
        days.drain(..days.len().saturating_sub(most));
        days
    }

    /// The days up to `now` that are open and can be in the current billing period, in order.
    pub fn open(&self, now: Timestamp) -> Vec<Day> {
        let (first, today) = open_window(now);
        (first.epoch()..=today.epoch()).filter_map(Day::from_epoch).filter(|day| !self.has(*day)).collect()
    }
}

/// The first and the last day that can be open at `now`.
pub fn open_window(now: Timestamp) -> (Day, Day) {
    let today = i32::try_from(now.as_second().div_euclid(86_400)).unwrap_or(0);
    let day = |epoch| Day::from_epoch(epoch).unwrap_or(Day::EPOCH);
    (day(today - PERIOD_DAYS), day(today))
}

/// What an open day's measured usage adds to its bill. Where nothing was measured the bill stands,
/// also one below 0: AWS has taken usage back.
pub fn beyond_bill(measured: Quantity, billed: Quantity) -> Quantity {
    if measured.is_zero() { Quantity::ZERO } else { (measured - billed).max(Quantity::ZERO) }
}

/// Which measured usage counts beside the bill.
#[derive(Clone, Debug, Default)]
pub struct OpenUsage {
    /// The meters that are measured.
    pub meters: BTreeMap<String, Accrues>,
    /// Open days, in order.
    pub days: Vec<Day>,
    /// Settled days on which it counts all the same.
    pub undivided: BTreeSet<MeteredDay>,
}

impl OpenUsage {
    /// Measured usage of these meters, at `now`.
    pub fn new(meters: BTreeMap<String, Accrues>, settled: &SettledDays, now: Timestamp) -> Self {
        let (first, today) = open_window(now);
        let mut undivided = settled.undivided();
        undivided.retain(|of| (first..=today).contains(&of.day) && meters.contains_key(&of.meter));
        Self { days: settled.open(now), meters, undivided }
    }

    /// The days as the table `open` of `weights_by_day!` has them.
    pub fn to_json(&self) -> Result<String, BooksError> {
        let of_all = self.days.iter().map(|day| OpenDayRow { meter: None, day: *day });
        let of_one = self.undivided.iter().map(|of| OpenDayRow { meter: Some(&of.meter), day: of.day });
        json(&of_all.chain(of_one).collect::<Vec<_>>())
    }
}

/// An open day; of all meters without one.
#[derive(Serialize)]
struct OpenDayRow<'a> {
    meter: Option<&'a str>,
    day: Day,
}

impl Database {
    /// The days that the booked bills of all `payers` settle.
    pub async fn settled_days(
        &self,
        payers: BTreeSet<String>,
        settle: SignedDuration,
    ) -> Result<SettledDays, BooksError> {
        let bills = self.with_connection(async |c| newest_bills(c).await).await?;
        Ok(SettledDays::new(&payers.iter().map(String::as_str).collect(), &bills, settle))
    }

    /// As [`usage_through`].
    pub async fn usage_through(&self) -> Result<BTreeMap<String, Timestamp>, BooksError> {
        self.with_connection(async |c| Ok(usage_through(&newest_bills(c).await?))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn day(text: &str) -> Day {
        text.parse().unwrap()
    }

    fn bill(payer: &str, month: &str, delivered_at: &str) -> NewestBill {
        NewestBill {
            payer: payer.into(),
            month: month.parse().unwrap(),
            newest_day: None,
            delivered_at: delivered_at.parse().unwrap(),
            undivided: vec![],
        }
    }

    fn settled(payers: &[&str], bills: &[NewestBill]) -> SettledDays {
        SettledDays::new(&payers.iter().copied().collect(), bills, SignedDuration::from_hours(24))
    }

    #[test]
    fn a_day_is_settled_by_a_bill_that_came_long_after_it() {
        let october = bill("a", "2026-10", "2026-11-02T00:00:00Z");
        let november = bill("a", "2026-11", "2026-11-03T12:00:00Z");
        let both = [october, november.clone()];
        for (payers, bills, of, is) in [
            // to the second
            (&["a"][..], &both[..], "2026-11-01", true),
            (&["a"], &[bill("a", "2026-11", "2026-11-03T00:00:00Z")], "2026-11-01", true),
            (&["a"], &[bill("a", "2026-11", "2026-11-02T23:59:59Z")], "2026-11-01", false),
            (&["a"], &both, "2026-11-02", false),
            // the ends of months: a day belongs to the bill of its own month
            (&["a"], &both, "2026-10-31", true),
            (&["a"], &both, "2026-10-01", true),
            (&["a"], &[bill("a", "2026-10", "2026-11-01T23:59:59Z"), november.clone()], "2026-10-31", false),
            (&["a"], &[bill("a", "2026-10", "2026-11-01T23:59:59Z"), november.clone()], "2026-10-30", true),
            (&["a"], &both[1..], "2026-10-31", false),
            (&["a"], &both[..1], "2026-11-01", false),
            (&["a"], &[bill("a", "2028-02", "2028-03-02T00:00:00Z")], "2028-02-29", true),
            (&["a"], &[bill("a", "2028-02", "2028-03-01T00:00:00Z")], "2028-02-29", false),
            // several payers: the oldest bill counts, and one without a bill settles nothing
            (&["a", "b"], &both, "2026-11-01", false),
            (&["a", "b"], &[november.clone(), bill("b", "2026-11", "2026-11-05T00:00:00Z")], "2026-11-01", true),
            (&["a", "b"], &[november.clone(), bill("b", "2026-11", "2026-11-05T00:00:00Z")], "2026-11-02", false),
            (&["a", "b"], &[november.clone(), bill("b", "2026-10", "2026-11-05T00:00:00Z")], "2026-11-01", false),
            // a payer that is not configured does not count
            (&["a"], &[november.clone(), bill("b", "2026-11", "2026-11-01T00:00:00Z")], "2026-11-01", true),
            (&[], &both, "2026-11-01", false),
            (&["a"], &[], "2026-11-01", false),
        ] {
            assert_eq!(settled(payers, bills).has(day(of)), is, "{of} by {payers:?} with {bills:?}");
        }
    }

    /// A restated bill is a newer version with a later delivery, so no day is opened again.
    #[test]
    fn open_days_are_those_of_the_last_weeks_that_are_not_settled() {
        let september = bill("a", "2026-09", "2026-10-05T00:00:00Z");
        let bills = [
            september.clone(),
            bill("a", "2026-10", "2026-11-02T06:00:00Z"),
            bill("a", "2026-11", "2026-11-04T06:00:00Z"),
        ];
        let now = "2026-11-05T00:00:00Z".parse().unwrap();
        let open: Vec<String> = settled(&["a"], &bills).open(now).iter().map(Day::to_string).collect();
        assert_eq!(open, ["2026-11-03", "2026-11-04", "2026-11-05"]);
        // the settled ones are the others
        let newest =
            |most| -> Vec<String> { settled(&["a"], &bills).newest(now, most).iter().map(Day::to_string).collect() };
        assert_eq!(newest(3), ["2026-10-31", "2026-11-01", "2026-11-02"]);
        assert_eq!((newest(0).len(), newest(40).len(), newest(38)[0].as_str()), (0, 38, "2026-09-26"));
        // the month before got no later bill
        let late = [september, bill("a", "2026-10", "2026-10-31T06:00:00Z"), bills[2].clone()];
        let open: Vec<String> = settled(&["a"], &late).open(now).iter().map(Day::to_string).collect();
        assert_eq!(open, ["2026-10-30", "2026-10-31", "2026-11-03", "2026-11-04", "2026-11-05"]);
        let all = SettledDays::default().open(now);
        assert_eq!((all.len(), all.last()), (41, Some(&day("2026-11-05"))));
    }

    #[test]
    fn the_larger_one_counts_where_something_was_measured() {
        let q = |text: &str| text.parse::<Quantity>().unwrap();
        for (measured, billed, adds) in [
            ("0", "0", "0"),
            ("0", "7", "0"),
            ("0", "-7", "0"),
            ("5", "0", "5"),
            ("5", "5", "0"),
            ("5", "7", "0"),
            ("7", "5", "2"),
            // what was taken back does not hide what is measured since
            ("5", "-7", "12"),
        ] {
            assert_eq!(beyond_bill(q(measured), q(billed)), q(adds), "{measured} and {billed}");
        }
    }

    proptest! {
        #[test]
        fn a_day_is_as_a_naive_model_has_it(
            versions in prop::collection::vec((0..3_usize, 0..3_usize, 0..100 * 86_400_i64), 0..9),
            payers in 0..4_usize,
            hours in 0..72_i64,
            at in 0..100_i32,
        ) {
            let (names, months) = (["a", "b", "c"], ["2026-10", "2026-11", "2026-12"]);
            let october = i64::from(day("2026-10-01").epoch()) * 86_400;
            let of: BTreeMap<(usize, usize), i64> = versions.into_iter().map(|(p, m, t)| ((p, m), october + t)).collect();
            let bills: Vec<NewestBill> = of.iter().map(|((p, m), t)| NewestBill {
                delivered_at: Timestamp::from_second(*t).unwrap(),
                ..bill(names[*p], months[*m], "2026-01-01T00:00:00Z")
            }).collect();
            let names: BTreeSet<&str> = names.into_iter().take(payers).collect();
            let settled = SettledDays::new(&names, &bills, SignedDuration::from_hours(hours));
            let day = Day::from_epoch(day("2026-10-01").epoch() + at).unwrap();
            let naive = !names.is_empty() && names.iter().all(|payer| bills.iter().any(|bill| {
                bill.payer == *payer && day.to_string().starts_with(&bill.month.to_string())
                    && bill.delivered_at.as_second() - day.end().as_second() >= hours * 3600
            }));
            prop_assert_eq!(settled.has(day), naive);
            let now = Timestamp::from_second(i64::from(day.epoch()) * 86_400 + 5).unwrap();
            prop_assert_eq!(settled.open(now).contains(&day), !naive);
        }
    }
}
