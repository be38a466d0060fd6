//! `meter stripe`: sets up the account, and compares it with the configuration.

use books::Database;
use books::stripe::stripe_meter::StripeMeter;
use clap::Subcommand;
use jiff::Timestamp;
use jobs::stripe::check::{AccountObjects, CheckLine, check, check_unbilled};
use jobs::stripe::check_items::{CustomerFaults, check_items};
use jobs::stripe::preconditions::find_meters;
use jobs::stripe::{BillingSettings, Mapping, RemoteMeter, StripeAccount, StripeMode};
use jobs::sync_stripe::last_read;
use schemars::JsonSchema;
use serde::Serialize;

use super::failure;
use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::print::{self, OutputFormat};
use crate::wiring::{self, Open};

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Create the meters that the account lacks; safe to repeat. Prices are only checked, with a
    /// remedy for each problem
    Setup {
        /// Only show what would be created
        #[arg(long)]
        dry_run: bool,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Compare the account with the configuration and the plans, and the items of each customer's
    /// subscriptions with the plan, as `sync_stripe` last read them; the exit code is 3 when they
    /// differ
    Check {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
}

/// The account at Stripe beside the configuration and the plans.
#[derive(JsonSchema, Serialize)]
pub(super) struct ComparedAccount {
    /// The meters that `meter stripe setup` made, or with `--dry-run` would make.
    made: Vec<MadeMeter>,
    compared: Vec<CheckLine>,
    /// Customers with items that do not bill what the plan says.
    items: Vec<CustomerItems>,
    /// When every subscription was last read; none while that has not been done.
    all_items_read_at: Option<Timestamp>,
    /// When new subscriptions were last read.
    new_items_read_at: Option<Timestamp>,
}

#[derive(JsonSchema, Serialize)]
pub(super) struct MadeMeter {
    meter: String,
    event_name: String,
    /// Stripe's id; none of a dry run.
    id: Option<String>,
}

#[derive(JsonSchema, Serialize)]
pub(super) struct CustomerItems {
    customer: String,
    faults: Vec<String>,
}

pub(crate) async fn run(action: Action, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let billing = wiring::billing(&config.stripe)?;
    let StripeMode::Stripe(account) = &billing.mode else {
        return Err(BadUsage("METER_STRIPE__KEY is not set: there is no account to ask".into()).into());
    };
    if billing.meters.is_empty() {
        return Err(BadUsage("stripe.meters names no meter, so there is nothing to compare".into()).into());
    }
    let json = matches!(action, Action::Setup { json: true, .. } | Action::Check { json: true });
    let open = if matches!(action, Action::Setup { dry_run: false, .. }) { Open::MIGRATED } else { Open::DRY_RUN };
    let books = wiring::open_books(config, open).await?;
    let (mut remote, _) = account.meters().await.map_err(failure::of_stripe)?;
    let mut made = vec![];
    match action {
        Action::Check { .. } => {}
        Action::Setup { dry_run: true, .. } => {
            for (name, mapping) in missing(&billing, &books, &remote).await? {
                made.push(MadeMeter { meter: name.clone(), event_name: mapping.event_name.clone(), id: None });
            }
        }
        Action::Setup { dry_run: false, .. } => {
            (remote, made) = set_up(&billing, account, &books, (remote, OutputFormat::of(json)), now).await?;
        }
    }
    for MadeMeter { meter, event_name, .. } in made.iter().filter(|of| of.id.is_none() && !json) {
        print::out(&format!("meter {meter} would be made as {event_name}"));
    }
    let prices = account.prices().await.map_err(failure::of_stripe)?;
    let known = books.fixed_stripe_meters().await?;
    let objects = AccountObjects { meters: &remote, prices: &prices, known: &known };
    let plans = books.plans().await?;
    let mut lines = check(&billing, objects, &plans, now);
    lines.extend(check_unbilled(&plans, now));
    let customers = books.living_customers().await?;
    let read = last_read(&books).await?;
    let faults = match read.all.or(read.new) {
        Some(_) => check_items(&billing, objects, &plans, &customers, now.as_second()),
        None => vec![],
    };
    let unread = !customers.is_empty() && read.all.is_none();
    let differs = unread || !faults.is_empty() || lines.iter().any(|l| l.fault.is_some());
    let done = if differs { Exit::NeedsAttention } else { Exit::Ok };
    if json {
        let items = |of: CustomerFaults| CustomerItems {
            customer: of.customer,
            faults: of.faults.iter().map(ToString::to_string).collect(),
        };
        print::json(&ComparedAccount {
            made,
            compared: lines,
            items: faults.into_iter().map(items).collect(),
            all_items_read_at: read.all,
            new_items_read_at: read.new,
        })?;
        return Ok(done);
    }
    let row =
        |l: &CheckLine| vec![l.what.clone(), l.found.clone(), if l.fault.is_some() { "NO" } else { "ok" }.to_owned()];
    print::table(&["compared", "~at Stripe", "~"], lines.iter().map(row).collect());
    for (what, fault) in lines.iter().filter_map(|l| Some((&l.what, l.fault.as_ref()?))) {
        // a command is not broken where the terminal ends: it is to be copied
        match fault.split_once(": stripe ") {
            Some((why, command)) => {
                print::out(&format!("{what}: {why}:"));
                print::lines(&format!("stripe {command}"));
            }
            None => print::out(&format!("{what}: {fault}")),
        }
    }
    print::items::show(&faults, customers.len(), read, now);
    Ok(done)
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

/// Creates the missing meters; returns the meters of the account, and those that were made.
async fn set_up(
    billing: &BillingSettings,
    account: &StripeAccount,
    books: &Database,
    (mut remote, format): (Vec<RemoteMeter>, OutputFormat),
    now: Timestamp,
) -> anyhow::Result<(Vec<RemoteMeter>, Vec<MadeMeter>)> {
    let mut made = vec![];
    let missing = missing(billing, books, &remote).await?;
    for (name, mapping) in &missing {
        let id = account.create_meter(mapping).await.map_err(failure::of_stripe)?;
        if format == OutputFormat::Text {
            print::out(&format!("meter {name} made as {}: {id}", mapping.event_name));
        }
        made.push(MadeMeter {
            meter: name.to_string(),
            event_name: mapping.event_name.clone(),
            id: Some(id.to_string()),
        });
    }
    if !missing.is_empty() {
        (remote, _) = account.meters().await.map_err(failure::of_stripe)?;
    }
    let known = books.stripe_meters().await?;
    let mut found: Vec<StripeMeter> = find_meters(books, billing, &remote).await.map_err(|f| failure::error(&f))?;
    found.retain(|m| !known.contains(m));
    books.keep_stripe_meters(found, now).await?;
    Ok((remote, made))
}
