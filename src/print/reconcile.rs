//! Bill, ledger, plan and Stripe compared.

use std::collections::BTreeMap;
use std::ops::Deref;

use books::stripe::billing_target::{Conservation, MoneyParts};
use books::stripe::comparison::{ComparedBill, ComparedPeriod, UsageWithoutPeriod, Verdict, WithoutPeriod};
use books::units::calendar::Month;
use books::units::money::{Currency, Money};
use books::units::quantity::Quantity;
use jiff::Timestamp;
use jobs::stripe::BillingSettings;
use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::Serialize;

use super::out;
use crate::format::{ago, count, quantity};

/// The largest number of periods that are compared at once.
pub(crate) const MOST: u32 = 1_000_000;

/// Stripe's units for each unit of a meter.
pub(crate) fn per_unit(billing: &BillingSettings, meter: &str) -> Decimal {
    billing.meters.get(meter).map_or(Decimal::ONE, |mapping| mapping.per_unit)
}

/// A period, as it is in JSON.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub(crate) struct ReconciledPeriod {
    #[serde(flatten)]
    of: ComparedPeriod,
    /// By how much the target is above the accepted events, in Stripe's units.
    difference: i64,
    /// What became of the usage.
    conservation: Conservation,
    /// What was used in advance, so that the next included amount is less by that.
    advance: Quantity,
    /// What the usage is worth at the plan's price; none when nothing is priced.
    worth: Option<Worth>,
    verdict: Verdict,
}

/// What parts of the usage are worth.
#[derive(Clone, Copy, Debug, JsonSchema, Serialize)]
struct Worth {
    billed: Money,
    waiting: Money,
    house: Money,
}

impl Deref for ReconciledPeriod {
    type Target = ComparedPeriod;

    fn deref(&self) -> &ComparedPeriod {
        &self.of
    }
}

impl ReconciledPeriod {
    pub(crate) fn new(of: ComparedPeriod, billing: &BillingSettings) -> Self {
        let per_unit = per_unit(billing, &of.meter);
        let (difference, verdict) = (of.target - of.events.accepted, of.verdict());
        let (conservation, advance) = (of.conservation(per_unit), of.parts.in_advance());
        let worth = of.money(per_unit).map(|(currency, MoneyParts { billed, waiting, house })| {
            let [billed, waiting, house] = [billed, waiting, house].map(|minor| Money { minor, currency });
            Worth { billed, waiting, house }
        });
        Self { of, difference, conservation, advance, worth, verdict }
    }
}

/// Periods, each in a few lines.
pub(crate) fn periods(rows: &[ComparedPeriod], billing: &BillingSettings, now: Timestamp) {
    for c in rows {
        let parts = c.conservation(per_unit(billing, &c.meter));
        let invoice = if c.billed { "" } else { ", no subscription" };
        out(&format!("{}  {}  period from {}{invoice}", c.customer, c.meter, c.period_start));
        out(&format!("  {}", usage(&parts)));
        if let Some(money) = money(c, billing) {
            out(&format!("  {money}"));
        }
        for note in notes(c, now) {
            out(&format!("  {note}"));
        }
        out("");
    }
}

/// The sum of the parts, without those that are 0.
pub(crate) fn usage(parts: &Conservation) -> String {
    let Conservation { booked, within, billed, waiting, house, not_priced } = *parts;
    sum(
        booked,
        &[
            (within, "in the plan"),
            (billed, "billed"),
            (waiting, "waiting"),
            (house, "house"),
            (not_priced, "not priced"),
        ],
    )
}

/// A sum and its parts, without those that are 0: `booked 5 = 3 in the plan + 2 billed`.
pub(crate) fn sum(booked: Quantity, parts: &[(Quantity, &str)]) -> String {
    let shown = parts.iter().filter(|(amount, _)| !amount.is_zero());
    let shown: Vec<String> = shown.map(|(amount, name)| format!("{} {name}", quantity(*amount))).collect();
    let parts = if shown.is_empty() { "0".to_owned() } else { shown.join(" + ") };
    format!("booked {} = {parts}", quantity(booked))
}

/// What the parts are worth at the plan's price; none if nothing is priced.
pub(crate) fn money(c: &ComparedPeriod, billing: &BillingSettings) -> Option<String> {
    let (currency, money) = c.money(per_unit(billing, &c.meter))?;
    (money != MoneyParts::default()).then(|| format!("at the plan's price: {}", worth(currency, money)))
}

/// What parts of usage are worth: `1.20 USD billed, 0.00 USD waiting, 3.00 USD house`.
pub(crate) fn worth(currency: Currency, money: MoneyParts) -> String {
    let written = |minor: i64| format!("{} {currency}", currency.written(minor));
    let MoneyParts { billed, waiting, house } = money;
    format!("{} billed, {} waiting, {} house", written(billed), written(waiting), written(house))
}

