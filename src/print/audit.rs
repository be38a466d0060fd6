//! The audit of the books.

use books::audit::billing_sums::BillingSums;
use books::audit::checks::Audit;
use books::units::money::Currency;

use super::reconcile::{sum, worth};
use super::{Mark, marked, out};
use crate::exit::Exit;
use crate::format::{count, several};

/// Prints every check with the places where its rule is broken, and what became of all usage.
pub(crate) fn show(audit: &Audit) {
    for check in &audit.checks {
        let sound = check.violations.is_empty();
        let state = match (sound, check.checked) {
            (false, _) => (Mark::Wrong, "  BROKEN"),
            (true, 0) => (Mark::Warning, "  -     "),
            (true, _) => (Mark::Good, "  ok    "),
        };
        marked(state, &format!("  {} ({} checked)", check.rule, count(check.checked)));
        check.violations.iter().for_each(|v| out(&format!("          {v}")));
    }
    if !audit.billing.is_empty() {
        out("");
        out("from ledger to invoice, all customers and periods:");
    }
    for of in &audit.billing {
        for line in billing(of) {
            out(&format!("  {line}"));
        }
    }
    let broken = audit.checks.iter().filter(|check| !check.violations.is_empty()).count();
    let empty = audit.checks.iter().filter(|check| check.checked == 0).count();
    let rules = several(audit.checks.len(), "rule");
    let without = if empty == 0 { String::new() } else { format!("; {empty} of them had nothing to check yet") };
    out("");
    match broken {
        0 if empty == audit.checks.len() => out("there is nothing to check yet"),
        0 => out(&format!("{rules} checked: the books are sound{without}")),
        _ => out(&format!("{broken} of {rules} are broken{without}")),
    }
}

/// What became of all usage of a meter, and what the parts are worth in each currency.
pub(crate) fn billing(of: &BillingSums) -> Vec<String> {
    let words = of.named().map(|(name, amount)| {
        let words = match name {
            "within" => "in the plan",
            "not_priced" => "not priced",
            "no_tag" => "without a tag",
            "unknown_customer" => "of unknown customers",
            "no_period" => "in no period yet",
            name => name,
        };
        (amount, words)
    });
    let mut lines = vec![format!("{}: {}", of.meter, sum(of.booked, &words))];
    for (currency, money) in &of.money {
        if let Ok(currency) = currency.parse::<Currency>() {
            lines.push(format!("  at the plans' prices: {}", worth(currency, *money)));
        }
    }
    lines
}

/// How a command ends that found this.
pub(crate) fn exit(audit: &Audit) -> Exit {
    if audit.is_sound() { Exit::Ok } else { Exit::Failed }
}
