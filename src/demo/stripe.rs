//! The part of `meter demo` that bills: a made-up Stripe account in this process, faults on the
//! way, a restated bill, and the invoices.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use books::stripe::comparison::ComparisonFilter;
use books::units::calendar::Month;
use fake_stripe::{FakeStripe, Fault, Options, Subscription};
use jiff::{SignedDuration, Timestamp};
use jobs::context::Context;
use jobs::job::Mode;
use jobs::push_stripe::bill::{WantedBills, WantedPeriods, bills};
use jobs::push_stripe::{PushReport, push};
use jobs::reconcile_stripe::reconcile;
use jobs::roll_periods::roll;
use jobs::sync_stripe::{SyncScope, sync};
use tokio::signal::unix::{SignalKind, signal};

use super::step::step;
use crate::config::{Config, Secret, StripeMeterConfig};
use crate::exit::Exit;
use crate::margin::margins;
use crate::print;
use crate::print::bill::View;
use crate::print::reconcile::MOST;
use crate::statement::StatementSettings;

/// The key of an account that does not exist.
const KEY: &str = "sk_test_demo";
const EVENT: &str = "demo_chime_milliminutes";
const SUBSCRIBERS: usize = 3;

/// The meter in Stripe of the demo's meter.
pub(super) fn meters() -> BTreeMap<String, StripeMeterConfig> {
    let mapping = StripeMeterConfig { event_name: EVENT.into(), per_unit: 1000.into(), display_name: None };
    BTreeMap::from([("chime_minutes".to_owned(), mapping)])
}

/// Bills the month so far to customers who subscribed on its first day; `restate` has AWS change
/// its mind.
pub(super) async fn bill(
    context: &Context,
    config: &Config,
    now: Timestamp,
    restate: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let month = Month::of(now);
    let usage = context.books.usage(month, None).await?;
    let mut chime: Vec<_> = usage.iter().filter(|u| u.known && u.meter == "chime_minutes").collect();
    chime.sort_by_key(|u| std::cmp::Reverse(u.quantity));
    let who: Vec<String> = chime.iter().take(SUBSCRIBERS).map(|u| u.customer.clone()).collect();
    let stripe = FakeStripe::start(Options { key: KEY.into(), ..Options::default() }).await?;
    let mut config = config.clone();
    config.stripe.url = stripe.url();
    config.stripe.key = Secret::new(KEY);
    let context = Context { billing: Arc::new(crate::wiring::billing(&config.stripe)?), ..context.clone() };
    let failed = |f: jobs::job::Failure| anyhow!("{:#}", f.error());

    step(10, "Stripe: a made-up account, with a meter, a price, and subscriptions since the first of the month");
    account(&stripe, &context, &who, month).await?;
    sync(&context.books, &context.billing, now, SyncScope::All).await.map_err(failed)?;
    roll(&context.books, now, Mode::Write).await?;
    print::out("$ meter push");
    let mut nth = 0;
    stripe.world().set_faults(move |seen| {
        nth += u8::from(seen.path.ends_with("meter_events"));
        // taken, and the answer lost; then a limit; then well
        [None, Some(Fault::ResetAfter), Some(Fault::RateLimited { retry_after: Some(5) })]
            .get(usize::from(nth))
            .copied()
            .flatten()
    });
    print::push::show(&push(&context.books, &context.billing, now).await.map_err(failed)?, &config);
    stripe.world().clear_faults();

    step(11, "a minute later: what was unconfirmed is sent again under its own name, and Stripe counts it once");
    let later = now + SignedDuration::from_secs(60);
    print::out("$ meter push");
    print::push::show(&push(&context.books, &context.billing, later).await.map_err(failed)?, &config);

    step(12, "AWS restates the bill; only the differences go to Stripe, up and down");
    restate().await?;
    print::out("$ meter push");
    let report: PushReport = push(&context.books, &context.billing, later).await.map_err(failed)?;
    print::push::show(&report, &config);

    step(13, "what AWS billed, what the ledger holds, what Stripe has; and what the invoices say");
    for customer in &who {
        reconcile(&context, later, Some(customer.clone())).await.map_err(failed)?;
    }
    let start = month.previous().last_day().end().as_second();
    let mut periods = vec![];
    for customer in &who {
        let meters = context.billing.meters.keys().cloned().collect();
        let starts = start..later.as_second();
        let filter = ComparisonFilter { customer: Some(customer.clone()), meters, starts, limit: MOST };
        let compared = context.books.compare(filter);
        periods.extend(compared.await?);
    }
    print::reconcile::periods(&periods, &context.billing, later);
    let lines = who.iter().flat_map(|c| stripe.world().invoices(&format!("cus_{c}")));
    let row = |l: fake_stripe::InvoiceLine| {
        let cents = l.amount.normalize().to_string();
        vec![l.subscription, l.event_name, l.quantity.normalize().to_string(), cents]
    };
    print::out("");
    print::table(&["invoice of", "line", ">quantity", ">cents"], lines.map(row).collect());
    if let Some(customer) = who.first() {
        print::out("");
        print::out(&format!("$ meter bill {customer}"));
        let wanted = WantedBills { customer: Some(customer.clone()), periods: WantedPeriods::Current };
        let found = bills(&context.books, &context.billing, wanted, later).await?;
        print::bill::show(&found, View::Lines, &config.units());
        print::out("");
        print::out(&format!("$ meter margin {customer}"));
        let wanted = WantedBills { customer: Some(customer.clone()), periods: WantedPeriods::Current };
        let settings = StatementSettings::new(&config, crate::wiring::billing(&config.stripe)?);
        let found = margins(&context.books, &settings, wanted, Month::of(later), later).await?;
        print::margin::show(&found, View::Lines);
    }
    let counts = stripe.world().counts();
    print::out("");
    print::out(&format!("{} events were counted, none of them twice", counts.events_applied));
    stripe.stop().await;
    Ok(())
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
    let first = month.first_day();
    let began = first.end().as_second() - 86_400;
    {
        let mut world = stripe.world();
        world.add_meter(EVENT);
        world.add_price("price_demo", EVENT, "usd", "0.001", None);
        for customer in who {
            let id = format!("cus_{customer}");
            world.add_customer(&id);
            world.add_subscription(Subscription::monthly(&format!("sub_{customer}"), &id, began, &["price_demo"]));
        }
    }
    for customer in who {
        context.books.set_stripe_customer(customer, &format!("cus_{customer}")).await?;
    }
    Ok(())
}
