//! Bill, ledger and Stripe compared.

use std::collections::BTreeMap;

use books::stripe::comparison::{ComparedBill, ComparedPeriod};
use books::units::calendar::Month;
use books::units::quantity::Quantity;
use jiff::Timestamp;

use super::out;
use crate::format::{ago, count, quantity};

/// The largest number of periods that are compared at once.
pub(crate) const MOST: u32 = 1_000_000;

/// Bill minus ledger, and what Stripe lacks.
struct Rest {
    ledger: Quantity,
    stripe: i64,
}

impl Rest {
    fn is_zero(&self) -> bool {
        self.ledger.is_zero() && self.stripe == 0
    }
}

/// Whether the period has a difference or an alarm.
pub(crate) fn differs(c: &ComparedPeriod) -> bool {
    !rest(c).is_zero() || c.alarm.is_some()
}

fn rest(c: &ComparedPeriod) -> Rest {
    Rest { ledger: c.bill - c.ledger, stripe: c.target - c.events.accepted }
}

fn difference(rest: &Rest) -> String {
    match (rest.ledger.is_zero(), rest.stripe) {
        (true, n) => n.to_string(),
        (false, n) => format!("{n}, bill - ledger {}", quantity(rest.ledger)),
    }
}

/// A period for JSON.
pub(crate) fn json(c: &ComparedPeriod) -> serde_json::Value {
    let mut value = serde_json::to_value(c).unwrap_or_default();
    value["aws_bill"] = c.bill.to_string().into();
    value["ledger"] = c.ledger.to_string().into();
    value["difference"] = rest(c).stripe.into();
    value
}

/// The table of periods.
pub(crate) fn table(rows: &[ComparedPeriod], now: Timestamp) {
    let row = |c: &ComparedPeriod| {
        vec![
            c.customer.clone(),
            c.meter.clone(),
            c.period_start.to_string(),
            quantity(c.bill),
            quantity(c.ledger),
            c.target.to_string(),
            c.events.accepted.to_string(),
            difference(&rest(c)),
            why(c, now),
        ]
    };
    let titles =
        ["customer", "meter", "period from", ">AWS bill", ">ledger", ">billable", ">Stripe", ">difference", ""];
    super::table(&titles, rows.iter().map(row).collect());
}

/// Why there is a difference, or when Stripe's total was last read.
fn why(c: &ComparedPeriod, now: Timestamp) -> String {
    if let Some(alarm) = &c.alarm {
        return format!("ALARM: {alarm}");
    }
    let mut parts = vec![];
    match c.acknowledged {
        0 => {}
        short if short > 0 => parts.push(format!("Stripe has {short} less, acknowledged")),
        surplus => parts.push(format!("Stripe has {} more, acknowledged", surplus.unsigned_abs())),
    }
    if !c.billed {
        parts.push("no subscription: not billed".to_owned());
    }
    if let Some(because) = &c.deferred_reason {
        let seen = if c.deferred_acknowledged { ", acknowledged" } else { "" };
        parts.push(format!("deferred {}: {because}{seen}", c.deferred));
    }
    for (amount, what) in
        [(c.events.open, "on its way"), (c.events.refused, "refused"), (c.events.discarded, "discarded by a person")]
    {
        if amount != 0 {
            parts.push(format!("{amount} {what}"));
        }
    }
    match (c.read_at, c.seen) {
        (Some(at), Some(seen)) if c.seen == c.expected => {
            parts.push(format!("its invoice has {seen}, read {}", ago(at, now)));
        }
        (Some(at), Some(seen)) => {
            parts.push(format!("its invoice had {seen} of {}, read {}", c.expected.unwrap_or_default(), ago(at, now)));
        }
        _ => {}
    }
    parts.join("; ")
}

/// The table of bills and the ledger, usage without a customer included.
pub(crate) fn bills(bills: &[ComparedBill]) {
    let row = |b: &ComparedBill| {
        vec![b.month.clone(), b.meter.clone(), quantity(b.bill), quantity(b.ledger), quantity(b.bill - b.ledger)]
    };
    if !bills.is_empty() {
        let titles = ["bill of", "meter", ">AWS bill", ">ledger", ">difference"];
        super::table(&titles, bills.iter().map(row).collect());
        out("");
    }
}

/// Sums by month and meter.
pub(crate) fn sums(rows: &[ComparedPeriod]) {
    /// Bill, ledger, billable, accepted, and how many periods.
    type Sums = (Quantity, Quantity, i128, i128, u64);
    let mut sums: BTreeMap<(String, &str), Sums> = BTreeMap::new();
    for c in rows {
        let sum = sums.entry((Month::of(c.period_start).to_string(), &c.meter)).or_default();
        sum.0 += c.bill;
        sum.1 += c.ledger;
        sum.2 += i128::from(c.target);
        sum.3 += i128::from(c.events.accepted);
        sum.4 += 1;
    }
    let rows = sums.into_iter().map(|((month, meter), (bill, ledger, target, accepted, periods))| {
        vec![
            month,
            meter.to_owned(),
            count(periods),
            quantity(bill),
            quantity(ledger),
            target.to_string(),
            accepted.to_string(),
            (target - accepted).to_string(),
        ]
    });
    let titles = ["periods from", "meter", ">periods", ">AWS bill", ">ledger", ">billable", ">Stripe", ">difference"];
    super::table(&titles, rows.collect());
}
