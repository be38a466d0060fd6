//! `meter stripe`: sets up the account, and compares it with the configuration.

use books::Database;
use books::stripe::stripe_meter::StripeMeter;
use clap::Subcommand;
use jiff::Timestamp;
use jobs::stripe::check::{AccountObjects, CheckLine, check, check_unbilled};
use jobs::stripe::check_items::check_items;
use jobs::stripe::preconditions::find_meters;
use jobs::stripe::{BillingSettings, Mapping, RemoteMeter, StripeAccount, StripeMode};
use jobs::sync_stripe::last_read;

use super::failure;
use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::print;
use crate::wiring::{self, Open};

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Create the meters that the account lacks; safe to repeat. Prices are only checked, with a
    /// remedy for each problem
    Setup {
        /// Only show what would be created
        #[arg(long)]
        dry_run: bool,
    },
    /// Compare the account with the configuration and the plans, and the items of each customer's
    /// subscriptions with the plan, as `sync_stripe` last read them; the exit code is 3 when they
    /// differ
    Check,
}

pub(crate) async fn run(action: Action, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let billing = wiring::billing(&config.stripe)?;
    let StripeMode::Stripe(account) = &billing.mode else {
        return Err(BadUsage("METER_STRIPE__KEY is not set: there is no account to ask".into()).into());
    };
    if billing.meters.is_empty() {
        return Err(BadUsage("stripe.meters names no meter, so there is nothing to compare".into()).into());
    }
    let open = if matches!(action, Action::Setup { dry_run: false }) { Open::MIGRATED } else { Open::DRY_RUN };
    let books = wiring::open_books(config, open).await?;
    let (mut remote, _) = account.meters().await.map_err(failure::of_stripe)?;
    match action {
        Action::Check => {}
        Action::Setup { dry_run: true } => {
            for (name, mapping) in missing(&billing, &books, &remote).await? {
                print::out(&format!("meter {name} would be made as {}", mapping.event_name));
            }
        }
        Action::Setup { dry_run: false } => remote = set_up(&billing, account, &books, remote, now).await?,
    }
    let prices = account.prices().await.map_err(failure::of_stripe)?;
    let known = books.fixed_stripe_meters().await?;
    let objects = AccountObjects { meters: &remote, prices: &prices, known: &known };
    let plans = books.plans().await?;
    let mut lines = check(&billing, objects, &plans, now);
    lines.extend(check_unbilled(&plans, now));
    let row =
        |l: &CheckLine| vec![l.what.clone(), l.found.clone(), if l.fault.is_some() { "NO" } else { "ok" }.to_owned()];
    print::table(&["compared", "~at Stripe", "~"], lines.iter().map(row).collect());
    for (what, fault) in lines.iter().filter_map(|l| Some((&l.what, l.fault.as_ref()?))) {
        print::out(&format!("{what}: {fault}"));
    }
    let customers = books.living_customers().await?;
    let read = last_read(&books).await?;
    let faults = match read.all.or(read.new) {
        Some(_) => check_items(&billing, objects, &plans, &customers, now.as_second()),
        None => vec![],
    };
    print::items::show(&faults, customers.len(), read, now);
    let unread = !customers.is_empty() && read.all.is_none();
    let differs = unread || !faults.is_empty() || lines.iter().any(|l| l.fault.is_some());
    Ok(if differs { Exit::NeedsAttention } else { Exit::Ok })
}

/// Configured meters that the account lacks. An inactive one counts as there: it is to be
/// reactivated, because a new one would not have what was sent before.
///
/// # Errors
/// When the account is not the one that was used before.
async fn missing<'a>(
    billing: &'a BillingSettings,
    books: &Database,
    remote: &[RemoteMeter],
) -> anyhow::Result<Vec<(&'a String, &'a Mapping)>> {
    find_meters(books, billing, remote).await.map_err(|f| failure::error(&f))?;
    let lacks = |mapping: &Mapping| !remote.iter().any(|m| m.event_name == mapping.event_name);
    Ok(billing.meters.iter().filter(|(_, mapping)| lacks(mapping)).collect())
}

/// Creates the missing meters; returns the meters of the account.
async fn set_up(
    billing: &BillingSettings,
    account: &StripeAccount,
    books: &Database,
    mut remote: Vec<RemoteMeter>,
    now: Timestamp,
) -> anyhow::Result<Vec<RemoteMeter>> {
    let missing = missing(billing, books, &remote).await?;
    for (name, mapping) in &missing {
        let id = account.create_meter(mapping).await.map_err(failure::of_stripe)?;
        print::out(&format!("meter {name} made as {}: {id}", mapping.event_name));
    }
    if !missing.is_empty() {
        (remote, _) = account.meters().await.map_err(failure::of_stripe)?;
    }
    let known = books.stripe_meters().await?;
    let mut found: Vec<StripeMeter> = find_meters(books, billing, &remote).await.map_err(|f| failure::error(&f))?;
    found.retain(|m| !known.contains(m));
    books.keep_stripe_meters(found, now).await?;
    Ok(remote)
}
