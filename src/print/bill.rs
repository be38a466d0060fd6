//! Bill previews: a customer's lines, the sums of many, and CSV.

use std::collections::BTreeMap;

use books::stripe::billing_target::Conservation;
use books::units::money::{Currency, Money};
use books::units::quantity::Quantity;
use jobs::push_stripe::DeferReason;
use jobs::push_stripe::bill::{BillTotal, Bills, Correction, CustomerBill, InvoiceLine, InvoiceState, NoBill};

use super::reconcile::sum;
use super::{customer, out, quantity, rounded, several, table};

type Units = BTreeMap<String, String>;

/// Decimals of quantities beside each other.
const DECIMALS: u32 = 2;

pub(crate) fn show(found: &Bills, view: View, units: &Units) {
    match view {
        View::Lines => {
            for (at, bill) in found.bills.iter().enumerate() {
                if at > 0 {
                    out("");
                }
                lines(bill, units);
            }
            if found.bills.is_empty() && found.unknown.is_empty() {
                out("no billing period of this customer begins then");
            }
        }
        View::Sums => sums(found),
    }
    for unknown in &found.unknown {
        let why = match unknown.why {
            NoBill::UnknownPlan => "no plan has the name of its plan: `meter plan list`",
            NoBill::PeriodsPending => {
                "it is new, or its subscription has changed: `meter run roll-periods`, or a worker, follows"
            }
        };
        out(&format!("no bill can be made for {}: {why}", customer(&unknown.customer)));
    }
}

/// What is shown of bills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// Each line of each bill.
    Lines,
    /// A row for each bill, and their sums.
    Sums,
}

fn lines(bill: &CustomerBill, units: &Units) {
    let CustomerBill { currency, .. } = bill;
    let invoice = match bill.invoice {
        InvoiceState::Open => "its invoice takes usage",
        InvoiceState::Closed => "its invoice is closed",
        InvoiceState::None => "no subscription, so no invoice",
    };
    out(&format!("{}, plan {}", customer(&bill.customer), bill.plan));
    out(&format!("{} to before {}: {invoice}", day(bill.period_start), day(bill.period_end)));
    out("");
    let row = |line: &InvoiceLine| {
        vec![
            line.meter.clone(),
            rounded(line.included, DECIMALS),
            rounded(line.usage.booked, DECIMALS),
            rounded(billed(line), DECIMALS),
            line.price.map_or("-".to_owned(), |price| price.to_string()),
            money(line.amount),
        ]
    };
    let mut rows: Vec<Vec<String>> = bill.lines.iter().map(row).collect();
    let total = money(bill.amount);
    rows.push(vec!["total".into(), String::new(), String::new(), String::new(), currency.to_string(), total]);
    table(&["meter", ">included", ">used", ">billed", ">price", ">amount"], rows);
    for line in &bill.lines {
        let notes = notes(line, *currency, unit(units, &line.meter));
        if !notes.is_empty() {
            out("");
            out(&line.meter);
            notes.iter().for_each(|note| out(&format!("  {note}")));
        }
    }
}

/// What a line does not say by itself.
fn notes(line: &InvoiceLine, currency: Currency, unit: &str) -> Vec<String> {
    let mut notes = vec![];
    let Conservation { booked, within, billed, waiting, house, not_priced } = line.usage;
    if !(billed.is_zero() && waiting.is_zero() && house.is_zero() && not_priced.is_zero()) {
        let parts = [
            (within, "in the plan"),
            (billed, "billed"),
            (waiting, "waiting"),
            (house, "house"),
            (not_priced, "not priced"),
        ];
        notes.push(format!("{} ({unit})", sum(booked, &parts)));
    }
    let units = |value: i64| units_of(line, value);
    for Correction { period_start, value } in &line.corrections {
        notes.push(format!("{} on this invoice for the period from {}", units(*value), day(*period_start)));
    }
    for Correction { period_start, value } in &line.carried {
        notes.push(format!("{} on the invoice of the period from {}", units(*value), day(*period_start)));
    }
    let not_sent = line.quantity - line.sent;
    if not_sent != 0 {
        notes.push(format!("{} of the invoice's quantity not at Stripe yet", units(not_sent)));
    }
    if let Some(waiting) = &line.waits {
        let why = DeferReason::named(&waiting.reason).map_or("", DeferReason::words);
        let worth = line.waiting_worth.written();
        notes.push(format!("waiting: {} ({worth} {currency}): {why}", units(waiting.value)));
    }
    if !house.is_zero() {
        let worth = line.house_worth.written();
        notes.push(format!("house: {} ({worth} {currency}): the company pays it", quantity(house)));
    }
    if line.amount.is_none() {
        notes.push("the plan has no price for it: Stripe's price decides what the line costs".into());
    }
    notes
}

