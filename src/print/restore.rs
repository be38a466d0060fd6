//! The checklist of a restoration.

use std::fmt::Display;

use books::stripe::restore::{RestoredTotal, TotalState};
use books::units::calendar::instant;
use jiff::Timestamp;
use jobs::restore::{Checklist, Step};
use schemars::JsonSchema;
use serde::Serialize;

use super::out;
use crate::format::count;

/// The most totals that are listed.
const LISTED: usize = 20;

/// How far the restoration of these books is.
#[derive(JsonSchema, Serialize)]
pub(crate) struct RestorationState {
    /// Whether billing is on hold, because the books are restored and that is not finished.
    on_hold: bool,
    /// What the command did.
    steps: Vec<String>,
    /// The other fields are none while billing is not on hold.
    backup_at: Option<Timestamp>,
    begun_at: Option<Timestamp>,
    subscriptions_read_at: Option<Timestamp>,
    bills_read_at: Option<Timestamp>,
    /// From when on Stripe's totals are believed.
    believed_from: Option<Timestamp>,
    totals: Vec<TotalToImport>,
    /// What to do next.
    next: Option<String>,
}

/// Stripe's total of a period.
#[derive(JsonSchema, Serialize)]
struct TotalToImport {
    customer: String,
    meter: String,
    period_start: Timestamp,
    state: ImportState,
    /// By how much Stripe has less than the books had sent, in Stripe's units.
    shortfall: Option<i64>,
    /// What Stripe answered instead of a total.
    answer: Option<String>,
}

#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
enum ImportState {
    Imported,
    NotRead,
    TooLittle,
    NoTotal,
}

impl TotalToImport {
    fn new(of: &RestoredTotal) -> Self {
        let (state, shortfall, answer) = match &of.state {
            TotalState::Imported => (ImportState::Imported, None, None),
            TotalState::NotRead => (ImportState::NotRead, None, None),
            TotalState::TooLittle(short) => (ImportState::TooLittle, Some(short.amount), None),
            TotalState::NoTotal(answer) => (ImportState::NoTotal, None, Some(answer.clone())),
        };
        let (customer, meter) = (of.customer.clone(), of.meter.clone());
        Self { customer, meter, period_start: instant(of.start), state, shortfall, answer }
    }
}

/// What JSON says of a restoration; `found` is none when billing is not on hold.
pub(crate) fn state(found: Option<&Checklist>, steps: Vec<String>, now: Timestamp) -> RestorationState {
    let hold = found.map(|found| &found.hold);
    RestorationState {
        on_hold: hold.is_some(),
        steps,
        backup_at: hold.map(|hold| hold.backup_at),
        begun_at: hold.and_then(|hold| hold.restoration).map(|begun| instant(begun.at)),
        subscriptions_read_at: hold.and_then(|hold| hold.subscriptions_read_at),
        bills_read_at: hold.and_then(|hold| hold.bills_read_at),
        believed_from: found.and_then(|found| found.believed_from),
        totals: found.map_or(vec![], |found| found.totals.iter().map(TotalToImport::new).collect()),
        next: found.map(|found| next(found, found.open_step(now))),
    }
}

/// Prints every step with its state, and what to do next.
pub(crate) fn checklist(found: &Checklist, now: Timestamp) {
    let hold = &found.hold;
    out(&format!("Billing is on hold: these books were restored from a backup of {}.", hold.backup_at));
    out("");
    let open = found.open_step(now);
    let line = |step: Step, what: &str, state: &dyn Display| {
        let mark = if step < open { "done" } else { "open" };
        out(&format!("  {mark}  {what}: {state}"));
    };
    let begun = hold.restoration.map_or("not yet".into(), |r| instant(r.at).to_string());
    line(Step::Begin, "begun", &begun);
    let read = hold.subscriptions_read_at.map_or("not yet".into(), |at| format!("at {at}"));
    line(Step::Subscriptions, "subscriptions read again", &read);
    line(Step::Bills, "bills read again", &hold.bills_read_at.map_or("not yet".into(), |at| format!("at {at}")));
    let believed = found.believed_from.map_or("not yet".into(), |at| format!("from {at} on"));
    line(Step::Settle, "Stripe's totals are believed", &believed);
    let imported = found.totals.iter().filter(|of| of.state == TotalState::Imported).count();
    line(Step::Totals, "totals imported", &format!("{} of {}", count(imported), count(found.totals.len())));
    let waiting: Vec<&RestoredTotal> = found
        .totals
        .iter()
        .filter(|of| matches!(of.state, TotalState::TooLittle(_) | TotalState::NoTotal(_)))
        .collect();
    for of in waiting.iter().take(LISTED) {
        let state = match &of.state {
            TotalState::TooLittle(short) => format!(
                "Stripe has {} less than the books had sent, since {}; it is believed when it stays so",
                short.amount,
                instant(short.since)
            ),
            TotalState::NoTotal(answer) => format!("NO TOTAL of {answer}"),
            TotalState::Imported | TotalState::NotRead => String::new(),
        };
        out(&format!("          {} {} from {}: {state}", of.customer, of.meter, instant(of.start)));
    }
    if waiting.len() > LISTED {
        out(&format!("          ... and {} more", count(waiting.len() - LISTED)));
    }
    line(Step::Finish, "finished", &"no");
    out("");
    out(&format!("next: {}", next(found, open)));
}

fn next(found: &Checklist, open: Step) -> String {
    let any = |state: fn(&TotalState) -> bool| found.totals.iter().any(|of| state(&of.state));
    match open {
        Step::Begin | Step::Subscriptions | Step::Bills => "meter restore import-totals".into(),
        Step::Settle => "wait until then, and run meter restore import-totals".into(),
        Step::Totals if any(|s| matches!(s, TotalState::NotRead)) => "meter restore import-totals".into(),
        Step::Totals if any(|s| matches!(s, TotalState::TooLittle(_))) => {
            "meter restore import-totals, a settle delay (stripe.settle_delay_hours) after the total was first too low"
                .into()
        }
        Step::Totals => {
            "meter restore finish --without CUSTOMER --reason TEXT, for each customer without a total".into()
        }
        Step::Finish => "meter restore finish".into(),
    }
}
