//! The days, bills and measurements behind a decision about a meter.

use std::collections::{BTreeMap, BTreeSet};

use books::Database;
use books::limits::entitlement::Entitlement;
use books::limits::plan::TURN;
use books::limits::settled::beyond_bill;
use books::units::calendar::Day;
use books::units::quantity::Quantity;
use books::usage::entries::{BookedEntries, EntriesFilter};
use jiff::Timestamp;

use super::{out, quantity, table};
use crate::config::Config;

/// What counts of a day.
#[derive(Clone, Copy, Debug, Default)]
struct CountedDay {
    billed: Quantity,
    measured: Quantity,
}

/// Prints by which days and which bills a meter is judged, as the books have them now.
pub(crate) async fn show(books: &Database, e: &Entitlement, config: &Config, now: Timestamp) -> anyhow::Result<()> {
    let periods = books.begun_periods(&e.customer, now).await?;
    let Some(period) = periods.iter().find(|period| period.starts_at == e.period_start) else { return Ok(()) };
    let (first, last) = (period.first_day, period.last_day);
    if e.meter == TURN || first > last {
        return Ok(());
    }
    let filter = EntriesFilter { customer: e.customer.clone(), meters: vec![e.meter.clone()], first, last };
    let BookedEntries { entries, versions } = books.booked_entries(filter).await?;
    let mut days: BTreeMap<Day, CountedDay> = BTreeMap::new();
    for entry in &entries {
        days.entry(entry.day).or_default().billed += entry.quantity;
    }
    let measuring = config.measuring();
    if measuring.meters.iter().any(|measured| measured.meter == e.meter) {
        let measured = books.measured(Some(e.customer.clone()), first, last, now).await?;
        for of in measured.into_iter().filter(|of| of.meter == e.meter) {
            days.entry(of.day).or_default().measured += of.quantity;
        }
    }
    let payers: BTreeSet<String> = config.exports.iter().map(|export| export.payer.clone()).collect();
    let settled = books.settled_days(payers, measuring.settle_after).await?;
    if days.is_empty() {
        return Ok(());
    }
    out("");
    let mut used = Quantity::ZERO;
    let rows = days.into_iter().map(|(day, CountedDay { billed, measured })| {
        let beyond = if settled.has(day) { Quantity::ZERO } else { beyond_bill(measured, billed) };
        used += billed + beyond;
        let by = match (beyond.is_zero(), settled.has(day)) {
            (false, _) => "measured beyond the bill",
            (true, true) => "the bill settles the day",
            (true, false) => "the bill so far",
        };
        let shown = if measured.is_zero() { "-".to_owned() } else { quantity(measured) };
        vec![day.to_string(), quantity(billed), shown, quantity(billed + beyond), quantity(used), by.to_owned()]
    });
    table(&["day", ">billed", ">measured", ">counts", ">used so far", "by"], rows.collect());
    for version in versions.iter().filter(|version| version.is_current) {
        let (name, bill): (String, _) = (version.version.chars().take(8).collect(), &version.bill);
        let (delivered, booked) = (version.delivered_at, version.booked_at);
        let of = format!("{} {}", bill.payer, bill.month);
        out(&format!("bill      {name} of {of}, delivered {delivered}, booked {booked:.0}"));
    }
    out(&format!("lines     `meter explain {} --meter {} --period {first} --lines`", e.customer, e.meter));
    Ok(())
}
