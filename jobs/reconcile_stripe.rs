//! `reconcile_stripe`: Stripe's totals against the books, customer by customer, meter by meter,
//! invoice by invoice.
//!
//! The proof of what `push_stripe` did, and the only judge of what nobody could say: an event that
//! is unconfirmed is there when the total has it, and is not when the total has been without it for
//! a day. Totals lag, so only the events of before a day ago are judged; when their total has been
//! too low for another day, events that Stripe took are not there; they are found and planned anew.
//! One that is too high is an alarm and nothing else: taking back what a customer may rightly owe
//! is for a person. Stripe's reads are not free (about 500 for each payment,
//! <https://docs.stripe.com/rate-limits>), so a day has a number of them: unconfirmed events first,
//! then what was short, then what was read longest ago.
//!
//! In books that were restored from a backup the totals of periods that the lost ones may have sent
//! to are not compared but taken over, once: what Stripe has of them beyond what the books know was
//! sent by the lost ones, and is written down as an accepted event.
//!
//! Once a day everybody is made due for `push_stripe`, in case something changed that no trigger
//! saw.

mod import;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::job::{Context, Failure, Job};
use crate::stripe::preconditions::{check_clock, failure, match_meters};
use crate::stripe::transport::CallFailure::Unreadable;
use crate::stripe::{LISTED, StripeAccount, StripeMode};
use books::stripe::reconciliation::{
    AcceptedEvent, Comparison, InvoiceEvents, NO_TOTAL, TotalToCheck, TotalVerdict, UnconfirmedEvent,
};
use books::units::calendar::{instant, minute};

/// An event that a total does not have after so long, and then for as long again, will not be
/// there: no lag that was ever reported is near it.
const ABSENCE: i64 = 86_400;
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
    pub read: u64,
    /// They are what they should be.
    pub agree: u64,
    /// Unconfirmed events that are there.
    pub accepted: u64,
    /// Events that are not there, and are planned anew.
    pub not_received: u64,
    /// It is too early to say.
    pub waiting: u64,
    /// Totals that a person must look at, of all customers.
    pub alarms: u64,
    pub names: Vec<String>,
    /// True when the day's reads are used up.
    pub out_of_reads: bool,
    /// After a restoration: totals that were taken over.
    pub imported: u64,
    /// After a restoration: totals that are still to be taken over, of those that were looked at.
    pub totals_to_import: u64,
    /// After a restoration: why none is taken over yet.
    pub not_yet: Option<String>,
    /// After a restoration: bills that have to be read again first, or that wait for a person, when
    /// it is time for them.
    pub bills_missing: Vec<String>,
}

impl Job for ReconcileStripe {
    const KIND: &'static str = "reconcile_stripe";
    const ABOUT: &'static str = "compare Stripe's totals with the books, and settle what is unconfirmed";
    const TIMEOUT: Duration = Duration::from_secs(3600);
    type Report = ReconcileReport;

    fn key(&self) -> Option<String> {
        Some(Self::KIND.to_owned())
    }

    fn needs_a_person(report: &ReconcileReport) -> bool {
        report.alarms > 0 || !report.bills_missing.is_empty()
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
        books.mark_all_due_when("swept", today.to_string(), from.to_string()).await?;
    }
    let StripeMode::Stripe(account) = &billing.mode else {
        report.without_key = true;
        return Ok(report);
    };
    let restoration = books.restoration(now).await?;
    if restoration.is_some_and(|r| !r.seen) {
        report.not_yet = Some("these books were restored from a backup: `push_stripe` has to run first".into());
        return Ok(report);
    }
    let totals_to_import = match restoration {
        Some(restoration) => import::totals_to_import(context, restoration, customer.clone(), now, &mut report).await?,
        None => vec![],
    };
    let to_read = books.totals_to_read(customer, MOST, now, billing.grace).await?;
    let wanted = u32::try_from(to_read.len()).unwrap_or(u32::MAX);
    let granted = books.take_reads(today.to_string(), wanted, billing.reads_per_day).await?;
    report.out_of_reads = granted < wanted;
    if granted > 0 || !totals_to_import.is_empty() {
        let (remote, date) = account.meters().await.map_err(failure)?;
        check_clock(date, now)?;
        let known = books.stripe_meters().await?;
        match_meters(billing, &known, &remote).map_err(|why| Failure::GiveUp(anyhow::anyhow!(why)))?;
    }
    for of in totals_to_import {
        import::import_total(context, account, of, now, &mut report).await?;
    }
    for of in to_read.into_iter().take(usize::try_from(granted).unwrap_or(usize::MAX)) {
        compare(context, account, of, now, &mut report).await?;
    }
    let alarms = books.alarms().await?;
    report.alarms = u64::try_from(alarms.len()).unwrap_or(u64::MAX);
    report.names =
        alarms.into_iter().take(LISTED).map(|(customer, meter, why)| format!("{customer} {meter}: {why}")).collect();
    Ok(report)
}

