//! The part of `meter demo` that measures: a meeting that reaches its budget and is blocked, while
//! AWS's bill has nothing of it.

use anyhow::{Context as _, anyhow, ensure};
use books::customers::by_hand::{MayUse, Measured, UseReport};
use books::customers::customer::NewCustomer;
use books::limits::budget::BudgetChange;
use books::limits::entitlement::Entitlement;
use books::units::calendar::Month;
use books::units::quantity::UNIT;
use jiff::{SignedDuration, Timestamp};
use jobs::context::Context;
use jobs::enforce_budgets::EnforceBudgets;
use jobs::job::Job;

use super::step::{result, step};
use crate::format::{moment, money, quantity};
use crate::print;

/// A customer of whom AWS has billed nothing yet.
const WHO: &str = "ann";
const METER: &str = "chime_minutes";
/// At 0.01 USD these are 50 minutes, and so many attendees use them in a minute.
const BUDGET_MINOR: i64 = 50;
const ATTENDEES: i64 = 50;
/// The meeting began so long ago, so that the demo need not wait for its block.
const AGO: SignedDuration = SignedDuration::from_secs(60);

/// When the meeting began: in the month of `now`.
pub(super) fn began(now: Timestamp) -> anyhow::Result<Timestamp> {
    Ok(now.checked_sub(AGO)?.max(Month::of(now).first_day().start()))
}

pub(super) async fn block(context: &Context, now: Timestamp) -> anyhow::Result<()> {
    step(14, "A meeting reaches its budget, and is blocked before AWS bills it");
    let began = began(now)?;
    customer_with_budget(context, now).await?;
    let e = decide(context, began).await?;
    let more = e.effective_limit.context("the budget is a limit")? - e.included;
    print::lines(&format!(
        "The web backend says at once who joins a meeting. Customer {WHO} has used the\n\
         {} minutes of the plan. The budget of {} pays for {} more.\n",
        quantity(e.included),
        money(e.budget_minor, &e.currency),
        quantity(more)
    ));
    let line = |at: Timestamp, what: &str| print::out(&format!("  {}  {what}", moment(at, now)));

    let seconds = i64::try_from(e.included.scaled() / UNIT * 60)?;
    measure(context, "before", Measured::Counted { quantity: seconds }, began).await?;
    measure(context, "meeting", Measured::Starts { level: ATTENDEES }, began).await?;
    line(began, &format!("start_use: {ATTENDEES} attendees join a meeting"));
    decide(context, began).await?;
    let MayUse { allowed, until, .. } = ask(context, began).await?;
    let until = until.filter(|_| allowed).context("the meeting begins within its budget")?;
    line(began, &format!("may_use: yes, at the present level until {}", moment(until, now)));

    // in the first minute of a month that is still to come
    let wait = until.duration_since(Timestamp::now()).max(SignedDuration::ZERO);
    tokio::time::sleep(wait.unsigned_abs()).await;
    let e = decide(context, until).await?;
    line(until, &format!("enforce_budgets: {}", if e.allowed { "allowed" } else { "BLOCKED" }));
    let MayUse { allowed, reason, .. } = ask(context, until).await?;
    line(until, &format!("may_use: {}, {reason}", if allowed { "yes" } else { "no" }));
    measure(context, "meeting", Measured::Stops, until).await?;
    line(until, "stop_use: the backend ends the meeting");
    let [more, measured, billed] = [e.used - e.included, e.used_measured, e.used_billed].map(quantity);
    let cost = money(e.overage_cost_minor, &e.currency);
    result(&format!("{more} minutes for {cost}. Measured: {measured}. On AWS's bill: {billed}."));
    decide(context, now.max(until)).await?;
    Ok(())
}

async fn customer_with_budget(context: &Context, now: Timestamp) -> anyhow::Result<()> {
    let books = &context.books;
    // as a worker does when it starts
    books.keep_measured_meters(&context.measuring.meters).await?;
    let plan = Some("demo".to_owned());
    books.add_customers(vec![NewCustomer { id: WHO.to_owned(), plan, ..NewCustomer::default() }]).await?;
    let budget = BudgetChange {
        customer: WHO.to_owned(),
        meter: String::new(),
        amount_minor: Some(BUDGET_MINOR),
        currency: "USD".parse()?,
        set_by: "demo".to_owned(),
    };
    Ok(books.set_budget(budget, now).await?)
}

/// Runs `enforce_budgets` for those who are due; returns what holds for the meeting.
async fn decide(context: &Context, at: Timestamp) -> anyhow::Result<Entitlement> {
    EnforceBudgets::default().run(context, at).await.map_err(|f| anyhow!("{:#}", f.error()))?;
    let decided = context.books.entitlements(Some(WHO.to_owned())).await?;
    decided.into_iter().find(|e| e.meter == METER).context("nothing was decided")
}

async fn measure(context: &Context, id: &str, what: Measured, at: Timestamp) -> anyhow::Result<()> {
    let (customer, meter, id) = (WHO.to_owned(), METER.to_owned(), id.to_owned());
    let is_taken = context.books.measure(UseReport { customer, meter, id, what, at }).await?;
    ensure!(is_taken, "the books do not take what was measured");
    Ok(())
}

async fn ask(context: &Context, at: Timestamp) -> anyhow::Result<MayUse> {
    context.books.may_use(WHO, METER, at).await?.context("no such customer")
}
