//! `meter usage`: the usage of all customers, or of one by day.

use books::units::calendar::Month;
use books::units::quantity::Quantity;
use books::usage::ledger::Usage;
use jiff::Timestamp;

use super::known_customer;
use super::usage_args::UsageArgs;
use crate::config::Config;
use crate::exit::Exit;
use crate::print::{self, WithUnit};
use crate::wiring::{self, Open};

/// What a customer used of a meter, on a day or in the month.
pub(super) type UsageLine = WithUnit<Usage>;

pub(crate) async fn run(args: UsageArgs, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let books = wiring::open_books(config, Open::EXISTING).await?;
    let month = args.month.unwrap_or_else(|| Month::of(now));
    let by_day = args.customer.is_some();
    let usage = books.usage(month, args.customer.clone()).await?;
    if let Some(customer) = args.customer.as_ref().filter(|_| usage.is_empty()) {
        known_customer::require_or_usage(&books, customer).await?;
    }
    if args.json {
        let line = |of: Usage| UsageLine::new(of.clone(), &of.meter, &config.units());
        print::json(&usage.into_iter().map(line).collect::<Vec<_>>())?;
        return Ok(Exit::Ok);
    }
    let units = config.units();
    if args.csv {
        let titles = ["customer", "known", "day", "meter", "quantity", "unit"];
        let row = |of: &Usage| {
            let (day, unit) = (of.day.clone().unwrap_or_default(), units.get(&of.meter).cloned().unwrap_or_default());
            vec![of.customer.clone(), of.known.to_string(), day, of.meter.clone(), of.quantity.to_string(), unit]
        };
        print::csv(&titles, usage.iter().map(row))?;
        return Ok(Exit::Ok);
    }
    if usage.is_empty() {
        let customer = args.customer.map(|c| format!(" for customer `{c}`")).unwrap_or_default();
        let before = month.previous();
        let hint = args.month.map_or_else(|| format!("; the month before: --month {before}"), |_| String::new());
        print::out(&format!("nothing is booked in {month}{customer}{hint}"));
        return Ok(Exit::Ok);
    }
    let unit = |meter: &str| config.meters.iter().find(|m| m.name == meter).map_or("", |m| m.unit.as_str());
    let mut rows: Vec<Vec<String>> = usage
        .iter()
        .map(|u| {
            let first = u.day.clone().unwrap_or_else(|| print::customer(&u.customer).to_owned());
            let note = if u.customer.is_empty() || u.known { "" } else { "unknown" };
            vec![first, u.meter.clone(), print::readable(u.quantity), unit(&u.meter).to_owned(), note.to_owned()]
        })
        .collect();
    let mut meters: Vec<&str> = usage.iter().map(|u| u.meter.as_str()).collect();
    meters.sort_unstable();
    meters.dedup();
    for meter in meters {
        let sum: Quantity = usage.iter().filter(|u| u.meter == meter).map(|u| u.quantity).sum();
        rows.push(vec!["total".into(), meter.into(), print::readable(sum), unit(meter).into(), String::new()]);
    }
    print::out(&format!("usage of {month} (UTC), as booked"));
    print::table(&[if by_day { "day" } else { "#customer" }, "meter", ">quantity", "unit", "~"], rows);
    if usage.iter().any(|of| !of.customer.is_empty() && !of.known) {
        print::out("unknown: the books have no customer with this id (`meter customer add`, `meter customer import`)");
    }
    Ok(Exit::Ok)
}