async fn compare(
    context: &Context,
    account: &StripeAccount,
    of: TotalToCheck,
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
        // a customer that was deleted has no totals; one that cannot be read must not hold up the
        // others
        Err(error) if matches!(error.status, Some(400 | 404)) || error.kind == Unreadable => {
            let read = Comparison {
                seen: 0,
                expected: expected(&of.events),
                shortfall: of.shortfall,
                verdict: TotalVerdict::NoTotal(format!("{NO_TOTAL}{}: {error}", of.stripe_customer)),
                is_final: false,
            };
            context.books.note_read(of, read, now).await?;
            return Ok(());
        }
        Err(error) => return Err(failure(error)),
    };
    report.read += 1;
    let (now_second, grace) = (now.as_second(), context.billing.grace);
    let read = match at_once(&of, seen, now_second, grace) {
        Some(read) => read,
        None => match settled_until(&of, now_second) {
            None => wait(&of, seen),
            Some(until) => {
                // what was accepted lately may not show yet, so only what is older is judged
                let account = account.total(&of.stripe_meter, &of.stripe_customer, start, until).await;
                report.read += 1;
                judge(&of, seen, until, account.map_err(failure)?, now_second)
            }
        },
    };
    let (verdict, name) = (read.verdict.clone(), of.customer.clone());
    if !context.books.note_read(of, read, now).await? {
        report.waiting += 1;
        return Ok(());
    }
    match verdict {
        TotalVerdict::Agrees => report.agree += 1,
        TotalVerdict::Settle(there, not_received) => {
            report.accepted += u64::from(there.is_some());
            report.not_received += u64::try_from(not_received.len()).unwrap_or(u64::MAX);
            if !not_received.is_empty() {
                tracing::warn!(
                    customer = name,
                    ?not_received,
                    "Stripe does not have events of {name} that were sent; they are planned anew"
                );
            }
        }
        TotalVerdict::Wait | TotalVerdict::Alarm(_) | TotalVerdict::NoTotal(_) => report.waiting += 1,
    }
    Ok(())
}

fn expected(events: &InvoiceEvents) -> i64 {
    events.accepted.iter().map(|e| e.value).sum()
}

fn is_recent(event: &AcceptedEvent, now: i64) -> bool {
    // what was taken over from a total shows in it
    !event.imported && now - event.at < ABSENCE
}

fn wait(of: &TotalToCheck, seen: i64) -> Comparison {
    Comparison {
        seen,
        expected: expected(&of.events),
        shortfall: of.shortfall,
        verdict: TotalVerdict::Wait,
        is_final: false,
    }
}

/// What follows from the total of the whole period alone, if anything does. Pure.
pub fn at_once(of: &TotalToCheck, seen: i64, now: i64, grace: i64) -> Option<Comparison> {
    let events = &of.events;
    let expected = expected(events);
    let done = |verdict| {
        let recent = events.accepted.iter().any(|e| is_recent(e, now));
        let is_final = now >= of.end + grace && events.unconfirmed.is_none() && !events.pending && !recent;
        Some(Comparison { seen, expected, shortfall: None, verdict, is_final })
    };
    // a total of the whole period has what a person has made good; without it, something else is
    // wrong
    let known = expected - of.acknowledged;
    let with_discarded = events.discarded != 0 && seen == known + events.discarded;
    match events.unconfirmed {
        None if seen == known || with_discarded => done(TotalVerdict::Agrees),
        // another event that does not show yet could look like this one
        Some(unconfirmed)
            if seen == known + unconfirmed.value && !events.accepted.iter().any(|e| is_recent(e, now)) =>
        {
            done(TotalVerdict::Settle(Some(unconfirmed.seq), vec![]))
        }
        _ => None,
    }
}

