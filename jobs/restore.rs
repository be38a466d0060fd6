//! Books that were restored from a backup (`meter restore`): what the lost books had sent to Stripe
//! is imported from Stripe's totals, invoice by invoice, while billing is on hold.
//!
//! No queue runs this: a person does, step by step. Each step can be repeated, and killed anywhere.
//! The surplus of a total over the events that these books know was sent by the lost books, and is
//! stored as an accepted event. Nothing else changes these events meanwhile.

use anyhow::anyhow;
use jiff::Timestamp;

use crate::context::Context;
use crate::job::Failure;
use crate::stripe::preconditions::{check_clock, failure, find_meters};
use crate::stripe::{StripeAccount, StripeMode};
use books::BooksError;
use books::stripe::difference::Shortfall;
use books::stripe::restore::{BillingHold, KnownEvents, PeriodParts, ReadTotal, RestoredTotal, TotalState};
use books::units::calendar::instant;

/// What is done to restored books, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Open events become not received, and identifiers get another prefix.
    Begin,
    /// Every subscription is read again: what Stripe bills is known.
    Subscriptions,
    /// Bills are read again: the usage that the lost books had sent is known.
    Bills,
    /// Stripe's totals have had time to include everything that the lost books sent.
    Settle,
    /// Totals are imported.
    Totals,
    /// The hold ends.
    Finish,
}

/// How far a restoration is.
#[derive(Clone, Debug)]
pub struct Checklist {
    pub hold: BillingHold,
    /// From when on Stripe's totals are believed, once the restoration has begun.
    pub believed_from: Option<Timestamp>,
    pub totals: Vec<RestoredTotal>,
}

impl Checklist {
    /// The first step that is not done.
    pub fn open_step(&self, now: Timestamp) -> Step {
        let (Some(restoration), Some(believed_from)) = (self.hold.restoration, self.believed_from) else {
            return Step::Begin;
        };
        if self.hold.subscriptions_read_at.is_none_or(|at| at.as_second() < restoration.at) {
            Step::Subscriptions
        } else if self.hold.bills_read_at.is_none() {
            Step::Bills
        } else if now < believed_from {
            Step::Settle
        } else if self.totals.iter().any(|of| of.state != TotalState::Imported) {
            Step::Totals
        } else {
            Step::Finish
        }
    }
}

/// How far the restoration is; none when the books are not on hold.
pub async fn checklist(context: &Context) -> Result<Option<Checklist>, BooksError> {
    let (books, billing) = (&context.books, &context.billing);
    let Some(hold) = books.billing_hold().await? else { return Ok(None) };
    let Some(restoration) = hold.restoration else {
        return Ok(Some(Checklist { hold, believed_from: None, totals: vec![] }));
    };
    let believed_from = Some(instant(restoration.at.saturating_add(billing.settle_delay)));
    let totals = books.restored_totals(restoration, billing.grace).await?;
    Ok(Some(Checklist { hold, believed_from, totals }))
}

/// Begins the restoration if these books have the mark of a backup. Returns how many open events
/// Stripe's totals will decide about, if it began.
pub async fn begin(context: &Context, actor: String, now: Timestamp) -> Result<Option<u64>, Failure> {
    // checks the clock, too: `now` becomes the instant until which the lost books may have sent
    account(context, now).await?;
    Ok(context.books.begin_restoration(actor, now).await?)
}

/// Imports what can be imported now, once every earlier step is done: read all subscriptions and
/// make the billing periods right before. Returns how many totals were imported. What was imported
/// before an error stays so.
pub async fn import_totals(context: &Context, now: Timestamp) -> Result<u64, Failure> {
    let Some(found) = checklist(context).await?.filter(|found| found.open_step(now) == Step::Totals) else {
        return Ok(0);
    };
    let account = account(context, now).await?;
    let mut imported = 0;
    for of in found.totals.into_iter().filter(|of| of.state != TotalState::Imported) {
        imported += u64::from(import_total(context, account, of, now).await?);
    }
    Ok(imported)
}

