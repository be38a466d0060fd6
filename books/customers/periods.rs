//! Billing periods as they stand in the database, and the TURN counter of each.
//!
//! Time itself begins a period: the current one and the next two stand open, and the web backend
//! counts on the row whose time it is. So what is done here is bookkeeping that may come late:
//! closed counts are kept, and more periods are opened. An increment is in exactly one row,
//! whenever this runs, because a count is never copied: closing sets `closed_at` on the row itself.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use libsql::{Connection, params};
use serde::Serialize;

use crate::customers::billing_period::{self, BillingPeriod, Span, Subscription};
use crate::limits::entitlement::{PaymentStatus, Reason};
use crate::limits::plan::{Plans, TURN};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{clock, json};
use crate::units::calendar::{Day, instant};
use crate::units::quantity::UNIT;

/// A period of TURN credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TurnPeriod {
    pub customer: String,
    pub starts_at: Timestamp,
    pub ends_at: Timestamp,
    pub used: i64,
    /// How often one was refused.
    pub refused: i64,
    /// Where the backend must stop; none = nowhere.
    pub allowed_until: Option<i64>,
    pub reason: String,
    /// When the count was closed.
    pub closed_at: Option<Timestamp>,
}

/// An open row, as it is in both tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenPeriod {
    pub period: BillingPeriod,
    pub used: i64,
    pub refused: i64,
    pub allowed_until: Option<i64>,
}

/// What is known of one customer's periods.
#[derive(Clone, Debug, Default)]
pub struct KnownPeriods {
    /// The customer's plan; none when there is no row any more.
    pub plan: Option<String>,
    /// Why nothing at all may be used, if so.
    pub stopped: Option<Reason>,
    pub subscriptions: Vec<Subscription>,
    /// End and last day of the newest closed period.
    pub closed: Option<(i64, Day)>,
    pub open: Vec<OpenPeriod>,
}

/// What is to change for one customer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeriodChanges {
    /// Periods to open, or to give other bounds.
    pub periods: Vec<BillingPeriod>,
    /// OpenPeriod rows that stand for no period any more, and the one that takes their count.
    pub merged: Vec<(i64, i64)>,
    /// Starts of the periods to close.
    pub closed: Vec<i64>,
    /// Start of the current period, and end of the last one; none for a customer who is gone.
    pub current: Option<(i64, i64)>,
}

/// What must change so that the periods are those of the subscriptions, and all that ended by `now`
/// are closed. Pure.
pub fn changes(known: &KnownPeriods, now: i64) -> PeriodChanges {
    if known.plan.is_none() {
        let ended = known.open.iter().map(|o| &o.period.span).filter(|s| s.end <= now);
        return PeriodChanges { closed: ended.map(|s| s.start).collect(), ..PeriodChanges::default() };
    }
    let oldest = known.open.first().map_or(now, |o| o.period.span.start);
    let from = match known.closed {
        Some((end, _)) => end,
        None => billing_period::first_start(&known.subscriptions, oldest),
    };
    let spans = billing_period::spans(&known.subscriptions, from, now);
    let until = spans.last().map(|s| s.end);
    let current = spans.iter().find(|s| s.end > now).map(|s| s.start);
    let periods = billing_period::with_days(spans, known.closed.map(|(_, day)| day));
    let is_there = |p: &BillingPeriod| known.open.iter().any(|o| o.period == *p);
    let target = |start: i64| {
        let holds = periods.iter().find(|p| p.span.start <= start && start < p.span.end);
        holds.or(periods.first()).map(|p| p.span.start)
    };
    let gone = known.open.iter().map(|o| o.period.span.start).filter(|s| periods.iter().all(|p| p.span.start != *s));
    PeriodChanges {
        merged: gone.filter_map(|start| Some((start, target(start)?))).collect(),
        closed: periods.iter().map(|p| &p.span).filter(|s| s.end <= now).map(|s| s.start).collect(),
        current: current.zip(until),
        periods: periods.iter().filter(|p| !is_there(p)).cloned().collect(),
    }
}

/// One count that was closed, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClosedTurnPeriod {
    pub customer: String,
    /// First instant of the period.
    pub starts_at: Timestamp,
    pub ends_at: Timestamp,
    /// Credentials handed out in it.
    pub used: i64,
    /// Where the backend had to stop.
    pub allowed_until: Option<i64>,
}

