//! `meter stripe`: the account beside the configuration.

use anyhow::anyhow;
use books::Database;
use books::stripe::billing_target::StripeMeter;
use clap::Subcommand;
use jiff::Timestamp;
use jobs::stripe::check::{CheckLine, check};
use jobs::stripe::preconditions::match_meters;
use jobs::stripe::{BillingSettings, RemoteMeter, StripeAccount, StripeMode};

use super::push::books;
use super::{BadUsage, Exit, print};
use crate::config::Config;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Make the meters that the account does not have; done twice, it makes nothing twice. Prices
    /// are checked, and said how to make
    Setup {
        /// Only show what would be made
        #[arg(long)]
        dry_run: bool,
    },
    /// Compare the account with the configuration and the plans, and name each difference; ends
    /// with 3 when there is one
    Check,
}

pub(crate) async fn run(action: Action, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let billing = config.stripe.billing()?;
    let StripeMode::Stripe(account) = &billing.mode else {
        return Err(BadUsage("METER_STRIPE__KEY is not set: there is no account to ask".into()).into());
    };
    if billing.meters.is_empty() {
        return Err(BadUsage("stripe.meters names no meter, so there is nothing to compare".into()).into());
    }
    let dry = !matches!(action, Action::Setup { dry_run: false });
    let books = books(config, dry, now).await?;
    let (remote, _) = account.meters().await.map_err(|e| anyhow!(e))?;
    let remote = if let Action::Setup { dry_run } = action {
        set_up(&billing, account, &books, remote, dry_run, now).await?
    } else {
        remote
    };
    let prices = account.prices().await.map_err(|e| anyhow!(e))?;
    let known = books.stripe_meters().await?;
    let lines = check(&billing, &known, &remote, &prices, &books.plans().await?, now);
    let row =
        |l: &CheckLine| vec![l.what.clone(), l.found.clone(), if l.fault.is_some() { "NO" } else { "ok" }.to_owned()];
    print::table(&["compared", "at Stripe", ""], lines.iter().map(row).collect());
    for (what, fault) in lines.iter().filter_map(|l| Some((&l.what, l.fault.as_ref()?))) {
        print::out(&format!("{what}: {fault}"));
    }
    Ok(if lines.iter().all(|l| l.fault.is_none()) { Exit::Ok } else { Exit::NeedsAttention })
}

/// Makes what is missing; returns what is there then.
async fn set_up(
    billing: &BillingSettings,
    account: &StripeAccount,
    books: &Database,
    mut remote: Vec<RemoteMeter>,
    dry_run: bool,
    now: Timestamp,
) -> anyhow::Result<Vec<RemoteMeter>> {
    // nothing is made in an account that is not the one that was used before
    let known = books.stripe_meters().await?;
    match_meters(billing, &known, &remote).map_err(|why| anyhow!(why))?;
    let mut made = 0;
    for (name, mapping) in &billing.meters {
        // one that was deactivated is to be reactivated: another would not have what was sent
        if remote.iter().any(|m| m.event_name == mapping.event_name) {
            continue;
        }
        if dry_run {
            print::out(&format!("meter {name} would be made as {}", mapping.event_name));
            continue;
        }
        let id = account.create_meter(mapping).await.map_err(|e| anyhow!(e))?;
        print::out(&format!("meter {name} made as {}: {id}", mapping.event_name));
        made += 1;
    }
    if made > 0 {
        (remote, _) = account.meters().await.map_err(|e| anyhow!(e))?;
    }
    if !dry_run {
        let mut found: Vec<StripeMeter> = match_meters(billing, &known, &remote).map_err(|why| anyhow!(why))?;
        found.retain(|m| !known.contains(m));
        books.keep_stripe_meters(found, now).await?;
    }
    Ok(remote)
}
