//! The facts that decide what customers may use, many customers in one statement.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;

use crate::limits::due::NEVER;
use crate::limits::entitlement::{Entitlement, StoredEntitlement};
use crate::limits::open_usage::{Edge, MeasuredAdds, MeasuredUsage, OpenDay};
use crate::limits::rating::{PeriodDays, StretchUsage};
use crate::limits::settled::OpenUsage;
use crate::limits::terms::{PlanFrom, TermsHistory};
use crate::measured::by_day::{edges_from_now, weight, weights_by_day};
use crate::store::connection::{Connection, Row, Value, params};
use crate::store::error::BooksError;
use crate::store::rows::{self, exact_sum, sum_of};
use crate::units::calendar::{Day, PeriodError};
use crate::units::quantity::Quantity;

const SQL: &str = concat!(
    "WITH c (id, status, plan, subscription, starts_at, ends_at, first_day, last_day, planned_last_day, month_days) AS (\n",
    include_str!("../customers/customer_facts.sql"),
    "),\n watched (meter) AS MATERIALIZED (SELECT value FROM json_each(?4)),\n \
     open (day, start, meter) AS MATERIALIZED (SELECT value ->> 'day', unixepoch(value ->> 'day'), value ->> 'meter' FROM json_each(?5))\n",
    include_str!("customer_facts.sql"),
    "FROM (",
    weights_by_day!(days_first),
    ") d) AS measured,\n (SELECT json_group_array(json_array(meter, at, level_high, level_low, quantity_high, quantity_low)) FROM (",
    edges_from_now!(),
    ")) AS edges\nFROM c"
);

/// The facts that a decision rests on.
#[derive(Clone, Debug, Default)]
pub struct CustomerFacts {
    /// Everything but usage, as it was read. While it is the same, and no version is booked,
    /// everything here is the same.
    pub stored: String,
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
    /// What measurements add to it on open days of the period.
    pub measured: MeasuredAdds,
    /// The same later; none without a current period.
    pub open: Option<MeasuredUsage>,
    /// The next instant at which a period or a subscription begins or ends.
    pub next_bound: i64,
    /// Every plan that the customer had. Budgets do not change what is included.
    pub history: TermsHistory,
    /// Booked usage by stretch of the history, if there is more than one in the period.
    pub stretches: StretchUsage,
    /// What was used in advance before the period, by meter.
    pub advance: BTreeMap<String, Quantity>,
    /// TURN periods that are over, the newest of them, in order.
    pub turn_before: Vec<TurnBefore>,
    /// The stored decisions, by meter.
    pub decided: BTreeMap<String, Entitlement>,
}

impl CustomerFacts {
    /// Changes booked usage, by meter and day, as a bill would that is not booked. `meters` are
    /// those that are summed.
    ///
    /// # Errors
    /// When measured usage does not fit into 128 bits.
    pub fn change_usage<'a>(
        &mut self,
        changes: impl Iterator<Item = (&'a str, Day, Quantity)>,
        meters: &[String],
        now: i64,
    ) -> Result<(), BooksError> {
        let Some(days) = self.period.as_ref().map(|period| period.days) else { return Ok(()) };
        let mut changes = changes.filter(|(meter, day, _)| {
            (days.first..=days.last).contains(day) && meters.iter().any(|known| known == meter)
        });
        let Some(first) = changes.next() else { return Ok(()) };
        let stretches = self.history.stretches(days.first, days.last);
        for (meter, day, change) in std::iter::once(first).chain(changes) {
            *self.usage.entry(meter.to_owned()).or_default() += change;
            let of = stretches.iter().find(|of| (of.first..=of.last).contains(&day)).filter(|_| stretches.len() > 1);
            if let Some(of) = of {
                *self.stretches.entry((meter.to_owned(), of.first)).or_default() += change;
            }
            if let Some(open) = &mut self.open {
                open.bill(meter, day, change);
            }
        }
        if let Some(open) = &self.open {
            self.measured = open.adds_at(now)?;
        }
        Ok(())
    }
}

/// An overage budget as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
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

/// A TURN period that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct TurnBefore {
    pub starts_at: i64,
    pub ends_at: i64,
    pub used: i64,
}

/// An open TURN period.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TurnRow {
    pub starts_at: i64,
    pub ends_at: i64,
    pub used: i64,
    /// Where the backend must stop; none = nowhere.
    pub allowed_until: Option<i64>,
    pub reason: String,
    /// The count at which the customer is decided anew.
    pub decided_until: Option<i64>,
}

