//! The report of an ingest.

use std::collections::{BTreeMap, BTreeSet};

use books::shared_bucket::shares::ShareState;
use books::units::quantity::Quantity;
use books::usage::cost::cost_meter;
use jobs::ingest_cur::hold::accept_command;
use jobs::ingest_cur::{IngestOutcome, IngestReport, SharedDayReport, hold};

use super::{out, readable};
use crate::config::Config;
use crate::format::{change, count, customer, quantity, several, verb};

pub(crate) fn show(report: &IngestReport, config: &Config) {
    let (export, month) = (&report.export, report.bill.month);
    let version: String = report.version.chars().take(8).collect();
    let delivered = report.delivered_at.map(|t| t.strftime("%Y-%m-%d %H:%M UTC").to_string()).unwrap_or_default();
    let head = format!("{export} {month}  version {version} delivered {delivered}");
    let alone = |text: &str| {
        out(text);
        report.warnings.iter().for_each(|w| out(&format!("  note: {w}")));
    };
    let what = match report.outcome {
        IngestOutcome::NoBill => return alone(&format!("{export} {month}  AWS has delivered no bill yet")),
        IngestOutcome::Unchanged => return alone(&format!("{head}  is booked already; no data file was read")),
        IngestOutcome::Older => return alone(&format!("{head}  is older than what is booked; ignored")),
        IngestOutcome::Reverted => return alone(&format!("{head}  was reverted, and is not booked again")),
        IngestOutcome::Applied => "booked",
        IngestOutcome::WouldApply => "would be booked (dry run, nothing was written)",
        IngestOutcome::OnHold => "ON HOLD for a person, nothing was booked",
        IngestOutcome::WouldHold => "would be ON HOLD for a person (dry run, nothing was written)",
    };
    out(&format!("{head}  {what}"));
    for reason in &report.hold_reasons {
        out(&format!("  on hold: {}", reason.text));
    }
    if !report.hold_reasons.is_empty() {
        out(&format!("  likely causes: {}", hold::causes(&report.hold_reasons)));
        out(&format!("  if it is accepted: {}", hold::if_accepted(&report.hold_reasons)));
        out(&match report.outcome {
            IngestOutcome::OnHold => {
                format!("  to accept it: {}", accept_command(month, &report.version, &report.hold_digest))
            }
            _ => "  to accept it: `meter ingest` puts it on hold first, and prints the command".to_owned(),
        });
    }
    if !report.accepted.is_empty() {
        out(&format!("  accepted: {}", report.accepted));
    }
    out(&format!(
        "  {} in {}, {} counted; {} ledger {}; {} KiB fetched in {}",
        several(report.rows, "row"),
        several(report.files, "file"),
        count(report.counted_rows),
        count(report.entries),
        verb(report.entries, "entry", "entries"),
        count(report.fetched_bytes / 1024),
        several(report.fetch_requests, "read"),
    ));
    let rows = report.meters.iter().map(|m| {
        let t = &m.totals;
        let parts = [t.attributed + t.apportioned, t.unattributed, t.excluded, t.total].map(readable);
        let [attributed, unattributed, excluded, total] = parts;
        let booked = change(t.booked - m.booked_before);
        // the amounts of the bill are in its unit, only what is booked is in the meter's
        vec![t.meter.clone(), attributed, unattributed, excluded, total, format!("{booked} {}", t.unit)]
    });
    super::table(
        &["  meter", "2>attributed", "2>unattributed", "2>excluded", ">in the bill", ">change of the books"],
        rows.map(|mut r| {
            r[0].insert_str(0, "  ");
            r
        })
        .collect(),
    );
    shared_days(report);
    for line in &report.unrecognised {
        out(&format!(
            "  unrecognised: {} {} {} {} in {}; no meter claims it and no rule ignores it",
            line.product,
            line.usage_type,
            quantity(line.amount),
            line.unit,
            several(line.lines, "line")
        ));
    }
    if let more @ 1.. = report.unrecognised_kinds.saturating_sub(report.unrecognised.len()) {
        out(&format!("  unrecognised: and {} more; `meter discover` lists all", several(more, "kind")));
    }
    for note in report.notes.iter().map(|note| &note.text).chain(&report.warnings) {
        out(&format!("  note: {note}"));
    }
    if report.outcome != IngestOutcome::Applied && !report.largest_changes.is_empty() {
        let unit = |meter: &str| match cost_meter(meter) {
            Some((_, currency)) => currency.to_owned(),
            None => config.meters.iter().find(|m| m.name == meter).map_or(String::new(), |m| m.unit.clone()),
        };
        let rows = report.largest_changes.iter().map(|c| {
            let name = format!("  {}", customer(&c.customer));
            vec![name, c.meter.clone(), change(c.delta), unit(&c.meter)]
        });
        super::table(&["  largest changes", "meter", ">change", "unit"], rows.collect());
    }
}

/// How the usage of shared buckets is divided, by bucket and meter.
fn shared_days(report: &IngestReport) {
    let mut found: BTreeMap<(&str, &str), Vec<&SharedDayReport>> = BTreeMap::new();
    for day in &report.shared_days {
        found.entry((&day.bucket, &day.meter)).or_default().push(day);
    }
    for ((bucket, meter), days) in found {
        let billed: Quantity = days.iter().map(|day| day.billed).sum();
        let apportioned: Quantity = days.iter().map(|day| day.apportioned).sum();
        let of = |state| {
            let of_state = days.iter().filter(|day| day.state == state).map(|day| day.day);
            of_state.collect::<BTreeSet<_>>().len()
        };
        let states = [
            (ShareState::Open, "not settled by the bill"),
            (ShareState::NoReport, "without a report of S3"),
            (ShareState::Held, "held, because the reports are far from the bill"),
        ];
        let whole = states.map(|(state, words)| (of(state), words));
        let waiting = whole.iter().filter(|(days, _)| *days > 0);
        let waiting: Vec<String> = waiting.map(|(days, words)| format!("{} {words}", several(*days, "day"))).collect();
        let (apportioned, billed) = (quantity(apportioned), quantity(billed));
        out(&format!("  shared bucket {bucket}, {meter}: customers have {apportioned} of {billed}"));
        if !waiting.is_empty() {
            out(&format!("    {}", waiting.join(", ")));
        }
    }
}
