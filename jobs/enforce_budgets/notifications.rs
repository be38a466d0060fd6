//! Which notifications a new decision makes: thresholds that usage crosses, and meters that are
//! blocked or unblocked. Pure.
//!
//! A threshold that the decision before had reached makes none. When a restated bill takes usage
//! back and gives it again, the same notification is made again, and the table keeps one of each.
//!
//! A crossing is sent when somebody has looked from before it: the decision before was about the
//! same meter under a plan that has it, and its run knew the threshold and a webhook. What lay
//! behind when somebody began to look is recorded as known, and not sent. A block or unblock is
//! sent whenever there was a decision before.

use std::collections::BTreeMap;

use serde::Serialize;

use books::limits::enforcement::{BILLS_READ, LastRun};
use books::limits::entitlement::{Entitlement, Reason};
use books::limits::notification::{NO_WEBHOOK, NewNotification, NotificationKind};
use books::store::error::BooksError;
use books::store::rows;

const SWITCHED_ON: &str = "it lay behind when notifications.url was set";
const RESTORED: &str = "the books were restored: those that were lost knew of it";
const FIRST: &str = "it lay behind when the meter was first decided under a plan that has it";
const NEW_THRESHOLD: &str = "it lay behind when enforce.thresholds got this share";

/// What a run makes notifications of.
#[derive(Debug)]
pub(super) struct Watch {
    /// Shares in percent.
    thresholds: Vec<u32>,
    /// Those that the run before did not know.
    new_thresholds: Vec<u32>,
    /// Why this run sends nothing, if it does not.
    silent: Option<&'static str>,
}

impl Watch {
    /// `last` is the run before `run`. `has_key`: the books bill through Stripe.
    pub(super) fn new(run: &LastRun, last: Option<&LastRun>, has_key: bool) -> Self {
        let silent = match last {
            _ if !run.notifies => Some(NO_WEBHOOK),
            _ if !knows_backup(run, last, has_key) => Some(RESTORED),
            Some(last) if !last.notifies => Some(SWITCHED_ON),
            _ => None,
        };
        let is_new = |percent: &u32| last.is_some_and(|last| !last.thresholds.contains(percent));
        let new_thresholds = run.thresholds.iter().copied().filter(is_new).collect();
        Self { thresholds: run.thresholds.clone(), new_thresholds, silent }
    }

    /// True when a decision has reached a threshold that is new: also one that does not change is
    /// looked at then.
    pub(super) fn has_news(&self, e: &Entitlement) -> bool {
        let [included, own] = shares(e);
        self.new_thresholds.iter().any(|p| [included, own, budget_share(e)].iter().any(|share| share.has_reached(*p)))
    }

    /// Which thresholds a decision has reached: of what is included, of the meter's own budget, and
    /// of the budget for all meters.
    pub(super) fn reached(&self, e: &Entitlement) -> Vec<bool> {
        let [included, own] = shares(e);
        let of = |share: Share| self.thresholds.iter().map(move |percent| share.has_reached(*percent));
        of(included).chain(of(own)).chain(of(budget_share(e))).collect()
    }

    /// The thresholds that `share` has crossed and that `before` had not reached, each with the
    /// reason why it is not sent.
    fn crossed<'a>(
        &'a self,
        share: Share,
        before: Option<Share>,
        not_sent: Option<&'static str>,
    ) -> impl Iterator<Item = (u32, Option<&'static str>)> + 'a {
        // beyond what is included the amount may follow usage, as after a change of the plan
        let is_beyond = |of: &Share| of.kind == NotificationKind::IncludedUsed && of.has_reached(100);
        let before = before.filter(|was| was.whole == share.whole || is_beyond(was) && is_beyond(&share));
        self.thresholds.iter().copied().filter(move |p| share.has_reached(*p)).filter_map(move |p| {
            let is_new = self.new_thresholds.contains(&p);
            let had = before.is_some_and(|before| before.has_reached(p));
            (is_new || !had).then(|| (p, not_sent.or(is_new.then_some(NEW_THRESHOLD))))
        })
    }

    /// Why nothing is sent about what followed the decision `was`.
    fn not_sent(&self, was: Option<&Entitlement>) -> Option<&'static str> {
        self.silent.or((!was.is_some_and(is_in_plan)).then_some(FIRST))
    }
}

