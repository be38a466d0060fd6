//! Entitlements: the table of decisions, and one decision explained.

use anyhow::bail;
use books::Database;
use books::limits::entitlement::{Entitlement, Freshness, LARGEST, Reason};
use books::limits::plan::TURN;
use books::units::quantity::Quantity;
use books::units::similar::offer;
use jiff::Timestamp;
use jobs::enforce_budgets::EntitlementChange;

use super::decided::{self, Runs};
use super::out;
use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::format::{ago, limit_reached, moment, money, of_it_measured, quantity, span};

fn limit(limit: Option<Quantity>) -> String {
    limit.map_or("none".to_owned(), quantity)
}

/// How old the data is.
fn age(e: &Entitlement, runs: &Runs) -> String {
    match (runs.freshness(e), e.as_of) {
        (Freshness::Live, _) => "live".to_owned(),
        (_, _) if is_over(e, runs.now) => "of an earlier period".to_owned(),
        (freshness, Some(at)) => format!("{}, {}", span(runs.now.duration_since(at)), freshness.name()),
        (Freshness::Stale, None) => "stale".to_owned(),
        (_, None) => "no bill yet".to_owned(),
    }
}

/// Whether it was decided about a period that is over.
fn is_over(e: &Entitlement, now: Timestamp) -> bool {
    e.period_end <= now
}

/// The table of decisions.
pub(crate) fn table(decided: &[Entitlement], config: &Config, runs: &Runs) {
    if decided.is_empty() {
        return out("no such decision was made; `meter run enforce-budgets` decides, and a worker every five minutes");
    }
    let runs_out = decided.iter().any(|e| e.blocked_at.is_some());
    let row = |e: &Entitlement| {
        let answer = if e.allowed { "allowed" } else { "BLOCKED" };
        let mut cells = vec![
            e.customer.clone(),
            e.meter.clone(),
            answer.to_owned(),
            e.reason.name().to_owned(),
            quantity(e.used),
            if e.used_measured.is_zero() { "-".to_owned() } else { quantity(e.used_measured) },
            quantity(e.included),
            limit(e.effective_limit),
            unit(config, &e.meter).to_owned(),
            money(e.overage_cost_minor, &e.currency),
            money(e.budget_minor, &e.currency),
            age(e, runs),
        ];
        if runs_out {
            cells.push(e.blocked_at.map_or("-".to_owned(), |at| moment(at, runs.now)));
        }
        cells
    };
    let mut titles = vec![
        "customer",
        "meter",
        "",
        "~reason",
        ">used",
        "2>measured",
        "5>included",
        "7>limit",
        "6unit",
        "3>overage",
        "4>budget",
        "1data age",
    ];
    if runs_out {
        titles.push("8limit at");
    }
    super::table(&titles, decided.iter().map(row).collect());
    if decided.iter().any(|e| !e.used_measured.is_zero()) {
        out("`measured` is a part of `used`, and not billed yet");
    }
    if runs_out {
        out("`limit at` (UTC) is when the limit is reached at the present level");
    }
}

fn unit<'a>(config: &'a Config, meter: &str) -> &'a str {
    let own = config.meters.iter().find(|m| m.name == meter).map(|m| m.unit.as_str());
    own.unwrap_or(if meter == TURN { "credentials" } else { "" })
}

