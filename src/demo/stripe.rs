//! The part of `meter demo` that bills: a made-up Stripe account in this process, faults on the
//! way, a restated bill, and the invoices.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use books::stripe::comparison::ComparisonFilter;
use books::units::calendar::Month;
use books::units::money::{Currency, charge};
use books::units::quantity::Quantity;
use fake_stripe::{FakeStripe, Fault, InvoiceLine, Options, Subscription};
use jiff::{SignedDuration, Timestamp};
use jobs::context::Context;
use jobs::job::Mode;
use jobs::push_stripe::bill::{Bills, WantedBills, WantedPeriods, bills};
use jobs::push_stripe::{PushReport, push};
use jobs::reconcile_stripe::reconcile;
use jobs::roll_periods::roll;
use jobs::sync_stripe::{SyncScope, sync};
use tokio::signal::unix::{SignalKind, signal};

use super::step::{PRICE, at_price, on_purpose, result, step, usd};
use crate::config::{Config, Secret, StripeMeterConfig};
use crate::exit::Exit;
use crate::format::{change, money, two_decimals};
use crate::print;
use crate::print::reconcile::MOST;
use crate::print::several;

/// The key of an account that does not exist.
const KEY: &str = "sk_test_demo";
const EVENT: &str = "demo_chime_milliminutes";
const SUBSCRIBERS: usize = 3;
/// Stripe counts thousandths of a minute.
const PER_UNIT: i64 = 1000;

/// The meter in Stripe of the demo's meter.
pub(super) fn meters() -> BTreeMap<String, StripeMeterConfig> {
    let mapping = StripeMeterConfig { event_name: EVENT.into(), per_unit: PER_UNIT.into(), display_name: None };
    BTreeMap::from([("chime_minutes".to_owned(), mapping)])
}