/// Up to which minute every event has had a day to show, if there is any such event. Pure.
pub fn settled_until(of: &TotalToCheck, now: i64) -> Option<i64> {
    let events = &of.events;
    let recent = events.accepted.iter().filter(|e| is_recent(e, now)).map(|e| e.timestamp);
    let open = events.unconfirmed.filter(|d| !is_settled(d, now)).map(|d| d.timestamp);
    let until = recent.chain(open).min().map_or(minute(of.end), minute);
    // what was taken over has the time of the last that it may stand for: a total without that time
    // may have some of it
    if events.accepted.iter().any(|e| e.imported && e.timestamp >= until) {
        return None;
    }
    let within = |t: i64| t < until;
    let any =
        events.accepted.iter().any(|e| within(e.timestamp)) || events.unconfirmed.is_some_and(|d| within(d.timestamp));
    (any && until > minute(of.start)).then_some(until)
}

/// It is not sent again, and has had a day to show.
fn is_settled(unconfirmed: &UnconfirmedEvent, now: i64) -> bool {
    now >= unconfirmed.resend_until && now - unconfirmed.last_attempt >= ABSENCE
}

/// What follows from the total of the events before `until`, all of which have had a day to show.
/// Pure.
pub fn judge(of: &TotalToCheck, seen: i64, until: i64, settled: i64, now: i64) -> Comparison {
    let old: Vec<AcceptedEvent> = of.events.accepted.iter().filter(|e| e.timestamp < until).copied().collect();
    let sent: i64 = old.iter().map(|e| e.value).sum();
    let unconfirmed = of.events.unconfirmed.filter(|d| d.timestamp < until);
    if of.acknowledged != 0 && until < minute(of.end) {
        return judge_part(of, seen, sent - settled, unconfirmed, now);
    }
    // beyond what a person has made good
    let shortfall = sent - settled - of.acknowledged;
    let done =
        |shortfall, verdict| Comparison { seen, expected: expected(&of.events), shortfall, verdict, is_final: false };
    // with the unconfirmed one, if it is there
    let missing = shortfall + unconfirmed.map_or(0, |d| d.value);
    let there = unconfirmed.map(|d| d.seq);
    if missing == 0 || of.events.discarded != 0 && missing == -of.events.discarded {
        return done(None, there.map_or(TotalVerdict::Wait, |seq| TotalVerdict::Settle(Some(seq), vec![])));
    }
    // the same for another day; too much that grows meanwhile is no other case: somebody else sends
    let grows = |before: i64| unconfirmed.is_none() && before < 0 && missing < before;
    let since = of.shortfall.filter(|(before, _)| *before == missing || grows(*before)).map_or(now, |(_, since)| since);
    if now - since < ABSENCE {
        return done(Some((missing, since)), TotalVerdict::Wait);
    }
    // what was missing already is no event that Stripe took later, nor one that was sent later and
    // is unconfirmed: that one is there
    let old: Vec<AcceptedEvent> = old.into_iter().filter(|e| e.at <= since).collect();
    let explained = match unconfirmed {
        Some(d) if d.last_attempt > since && missing > 0 => lacking(&by_age(&old, None), missing),
        Some(d) if d.last_attempt > since => None,
        // what was made good is gone: whoever did that, a person has to undo it
        None if of.acknowledged != 0 && missing == -of.acknowledged => None,
        _ => explained(&old, unconfirmed, shortfall),
    };
    match explained {
        Some(not_received) => {
            let there = there.filter(|seq| !not_received.contains(seq));
            done(None, TotalVerdict::Settle(there, not_received))
        }
        None => {
            let more = if missing < 0 { "more" } else { "less" };
            let known = if of.acknowledged == 0 { "" } else { " and acknowledged" };
            let why = format!(
                "Stripe has {settled} of the events before {}, {} {more} than was sent{known}; no events that are missing explain it",
                instant(until),
                missing.abs()
            );
            done(Some((missing, since)), TotalVerdict::Alarm(why))
        }
    }
}