/// What happened to some customers' periods.
#[derive(Clone, Debug, Default)]
pub struct RolledPeriods {
    pub closed: Vec<ClosedTurnPeriod>,
    /// Periods that were opened, or got other bounds.
    pub opened: u64,
    /// OpenPeriod rows that a changed subscription did away with; another row has their count.
    pub merged: u64,
    /// Customers for whom more than one subscription lives.
    pub overlapping_subscriptions: Vec<String>,
}

impl Database {
    /// The customers whose periods have to be looked at, in order: one has ended, none was opened
    /// yet, or a subscription changed.
    pub async fn customers_to_roll(&self, now: Timestamp) -> Result<Vec<String>, BooksError> {
        self.with_connection(async move |c| {
            // by name, for the planner would rather walk along all open rows in order of customers
            // than sort the few that are due
            let due = "SELECT customer FROM turn_periods INDEXED BY turn_periods_to_close WHERE closed_at IS NULL AND ends_at <= ?1";
            let new = "SELECT id FROM customers WHERE periods_until IS NULL";
            let mut found: BTreeSet<String> = BTreeSet::new();
            let mut rows = c.query(due, params![now.as_second()]).await?;
            while let Some(row) = rows.next().await? {
                found.insert(row.get(0)?);
            }
            let mut rows = c.query(new, ()).await?;
            while let Some(row) = rows.next().await? {
                found.insert(row.get(0)?);
            }
            Ok(found.into_iter().collect())
        })
        .await
    }

    /// Brings the periods of `customers` up to `now`, all of them in one transaction. What is
    /// closed must have ended by the database's own clock too, so that a worker whose clock is
    /// ahead closes nothing early.
    pub async fn roll_periods(
        &self,
        customers: Vec<String>,
        plans: Plans,
        now: Timestamp,
    ) -> Result<RolledPeriods, BooksError> {
        self.transaction(async move |c| {
            let now = now.as_second().min(clock(c).await?);
            let decided = decided(c, &customers, now).await?;
            apply(c, &decided, &plans, now).await?;
            Ok(summed(&decided, now))
        })
        .await
    }

    /// What [`Database::roll_periods`] would do.
    pub async fn periods_to_roll(&self, customers: Vec<String>, now: Timestamp) -> Result<RolledPeriods, BooksError> {
        self.with_connection(async move |c| {
            Ok(summed(&decided(c, &customers, now.as_second()).await?, now.as_second()))
        })
        .await
    }

    /// TURN periods, the newest first: of one customer, or the current and future ones of all.
    pub async fn turn_periods(&self, customer: Option<String>, now: Timestamp) -> Result<Vec<TurnPeriod>, BooksError> {
        self.with_connection(async move |c| {
            let columns = "SELECT customer, starts_at, ends_at, used, refused, allowed_until, reason, closed_at FROM turn_periods";
            let sql = match customer {
                Some(_) => format!("{columns} WHERE customer = ?2 AND starts_at <= ?1 ORDER BY starts_at DESC"),
                None => format!("{columns} WHERE ?2 IS NULL AND closed_at IS NULL AND starts_at <= ?1 ORDER BY customer, starts_at DESC"),
            };
            let mut rows = c.query(&sql, params![now.as_second(), customer]).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                found.push(TurnPeriod {
                    customer: row.get(0)?,
                    starts_at: instant(row.get(1)?),
                    ends_at: instant(row.get(2)?),
                    used: row.get(3)?,
                    refused: row.get(4)?,
                    allowed_until: row.get(5)?,
                    reason: row.get(6)?,
                    closed_at: row.get::<Option<i64>>(7)?.map(instant),
                });
            }
            Ok(found)
        })
        .await
    }
}

type Decided = Vec<(String, KnownPeriods, PeriodChanges)>;

async fn decided(c: &Connection, customers: &[String], now: i64) -> Result<Decided, BooksError> {
    let known = load(c, customers, now).await?;
    let decide = |(customer, known): (String, KnownPeriods)| {
        let changes = changes(&known, now);
        (customer, known, changes)
    };
    Ok(known.into_iter().map(decide).collect())
}

