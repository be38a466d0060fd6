//! `reconcile_stripe`: Stripe's totals against the books, customer by customer, meter by meter, invoice by invoice.
//!
//! The proof of what `push_stripe` did, and the only judge of what nobody could say: an event that is in doubt is there when the total has it,
//! and is not when the total has been without it for a day. A total that has been too low for a day means that events which Stripe took are
//! not there; they are found and planned anew. One that is too high is an alarm and nothing else: taking back what a customer may
//! rightly owe is for a person. Stripe's reads are not free (about 500 for each payment, <https://docs.stripe.com/rate-limits>), so a day has a number
//! of them: doubtful events first, then what was short, then what was read longest ago.
//!
//! Once a day everybody is made due for `push_stripe`, in case something changed that no trigger saw.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::books::agreement::{Events, Read, ToRead, Verdict};
use crate::job::{Context, Failure, Job};
use crate::push_stripe::decide::minute;
use crate::push_stripe::{failure, matched, skew};
use crate::stripe::{Account, Sink};

/// Totals that lack an event for so long will not have it: no lag that was ever reported is near it.
const ABSENCE: i64 = 86_400;
/// Names that a stored report lists.
const SHOWN: usize = 20;
/// The daily look at everybody takes usage of days before this many for settled.
const SWEEP_DAYS: i64 = 45;
/// Reads that one run makes at most, so that a day's are spread over it.
const MOST: u32 = 100;

/// Compare what is to be compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReconcileStripe {}

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ReconcileReport {
    /// True when there is no key, so nobody was asked.
    pub without_key: bool,
    /// Totals that were read.
    pub read: u64,
    /// They are what they should be.
    pub agree: u64,
    /// Doubtful events that are there.
    pub accepted: u64,
    /// Events that are not there, and are planned anew.
    pub absent: u64,
    /// It is too early to say.
    pub waiting: u64,
    /// Totals that a person must look at, of all customers.
    pub alarms: u64,
    /// Some of them.
    pub names: Vec<String>,
    /// True when the day's reads are used up.
    pub out_of_reads: bool,
}

impl Job for ReconcileStripe {
    const KIND: &'static str = "reconcile_stripe";
    const ABOUT: &'static str = "compare Stripe's totals with the books, and settle what is in doubt";
    type Report = ReconcileReport;

    fn key(&self) -> Option<String> {
        Some(Self::KIND.to_owned())
    }

    fn needs_a_person(report: &ReconcileReport) -> bool {
        report.alarms > 0
    }

    async fn run(self, context: &Context, now: Timestamp) -> Result<ReconcileReport, Failure> {
        let report = reconcile(context, now, None).await?;
        for name in &report.names {
            tracing::error!("Stripe and the books differ: {name}");
        }
        Ok(report)
    }
}

/// Compares as of `now`: whatever is most urgent, or all that there is of one customer.
///
/// # Errors
/// What Stripe or the database says; what was compared before is noted.
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
        books.wake_all_when("swept", today.to_string(), from.to_string()).await?;
    }
    let Sink::Stripe(account) = &billing.sink else {
        report.without_key = true;
        return Ok(report);
    };
    let to_read = books.totals_to_read(customer, MOST, now).await?;
    let wanted = u32::try_from(to_read.len()).unwrap_or(u32::MAX);
    let granted = books.take_reads(today.to_string(), wanted, billing.reads_per_day).await?;
    report.out_of_reads = granted < wanted;
    if granted > 0 {
        let (remote, date) = account.meters().await.map_err(failure)?;
        skew(date, now)?;
        let known = books.stripe_meters().await?;
        matched(billing, &known, &remote).map_err(|why| Failure::GiveUp(anyhow::anyhow!(why)))?;
    }
    for of in to_read.into_iter().take(usize::try_from(granted).unwrap_or(usize::MAX)) {
        compare(context, account, of, now, &mut report).await?;
    }
    let alarms = books.alarms().await?;
    report.alarms = u64::try_from(alarms.len()).unwrap_or(u64::MAX);
    report.names = alarms.into_iter().take(SHOWN).map(|(customer, meter, why)| format!("{customer} {meter}: {why}")).collect();
    Ok(report)
}

