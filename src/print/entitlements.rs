//! Entitlements: the table of decisions, and one decision explained.

use anyhow::bail;
use books::Database;
use books::limits::entitlement::{Entitlement, Freshness, LARGEST, Reason};
use books::limits::plan::TURN;
use books::limits::stored_decisions::PastDecision;
use books::units::money::Price;
use books::units::quantity::Quantity;
use books::units::similar::offer;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::contract_rows::EntitlementRow;
use super::decided::{self, Runs};
use super::explain_block::{self, CountedUsage};
use super::out;
use crate::config::Config;
use crate::exit::BadUsage;
use crate::format::{ago, limit_reached, moment, money, of_it_measured, quantity, readable, span};

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
            readable(e.used),
            if e.used_measured.is_zero() { "-".to_owned() } else { readable(e.used_measured) },
            readable(e.included),
            e.effective_limit.map_or("none".to_owned(), readable),
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
        "#customer",
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

/// A decision about a customer and a meter, with what it is made of.
#[derive(JsonSchema, Serialize)]
pub(crate) struct ExplainedEntitlement {
    #[serde(serialize_with = "as_row")]
    #[schemars(with = "EntitlementRow")]
    decision: Entitlement,
    /// What the next run decides, because something has changed since; none while nothing has.
    #[serde(serialize_with = "as_optional_row")]
    #[schemars(with = "Option<EntitlementRow>")]
    next: Option<Entitlement>,
    /// When decisions are made next.
    next_run_at: Option<Timestamp>,
    plan: String,
    /// What the plan includes in a whole month; none when it does not have the meter.
    plan_includes: Option<Quantity>,
    unit: String,
    /// Of each unit beyond the included ones; none when the plan has none that is billed.
    price: Option<Price>,
    /// Whether the plan has a price that is billed nowhere.
    #[serde(skip)]
    has_unbilled_price: bool,
    usage: CountedUsage,
    /// Earlier decisions, the newest first.
    history: Vec<PastDecision>,
    /// What would unblock the meter; none when it is not blocked.
    remedy: Option<String>,
}

fn as_row<S: Serializer>(of: &Entitlement, s: S) -> Result<S::Ok, S::Error> {
    EntitlementRow::from(of.clone()).serialize(s)
}

fn as_optional_row<S: Serializer>(of: &Option<Entitlement>, s: S) -> Result<S::Ok, S::Error> {
    of.clone().map(EntitlementRow::from).serialize(s)
}

/// Reads what explains the decision about a customer and a meter.
///
/// # Errors
/// When nothing was decided about them.
pub(crate) async fn explained(
    books: &Database,
    (customer, meter): (&str, &str),
    config: &Config,
    runs: &Runs,
) -> anyhow::Result<ExplainedEntitlement> {
    let stored = books.entitlements(Some(customer.to_owned())).await?;
    let Some(mut decision) = stored.iter().find(|e| e.meter == meter).cloned() else {
        let names: Vec<&str> = stored.iter().map(|e| e.meter.as_str()).collect();
        match names.is_empty() {
            true => bail!("nothing was decided for {customer} yet; that takes {}", runs.next()),
            false => {
                return Err(BadUsage(format!("there is no meter `{meter}`; {}", offer(meter, names))).into());
            }
        }
    };
    decision.freshness = runs.freshness(&decision);
    let coming = decided::to_come(books, config, Some(customer.to_owned()), runs.now).await?;
    let next = coming.into_iter().find(|change| change.is.meter == meter).map(|change| change.is);
    let plans = books.plans().await?;
    let plan =
        books.customers(None, Some(customer.to_owned())).await?.into_iter().next().map(|c| c.plan).unwrap_or_default();
    let terms = plans.at(&plan, decision.period_start.as_second()).and_then(|p| p.meters.get(meter));
    let price = terms.and_then(|terms| terms.billed_price(meter));
    let newest = next.as_ref().unwrap_or(&decision);
    Ok(ExplainedEntitlement {
        plan,
        plan_includes: terms.map(|terms| terms.included),
        unit: unit(config, meter).to_owned(),
        price,
        has_unbilled_price: price.is_none() && terms.is_some_and(|terms| terms.price.is_some()),
        usage: explain_block::counted(books, &decision, config, runs.now).await?,
        history: books.entitlement_history(customer, meter, 5).await?,
        remedy: (!newest.allowed).then(|| remedy(newest)),
        next_run_at: runs.next_at(),
        next,
        decision,
    })
}

