//! The report of an enforcement of budgets.

use books::limits::entitlement::{Entitlement, Freshness, Reason};
use jiff::Timestamp;
use jobs::enforce_budgets::{EnforceReport, EntitlementChange};

use super::out;
use crate::format::{count, money, readable, span};

/// Prints who is blocked or unblocked, with the figures of each decision.
pub(crate) fn show(report: &EnforceReport, now: Timestamp) {
    let would = if report.dry_run { "would be " } else { "" };
    let answer = |e: &Entitlement| if e.allowed { "allowed" } else { "BLOCKED" };
    let row = |c: &EntitlementChange| {
        let e = &c.is;
        let was = c.was.as_ref().map_or("new", answer);
        let limit = e.effective_limit.map_or("none".to_owned(), readable);
        let is_in_plan = !matches!(e.reason, Reason::NotInPlan | Reason::UnknownPlan);
        let cost = format!("{} of {}", money(e.overage_cost_minor, &e.currency), money(e.budget_minor, &e.currency));
        vec![
            e.customer.clone(),
            e.meter.clone(),
            format!("{was} -> {}", answer(e)),
            e.reason.name().to_owned(),
            readable(e.used),
            readable(e.included),
            limit,
            if is_in_plan { cost } else { "-".to_owned() },
        ]
    };
    if !report.changes.is_empty() {
        let titles =
            ["#customer", "meter", "decision", "5~reason", ">used", "3>included", "4>limit", "1>overage of budget"];
        super::table(&titles, report.changes.iter().map(row).collect());
    }
    out(&format!(
        "as of {now:.0}: {} customer(s) checked, {} {would}changed; {} meter(s) {would}newly blocked, {} {would}unblocked",
        count(report.customers),
        count(report.changed),
        count(report.blocked),
        count(report.unblocked),
    ));
    let not_in_plan = match report.not_in_plan {
        0 => String::new(),
        n => format!("; {} more that the customer's plan does not have", count(n)),
    };
    let reached = report.not_allowed.saturating_sub(report.not_in_plan);
    out(&format!(
        "{}: {} meter(s){not_in_plan}",
        if report.dry_run { "blocked then, as before or newly" } else { "blocked now" },
        count(reached)
    ));
    if report.notifications > 0 {
        out(&format!("{} notification(s) will be sent to the web backend", count(report.notifications)));
    }
    if report.not_sent > 0 {
        out(&format!(
            "{} notification(s) are kept and not sent; `meter notifications list` says why",
            count(report.not_sent)
        ));
    }
    let age = report.as_of.map(|at| format!("bills include usage through {at}, {} ago", span(now.duration_since(at))));
    out(&age.unwrap_or_else(|| "no bill with usage is booked: only TURN credentials are counted".to_owned()));
    let what = match report.freshness {
        Some(Freshness::Stale) => "the bill is older than enforce.stale_after_hours",
        _ => "a payer has no booked bill with usage",
    };
    if let Some(policy) = report.on_stale {
        out(&format!("attention: {what}; enforce.on_stale is {}", policy.name()));
    }
    let notes = [
        (
            report.without_period,
            "customer(s) without a current billing period: `meter run roll-periods` opens them".to_owned(),
        ),
        (report.unknown_plan, "customer(s) of a plan that is not known, for whom everything is blocked".to_owned()),
        (
            report.budget_in_other_currency,
            "customer(s) with a budget in another currency than the plan; it counts as none".to_owned(),
        ),
        (
            report.from_the_future,
            "customer(s) with decisions later than this worker's clock, left as they are: it is behind the database's"
                .to_owned(),
        ),
    ];
    if !report.unmetered.is_empty() {
        out(&format!("attention: a plan has meters that are not configured: {}", report.unmetered.join(", ")));
    }
    for (n, note) in notes.iter().filter(|(n, _)| *n > 0) {
        out(&format!("attention: {} {note}", count(*n)));
    }
}