/// The facts about customers as they are stored.
#[derive(Debug)]
pub struct StoredFacts {
    /// The newest version that was booked before. While it is the same, every sum of usage is.
    pub newest_version: i64,
    /// The newest decision in the history.
    pub newest_change: i64,
    pub customers: Vec<StoredCustomer>,
}

/// The facts about a customer as they are stored.
#[derive(Debug)]
pub struct StoredCustomer {
    pub id: String,
    /// As [`CustomerFacts::stored`].
    pub facts: String,
    used: String,
    measured: String,
    edges: String,
}

/// What was measured on an open day: meter, day, the parts of its weight, and the sum of the bill.
#[derive(Deserialize)]
struct StoredDay(String, Day, i64, i64, Option<String>);

/// An edge: meter, instant, and the parts of the level and of the quantity.
#[derive(Deserialize)]
struct StoredEdge(String, i64, i64, i64, i64, i64);

fn measured_usage(days: Vec<StoredDay>, edges: Vec<StoredEdge>) -> Result<(Vec<OpenDay>, Vec<Edge>), BooksError> {
    let day = |StoredDay(meter, day, high, low, billed): StoredDay| {
        let billed = billed.as_deref().map(sum_of).transpose()?.unwrap_or_default();
        Ok(OpenDay { meter, day, weight: weight(high, low), billed })
    };
    let edge = |StoredEdge(meter, at, high, low, quantity_high, quantity_low): StoredEdge| Edge {
        meter,
        at,
        level: weight(high, low),
        quantity: weight(quantity_high, quantity_low),
    };
    let mut edges: Vec<Edge> = edges.into_iter().map(edge).collect();
    edges.sort_by_key(|edge| edge.at);
    Ok((days.into_iter().map(day).collect::<Result<_, BooksError>>()?, edges))
}

/// [`CustomerFacts::stored`], an array in this order.
#[derive(Deserialize)]
struct Stored {
    customer: Columns,
    turn: Vec<TurnRow>,
    turn_before: Vec<TurnBefore>,
    budgets: BTreeMap<String, OverageBudget>,
    plans: Vec<PlanFrom>,
    advance: BTreeMap<String, i64>,
    decided: Vec<StoredEntitlement>,
}

/// The part of [`Stored`] of which there is one. Without a current period its columns are null.
#[derive(Deserialize)]
struct Columns {
    status: String,
    plan: String,
    subscription: Option<String>,
    starts_at: Option<i64>,
    ends_at: Option<i64>,
    first_day: Option<Day>,
    last_day: Option<Day>,
    planned_last_day: Option<Day>,
    month_days: Option<i64>,
    /// Of billing periods and subscriptions.
    next_bound: Option<i64>,
}

/// Reads the facts about the customers `ids` at `now`, with their usage of `meters` and what was
/// measured of it, in one request.
pub async fn read(
    c: &Connection,
    ids: &[String],
    meters: &[String],
    open: &OpenUsage,
    now: i64,
) -> Result<StoredFacts, BooksError> {
    let newest = "SELECT (SELECT coalesce(max(version_id), 0) FROM bookings), \
                         (SELECT coalesce(max(seq), 0) FROM entitlement_changes)";
    let watched: Vec<&String> = open.meters.keys().collect();
    let lists = [rows::json(meters)?, rows::json(&watched)?, open.to_json()?];
    let of = [Value::Text(rows::json(ids)?), Value::Integer(now)].into_iter().chain(lists.map(Value::Text)).collect();
    let mut answers = c.batch(vec![(newest, vec![]), (SQL, of)]).await?.into_iter();
    let (mut newest, mut facts) = (answers.next().unwrap_or_default(), answers.next().unwrap_or_default());
    let newest = newest.next().await?;
    let newest = |column| newest.as_ref().map_or(Ok(0), |row: &Row| row.get(column));
    let mut customers = vec![];
    while let Some(row) = facts.next().await? {
        customers.push(StoredCustomer {
            id: row.get(0)?,
            facts: row.get(1)?,
            used: row.get(2)?,
            measured: row.get(3)?,
            edges: row.get(4)?,
        });
    }
    Ok(StoredFacts { newest_version: newest(0)?, newest_change: newest(1)?, customers })
}

/// Ids of customers after `after`, in order.
pub async fn ids_after(c: &Connection, after: &str, limit: u32) -> Result<Vec<String>, BooksError> {
    let mut rows =
        c.query("SELECT id FROM customers WHERE id > ?1 ORDER BY id LIMIT ?2", params![after, limit]).await?;
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        found.push(row.get(0)?);
    }
    Ok(found)
}

