//! Plans of changes: what one would book, what was applied, and what a revert would do.

use std::collections::{BTreeMap, BTreeSet};

use books::stripe::invoice::closes;
use books::stripe::pushed::PushedSince;
use books::units::quantity::Quantity;
use books::usage::applied_plans::{AppliedPlan, EffectKind, PlanEffect};
use books::usage::cost::cost_meter;
use books::usage::ledger::VersionEntry;
use jiff::Timestamp;
use jobs::changes::{ChangePlan, Opposite, PlannedBill, RestsOn};
use jobs::context::Context;
use jobs::ingest_cur::hold;
use jobs::push_stripe::ChangedBill;

use super::items::wrapped;
use super::{count, customer, out, quantity, several, table};
use crate::config::Config;
use crate::format::{change, money, verb};

type Units = BTreeMap<String, String>;

/// Rows of a table that is one of several.
const NAMED: usize = 8;

fn ledger_entries(n: u64) -> String {
    format!("{} {}", count(n), verb(n, "ledger entry", "ledger entries"))
}

fn unit<'a>(units: &'a Units, meter: &'a str) -> &'a str {
    match cost_meter(meter) {
        Some((_, currency)) => currency,
        None => units.get(meter).map_or("units", String::as_str),
    }
}

fn words(text: &str) {
    wrapped(text, 2).iter().for_each(|line| out(line));
}

/// Prints what a plan would book, and what that means.
pub(crate) fn plan(plan: &ChangePlan, config: &Config) {
    let units = &config.units();
    let digest: String = plan.digest.chars().take(8).collect();
    out(&format!("plan {digest}, made {} by {}:", plan.made_at.strftime("%F %T UTC"), plan.made_by));
    for bill in plan.changed() {
        show_bill(bill);
    }
    let mut sums: BTreeMap<(&str, &str), Quantity> = BTreeMap::new();
    for of in plan.changed().flat_map(|bill| &bill.differences) {
        *sums.entry((&of.customer, &of.meter)).or_default() += of.change();
    }
    largest(sums, units);
    let effects = &plan.effects;
    match (effects.money.is_empty(), config.stripe.meters.is_empty()) {
        (false, _) => show_money(&effects.money),
        (true, true) => out("nothing is billed: stripe.meters names no meter"),
        (true, false) => out("no bill changes"),
    }
    for (what, answers) in [("would be blocked", &effects.blocked), ("would be unblocked", &effects.unblocked)] {
        if answers.is_empty() {
            out(&format!("nobody {what}"));
            continue;
        }
        out(&format!("{what}, {}:", several(answers.len(), "meter")));
        for of in answers.iter().take(NAMED) {
            out(&format!("  {} {} ({})", customer(&of.customer), of.meter, of.reason));
        }
        more(answers.len());
    }
    listed("no bill can be made for these customers (`meter bill` says why):", &effects.without_bill);
    listed("tags that are no customer's id, so nobody is billed:", &effects.no_customer);
}

fn listed(what: &str, ids: &[String]) {
    if ids.is_empty() {
        return;
    }
    out(what);
    words(&ids.iter().take(NAMED).map(|id| customer(id)).collect::<Vec<_>>().join(", "));
    more(ids.len());
}

fn show_bill(bill: &PlannedBill) {
    let version: String = bill.version.chars().take(8).collect();
    let customers: BTreeSet<&str> = bill.differences.iter().map(|of| of.customer.as_str()).collect();
    out(&format!(
        "{} {}, version {version}: {} of {}",
        bill.export,
        bill.month,
        several(bill.differences.len(), "difference"),
        several(customers.iter().filter(|id| !id.is_empty()).count(), "customer"),
    ));
    if bill.hold.is_empty() && !bill.accepted.is_empty() {
        words(&format!("accepted: {}", bill.accepted));
    }
    bill.hold.iter().for_each(|reason| words(&format!("would be put on hold: {}", reason.text)));
    if !bill.hold.is_empty() {
        words(&format!("likely causes: {}", hold::causes(&bill.hold)));
        words(&format!("who applies the plan accepts that: {}", hold::if_accepted(&bill.hold)));
    }
    bill.warnings.iter().for_each(|warning| words(&format!("note: {warning}")));
    let changed = bill.meters.iter().filter(|of| of.before != of.after);
    let rows: Vec<Vec<String>> = changed
        .map(|of| {
            let sum = format!("{} {}", change(of.after - of.before), of.unit);
            vec![format!("  {}", of.meter), quantity(of.before), quantity(of.after), sum]
        })
        .collect();
    if rows.is_empty() {
        return out("  the sums of the meters stay; usage goes from one to another");
    }
    table(&["  meter", ">booked", ">then", ">change"], rows);
}