fn sums(found: &Bills) {
    if found.bills.is_empty() && found.unknown.is_empty() {
        return out("no billing period begins then");
    }
    let row = |bill: &CustomerBill| {
        vec![
            customer(&bill.customer).to_owned(),
            bill.plan.clone(),
            day(bill.period_start),
            money(bill.amount),
            bill.waiting_worth.written(),
            bill.house_worth.written(),
            bill.currency.to_string(),
        ]
    };
    let titles = ["customer", "1plan", "period from", ">amount", "3>waiting", "2>house", "~"];
    table(&titles, found.bills.iter().map(row).collect());
    out("");
    for (code, total) in found.totals() {
        out(&format!("{} in {code}: {}", several(total.bills, "bill"), words(&total)));
    }
}

/// The sums of a currency.
fn words(total: &BillTotal) -> String {
    let written = |minor: i64| total.currency.written(minor);
    let (amount, waiting) = (written(total.amount_minor), written(total.waiting_minor));
    let unpriced = match total.unpriced {
        0 => String::new(),
        n => format!("; {} with a price that only Stripe knows", several(n, "bill")),
    };
    format!("{amount} billed, {waiting} waiting, {} house{unpriced}", written(total.house_minor))
}

/// Prints each line exactly, with a header.
pub(crate) fn csv(found: &Bills, units: &Units) -> anyhow::Result<()> {
    const TITLES: [&str; 24] = [
        "customer",
        "plan",
        "period_start",
        "period_end",
        "invoice",
        "meter",
        "unit",
        "included",
        "used",
        "within",
        "billed",
        "waiting",
        "house",
        "not_priced",
        "quantity",
        "per_unit",
        "sent",
        "corrections",
        "price",
        "currency",
        "amount",
        "waiting_amount",
        "house_amount",
        "waiting_reason",
    ];
    let mut rows = vec![];
    for (bill, line) in found.bills.iter().flat_map(|bill| bill.lines.iter().map(move |line| (bill, line))) {
        let Conservation { booked, within, billed, waiting, house, not_priced } = line.usage;
        let currency = bill.currency;
        let corrections: i64 = line.corrections.iter().map(|correction| correction.value).sum();
        let mut row = vec![
            bill.customer.clone(),
            bill.plan.clone(),
            bill.period_start.to_string(),
            bill.period_end.to_string(),
            bill.invoice.name().to_owned(),
            line.meter.clone(),
            unit(units, &line.meter).to_owned(),
        ];
        row.extend([line.included, booked, within, billed, waiting, house, not_priced].map(|q| q.to_string()));
        row.extend([
            line.quantity.to_string(),
            line.per_unit.to_string(),
            line.sent.to_string(),
            corrections.to_string(),
            line.price.map_or(String::new(), |price| price.to_string()),
            currency.to_string(),
            line.amount.map_or(String::new(), Money::written),
            line.waiting_worth.written(),
            line.house_worth.written(),
            line.waits.as_ref().map_or(String::new(), |waiting| waiting.reason.clone()),
        ]);
        rows.push(row);
    }
    super::csv(&TITLES, rows)
}

/// What is billed in units of the meter.
fn billed(line: &InvoiceLine) -> Quantity {
    Quantity::of_stripe(line.charged, line.per_unit)
}

fn units_of(line: &InvoiceLine, value: i64) -> String {
    quantity(Quantity::of_stripe(value, line.per_unit))
}

fn money(of: Option<Money>) -> String {
    of.map_or("Stripe's".to_owned(), Money::written)
}

fn unit<'a>(units: &'a Units, meter: &str) -> &'a str {
    units.get(meter).map_or("units", String::as_str)
}

fn day(at: jiff::Timestamp) -> String {
    at.strftime("%F").to_string()
}
