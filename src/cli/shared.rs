//! `meter shared`: who used the buckets that all customers share, as S3's own reports tell it.

use books::measured::accrual::Accrues;
use books::shared_bucket::shares::ShareState;
use books::shared_bucket::stored::{AcceptedDay, BookedShare};
use books::shared_bucket::{DayCounts, Measure, ReportSource, StoredBucketDay, Weight};
use books::store::audit_log::AuditEntry;
use books::store::database::Database;
use books::units::calendar::Day;
use books::units::quantity::Quantity;
use clap::Args as ClapArgs;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::{actor, select};
use crate::config::{Config, SharedBucketConfig};
use crate::exit::{BadUsage, Exit};
use crate::print::{self, shared as tables};
use crate::wiring::{self, Open};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Only this bucket
    bucket: Option<String>,
    /// The newest so many days that are over
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=400))]
    days: u16,
    /// Print as JSON, with every customer
    #[arg(long)]
    json: bool,
    /// Accept a day that is held, because S3's reports are far from the bill. Its usage is
    /// then divided by them; the next ingest books it
    #[arg(long, value_name = "YYYY-MM-DD", requires = "bucket", conflicts_with_all = ["json", "days"])]
    accept: Option<Day>,
    /// Why the day is accepted; kept in the audit log
    #[arg(long, value_name = "TEXT", requires = "accept")]
    reason: Option<String>,
}

/// What is printed as JSON.
#[derive(Debug, JsonSchema, Serialize)]
pub(super) struct SharedBucketJson {
    bucket: String,
    from: Day,
    to: Day,
    days: Vec<DayJson>,
    /// How the bill of each day is divided.
    billed: Vec<BookedShare>,
}

#[derive(Debug, JsonSchema, Serialize)]
struct DayJson {
    day: Day,
    source: ReportSource,
    read_at: Timestamp,
    #[serde(flatten)]
    found: DayCounts,
    weights: Vec<WeightJson>,
}

#[derive(Debug, JsonSchema, Serialize)]
struct WeightJson {
    measure: Measure,
    /// S3's storage class.
    #[serde(skip_serializing_if = "String::is_empty")]
    class: String,
    /// Empty for what is nobody's.
    customer: String,
    /// In the measure's smallest unit; a text, because it can have 39 digits.
    amount: String,
    /// The same in GB-months.
    #[serde(skip_serializing_if = "Option::is_none")]
    gb_months: Option<Quantity>,
}

impl WeightJson {
    fn new(Weight { measure, class, customer, amount }: Weight, day: Day) -> Self {
        let of_month = || Accrues::GbMonths.quantity(i128::try_from(amount).ok()?, day).ok();
        let gb_months = (measure == Measure::ByteSeconds).then(of_month).flatten();
        Self { measure, class, customer, amount: amount.to_string(), gb_months }
    }
}

impl DayJson {
    fn new(StoredBucketDay { day: of, read_at }: StoredBucketDay) -> Self {
        let weights = of.weights.into_iter().map(|weight| WeightJson::new(weight, of.day)).collect();
        Self { day: of.day, source: of.source, read_at, found: of.found, weights }
    }
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let buckets = select::shared_buckets(config, args.bucket.as_deref())?;
    let books = wiring::open_books(config, Open::EXISTING).await?;
    if let (Some(day), Some(bucket)) = (args.accept, buckets.first()) {
        return accept(&books, &bucket.name, day, args.reason.as_deref().unwrap_or_default(), now).await;
    }
    let (from, to) = newest(now, args.days);
    let shares = books.booked_shares(from, to).await?;
    let mut found = vec![];
    for bucket in buckets {
        let of_bucket: Vec<_> = shares.iter().filter(|share| share.bucket == bucket.name).cloned().collect();
        found.push((bucket, books.bucket_weights(&bucket.name, from, to).await?, of_bucket));
    }
    if args.json {
        let json = |(bucket, days, billed): (&SharedBucketConfig, Vec<StoredBucketDay>, _)| SharedBucketJson {
            bucket: bucket.name.clone(),
            from,
            to,
            days: days.into_iter().map(DayJson::new).collect(),
            billed,
        };
        print::json(&found.into_iter().map(json).collect::<Vec<_>>())?;
        return Ok(Exit::Ok);
    }
    if found.is_empty() {
        print::out("no bucket is shared: [[shared_buckets]] of the configuration names none (docs/shared-bucket.md)");
    }
    for (at, (bucket, days, shares)) in found.iter().enumerate() {
        if at > 0 {
            print::out("");
        }
        print::out(&format!("{}, from {from} to {to}", bucket.name));
        if days.is_empty() && shares.is_empty() {
            let names: Vec<&str> = bucket.reports().map(|(source, _)| source.name()).collect();
            let what = names.join(" and ");
            print::out(&format!("no day of these has been read; a worker reads {what} by its schedule"));
            continue;
        }
        tables::read_days(days);
        tables::customers(days);
        if shares.is_empty() {
            print::out("No booked bill has usage of this bucket on these days:");
            print::out("docs/shared-bucket.md says what the bill needs.");
        } else {
            tables::booked(shares);
        }
    }
    Ok(Exit::Ok)
}

/// Accepts a held day.
async fn accept(books: &Database, bucket: &str, day: Day, reason: &str, now: Timestamp) -> anyhow::Result<Exit> {
    if reason.trim().is_empty() {
        return Err(BadUsage("--reason: say why; it is kept".into()).into());
    }
    let shares = books.booked_shares(day, day).await?;
    let states: Vec<ShareState> =
        shares.iter().filter(|share| share.bucket == bucket).map(|share| share.state).collect();
    if !states.contains(&ShareState::Held) {
        let why = match states.first() {
            None => "no booked bill has usage of it on that day",
            Some(ShareState::Open) => "the bill does not settle the day yet",
            Some(ShareState::NoReport) => "no report of the day was read",
            Some(ShareState::Apportioned | ShareState::Held) => "the booked bill divides it",
        };
        print::err(format!("{day} of {bucket} is not held: {why}; nothing was changed"));
        return Ok(Exit::Failed);
    }
    let entry = AuditEntry {
        actor: actor::current(),
        action: "shared --accept".into(),
        target: format!("{bucket} {day}"),
        reason: reason.trim().to_owned(),
    };
    let month = day.month();
    match books.accept_bucket_day(bucket, day, entry, now).await? {
        AcceptedDay::Accepted => {}
        AcceptedDay::Again => {
            print::out(&format!("{day} of {bucket} was accepted already; `meter ingest --month {month}` books it"));
            return Ok(Exit::Ok);
        }
        AcceptedDay::NotHeld | AcceptedDay::OtherReports => {
            print::err(format!(
                "S3's reports of {day} are others by now than those that the bill was judged by; nothing was changed: \
                 run `meter ingest --month {month}` and look again"
            ));
            return Ok(Exit::Failed);
        }
    }
    print::out(&format!(
        "{day} of {bucket} is accepted as S3's reports are now; `meter ingest --month {month}` books it"
    ));
    Ok(Exit::Ok)
}

/// The first and the last of the newest days that are over.
fn newest(now: Timestamp, days: u16) -> (Day, Day) {
    let today = now.as_second().div_euclid(86_400);
    let day = |back: i64| i32::try_from(today - back).ok().and_then(Day::from_epoch).unwrap_or(Day::EPOCH);
    (day(i64::from(days)), day(1))
}