/// Whether the run before knew the backup that these books were restored from, if they were, with
/// all that came to light since. With a key, bills are read again step by step; until that is done,
/// no run knows what the lost books knew.
fn knows_backup(run: &LastRun, last: Option<&LastRun>, has_key: bool) -> bool {
    let Some(restored) = &run.restored else { return true };
    let is_reading = has_key && !restored.contains(BILLS_READ);
    !is_reading && last.is_some_and(|last| last.restored.as_ref() == Some(restored))
}

fn is_in_plan(e: &Entitlement) -> bool {
    !matches!(e.reason, Reason::NotInPlan | Reason::UnknownPlan)
}

/// An amount and how much of it is used.
#[derive(Clone, Copy)]
struct Share {
    kind: NotificationKind,
    part: i128,
    whole: i64,
}

impl Share {
    fn has_reached(self, percent: u32) -> bool {
        self.whole > 0 && self.part * 100 >= i128::from(self.whole) * i128::from(percent)
    }
}

/// A meter's two amounts: what is included, and its own budget.
fn shares(e: &Entitlement) -> [Share; 2] {
    let included = i64::try_from(e.included.scaled()).unwrap_or(i64::MAX);
    let spent = i128::from(e.meter_cost_minor);
    [
        Share { kind: NotificationKind::IncludedUsed, part: e.used.scaled(), whole: included },
        Share { kind: NotificationKind::BudgetUsed, part: spent, whole: e.meter_budget_minor.unwrap_or(0) },
    ]
}

/// The amount that all meters share: the budget for all overage.
fn budget_share(e: &Entitlement) -> Share {
    Share { kind: NotificationKind::BudgetUsed, part: i128::from(e.overage_cost_minor), whole: e.budget_minor }
}

/// Whether a meter is allowed is another answer than before. Before the first decision everything
/// that the plan has was allowed.
pub(super) fn answer_changed(was: Option<&Entitlement>, is: &Entitlement) -> bool {
    was.map_or(is_in_plan(is), |was| was.allowed) != is.allowed
}

/// Notifications about one meter. `change` tells this block from every other one of the meter.
pub(super) fn of_meter(
    was: Option<&Entitlement>,
    is: &Entitlement,
    watch: &Watch,
    change: i64,
) -> Result<Vec<NewNotification>, BooksError> {
    let before = was.filter(|was| was.period_start == is.period_start).map(shares);
    let not_sent = watch.not_sent(was);
    let mut found = vec![];
    for (at, share) in shares(is).into_iter().enumerate() {
        let crossed = watch.crossed(share, before.map(|before| before[at]), not_sent);
        let occasion = |(percent, not_sent)| Occasion { percent, base: share.whole, not_sent };
        for of in crossed {
            found.push(new_notification(is, &is.meter, share.kind, occasion(of))?);
        }
    }
    if answer_changed(was, is) {
        let kind = if is.allowed { NotificationKind::Unblocked } else { NotificationKind::Blocked };
        // the backend knows the answer before, also when it was that the plan lacks the meter
        let not_sent = watch.silent.or(was.is_none().then_some(FIRST));
        found.push(new_notification(is, &is.meter, kind, Occasion { percent: 0, base: change, not_sent })?);
    }
    Ok(found)
}

/// Notifications about the budget for all meters, which every entitlement of the customer has.
/// `decided` are the decisions before.
pub(super) fn of_budget(
    decided: &BTreeMap<String, Entitlement>,
    entitlements: &[Entitlement],
    watch: &Watch,
) -> Result<Vec<NewNotification>, BooksError> {
    let Some(is) = entitlements.first() else { return Ok(vec![]) };
    let before = decided.values().find(|was| was.period_start == is.period_start).map(budget_share);
    let share = budget_share(is);
    let of_first = |e: &Entitlement| e.meter_cost_minor > 0 && !decided.get(&e.meter).is_some_and(is_in_plan);
    let is_first = decided.is_empty() || entitlements.iter().any(of_first);
    let not_sent = watch.silent.or(is_first.then_some(FIRST));
    let crossed = watch.crossed(share, before, not_sent);
    let occasion = |(percent, not_sent)| Occasion { percent, base: share.whole, not_sent };
    crossed.map(|of| new_notification(is, "", share.kind, occasion(of))).collect()
}

