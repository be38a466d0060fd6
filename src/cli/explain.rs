//! `meter explain`: where a booked figure comes from, down to the objects and requests of a shared
//! bucket.

use books::Database;
use books::shared_bucket::ReportSource;
use books::shared_bucket::stored::{BookedShare, share_of};
use books::units::calendar::Day;
use clap::Args as ClapArgs;
use jiff::Timestamp;
use jobs::context::Context;
use jobs::job::Failure;
use jobs::shared_bucket::items::{FoundItems, WantedItems};
use jobs::{ingest_access_logs, ingest_inventory};

use super::known_customer;
use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::print::explain::{Explained, ExplainedShare};
use crate::print::{self, explain as tables};
use crate::wiring::{self, Open};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// The customer's id
    customer: String,
    /// The meter, as usage names it
    meter: String,
    /// The day (UTC), as 2026-11-03
    day: Day,
    /// So many objects or requests, the largest first, read from S3's reports again; 0 reads none
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(0..=10_000))]
    items: u16,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let books = wiring::open_books(config, Open::EXISTING).await?;
    known_customer::require_or_usage(&books, &args.customer).await?;
    let Some(meter) = config.meters.iter().find(|meter| meter.name == args.meter) else {
        let names: Vec<&str> = config.meters.iter().map(|meter| meter.name.as_str()).collect();
        let why = format!("there is no meter `{}`; configured: {}", args.meter, names.join(", "));
        return Err(BadUsage(why).into());
    };
    if args.day.end() > now {
        return Err(BadUsage(format!("{} is not over", args.day)).into());
    }
    let entries = books.entries(&args.customer, &args.meter, args.day).await?;
    let booked = books.booked_shares(args.day, args.day).await?;
    let booked: Vec<BookedShare> = booked.into_iter().filter(|share| share.meter == args.meter).collect();
    let shares = if booked.is_empty() { vec![] } else { shares(&args, booked, &books, config, now).await? };
    let (customer, unit) = (args.customer, meter.unit.clone());
    let explained = Explained { customer, meter: args.meter, unit, day: args.day, entries, shares };
    if args.json {
        print::json(&explained)?;
    } else {
        tables::show(&explained);
    }
    Ok(Exit::Ok)
}

async fn shares(
    args: &Args,
    booked: Vec<BookedShare>,
    books: &Database,
    config: &Config,
    now: Timestamp,
) -> anyhow::Result<Vec<ExplainedShare>> {
    let rules = config.checked_rules()?.shared_buckets;
    let buckets: Vec<String> = booked.iter().map(|share| share.bucket.clone()).collect();
    let reports = books.reports(&buckets, args.day.month()).await?;
    let context = wiring::context(config, books.clone()).await?;
    let mut found = vec![];
    for share in booked {
        let rule = rules.iter().find(|rule| rule.bucket == share.bucket);
        let remainder = rule.map(|rule| rule.remainder);
        let own = rule.and_then(|rule| share_of(&share, rule, &reports, &args.customer));
        let has_some = own.as_ref().is_some_and(|own| own.weight > 0);
        let read = if args.items > 0 && has_some { items(args, &share, &context, now).await } else { Ok(None) };
        let (items, not_read) = match read {
            Ok(items) => (items, String::new()),
            Err(failure) => (None, format!("{:#}", failure.error())),
        };
        found.push(ExplainedShare { booked: share, remainder, own, items, not_read });
    }
    Ok(found)
}

async fn items(
    args: &Args,
    share: &BookedShare,
    context: &Context,
    now: Timestamp,
) -> Result<Option<FoundItems>, Failure> {
    let wanted = WantedItems {
        customer: args.customer.clone(),
        measure: share.measure,
        class: share.class.clone(),
        most: args.items.into(),
    };
    match share.measure.source() {
        ReportSource::Inventory => ingest_inventory::items(context, &share.bucket, args.day, wanted, now).await,
        ReportSource::AccessLogs => ingest_access_logs::items(context, &share.bucket, args.day, wanted, now).await,
    }
}
