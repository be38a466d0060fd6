//! `meter entitlements` and `meter explain-entitlement`: who may use what, and why.

use books::Database;
use books::limits::entitlement::{Entitlement, Freshness, Reason};
use books::limits::plan::TURN;
use books::units::money::Currency;
use books::units::quantity::Quantity;
use clap::Args as ClapArgs;
use jiff::Timestamp;

use super::{Exit, print};
use crate::config::Config;
use crate::wiring::{self, Open};

/// Whose.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Only this customer
    customer: Option<String>,
    /// Only what is not allowed
    #[arg(long)]
    blocked: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Which decision.
#[derive(Debug, ClapArgs)]
pub(crate) struct ExplainArgs {
    /// The customer's id
    pub(super) customer: String,
    /// The meter
    pub(super) meter: String,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let books = wiring::open_books(config, Open::EXISTING).await?;
    let mut decided = books.entitlements(args.customer).await?;
    decided.retain(|e| !args.blocked || !e.allowed);
    if args.json {
        print::json(&decided)?;
        return Ok(Exit::Ok);
    }
    table(&decided, config, now);
    Ok(Exit::Ok)
}

/// An amount of money, as far as its currency is known.
pub(super) fn money(minor: i64, currency: &str) -> String {
    match currency.parse::<Currency>() {
        Ok(currency) => format!("{} {currency}", currency.written(minor)),
        Err(_) => minor.to_string(),
    }
}

fn limit(limit: Option<Quantity>) -> String {
    limit.map_or("none".to_owned(), print::quantity)
}

/// How old the data is, in a word or two.
fn age(e: &Entitlement, now: Timestamp) -> String {
    match (e.freshness, e.as_of) {
        (Freshness::Live, _) => "live".to_owned(),
        (freshness, Some(at)) => format!("{}, {}", print::span(now.duration_since(at)), freshness.name()),
        (_, None) => "no bill yet".to_owned(),
    }
}

/// Decisions as a table.
pub(super) fn table(decided: &[Entitlement], config: &Config, now: Timestamp) {
    if decided.is_empty() {
        print::out(
            "no such decision was made; `meter run enforce-budgets` makes them, and `meter work` every five minutes",
        );
        return;
    }
    let row = |e: &Entitlement| {
        let answer = if e.allowed { "allowed" } else { "BLOCKED" };
        vec![
            e.customer.clone(),
            e.meter.clone(),
            answer.to_owned(),
            e.reason.name().to_owned(),
            print::quantity(e.used),
            print::quantity(e.included),
            limit(e.effective_limit),
            unit(config, &e.meter).to_owned(),
            money(e.overage_cost_minor, &e.currency),
            money(e.budget_minor, &e.currency),
            age(e, now),
        ]
    };
    let titles =
        ["customer", "meter", "", "reason", ">used", ">included", ">limit", "unit", ">overage", ">budget", "data age"];
    print::table(&titles, decided.iter().map(row).collect());
}

pub(super) fn unit<'a>(config: &'a Config, meter: &str) -> &'a str {
    let own = config.meters.iter().find(|m| m.name == meter).map(|m| m.unit.as_str());
    own.unwrap_or(if meter == TURN { "credentials" } else { "" })
}

pub(crate) async fn explain(args: ExplainArgs, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let books = wiring::open_books(config, Open::EXISTING).await?;
    explain_from(&books, args, config, now).await
}

/// Explains a decision of these books.
pub(super) async fn explain_from(
    books: &Database,
    args: ExplainArgs,
    config: &Config,
    now: Timestamp,
) -> anyhow::Result<Exit> {
    let ExplainArgs { customer, meter } = args;
    let decided = books.entitlements(Some(customer.clone())).await?;
    let Some(e) = decided.iter().find(|e| e.meter == meter) else {
        if books.customers(None, Some(customer.clone())).await?.is_empty() {
            anyhow::bail!("there is no customer `{customer}`, so everything is refused; usage under that id is kept");
        }
        let names: Vec<&str> = decided.iter().map(|e| e.meter.as_str()).collect();
        match names.is_empty() {
            true => anyhow::bail!("nothing was decided for {customer} yet; `meter run enforce-budgets` does"),
            false => anyhow::bail!("there is no meter `{meter}`; there are: {}", names.join(", ")),
        }
    };
    let plans = books.plans().await?;
    let plan =
        books.customers(None, Some(customer.clone())).await?.into_iter().next().map(|c| c.plan).unwrap_or_default();
    let terms = plans.at(&plan, e.period_start.as_second()).and_then(|p| p.meters.get(&meter));
    let unit = unit(config, &meter);
    let may = if e.allowed { "may be used" } else { "may not be used" };
    print::out(&format!("{meter} {may} by {customer}: {}.", e.reason.words()));
    print::out("");
    print::out(&format!("period    {} to before {}", e.period_start, e.period_end));
    print::out(&format!(
        "used      {} of {} {unit} that the plan `{plan}` includes",
        print::quantity(e.used),
        print::quantity(e.included)
    ));
    if let Some(price) = terms.and_then(|t| t.price) {
        let beyond = (e.used - e.included).max(Quantity::ZERO);
        let cost = money(e.meter_cost_minor, &e.currency);
        print::out(&format!("beyond    {} {unit} at {price} {} each: {cost}", print::quantity(beyond), e.currency));
    } else {
        print::out("beyond    the plan has no price for more");
    }
    let own = e.meter_budget_minor.map(|own| format!("; this meter's own is {}", money(own, &e.currency)));
    print::out(&format!(
        "budget    all overage has cost {} of {}{}",
        money(e.overage_cost_minor, &e.currency),
        money(e.budget_minor, &e.currency),
        own.unwrap_or_default()
    ));
    print::out(&format!("stops at  {} {unit}", limit(e.effective_limit)));
    print::out(&format!("data      {}", data(e, now)));
    print::out(&format!("decided   {} ({} ago)", e.decided_at, print::span(now.duration_since(e.decided_at))));
    let history = books.entitlement_history(&customer, &meter, 5).await?;
    for (i, past) in history.iter().enumerate() {
        let head = if i == 0 { "history  " } else { "         " };
        let answer = if past.allowed { "allowed" } else { "blocked" };
        let stop = limit(past.effective_limit);
        print::out(&format!("{head} {} {answer}, {}, up to {stop}", past.decided_at, past.reason.name()));
    }
    if !e.allowed {
        print::out("");
        print::out(&format!("What would change it: {}.", remedy(e)));
    }
    Ok(Exit::Ok)
}

fn data(e: &Entitlement, now: Timestamp) -> String {
    match (e.freshness, e.as_of) {
        (Freshness::Live, _) => "counted as it happens; what the other meters have cost is from the bill".to_owned(),
        (freshness, Some(at)) => {
            format!(
                "AWS has told of usage up to {at}, {} ago ({})",
                print::span(now.duration_since(at)),
                freshness.name()
            )
        }
        (_, None) => "no bill was booked yet".to_owned(),
    }
}

/// What a person can do about it.
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
