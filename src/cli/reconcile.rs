//! `meter reconcile`: compares AWS bills, the ledger and Stripe's totals.

use std::ops::Range;

use books::Database;
use books::stripe::acknowledgement::AcknowledgedBy;
use books::stripe::comparison::{ComparedPeriod, ComparisonFilter, Verdict, WithoutPeriod};
use books::units::calendar::Month;
use clap::Args as ClapArgs;
use jiff::Timestamp;
use jobs::reconcile_stripe::reconcile;
use jobs::stripe::StripeMode;

use super::{actor, failure, known_customer};
use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::print::{self, WithUnit, reconcile as tables};
use crate::wiring::{self, Open};

/// The most differences listed.
const SHOWN: usize = 50;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Only this customer, by period, after reading its totals from Stripe if there is a key
    /// [default: sums of all customers]
    customer: Option<String>,
    /// Billing periods that begin in this month [default: the last two months and the current one]
    #[arg(long, value_name = "YYYY-MM")]
    month: Option<Month>,
    /// Mark this customer's alarms and deferred amounts as handled outside meter (credit note,
    /// manual invoice, write-off). They stop alerting until they change. The ledger is not
    /// modified; the difference stays visible here
    #[arg(long, requires_all = ["customer", "reason"], conflicts_with = "json")]
    acknowledge: bool,
    /// The reason; kept with the entry, and shown here
    #[arg(long, value_name = "TEXT", requires = "acknowledge")]
    reason: Option<String>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let books = wiring::open_books(config, Open::EXISTING).await?;
    let context = wiring::context(config, books).await?;
    let books = &context.books;
    if let Some(customer) = &args.customer {
        known_customer::require(books, customer).await?;
        // an acknowledgement covers what was shown before, and nothing that Stripe is asked for now
        if let (StripeMode::Stripe(_), false) = (&context.billing.mode, args.acknowledge) {
            reconcile(&context, now, Some(customer.clone())).await.map_err(|f| failure::error(&f))?;
        }
    }
    let second = |month: Month| month.first_day().start().as_second();
    if let (true, Some(customer)) = (args.acknowledge, &args.customer) {
        // without --month every period of the customer
        let periods = args.month.map_or(i64::MIN..i64::MAX, |month| second(month)..second(month.next()));
        acknowledge(books, customer, periods, args.reason.as_deref().unwrap_or_default(), now).await?;
    }
    let meters: Vec<String> = context.billing.meters.keys().cloned().collect();
    if meters.is_empty() && !args.json {
        print::out("nothing is billed: stripe.meters names no meter");
        return Ok(Exit::Ok);
    }
    let (from, to) = match args.month {
        Some(month) => (month, month.next()),
        None => (Month::of(now).previous().previous(), Month::of(now).next()),
    };
    let bills = books.bills_and_ledger(from, to).await?;
    let days = (from.first_day(), to.previous().last_day());
    let (from, to) = (second(from), second(to).min(now.as_second() + 1));
    let filter = ComparisonFilter { customer: args.customer.clone(), meters, starts: from..to, limit: tables::MOST };
    let meters = filter.meters.clone();
    let rows = books.compare(filter).await?;
    // of all customers only: usage of one customer lies in periods, or the customer is unknown
    let without = match args.customer {
        Some(_) => vec![],
        None => books.usage_without_period(days.0, days.1, meters).await?,
    };
    let waits = without.iter().any(|w| w.why != WithoutPeriod::NoTag);
    let apart = bills.iter().any(|b| b.bill != b.ledger);
    let verdict = rows.iter().map(ComparedPeriod::verdict).max().unwrap_or(Verdict::Agrees);
    let verdict = verdict.max(if waits { Verdict::Waiting } else { Verdict::Agrees });
    let verdict = verdict.max(if apart { Verdict::Differs } else { Verdict::Agrees });
    let on_hold = books.billing_hold().await?.is_some();
    let verdict = verdict.max(if on_hold { Verdict::Waiting } else { Verdict::Agrees });
    let done = if verdict == Verdict::Agrees { Exit::Ok } else { Exit::NeedsAttention };
    if args.json {
        let units = config.units();
        let of = |of: ComparedPeriod| {
            let meter = of.meter.clone();
            WithUnit::new(tables::ReconciledPeriod::new(of, &context.billing), &meter, &units)
        };
        print::json(&rows.into_iter().map(of).collect::<Vec<_>>())?;
        return Ok(done);
    }
    if args.customer.is_some() {
        tables::periods(&rows, &context.billing, now);
    } else {
        tables::bills(&bills);
        tables::sums(&rows, &context.billing);
        let mut differing: Vec<ComparedPeriod> =
            rows.iter().filter(|c| c.verdict() != Verdict::Agrees).cloned().collect();
        if !differing.is_empty() {
            differing.sort_by_key(|c| std::cmp::Reverse(c.verdict()));
            print::out("");
            print::out(&format!("not settled: {}", print::several(differing.len(), "period")));
            print::out("");
            tables::periods(&differing[..differing.len().min(SHOWN)], &context.billing, now);
            if differing.len() > SHOWN {
                let more = print::several(differing.len() - SHOWN, "more period");
                print::out(&format!("... and {more}; `meter reconcile CUSTOMER` shows those of a customer"));
            }
        }
        tables::without_period(&without);
    }
    if on_hold {
        print::out("billing is on hold, and no total is compared: `meter restore status`");
    }
    if matches!(context.billing.mode, StripeMode::DryRun) {
        print::out("Stripe was not asked now, because METER_STRIPE__KEY is not set");
    }
    print::out(tables::conclusion(verdict, &bills, &rows));
    Ok(done)
}

/// Records that alarms and deferred amounts of a customer are handled.
async fn acknowledge(
    books: &Database,
    customer: &str,
    periods: Range<i64>,
    reason: &str,
    now: Timestamp,
) -> anyhow::Result<()> {
    if reason.trim().is_empty() {
        return Err(BadUsage("--reason: say what was done about it; it is kept".into()).into());
    }
    let by = AcknowledgedBy { actor: actor::current(), reason: reason.trim().to_owned() };
    let seen = books.acknowledge(customer.to_owned(), periods, by, now).await?;
    if seen.is_empty() {
        return Err(
            BadUsage(format!("`{customer}` has no alarm and no deferred amount that is not acknowledged yet")).into()
        );
    }
    let rows = seen.into_iter().map(|a| vec![a.period_start.to_string(), a.meter, a.matter.to_string()]).collect();
    print::out("acknowledged; these alert again when they change:");
    print::out("");
    print::table(&["period from", "meter", "~"], rows);
    print::out("");
    Ok(())
}