/// What follows from the total of a part of a period, of which nobody knows whether it has the
/// difference that a person has made good: at most what became of the unconfirmed event, when both
/// come to the same. The rest is judged with the whole period. Pure.
fn judge_part(
    of: &TotalToCheck,
    seen: i64,
    shortfall: i64,
    unconfirmed: Option<UnconfirmedEvent>,
    now: i64,
) -> Comparison {
    let done =
        |shortfall, verdict| Comparison { seen, expected: expected(&of.events), shortfall, verdict, is_final: false };
    let either = [shortfall, shortfall - of.acknowledged];
    let Some(unconfirmed) = unconfirmed else {
        let nearest = if either.contains(&0) { 0 } else { either[1] };
        let since = of.shortfall.filter(|(before, _)| *before == nearest).map_or(now, |(_, since)| since);
        return done((nearest != 0).then_some((nearest, since)), TotalVerdict::Wait);
    };
    let (there, not_received) = (either.iter().any(|n| n + unconfirmed.value == 0), either.contains(&0));
    match (there, not_received) {
        (true, false) => done(None, TotalVerdict::Settle(Some(unconfirmed.seq), vec![])),
        (false, true) => {
            // as everywhere, for another day
            let since = of.shortfall.filter(|(before, _)| *before == unconfirmed.value).map_or(now, |(_, since)| since);
            let verdict = if now - since < ABSENCE {
                TotalVerdict::Wait
            } else {
                TotalVerdict::Settle(None, vec![unconfirmed.seq])
            };
            done((verdict == TotalVerdict::Wait).then_some((unconfirmed.value, since)), verdict)
        }
        _ => done(of.shortfall, TotalVerdict::Wait),
    }
}

/// Which events are not there when a total is `shortfall` below what was taken for sure. Pure.
fn explained(old: &[AcceptedEvent], unconfirmed: Option<UnconfirmedEvent>, shortfall: i64) -> Option<Vec<i64>> {
    let missing = shortfall + unconfirmed.map_or(0, |d| d.value);
    match unconfirmed {
        // what was never unconfirmed and is too much may be somebody's: that is for a person. But
        // the unconfirmed one may be the correction that is not there, and what was sent besides it
        // is short, or as it should be
        Some(d) if missing < 0 && shortfall >= 0 => {
            let others = if shortfall == 0 { Some(vec![]) } else { lacking(&by_age(old, None), shortfall) };
            others.map(|mut not_received| {
                not_received.insert(0, d.seq);
                not_received
            })
        }
        _ if missing < 0 => None,
        _ => lacking(&by_age(old, unconfirmed), missing),
    }
}

/// Numbers and values, the newest first.
fn by_age(accepted: &[AcceptedEvent], unconfirmed: Option<UnconfirmedEvent>) -> Vec<(i64, i64)> {
    let mut all: Vec<(i64, i64)> = accepted.iter().map(|e| (e.seq, e.value)).collect();
    all.extend(unconfirmed.map(|d| (d.seq, d.value)));
    all.sort_by_key(|(seq, _)| std::cmp::Reverse(*seq));
    all
}

/// Events that make up `missing`, as few as can be and no more than four, or some that follow each
/// other; the newest first.
fn lacking(events: &[(i64, i64)], missing: i64) -> Option<Vec<i64>> {
    let newest = &events[..events.len().min(100)];
    let few = (1..=4).find_map(|n| some(newest, missing, n));
    few.or_else(|| {
        (0..events.len()).find_map(|from| {
            let mut sum = 0_i64;
            let to = events[from..].iter().position(|(_, value)| {
                sum = sum.saturating_add(*value);
                sum == missing
            })?;
            Some(events[from..=from + to].iter().map(|(seq, _)| *seq).collect())
        })
    })
}

/// `n` events that make up `missing`.
fn some(events: &[(i64, i64)], missing: i64, n: usize) -> Option<Vec<i64>> {
    for (i, (seq, value)) in events.iter().enumerate() {
        let rest = missing.saturating_sub(*value);
        if n == 1 {
            if rest == 0 {
                return Some(vec![*seq]);
            }
        } else if let Some(mut found) = some(&events[i + 1..], rest, n - 1) {
            found.insert(0, *seq);
            return Some(found);
        }
    }
    None
}

#[cfg(test)]
mod tests;
