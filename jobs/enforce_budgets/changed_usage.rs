//! Who would be blocked or unblocked by a change of usage, before it is booked.
//!
//! Every customer is judged twice by the code of a run, as the books are and as they would be; what
//! differs is the change's doing, and not that of time or of a run that is due. Nothing is written.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::judge::RunInputs;
use super::{EnforceReport, Extent, Run};
use crate::context::Context;
use crate::job::Mode;
use books::limits::entitlement::Entitlement;
use books::limits::settled::NewestBill;
use books::store::error::BooksError;
use books::usage::difference::UsageChanges;

/// Usage that is not booked, and the versions of bills that have it.
#[derive(Clone, Debug, Default)]
pub struct PlannedUsage {
    pub changes: UsageChanges,
    pub bills: Vec<NewestBill>,
}

/// A meter of a customer that gets another answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangedAnswer {
    pub customer: String,
    pub meter: String,
    /// Why, as entitlements name it.
    pub reason: String,
}

/// Who gets another answer, by customer and meter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangedAnswers {
    pub blocked: Vec<ChangedAnswer>,
    pub unblocked: Vec<ChangedAnswer>,
}

/// An answer: whether a meter may be used, and why.
#[derive(Clone, Debug)]
struct Answer {
    allowed: bool,
    reason: String,
}

/// An answer that differs from what is stored.
struct Differing {
    stored: Option<Answer>,
    is: Answer,
}

type Differences = BTreeMap<(String, String), Differing>;

/// The answers that a change makes others.
///
/// # Errors
/// When the books cannot be read.
pub async fn changed_answers(
    context: &Context,
    planned: PlannedUsage,
    now: Timestamp,
) -> Result<ChangedAnswers, BooksError> {
    let before = judged(context, PlannedUsage::default(), now).await?;
    let after = judged(context, planned, now).await?;
    Ok(compare(&before, &after))
}

async fn judged(context: &Context, planned: PlannedUsage, now: Timestamp) -> Result<Differences, BooksError> {
    let inputs = RunInputs::load(context, now, Mode::DryRun, &planned.bills).await?;
    let mut run = Run::with(context, (Mode::DryRun, Extent::Everybody), inputs).await?;
    run.changes = Arc::new(planned.changes);
    let mut found = Differences::new();
    while run.next_page().await? {
        take(&mut run.report, &mut found);
    }
    Ok(found)
}

fn take(report: &mut EnforceReport, found: &mut Differences) {
    for change in report.changes.drain(..) {
        let answer = |of: &Entitlement| Answer { allowed: of.allowed, reason: of.reason.name().to_owned() };
        let (stored, is) = (change.was.as_ref().map(answer), answer(&change.is));
        found.insert((change.is.customer, change.is.meter), Differing { stored, is });
    }
}

/// Pure. An answer that is not among the differences is the stored one.
fn compare(before: &Differences, after: &Differences) -> ChangedAnswers {
    let mut found = ChangedAnswers::default();
    let mut keys: Vec<&(String, String)> = before.keys().chain(after.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        let (was, is) = match (before.get(key), after.get(key)) {
            (Some(before), Some(after)) => (Some(&before.is), Some(&after.is)),
            (Some(before), None) => (Some(&before.is), before.stored.as_ref()),
            (None, Some(after)) => (after.stored.as_ref(), Some(&after.is)),
            (None, None) => continue,
        };
        let Some((_, is)) = was.zip(is).filter(|(was, is)| was.allowed != is.allowed) else { continue };
        let answer = ChangedAnswer { customer: key.0.clone(), meter: key.1.clone(), reason: is.reason.clone() };
        if is.allowed { found.unblocked.push(answer) } else { found.blocked.push(answer) }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differences(of: &[(&str, Option<bool>, bool)]) -> Differences {
        let answer = |allowed: bool| Answer { allowed, reason: if allowed { "within" } else { "beyond" }.to_owned() };
        let one = |(meter, stored, is): &(&str, Option<bool>, bool)| {
            let differing = Differing { stored: stored.map(answer), is: answer(*is) };
            (("ann".to_owned(), (*meter).to_owned()), differing)
        };
        of.iter().map(one).collect()
    }

    #[test]
    fn only_what_the_change_does_is_named() {
        let before = differences(&[("due", Some(true), false), ("saved", Some(true), false), ("new", None, true)]);
        let after = differences(&[("due", Some(true), false), ("lost", Some(true), false), ("new", None, false)]);
        let found = compare(&before, &after);
        let names = |of: &[ChangedAnswer]| of.iter().map(|of| of.meter.clone()).collect::<Vec<_>>();
        assert_eq!(names(&found.blocked), ["lost", "new"]);
        assert_eq!(names(&found.unblocked), ["saved"]);
    }
}
