//! `reconcile_stripe`: compares Stripe's totals with the books, for each customer, meter and
//! invoice.
//!
//! The comparison proves the work of `push_stripe`, and alone decides about unconfirmed events. An
//! unconfirmed event is accepted when the total includes it, and not received when the total has
//! not included it for a day. Totals lag, so only events older than a day are judged. When their
//! total has been too low for another day, events that Stripe took are missing: they become not
//! received, and their amounts are planned again. A total that is too high only raises an alarm: a
//! person decides whether to take back what the customer may rightly owe. Stripe limits reads
//! (about 500 for each payment, <https://docs.stripe.com/rate-limits>), so there is a number of
//! reads for each day. They go to unconfirmed events first, then to shortfalls, then to the totals
//! that were read longest ago.
//!
//! While billing of restored books is on hold, nothing is compared.
//!
//! Once a day every customer becomes due for `push_stripe`, in case the triggers missed a change.

mod compare;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::compare::{compare_settled, compare_whole, comparison, settled_until, too_early};
use crate::context::Context;
use crate::job::{Failure, Job};
use crate::stripe::preconditions::{check_clock, failure, find_meters};
use crate::stripe::transport::CallError;
use crate::stripe::{LISTED, StripeAccount, StripeMode};
use books::stripe::difference::Difference;
use books::stripe::reconciliation::{Comparison, TOTALS_AT_ONCE, TotalToCheck};
use books::units::calendar::minute;
use books::{BooksError, Database};

/// Once a day all customers are planned again, for the usage of the last so many days.
const SWEEP_DAYS: i64 = 45;
/// The most totals that one run reads, so that a day's reads are spread over the day.
const MAX_READS: u32 = 100;

/// Compare the most urgent totals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReconcileStripe {}

/// What a run read, compared and decided.
#[derive(Clone, Debug, Default, JsonSchema, Serialize)]
pub struct ReconcileReport {
    /// True if there is no key, so no request was made to Stripe.
    pub without_key: bool,
    pub read: u64,
    /// Totals that agree with the books.
    pub agree: u64,
    /// Unconfirmed events that a total included: now accepted.
    pub accepted: u64,
    /// Events that a total did not include: now not received, and planned again.
    pub not_received: u64,
    /// Totals without a decision: it was too early, an event changed meanwhile, or there is an
    /// alarm.
    pub waiting: u64,
    /// Billing targets with an alarm, of all customers; at most 100.
    pub alarms: u64,
    pub names: Vec<String>,
    /// True if the day's reads are used up.
    pub out_of_reads: bool,
    /// When the backup was made, if nothing was compared because billing of restored books is on
    /// hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_hold: Option<Timestamp>,
}

impl Job for ReconcileStripe {
    const KIND: &'static str = "reconcile_stripe";
    const DESCRIPTION: &'static str = "compare Stripe's totals with the books, and settle what is unconfirmed";
    const TIMEOUT: Duration = Duration::from_secs(3600);
    type Report = ReconcileReport;

    fn key(&self) -> Option<String> {
        Some(Self::KIND.to_owned())
    }

    fn needs_attention(report: &ReconcileReport) -> bool {
        report.alarms > 0
    }

    async fn run(self, context: &Context, now: Timestamp) -> Result<ReconcileReport, Failure> {
        let report = reconcile(context, now, None).await?.truncated(LISTED);
        for name in &report.names {
            tracing::error!("Stripe and the books differ: {name}");
        }
        Ok(report)
    }
}

