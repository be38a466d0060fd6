//! `meter report`: a month of usage as an HTML document.

use std::collections::BTreeMap;
use std::path::PathBuf;

use books::Database;
use books::limits::entitlement::Entitlement;
use books::units::calendar::Month;
use books::units::quantity::Quantity;
use books::usage::ledger::Usage;
use clap::Args as ClapArgs;
use jiff::Timestamp;

use super::known_customer;
use super::whole_file::{self, Readers};
use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::format::of_it_measured;
use crate::print;
use crate::ui::{self, MeterReport, UsageReport};
use crate::wiring::{self, Open};

/// The most customers listed for each meter.
const NAMED: usize = 25;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Only of this customer
    customer: Option<String>,
    /// Month [default: the current one]
    #[arg(long, value_name = "YYYY-MM")]
    month: Option<Month>,
    /// Write a self-contained HTML document to this file, and replace an existing one; `-` is
    /// standard output
    #[arg(long, value_name = "FILE")]
    html: PathBuf,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let books = wiring::open_books(config, Open::EXISTING).await?;
    let month = args.month.unwrap_or_else(|| Month::of(now));
    if month > Month::of(now) {
        return Err(BadUsage(format!("--month {month} has not begun")).into());
    }
    let report = report(&books, config, args.customer, month, now).await?;
    if whole_file::is_stdout(&args.html) {
        print::lines(&ui::report(&report));
        return Ok(Exit::Ok);
    }
    whole_file::write(&args.html, &ui::report(&report), Readers::Usual)?;
    let file = args.html.display();
    match report.as_of {
        Some(_) => print::out(&format!("{file} written: {} meter(s) of {month}", report.meters.len())),
        None => print::out(&format!("{file} written, and it is empty: no bill of {month} is booked")),
    }
    Ok(Exit::Ok)
}

async fn report(
    books: &Database,
    config: &Config,
    customer: Option<String>,
    month: Month,
    now: Timestamp,
) -> anyhow::Result<UsageReport> {
    let units = config.units();
    let usage = books.usage(month, customer.clone()).await?;
    if let Some(id) = customer.as_ref().filter(|_| usage.is_empty()) {
        known_customer::require_or_usage(books, id).await?;
    }
    let mut by_meter: BTreeMap<&str, Vec<&Usage>> = config.meters.iter().map(|m| (m.name.as_str(), vec![])).collect();
    for of in &usage {
        by_meter.entry(&of.meter).or_default().push(of);
    }
    let days = match &customer {
        Some(_) => None,
        None => Some(books.usage_by_day(month).await?),
    };
    let mut meters = vec![];
    for (meter, of) in by_meter {
        let total = of.iter().map(|u| u.quantity).sum();
        let mut customers: Vec<(String, Quantity)> = vec![];
        if customer.is_none() {
            customers =
                of.iter().filter(|u| !u.customer.is_empty()).map(|u| (u.customer.clone(), u.quantity)).collect();
            customers.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        }
        let left_out = customers.len().saturating_sub(NAMED);
        customers.truncate(NAMED);
        let mut notes = match &customer {
            Some(id) => notes(books, id, meter, month).await?,
            None => vec![],
        };
        if left_out > 0 {
            notes.push(format!("{} more customers used less than these.", print::count(left_out)));
        }
        let by_day = match &days {
            None => of.iter().filter_map(|u| Some((u.day.clone()?, u.quantity))).collect(),
            Some(days) => days.iter().filter(|d| d.meter == meter).map(|d| (d.day.clone(), d.quantity)).collect(),
        };
        meters.push(MeterReport {
            meter: meter.to_owned(),
            unit: units.get(meter).cloned().unwrap_or_default(),
            total,
            unattributed: customer
                .is_none()
                .then(|| of.iter().filter(|u| u.customer.is_empty()).map(|u| u.quantity).sum()),
            days: by_day,
            customers,
            notes,
        });
    }
    Ok(UsageReport {
        customer,
        month: month.to_string(),
        made_at: now,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        as_of: books
            .versions(Some(month))
            .await?
            .into_iter()
            .filter(|v| v.state == "applied")
            .map(|v| v.delivered_at)
            .max(),
        meters,
    })
}

/// The decision about a customer's meter in its current billing period, if the month has a part of
/// it.
async fn notes(books: &Database, customer: &str, meter: &str, month: Month) -> anyhow::Result<Vec<String>> {
    let all = books.entitlements(Some(customer.to_owned())).await?;
    let (begins, ends) = (month.first_day().start(), month.last_day().end());
    let current = |e: &Entitlement| e.meter == meter && e.period_start < ends && e.period_end > begins;
    let Some(e) = all.into_iter().find(current) else { return Ok(vec![]) };
    let limit = e.effective_limit.map_or("without a limit".to_owned(), |l| format!("up to {}", print::quantity(l)));
    let used = match of_it_measured(e.used_measured) {
        Some(part) => format!("{} used ({part})", print::quantity(e.used)),
        None => format!("{} used", print::quantity(e.used)),
    };
    let now =
        if e.allowed { format!("It may go on, {limit}.") } else { format!("It is blocked: {}.", e.reason.name()) };
    let plan = books.customers(None, Some(customer.to_owned())).await?.into_iter().next().map(|c| c.plan);
    let plans = books.plans().await?;
    let terms = plan.and_then(|plan| plans.at(&plan, e.period_start.as_second())?.meters.get(meter).copied());
    let included = match terms {
        None => "the plan does not have this".to_owned(),
        Some(terms) => format!("{} included", print::quantity(terms.included.min(e.included))),
    };
    Ok(vec![format!("In the billing period from {} to {}: {used}, {included}.", e.period_start, e.period_end), now])
}
