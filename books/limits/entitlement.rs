//! Entitlements: which meters a customer may go on using, and the facts that decide it.

use std::collections::BTreeMap;

use crate::store::connection::{Connection, Row, Value, params};
use jiff::Timestamp;
use serde::Serialize;

use crate::limits::rating::{PeriodDays, StretchUsage};
use crate::limits::terms::TermsHistory;
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{first_row, insert_rows, json, sum_of};
use crate::units::calendar::{Day, PeriodError, instant};
use crate::units::quantity::Quantity;

/// Customers of one page of [`Database::customers_after`].
pub const PAGE: u32 = 2000;

/// Why a meter may or may not be used. The stored names are part of the contract with the web
/// backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Within what the plan includes.
    WithinIncluded,
    /// Beyond what the plan includes, and within the budget.
    WithinBudget,
    /// The included amount is used up, and the plan has no price for more.
    IncludedUsed,
    /// The included amount is used up, and the customer has set no budget for more.
    NoBudget,
    /// The budget for all meters is spent.
    BudgetSpent,
    /// The meter's own budget is spent.
    MeterBudgetSpent,
    /// The included amount is used up, and a payment is late.
    PastDue,
    /// Stripe has stopped trying to collect.
    Unpaid,
    /// The subscription is paused.
    Paused,
    /// The subscription or the account is over.
    Canceled,
    /// The plan does not name the meter.
    NotInPlan,
    /// The customer's plan is unknown.
    UnknownPlan,
    /// The included amount is used up, and the bill is too old to allow more.
    DataTooOld,
    /// The included amount is used up, and the budget is in another currency than the plan.
    BudgetInOtherCurrency,
}

impl Reason {
    /// Every reason, its stored name, and a sentence for people.
    const ALL: [(Self, &'static str, &'static str); 14] = [
        (Self::WithinIncluded, "within_included", "it is within what the plan includes"),
        (Self::WithinBudget, "within_budget", "what the plan includes is used up, and the overage budget is not spent"),
        (Self::IncludedUsed, "included_used", "what the plan includes is used up, and the plan has no price for more"),
        (Self::NoBudget, "no_budget", "what the plan includes is used up, and no overage budget is set"),
        (Self::BudgetSpent, "budget_spent", "the overage budget is spent"),
        (Self::MeterBudgetSpent, "meter_budget_spent", "this meter's own overage budget is spent"),
        (Self::PastDue, "past_due", "what the plan includes is used up, and a payment is late"),
        (Self::Unpaid, "unpaid", "the subscription is unpaid"),
        (Self::Paused, "paused", "the subscription is paused"),
        (Self::Canceled, "canceled", "the subscription or the account is over"),
        (Self::NotInPlan, "not_in_plan", "the plan does not have this meter"),
        (Self::UnknownPlan, "unknown_plan", "the customer's plan is not known"),
        (Self::DataTooOld, "data_too_old", "what the plan includes is used up, and the bill is too old to allow more"),
        (
            Self::BudgetInOtherCurrency,
            "budget_in_other_currency",
            "what the plan includes is used up, and the overage budget is in another currency than the plan",
        ),
    ];

    fn entry(self) -> (&'static str, &'static str) {
        Self::ALL.iter().find(|(reason, ..)| *reason == self).map_or(("", ""), |(_, name, words)| (name, words))
    }

    /// As it is stored.
    pub fn name(self) -> &'static str {
        self.entry().0
    }

    pub fn words(self) -> &'static str {
        self.entry().1
    }

    /// The reason that is stored under `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known, _)| *known == name).map(|(reason, ..)| *reason)
    }
}

/// Whether the customer pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentStatus {
    Good,
    /// A payment is late: only what is included may be used.
    PastDue,
    /// Stripe has stopped trying to collect: nothing may be used.
    Unpaid,
    /// The subscription is paused: nothing may be used.
    Paused,
    /// The subscription or the account is over: nothing may be used.
    Canceled,
}

impl PaymentStatus {
    /// The worse of the customer's own status and the status of the governing subscription
    /// (<https://docs.stripe.com/api/subscriptions/object#subscription_object-status>).
    pub fn of(customer: &str, subscription: Option<&str>) -> Self {
        match (customer, subscription) {
            ("canceled", _) | (_, Some("canceled")) => Self::Canceled,
            (_, Some("paused")) => Self::Paused,
            (_, Some("unpaid")) => Self::Unpaid,
            ("past_due", _) | (_, Some("past_due")) => Self::PastDue,
            _ => Self::Good,
        }
    }

