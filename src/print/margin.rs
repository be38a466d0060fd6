//! Margins: revenue less cost, of customers and in sum, and as CSV.

use std::collections::BTreeMap;

use books::units::quantity::Quantity;
use books::usage::cost::BookedCost;

use super::bill::View;
use super::{customer, out, table};
use crate::format::two_decimals as money;
use crate::margin::{CustomerMargin, MarginLine, MarginTotal, Margins};

/// Where a price is not known, or currencies differ.
const NONE: &str = "-";

pub(crate) fn show(found: &Margins, view: View) {
    match view {
        View::Lines => {
            for (at, of) in found.customers.iter().enumerate() {
                if at > 0 {
                    out("");
                }
                lines(of);
            }
            if found.customers.is_empty() {
                let costs = sums(&found.without_bill);
                let month = &found.month;
                out(&format!("no billing period begins then; AWS charges {} in {month} beside them", words(&costs)));
            }
        }
        View::Sums => all(found),
    }
    for unknown in &found.unknown {
        let command = format!("meter bill {}", unknown.customer);
        out(&format!("no bill can be made for {}: `{command}` says why", customer(&unknown.customer)));
    }
    out("");
    out("Revenue: metered lines of invoices, without base prices and Stripe's fees.");
    out("Cost: of the days of the billing period, as far as AWS has billed them.");
}

fn lines(of: &CustomerMargin) {
    out(&format!("{}, plan {}", customer(&of.customer), of.plan));
    out(&format!("{} through {}", of.first_day, of.last_day));
    out("");
    let row = |line: &MarginLine| {
        vec![line.meter.clone(), amount(line.revenue), money(line.cost), amount(line.margin), line.currency.clone()]
    };
    let mut rows: Vec<Vec<String>> = of.lines.iter().map(row).collect();
    let own = of.currency.to_string();
    let cost = of.costs.get(&own).copied().unwrap_or_default();
    rows.push(vec!["total".into(), amount(of.revenue), money(cost), amount(of.margin), own]);
    table(&["meter", ">revenue", ">cost", ">margin", "~"], rows);
    notes(of.margin.is_none() && of.revenue.is_some(), of.revenue.is_none());
}

fn all(found: &Margins) {
    let mut rows = vec![];
    for of in &found.customers {
        let own = of.currency.to_string();
        let cost = of.costs.get(&own).copied().unwrap_or_default();
        let (id, from) = (customer(&of.customer).to_owned(), of.period_start.strftime("%F").to_string());
        rows.push(vec![id, of.plan.clone(), from, amount(of.revenue), money(cost), amount(of.margin), own.clone()]);
        for (currency, cost) in of.costs.iter().filter(|(currency, _)| **currency != own) {
            let id = customer(&of.customer).to_owned();
            rows.push(vec![
                id,
                of.plan.clone(),
                String::new(),
                NONE.into(),
                money(*cost),
                NONE.into(),
                currency.clone(),
            ]);
        }
    }
    let by_customer = |costs: &[BookedCost]| {
        let mut sums: BTreeMap<(String, String), Quantity> = BTreeMap::new();
        for of in costs {
            *sums.entry((of.customer.clone(), of.currency.clone())).or_default() += of.cost;
        }
        sums
    };
    let others = by_customer(&found.without_bill).into_iter().chain(by_customer(&found.unattributed));
    for ((id, currency), cost) in others {
        let (id, month) = (customer(&id).to_owned(), found.month.clone());
        rows.push(vec![id, "no bill".into(), month, money(Quantity::ZERO), money(cost), money(-cost), currency]);
    }
    if rows.is_empty() {
        return out("no billing period begins then, and AWS has billed no cost");
    }
    table(&["customer", "1plan", "period from", ">revenue", ">cost", ">margin", "~"], rows);
    out("");
    for (currency, total) in &found.totals {
        let MarginTotal { revenue, cost, without_bill, unattributed, margin } = total;
        out(&format!("{currency}: {} revenue, {} cost of bills,", money(*revenue), money(*cost)));
        out(&format!(
            "  {} cost without a bill, {} without a customer: margin {}",
            money(*without_bill),
            money(*unattributed),
            amount(*margin)
        ));
    }
    for of in found.bills.iter().filter(|of| !of.excluded.is_zero()) {
        out(&format!(
            "{} of {} {}: {} {} of credits, taxes, fees and the like is excluded",
            of.meter,
            of.payer,
            of.month,
            money(of.excluded),
            of.currency
        ));
    }
    let unpriced = found.customers.iter().any(|of| of.revenue.is_none());
    notes(found.totals.len() > 1, unpriced);
}

/// Why a margin is missing.
fn notes(is_in_two_currencies: bool, is_unpriced: bool) {
    if is_in_two_currencies {
        out("prices and costs are in different currencies: nothing is converted or subtracted");
    }
    if is_unpriced {
        out("a plan has no price for a meter that is billed: only Stripe knows that revenue");
    }
}

fn sums(costs: &[BookedCost]) -> BTreeMap<&str, Quantity> {
    let mut sums: BTreeMap<&str, Quantity> = BTreeMap::new();
    for of in costs {
        *sums.entry(&of.currency).or_default() += of.cost;
    }
    sums
}

fn words(sums: &BTreeMap<&str, Quantity>) -> String {
    let each: Vec<String> = sums.iter().map(|(currency, cost)| format!("{} {currency}", money(*cost))).collect();
    if each.is_empty() { "nothing".to_owned() } else { each.join(" and ") }
}

fn amount(of: Option<Quantity>) -> String {
    of.map_or(NONE.to_owned(), money)
}

/// Prints each line exactly, with a header. Costs without a bill have the days of their month.
pub(crate) fn csv(found: &Margins) -> anyhow::Result<()> {
    const TITLES: [&str; 11] = [
        "customer",
        "plan",
        "period_start",
        "period_end",
        "first_day",
        "last_day",
        "meter",
        "currency",
        "revenue",
        "cost",
        "margin",
    ];
    let exact = |of: Option<Quantity>| of.map_or(String::new(), |of| of.to_string());
    let mut rows = vec![];
    for (of, line) in found.customers.iter().flat_map(|of| of.lines.iter().map(move |line| (of, line))) {
        rows.push(vec![
            of.customer.clone(),
            of.plan.clone(),
            of.period_start.to_string(),
            of.period_end.to_string(),
            of.first_day.to_string(),
            of.last_day.to_string(),
            line.meter.clone(),
            line.currency.clone(),
            exact(line.revenue),
            line.cost.to_string(),
            exact(line.margin),
        ]);
    }
    let month: Result<books::units::calendar::Month, _> = found.month.parse();
    let days =
        month.map_or_else(|_| [String::new(), String::new()], |m| [m.first_day(), m.last_day()].map(|d| d.to_string()));
    for of in found.without_bill.iter().chain(&found.unattributed) {
        let none = String::new;
        let [first, last] = days.clone();
        let (customer, meter, currency) = (of.customer.clone(), of.meter.clone(), of.currency.clone());
        let (cost, margin) = (of.cost.to_string(), (-of.cost).to_string());
        rows.push(vec![customer, none(), none(), none(), first, last, meter, currency, "0".into(), cost, margin]);
    }
    super::csv(&TITLES, rows)
}