async fn load(c: &Connection, customers: &[String], now: i64) -> Result<BTreeMap<String, KnownPeriods>, BooksError> {
    let ids = json(&customers)?;
    let mut known: BTreeMap<String, KnownPeriods> =
        customers.iter().map(|id| (id.clone(), KnownPeriods::default())).collect();
    let mut rows = c.query(include_str!("customer_facts.sql"), params![ids.clone(), now]).await?;
    while let Some(row) = rows.next().await? {
        if let Some(known) = known.get_mut(&row.get::<String>(0)?) {
            let (status, subscription): (String, Option<String>) = (row.get(1)?, row.get(3)?);
            known.plan = Some(row.get(2)?);
            known.stopped = PaymentStatus::of(&status, subscription.as_deref()).stops();
        }
    }
    let mut rows = c.query(include_str!("subscriptions.sql"), params![ids.clone()]).await?;
    while let Some(row) = rows.next().await? {
        if let Some(known) = known.get_mut(&row.get::<String>(0)?) {
            let (id, anchor, started, ended) = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
            known.subscriptions.push(Subscription { id, anchor, started, ended });
        }
    }
    let day = |text: String| text.parse::<Day>().map_err(|e| BooksError::Integrity(format!("billing_periods: {e}")));
    let mut rows = c.query(include_str!("periods.sql"), params![ids]).await?;
    while let Some(row) = rows.next().await? {
        let Some(known) = known.get_mut(&row.get::<String>(0)?) else { continue };
        let (start, end, last_day) = (row.get(1)?, row.get(2)?, day(row.get(5)?)?);
        if row.get::<Option<i64>>(6)?.is_some() {
            known.closed = Some((end, last_day));
            continue;
        }
        let period = BillingPeriod {
            span: Span { start, end, subscription: row.get(3)? },
            first_day: day(row.get(4)?)?,
            last_day,
        };
        known.open.push(OpenPeriod { period, used: row.get(7)?, refused: row.get(8)?, allowed_until: row.get(9)? });
    }
    Ok(known)
}

/// Writes what was decided.
async fn apply(c: &Connection, decided: &Decided, plans: &Plans, now: i64) -> Result<(), BooksError> {
    let (mut billing, mut turn, mut closed, mut current) = (vec![], vec![], vec![], vec![]);
    for (customer, known, changes) in decided {
        for BillingPeriod { span, first_day, last_day } in &changes.periods {
            billing.push((customer, span.start, span.end, &span.subscription, *first_day, *last_day));
            let (limit, reason) = opening_limit(plans, known, span.start);
            turn.push((customer, span.start, span.end, limit, reason));
        }
        closed.extend(changes.closed.iter().map(|start| (customer, start)));
        current.extend(changes.current.map(|(start, until)| (customer, start, until)));
    }
    let run = async |sql: &'static str, rows: String| c.execute(sql, params![rows, now]).await;
    if !billing.is_empty() {
        run(OPEN_BILLING, json(&billing)?).await?;
        c.execute(OPEN_TURN, params![json(&turn)?]).await?;
    }
    let merged = decided.iter().flat_map(|(customer, known, changes)| {
        let row = |start: i64| known.open.iter().find(move |o| o.period.span.start == start);
        changes
            .merged
            .iter()
            .filter_map(move |(from, to)| Some((customer, from, to, row(*from)?.used, row(*from)?.refused)))
    });
    let merged: Vec<_> = merged.collect();
    if !merged.is_empty() {
        let rows = json(&merged)?;
        for sql in [MERGE_TURN, DROP_TURN, DROP_BILLING] {
            c.execute(sql, params![rows.clone()]).await?;
        }
    }
    if !closed.is_empty() {
        let rows = json(&closed)?;
        run(CLOSE_TURN, rows.clone()).await?;
        run(CLOSE_BILLING, rows).await?;
    }
    if !current.is_empty() {
        c.execute(SHOW_CURRENT, params![json(&current)?]).await?;
    }
    Ok(())
}

/// What a period may use before its first enforcement: what the plan includes, if the customer may
/// use anything.
fn opening_limit(plans: &Plans, known: &KnownPeriods, start: i64) -> (i64, &'static str) {
    if let Some(reason) = known.stopped {
        return (0, reason.name());
    }
    match known.plan.as_deref().and_then(|plan| plans.at(plan, start)) {
        None => (0, Reason::UnknownPlan.name()),
        Some(plan) => {
            let Some(terms) = plan.meters.get(TURN) else { return (0, Reason::NotInPlan.name()) };
            let stop = if terms.price.is_none() { Reason::IncludedUsed } else { Reason::NoBudget };
            (i64::try_from(terms.included.scaled() / UNIT).unwrap_or(i64::MAX), stop.name())
        }
    }
}