/// Compares as of `now`: the most urgent totals, or the totals of one customer. Everything
/// compared before an error is stored.
pub async fn reconcile(
    context: &Context,
    now: Timestamp,
    customer: Option<String>,
) -> Result<ReconcileReport, Failure> {
    let (books, billing) = (&context.books, &context.billing);
    books.require_migrated().await?;
    let mut report = ReconcileReport::default();
    let today = now.to_zoned(jiff::tz::TimeZone::UTC).date();
    if !billing.meters.is_empty() {
        let from = today.saturating_sub(SignedDuration::from_hours(24 * SWEEP_DAYS));
        books.mark_all_due_when("swept", &today.to_string(), &from.to_string()).await?;
    }
    let StripeMode::Stripe(account) = &billing.mode else {
        report.without_key = true;
        return Ok(report);
    };
    report.on_hold = books.billing_hold().await?.map(|hold| hold.backup_at);
    if report.on_hold.is_some() {
        return Ok(report);
    }
    let to_read = books.totals_to_read(customer, MAX_READS, now).await?;
    let wanted = u32::try_from(to_read.len()).unwrap_or(u32::MAX);
    let granted = books.take_reads(today.to_string(), wanted, billing.reads_per_day).await?;
    report.out_of_reads = granted < wanted;
    if granted > 0 {
        let (remote, date) = account.meters().await.map_err(failure)?;
        check_clock(date, now)?;
        find_meters(books, billing, &remote).await?;
    }
    let (mut compared, mut failed) = (vec![], None);
    for of in to_read.into_iter().take(usize::try_from(granted).unwrap_or(usize::MAX)) {
        match compare_total(context, account, &of, now, &mut report).await {
            Ok(Some(found)) => compared.push((of, found)),
            Ok(None) => {}
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
        if compared.len() == TOTALS_AT_ONCE {
            store(books, std::mem::take(&mut compared), now, &mut report).await?;
        }
    }
    store(books, compared, now, &mut report).await?;
    if let Some(failed) = failed {
        return Err(failed);
    }
    let alarms = books.alarms().await?;
    report.alarms = u64::try_from(alarms.len()).unwrap_or(u64::MAX);
    report.names = alarms.into_iter().map(|a| format!("{} {}: {}", a.customer, a.meter, a.difference)).collect();
    Ok(report)
}

/// Reads one total and compares it; none while an event of it is being sent.
async fn compare_total(
    context: &Context,
    account: &StripeAccount,
    of: &TotalToCheck,
    now: Timestamp,
    report: &mut ReconcileReport,
) -> Result<Option<Comparison>, Failure> {
    if of.events.in_flight {
        report.waiting += 1;
        return Ok(None);
    }
    let (start, end) = (minute(of.start), minute(of.end));
    let total = async |until| account.total(&of.stripe_meter, &of.stripe_customer, start, until).await;
    let seen = match total(end).await {
        Ok(seen) => seen,
        // a total that cannot be read does not stop the others
        Err(error) if error.is_no_total() => {
            return Ok(Some(comparison(of, 0, of.shortfall, no_total(&of.stripe_customer, &error))));
        }
        Err(error) => return Err(failure(error)),
    };
    report.read += 1;
    let (second, grace) = (now.as_second(), context.billing.grace);
    Ok(Some(match (compare_whole(of, seen, second, grace), settled_until(of, second)) {
        (Some(found), _) => found,
        (None, None) => too_early(of, seen),
        (None, Some(until)) => {
            report.read += 1;
            let settled = total(until).await.map_err(failure)?;
            compare_settled(of, seen, until, settled, second)
        }
    }))
}

/// Stores comparisons, and counts what became of them.
async fn store(
    books: &Database,
    compared: Vec<(TotalToCheck, Comparison)>,
    now: Timestamp,
    report: &mut ReconcileReport,
) -> Result<(), BooksError> {
    let found: Vec<(String, Difference)> =
        compared.iter().map(|(of, found)| (of.customer.clone(), found.difference.clone())).collect();
    let stored = books.note_reads(compared, now).await?;
    for ((customer, difference), is_stored) in found.into_iter().zip(stored) {
        match difference {
            Difference::NoTotal { .. } => {}
            _ if !is_stored => report.waiting += 1,
            _ => report.count(&difference),
        }
        if let (Difference::EventsMissing { missing, .. }, true) = (difference, is_stored) {
            tracing::warn!(
                customer,
                ?missing,
                "Stripe does not have events of {customer} that were sent; their amounts are planned again"
            );
        }
    }
    Ok(())
}

fn no_total(stripe_customer: &str, error: &CallError) -> Difference {
    Difference::NoTotal { stripe_customer: stripe_customer.to_owned(), answer: error.to_string() }
}

impl ReconcileReport {
    fn count(&mut self, difference: &Difference) {
        match difference {
            Difference::Agrees => self.agree += 1,
            Difference::UnconfirmedArrived { .. } => self.accepted += 1,
            Difference::EventsMissing { missing, arrived } => {
                self.accepted += u64::from(arrived.is_some());
                self.not_received += u64::try_from(missing.len()).unwrap_or(u64::MAX);
            }
            Difference::TooEarly
            | Difference::StripeHasLess(_)
            | Difference::StripeHasMore(_)
            | Difference::NoTotal { .. } => self.waiting += 1,
        }
    }

    /// The report with at most `most` names.
    fn truncated(mut self, most: usize) -> Self {
        self.names.truncate(most);
        self
    }
}
