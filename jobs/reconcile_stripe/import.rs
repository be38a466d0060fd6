//! After a restoration: what the lost books had sent, taken over from Stripe's totals.

use jiff::Timestamp;

use super::compare::{expected, is_settled};
use super::{ReconcileReport, has_no_total, no_total};
use crate::context::Context;
use crate::job::Failure;
use crate::stripe::StripeAccount;
use crate::stripe::preconditions::failure;
use books::stripe::difference::{Difference, Shortfall};
use books::stripe::reconciliation::{AcceptedEvent, InvoiceEvents};
use books::stripe::restoration::Restoration;
use books::stripe::restore::TotalToImport;
use books::units::calendar::instant;

/// Periods that one run takes over at most, one after the other: minutes of each hour, and 48,000 a
/// day. They are not deferred to the day's allowance, which would be weeks for books of some
/// thousand customers, but count in it.
const MOST: u32 = 2000;

/// What can be taken over now.
pub(super) async fn totals_to_import(
    context: &Context,
    restoration: Restoration,
    customer: Option<String>,
    now: Timestamp,
    report: &mut ReconcileReport,
) -> Result<Vec<(Restoration, TotalToImport)>, Failure> {
    let (books, billing) = (&context.books, &context.billing);
    let mut found = books.totals_to_import(restoration, billing.grace, customer, MOST, now).await?;
    report.totals_to_import = u64::try_from(found.len()).unwrap_or(u64::MAX);
    if found.is_empty() {
        return Ok(vec![]);
    }
    let believed_at = restoration.at.saturating_add(billing.settle_delay);
    let synced = books.setting("synced_full").await?.and_then(|at| at.parse::<i64>().ok());
    if now.as_second() < believed_at {
        report.not_yet = Some(format!("Stripe's totals are believed from {} on", instant(believed_at)));
    } else if synced.is_none_or(|at| at < restoration.at) {
        report.not_yet = Some("every subscription has to be read first: `sync_stripe` with full=true".into());
    } else {
        let exports = context.exports.keys().cloned().collect();
        let missing = books.bills_missing(restoration, exports).await?;
        report.bills_missing = missing.iter().map(|(export, month)| format!("{export} {month}")).collect();
        if let Some((_, first)) = missing.iter().min_by_key(|(_, month)| *month) {
            // what the lost books had sent was for usage that these do not know before they have
            // read it: it would be taken back
            report.not_yet = Some(format!(
                "bills have to be read again and booked first ({}): `meter backfill ingest --from {first}`, `meter versions`; when the files of one are gone, \
                 `meter restore mark --without EXPORT/MONTH`",
                report.bills_missing.join(", ")
            ));
        }
    }
    if report.not_yet.is_some() {
        return Ok(vec![]);
    }
    found.retain(|of| of.events.iter().all(|events| has_settled(events, now.as_second(), billing.settle_delay)));
    let requests = found.iter().flat_map(TotalToImport::windows).filter(|(from, to)| from < to).count();
    let day = now.to_zoned(jiff::tz::TimeZone::UTC).date().to_string();
    books.take_reads(day, u32::try_from(requests).unwrap_or(u32::MAX), u32::MAX).await?;
    Ok(found.into_iter().map(|of| (restoration, of)).collect())
}

/// Whether nothing that these books sent themselves can be missing in a total, or come to be in it.
/// Pure.
pub(super) fn has_settled(events: &InvoiceEvents, now: i64, settle_delay: i64) -> bool {
    let shows = |e: &AcceptedEvent| e.imported || now - e.at >= settle_delay;
    !events.in_flight
        && !events.pending
        && events.unconfirmed.is_none_or(|d| is_settled(&d, now))
        && events.accepted.iter().all(shows)
}

/// What Stripe has beyond what the books know. Pure.
pub(super) fn surplus(events: &InvoiceEvents, seen: i64) -> i64 {
    let surplus = seen.saturating_sub(expected(events));
    // a person discarded it while it was unconfirmed, and Stripe has it: so it was
    if surplus == events.discarded { 0 } else { surplus }
}

/// What a person has made good stays as it is. A shortage is still there whatever was sent since;
/// too much may have been taken back, so it is left out only where a stretch still has it. Pure.
pub(super) fn without_known(surpluses: [i64; 2], shortfall: i64) -> [i64; 2] {
    match surpluses {
        [covered, rest] if shortfall > 0 => [covered.saturating_add(shortfall), rest],
        [covered, rest] if shortfall < 0 && covered >= -shortfall => [covered + shortfall, rest],
        [covered, rest] if shortfall < 0 && rest >= -shortfall => [covered, rest + shortfall],
        as_they_are => as_they_are,
    }
}

/// By how much Stripe is short of what the books know, and since when it was seen to be by just as
/// much; none when it is not shortfall. Pure.
pub(super) fn too_little(surpluses: [i64; 2], before: Option<Shortfall>, now: i64) -> Option<Shortfall> {
    let amount = -surpluses.into_iter().filter(|surplus| *surplus < 0).fold(0_i64, i64::saturating_add);
    let same = before.filter(|before| before.amount == amount);
    (amount != 0).then(|| same.unwrap_or(Shortfall { amount, since: now }))
}

pub(super) async fn import_total(
    context: &Context,
    account: &StripeAccount,
    (restoration, of): (Restoration, TotalToImport),
    now: Timestamp,
    report: &mut ReconcileReport,
) -> Result<(), Failure> {
    let mut surpluses = [0, 0];
    for (at, (from, to)) in of.windows().into_iter().enumerate().filter(|(_, (from, to))| from < to) {
        report.read += 1;
        match account.total(&of.stripe_meter, &of.stripe_customer, from, to).await {
            Ok(seen) => surpluses[at] = surplus(&of.events[at], seen),
            Err(error) if has_no_total(&error) => {
                let difference = no_total(&of.stripe_customer, &error);
                return Ok(context.books.not_imported(of, difference, None, now).await?);
            }
            Err(error) => return Err(failure(error)),
        }
    }
    let surpluses = without_known(surpluses, of.acknowledged);
    let name = format!("{} {}", of.customer, of.meter);
    if let Some(shortfall) = too_little(surpluses, of.shortfall, now.as_second()) {
        // that these books sent it is certain; that Stripe lost it is not, and to send it again by
        // mistake would bill it twice
        if now.as_second() - shortfall.since < context.billing.settle_delay {
            tracing::info!(
                shortfall = shortfall.amount,
                "Stripe has {} less than these books had sent: {name}; it is believed when it stays so",
                shortfall.amount
            );
            return Ok(context.books.not_imported(of, Difference::TooEarly, Some(shortfall), now).await?);
        }
    }
    if context.books.import(of, surpluses, restoration, context.billing.grace, now).await? {
        report.imported += 1;
        report.totals_to_import = report.totals_to_import.saturating_sub(1);
        tracing::info!(?surpluses, "taken over from Stripe's total: {name}");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
