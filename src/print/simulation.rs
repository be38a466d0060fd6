//! What other prices would have made of past billing periods.

use std::collections::BTreeMap;
use std::ops::Range;

use books::units::calendar::instant;
use books::units::money::Money;
use jobs::push_stripe::simulate::{PriceOutcome, Simulation};

use super::{count, customer, out, readable, several, table};
use crate::format::{money, two_decimals};

type Units = BTreeMap<String, String>;

/// Customers whose amounts change most, on each side.
const NAMED: usize = 10;

/// Prints the sums, and the customers whose amounts change most.
pub(crate) fn show(found: &Simulation, begin: Range<i64>) {
    let day = |at: i64| instant(at).strftime("%F").to_string();
    out(&format!("billing periods that began from {} to {},", day(begin.start), day(begin.end - 1)));
    out("with the plans that hold now, and then with those of the file:");
    if found.periods.is_empty() {
        return out("there are none");
    }
    sums(found);
    let mut customers: Vec<(String, String, i64, i64)> =
        found.by_customer().into_iter().map(|((id, code), (now, then))| (id, code, now, then)).collect();
    customers.retain(|(.., now, then)| now != then);
    customers.sort_by_key(|(id, _, now, then)| (now - then, id.clone()));
    let more = customers.iter().filter(|(.., now, then)| then > now);
    changed("who would pay more", more.take(NAMED).collect());
    let less = customers.iter().rev().filter(|(.., now, then)| then < now);
    changed("who would pay less", less.take(NAMED).collect());
    unknown(found);
}

/// Prints the sums of each currency.
pub(crate) fn sums(found: &Simulation) {
    let row = |(code, of): (&String, &jobs::push_stripe::simulate::SimulatedTotal)| {
        let written = |minor: i64| of.currency.written(minor);
        let blocked = format!("{} -> {}", count(of.blocked_now), count(of.blocked_then));
        vec![
            code.clone(),
            count(of.customers),
            written(of.now_minor),
            written(of.then_minor),
            change(of.then_minor - of.now_minor, code),
            written(of.house_then_minor - of.house_now_minor),
            blocked,
        ]
    };
    let totals = found.totals();
    let titles = ["", ">customers", ">billed now", ">then", ">difference", ">more house", ">limits reached"];
    table(&titles, totals.iter().map(row).collect());
    let lines = || found.periods.iter().flat_map(|period| &period.lines);
    let is_unpriced = lines().any(|line| line.then.amount.is_none() || line.now.amount.is_none());
    if is_unpriced {
        out("some usage is reported without a price: only Stripe's price says what it costs");
    }
    let costs = found.costs();
    if costs.is_empty() {
        return;
    }
    let cost: Vec<String> = costs.iter().map(|(code, cost)| format!("{} {code}", two_decimals(*cost))).collect();
    out(&format!("AWS charges {} for this use", cost.join(" and ")));
    // nothing is converted
    let (Some((code, of)), Some((in_code, cost))) = (totals.iter().next(), costs.iter().next()) else { return };
    if !is_unpriced && totals.len() == 1 && costs.len() == 1 && code == in_code {
        let left = |minor| two_decimals(of.currency.major(minor) - *cost);
        out(&format!("margin: {} {code} now, {} {code} then", left(of.now_minor), left(of.then_minor)));
    }
}

fn changed(title: &str, customers: Vec<&(String, String, i64, i64)>) {
    if customers.is_empty() {
        return;
    }
    out("");
    out(&format!("{title}, most first:"));
    let row = |(id, code, now, then): &&(String, String, i64, i64)| {
        vec![customer(id).to_owned(), money(*now, code), money(*then, code), change(then - now, code)]
    };
    table(&["customer", ">now", ">then", ">difference"], customers.iter().map(row).collect());
}

fn change(minor: i64, code: &str) -> String {
    let sign = if minor > 0 { "+" } else { "" };
    format!("{sign}{}", money(minor, code))
}

fn unknown(found: &Simulation) {
    if !found.unknown.is_empty() {
        out("");
        out(&format!("{} without a bill: `meter bill` says why", several(found.unknown.len(), "customer")));
    }
}

/// Prints each period and meter of a customer.
pub(crate) fn periods(found: &Simulation, units: &Units) {
    if found.periods.is_empty() {
        return out("no billing period began then");
    }
    for period in &found.periods {
        let code = period.currency.to_string();
        let (now, then) = period.amounts();
        out(&format!(
            "{} to {}, plan {}: {} now, {} then",
            period.period_start.strftime("%F"),
            period.period_end.strftime("%F"),
            period.plan,
            money(now, &code),
            money(then, &code)
        ));
        let mut rows = vec![];
        for line in &period.lines {
            let unit = units.get(&line.meter).map_or("units", String::as_str);
            rows.push(row(&line.meter, &format!("{} {unit}", readable(line.used)), ("now", &line.now)));
            rows.push(row("", "", ("then", &line.then)));
        }
        table(&["  meter", ">used", "", ">included", ">charged", ">price", ">amount", "limit reached"], rows);
    }
    unknown(found);
}

fn row(meter: &str, used: &str, (when, of): (&str, &PriceOutcome)) -> Vec<String> {
    vec![
        format!("  {meter}"),
        used.to_owned(),
        when.to_owned(),
        readable(of.included),
        readable(of.charged),
        of.price.map_or("none".to_owned(), |price| price.to_string()),
        of.amount.map_or("Stripe's".to_owned(), Money::written),
        of.blocked_on.map_or(String::new(), |day| day.to_string()),
    ]
}

/// Prints each customer, period and meter exactly.
pub(crate) fn csv(found: &Simulation, units: &Units) -> anyhow::Result<()> {
    const TITLES: [&str; 20] = [
        "customer",
        "plan",
        "period_start",
        "period_end",
        "meter",
        "unit",
        "currency",
        "used",
        "included_now",
        "charged_now",
        "price_now",
        "amount_now",
        "house_now",
        "limit_reached_now",
        "included_then",
        "charged_then",
        "price_then",
        "amount_then",
        "house_then",
        "limit_reached_then",
    ];
    let mut rows = vec![];
    for (period, line) in found.periods.iter().flat_map(|period| period.lines.iter().map(move |line| (period, line))) {
        let currency = period.currency;
        let mut row = vec![
            period.customer.clone(),
            period.plan.clone(),
            period.period_start.to_string(),
            period.period_end.to_string(),
            line.meter.clone(),
            units.get(&line.meter).map_or("units", String::as_str).to_owned(),
            currency.to_string(),
            line.used.to_string(),
        ];
        for of in [&line.now, &line.then] {
            row.extend([
                of.included.to_string(),
                of.charged.to_string(),
                of.price.map_or(String::new(), |price| price.to_string()),
                of.amount.map_or(String::new(), Money::written),
                currency.written(of.house()),
                of.blocked_on.map_or(String::new(), |day| day.to_string()),
            ]);
        }
        rows.push(row);
    }
    super::csv(&TITLES, rows)
}