    /// The reason why nothing at all may be used, if there is one.
    pub fn stops(self) -> Option<Reason> {
        match self {
            Self::Good | Self::PastDue => None,
            Self::Unpaid => Some(Reason::Unpaid),
            Self::Paused => Some(Reason::Paused),
            Self::Canceled => Some(Reason::Canceled),
        }
    }
}

/// How old the data behind a decision is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Freshness {
    /// Counted as it happens.
    Live,
    /// From a bill that is new enough.
    Fresh,
    /// From a bill that is older than the configuration allows.
    Stale,
    /// No bill is booked yet.
    None,
}

impl Freshness {
    const ALL: [(Self, &'static str); 4] =
        [(Self::Live, "live"), (Self::Fresh, "fresh"), (Self::Stale, "stale"), (Self::None, "none")];

    /// As it is stored.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(f, _)| *f == self).map_or("none", |(_, name)| name)
    }

    fn named(name: &str) -> Self {
        Self::ALL.iter().find(|(_, known)| *known == name).map_or(Self::None, |(f, _)| *f)
    }
}

/// A decision and its facts. Money is in minor units of `currency`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entitlement {
    pub customer: String,
    pub meter: String,
    /// First instant of the billing period.
    pub period_start: Timestamp,
    pub period_end: Timestamp,
    pub allowed: bool,
    pub reason: Reason,
    pub used: Quantity,
    pub included: Quantity,
    /// The quantity at which it must stop; none = nowhere.
    pub effective_limit: Option<Quantity>,
    /// Cost of all overage of the customer.
    pub overage_cost_minor: i64,
    /// Cost of this meter's overage.
    pub meter_cost_minor: i64,
    /// What all overage may cost.
    pub budget_minor: i64,
    /// What this meter's overage may cost; none = it has no budget of its own.
    pub meter_budget_minor: Option<i64>,
    pub currency: String,
    /// Until when usage is booked.
    pub as_of: Option<Timestamp>,
    pub freshness: Freshness,
    pub decided_at: Timestamp,
}

impl Entitlement {
    /// True when only the time of the decision differs.
    pub fn same_except_time(&self, other: &Self) -> bool {
        Self { decided_at: other.decided_at, ..self.clone() } == *other
    }

    /// True when the answer or its terms differ; usage, freshness and the limit may differ anyway.
    pub fn decision_differs(&self, other: &Self) -> bool {
        let decision =
            |e: &Self| (e.period_start, e.allowed, e.reason, e.included, e.budget_minor, e.meter_budget_minor);
        decision(self) != decision(other)
    }
}

/// A decision of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastDecision {
    pub decided_at: Timestamp,
    pub allowed: bool,
    pub reason: Reason,
    pub effective_limit: Option<Quantity>,
}

/// The facts that a decision rests on.
#[derive(Clone, Debug, Default)]
pub struct CustomerFacts {
    pub status: String,
    /// Status of the governing subscription, as Stripe names it.
    pub subscription: Option<String>,
    pub plan: String,
    pub period: Option<CurrentPeriod>,
    /// Open TURN periods, from the current one on.
    pub turn: Vec<TurnRow>,
    /// Overage budgets by meter; `""` for all meters together.
    pub budgets: BTreeMap<String, OverageBudget>,
    /// Booked usage of the period, by meter.
    pub usage: BTreeMap<String, Quantity>,
    /// Every plan that the customer had.
    pub history: TermsHistory,
    /// Usage by stretch of the history, if there is more than one in the period.
    pub stretches: StretchUsage,
    /// What was used in advance before the period, by meter.
    pub advance: BTreeMap<String, Quantity>,
    /// TURN periods that are over, the newest of them, in order.
    pub turn_before: Vec<TurnBefore>,
    /// The stored decisions, by meter.
    pub decided: BTreeMap<String, Entitlement>,
}

/// An overage budget as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverageBudget {
    pub amount_minor: i64,
    pub currency: String,
}

/// The current billing period and its days of usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentPeriod {
    pub start: i64,
    pub end: i64,
    pub days: PeriodDays,
}

/// Usage of a period, by meter.
#[derive(Clone, Debug)]
pub struct PeriodUsage {
    pub period: Option<CurrentPeriod>,
    pub usage: BTreeMap<String, Quantity>,
}

/// A TURN period that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnBefore {
    pub starts_at: i64,
    pub ends_at: i64,
    pub used: i64,
}

