//! Applies a plan: makes it again, and books it if nothing moved.

use jiff::Timestamp;

use super::make::{Made, WantedChange, make};
use super::moved::moved;
use super::plan::{ChangePlan, PlannedBill};
use crate::context::Context;
use crate::ingest_cur::{Acceptance, hold, tidy_up};
use crate::job::Failure;
use books::store::error::BooksError;
use books::usage::applied_plans::{AppliedPlan, ChangeRecord, NewAppliedPlan};
use books::usage::booking::BookedTogether;

/// Who applies or reverts a plan, and why.
#[derive(Clone, Debug)]
pub struct Approval {
    /// The user and the machine.
    pub actor: String,
    pub reason: String,
}

/// Why a plan was not applied. Nothing was written.
#[derive(Debug)]
pub enum ApplyError {
    Already(Box<AppliedPlan>),
    Empty,
    /// What is another thing now.
    Moved(Vec<String>),
    Failed(Failure),
}

impl From<Failure> for ApplyError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<BooksError> for ApplyError {
    fn from(error: BooksError) -> Self {
        match error {
            BooksError::Raced => Self::Moved(vec!["what is booked of these bills, a moment ago".to_owned()]),
            error => Self::Failed(error.into()),
        }
    }
}

/// Books what a plan says, or nothing. Returns the number of the applied plan.
///
/// # Errors
/// When it was applied already, when anything moved since it was made, and when a bill or the books
/// cannot be read.
pub async fn apply(
    context: &Context,
    plan: &ChangePlan,
    approval: Approval,
    now: Timestamp,
) -> Result<i64, ApplyError> {
    context.books.require_migrated().await?;
    if let Some(applied) = context.books.applied_plan_of(&plan.digest).await? {
        return Err(ApplyError::Already(Box::new(applied)));
    }
    if plan.is_empty() {
        return Err(ApplyError::Empty);
    }
    let wanted: Vec<WantedChange> = plan.bills.iter().map(|bill| wanted(bill, &approval)).collect();
    let Made { plan: is, mut bookings, .. } = make(context, &wanted, &plan.made_by, now).await?;
    let moved = moved(plan, &is);
    if !moved.is_empty() {
        return Err(ApplyError::Moved(moved));
    }
    for booking in &mut bookings {
        let bill = &booking.version.bill;
        if plan.held().any(|held| (&held.payer, held.month) == (&bill.payer, bill.month)) {
            let (by, of) = ((approval.actor.as_str(), approval.reason.as_str()), &booking.version.key.version);
            booking.accepted_by = Some(hold::accepted_entry(by, (of, &bill.payer), bill.month));
        }
    }
    tidy_up(context, now).await?;
    let record = ChangeRecord::Applied(NewAppliedPlan {
        actor: approval.actor,
        reason: approval.reason,
        digest: plan.digest.clone(),
        summary: plan.summary(),
        effects: plan.kept_effects(),
    });
    let BookedTogether { plan: number, .. } = context.books.book_together(bookings, Some(record), now).await?;
    number.ok_or_else(|| ApplyError::from(BooksError::Integrity("the applied plan has no number".into())))
}

fn wanted(bill: &PlannedBill, approval: &Approval) -> WantedChange {
    let accept = bill.accept.as_ref().map(|of| Acceptance {
        version: of.version.clone(),
        seen: of.seen.clone(),
        actor: approval.actor.clone(),
        reason: of.reason.clone(),
    });
    WantedChange { export: bill.export.clone(), month: bill.month, accept }
}
