//! `meter restore`: what is done to books that were restored from a backup, while billing is on
//! hold.
//!
//! `import-totals` does all steps that can be done now, and may be killed and run again at any
//! time. `finish` ends the hold.

use std::collections::BTreeSet;

use books::store::audit_log::AuditEntry;
use books::stripe::restore::Restoration;
use books::units::calendar::Month;
use clap::{Args as ClapArgs, Subcommand};
use jiff::Timestamp;
use jobs::context::Context;
use jobs::ingest_cur::{IngestCur, IngestOutcome};
use jobs::job::Mode;
use jobs::restore::{self, Checklist, Step};
use jobs::roll_periods::roll;
use jobs::stripe::StripeMode;
use jobs::sync_stripe::{SyncScope, sync};

use super::{actor, failure, known_customer, progress};
use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::print;
use crate::wiring::{self, Open};

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Show what is done, and what is to be done next; the exit code is 3 while billing is on hold
    Status,
    /// Mark these books as restored from a copy that `meter backup` did not make: billing is on
    /// hold from then on
    Mark(Mark),
    /// Read subscriptions and bills again, and import from Stripe's totals what the lost books had
    /// sent since the backup. Run it until the exit code is 0; it goes on where it was
    ImportTotals(ImportTotals),
    /// End the hold of billing, when everything is imported
    Finish(Finish),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Mark {
    /// When the copy was made, or any time before: `2026-11-23T02:00:00Z`
    #[arg(long, value_name = "INSTANT", value_parser = super::instant::instant)]
    backup_at: Timestamp,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ImportTotals {
    /// Import the totals without the bill of this export and month, because its files are gone:
    /// `main/2026-01`. Usage of it that was booked after the backup is reversed
    #[arg(long, value_name = "EXPORT/MONTH")]
    without: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Finish {
    /// Finish although Stripe gives no total of this customer, who was deleted there. What the lost
    /// books had sent for the customer is not imported
    #[arg(long, value_name = "CUSTOMER", requires = "reason")]
    without: Vec<String>,
    /// The reason; kept in audit_log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

pub(crate) async fn run(action: Action, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    if let Action::Mark(args) = action {
        return mark(&args, config, now).await;
    }
    let books = wiring::open_books(config, Open::EXISTING).await?;
    let context = wiring::context(config, books).await?;
    let Some(found) = restore::checklist(&context).await? else {
        print::out("Billing is not on hold: these books are not restored from a backup, or that is finished.");
        return Ok(Exit::Ok);
    };
    match action {
        Action::ImportTotals(args) => import_totals(args, &context, now).await,
        Action::Finish(args) => finish(args, &context, now).await,
        Action::Status | Action::Mark(_) => {
            print::restore::checklist(&found, now);
            if let StripeMode::DryRun = context.billing.mode {
                print::out("METER_STRIPE__KEY is not set: nothing is sent anyway, and nothing can be imported");
            }
            Ok(Exit::NeedsAttention)
        }
    }
}

async fn mark(args: &Mark, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let at = args.backup_at;
    if at > now {
        return Err(BadUsage(format!("--backup-at {at} is in the future")).into());
    }
    let books = wiring::open_books(config, Open::NOT_NEWER).await?;
    books.migrate(now).await?;
    let act = entry("restore mark", format!("marked as restored from a copy of {at}"));
    let taken = books.mark_restored(at, act, now).await?;
    if taken < at {
        print::out(&format!("the newest entry of these books is of {taken}, so the copy counts as made then"));
    }
    print::out(&format!(
        "Marked as restored from a backup of {taken}. Billing is on hold; next: meter restore import-totals"
    ));
    Ok(Exit::Ok)
}

async fn import_totals(args: ImportTotals, context: &Context, now: Timestamp) -> anyhow::Result<Exit> {
    require_key(context)?;
    if let Some(open) = restore::begin(context, actor::current(), now).await.map_err(|f| failure::error(&f))? {
        print::out(&format!("begun: {open} open event(s) are not received now; Stripe's totals decide about them"));
    }
    read_subscriptions(context, now).await?;
    read_bills(args.without, context, now).await?;
    roll(&context.books, now, Mode::Write).await?;
    let imported = restore::import_totals(context, now).await.map_err(|f| failure::error(&f))?;
    print::out(&format!("{} total(s) imported", print::count(imported)));
    print::out("");
    let Some(found) = restore::checklist(context).await? else { return Ok(Exit::Ok) };
    print::restore::checklist(&found, now);
    Ok(if found.open_step(now) == Step::Finish { Exit::Ok } else { Exit::NeedsAttention })
}

/// Reads every subscription, as `sync_stripe` does.
async fn read_subscriptions(context: &Context, now: Timestamp) -> anyhow::Result<()> {
    let synced = sync(&context.books, &context.billing, now, SyncScope::All).await.map_err(|f| failure::error(&f))?;
    print::out(&format!("{} subscription(s) read", print::count(synced.read)));
    if synced.unknown_customers > 0 {
        print::out(&format!(
            "attention: {} of them belong to Stripe customers that these books do not know. Write customers that were added after the backup \
             again before `meter restore finish`; later, their usage would be billed a second time",
            print::count(synced.unknown_customers)
        ));
    }
    Ok(())
}

/// Reads the bills of all exports until each was read once, as `ingest_cur` does.
async fn read_bills(without: Vec<String>, context: &Context, now: Timestamp) -> anyhow::Result<()> {
    let Some(hold) = context.books.billing_hold().await? else { return Ok(()) };
    let months = hold.restoration.map(Restoration::months).unwrap_or_default();
    let bills: Vec<(&String, Month)> =
        context.exports.keys().flat_map(|export| months.iter().map(move |month| (export, *month))).collect();
    if let Some(odd) = without.iter().find(|name| !bills.iter().any(|(e, month)| **name == format!("{e}/{month}"))) {
        let known: Vec<String> = bills.iter().map(|(export, month)| format!("{export}/{month}")).collect();
        return Err(
            BadUsage(format!("--without {odd}: no total waits for that bill, but for {}", known.join(", "))).into()
        );
    }
    if hold.bills_read_at.is_some() {
        return Ok(());
    }
    let (mut missing, mut left_out) = (false, vec![]);
    for (export, month) in bills {
        let name = format!("{export}/{month}");
        let Some(why) = read_bill(export, month, context, now).await else { continue };
        if without.contains(&name) {
            print::out(&format!("{export} {month}: left out; {why}"));
            left_out.push(entry("restore import-totals --without", name));
        } else {
            print::out(&format!("{export} {month}: {why}; or leave it out: --without {name}"));
            missing = true;
        }
    }
    if !missing {
        context.books.note_bills_read(left_out, now).await?;
    }
    Ok(())
}

/// Reads a bill. Returns why it is not booked, and what to do, if it is not.
async fn read_bill(export: &str, month: Month, context: &Context, now: Timestamp) -> Option<String> {
    match progress::ingest(IngestCur::new(export, month), context, now).await {
        // it is booked, and its files are gone
        Ok(report) if report.outcome == IngestOutcome::NoBill && !report.warnings.is_empty() => {
            Some(format!("NOT READABLE: {}", report.warnings.join("; ")))
        }
        Ok(report) if report.outcome.needs_attention() => {
            let found: Vec<&str> = report.hold_reasons.iter().map(|r| r.text.as_str()).collect();
            Some(format!("ON HOLD, `meter versions` says what to do: {}", found.join("; ")))
        }
        Ok(_) => None,
        Err(failure) => Some(format!("NOT READABLE: {:#}", failure.error())),
    }
}

async fn finish(args: Finish, context: &Context, now: Timestamp) -> anyhow::Result<Exit> {
    for customer in &args.without {
        known_customer::require_or_usage(&context.books, customer).await?;
    }
    require_key(context)?;
    // who became known meanwhile must not be billed what the lost books had sent
    read_subscriptions(context, now).await?;
    roll(&context.books, now, Mode::Write).await?;
    let Some(found) = restore::checklist(context).await? else { return Ok(Exit::Ok) };
    let without: BTreeSet<String> = args.without.into_iter().collect();
    let reason = args.reason.unwrap_or_else(|| "every total is imported".into());
    if found.open_step(now) < Step::Totals {
        return refused(&found, now);
    }
    let act = entry("restore finish", reason);
    if !context.books.finish_restoration(without, context.billing.grace, act, now).await?.is_empty() {
        return refused(&found, now);
    }
    print::out("Finished: billing goes on with the next push.");
    Ok(Exit::Ok)
}

fn refused(found: &Checklist, now: Timestamp) -> anyhow::Result<Exit> {
    print::out("Not finished: billing stays on hold.");
    print::out("");
    print::restore::checklist(found, now);
    Ok(Exit::NeedsAttention)
}

fn require_key(context: &Context) -> anyhow::Result<()> {
    match context.billing.mode {
        StripeMode::Stripe(_) => Ok(()),
        StripeMode::DryRun => Err(BadUsage(
            "METER_STRIPE__KEY is not set: Stripe's totals cannot be read, and nothing is sent without it anyway"
                .into(),
        )
        .into()),
    }
}

fn entry(action: &str, reason: String) -> AuditEntry {
    AuditEntry { actor: actor::current(), action: action.into(), target: "books".into(), reason }
}
