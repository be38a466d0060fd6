//! `meter push`: usage to Stripe, here and now.

use books::Database;
use clap::Args as ClapArgs;
use jiff::Timestamp;
use jobs::job::{Failure, Job};
use jobs::push_stripe::decide::DeferReason;
use jobs::push_stripe::{PlannedEvent, PushReport, PushStripe, RestoreProgress, preview, push};

use super::{Exit, print};
use crate::config::Config;
use crate::wiring;

/// How.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Only show what would be sent; without METER_STRIPE__KEY that is all that is done
    #[arg(long)]
    dry_run: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let dry = args.dry_run || config.stripe.key.expose().is_empty();
    let books = books(config, dry, now).await?;
    let context = wiring::context(config, books).await?;
    let report = if dry {
        preview(&context.books, &context.billing, now).await
    } else {
        push(&context.books, &context.billing, now).await
    };
    let report = report.map_err(|failure| said(&failure))?;
    if args.json {
        print::json(&report)?;
    } else {
        if dry && !args.dry_run {
            print::out("METER_STRIPE__KEY is not set, so nothing is sent; this is what would be");
        }
        show(&report, config);
    }
    Ok(if PushStripe::needs_a_person(&report) { Exit::NeedsAttention } else { Exit::Ok })
}

/// Books for a run that writes, or that does not.
pub(super) async fn books(config: &Config, dry: bool, now: Timestamp) -> anyhow::Result<Database> {
    if dry {
        return wiring::books_for_dry_run(config, now).await;
    }
    let books = wiring::open_books(config).await?;
    books.migrate(now).await?;
    Ok(books)
}

/// A failure for people.
pub(super) fn said(failure: &Failure) -> anyhow::Error {
    let advice = if failure.is_retryable() { " (the next run may succeed)" } else { "" };
    anyhow::anyhow!("{:#}{advice}", failure.error())
}

/// Why an amount waits, and what frees it.
pub(super) fn reason(deferred: DeferReason) -> &'static str {
    match deferred {
        DeferReason::NoStripeCustomer => "the customer has no Stripe id (customers.stripe_customer_id)",
        DeferReason::NoSubscription => "no subscription's invoice can take it; it goes on the next one there is",
        DeferReason::NoItem => {
            "the subscription has no item for the meter: add the price to it, then `meter run sync-stripe`"
        }
        DeferReason::Inactive => "the subscription is paused or incomplete; it goes out when it is active again",
        DeferReason::Currency => "the item's price is in another currency than the plan: one of them must change",
        DeferReason::TooLarge => "it has more than 15 digits: Stripe cannot take it",
        DeferReason::BelowZero => {
            "a correction that would take the invoice below zero; it goes out when there is usage to set it against"
        }
        DeferReason::Refused => {
            "Stripe refused an event of this customer and meter: `meter events list --state refused`"
        }
        DeferReason::NoMeter => "Stripe has no active meter for it: `meter stripe check`",
        DeferReason::Restored => "the books were restored; Stripe's totals will tell what the lost ones had sent of it",
    }
}

/// What was sent, or would be.
pub(super) fn show(report: &PushReport, config: &Config) {
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
        let titles = ["customer", "meter", "period from", ">value", "event name", ""];
        print::table(&titles, report.events.iter().map(row).collect());
    }
    if config.stripe.meters.is_empty() {
        return print::out("nothing is billed: stripe.meters names no meter");
    }
    let n = |n: u64| print::count(n);
    if report.dry_run {
        print::out(&format!("{} event(s) would be sent, for {} customer(s)", n(report.planned), n(report.customers)));
    } else {
        print::out(&format!(
            "{} customer(s) looked at, {} event(s) planned; {} sent: {} accepted, {} refused, {} unconfirmed, {} to be sent again",
            n(report.customers),
            n(report.planned),
            n(report.attempts),
            n(report.accepted),
            n(report.refused),
            n(report.unconfirmed),
            n(report.again)
        ));
    }
    for (why, count) in &report.deferred {
        print::out(&format!("deferred: {} amount(s): {}", n(*count), reason(*why)));
    }
    if let Some(RestoreProgress { backup_at, believed_at, waiting }) = report.restored {
        print::out(&format!(
            "these books were restored from a backup of {backup_at}: {} amount(s) wait until Stripe's totals are believed, from {believed_at} on, \
             and `reconcile_stripe` has taken over from them what was sent since the backup",
            n(waiting)
        ));
    }
    if report.deferred_too_long > 0 {
        let text = "amount(s) have been deferred for more than 25 days; `meter reconcile` shows them";
        print::out(&format!("look at it: {} {text}", n(report.deferred_too_long)));
    }
    if report.expired > 0 {
        print::out(&format!("{} event(s) came too late for their invoice and were planned anew", n(report.expired)));
    }
    if !report.missing_meters.is_empty() {
        let names = report.missing_meters.join(", ");
        print::out(&format!("look at it: Stripe has no active meter for {names}; `meter stripe setup` makes them"));
    }
    if report.unknown_plan > 0 {
        print::out(&format!("look at it: {} customer(s) of a plan that is not known", n(report.unknown_plan)));
    }
    if !report.unmapped.is_empty() {
        let names = report.unmapped.join(", ");
        print::out(&format!("look at it: plans report {names}, and stripe.meters does not say where to"));
    }
    if !report.strange.is_empty() {
        let names = report.strange.join(", ");
        print::out(&format!("look at it: Stripe had the identifiers of events that were never sent: {names}"));
    }
    if let Some(why) = &report.stopped {
        print::out(&format!("sending stopped early; the next run goes on: {why}"));
    }
}
