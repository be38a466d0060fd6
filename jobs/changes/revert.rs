//! Reverts an applied plan: books the opposite, and says what was billed of it.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::apply::Approval;
use crate::context::Context;
use crate::ingest_cur::tidy_up;
use crate::job::Failure;
use books::store::error::BooksError;
use books::stripe::pushed::{PushedSince, UsedDays};
use books::usage::applied_plans::{AppliedPlan, ChangeRecord, NewRevert};
use books::usage::bill::BillId;
use books::usage::booking::{Booking, BookingOrigin};
use books::usage::ledger::UNATTRIBUTED;
use books::usage::reverting::RevertError;

/// Why a plan is not reverted. Nothing was written.
#[derive(Debug)]
pub enum OppositeError {
    /// No plan has the number; the newest one that was applied.
    Unknown(Option<i64>),
    Already(Box<AppliedPlan>),
    /// A newer version of one of its bills is booked.
    BookedSince(String),
    Failed(Failure),
}

impl From<BooksError> for OppositeError {
    fn from(error: BooksError) -> Self {
        match error {
            BooksError::Raced => Self::BookedSince("one of its bills was booked again a moment ago".to_owned()),
            error => Self::Failed(error.into()),
        }
    }
}

impl From<Failure> for OppositeError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What a bill rests on once a plan is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestsOn {
    /// Nothing of it was booked before the plan.
    Nothing,
    /// A version that was read by the configuration of now.
    ThisConfiguration,
    OtherConfiguration,
}

/// The opposite of an applied plan, ready to be booked.
#[derive(Debug)]
pub struct Opposite {
    pub plan: AppliedPlan,
    /// Entries that would be appended.
    pub entries: usize,
    /// What was made for Stripe, since the plan was applied, of the usage that it changed.
    pub pushed: Vec<PushedSince>,
    bookings: Vec<Booking>,
}

/// What would take a plan back. Writes nothing.
///
/// # Errors
/// When there is no such plan, when it was reverted already, and when it cannot be any more.
pub async fn opposite(context: &Context, number: i64) -> Result<Opposite, OppositeError> {
    let books = &context.books;
    books.require_migrated().await?;
    let Some(plan) = books.applied_plans(Some(number)).await?.pop() else {
        let newest = books.applied_plans(None).await?.first().map(|plan| plan.number);
        return Err(OppositeError::Unknown(newest));
    };
    if plan.reverted.is_some() {
        return Err(OppositeError::Already(Box::new(plan)));
    }
    let bookings = match books.opposite_bookings(&plan).await {
        Ok(bookings) => bookings,
        Err(why @ RevertError::BookedSince { .. }) => return Err(OppositeError::BookedSince(why.to_string())),
        Err(RevertError::Books(error)) => return Err(error.into()),
    };
    let pushed = books.pushed_since(used_days(&bookings), plan.applied_at).await?;
    let entries = bookings.iter().map(|booking| booking.adjustments.entries.len()).sum();
    Ok(Opposite { plan, entries, pushed, bookings })
}

/// The days with a change, by customer and meter.
fn used_days(bookings: &[Booking]) -> Vec<UsedDays> {
    let mut found: BTreeMap<(String, String), UsedDays> = BTreeMap::new();
    for adjustments in bookings.iter().map(|booking| &booking.adjustments) {
        for entry in &adjustments.entries {
            let (customer, meter) = adjustments.names(&entry.cell);
            if customer == UNATTRIBUTED {
                continue;
            }
            let day = entry.cell.day;
            let new = || UsedDays { customer: customer.to_owned(), meter: meter.to_owned(), first: day, last: day };
            let days = found.entry((customer.to_owned(), meter.to_owned())).or_insert_with(new);
            (days.first, days.last) = (days.first.min(day), days.last.max(day));
        }
    }
    found.into_values().collect()
}

impl Opposite {
    /// What each bill rests on then. `rules` is the digest of the rules of now.
    pub fn rests_on(&self, rules: &str) -> Vec<(&BillId, RestsOn)> {
        let of = |booking: &Booking| match booking.origin {
            BookingOrigin::TakesBack { before: None, .. } => RestsOn::Nothing,
            _ if booking.version.key.rules_digest == rules => RestsOn::ThisConfiguration,
            _ => RestsOn::OtherConfiguration,
        };
        self.bookings.iter().map(|booking| (&booking.version.bill, of(booking))).collect()
    }

    /// Books it, whole or not at all.
    ///
    /// # Errors
    /// When one of its bills was booked again meanwhile, and when the books cannot be written.
    pub async fn book(self, context: &Context, approval: Approval, now: Timestamp) -> Result<(), OppositeError> {
        tidy_up(context, now).await?;
        let Approval { actor, reason } = approval;
        let record = ChangeRecord::Reverted(NewRevert { plan: self.plan.number, actor, reason });
        Ok(context.books.book_together(self.bookings, Some(record), now).await.map(drop)?)
    }
}