fn summed(decided: &Decided, now: i64) -> RolledPeriods {
    let mut rolled = RolledPeriods::default();
    for (customer, known, changes) in decided {
        rolled.opened += u64::try_from(changes.periods.len()).unwrap_or(u64::MAX);
        rolled.merged += u64::try_from(changes.merged.len()).unwrap_or(u64::MAX);
        if billing_period::overlap_at(&known.subscriptions, now) {
            rolled.overlapping_subscriptions.push(customer.clone());
        }
        let bounds = |start: i64| {
            let changed = changes.periods.iter().find(|p| p.span.start == start);
            changed.or_else(|| known.open.iter().map(|o| &o.period).find(|p| p.span.start == start))
        };
        for start in &changes.closed {
            let Some(period) = bounds(*start) else { continue };
            let merged = changes.merged.iter().filter(|(_, target)| target == start).map(|(from, _)| from);
            let rows = merged.chain([start]).filter_map(|s| known.open.iter().find(|o| o.period.span.start == *s));
            let own = known.open.iter().find(|o| o.period.span.start == *start);
            rolled.closed.push(ClosedTurnPeriod {
                customer: customer.clone(),
                starts_at: instant(*start),
                ends_at: instant(period.span.end),
                used: rows.map(|o| o.used).sum(),
                allowed_until: own.and_then(|o| o.allowed_until),
            });
        }
    }
    rolled
}

const OPEN_BILLING: &str = "INSERT INTO billing_periods (customer, starts_at, ends_at, subscription, first_day, last_day, opened_at) \
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), json_extract(value, '$[3]'), \
           json_extract(value, '$[4]'), json_extract(value, '$[5]'), ?2 FROM json_each(?1) WHERE true \
    ON CONFLICT (customer, starts_at) DO UPDATE SET ends_at = excluded.ends_at, subscription = excluded.subscription, \
           first_day = excluded.first_day, last_day = excluded.last_day";

const OPEN_TURN: &str = "INSERT INTO turn_periods (customer, starts_at, ends_at, allowed_until, reason) \
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), json_extract(value, '$[3]'), \
           json_extract(value, '$[4]') FROM json_each(?1) WHERE true \
    ON CONFLICT (customer, starts_at) DO UPDATE SET ends_at = excluded.ends_at";

const CLOSE_TURN: &str = "UPDATE turn_periods SET closed_at = ?2 FROM json_each(?1) j \
    WHERE customer = json_extract(j.value, '$[0]') AND starts_at = json_extract(j.value, '$[1]') AND closed_at IS NULL";

const CLOSE_BILLING: &str = "UPDATE billing_periods SET closed_at = ?2 FROM json_each(?1) j \
    WHERE customer = json_extract(j.value, '$[0]') AND starts_at = json_extract(j.value, '$[1]') AND closed_at IS NULL";

/// Several rows may fold into one, so their counts are summed first: customer, start, start of the
/// target, used, refused.
const MERGE_TURN: &str = "UPDATE turn_periods SET used = turn_periods.used + j.used, refused = turn_periods.refused + j.refused \
    FROM (SELECT value ->> 0 AS customer, value ->> 2 AS target, sum(value ->> 3) AS used, sum(value ->> 4) AS refused \
          FROM json_each(?1) GROUP BY 1, 2) j \
    WHERE turn_periods.customer = j.customer AND turn_periods.starts_at = j.target";

const DROP_TURN: &str =
    "DELETE FROM turn_periods WHERE (customer, starts_at) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?1))";

const DROP_BILLING: &str =
    "DELETE FROM billing_periods WHERE (customer, starts_at) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?1))";

/// The counter on the customer's row is the one of the current period: 0, or what was taken since
/// it began.
const SHOW_CURRENT: &str = "UPDATE customers SET periods_until = json_extract(j.value, '$[2]'), \
    turn_allocations_used = coalesce((SELECT used FROM turn_periods t WHERE t.customer = customers.id \
                                      AND t.starts_at = json_extract(j.value, '$[1]')), 0) \
    FROM json_each(?1) j WHERE customers.id = json_extract(j.value, '$[0]')";
