//! `meter reconcile`: what AWS billed, what the ledger holds, and what Stripe has, beside each
//! other.

use std::collections::BTreeMap;
use std::ops::Range;

use books::Database;
use books::audit::log::AuditEntry;
use books::stripe::comparison::{ComparedBill, ComparedPeriod, ComparisonFilter};
use books::units::calendar::Month;
use books::units::quantity::Quantity;
use clap::Args as ClapArgs;
use jiff::Timestamp;
use jobs::job::Context;
use jobs::push_stripe::{PlannedEvent, preview};
use jobs::reconcile_stripe::reconcile;
use jobs::stripe::StripeMode;

use super::events::who;
use super::jobs_of::ago;
use super::push::said;
use super::{BadUsage, Exit, print};
use crate::config::Config;
use crate::wiring;

/// Periods that are compared at once.
const MOST: u32 = 1_000_000;
/// Differences that are listed.
const SHOWN: usize = 50;

/// Of whom, and when.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Only this customer, period by period; Stripe is asked first, if there is a key [default:
    /// sums of all]
    customer: Option<String>,
    /// Billing periods that begin in this month [default: the last two months and the current one]
    #[arg(long, value_name = "YYYY-MM")]
    month: Option<Month>,
    /// Say that alarms and deferred amounts of this customer are dealt with outside of the books (a
    /// credit note, an invoice by hand, written off): nobody is told of them again as they are. The
    /// books stay as they are, and so does the difference that is shown here
    #[arg(long, requires_all = ["customer", "reason"], conflicts_with = "json")]
    acknowledge: bool,
    /// Why; it is kept
    #[arg(long, value_name = "TEXT", requires = "acknowledge")]
    reason: Option<String>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let books = wiring::existing_books(config).await?;
    let context = wiring::context(config, books).await?;
    let books = &context.books;
    if let Some(customer) = &args.customer {
        if books.customers(None, Some(customer.clone())).await?.is_empty() {
            return Err(BadUsage(format!("there is no customer `{customer}`; `meter customer list` shows all")).into());
        }
        // what is acknowledged is what stood here, and nothing that is found only now
        if let (StripeMode::Stripe(_), false) = (&context.billing.mode, args.acknowledge) {
            reconcile(&context, now, Some(customer.clone())).await.map_err(|f| said(&f))?;
        }
    }
    let second = |month: Month| month.previous().last_day().end().as_second();
    if let (true, Some(customer)) = (args.acknowledge, &args.customer) {
        // without --month whatever there is of the customer
        let periods = args.month.map_or(i64::MIN..i64::MAX, |month| second(month)..second(month.next()));
        acknowledge(books, customer, periods, args.reason.as_deref().unwrap_or_default(), now).await?;
    }
    let meters: Vec<String> = context.billing.meters.keys().cloned().collect();
    if meters.is_empty() {
        print::out("nothing is billed: stripe.meters names no meter");
        return Ok(Exit::Ok);
    }
    let (from, to) = match args.month {
        Some(month) => (month, month.next()),
        None => (Month::of(now).previous().previous(), Month::of(now).next()),
    };
    let bills = books.bills_and_ledger(from, to).await?;
    let (from, to) = (second(from), second(to).min(now.as_second() + 1));
    let filter = ComparisonFilter { customer: args.customer.clone(), meters, starts: from..to, limit: MOST };
    let rows = books.compare(filter).await?;
    // what is booked and not planned yet is in none of the columns
    let unsent = preview(books, &context.billing, now).await.map_err(|f| said(&f))?;
    let unsent: Vec<PlannedEvent> =
        unsent.events.into_iter().filter(|e| args.customer.as_ref().is_none_or(|c| *c == e.customer)).collect();
    let differs = |c: &ComparedPeriod| !rest(c).is_zero() || c.alarm.is_some();
    let apart = bills.iter().any(|b| b.bill != b.ledger);
    let done = if rows.iter().any(differs) || !unsent.is_empty() || apart { Exit::NeedsAttention } else { Exit::Ok };
    if args.json {
        print::json(&rows.iter().map(json).collect::<Vec<_>>())?;
        return Ok(done);
    }
    if args.customer.is_some() {
        table(&rows, now);
    } else {
        show_bills(&bills);
        sums(&rows);
        let differing: Vec<ComparedPeriod> = rows.iter().filter(|c| differs(c)).cloned().collect();
        if !differing.is_empty() {
            print::out(&format!("\n{} period(s) where they are not the same:\n", print::count(differing.len())));
            table(&differing[..differing.len().min(SHOWN)], now);
        }
    }
    if !unsent.is_empty() {
        let count = print::count(unsent.len());
        print::out(&format!("\n{count} amount(s) are booked and not at Stripe yet: `meter push --dry-run` shows them"));
    }
    print::out(if done == Exit::Ok {
        "\nAWS bill = ledger, and Stripe has what the plans make of it: every difference is 0"
    } else {
        "\nnot everything is at Stripe; the last column says why"
    });
    Ok(done)
}

/// Notes that a person has dealt with what is wrong or deferred of a customer.
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
    let act = AuditEntry {
        actor: who(),
        action: "reconcile --acknowledge".into(),
        target: format!("customer {customer}"),
        reason: reason.trim().to_owned(),
    };
    let seen = books.acknowledge(customer.to_owned(), periods, act, now).await?;
    if seen.is_empty() {
        return Err(
            BadUsage(format!("`{customer}` has no alarm and no deferred amount that is not acknowledged yet")).into()
        );
    }
    let rows = seen.into_iter().map(|a| vec![a.period_start.to_string(), a.meter, a.matter.to_string()]).collect();
    print::out("acknowledged; these call for somebody again when they change:\n");
    print::table(&["period from", "meter", ""], rows);
    print::out("");
    Ok(())
}

