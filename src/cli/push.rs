//! `meter push`: sends usage to Stripe from this process.

use clap::Args as ClapArgs;
use jiff::Timestamp;
use jobs::job::{Job, Mode};
use jobs::push_stripe::{PushStripe, preview, push};
use jobs::roll_periods::roll_unless_restored;

use super::failure;
use crate::config::Config;
use crate::exit::Exit;
use crate::format::Counted;
use crate::print;
use crate::wiring::{self, Open};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Only show what would be sent, and who has no Stripe id or no subscription; always so without
    /// METER_STRIPE__KEY. The exit code is that of a push
    #[arg(long)]
    dry_run: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let dry = args.dry_run || config.stripe.key.expose().is_empty();
    let open = if dry { Open::DRY_RUN } else { Open::MIGRATED };
    let books = wiring::open_books(config, open).await?;
    let context = wiring::context(config, books.counted()).await?;
    if !dry {
        // a subscription or customer that became known just now has no billing periods yet
        roll_unless_restored(&context, now, Mode::Write).await?;
    }
    let report = if dry {
        preview(&context.books, &context.billing, now).await
    } else {
        push(&context.books, &context.billing, now).await
    };
    let report = report.map_err(|f| failure::error(&f))?;
    if args.json {
        print::json(&Counted::new(&report, context.books.traffic()))?;
    } else {
        if dry && !args.dry_run {
            print::out("METER_STRIPE__KEY is not set, so nothing is sent; this is what would be");
        }
        print::push::show(&report, config);
        if dry {
            let rolled = roll_unless_restored(&context, now, Mode::DryRun).await?;
            if rolled.customers > 0 {
                let customers = print::several(rolled.customers, "customer");
                print::out(&format!(
                    "note: a push first opens or moves billing periods, for {customers}; usage in those is not in these figures"
                ));
            }
        }
        print::cost(&context.books);
    }
    Ok(if PushStripe::needs_attention(&report) { Exit::NeedsAttention } else { Exit::Ok })
}