/// The account, with its meters as they are now. It must be the one that was used before.
async fn account(context: &Context, now: Timestamp) -> Result<&StripeAccount, Failure> {
    let (books, billing) = (&context.books, &context.billing);
    let StripeMode::Stripe(account) = &billing.mode else {
        return Err(Failure::GiveUp(anyhow!(
            "METER_STRIPE__KEY is not set: Stripe's totals cannot be read without it"
        )));
    };
    let (remote, date) = account.meters().await.map_err(failure)?;
    check_clock(date, now)?;
    let found = find_meters(books, billing, &remote).await?;
    books.keep_stripe_meters(found, now).await?;
    Ok(account)
}

async fn import_total(
    context: &Context,
    account: &StripeAccount,
    of: RestoredTotal,
    now: Timestamp,
) -> Result<bool, Failure> {
    let books = &context.books;
    let known = books.known_events(of.clone()).await?;
    let mut found = PeriodParts::default();
    let PeriodParts { covered, rest } = of.windows().zip(known);
    for ((window, known), found) in [(covered, &mut found.covered), (rest, &mut found.rest)] {
        if window.is_empty() {
            continue;
        }
        match account.total(&of.stripe_meter, &of.stripe_customer, window.start, window.end).await {
            Ok(seen) => *found = surplus(known, seen),
            Err(error) if error.is_no_total() => {
                let answer = format!("{}: {error}", of.stripe_customer);
                books.not_imported(RestoredTotal { state: TotalState::NoTotal(answer), ..of }).await?;
                return Ok(false);
            }
            Err(error) => return Err(failure(error)),
        }
    }
    let surplus = without_acknowledged(found, of.acknowledged);
    let before = if let TotalState::TooLittle(shortfall) = of.state { Some(shortfall) } else { None };
    if let Some(shortfall) = too_little(surplus, before, now.as_second())
        && now.as_second() - shortfall.since < context.billing.settle_delay
    {
        // that these books sent it is certain; that Stripe lost it is not, and to send it again by
        // mistake would bill it twice
        books.not_imported(RestoredTotal { state: TotalState::TooLittle(shortfall), ..of }).await?;
        return Ok(false);
    }
    let name = format!("{} {}", of.customer, of.meter);
    let done = books.import_total(ReadTotal { total: of, known, surplus }, context.billing.grace, now).await?;
    if done {
        tracing::info!(surplus.covered, surplus.rest, "imported from Stripe's total: {name}");
    }
    Ok(done)
}

/// What Stripe has beyond what the books know. Pure.
fn surplus(known: KnownEvents, seen: i64) -> i64 {
    let surplus = seen.saturating_sub(known.accepted);
    // a person discarded it while it was unconfirmed, and Stripe has it: so it was
    if surplus == known.discarded { 0 } else { surplus }
}

/// What a person has made good stays as it is. A shortage is still there whatever was sent since;
/// too much may have been taken back, so it is left out only where a window still has it. Pure.
fn without_acknowledged(surplus: PeriodParts<i64>, shortfall: i64) -> PeriodParts<i64> {
    let PeriodParts { covered, rest } = surplus;
    if shortfall > 0 {
        PeriodParts { covered: covered.saturating_add(shortfall), rest }
    } else if shortfall < 0 && covered >= -shortfall {
        PeriodParts { covered: covered + shortfall, rest }
    } else if shortfall < 0 && rest >= -shortfall {
        PeriodParts { covered, rest: rest + shortfall }
    } else {
        surplus
    }
}

/// By how much Stripe is short of what the books know, and since when it was seen to be by just as
/// much; none when it is not short. Pure.
fn too_little(surplus: PeriodParts<i64>, before: Option<Shortfall>, now: i64) -> Option<Shortfall> {
    let amount = -surplus.into_iter().filter(|surplus| *surplus < 0).fold(0_i64, i64::saturating_add);
    let same = before.filter(|before| before.amount == amount);
    (amount != 0).then(|| same.unwrap_or(Shortfall { amount, since: now }))
}

#[cfg(test)]
mod tests;