/// Why something is not at Stripe, and what Stripe said last.
pub(crate) fn notes(c: &ComparedPeriod, now: Timestamp) -> Vec<String> {
    let mut notes = vec![];
    if let Some(alarm) = &c.alarm {
        notes.push(format!("ALARM: {alarm}"));
    }
    match c.acknowledged {
        0 => {}
        short if short > 0 => notes.push(format!("Stripe has {short} less, acknowledged")),
        surplus => notes.push(format!("Stripe has {} more, acknowledged", surplus.unsigned_abs())),
    }
    if let Some(because) = &c.deferred_reason {
        let seen = if c.deferred_acknowledged { ", acknowledged" } else { "" };
        notes.push(format!("deferred {}: {because}{seen}", c.deferred));
    }
    for entry in &c.acknowledgements {
        notes.push(format!("acknowledged by {} at {}: {} ({})", entry.actor, entry.at, entry.matter, entry.reason));
    }
    for (amount, what) in
        [(c.events.open, "on its way"), (c.events.refused, "refused"), (c.events.discarded, "discarded by a person")]
    {
        if amount != 0 {
            notes.push(format!("{amount} {what}"));
        }
    }
    let unplanned = c.ledger - Quantity::from_scaled(i128::from(c.parts.used));
    if !unplanned.is_zero() {
        notes.push(format!("{} booked since the last push", quantity(unplanned)));
    }
    match (c.read_at, c.seen) {
        (Some(at), Some(seen)) if c.seen == c.expected => {
            notes.push(format!("Stripe: its invoice has {seen}, read {}", ago(at, now)));
        }
        (Some(at), Some(seen)) => {
            let expected = c.expected.unwrap_or_default();
            let judged = if c.alarm.is_some() { "" } else { "; not judged yet" };
            notes.push(format!("Stripe: its invoice had {seen} of {expected}, read {}{judged}", ago(at, now)));
        }
        _ if c.accepted_on_invoice > 0 => notes.push("Stripe: its total was not read yet; not judged yet".into()),
        _ => {}
    }
    notes
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
pub(crate) fn sums(rows: &[ComparedPeriod], billing: &BillingSettings) {
    let mut sums: BTreeMap<(String, &str), Conservation> = BTreeMap::new();
    for c in rows {
        let sum = sums.entry((Month::of(c.period_start).to_string(), &c.meter)).or_default();
        sum.add(&c.conservation(per_unit(billing, &c.meter)));
    }
    let rows = sums.into_iter().map(|((month, meter), sum)| {
        let Conservation { booked, within, billed, waiting, house, not_priced } = sum;
        let parts = [booked, within, billed, waiting, house, not_priced].map(quantity);
        [vec![month, meter.to_owned()], parts.to_vec()].concat()
    });
    let titles = ["from", "meter", ">booked", "4>in plan", ">billed", "3>waiting", "2>house", "1>not priced"];
    super::table(&titles, rows.collect());
}

/// Usage that lies in no billing period.
pub(crate) fn without_period(rows: &[UsageWithoutPeriod]) {
    for row in rows {
        let amount = quantity(row.quantity);
        let ids = count(u64::try_from(row.ids).unwrap_or_default());
        out(&match row.why {
            WithoutPeriod::NoTag => format!("{} of {amount} without a customer's tag: house", row.meter),
            WithoutPeriod::UnknownCustomer => format!(
                "{} of {amount} waits: {ids} id(s) have no row in `customers`; `meter usage` lists them",
                row.meter
            ),
            WithoutPeriod::NoPeriod => {
                format!(
                    "{} of {amount} waits: {ids} customer(s) get a billing period by `meter run roll-periods`",
                    row.meter
                )
            }
        });
    }
}

/// The last line: what can be said about everything that was compared.
pub(crate) fn conclusion(verdict: Verdict, bills: &[ComparedBill], rows: &[ComparedPeriod]) -> &'static str {
    match verdict {
        Verdict::Agrees if bills.is_empty() && rows.is_empty() => {
            "nothing was compared: no bill is booked, and no billing period begins in these months"
        }
        Verdict::Agrees if rows.iter().all(|c| c.read_at.is_none()) => {
            "AWS bill = ledger = the sum of its parts: every difference is 0; nothing is on an invoice that Stripe could show"
        }
        Verdict::Agrees => "AWS bill = ledger = the sum of its parts, and Stripe's totals agree: every difference is 0",
        Verdict::NotJudged => "not judged yet: totals of Stripe were not read, or have not stood for a day",
        Verdict::Waiting => "waiting: not everything is at Stripe; the lines above say why",
        Verdict::Differs => "something differs: see ALARM above",
    }
}
