//! Budgets of a customer, or every change of them.

use books::limits::budget::Budget;

use super::decided::Runs;
use super::out;
use crate::format::{ago, money};

/// The budgets that hold.
pub(crate) fn current(budgets: &[Budget]) {
    if budgets.is_empty() {
        return out("no overage budget is set: nothing beyond the plan may be used");
    }
    show(budgets, "budget for");
}

/// Says from when on the newest budget counts, if no run of enforcement has seen it.
pub(crate) fn not_counted(budgets: &[Budget], runs: &Runs) {
    let newest = budgets.iter().map(|b| b.set_at).max();
    if newest.is_some_and(|at| runs.last.as_ref().is_none_or(|last| last.enforced_at <= at)) {
        out(&format!("What was set {} counts from {}.", ago(newest.unwrap_or_default(), runs.now), runs.next()));
    }
}

/// Every change of the budgets.
pub(crate) fn history(changes: &[Budget]) {
    if changes.is_empty() {
        return out("no overage budget was ever set: nothing beyond the plan may be used");
    }
    show(changes, "budget set for");
}

fn show(budgets: &[Budget], title: &str) {
    let row = |b: &Budget| {
        let meter = if b.meter.is_empty() { "all meters".to_owned() } else { b.meter.clone() };
        let amount = b.amount_minor.map_or("taken away".to_owned(), |minor| money(minor, &b.currency));
        vec![meter, amount, b.set_by.clone(), b.set_at.to_string()]
    };
    super::table(&[title, ">amount", "by", "at"], budgets.iter().map(row).collect());
}