/// An open TURN period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnRow {
    pub starts_at: i64,
    pub ends_at: i64,
    pub used: i64,
    /// Where the backend must stop; none = nowhere.
    pub allowed_until: Option<i64>,
    pub reason: String,
}

/// A quantity that a cell can hold, so that the stored decision equals the computed one.
pub fn storable(quantity: Quantity) -> Quantity {
    scaled(cell(quantity))
}

fn scaled(cell: i64) -> Quantity {
    Quantity::from_scaled(i128::from(cell))
}

/// A quantity in a cell. A larger one becomes the largest; it is shown and not computed with.
fn cell(quantity: Quantity) -> i64 {
    i64::try_from(quantity.scaled()).unwrap_or(if quantity < Quantity::ZERO { i64::MIN } else { i64::MAX })
}

const COLUMNS: &str = "customer, meter, period_start, period_end, allowed, reason, used, included, effective_limit, \
    overage_cost_minor, meter_cost_minor, budget_minor, meter_budget_minor, currency, as_of, freshness, decided_at";

fn entitlement(row: &Row) -> Result<Entitlement, BooksError> {
    Ok(Entitlement {
        customer: row.get(0)?,
        meter: row.get(1)?,
        period_start: instant(row.get(2)?),
        period_end: instant(row.get(3)?),
        allowed: row.get::<i64>(4)? == 1,
        reason: reason(row, 5)?,
        used: scaled(row.get(6)?),
        included: scaled(row.get(7)?),
        effective_limit: row.get::<Option<i64>>(8)?.map(scaled),
        overage_cost_minor: row.get(9)?,
        meter_cost_minor: row.get(10)?,
        budget_minor: row.get(11)?,
        meter_budget_minor: row.get(12)?,
        currency: row.get(13)?,
        as_of: row.get::<Option<i64>>(14)?.map(instant),
        freshness: Freshness::named(&row.get::<String>(15)?),
        decided_at: instant(row.get(16)?),
    })
}

fn reason(row: &Row, column: i32) -> Result<Reason, BooksError> {
    let name: String = row.get(column)?;
    Reason::named(&name).ok_or_else(|| BooksError::Integrity(format!("reason `{name}` of an entitlement")))
}

async fn newest(c: &Connection, sql: &str) -> Result<i64, BooksError> {
    first_row(c, sql, ()).await?.map_or(Ok(0), |row| row.get(0))
}

/// The newest version that is booked. While it is the same, every sum of usage is the same.
pub async fn newest_version(c: &Connection) -> Result<i64, BooksError> {
    newest(c, "SELECT coalesce(max(version_id), 0) FROM bookings").await
}

/// The newest decision in the history.
pub async fn newest_change(c: &Connection) -> Result<i64, BooksError> {
    newest(c, "SELECT coalesce(max(seq), 0) FROM entitlement_changes").await
}

/// The facts about the customers `ids` at `now`, without usage.
pub async fn load_facts(
    c: &Connection,
    ids: &[String],
    now: i64,
) -> Result<BTreeMap<String, CustomerFacts>, BooksError> {
    let ids = json(&ids)?;
    let mut found: BTreeMap<String, CustomerFacts> = BTreeMap::new();
    let mut rows = c.query(include_str!("../customers/customer_facts.sql"), params![ids.clone(), now]).await?;
    while let Some(row) = rows.next().await? {
        let (status, plan, subscription) = (row.get(1)?, row.get(2)?, row.get(3)?);
        let period = match row.get::<Option<i64>>(4)? {
            Some(start) => {
                let days = PeriodDays::read(start, &row, 6)?;
                Some(CurrentPeriod { start, end: row.get(5)?, days })
            }
            None => None,
        };
        found.insert(row.get(0)?, CustomerFacts { status, plan, subscription, period, ..CustomerFacts::default() });
    }
    let sql = "SELECT t.customer, t.starts_at, t.used, t.allowed_until, t.reason, t.ends_at FROM json_each(?1) j \
               JOIN turn_periods t ON t.customer = j.value AND t.closed_at IS NULL AND t.ends_at > ?2 ORDER BY 1, 2";
    let mut rows = c.query(sql, params![ids.clone(), now]).await?;
    while let Some(row) = rows.next().await? {
        let Some(facts) = found.get_mut(&row.get::<String>(0)?) else { continue };
        let (starts_at, used, allowed_until, reason) = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
        facts.turn.push(TurnRow { starts_at, ends_at: row.get(5)?, used, allowed_until, reason });
    }
    let sql = "SELECT b.customer, b.meter, b.amount_minor, b.currency FROM json_each(?1) j \
               JOIN overage_budgets b ON b.customer = j.value";
    let mut rows = c.query(sql, params![ids.clone()]).await?;
    while let Some(row) = rows.next().await? {
        let Some(facts) = found.get_mut(&row.get::<String>(0)?) else { continue };
        facts.budgets.insert(row.get(1)?, OverageBudget { amount_minor: row.get(2)?, currency: row.get(3)? });
    }
    let sql = format!("SELECT {COLUMNS} FROM json_each(?1) j JOIN entitlements e ON e.customer = j.value");
    let mut rows = c.query(&sql, params![ids]).await?;
    while let Some(row) = rows.next().await? {
        let decided = entitlement(&row)?;
        let Some(facts) = found.get_mut(&decided.customer) else { continue };
        facts.decided.insert(decided.meter.clone(), decided);
    }
    Ok(found)
}

