//! The part of `meter demo` about limits: a budget that is overrun, TURN credentials, the block,
//! the raise and the unblock.

use anyhow::Context as _;
use books::customers::by_hand::TurnAnswer;
use books::limits::budget::BudgetChange;
use books::limits::entitlement::Entitlement;
use books::units::money::Currency;
use books::units::quantity::Quantity;
use jiff::Timestamp;
use jobs::context::Context;
use jobs::enforce_budgets;
use jobs::job::Mode;

use super::step::{MINUTES, result, step};
use crate::format::money;
use crate::print;

/// Shows what becomes of a customer with a budget and included minutes.
pub(super) async fn show(context: &Context, (who, included): (&str, Quantity), now: Timestamp) -> anyhow::Result<()> {
    enforce_budgets::enforce(context, now, Mode::Write).await?;
    let spent = decided(context, who).await?.overage_cost_minor;
    let e = set_budget(context, who, spent + 100, now).await?;
    let beyond = print::quantity(e.used - included);
    let (cost, budget) = (money(spent, &e.currency), money(e.budget_minor, &e.currency));
    result(&format!("{beyond} minutes beyond the plan cost {cost} of {budget}. {}.", words(&e)));

    step(7, "The web backend asks before it hands out each TURN credential");
    let take =
        async || -> anyhow::Result<TurnAnswer> { context.books.take_turn(who).await?.context("no such customer") };
    let mut answer = take().await?;
    while answer.granted {
        answer = take().await?;
    }
    let TurnAnswer { reason, used, limit, .. } = answer;
    result(&format!("{used} of {limit} are granted, for 0.00 USD. The next is refused: {reason}."));

    step(8, &format!("{who} lowers the budget, and is blocked"));
    let was = decided(context, who).await?;
    let e = set_budget(context, who, spent / 2, now).await?;
    print::out(&format!("{MINUTES}: {}", changed(&was, &e)));
    let (cost, budget) = (money(e.overage_cost_minor, &e.currency), money(e.budget_minor, &e.currency));
    result(&format!("{who} has spent {cost} of {budget}, and may use no more minutes."));

    step(9, &format!("{who} raises the budget, and goes on"));
    let was = e;
    let e = set_budget(context, who, spent + 1000, now).await?;
    print::out(&format!("{MINUTES}: {}", changed(&was, &e)));
    let sent = context.books.notifications(None, Some(who.to_owned()), 100).await?;
    let mut about: Vec<&str> = sent.iter().filter(|n| n.meter == MINUTES).map(|n| n.kind.as_str()).collect();
    about.sort_unstable();
    about.dedup();
    print::out(&format!("notifications to the web backend: {}", about.join(", ")));
    let limit = e.effective_limit.context("a budget is a limit")?;
    let more = print::quantity(limit - e.used);
    result(&format!("{} pay for {more} minutes more.", money(e.budget_minor - e.overage_cost_minor, &e.currency)));
    Ok(())
}

/// Sets a budget, enforces it, and returns what holds then.
async fn set_budget(context: &Context, who: &str, minor: i64, now: Timestamp) -> anyhow::Result<Entitlement> {
    let currency: Currency = "USD".parse()?;
    let change = BudgetChange {
        customer: who.to_owned(),
        meter: String::new(),
        amount_minor: Some(minor),
        currency,
        set_by: "demo".to_owned(),
    };
    context.books.set_budget(change, now).await?;
    print::out(&format!("$ meter budget set {who} {}", currency.written(minor)));
    print::out("$ meter run enforce-budgets");
    enforce_budgets::enforce(context, now, Mode::Write).await?;
    decided(context, who).await
}

async fn decided(context: &Context, who: &str) -> anyhow::Result<Entitlement> {
    let decided = context.books.entitlements(Some(who.to_owned())).await?;
    decided.into_iter().find(|e| e.meter == MINUTES).context("nothing was decided")
}

fn answer(e: &Entitlement) -> &'static str {
    if e.allowed { "allowed" } else { "BLOCKED" }
}

fn words(e: &Entitlement) -> String {
    format!("{}: {}", answer(e), e.reason.name())
}

fn changed(was: &Entitlement, is: &Entitlement) -> String {
    format!("{} -> {}", answer(was), words(is))
}
