//! Billing periods as rows, and the TURN counter of each.
//!
//! A period begins by itself: the current one and the next two stand open, and the web backend
//! counts on the row of the current time. Closing and opening periods may therefore come late. A
//! count is never copied, because closing sets `closed_at` on the row itself, so an increment is in
//! exactly one row.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use libsql::{Connection, params};
use serde::Serialize;
use serde_json::json;

use crate::customers::billing_period::{self, BillingPeriod, Span, Subscription};
use crate::limits::entitlement::{PaymentStatus, Reason};
use crate::limits::plan::{Plans, TURN};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{self, clock};
use crate::units::calendar::{Day, instant};
use crate::units::quantity::UNIT;

/// A period of TURN credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TurnPeriod {
    pub customer: String,
    pub starts_at: Timestamp,
    pub ends_at: Timestamp,
    pub used: i64,
    /// Refused credentials.
    pub refused: i64,
    /// Where the backend must stop; none = nowhere.
    pub allowed_until: Option<i64>,
    pub reason: String,
    pub closed_at: Option<Timestamp>,
}

/// An open period, with its rows in both tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenPeriod {
    pub period: BillingPeriod,
    pub used: i64,
    pub refused: i64,
    pub allowed_until: Option<i64>,
}

/// Where a closed period ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedPeriod {
    pub end: i64,
    pub last_day: Day,
}

/// An open row without a period, and the period that takes its count; each by its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    pub from: i64,
    pub into: i64,
}

/// The periods that a customer's row shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShownPeriods {
    /// Start of the current period.
    pub current: i64,
    /// End of the last open period.
    pub until: i64,
}

/// What is known of one customer's periods.
#[derive(Clone, Debug, Default)]
pub struct KnownPeriods {
    /// None when the customer's row is gone.
    pub plan: Option<String>,
    /// The reason why nothing at all may be used, if there is one.
    pub stopped: Option<Reason>,
    pub subscriptions: Vec<Subscription>,
    /// The newest closed period.
    pub closed: Option<ClosedPeriod>,
    pub open: Vec<OpenPeriod>,
}

/// What is to change for one customer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeriodChanges {
    /// Periods to open, or with new bounds.
    pub periods: Vec<BillingPeriod>,
    pub merged: Vec<Merge>,
    /// Starts of the periods to close.
    pub closed: Vec<i64>,
    /// None when the customer's row is gone.
    pub shown: Option<ShownPeriods>,
}

/// The changes after which the periods follow the subscriptions, and all that ended by `now` are
/// closed. Pure.
pub fn changes(known: &KnownPeriods, now: i64) -> PeriodChanges {
    if known.plan.is_none() {
        let ended = known.open.iter().map(|o| &o.period.span).filter(|s| s.end <= now);
        return PeriodChanges { closed: ended.map(|s| s.start).collect(), ..PeriodChanges::default() };
    }
    let oldest = known.open.first().map_or(now, |o| o.period.span.start);
    let from = match known.closed {
        Some(closed) => closed.end,
        None => billing_period::first_start(&known.subscriptions, oldest),
    };
    let spans = billing_period::spans(&known.subscriptions, from, now);
    let until = spans.last().map(|s| s.end);
    let current = spans.iter().find(|s| s.end > now).map(|s| s.start);
    let periods = billing_period::with_days(spans, known.closed.map(|closed| closed.last_day));
    let is_there = |p: &BillingPeriod| known.open.iter().any(|o| o.period == *p);
    let target = |start: i64| {
        let holds = periods.iter().find(|p| p.span.start <= start && start < p.span.end);
        holds.or(periods.first()).map(|p| p.span.start)
    };
    let gone = known.open.iter().map(|o| o.period.span.start).filter(|s| periods.iter().all(|p| p.span.start != *s));
    PeriodChanges {
        merged: gone.filter_map(|from| Some(Merge { from, into: target(from)? })).collect(),
        closed: periods.iter().map(|p| &p.span).filter(|s| s.end <= now).map(|s| s.start).collect(),
        shown: current.zip(until).map(|(current, until)| ShownPeriods { current, until }),
        periods: periods.iter().filter(|p| !is_there(p)).cloned().collect(),
    }
}