/// Adds the usage of the customers' current periods, for each of `meters`.
pub async fn add_usage(
    c: &Connection,
    facts: &mut BTreeMap<String, CustomerFacts>,
    customers: &[String],
    meters: &[String],
    now: i64,
) -> Result<(), BooksError> {
    if customers.is_empty() {
        return Ok(());
    }
    let mut rows = c.query(include_str!("period_usage.sql"), params![json(&customers)?, json(&meters)?, now]).await?;
    while let Some(row) = rows.next().await? {
        let Some(used) = row.get::<Option<String>>(2)? else { continue };
        let Some(customer) = facts.get_mut(&row.get::<String>(0)?) else { continue };
        customer.usage.insert(row.get(1)?, sum_of(&used)?);
    }
    Ok(())
}

const REPLACED: &str = "ON CONFLICT (customer, meter) DO UPDATE SET \
    period_start = excluded.period_start, period_end = excluded.period_end, allowed = excluded.allowed, \
    reason = excluded.reason, used = excluded.used, included = excluded.included, \
    effective_limit = excluded.effective_limit, overage_cost_minor = excluded.overage_cost_minor, \
    meter_cost_minor = excluded.meter_cost_minor, budget_minor = excluded.budget_minor, \
    meter_budget_minor = excluded.meter_budget_minor, currency = excluded.currency, as_of = excluded.as_of, \
    freshness = excluded.freshness, decided_at = excluded.decided_at";

/// Stores decisions. `changed` are those that go into the history too.
pub async fn store(c: &Connection, decided: &[Entitlement], changed: &[&Entitlement]) -> Result<(), BooksError> {
    let all: Vec<&Entitlement> = decided.iter().collect();
    insert_rows(c, &format!("INSERT INTO entitlements ({COLUMNS})"), REPLACED, &all, |e| values(e)).await?;
    insert_rows(c, &format!("INSERT INTO entitlement_changes ({COLUMNS})"), "", changed, |e| values(e)).await
}

/// The values of [`COLUMNS`].
fn values(e: &Entitlement) -> [Value; 17] {
    let text = |text: &str| Value::Text(text.to_owned());
    let maybe = |n: Option<i64>| n.map_or(Value::Null, Value::Integer);
    [
        text(&e.customer),
        text(&e.meter),
        Value::Integer(e.period_start.as_second()),
        Value::Integer(e.period_end.as_second()),
        Value::Integer(i64::from(e.allowed)),
        text(e.reason.name()),
        Value::Integer(cell(e.used)),
        Value::Integer(cell(e.included)),
        maybe(e.effective_limit.map(cell)),
        Value::Integer(e.overage_cost_minor),
        Value::Integer(e.meter_cost_minor),
        Value::Integer(e.budget_minor),
        maybe(e.meter_budget_minor),
        text(&e.currency),
        maybe(e.as_of.map(Timestamp::as_second)),
        text(e.freshness.name()),
        Value::Integer(e.decided_at.as_second()),
    ]
}

/// A decision about a meter that neither the configuration nor the customer's plan has any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ObsoleteEntitlement<'a> {
    pub customer: &'a str,
    pub meter: &'a str,
}

