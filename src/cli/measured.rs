//! `meter measured`: what the web backend measured, beside what AWS billed, of all customers or of
//! one by day.

use std::collections::{BTreeMap, BTreeSet};

use books::units::calendar::Month;
use books::units::quantity::Quantity;
use jiff::Timestamp;
use serde::Serialize;

use super::known_customer;
use super::usage_args::UsageArgs;
use crate::config::Config;
use crate::exit::Exit;
use crate::print;
use crate::wiring::{self, Open};

/// A customer and meter, or a day of them.
#[derive(Debug, Default, Serialize)]
struct Line {
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
        print::json(&lines)?;
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
            print::quantity(line.measured),
            print::quantity(line.billed),
            units.get(&line.meter).cloned().unwrap_or_default(),
            note,
        ]
    });
    let first = if by_day { "day" } else { "customer" };
    print::table(&[first, "meter", ">measured", ">billed", "unit", "~"], rows.collect());
    Ok(Exit::Ok)
}