/// A count that was closed, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClosedTurnPeriod {
    pub customer: String,
    pub starts_at: Timestamp,
    pub ends_at: Timestamp,
    /// Credentials that were handed out.
    pub used: i64,
    /// Where the backend had to stop; none = nowhere.
    pub allowed_until: Option<i64>,
}

/// What changed, or would change.
#[derive(Clone, Debug, Default)]
pub struct RolledPeriods {
    pub closed: Vec<ClosedTurnPeriod>,
    /// Periods that were opened, or got other bounds.
    pub opened: u64,
    /// Open rows that a changed subscription removed; another row has their count.
    pub merged: u64,
    /// Customers with more than one living subscription.
    pub overlapping_subscriptions: Vec<String>,
}

impl Database {
    /// Customers with a period that has ended, without periods, or with a changed subscription; in
    /// order.
    pub async fn customers_to_roll(&self, now: Timestamp) -> Result<Vec<String>, BooksError> {
        self.with_connection(async move |c| {
            // the index is named because the planner prefers to walk all open rows in order of
            // customers
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

    /// Closes and opens periods of `customers` as of `now`, in one transaction. A closed period has
    /// ended by the database's clock too, so a worker with a clock that is ahead closes nothing
    /// early.
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

    /// TURN periods that have begun, newest first: all of one customer, or the open ones of all.
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

/// A customer's periods and what is to change.
struct Decided {
    customer: String,
    known: KnownPeriods,
    changes: PeriodChanges,
}

async fn decided(c: &Connection, customers: &[String], now: i64) -> Result<Vec<Decided>, BooksError> {
    let known = load(c, customers, now).await?;
    let decide = |(customer, known): (String, KnownPeriods)| {
        let changes = changes(&known, now);
        Decided { customer, known, changes }
    };
    Ok(known.into_iter().map(decide).collect())
}

async fn load(c: &Connection, customers: &[String], now: i64) -> Result<BTreeMap<String, KnownPeriods>, BooksError> {
    let ids = rows::json(&customers)?;
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
            known.closed = Some(ClosedPeriod { end, last_day });
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
async fn apply(c: &Connection, decided: &[Decided], plans: &Plans, now: i64) -> Result<(), BooksError> {
    let (mut billing, mut turn, mut merged) = (vec![], vec![], vec![]);
    let (mut closed, mut shown) = (vec![], vec![]);
    for Decided { customer, known, changes } in decided {
        for BillingPeriod { span, first_day, last_day } in &changes.periods {
            billing.push(json!({
                "customer": customer, "starts_at": span.start, "ends_at": span.end,
                "subscription": span.subscription, "first_day": first_day, "last_day": last_day,
            }));
            let opening = opening_limit(plans, known, span.start);
            turn.push(json!({
                "customer": customer, "starts_at": span.start, "ends_at": span.end,
                "allowed_until": opening.allowed_until, "reason": opening.reason.name(),
            }));
        }
        closed.extend(changes.closed.iter().map(|start| json!({ "customer": customer, "starts_at": start })));
        let show = |p: ShownPeriods| json!({ "customer": customer, "starts_at": p.current, "until": p.until });
        shown.extend(changes.shown.map(show));
        for Merge { from, into } in &changes.merged {
            if let Some(row) = known.open.iter().find(|o| o.period.span.start == *from) {
                merged.push(json!({
                    "customer": customer, "from": from, "into": into, "used": row.used, "refused": row.refused,
                }));
            }
        }
    }
    let run = async |sql: &'static str, rows: String| c.execute(sql, params![rows, now]).await;
    if !billing.is_empty() {
        run(OPEN_BILLING, rows::json(&billing)?).await?;
        c.execute(OPEN_TURN, params![rows::json(&turn)?]).await?;
    }
    if !merged.is_empty() {
        let rows = rows::json(&merged)?;
        for sql in [MERGE_TURN, DROP_TURN, DROP_BILLING] {
            c.execute(sql, params![rows.clone()]).await?;
        }
    }
    if !closed.is_empty() {
        let rows = rows::json(&closed)?;
        run(CLOSE_TURN, rows.clone()).await?;
        run(CLOSE_BILLING, rows).await?;
    }
    if !shown.is_empty() {
        c.execute(SHOW_CURRENT, params![rows::json(&shown)?]).await?;
    }
    Ok(())
}

/// What a TURN period may use before its first enforcement.
struct OpeningLimit {
    allowed_until: i64,
    reason: Reason,
}

/// The limit of a new period: what the plan includes, if the customer may use anything. TURN is
/// never billed, so no budget opens more.
fn opening_limit(plans: &Plans, known: &KnownPeriods, start: i64) -> OpeningLimit {
    let nothing = |reason| OpeningLimit { allowed_until: 0, reason };
    if let Some(reason) = known.stopped {
        return nothing(reason);
    }
    let Some(plan) = known.plan.as_deref().and_then(|plan| plans.at(plan, start)) else {
        return nothing(Reason::UnknownPlan);
    };
    let Some(terms) = plan.meters.get(TURN) else { return nothing(Reason::NotInPlan) };
    OpeningLimit {
        allowed_until: i64::try_from(terms.included.scaled() / UNIT).unwrap_or(i64::MAX),
        reason: Reason::IncludedUsed,
    }
}

fn summed(decided: &[Decided], now: i64) -> RolledPeriods {
    let mut rolled = RolledPeriods::default();
    for Decided { customer, known, changes } in decided {
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
            let merged = changes.merged.iter().filter(|m| m.into == *start).map(|m| &m.from);
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

const OPEN_BILLING: &str = "\
    INSERT INTO billing_periods (customer, starts_at, ends_at, subscription, first_day, last_day, opened_at) \
    SELECT value ->> 'customer', value ->> 'starts_at', value ->> 'ends_at', value ->> 'subscription', \
           value ->> 'first_day', value ->> 'last_day', ?2 FROM json_each(?1) WHERE true \
    ON CONFLICT (customer, starts_at) DO UPDATE SET ends_at = excluded.ends_at, \
           subscription = excluded.subscription, first_day = excluded.first_day, last_day = excluded.last_day";

const OPEN_TURN: &str = "INSERT INTO turn_periods (customer, starts_at, ends_at, allowed_until, reason) \
    SELECT value ->> 'customer', value ->> 'starts_at', value ->> 'ends_at', value ->> 'allowed_until', \
           value ->> 'reason' FROM json_each(?1) WHERE true \
    ON CONFLICT (customer, starts_at) DO UPDATE SET ends_at = excluded.ends_at";

const CLOSE_TURN: &str = "UPDATE turn_periods SET closed_at = ?2 FROM json_each(?1) j \
    WHERE customer = j.value ->> 'customer' AND starts_at = j.value ->> 'starts_at' AND closed_at IS NULL";

const CLOSE_BILLING: &str = "UPDATE billing_periods SET closed_at = ?2 FROM json_each(?1) j \
    WHERE customer = j.value ->> 'customer' AND starts_at = j.value ->> 'starts_at' AND closed_at IS NULL";

/// Several rows may be merged into one, so their counts are summed first.
const MERGE_TURN: &str = "UPDATE turn_periods \
    SET used = turn_periods.used + j.used, refused = turn_periods.refused + j.refused \
    FROM (SELECT value ->> 'customer' AS customer, value ->> 'into' AS target, \
                 sum(value ->> 'used') AS used, sum(value ->> 'refused') AS refused \
          FROM json_each(?1) GROUP BY 1, 2) j \
    WHERE turn_periods.customer = j.customer AND turn_periods.starts_at = j.target";

const DROP_TURN: &str = "DELETE FROM turn_periods WHERE (customer, starts_at) IN \
    (SELECT value ->> 'customer', value ->> 'from' FROM json_each(?1))";

const DROP_BILLING: &str = "DELETE FROM billing_periods WHERE (customer, starts_at) IN \
    (SELECT value ->> 'customer', value ->> 'from' FROM json_each(?1))";

/// The counter on the customer's row is that of the current period: 0, or what was taken since it
/// began.
const SHOW_CURRENT: &str = "UPDATE customers SET periods_until = j.value ->> 'until', \
    turn_allocations_used = coalesce((SELECT used FROM turn_periods t WHERE t.customer = customers.id \
                                      AND t.starts_at = j.value ->> 'starts_at'), 0) \
    FROM json_each(?1) j WHERE customers.id = j.value ->> 'customer'";
