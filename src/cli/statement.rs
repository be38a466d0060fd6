//! `meter statement`: a billing period as the customer reads it.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use jiff::Timestamp;

use super::billing_period::BillingPeriod;
use super::known_customer;
use super::whole_file::{self, Readers};
use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::print::{self, statement as tables};
use crate::statement::{StatementSettings, statement};
use crate::ui;
use crate::wiring::{self, Open};

#[derive(Debug, ClapArgs)]
#[group(id = "form", required = true, multiple = false)]
pub(crate) struct Form {
    /// Write a self-contained HTML document to this file, and replace an existing one; `-` is
    /// standard output
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print usage by day and the amounts as CSV
    #[arg(long)]
    csv: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    /// Print the path and query of a signed link, by which the worker serves the statement for so
    /// many hours to whoever has it
    #[arg(long, value_name = "HOURS", value_parser = clap::value_parser!(u16).range(1..=720))]
    link: Option<u16>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// The customer's id
    customer: String,
    /// The billing period that begins in this month or on this day [default: the newest one]
    #[arg(long, alias = "month", value_name = "YYYY-MM[-DD]")]
    period: Option<BillingPeriod>,
    #[command(flatten)]
    form: Form,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let starts = args.period.map_or(now.as_second() - 40 * 86_400..now.as_second() + 1, BillingPeriod::starts);
    if starts.start > now.as_second() {
        return Err(BadUsage("--period has not begun".into()).into());
    }
    let books = wiring::open_books(config, Open::EXISTING).await?;
    known_customer::require(&books, &args.customer).await?;
    let settings = StatementSettings::new(config, wiring::billing(&config.stripe)?);
    if settings.billing.meters.is_empty() {
        let why = "nothing is billed: stripe.meters names no meter (docs/stripe-setup.md)";
        return Err(BadUsage(why.into()).into());
    }
    let Some(found) = statement(&books, &settings, &args.customer, starts, now).await? else {
        let which = args.period.map_or(String::new(), |_| " then".to_owned());
        let why = format!(
            "no billing period of {} begins{which}, or its plan is unknown: `meter bill {}`",
            args.customer, args.customer
        );
        return Err(BadUsage(why).into());
    };
    let Form { html, csv, json, link } = args.form;
    match html {
        Some(file) if whole_file::is_stdout(&file) => print::lines(&ui::statement(&found)),
        Some(file) => {
            whole_file::write(&file, &ui::statement(&found), Readers::Usual)?;
            print::out(&format!("{} written", file.display()));
        }
        None if json => print::json(&found)?,
        None if csv => tables::csv(&found)?,
        None => {
            let hours = i64::from(link.unwrap_or(1));
            let key = config.http.statement_key.expose();
            let Some(key) = crate::statement_link::LinkKey::new(key) else {
                return Err(BadUsage("METER_HTTP__STATEMENT_KEY is not set; links are signed with it".into()).into());
            };
            let expires = now.as_second() + hours * 3600;
            print::out(&key.link(&args.customer, found.period_start, expires));
        }
    }
    Ok(Exit::Ok)
}
