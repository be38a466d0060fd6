//! `meter measured`: what the web backend measured, beside what AWS billed, of all customers or of
//! one by day.

use std::collections::{BTreeMap, BTreeSet};

use books::units::calendar::Month;
use books::units::quantity::Quantity;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::known_customer;
use super::usage_args::UsageArgs;
use crate::config::Config;
use crate::exit::Exit;
use crate::print::{self, WithUnit};
use crate::wiring::{self, Open};

/// A customer and meter, or a day of them.
#[derive(Debug, Default, JsonSchema, Serialize)]
pub(super) struct Line {
    customer: String,
    meter: String,
    day: Option<String>,
    measured: Quantity,
    billed: Quantity,
    /// Uses that nobody ended and that reached their bound.
    ended_by_bound: u32,
}

pub(crate) async fn run(args: UsageArgs, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let books = wiring::open_books(config, Open::EXISTING).await?;
    let month = args.month.unwrap_or_else(|| Month::of(now));
    let by_day = args.customer.is_some();
    let measured = books.measured(args.customer.clone(), month.first_day(), month.last_day(), now).await?;
    if let Some(customer) = args.customer.as_ref().filter(|_| measured.is_empty()) {
        known_customer::require_or_usage(&books, customer).await?;
    }
    let some = !measured.is_empty();
    let mut lines: BTreeMap<(String, String, Option<String>), Line> = BTreeMap::new();
    for of in measured {
        let day = by_day.then(|| of.day.to_string());
        let line = lines.entry((of.customer, of.meter, day)).or_default();
        line.measured += of.quantity;
        line.ended_by_bound += of.ended_by_bound;
    }
    let meters: BTreeSet<String> = config.measuring().meters.into_iter().map(|of| of.meter).collect();
    for of in books.usage(month, args.customer.clone()).await? {
        if some && meters.contains(&of.meter) && !of.customer.is_empty() {
            lines.entry((of.customer, of.meter, of.day)).or_default().billed = of.quantity;
        }
    }
    let lines = lines.into_iter().map(|((customer, meter, day), line)| Line { customer, meter, day, ..line });
    let lines: Vec<Line> = lines.collect();
    if args.json {
        let units = config.units();
        let of = |line: Line| {
            let meter = line.meter.clone();
            WithUnit::new(line, &meter, &units)
        };
        print::json(&lines.into_iter().map(of).collect::<Vec<_>>())?;
        return Ok(Exit::Ok);
    }
    if args.csv {
        let titles = ["customer", "day", "meter", "measured", "billed", "ended_by_bound", "unit"];
        let units = config.units();
        let row = |of: &Line| {
            let (day, unit) = (of.day.clone().unwrap_or_default(), units.get(&of.meter).cloned().unwrap_or_default());
            let quantities = [of.measured, of.billed].map(|quantity| quantity.to_string());
            let mut row = vec![of.customer.clone(), day, of.meter.clone()];
            row.extend(quantities.into_iter().chain([of.ended_by_bound.to_string(), unit]));
            row
        };
        print::csv(&titles, lines.iter().map(row))?;
        return Ok(Exit::Ok);
    }
    if lines.is_empty() {
        let customer = args.customer.map(|c| format!(" for customer `{c}`")).unwrap_or_default();
        print::out(&format!("nothing was measured in {month}{customer}"));
        return Ok(Exit::Ok);
    }
    let units = config.units();
    let rows = lines.into_iter().map(|line| {
        let note = match line.ended_by_bound {
            0 => String::new(),
            n => format!("{n} use(s) that nobody ended"),
        };
        vec![
            line.day.unwrap_or(line.customer),
            line.meter.clone(),
            print::readable(line.measured),
            print::readable(line.billed),
            units.get(&line.meter).cloned().unwrap_or_default(),
            note,
        ]
    });
    print::out(&format!("usage of {month} (UTC), as measured and as billed"));
    let first = if by_day { "day" } else { "#customer" };
    print::table(&[first, "meter", ">measured", ">billed", "unit", "~"], rows.collect());
    Ok(Exit::Ok)
}
