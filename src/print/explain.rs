//! A booked figure, and what it is made of.

use books::shared_bucket::Measure;
use books::shared_bucket::shares::ShareState;
use books::shared_bucket::stored::{BookedShare, CustomerShare};
use books::units::calendar::{Day, instant};
use books::units::quantity::Quantity;
use books::usage::entries::BookedEntry;
use jobs::shared_bucket::items::FoundItems;
use serde::Serialize;

use super::{out, table};
use crate::format::{change, quantity};

/// A figure of the books, and what it is made of.
#[derive(Debug, Serialize)]
pub(crate) struct Explained {
    pub(crate) customer: String,
    pub(crate) meter: String,
    pub(crate) unit: String,
    pub(crate) day: Day,
    pub(crate) entries: Vec<BookedEntry>,
    /// The shared buckets that were billed for this meter on this day.
    pub(crate) shares: Vec<ExplainedShare>,
}

/// A billed day of a shared bucket, and what the customer has of it.
#[derive(Debug, Serialize)]
pub(crate) struct ExplainedShare {
    #[serde(flatten)]
    pub(crate) booked: BookedShare,
    /// Null when the reports are others by now, or there are none.
    pub(crate) own: Option<CustomerShare>,
    /// Null when none were asked for, or the reports are gone.
    pub(crate) items: Option<FoundItems>,
    /// Why the reports cannot be read again; empty otherwise.
    pub(crate) not_read: String,
}

pub(crate) fn show(explained: &Explained) {
    let Explained { customer, meter, unit, day, entries, shares } = explained;
    let booked: Quantity = entries.iter().map(|entry| entry.quantity).sum();
    out(&format!("{customer}, {meter} on {day}: {} {unit} booked", quantity(booked)));
    if !entries.is_empty() {
        out("");
        let rows = entries.iter().map(|entry| {
            let version: String = entry.version.chars().take(8).collect();
            let at = entry.booked_at.strftime("%Y-%m-%d %H:%M").to_string();
            let bill = format!("version {version} of {} {}", entry.payer, entry.month);
            vec![at, entry.kind.clone(), change(entry.quantity), bill]
        });
        table(&["booked (UTC)", "kind", ">quantity", "bill"], rows.collect());
    }
    for share in shares {
        out("");
        of_bucket(explained, share);
    }
}

fn of_bucket(explained: &Explained, ExplainedShare { booked, own, items, not_read }: &ExplainedShare) {
    let customer = &explained.customer;
    let class = if booked.class.is_empty() { String::new() } else { format!(", {}", booked.class) };
    out(&format!("shared bucket {}{class}", booked.bucket));
    out(&format!("  billed      {}, without a customer", quantity(booked.billed)));
    let reported = match (booked.predicted, booked.coverage()) {
        (Some(predicted), Some(of)) => format!("{} ({}.{:02} %)", quantity(predicted), of / 100, of % 100),
        (Some(predicted), None) => quantity(predicted),
        (None, _) => "nothing of this day was read yet".to_owned(),
    };
    out(&format!("  reported    {reported}"));
    let state = match booked.state {
        ShareState::Apportioned => format!("{} of it are customers'", quantity(booked.apportioned)),
        ShareState::Open => "open: the bill does not settle the day yet, so all stays without a customer".to_owned(),
        ShareState::NoReport => "all stays without a customer until S3 reports the day".to_owned(),
        ShareState::Held => "held: S3's reports account for too little, so all stays without a customer".to_owned(),
    };
    out(&format!("  divided     {state}"));
    let Some(own) = own else {
        if booked.predicted.is_some() {
            out("  S3's reports of the day are others by now; the next ingest divides by them");
        }
        return;
    };
    let unit = unit_of(booked.measure);
    out(&format!("  weight      {} of {} {unit} are {customer}'s", own.weight, own.all_weights));
    out(&format!("  makes       {} in the bill's unit, rounded down", quantity(own.predicted)));
    out(&format!("  share       {}", quantity(own.share)));
    if !not_read.is_empty() {
        out(&format!("  its {} cannot be read again: {not_read}", items_word(booked.measure)));
    }
    let Some(items) = items else { return };
    if items.digest != booked.digest {
        out("  note: S3 has reported more since; the next reading counts it");
    }
    let rows = items.items.iter().map(|item| {
        let at = instant(item.at).strftime("%Y-%m-%d %H:%M:%S").to_string();
        let length = if booked.measure == Measure::ByteSeconds { item.seconds.to_string() } else { item.kind.clone() };
        vec![at, item.bytes.to_string(), length, shown(&item.key)]
    });
    out("");
    let titles = match booked.measure {
        Measure::ByteSeconds => ["object made (UTC)", ">bytes", ">seconds", "key"],
        _ => ["request (UTC)", ">bytes", "operation", "key"],
    };
    table(&titles, rows.collect());
}

fn items_word(measure: Measure) -> &'static str {
    if measure == Measure::ByteSeconds { "objects" } else { "requests" }
}

/// What a measure counts, in words.
fn unit_of(measure: Measure) -> &'static str {
    match measure {
        Measure::ByteSeconds => "byte-seconds",
        Measure::BytesSent => "bytes",
        Measure::Requests1 | Measure::Requests2 => "requests",
    }
}

/// Characters of a key that are shown.
const KEY: usize = 60;

fn shown(key: &str) -> String {
    let mut shown: String = key.escape_debug().take(KEY).collect();
    if key.escape_debug().nth(KEY).is_some() {
        shown.push('…');
    }
    shown
}