/// What identifies a notification beside customer, meter, kind and period; and whether it is sent.
struct Occasion {
    /// The threshold; 0 for a block.
    percent: u32,
    /// The amount that the threshold is a share of; for a block, the number of the change.
    base: i64,
    not_sent: Option<&'static str>,
}

/// The webhook's data.
#[derive(Serialize)]
struct Data<'a> {
    #[serde(flatten)]
    of_meter: Option<DataOfMeter<'a>>,
    budget_minor: i64,
    currency: &'a str,
    customer: &'a str,
    overage_cost_minor: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    percent: Option<u32>,
    period_end: String,
    period_start: String,
}

/// What a notification about one meter says of it.
#[derive(Serialize)]
struct DataOfMeter<'a> {
    allowed: bool,
    effective_limit: Option<String>,
    included: String,
    meter: &'a str,
    meter_budget_minor: Option<i64>,
    meter_cost_minor: i64,
    reason: &'static str,
    used: String,
    used_billed: String,
    used_measured: String,
}

fn new_notification(
    e: &Entitlement,
    meter: &str,
    kind: NotificationKind,
    occasion: Occasion,
) -> Result<NewNotification, BooksError> {
    let Occasion { percent, base, not_sent } = occasion;
    let of_meter = (!meter.is_empty()).then(|| DataOfMeter {
        allowed: e.allowed,
        effective_limit: e.effective_limit.map(|limit| limit.to_string()),
        included: e.included.to_string(),
        meter,
        meter_budget_minor: e.meter_budget_minor,
        meter_cost_minor: e.meter_cost_minor,
        reason: e.reason.name(),
        used: e.used.to_string(),
        used_billed: e.used_billed.to_string(),
        used_measured: e.used_measured.to_string(),
    });
    let data = Data {
        of_meter,
        budget_minor: e.budget_minor,
        currency: &e.currency,
        customer: &e.customer,
        overage_cost_minor: e.overage_cost_minor,
        percent: (percent > 0).then_some(percent),
        period_end: e.period_end.to_string(),
        period_start: e.period_start.to_string(),
    };
    Ok(NewNotification {
        customer: e.customer.clone(),
        meter: meter.to_owned(),
        kind,
        period_start: e.period_start.as_second(),
        percent,
        base,
        data: rows::json(&data)?,
        not_sent,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jiff::{SignedDuration, Timestamp};

    use super::*;

    fn run(notifies: bool, restored: Option<&str>) -> LastRun {
        LastRun {
            enforced_at: Timestamp::UNIX_EPOCH,
            stale_after: SignedDuration::from_hours(72),
            on_stale: "warn".into(),
            notifies,
            thresholds: vec![50, 80],
            restored: restored.map(str::to_owned),
            as_of: None,
            open_days: vec![],
            undivided_days: BTreeSet::new(),
            inputs: String::new(),
            swept_at: Timestamp::UNIX_EPOCH,
            missed: 0,
        }
    }

    #[test]
    fn a_run_sends_what_happens_after_a_run_that_would_have_sent_it() {
        let (backup, read) = (Some("backup_at 5"), Some("restored_bills 9, restored_from 5"));
        for (last, is, has_key, silent) in [
            (None, run(true, None), false, None),
            (Some(run(true, None)), run(true, None), true, None),
            (Some(run(true, None)), run(false, None), false, Some(NO_WEBHOOK)),
            (Some(run(false, None)), run(true, None), false, Some(SWITCHED_ON)),
            // restored: without a key the first run, with one until bills are read again
            (Some(run(true, None)), run(true, backup), false, Some(RESTORED)),
            (None, run(true, backup), false, Some(RESTORED)),
            (Some(run(true, backup)), run(true, backup), false, None),
            (Some(run(true, backup)), run(true, backup), true, Some(RESTORED)),
            (Some(run(true, backup)), run(true, read), true, Some(RESTORED)),
            (Some(run(true, read)), run(true, read), true, None),
            (Some(run(true, read)), run(true, None), true, None),
        ] {
            let watch = Watch::new(&is, last.as_ref(), has_key);
            assert_eq!(watch.silent, silent, "{last:?} {is:?} {has_key}");
            assert!(watch.new_thresholds.is_empty());
        }
        let watch = Watch::new(&LastRun { thresholds: vec![50, 70], ..run(true, None) }, Some(&run(true, None)), false);
        assert_eq!((watch.thresholds, watch.new_thresholds), (vec![50, 70], vec![70]));
    }
}