/// Bills the month so far to customers who subscribed on its first day; `restate` has AWS change
/// its mind. Returns the bill of the largest.
pub(super) async fn bill(
    context: &Context,
    config: &Config,
    now: Timestamp,
    restate: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Bills> {
    let month = Month::of(now);
    let usage = context.books.usage(month, None).await?;
    let mut chime: Vec<_> = usage.iter().filter(|u| u.known && u.meter == "chime_minutes").collect();
    chime.sort_by_key(|u| std::cmp::Reverse(u.quantity));
    let who: Vec<String> = chime.iter().take(SUBSCRIBERS).map(|u| u.customer.clone()).collect();
    let options = Options { key: KEY.into(), now: Some(now.as_second()), ..Options::default() };
    let stripe = FakeStripe::start(options).await?;
    let mut config = config.clone();
    config.stripe.url = stripe.url();
    config.stripe.key = Secret::new(KEY);
    let context = Context { billing: Arc::new(crate::wiring::billing(&config.stripe)?), ..context.clone() };
    let failed = |f: jobs::job::Failure| anyhow!("{:#}", f.error());

    step(10, "Stripe bills what is beyond the plan: a made-up account, and its first push");
    on_purpose("Stripe takes an event and its answer is lost; another meets a rate limit.");
    account(&stripe, &context, &who, month).await?;
    sync(&context.books, &context.billing, now, SyncScope::All).await.map_err(failed)?;
    roll(&context.books, now, Mode::Write).await?;
    let mut nth = 0;
    stripe.world().set_faults(move |seen| {
        nth += u8::from(seen.path.ends_with("meter_events"));
        // taken, and the answer lost; then a limit; then well
        [None, Some(Fault::ResetAfter), Some(Fault::RateLimited { retry_after: Some(5) })]
            .get(usize::from(nth))
            .copied()
            .flatten()
    });
    let first = pushed(&context, now).await?;
    stripe.world().clear_faults();
    let (minutes, cost) = planned(&first)?;
    result(&format!("{} minutes, {}, are on their way.", print::quantity(minutes), usd(cost)));

    step(11, "A minute later, what had no answer is sent again under its own name");
    let later = now + SignedDuration::from_secs(60);
    pushed(&context, later).await?;
    let (minutes, cents) = invoiced(&stripe, &who);
    let (minutes, cost) = (print::quantity(minutes), money(cents, "USD"));
    result(&format!("Stripe counts each event once: {minutes} minutes, {cost}."));

    step(12, "AWS restates the bill again, and only the differences go to Stripe");
    on_purpose("AWS corrects amounts that were billed already.");
    restate().await?;
    let (minutes, cost) = planned(&pushed(&context, later).await?)?;
    result(&format!("{} minutes, {}, go to the open invoices.", change(minutes), usd(cost)));

    step(13, "AWS's bill, the books and Stripe are compared");
    let invoice = compared(&context, (&stripe, &who), month, later).await?;
    stripe.stop().await;
    Ok(invoice)
}

/// Pushes, and shows what was sent.
async fn pushed(context: &Context, now: Timestamp) -> anyhow::Result<PushReport> {
    print::out("$ meter push");
    let report = push(&context.books, &context.billing, now).await.map_err(|f| anyhow!("{:#}", f.error()))?;
    let mut rows = vec![];
    for event in &report.events {
        let minutes = Quantity::of_stripe(event.value, PER_UNIT.into());
        let cost = two_decimals(charged(event.value)?);
        rows.push(vec![event.customer.clone(), print::quantity(minutes), event.value.to_string(), cost]);
    }
    if !rows.is_empty() {
        print::table(&["customer", ">minutes", ">value of the event", ">USD"], rows);
    }
    let PushReport { attempts, accepted, unconfirmed, retried, .. } = &report;
    print::out(&format!("{attempts} sent: {accepted} accepted, {unconfirmed} unconfirmed, {retried} to be sent again"));
    Ok(report)
}

/// What an event adds to an invoice, at the price of the demo's plan, in whole cents as Stripe
/// rounds them.
fn charged(value: i64) -> anyhow::Result<Quantity> {
    let (price, usd) = (PRICE.parse()?, "USD".parse::<Currency>()?);
    Ok(usd.major(charge(value, PER_UNIT.into(), price, usd).context("an amount of cents")?))
}

/// Minutes of planned events, and what they cost: the sum of lines in whole cents, as on invoices.
fn planned(report: &PushReport) -> anyhow::Result<(Quantity, Quantity)> {
    let (mut minutes, mut cost) = (Quantity::ZERO, Quantity::ZERO);
    for event in &report.events {
        minutes += Quantity::of_stripe(event.value, PER_UNIT.into());
        cost += charged(event.value)?;
    }
    Ok((minutes, cost))
}

fn customer_id(customer: &str) -> String {
    format!("cus_{customer}")
}

/// Minutes and cents of Stripe's invoices.
fn invoiced(stripe: &FakeStripe, who: &[String]) -> (Quantity, i64) {
    let world = stripe.world();
    let lines: Vec<InvoiceLine> = who.iter().flat_map(|customer| world.invoices(&customer_id(customer))).collect();
    let units = lines.iter().filter_map(|line| i64::try_from(line.quantity).ok()).sum();
    let cents = lines.iter().filter_map(|line| i64::try_from(line.amount).ok()).sum();
    (Quantity::of_stripe(units, PER_UNIT.into()), cents)
}

/// Compares the books with Stripe, customer by customer. Returns the bill of the first.
async fn compared(
    context: &Context,
    (stripe, who): (&FakeStripe, &[String]),
    month: Month,
    now: Timestamp,
) -> anyhow::Result<Bills> {
    print::out("$ meter reconcile");
    let start = month.first_day().start().as_second();
    let (mut rows, mut agree) = (vec![], true);
    for customer in who {
        reconcile(context, now, Some(customer.clone())).await.map_err(|f| anyhow!("{:#}", f.error()))?;
        let meters = context.billing.meters.keys().cloned().collect();
        let starts = start..now.as_second();
        let filter = ComparisonFilter { customer: Some(customer.clone()), meters, starts, limit: MOST };
        for period in context.books.compare(filter).await? {
            let parts = period.conservation(PER_UNIT.into());
            agree &= period.seen.is_some() && period.seen == period.expected;
            let at_stripe = Quantity::of_stripe(period.seen.unwrap_or_default(), PER_UNIT.into());
            let [booked, within, billed, seen] =
                [parts.booked, parts.within, parts.billed, at_stripe].map(print::quantity);
            rows.push(vec![customer.clone(), booked, within, billed, seen, two_decimals(at_price(parts.billed)?)]);
        }
    }
    print::table(&["customer", ">booked", ">in the plan", ">billed", ">at Stripe", ">USD"], rows);
    let (minutes, cents) = invoiced(stripe, who);
    result(&format!(
        "{} of {} minutes, {}: the books and Stripe {}. {} events were counted, none of them twice.",
        several(who.len(), "invoice"),
        print::quantity(minutes),
        money(cents, "USD"),
        if agree { "agree" } else { "DIFFER" },
        stripe.world().counts().events_applied
    ));
    let wanted = WantedBills { customer: who.first().cloned(), periods: WantedPeriods::Current };
    Ok(bills(&context.books, &context.billing, wanted, now).await?)
}

/// Meters of the account that [`serve`] runs: event name, price, and what a unit of Stripe costs in
/// cents.
const SERVED: [(&str, &str, &str); 2] =
    [("demo_chime_milliminutes", "price_demo_chime", "0.001"), ("demo_storage_milligb", "price_demo_storage", "0.005")];
/// Customers of that account.
const SERVED_CUSTOMERS: u32 = 40;
/// Since when they subscribe: a fixed instant, so that the account is the same at each start.
/// 2026-01-01T00:00:00Z.
const SERVED_SINCE: i64 = 1_767_225_600;

/// Runs a made-up account until a signal. It forgets everything at its end, so its worker should
/// use books of its own.
pub(super) async fn serve(listen: SocketAddr) -> anyhow::Result<Exit> {
    let options = Options { key: KEY.into(), remember_requests: false, ..Options::default() };
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stripe = FakeStripe::start_at(options, listen).await;
    let stripe = stripe.with_context(|| format!("cannot listen on {listen} (`--listen`)"))?;
    {
        let mut world = stripe.world();
        for (event, price, cents) in SERVED {
            world.add_meter(event);
            world.add_price(price, event, "usd", cents, None);
        }
        let prices = SERVED.map(|(_, price, _)| price);
        for n in 1..=SERVED_CUSTOMERS {
            let id = format!("cus_demo_{n}");
            world.add_customer(&id);
            world.add_subscription(Subscription::monthly(&format!("sub_demo_{n}"), &id, SERVED_SINCE, &prices));
        }
    }
    print::out(&format!("a made-up Stripe account at {} with the key {KEY}; Ctrl-C stops it", stripe.url()));
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    stripe.stop().await;
    Ok(Exit::Ok)
}

/// Sets up the account, and subscribes customers.
async fn account(stripe: &FakeStripe, context: &Context, who: &[String], month: Month) -> anyhow::Result<()> {
    let began = month.first_day().start().as_second();
    {
        let mut world = stripe.world();
        world.add_meter(EVENT);
        world.add_price("price_demo", EVENT, "usd", "0.001", None);
        for customer in who {
            let id = customer_id(customer);
            world.add_customer(&id);
            world.add_subscription(Subscription::monthly(&format!("sub_{customer}"), &id, began, &["price_demo"]));
        }
    }
    for customer in who {
        context.books.set_stripe_customer(customer, &customer_id(customer)).await?;
    }
    Ok(())
}