async fn compare(
    context: &Context,
    account: &Account,
    of: ToRead,
    now: Timestamp,
    report: &mut ReconcileReport,
) -> Result<(), Failure> {
    if of.events.in_flight {
        report.waiting += 1;
        return Ok(());
    }
    let (start, end) = (minute(of.start), minute(of.end));
    let seen = match account.total(&of.stripe_meter, &of.stripe_customer, start, end).await {
        Ok(seen) => seen,
        // a customer that was deleted has no totals: what was sent is on no invoice to come
        Err(error) if matches!(error.status, Some(400 | 404)) => {
            let read = Read {
                seen: 0,
                expected: expected(&of.events),
                short: of.short,
                verdict: Verdict::Alarm(format!("Stripe has no total of {}: {error}", of.stripe_customer)),
                is_final: false,
            };
            context.books.note_read(of, read, now).await?;
            return Ok(());
        }
        Err(error) => return Err(failure(error)),
    };
    report.read += 1;
    let read = judge(&of, seen, now.as_second(), context.billing.grace);
    let (verdict, name) = (read.verdict.clone(), of.customer.clone());
    if !context.books.note_read(of, read, now).await? {
        report.waiting += 1;
        return Ok(());
    }
    match verdict {
        Verdict::Agrees => report.agree += 1,
        Verdict::Accept(_) => report.accepted += 1,
        Verdict::Absent(seqs) => {
            tracing::warn!(customer = name, ?seqs, "Stripe does not have events of {name} that were sent; they are planned anew");
            report.absent += u64::try_from(seqs.len()).unwrap_or(u64::MAX);
        }
        Verdict::Wait | Verdict::Alarm(_) => report.waiting += 1,
    }
    Ok(())
}

fn expected(events: &Events) -> i64 {
    events.accepted.iter().map(|(_, value, _)| value).sum()
}

/// What follows from Stripe's total. Pure.
pub fn judge(of: &ToRead, seen: i64, now: i64, grace: i64) -> Read {
    let events = &of.events;
    let expected = expected(events);
    // what was accepted lately may not show yet
    let recent = |(_, value, at): &&(i64, i64, i64)| (now - at < ABSENCE).then_some(*value).is_some();
    let recently = |negative: bool| -> i64 {
        events.accepted.iter().filter(recent).map(|(_, v, _)| *v).filter(|v| (*v < 0) == negative).sum()
    };
    let done = |short, verdict| Read {
        seen,
        expected,
        short,
        verdict,
        is_final: now >= of.end + grace && events.doubtful.is_none() && !events.pending,
    };
    let missing = expected - seen;
    if let Some(doubtful) = events.doubtful {
        if missing == -doubtful.value && recently(true) == 0 {
            return done(None, Verdict::Accept(doubtful.seq));
        }
        let (short, since) = still_short(of.short, missing, now, recently(false));
        let settled = now >= doubtful.resend_until && now - doubtful.last_attempt >= ABSENCE;
        let verdict = match missing {
            0 if settled && now - since >= ABSENCE => Verdict::Absent(vec![doubtful.seq]),
            0 => Verdict::Wait,
            _ if settled && now - since >= ABSENCE => Verdict::Alarm(format!(
                "an event of {} is in doubt, and Stripe's total is {seen} where it should be {expected} or {}",
                doubtful.value,
                expected + doubtful.value
            )),
            _ => Verdict::Wait,
        };
        return done(Some((short, since)), verdict);
    }
    if missing == 0 || (events.dropped != 0 && missing == -events.dropped) {
        return done(None, Verdict::Agrees);
    }
    if missing < 0 {
        // negative events that do not show yet
        let verdict = if missing >= recently(true) {
            Verdict::Wait
        } else {
            Verdict::Alarm(format!("Stripe's total is {seen}, {} more than the {expected} that were sent", -missing))
        };
        return done(None, verdict);
    }
    let (short, since) = still_short(of.short, missing, now, recently(false));
    if now - since < ABSENCE {
        return done(Some((short, since)), Verdict::Wait);
    }
    let old: Vec<(i64, i64)> =
        events.accepted.iter().filter(|e| !recent(e)).map(|(seq, value, _)| (*seq, *value)).collect();
    match lacking(&old, short) {
        Some(seqs) => done(None, Verdict::Absent(seqs)),
        None => done(
            Some((short, since)),
            Verdict::Alarm(format!(
                "Stripe's total is {seen}, {short} less than the {expected} that were sent, and no events make up the difference"
            )),
        ),
    }
}

/// By how much a total is short, and since when: more may be missing for a while because it does not show yet.
fn still_short(before: Option<(i64, i64)>, missing: i64, now: i64, recently: i64) -> (i64, i64) {
    match before {
        Some((short, since)) if short == missing => (short, since),
        Some((short, since)) if missing > short && missing - short <= recently => (short, since),
        _ => (missing, now),
    }
}

/// Events that make up `short`: one, or several that follow each other, or two; the newest first.
fn lacking(accepted: &[(i64, i64)], short: i64) -> Option<Vec<i64>> {
    for from in 0..accepted.len() {
        let mut sum = 0_i64;
        for (to, (_, value)) in accepted.iter().enumerate().skip(from) {
            sum = sum.saturating_add(*value);
            if sum == short {
                return Some(accepted[from..=to].iter().map(|(seq, _)| *seq).collect());
            }
        }
    }
    for (i, (first, a)) in accepted.iter().enumerate() {
        let other = accepted[i + 1..].iter().find(|(_, b)| a.saturating_add(*b) == short);
        if let Some((second, _)) = other {
            return Some(vec![*first, *second]);
        }
    }
    None
}


#[cfg(test)]
mod tests;
