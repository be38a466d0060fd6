//! What a customer has of a shared bucket, down to its objects or requests.

use books::shared_bucket::shares::ShareState;
use books::shared_bucket::stored::{BookedShare, CustomerShare};
use books::shared_bucket::{Measure, Remainder};
use jobs::shared_bucket::items::FoundItems;
use schemars::JsonSchema;
use serde::Serialize;

use super::{out, table};
use crate::format::{percent, quantity};

/// A billed day of a shared bucket, and what the customer has of it.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct ExplainedShare {
    #[serde(flatten)]
    pub(crate) booked: BookedShare,
    /// The rule of the configuration; null for a bucket that it does not name any more.
    pub(crate) remainder: Option<Remainder>,
    /// Null when the reports are others by now, or there are none.
    pub(crate) own: Option<CustomerShare>,
    /// Null when none were asked for, or the reports are gone.
    pub(crate) items: Option<FoundItems>,
    /// Why the reports cannot be read again; empty otherwise.
    pub(crate) not_read: String,
}

/// Prints what a customer has of a billed day of a bucket.
pub(crate) fn of_bucket(customer: &str, share: &ExplainedShare) {
    let ExplainedShare { booked, remainder, own, items, not_read } = share;
    let class = if booked.class.is_empty() { String::new() } else { format!(", {}", booked.class) };
    out(&format!("shared bucket {}{class}", booked.bucket));
    out(&format!("  billed      {}, without a customer", quantity(booked.billed)));
    let reported = match (booked.predicted, booked.coverage()) {
        (Some(predicted), Some(of)) => format!("{} ({})", quantity(predicted), percent(of)),
        (Some(predicted), None) => quantity(predicted),
        (None, _) => "no report of this day was read".to_owned(),
    };
    out(&format!("  reported    {reported}"));
    let state = match booked.state {
        ShareState::Apportioned => format!("{} of it are customers'", quantity(booked.apportioned)),
        ShareState::Open => "open: the bill does not settle the day yet, so all stays without a customer".to_owned(),
        ShareState::NoReport => "all stays without a customer until a report of the day is read".to_owned(),
        ShareState::Held => "held: S3's reports are far from the bill, so all stays without a customer".to_owned(),
    };
    out(&format!("  divided     {state}"));
    let Some(own) = own else {
        if remainder.is_none() {
            out("  [[shared_buckets]] does not name this bucket any more: the next ingest");
            out("  takes its shares back");
        } else if booked.predicted.is_some() {
            out("  S3's reports of the day, or the rule, are others by now than those that the bill");
            out("  was divided by; an ingest of its month divides it anew");
        }
        return;
    };
    if own.weight == 0 {
        return out(&format!("  share       0: the reports have nothing of {customer}"));
    }
    let unit = unit_of(booked.measure);
    out(&format!("  weight      {} of {} {unit}", own.weight, own.all_weights));
    out(&format!("  is worth    {}", quantity(own.predicted)));
    let why = match (booked.state, remainder) {
        (ShareState::Apportioned, Some(Remainder::Spread)) => ": its part of the whole amount (remainder = spread)",
        (ShareState::Apportioned, _) if booked.predicted > Some(booked.billed) => {
            ": scaled down, because the reports have more than the bill"
        }
        _ => "",
    };
    out(&format!("  share       {}{why}", quantity(own.share)));
    if !not_read.is_empty() {
        out(&format!("  its {} cannot be read again: {not_read}", items_word(booked.measure)));
    }
    let Some(items) = items else { return };
    if items.digest != booked.digest {
        out("  note: S3 has reported more since; the next reading counts it");
    }
    let rows = items.items.iter().map(|item| {
        let at = item.at.strftime("%Y-%m-%d %H:%M:%S").to_string();
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

/// Characters of a key that are shown; its end tells keys of a customer apart.
const KEY: usize = 32;

fn shown(key: &str) -> String {
    let text: Vec<char> = key.escape_debug().collect();
    match text.len().checked_sub(KEY) {
        None | Some(0) => text.into_iter().collect(),
        Some(left_out) => std::iter::once('…').chain(text.into_iter().skip(left_out + 1)).collect(),
    }
}
