//! Entitlements: the table of decisions, and one decision explained.

use anyhow::bail;
use books::Database;
use books::limits::entitlement::{Entitlement, Freshness, Reason};
use books::limits::plan::TURN;
use books::units::quantity::Quantity;
use jiff::Timestamp;

use super::out;
use crate::config::Config;
use crate::exit::Exit;
use crate::format::{money, quantity, span};

fn limit(limit: Option<Quantity>) -> String {
    limit.map_or("none".to_owned(), quantity)
}

/// How old the data is.
fn age(e: &Entitlement, now: Timestamp) -> String {
    match (e.freshness, e.as_of) {
        (Freshness::Live, _) => "live".to_owned(),
        (freshness, Some(at)) => format!("{}, {}", span(now.duration_since(at)), freshness.name()),
        (_, None) => "no bill yet".to_owned(),
    }
}

/// The table of decisions.
pub(crate) fn table(decided: &[Entitlement], config: &Config, now: Timestamp) {
    if decided.is_empty() {
        out("no such decision was made; `meter run enforce-budgets` makes them, and `meter work` every five minutes");
        return;
    }
    let row = |e: &Entitlement| {
        let answer = if e.allowed { "allowed" } else { "BLOCKED" };
        vec![
            e.customer.clone(),
            e.meter.clone(),
            answer.to_owned(),
            e.reason.name().to_owned(),
            quantity(e.used),
            quantity(e.included),
            limit(e.effective_limit),
            unit(config, &e.meter).to_owned(),
            money(e.overage_cost_minor, &e.currency),
            money(e.budget_minor, &e.currency),
            age(e, now),
        ]
    };
    let titles =
        ["customer", "meter", "", "reason", ">used", ">included", ">limit", "unit", ">overage", ">budget", "data age"];
    super::table(&titles, decided.iter().map(row).collect());
}

fn unit<'a>(config: &'a Config, meter: &str) -> &'a str {
    let own = config.meters.iter().find(|m| m.name == meter).map(|m| m.unit.as_str());
    own.unwrap_or(if meter == TURN { "credentials" } else { "" })
}

/// Explains the decision about a customer and a meter.
pub(crate) async fn explain(
    books: &Database,
    customer: &str,
    meter: &str,
    config: &Config,
    now: Timestamp,
) -> anyhow::Result<Exit> {
    let decided = books.entitlements(Some(customer.to_owned())).await?;
    let Some(e) = decided.iter().find(|e| e.meter == meter) else {
        let names: Vec<&str> = decided.iter().map(|e| e.meter.as_str()).collect();
        match names.is_empty() {
            true => bail!("nothing was decided for {customer} yet; `meter run enforce-budgets` does"),
            false => bail!("there is no meter `{meter}`; there are: {}", names.join(", ")),
        }
    };
    let plans = books.plans().await?;
    let plan =
        books.customers(None, Some(customer.to_owned())).await?.into_iter().next().map(|c| c.plan).unwrap_or_default();
    let terms = plans.at(&plan, e.period_start.as_second()).and_then(|p| p.meters.get(meter));
    let unit = unit(config, meter);
    let may = if e.allowed { "may be used" } else { "may not be used" };
    out(&format!("{meter} {may} by {customer}: {}.", e.reason.words()));
    out("");
    out(&format!("period    {} to before {}", e.period_start, e.period_end));
    out(&format!("used      {} of {} {unit} that the plan `{plan}` includes", quantity(e.used), quantity(e.included)));
    if let Some(price) = terms.and_then(|t| t.billed_price(meter)) {
        let beyond = (e.used - e.included).max(Quantity::ZERO);
        let cost = money(e.meter_cost_minor, &e.currency);
        out(&format!("beyond    {} {unit} at {price} {} each: {cost}", quantity(beyond), e.currency));
    } else if terms.is_some_and(|t| t.price.is_some()) {
        out("beyond    the plan has a price for more that is billed nowhere, so it counts as none: `meter doctor`");
    } else {
        out("beyond    the plan has no price for more");
    }
    let own = e.meter_budget_minor.map(|own| format!("; this meter's own is {}", money(own, &e.currency)));
    out(&format!(
        "budget    all overage has cost {} of {}{}",
        money(e.overage_cost_minor, &e.currency),
        money(e.budget_minor, &e.currency),
        own.unwrap_or_default()
    ));
    out(&format!("stops at  {} {unit}", limit(e.effective_limit)));
    out(&format!("data      {}", data(e, now)));
    out(&format!("decided   {} ({} ago)", e.decided_at, span(now.duration_since(e.decided_at))));
    let history = books.entitlement_history(customer, meter, 5).await?;
    for (i, past) in history.iter().enumerate() {
        let head = if i == 0 { "history  " } else { "         " };
        let answer = if past.allowed { "allowed" } else { "blocked" };
        out(&format!(
            "{head} {} {answer}, {}, up to {}",
            past.decided_at,
            past.reason.name(),
            limit(past.effective_limit)
        ));
    }
    if !e.allowed {
        out("");
        out(&format!("What would change it: {}.", remedy(e)));
    }
    Ok(Exit::Ok)
}

fn data(e: &Entitlement, now: Timestamp) -> String {
    match (e.freshness, e.as_of) {
        (Freshness::Live, _) => "counted as it happens; what the other meters have cost is from the bill".to_owned(),
        (freshness, Some(at)) => {
            format!("bills include usage through {at}, {} ago ({})", span(now.duration_since(at)), freshness.name())
        }
        (_, None) => "no bill was booked yet".to_owned(),
    }
}

/// What would unblock the meter.
fn remedy(e: &Entitlement) -> String {
    let (customer, end) = (&e.customer, e.period_end);
    match e.reason {
        Reason::NoBudget | Reason::BudgetSpent => {
            format!("`meter budget set {customer} AMOUNT`, or the next period on {end}")
        }
        Reason::MeterBudgetSpent => {
            format!("`meter budget set {customer} AMOUNT --meter {}`, or the next period on {end}", e.meter)
        }
        Reason::IncludedUsed => format!("a plan with more of it or with a price, or the next period on {end}"),
        Reason::PastDue => format!("the late payment, or the next period on {end}"),
        Reason::Unpaid | Reason::Paused | Reason::Canceled => "a subscription that is paid".to_owned(),
        Reason::NotInPlan => "a plan that has this meter (`meter plan list`)".to_owned(),
        Reason::UnknownPlan => "`meter plan apply` with that plan, or another plan for the customer".to_owned(),
        Reason::DataTooOld => "a newer bill (`meter versions`), or `enforce.on_stale`".to_owned(),
        Reason::BudgetInOtherCurrency => format!("`meter budget set {customer} AMOUNT` in {}", e.currency),
        Reason::WithinIncluded | Reason::WithinBudget => "nothing".to_owned(),
    }
}
