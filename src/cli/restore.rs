//! `meter restore mark`: marks books as restored from a copy that `meter backup` did not make.

use books::store::audit_log::AuditEntry;
use books::units::calendar::Month;
use clap::{Args as ClapArgs, Subcommand};
use jiff::Timestamp;

use super::actor;
use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::print;
use crate::wiring::{self, Open};

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Mark these books as restored from a copy that `meter backup` did not make
    Mark(Mark),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Mark {
    /// When the copy was made, or any time before: `2026-11-23T02:00:00Z`
    #[arg(long, value_name = "INSTANT", required_unless_present = "without")]
    backup_at: Option<Timestamp>,
    /// Import Stripe's totals without the bill of this export and month, because its files are
    /// gone: `main/2026-01`. Usage of it that was booked after the backup is reversed
    #[arg(long, value_name = "EXPORT/MONTH", conflicts_with = "backup_at")]
    without: Option<String>,
}

pub(crate) async fn run(Action::Mark(args): Action, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    if let Some(which) = &args.without {
        return without(which, config, now).await;
    }
    let Some(at) = args.backup_at else { return Err(BadUsage("--backup-at is needed".into()).into()) };
    if at > now {
        return Err(BadUsage(format!("--backup-at {at} is in the future")).into());
    }
    let books = wiring::open_books(config, Open::NOT_NEWER).await?;
    books.migrate(now).await?;
    let act = AuditEntry {
        actor: actor::current(),
        action: "restore mark".into(),
        target: "books".into(),
        reason: format!("marked as restored from a copy of {at}"),
    };
    let taken = books.mark_restored(at, act, now).await?;
    if taken < at {
        print::out(&format!("the newest entry of these books is of {taken}, so the copy counts as made then"));
    }
    print::out(&format!(
        "Marked as restored from a backup of {taken}. Billing for periods open at {taken} is paused until Stripe's \
         totals have been imported."
    ));
    Ok(Exit::Ok)
}

/// Records that no total waits for a bill.
async fn without(which: &str, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let parsed = which.rsplit_once('/').and_then(|(export, month)| Some((export, month.parse::<Month>().ok()?)));
    let Some((export, month)) = parsed else {
        return Err(BadUsage(format!("--without {which}: write EXPORT/YYYY-MM")).into());
    };
    let books = wiring::open_books(config, Open::EXISTING).await?;
    let waits = match books.restoration(now).await?.filter(|r| r.seen) {
        Some(found) => books.bills_missing(found, vec![export.to_owned()]).await?.contains(&(export.to_owned(), month)),
        None => false,
    };
    if !waits {
        return Err(BadUsage(format!("--without {which}: no total waits for that bill; `meter run reconcile-stripe` lists the bills that are missing")).into());
    }
    let act = AuditEntry {
        actor: actor::current(),
        action: "restore mark --without".into(),
        target: "books".into(),
        reason: which.to_owned(),
    };
    books.go_without_bill(export.to_owned(), month, act, now).await?;
    print::out(&format!("Marked: totals are imported without the bill of {export} for {month}."));
    Ok(Exit::Ok)
}
