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
use crate::print::{self, OutputFormat};
use crate::wiring::{self, Open};

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Show what is done, and what is to be done next; the exit code is 3 while billing is on hold
    Status(Status),
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
pub(crate) struct Status {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Mark {
    /// When the copy was made, or any time before: `2026-11-23T02:00:00Z`
    #[arg(long, value_name = "INSTANT", value_parser = super::instant::instant)]
    backup_at: Timestamp,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ImportTotals {
    /// Import the totals without the bill of this export and month, because its files are gone:
    /// `main/2026-01`. Usage of it that was booked after the backup is reversed
    #[arg(long, value_name = "EXPORT/MONTH")]
    without: Vec<String>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
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
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// What a command does step by step: printed at once, or kept for JSON.
struct Steps {
    format: OutputFormat,
    done: Vec<String>,
}

impl Steps {
    fn new(json: bool) -> Self {
        Self { format: OutputFormat::of(json), done: vec![] }
    }

    fn add(&mut self, step: String) {
        match self.format {
            OutputFormat::Text => print::out(&step),
            OutputFormat::Json => {
                // also while it goes on: a later step may fail
                print::err(&step);
                self.done.push(step);
            }
        }
    }

    /// Ends with how far the restoration is.
    fn end(self, found: Option<&Checklist>, now: Timestamp) -> anyhow::Result<()> {
        match (self.format, found) {
            (OutputFormat::Json, found) => print::json(&print::restore::state(found, self.done, now)),
            (OutputFormat::Text, Some(found)) => {
                print::restore::checklist(found, now);
                Ok(())
            }
            (OutputFormat::Text, None) => Ok(()),
        }
    }
}

pub(crate) async fn run(action: Action, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    if let Action::Mark(args) = action {
        return mark(&args, config, now).await;
    }
    let books = wiring::open_books(config, Open::EXISTING).await?;
    let context = wiring::context(config, books).await?;
    let json = match &action {
        Action::Status(args) => args.json,
        Action::ImportTotals(args) => args.json,
        Action::Finish(args) => args.json,
        Action::Mark(args) => args.json,
    };
    let mut steps = Steps::new(json);
    let Some(found) = restore::checklist(&context).await? else {
        steps.add("Billing is not on hold: these books are not restored from a backup, or that is finished.".into());
        steps.end(None, now)?;
        return Ok(Exit::Ok);
    };
    match action {
        Action::ImportTotals(args) => import_totals(args, steps, &context, now).await,
        Action::Finish(args) => finish(args, steps, &context, now).await,
        Action::Status(_) | Action::Mark(_) => {
            steps.end(Some(&found), now)?;
            if !json && matches!(context.billing.mode, StripeMode::DryRun) {
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
    let mut steps = Steps::new(args.json);
    if taken < at {
        steps.add(format!("the newest entry of these books is of {taken}, so the copy counts as made then"));
    }
    steps.add(format!(
        "Marked as restored from a backup of {taken}. Billing is on hold; next: meter restore import-totals"
    ));
    if args.json {
        let context = wiring::context_without_sources(config, books)?;
        steps.end(restore::checklist(&context).await?.as_ref(), now)?;
    }
    Ok(Exit::Ok)
}

async fn import_totals(
    args: ImportTotals,
    mut steps: Steps,
    context: &Context,
    now: Timestamp,
) -> anyhow::Result<Exit> {
    require_key(context)?;
    if let Some(open) = restore::begin(context, actor::current(), now).await.map_err(|f| failure::error(&f))? {
        steps.add(format!("begun: {open} open event(s) are not received now; Stripe's totals decide about them"));
    }
    read_subscriptions(&mut steps, context, now).await?;
    read_bills(args.without, &mut steps, context, now).await?;
    roll(&context.books, now, Mode::Write).await?;
    let imported = restore::import_totals(context, now).await.map_err(|f| failure::error(&f))?;
    steps.add(format!("{} total(s) imported", print::count(imported)));
    let found = restore::checklist(context).await?;
    if found.is_some() && !args.json {
        print::out("");
    }
    steps.end(found.as_ref(), now)?;
    let is_whole = found.is_none_or(|found| found.open_step(now) == Step::Finish);
    Ok(if is_whole { Exit::Ok } else { Exit::NeedsAttention })
}

/// Reads every subscription, as `sync_stripe` does.
async fn read_subscriptions(steps: &mut Steps, context: &Context, now: Timestamp) -> anyhow::Result<()> {
    let synced = sync(&context.books, &context.billing, now, SyncScope::All).await.map_err(|f| failure::error(&f))?;
    steps.add(format!("{} subscription(s) read", print::count(synced.read)));
    if synced.unknown_customers > 0 {
        steps.add(format!(
            "attention: {} of them belong to Stripe customers that these books do not know. Write customers that were added after the backup \
             again before `meter restore finish`; later, their usage would be billed a second time",
            print::count(synced.unknown_customers)
        ));
    }
    Ok(())
}

/// Reads the bills of all exports until each was read once, as `ingest_cur` does.
async fn read_bills(without: Vec<String>, steps: &mut Steps, context: &Context, now: Timestamp) -> anyhow::Result<()> {
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
            steps.add(format!("{export} {month}: left out; {why}"));
            left_out.push(entry("restore import-totals --without", name));
        } else {
            steps.add(format!("{export} {month}: {why}; or leave it out: --without {name}"));
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

async fn finish(args: Finish, mut steps: Steps, context: &Context, now: Timestamp) -> anyhow::Result<Exit> {
    for customer in &args.without {
        known_customer::require_or_usage(&context.books, customer).await?;
    }
    require_key(context)?;
    // who became known meanwhile must not be billed what the lost books had sent
    read_subscriptions(&mut steps, context, now).await?;
    roll(&context.books, now, Mode::Write).await?;
    let Some(found) = restore::checklist(context).await? else { return Ok(Exit::Ok) };
    let without: BTreeSet<String> = args.without.into_iter().collect();
    let reason = args.reason.unwrap_or_else(|| "every total is imported".into());
    if found.open_step(now) < Step::Totals {
        return refused(&found, steps, now);
    }
    let act = entry("restore finish", reason);
    if !context.books.finish_restoration(without, context.billing.grace, act, now).await?.is_empty() {
        return refused(&found, steps, now);
    }
    steps.add("Finished: billing goes on with the next push.".into());
    steps.end(None, now)?;
    Ok(Exit::Ok)
}

fn refused(found: &Checklist, mut steps: Steps, now: Timestamp) -> anyhow::Result<Exit> {
    steps.add("Not finished: billing stays on hold.".into());
    if steps.format == OutputFormat::Text {
        print::out("");
    }
    steps.end(Some(found), now)?;
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
