//! The report of a push to Stripe, and why amounts are deferred.

use std::collections::BTreeSet;

use books::stripe::no_invoice::{CustomerWithoutInvoice, InvoiceLack};
use jobs::push_stripe::{PlannedEvent, PushReport};

use super::out;
use crate::config::Config;
use crate::format::{count, several, verb};

/// Prints what was sent, or would be.
pub(crate) fn show(report: &PushReport, config: &Config) {
    if !report.events.is_empty() {
        let row = |p: &PlannedEvent| {
            let unit = config.stripe.meters.get(&p.meter).map_or("", |m| m.event_name.as_str());
            let carried = if p.billed_start == p.period_start { "" } else { "carried forward" };
            vec![
                p.customer.clone(),
                p.meter.clone(),
                p.period_start.to_string(),
                p.value.to_string(),
                unit.to_owned(),
                carried.to_owned(),
            ]
        };
        let titles = ["customer", "meter", "period from", ">value", "1event name", "~"];
        super::table(&titles, report.events.iter().map(row).collect());
    }
    if config.stripe.meters.is_empty() {
        out("nothing is billed: stripe.meters names no meter");
        return unmapped(report);
    }
    let n = |n: u64| count(n);
    if report.dry_run {
        // a preview lists every event
        let customers: BTreeSet<&str> = report.events.iter().map(|event| event.customer.as_str()).collect();
        let for_whom = if customers.is_empty() {
            String::new()
        } else {
            format!(", for {}", several(customers.len(), "customer"))
        };
        out(&format!("{} would be sent{for_whom}", several(report.planned, "event")));
    } else {
        out(&format!(
            "{} checked, {} planned; {} sent: {} accepted, {} refused, {} unconfirmed, {} to be sent again",
            several(report.customers, "customer"),
            several(report.planned, "event"),
            n(report.attempts),
            n(report.accepted),
            n(report.refused),
            n(report.unconfirmed),
            n(report.retried)
        ));
    }
    for (why, amounts) in &report.deferred {
        out(&format!("deferred: {}: {}", several(*amounts, "amount"), why.words()));
    }
    for (why, amounts) in &report.waiting {
        let (amounts, wait) = (several(*amounts, "amount"), verb(*amounts, "waits", "wait"));
        out(&format!("deferred since before: {amounts} {wait}: {}; `meter reconcile` shows them", why.words()));
    }
    if let Some(backup_at) = report.on_hold {
        out(&format!(
            "billing is on hold: these books were restored from a backup of {backup_at}, and nothing is planned or sent until \
             `meter restore finish`; `meter restore status` says what to do next"
        ));
    }
    if report.deferred_too_long > 0 {
        let amounts = several(report.deferred_too_long, "amount");
        out(&format!("attention: deferred for more than 25 days: {amounts}; `meter reconcile` shows them"));
    }
    if report.expired > 0 {
        out(&format!("too late for their invoice and planned again: {}", several(report.expired, "event")));
    }
    if !report.missing_meters.is_empty() {
        let names = report.missing_meters.join(", ");
        out(&format!("attention: Stripe has no active meter for {names}; `meter stripe setup` makes them"));
    }
    if report.unknown_plan > 0 {
        out(&format!(
            "attention: an unknown plan, for {}: `meter plan list`",
            several(report.unknown_plan, "customer")
        ));
    }
    unmapped(report);
    if !report.foreign.is_empty() {
        let names = report.foreign.join(", ");
        out(&format!("attention: Stripe had the identifiers of events that were never sent: {names}"));
    }
    without_invoice(report);
    if let Some(why) = &report.stopped {
        out(&format!("sending stopped early; the next run goes on: {why}"));
    }
}

/// Meters that plans report to nowhere.
fn unmapped(report: &PushReport) {
    if !report.unmapped.is_empty() {
        let names = report.unmapped.join(", ");
        out(&format!("attention: plans report {names}, and stripe.meters does not say where to"));
    }
}

/// Who has usage that the plan bills, and what is missing for an invoice.
fn without_invoice(report: &PushReport) {
    if report.without_invoice == 0 {
        return;
    }
    out(&format!("no invoice can take what the plan bills, for {}:", several(report.without_invoice, "customer")));
    let row = |c: &CustomerWithoutInvoice| {
        let lacks = match c.lacks {
            InvoiceLack::StripeId => "no Stripe id",
            InvoiceLack::Subscription => "no subscription",
        };
        vec![format!("  {}", c.customer), lacks.to_owned()]
    };
    super::table(&["  customer", "~lacks"], report.customers_without_invoice.iter().map(row).collect());
    let listed = u64::try_from(report.customers_without_invoice.len()).unwrap_or(u64::MAX);
    if listed < report.without_invoice {
        out(&format!("  ... and {} more", count(report.without_invoice - listed)));
    }
    let lacks = |what: InvoiceLack| report.customers_without_invoice.iter().any(|of| of.lacks == what);
    if lacks(InvoiceLack::StripeId) {
        out("  no Stripe id: `meter customer set CUSTOMER --stripe-id ID`");
    }
    if lacks(InvoiceLack::Subscription) {
        out("  no subscription: make one at Stripe, then `meter run sync-stripe`");
    }
}
