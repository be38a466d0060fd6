//! Which notifications a new decision makes: thresholds that usage crosses, and meters that are
//! blocked or unblocked. Pure.
//!
//! A threshold that the decision before had reached makes none. When a restated bill takes usage
//! back and gives it again, the same notification is made again, and the table keeps one of each.

use books::limits::entitlement::{Entitlement, Reason};
use books::limits::notification::{NewNotification, NotificationKind};

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

/// Notifications about one meter. `change` tells this block from every other one of the meter.
pub(super) fn of_meter(
    was: Option<&Entitlement>,
    is: &Entitlement,
    thresholds: &[u32],
    change: i64,
) -> Vec<NewNotification> {
    let before = was.filter(|was| was.period_start == is.period_start).map(shares);
    let mut found = vec![];
    for (at, share) in shares(is).into_iter().enumerate() {
        let had = |percent| before.is_some_and(|b| b[at].whole == share.whole && b[at].has_reached(percent));
        let crossed = thresholds.iter().filter(|p| share.has_reached(**p) && !had(**p));
        found.extend(
            crossed.map(|p| new_notification(is, &is.meter, share.kind, Occasion { percent: *p, base: share.whole })),
        );
    }
    // before the first decision everything that the plan has was allowed
    let in_plan = !matches!(is.reason, Reason::NotInPlan | Reason::UnknownPlan);
    if was.map_or(in_plan, |was| was.allowed) != is.allowed {
        let kind = if is.allowed { NotificationKind::Unblocked } else { NotificationKind::Blocked };
        found.push(new_notification(is, &is.meter, kind, Occasion { percent: 0, base: change }));
    }
    found
}

/// Notifications about the budget for all meters; every entitlement of the customer has it.
pub(super) fn of_budget(was: Option<&Entitlement>, is: &Entitlement, thresholds: &[u32]) -> Vec<NewNotification> {
    let before = was.filter(|was| was.period_start == is.period_start && was.budget_minor == is.budget_minor);
    let had = |percent| before.is_some_and(|was| budget_share(was).has_reached(percent));
    let share = budget_share(is);
    let crossed = thresholds.iter().filter(|p| share.has_reached(**p) && !had(**p));
    crossed.map(|p| new_notification(is, "", share.kind, Occasion { percent: *p, base: share.whole })).collect()
}

/// What identifies a notification beside customer, meter, kind and period.
struct Occasion {
    /// The threshold; 0 for a block.
    percent: u32,
    /// The amount that the threshold is a share of; for a block, the number of the change.
    base: i64,
}

fn new_notification(e: &Entitlement, meter: &str, kind: NotificationKind, occasion: Occasion) -> NewNotification {
    let Occasion { percent, base } = occasion;
    let mut data = serde_json::Map::new();
    let mut put = |name: &str, value: serde_json::Value| drop(data.insert(name.to_owned(), value));
    put("customer", e.customer.clone().into());
    put("period_start", e.period_start.to_string().into());
    put("period_end", e.period_end.to_string().into());
    put("overage_cost_minor", e.overage_cost_minor.into());
    put("budget_minor", e.budget_minor.into());
    put("currency", e.currency.clone().into());
    if percent > 0 {
        put("percent", percent.into());
    }
    if !meter.is_empty() {
        put("meter", meter.into());
        put("allowed", e.allowed.into());
        put("reason", e.reason.name().into());
        put("used", e.used.to_string().into());
        put("included", e.included.to_string().into());
        put("effective_limit", e.effective_limit.map(|l| l.to_string()).into());
        put("meter_cost_minor", e.meter_cost_minor.into());
        put("meter_budget_minor", e.meter_budget_minor.into());
    }
    NewNotification {
        customer: e.customer.clone(),
        meter: meter.to_owned(),
        kind,
        period_start: e.period_start.as_second(),
        percent,
        base,
        data,
    }
}