/// Some customers' periods that begin in a month.
pub(super) async fn show_customers(
    context: &Context,
    customers: &[String],
    month: Month,
    now: Timestamp,
) -> anyhow::Result<()> {
    let meters: Vec<String> = context.billing.meters.keys().cloned().collect();
    let start = month.previous().last_day().end().as_second();
    let mut rows = vec![];
    for customer in customers {
        let starts = start..now.as_second();
        let filter = ComparisonFilter { customer: Some(customer.clone()), meters: meters.clone(), starts, limit: MOST };
        rows.extend(context.books.compare(filter).await?);
    }
    table(&rows, now);
    Ok(())
}

/// What the bill and the ledger are apart, and what of it is not at Stripe.
struct Rest {
    ledger: Quantity,
    stripe: i64,
}

impl Rest {
    fn is_zero(&self) -> bool {
        self.ledger.is_zero() && self.stripe == 0
    }
}

fn rest(c: &ComparedPeriod) -> Rest {
    Rest { ledger: c.bill - c.ledger, stripe: c.target - c.events.accepted }
}

fn difference(rest: &Rest) -> String {
    match (rest.ledger.is_zero(), rest.stripe) {
        (true, n) => n.to_string(),
        (false, n) => format!("{n}, bill - ledger {}", print::quantity(rest.ledger)),
    }
}

fn json(c: &ComparedPeriod) -> serde_json::Value {
    let mut value = serde_json::to_value(c).unwrap_or_default();
    value["aws_bill"] = c.bill.to_string().into();
    value["ledger"] = c.ledger.to_string().into();
    value["difference"] = rest(c).stripe.into();
    value
}

fn table(rows: &[ComparedPeriod], now: Timestamp) {
    let row = |c: &ComparedPeriod| {
        vec![
            c.customer.clone(),
            c.meter.clone(),
            c.period_start.to_string(),
            print::quantity(c.bill),
            print::quantity(c.ledger),
            c.target.to_string(),
            c.events.accepted.to_string(),
            difference(&rest(c)),
            why(c, now),
        ]
    };
    let titles =
        ["customer", "meter", "period from", ">AWS bill", ">ledger", ">billable", ">Stripe", ">difference", ""];
    print::table(&titles, rows.iter().map(row).collect());
}

/// Why there is a difference, or how sure it is that there is none.
fn why(c: &ComparedPeriod, now: Timestamp) -> String {
    if let Some(alarm) = &c.alarm {
        return format!("ALARM: {alarm}");
    }
    let mut parts = vec![];
    match c.acknowledged {
        0 => {}
        short if short > 0 => parts.push(format!("Stripe has {short} less, acknowledged")),
        over => parts.push(format!("Stripe has {} more, acknowledged", over.unsigned_abs())),
    }
    if !c.billed {
        parts.push("no subscription: not billed".to_owned());
    }
    if let Some(because) = &c.deferred_reason {
        let seen = if c.deferred_acknowledged { ", acknowledged" } else { "" };
        parts.push(format!("deferred {}: {because}{seen}", c.deferred));
    }
    for (amount, what) in
        [(c.events.open, "on its way"), (c.events.refused, "refused"), (c.events.discarded, "discarded by a person")]
    {
        if amount != 0 {
            parts.push(format!("{amount} {what}"));
        }
    }
    match (c.read_at, c.seen) {
        (Some(at), Some(seen)) if c.seen == c.expected => {
            parts.push(format!("its invoice has {seen}, read {}", ago(at, now)));
        }
        (Some(at), Some(seen)) => {
            parts.push(format!("its invoice had {seen} of {}, read {}", c.expected.unwrap_or_default(), ago(at, now)));
        }
        _ => {}
    }
    parts.join("; ")
}

/// Bills against the ledger, usage without a customer included.
fn show_bills(bills: &[ComparedBill]) {
    let row = |b: &ComparedBill| {
        let apart = print::quantity(b.bill - b.ledger);
        vec![b.month.clone(), b.meter.clone(), print::quantity(b.bill), print::quantity(b.ledger), apart]
    };
    if !bills.is_empty() {
        let titles = ["bill of", "meter", ">AWS bill", ">ledger", ">difference"];
        print::table(&titles, bills.iter().map(row).collect());
        print::out("");
    }
}

fn sums(rows: &[ComparedPeriod]) {
    /// Bill, ledger, billable, accepted, and how many periods.
    type Sums = (Quantity, Quantity, i128, i128, u64);
    let mut sums: BTreeMap<(String, &str), Sums> = BTreeMap::new();
    for c in rows {
        let sum = sums.entry((Month::of(c.period_start).to_string(), &c.meter)).or_default();
        sum.0 += c.bill;
        sum.1 += c.ledger;
        sum.2 += i128::from(c.target);
        sum.3 += i128::from(c.events.accepted);
        sum.4 += 1;
    }
    let rows = sums.into_iter().map(|((month, meter), (bill, ledger, target, accepted, count))| {
        vec![
            month,
            meter.to_owned(),
            print::count(count),
            print::quantity(bill),
            print::quantity(ledger),
            target.to_string(),
            accepted.to_string(),
            (target - accepted).to_string(),
        ]
    });
    let titles = ["periods from", "meter", ">periods", ">AWS bill", ">ledger", ">billable", ">Stripe", ">difference"];
    print::table(&titles, rows.collect());
}