/// Removes decisions; their history stays.
pub async fn remove(c: &Connection, gone: &[ObsoleteEntitlement<'_>]) -> Result<(), BooksError> {
    if gone.is_empty() {
        return Ok(());
    }
    let sql = "DELETE FROM entitlements WHERE (customer, meter) IN \
               (SELECT value ->> 'customer', value ->> 'meter' FROM json_each(?1))";
    c.execute(sql, params![json(&gone)?]).await?;
    Ok(())
}

/// Where the backend must stop to hand out TURN credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TurnLimit<'a> {
    pub customer: &'a str,
    /// First instant of the TURN period.
    pub starts_at: i64,
    /// None = nowhere.
    pub allowed_until: Option<i64>,
    pub reason: &'static str,
}

/// Writes the limits of open TURN periods.
pub async fn store_turn_limits(c: &Connection, limits: &[TurnLimit<'_>]) -> Result<(), BooksError> {
    if limits.is_empty() {
        return Ok(());
    }
    let sql = "UPDATE turn_periods SET allowed_until = j.value ->> 'allowed_until', reason = j.value ->> 'reason' \
               FROM json_each(?1) j WHERE customer = j.value ->> 'customer' \
               AND starts_at = j.value ->> 'starts_at' AND closed_at IS NULL";
    c.execute(sql, params![json(&limits)?]).await?;
    Ok(())
}

/// As [`Database::usage_through`].
pub async fn usage_through(c: &Connection) -> Result<BTreeMap<String, Timestamp>, BooksError> {
    let sql = "SELECT payer, newest_day, delivered_at FROM bill_versions v WHERE state = 'applied' AND newest_day IS NOT NULL \
               AND NOT EXISTS (SELECT 1 FROM bill_versions n WHERE n.supersedes = v.id)";
    let mut rows = c.query(sql, ()).await?;
    let mut found: BTreeMap<String, Timestamp> = BTreeMap::new();
    let wrong = |what: String| BooksError::Integrity(format!("bill_versions: {what}"));
    while let Some(row) = rows.next().await? {
        let day: Day = row.get::<String>(1)?.parse().map_err(|e: PeriodError| wrong(e.to_string()))?;
        let delivered: Timestamp = row.get::<String>(2)?.parse().map_err(|e: jiff::Error| wrong(e.to_string()))?;
        let through = day.end().min(delivered);
        found.entry(row.get(0)?).and_modify(|at| *at = through.max(*at)).or_insert(through);
    }
    Ok(found)
}

impl Database {
    /// Ids of customers after `after`, in order, at most [`PAGE`].
    pub async fn customers_after(&self, after: String) -> Result<Vec<String>, BooksError> {
        self.with_connection(async move |c| {
            let sql = "SELECT id FROM customers WHERE id > ?1 ORDER BY id LIMIT ?2";
            let mut rows = c.query(sql, params![after, PAGE]).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                found.push(row.get(0)?);
            }
            Ok(found)
        })
        .await
    }

    /// Until when each payer's usage is booked: the end of the newest day with usage, or the time
    /// of delivery, if the day was not over then.
    pub async fn usage_through(&self) -> Result<BTreeMap<String, Timestamp>, BooksError> {
        self.with_connection(async |c| usage_through(c).await).await
    }

    /// The stored decisions of one customer, or of all.
    pub async fn entitlements(&self, customer: Option<String>) -> Result<Vec<Entitlement>, BooksError> {
        self.with_connection(async move |c| {
            let sql = match customer {
                Some(_) => format!("SELECT {COLUMNS} FROM entitlements WHERE customer = ?1 ORDER BY meter"),
                None => format!("SELECT {COLUMNS} FROM entitlements WHERE ?1 IS NULL ORDER BY customer, meter"),
            };
            let mut rows = c.query(&sql, params![customer]).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                found.push(entitlement(&row)?);
            }
            Ok(found)
        })
        .await
    }

    /// The newest decisions about a customer's meter that differ from the one before, newest first.
    pub async fn entitlement_history(
        &self,
        customer: &str,
        meter: &str,
        limit: u32,
    ) -> Result<Vec<PastDecision>, BooksError> {
        let (customer, meter) = (customer.to_owned(), meter.to_owned());
        self.with_connection(async move |c| {
            let sql = "SELECT decided_at, allowed, reason, effective_limit FROM entitlement_changes \
                       WHERE customer = ?1 AND meter = ?2 ORDER BY seq DESC LIMIT ?3";
            let mut rows = c.query(sql, params![customer, meter, limit]).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                found.push(PastDecision {
                    decided_at: instant(row.get(0)?),
                    allowed: row.get::<i64>(1)? == 1,
                    reason: reason(&row, 2)?,
                    effective_limit: row.get::<Option<i64>>(3)?.map(scaled),
                });
            }
            Ok(found)
        })
        .await
    }
}