/// The facts by customer. Reads usage again where it is needed by stretches of the period.
pub async fn complete(
    c: &Connection,
    customers: Vec<StoredCustomer>,
    open: &OpenUsage,
    now: i64,
) -> Result<BTreeMap<String, CustomerFacts>, BooksError> {
    let facts = |customer: StoredCustomer| Ok((customer.id.clone(), parse(customer, open, now)?));
    let mut found = customers.into_iter().map(facts).collect::<Result<BTreeMap<_, _>, BooksError>>()?;
    add_stretches(c, &mut found).await?;
    Ok(found)
}

fn parse(customer: StoredCustomer, open: &OpenUsage, now: i64) -> Result<CustomerFacts, BooksError> {
    let StoredCustomer { id, facts: stored, used, measured, edges } = customer;
    let wrong = |e: serde_json::Error| BooksError::Integrity(format!("facts about customer `{id}`: {e}"));
    let Stored { customer: columns, turn, turn_before, budgets, plans, advance, decided } =
        serde_json::from_str(&stored).map_err(wrong)?;
    let used: BTreeMap<String, Option<String>> = serde_json::from_str(&used).map_err(wrong)?;
    let measured: Vec<StoredDay> = serde_json::from_str(&measured).map_err(wrong)?;
    let edges: Vec<StoredEdge> = serde_json::from_str(&edges).map_err(wrong)?;
    let (measured_days, edges) = measured_usage(measured, edges)?;
    let days = columns.first_day.zip(columns.last_day);
    let period = columns.starts_at.zip(columns.ends_at).zip(days).map(|((start, end), (first, last))| {
        let days = PeriodDays::new(start, first, last, columns.planned_last_day, columns.month_days);
        CurrentPeriod { start, end, days }
    });
    let read_on = i32::try_from(now.div_euclid(86_400)).ok().and_then(Day::from_epoch).unwrap_or(Day::EPOCH);
    let open = columns.last_day.map(|last_day| MeasuredUsage {
        days: measured_days,
        edges,
        read_on,
        last_day,
        accrues: open.meters.clone(),
    });
    let adds = open.as_ref().map(|open| open.adds_at(now)).transpose();
    let decided = decided.into_iter().map(|stored| {
        let decided = Entitlement::try_from(stored)?;
        Ok((decided.meter.clone(), decided))
    });
    let usage = used.into_iter().filter_map(|(meter, sum)| Some(sum_of(&sum?).map(|sum| (meter, sum))));
    let turn_ends = turn.iter().map(|of| of.ends_at).min();
    let advance = advance.into_iter().map(|(meter, n)| (meter, Quantity::from_scaled(i128::from(n))));
    Ok(CustomerFacts {
        status: columns.status,
        subscription: columns.subscription,
        plan: columns.plan,
        period,
        turn,
        budgets,
        usage: usage.collect::<Result<_, _>>()?,
        measured: adds.map_err(|e| BooksError::Integrity(format!("{id}: {e}")))?.unwrap_or_default(),
        open,
        next_bound: columns.next_bound.into_iter().chain(turn_ends).min().unwrap_or(NEVER),
        history: TermsHistory { plans, budgets: vec![] },
        stretches: StretchUsage::new(),
        advance: advance.collect(),
        turn_before,
        decided: decided.collect::<Result<_, BooksError>>()?,
        stored,
    })
}

/// Adds usage by stretch for customers whose plan changed in the period.
async fn add_stretches(c: &Connection, found: &mut BTreeMap<String, CustomerFacts>) -> Result<(), BooksError> {
    let mut days = vec![];
    for (customer, facts) in found.iter() {
        let Some(period) = &facts.period else { continue };
        let stretches = facts.history.stretches(period.days.first, period.days.last);
        if stretches.len() > 1 {
            days.extend(stretches.iter().map(|s| json!({ "customer": customer, "first": s.first, "last": s.last })));
        }
    }
    if days.is_empty() {
        return Ok(());
    }
    let sql = concat!(
        "SELECT u.customer, u.meter, j.value ->> 'first', ",
        exact_sum!("u.quantity"),
        " FROM json_each(?1) j JOIN booked_usage u ON u.customer = j.value ->> 'customer' \
          AND u.day BETWEEN j.value ->> 'first' AND j.value ->> 'last' GROUP BY 1, 2, 3"
    );
    let mut rows = c.query(sql, params![rows::json(&days)?]).await?;
    while let Some(row) = rows.next().await? {
        let first: String = row.get(2)?;
        let first = first.parse().map_err(|e: PeriodError| BooksError::Integrity(e.to_string()))?;
        let used = sum_of(&row.get::<String>(3)?)?;
        if let Some(facts) = found.get_mut(&row.get::<String>(0)?) {
            facts.stretches.insert((row.get(1)?, first), used);
        }
    }
    Ok(())
}
