//! The days, bills and measurements behind a decision about a meter.

use std::collections::{BTreeMap, BTreeSet};

use books::Database;
use books::limits::entitlement::Entitlement;
use books::limits::plan::TURN;
use books::limits::settled::beyond_bill;
use books::units::calendar::Day;
use books::units::quantity::Quantity;
use books::usage::entries::{BookedEntries, BookedVersion, EntriesFilter};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::{out, readable, table};
use crate::config::Config;

/// What counts of a day.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub(crate) struct CountedDay {
    day: Day,
    billed: Quantity,
    measured: Quantity,
    /// What of both counts.
    counts: Quantity,
    by: CountedBy,
}

/// What says how much of a day counts.
#[derive(Clone, Copy, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
enum CountedBy {
    /// A bill that settles the day.
    SettledBill,
    /// A bill that may still grow.
    Bill,
    /// What was measured beyond the bill.
    Measured,
}

/// The days and the bills by which a meter is judged.
#[derive(Clone, Debug, Default, JsonSchema, Serialize)]
pub(crate) struct CountedUsage {
    /// The first day of the period.
    first_day: Option<Day>,
    days: Vec<CountedDay>,
    bills: Vec<BookedVersion>,
}

/// The days and bills by which a meter is judged, as the books have them now.
pub(crate) async fn counted(
    books: &Database,
    e: &Entitlement,
    config: &Config,
    now: Timestamp,
) -> anyhow::Result<CountedUsage> {
    let periods = books.begun_periods(&e.customer, now).await?;
    let Some(period) = periods.iter().find(|period| period.starts_at == e.period_start) else {
        return Ok(CountedUsage::default());
    };
    let (first, last) = (period.first_day, period.last_day);
    if e.meter == TURN || first > last {
        return Ok(CountedUsage::default());
    }
    let filter = EntriesFilter { customer: e.customer.clone(), meters: vec![e.meter.clone()], first, last };
    let BookedEntries { entries, versions } = books.booked_entries(filter).await?;
    // of each day what was billed, and what was measured
    let mut days: BTreeMap<Day, (Quantity, Quantity)> = BTreeMap::new();
    for entry in &entries {
        days.entry(entry.day).or_default().0 += entry.quantity;
    }
    let measuring = config.measuring();
    if measuring.meters.iter().any(|measured| measured.meter == e.meter) {
        let measured = books.measured(Some(e.customer.clone()), first, last, now).await?;
        for of in measured.into_iter().filter(|of| of.meter == e.meter) {
            days.entry(of.day).or_default().1 += of.quantity;
        }
    }
    let payers: BTreeSet<String> = config.exports.iter().map(|export| export.payer.clone()).collect();
    let settled = books.settled_days(payers, measuring.settle_after).await?;
    let days = days.into_iter().map(|(day, (billed, measured))| {
        let beyond = if settled.has(day) { Quantity::ZERO } else { beyond_bill(measured, billed) };
        let by = match (beyond.is_zero(), settled.has(day)) {
            (false, _) => CountedBy::Measured,
            (true, true) => CountedBy::SettledBill,
            (true, false) => CountedBy::Bill,
        };
        CountedDay { day, billed, measured, counts: billed + beyond, by }
    });
    let bills = versions.into_iter().filter(|version| version.is_current).collect();
    Ok(CountedUsage { first_day: Some(first), days: days.collect(), bills })
}

/// Prints by which days and which bills a meter is judged.
pub(crate) fn show(e: &Entitlement, CountedUsage { first_day, days, bills }: &CountedUsage) {
    let Some(first) = first_day.filter(|_| !days.is_empty()) else { return };
    out("");
    let mut used = Quantity::ZERO;
    let rows = days.iter().map(|CountedDay { day, billed, measured, counts, by }| {
        used += *counts;
        let by = match by {
            CountedBy::Measured => "measured beyond the bill",
            CountedBy::SettledBill => "the bill settles the day",
            CountedBy::Bill => "the bill so far",
        };
        let shown = if measured.is_zero() { "-".to_owned() } else { readable(*measured) };
        vec![day.to_string(), readable(*billed), shown, readable(*counts), readable(used), by.to_owned()]
    });
    table(&["day", ">billed", ">measured", ">counts", ">used so far", "by"], rows.collect());
    for version in bills {
        let (name, bill): (String, _) = (version.version.chars().take(8).collect(), &version.bill);
        let (delivered, booked) = (version.delivered_at, version.booked_at);
        let of = format!("{} {}", bill.payer, bill.month);
        out(&format!("bill      {name} of {of}, delivered {delivered}, booked {booked:.0}"));
    }
    out(&format!("lines     `meter explain {} --meter {} --period {first} --lines`", e.customer, e.meter));
}