/// Explains a decision, and says what the next one will be.
pub(crate) fn explain(of: &ExplainedEntitlement, runs: &Runs) {
    let (e, now) = (&of.decision, runs.now);
    headline(e, of.next.as_ref(), runs);
    out("");
    let ExplainedEntitlement { plan, unit, .. } = of;
    let over = if is_over(e, now) { ", which is over" } else { "" };
    out(&format!("period    {} to before {}{over}", e.period_start, e.period_end));
    let (used, included) = (quantity(e.used), quantity(e.included));
    let moved = of.plan_includes.is_some_and(|plan_includes| plan_includes < e.included);
    match of.plan_includes {
        None => out(&format!("used      {used} {unit}; the plan `{plan}` does not have the meter")),
        Some(whole) if whole == e.included => {
            out(&format!("used      {used} of {included} {unit} that the plan `{plan}` includes"));
        }
        Some(whole) if moved => {
            out(&format!("used      {used} {unit}; the plan `{plan}` includes {}", quantity(whole)));
            out(&format!("          the plan changed in this period; what is used beyond {included} costs more"));
        }
        Some(whole) => {
            out(&format!("used      {used} of {included} {unit} that are left of what the plan `{plan}` includes"));
            out(&format!("          in a whole month: {}", quantity(whole)));
        }
    }
    if let Some(part) = of_it_measured(e.used_measured) {
        out(&format!("          {part}"));
    }
    if let Some(price) = of.price {
        let beyond = if e.used == LARGEST { LARGEST } else { (e.used - e.included).max(Quantity::ZERO) };
        let cost = money(e.meter_cost_minor, &e.currency);
        let before = if moved { "with what was beyond before the change: " } else { "" };
        out(&format!("beyond    {} {unit} at {price} {} each: {before}{cost}", quantity(beyond), e.currency));
    } else if of.has_unbilled_price {
        out("beyond    the plan has a price for more that is billed nowhere, so it counts as none: `meter doctor`");
    } else {
        out("beyond    the plan has no price for more");
    }
    budgets(e, of.next.as_ref());
    out(&format!("stops at  {} {unit}", limit(e.effective_limit)));
    if let Some(at) = e.blocked_at {
        out(&format!("          {}", limit_reached(at, now)));
    }
    out(&format!("data      {}", data(e, runs)));
    out(&format!("decided   {} ({} ago); {}", e.decided_at, span(now.duration_since(e.decided_at)), runs.last()));
    for (i, past) in of.history.iter().enumerate() {
        let head = if i == 0 { "history  " } else { "         " };
        let answer = if past.allowed { "allowed" } else { "blocked" };
        out(&format!(
            "{head} {} {answer}, {}, up to {}",
            past.decided_at,
            past.reason.name(),
            limit(past.effective_limit)
        ));
    }
    explain_block::show(e, &of.usage);
    if let Some(remedy) = &of.remedy {
        out("");
        out(&format!("What would change it: {remedy}."));
    }
}

/// What was decided, and what will be.
fn headline(e: &Entitlement, next: Option<&Entitlement>, runs: &Runs) {
    let may = |e: &Entitlement| if e.allowed { "may be used" } else { "may not be used" };
    let decided = format!("{} {} by {}: {}", e.meter, may(e), e.customer, e.reason.words());
    match next {
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
fn budgets(e: &Entitlement, next: Option<&Entitlement>) {
    let own =
        |e: &Entitlement| e.meter_budget_minor.map(|own| format!("; this meter's own is {}", money(own, &e.currency)));
    out(&format!(
        "budget    all overage costs {} of {}{}",
        money(e.overage_cost_minor, &e.currency),
        money(e.budget_minor, &e.currency),
        own(e).unwrap_or_default()
    ));
    let amounts = |e: &Entitlement| (e.budget_minor, e.meter_budget_minor);
    if let Some(next) = next.filter(|next| amounts(next) != amounts(e)) {
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
