//! `meter restored`: for copies that carry no mark, because `meter backup` did not make them.

use clap::Args as ClapArgs;
use jiff::Timestamp;
use jobs::books::audit::Act;

use super::intents::who;
use super::{BadUsage, Done, print};
use crate::config::Config;
use crate::wiring;

/// From when.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// When the copy was made, or any time before: `2026-11-23T02:00:00Z`
    #[arg(long, value_name = "INSTANT")]
    backup_at: Timestamp,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Done> {
    let at = args.backup_at;
    if at > now {
        return Err(BadUsage(format!("--backup-at {at} is in the future")).into());
    }
    let books = wiring::books_as_they_are(config).await?;
    books.migrate(now).await?;
    let act = Act {
        who: who(),
        act: "restored".into(),
        subject: "books".into(),
        reason: format!("said to be restored from a copy of {at}"),
    };
    let taken = books.mark_restored(at, act, now).await?;
    if taken < at {
        print::out(&format!(
            "the newest thing in these books was done at {taken}, so that is taken for the time of the copy"
        ));
    }
    print::out(&format!(
        "noted: these books are those of {taken}; the next push sends nothing for periods that were open then until Stripe's totals have told what was \
         sent since"
    ));
    Ok(Done::Well)
}
