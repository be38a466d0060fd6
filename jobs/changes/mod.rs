//! Changes of the books that a person looks at before: plan, apply, revert. No job.
//!
//! A plan is what `ingest_cur` would book of some bills by the configuration of now, with the
//! differences by customer, meter and day, their money, and who would be blocked or unblocked. It
//! is made by the code of the jobs themselves: bills are read and judged as `ingest_cur` does,
//! rated as `push_stripe` does, and customers are judged as `enforce_budgets` does.
//!
//! To apply it, the same plan is made again. If it is the same, its bookings count from one commit
//! on, through the booking of `ingest_cur`; if anything moved, nothing is written. To revert it,
//! the opposite entries are booked. So there is one way to book, and history is appended.

mod apply;
mod make;
mod moved;
mod plan;
mod revert;

pub use self::apply::{ApplyError, Approval, apply};
pub use self::make::{Made, WantedChange, make};
pub use self::plan::{
    ChangePlan, PlanEffects, PlanFileError, PlanState, PlannedAcceptance, PlannedBase, PlannedBill, PlannedMeter,
};
pub use self::revert::{Opposite, OppositeError, RestsOn, opposite};
