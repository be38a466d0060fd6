//! Budgets of a customer, or every change of them.

use books::limits::budget::Budget;

use super::out;
use crate::format::money;

/// The budgets that hold.
pub(crate) fn current(budgets: &[Budget]) {
    show(budgets, "budget for");
}

/// Every change of the budgets.
pub(crate) fn history(changes: &[Budget]) {
    show(changes, "budget set for");
}

fn show(budgets: &[Budget], title: &str) {
    if budgets.is_empty() {
        out("no overage budget was ever set: nothing beyond the plan may be used");
        return;
    }
    let row = |b: &Budget| {
        let meter = if b.meter.is_empty() { "all meters".to_owned() } else { b.meter.clone() };
        let amount = b.amount_minor.map_or("taken away".to_owned(), |minor| money(minor, &b.currency));
        vec![meter, amount, b.set_by.clone(), b.set_at.to_string()]
    };
    super::table(&[title, ">amount", "by", "at"], budgets.iter().map(row).collect());
}