/// Explains the decision about a customer and a meter, and what the next one will be.
pub(crate) async fn explain(
    books: &Database,
    customer: &str,
    meter: &str,
    config: &Config,
    now: Timestamp,
) -> anyhow::Result<Exit> {
    let stored = books.entitlements(Some(customer.to_owned())).await?;
    let runs = Runs::read(books, config, now).await?;
    let Some(e) = stored.iter().find(|e| e.meter == meter) else {
        let names: Vec<&str> = stored.iter().map(|e| e.meter.as_str()).collect();
        match names.is_empty() {
            true => bail!("nothing was decided for {customer} yet; that takes {}", runs.next()),
            false => {
                return Err(BadUsage(format!("there is no meter `{meter}`; {}", offer(meter, names))).into());
            }
        }
    };
    let coming = decided::to_come(books, config, Some(customer.to_owned()), now).await?;
    let coming = coming.into_iter().find(|change| change.is.meter == meter);
    headline(e, coming.as_ref(), &runs);
    out("");
    let plans = books.plans().await?;
    let plan =
        books.customers(None, Some(customer.to_owned())).await?.into_iter().next().map(|c| c.plan).unwrap_or_default();
    let terms = plans.at(&plan, e.period_start.as_second()).and_then(|p| p.meters.get(meter));
    let unit = unit(config, meter);
    let over = if is_over(e, now) { ", which is over" } else { "" };
    out(&format!("period    {} to before {}{over}", e.period_start, e.period_end));
    out(&format!("used      {} of {} {unit} that the plan `{plan}` includes", quantity(e.used), quantity(e.included)));
    if let Some(part) = of_it_measured(e.used_measured) {
        out(&format!("          {part}"));
    }
    if let Some(price) = terms.and_then(|t| t.billed_price(meter)) {
        let beyond = if e.used == LARGEST { LARGEST } else { (e.used - e.included).max(Quantity::ZERO) };
        let cost = money(e.meter_cost_minor, &e.currency);
        out(&format!("beyond    {} {unit} at {price} {} each: {cost}", quantity(beyond), e.currency));
    } else if terms.is_some_and(|t| t.price.is_some()) {
        out("beyond    the plan has a price for more that is billed nowhere, so it counts as none: `meter doctor`");
    } else {
        out("beyond    the plan has no price for more");
    }
    budgets(e, coming.as_ref());
    out(&format!("stops at  {} {unit}", limit(e.effective_limit)));
    if let Some(at) = e.blocked_at {
        out(&format!("          {}", limit_reached(at, now)));
    }
    out(&format!("data      {}", data(e, &runs)));
    out(&format!("decided   {} ({} ago); {}", e.decided_at, span(now.duration_since(e.decided_at)), runs.last()));
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
    super::explain_block::show(books, e, config, now).await?;
    let newest = coming.as_ref().map_or(e, |change| &change.is);
    if !newest.allowed {
        out("");
        out(&format!("What would change it: {}.", remedy(newest)));
    }
    Ok(Exit::Ok)
}

/// What was decided, and what will be.
fn headline(e: &Entitlement, coming: Option<&EntitlementChange>, runs: &Runs) {
    let may = |e: &Entitlement| if e.allowed { "may be used" } else { "may not be used" };
    let decided = format!("{} {} by {}: {}", e.meter, may(e), e.customer, e.reason.words());
    match coming.map(|change| &change.is) {
        None => out(&format!("{decided}.")),
        Some(next) => {
            out(&format!("{decided}, as was decided {}.", ago(e.decided_at, runs.now)));
            let same = if next.allowed == e.allowed { "still " } else { "" };
            out(&format!("Something has changed since. It {same}{}: {}.", may(next), next.reason.words()));
            out(&format!("That counts from {}.", runs.next()));
        }
    }
}

/// What overage may cost, and what it may cost from the next run on.
fn budgets(e: &Entitlement, coming: Option<&EntitlementChange>) {
    let own =
        |e: &Entitlement| e.meter_budget_minor.map(|own| format!("; this meter's own is {}", money(own, &e.currency)));
    out(&format!(
        "budget    all overage has cost {} of {}{}",
        money(e.overage_cost_minor, &e.currency),
        money(e.budget_minor, &e.currency),
        own(e).unwrap_or_default()
    ));
    let amounts = |e: &Entitlement| (e.budget_minor, e.meter_budget_minor);
    if let Some(next) = coming.map(|change| &change.is).filter(|next| amounts(next) != amounts(e)) {
        let all = money(next.budget_minor, &next.currency);
        out(&format!("          set to {all} since{}; it counts from the next run", own(next).unwrap_or_default()));
    }
}

fn data(e: &Entitlement, runs: &Runs) -> String {
    match (runs.freshness(e), e.as_of) {
        (Freshness::Live, _) => "counted as it happens; what the other meters have cost is from the bill".to_owned(),
        (freshness, Some(at)) => {
            format!(
                "bills include usage through {at}, {} ago ({})",
                span(runs.now.duration_since(at)),
                freshness.name()
            )
        }
        (Freshness::Stale, None) => "nobody decides any more (stale)".to_owned(),
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