/// The customers and meters that change most.
fn largest(sums: BTreeMap<(&str, &str), Quantity>, units: &Units) {
    let mut sums: Vec<((&str, &str), Quantity)> = sums.into_iter().filter(|(_, sum)| !sum.is_zero()).collect();
    sums.sort_by_key(|(names, sum)| (std::cmp::Reverse(sum.scaled().abs()), *names));
    if sums.is_empty() {
        return;
    }
    let row = |((id, meter), sum): &((&str, &str), Quantity)| {
        let sum = format!("{} {}", change(*sum), unit(units, meter));
        vec![format!("  {}", customer(id)), (*meter).to_owned(), sum]
    };
    table(&["  largest changes", "meter", ">change"], sums.iter().take(NAMED).map(row).collect());
    more(sums.len());
}

fn more(all: usize) {
    if let more @ 1.. = all.saturating_sub(NAMED) {
        out(&format!("  and {} more", count(more)));
    }
}

fn show_money(bills: &[ChangedBill]) {
    let mut totals: BTreeMap<&str, (BTreeSet<&str>, i64, i64)> = BTreeMap::new();
    for bill in bills {
        let of = totals.entry(&bill.currency).or_default();
        of.0.insert(&bill.customer);
        of.1 += bill.before_minor.unwrap_or(0);
        of.2 += bill.after_minor.unwrap_or(0);
    }
    out("money of billing periods, for the usage of each:");
    let mut rows = vec![];
    for (currency, (customers, before, after)) in totals {
        let all = several(customers.len(), "customer");
        rows.push(money_row(format!("  all: {all}"), String::new(), (Some(before), Some(after)), currency));
    }
    let mut most: Vec<&ChangedBill> = bills.iter().collect();
    most.sort_by_key(|of| std::cmp::Reverse(of.after_minor.unwrap_or(0).abs_diff(of.before_minor.unwrap_or(0))));
    for of in most.iter().take(NAMED) {
        let period = of.period_start.strftime("%F").to_string();
        rows.push(money_row(format!("  {}", of.customer), period, (of.before_minor, of.after_minor), &of.currency));
    }
    table(&["  customer", "period from", ">before", ">then", ">difference"], rows);
    more(bills.len());
    let house: i64 = bills.iter().map(|of| of.house_after_minor - of.house_before_minor).sum();
    if house != 0 {
        out("  what the company pays (house usage) changes, too; the plan has it by customer");
    }
}

fn money_row(name: String, period: String, (was, is): (Option<i64>, Option<i64>), currency: &str) -> Vec<String> {
    let written = |minor: Option<i64>| minor.map_or("Stripe's".to_owned(), |minor| money(minor, currency));
    let difference = was.zip(is).map(|(was, is)| is - was);
    let sign = if difference.is_some_and(|difference| difference > 0) { "+" } else { "" };
    vec![name, period, written(was), written(is), format!("{sign}{}", written(difference))]
}

/// Prints the plans that were applied, one on a line.
pub(crate) fn list(plans: &[AppliedPlan]) {
    if plans.is_empty() {
        return out("no plan was applied yet; `meter ingest --plan FILE` makes one");
    }
    let row = |plan: &AppliedPlan| {
        let applied = plan.versions.iter().filter(|of| of.reverts.is_none());
        let months: BTreeSet<String> = applied.clone().map(|of| of.month.to_string()).collect();
        let entries: i64 = applied.map(|of| of.entries).sum();
        let state = if plan.reverted.is_some() { "reverted" } else { "applied" };
        vec![
            plan.number.to_string(),
            plan.applied_at.strftime("%F %H:%M").to_string(),
            months.into_iter().collect::<Vec<_>>().join(" "),
            count(entries),
            state.to_owned(),
            plan.actor.clone(),
            plan.reason.clone(),
        ]
    };
    let titles = [">change", "at (UTC)", "months", "1>entries", "~", "by", "~why"];
    table(&titles, plans.iter().map(row).collect());
}

/// Prints a plan that was applied, with what it changed.
pub(crate) fn one(plan: &AppliedPlan, effects: &[PlanEffect], booked: &[VersionEntry], units: &Units) {
    let at = |at: Timestamp| at.strftime("%F %T UTC").to_string();
    out(&format!("change {}, applied {} by {}", plan.number, at(plan.applied_at), plan.actor));
    out(&format!("  why: {}", plan.reason));
    if let Some(of) = &plan.reverted {
        out(&format!("  reverted {} by {}", at(of.at), of.actor));
        out(&format!("  why: {}", of.reason));
    }
    for of in &plan.versions {
        let version: String = of.version.chars().take(8).collect();
        let entries = ledger_entries(of.entries.unsigned_abs());
        let what = of.reverts.map_or(String::new(), |reverts| format!(", takes number {reverts} back"));
        out(&format!("  {} {}, version {version} (number {}): {entries}{what}", of.payer, of.month, of.id));
    }
    let mut sums: BTreeMap<(&str, &str), Quantity> = BTreeMap::new();
    for of in booked {
        *sums.entry((&of.customer, &of.meter)).or_default() += Quantity::from_scaled(i128::from(of.quantity));
    }
    largest(sums, units);
    for (effect, what) in [
        (EffectKind::Money, "whose bills were to change"),
        (EffectKind::Blocked, "that were to be blocked"),
        (EffectKind::Unblocked, "that were to be unblocked"),
    ] {
        let of_kind: Vec<&PlanEffect> = effects.iter().filter(|of| of.effect == effect).collect();
        if of_kind.is_empty() {
            continue;
        }
        let customers: BTreeSet<&str> = of_kind.iter().map(|of| of.customer.as_str()).collect();
        let named: Vec<&str> = customers.iter().copied().take(NAMED).collect();
        let rest = customers.len().saturating_sub(NAMED);
        let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        out(&format!("  customers {what}: {}{rest}", named.join(", ")));
    }
    out(&format!("`meter changes {} --json` has every entry and amount", plan.number));
}

/// Prints what a revert would book, and what was billed of it.
pub(crate) fn opposite(found: &Opposite, context: &Context, now: Timestamp) {
    let plan = &found.plan;
    let entries = ledger_entries(u64::try_from(found.entries).unwrap_or(u64::MAX));
    out(&format!(
        "change {} was applied {} by {}: {}",
        plan.number,
        plan.applied_at.strftime("%F %T UTC"),
        plan.actor,
        plan.reason
    ));
    out(&format!("the opposite of its {entries} would be booked"));
    if found.pushed.is_empty() {
        return out("nothing was made for Stripe since then of the usage that it changed");
    }
    out("since then this was made for Stripe, of the periods that it changed:");
    let row = |of: &PushedSince| {
        let per_unit = context.billing.meters.get(&of.meter).map(|mapping| mapping.per_unit);
        let written = |units: i64| match per_unit {
            Some(per_unit) => change(Quantity::of_stripe(units, per_unit)),
            None => format!("{units} of Stripe's units"),
        };
        let is_final = now.as_second() >= closes(of.period_end.as_second(), context.billing.grace);
        let invoice = if is_final { "final" } else { "open" };
        let period = of.period_start.strftime("%F").to_string();
        let name = format!("  {}", of.customer);
        vec![name, of.meter.clone(), period, written(of.accepted), written(of.open), invoice.to_owned()]
    };
    let titles = ["  customer", "meter", "2period from", ">Stripe has", ">to be sent", "1invoice"];
    table(&titles, found.pushed.iter().take(NAMED).map(row).collect());
    more(found.pushed.len());
    out("the next push sends the difference: on an open invoice it is corrected there,");
    out("that of a final one is carried to the open one, and what would take an invoice");
    out("below zero waits (docs/stripe.md)");
}

/// What a person should know once the plan is reverted.
pub(crate) fn after_revert(found: &Opposite, rules: &str) -> Vec<String> {
    let mut lines = vec![];
    for (bill, rests_on) in found.rests_on(rules) {
        let name = format!("{} {}", bill.payer, bill.month);
        let text = match rests_on {
            RestsOn::ThisConfiguration => format!(
                "{name} rests on the version before again, read by this configuration; the next delivery of AWS is \
                 booked as a whole"
            ),
            RestsOn::OtherConfiguration => format!(
                "{name} rests on the version before again, read by another configuration than that of now: put it \
                 back, else AWS's next delivery books the change again"
            ),
            RestsOn::Nothing => {
                format!("nothing of {name} is booked now; the next delivery of AWS is booked as a whole")
            }
        };
        lines.extend(wrapped(&text, 0));
    }
    lines.push("the version that was reverted is not booked again by itself".to_owned());
    lines
}
