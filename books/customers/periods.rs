//! Billing periods as rows, and the TURN counter of each.
//!
//! A period begins by itself: the current one and the next two stand open, and the web backend
//! counts on the row of the current time. Closing and opening periods may therefore come late. A
//! count is never copied, because closing sets `closed_at` on the row itself, so an increment is in
//! exactly one row.

use std::collections::{BTreeMap, BTreeSet};

use crate::store::connection::{Connection, Row, Value, params};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::customers::billing_period::{self, AnchorFrom, BillingPeriod, Span, Subscription};
use crate::limits::entitlement::{PaymentStatus, Reason};
use crate::limits::plan::{Plans, TURN};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{clock, json};
use crate::units::calendar::{Day, instant};
use crate::units::quantity::UNIT;

const DAY: i64 = 86_400;
/// Rows in one parameter of a statement: it has at most some megabytes.
const ROWS: usize = 4000;

/// A period of TURN credentials.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
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

/// An open TURN period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenTurn {
    pub start: i64,
    pub end: i64,
    pub used: i64,
    pub refused: i64,
    pub allowed_until: Option<i64>,
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
    /// The stored billing periods, in order.
    pub billing: Vec<BillingPeriod>,
    /// The oldest day with usage.
    pub first_usage: Option<Day>,
    /// End of the newest closed TURN period.
    pub turn_closed_until: Option<i64>,
    /// The open TURN periods, in order.
    pub turn: Vec<OpenTurn>,
}

/// What is to change for one customer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeriodChanges {
    /// Billing periods that are new, or have other bounds, days or another subscription.
    pub billing: Vec<BillingPeriod>,
    /// Starts of billing periods that are none any more.
    pub gone: Vec<i64>,
    /// TURN periods to open, or with new bounds.
    pub turn: Vec<Span>,
    pub merged: Vec<Merge>,
    /// Starts of the TURN periods to close.
    pub closed: Vec<i64>,
    /// None when the customer's row is gone.
    pub shown: Option<ShownPeriods>,
}

/// The changes after which the periods follow the subscriptions, and all TURN periods that ended
/// by `now` are closed. Pure.
///
/// Invoices decide which billing periods there are, so these follow the subscriptions also in the
/// past, back to the first day with usage. A TURN count that is closed stays as it is.
pub fn changes(known: &KnownPeriods, now: i64) -> PeriodChanges {
    if known.plan.is_none() {
        let ended = known.turn.iter().filter(|t| t.end <= now);
        return PeriodChanges { closed: ended.map(|t| t.start).collect(), ..PeriodChanges::default() };
    }
    let oldest = known.billing.first().map(|p| p.span.start);
    let used = known.first_usage.map(|day| i64::from(day.epoch()) * DAY);
    let oldest = [oldest, used].into_iter().flatten().min().unwrap_or(now);
    let billing = billing_period::first_start(&known.subscriptions, oldest);
    let opened = known.turn.first().map_or(now, |t| t.start);
    // the database opens TURN rows by its own clock, which may be in the next month already
    let spans = billing_period::spans(&known.subscriptions, billing, now.max(opened));
    let billing = billing_period::with_days(spans);

    let from = known.turn_closed_until.unwrap_or_else(|| billing_period::first_start(&known.subscriptions, opened));
    let turn = billing_period::spans(&known.subscriptions, from, now);
    let is_there = |span: &Span| known.turn.iter().any(|t| (t.start, t.end) == (span.start, span.end));
    let target = |start: i64| {
        let holds = turn.iter().find(|span| span.start <= start && start < span.end);
        holds.or(turn.first()).map(|span| span.start)
    };
    let lost = known.turn.iter().map(|t| t.start).filter(|start| turn.iter().all(|span| span.start != *start));
    let current = turn.iter().find(|span| span.end > now).map(|span| span.start);
    let closed = turn.iter().filter(|span| span.end <= now);
    PeriodChanges {
        gone: {
            let starts = known.billing.iter().map(|p| p.span.start);
            starts.filter(|start| billing.iter().all(|p| p.span.start != *start)).collect()
        },
        billing: billing.into_iter().filter(|p| !known.billing.iter().any(|k| k.is_stored_as(p))).collect(),
        merged: lost.filter_map(|from| Some(Merge { from, into: target(from)? })).collect(),
        closed: closed.map(|span| span.start).collect(),
        shown: current.zip(turn.last().map(|span| span.end)).map(|(current, until)| ShownPeriods { current, until }),
        turn: turn.iter().filter(|span| !is_there(span)).cloned().collect(),
    }
}

/// A count that was closed, or would be.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
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

/// Whose periods are to be rolled.
#[derive(Clone, Debug)]
pub struct DuePeriods {
    /// In order.
    pub customers: Vec<String>,
    /// The database's clock.
    pub clock: Timestamp,
}

/// Customers with a period that has ended, without periods, or with a changed subscription.
pub async fn due_periods(c: &Connection, now: Timestamp) -> Result<DuePeriods, BooksError> {
    // the index is named because the planner prefers to walk all open rows in order of customers
    let ended =
        "SELECT customer FROM turn_periods INDEXED BY turn_periods_to_close WHERE closed_at IS NULL AND ends_at <= ?1";
    let anew = "SELECT id FROM customers WHERE periods_until IS NULL";
    let (mut ended, mut anew, clock) =
        tokio::try_join!(c.query(ended, params![now.as_second()]), c.query(anew, ()), clock(c))?;
    let mut customers: BTreeSet<String> = BTreeSet::new();
    for rows in [&mut ended, &mut anew] {
        while let Some(row) = rows.next().await? {
            customers.insert(row.get(0)?);
        }
    }
    Ok(DuePeriods { customers: customers.into_iter().collect(), clock: instant(clock) })
}

impl Database {
    /// Closes and opens periods of `customers` as of `now`, in one transaction: what it reads under
    /// the write lock is what it changes, so a count or a subscription that changes meanwhile
    /// changes before or after it.
    pub async fn roll_periods(
        &self,
        customers: Vec<String>,
        plans: Plans,
        now: Timestamp,
    ) -> Result<RolledPeriods, BooksError> {
        self.transaction(async move |c| {
            let decided = decided(c, &customers, now.as_second()).await?;
            apply(c, &decided, &plans, now.as_second()).await?;
            Ok(summed(&decided, now.as_second()))
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

/// Reads what is known of customers, in one request.
async fn load(c: &Connection, customers: &[String], now: i64) -> Result<BTreeMap<String, KnownPeriods>, BooksError> {
    let ids = Value::Text(json(customers)?);
    let queries = vec![
        (include_str!("customer_facts.sql"), vec![ids.clone(), Value::Integer(now)]),
        (include_str!("known_periods.sql"), vec![ids]),
    ];
    let mut found = c.batch(queries).await?.into_iter();
    let (mut facts, mut periods) = (found.next().unwrap_or_default(), found.next().unwrap_or_default());
    let mut known: BTreeMap<String, KnownPeriods> = BTreeMap::new();
    while let Some(row) = periods.next().await? {
        known.insert(row.get(0)?, known_periods(&row)?);
    }
    while let Some(row) = facts.next().await? {
        if let Some(known) = known.get_mut(&row.get::<String>(0)?) {
            let (status, subscription): (String, Option<String>) = (row.get(1)?, row.get(3)?);
            known.plan = Some(row.get(2)?);
            known.stopped = PaymentStatus::of(&status, subscription.as_deref()).stops();
        }
    }
    Ok(known)
}

/// A list of JSON arrays, in order.
fn list<T: DeserializeOwned + Ord>(row: &Row, column: i32) -> Result<Vec<T>, BooksError> {
    let text: String = row.get(column)?;
    let found: Result<Vec<T>, _> = serde_json::from_str(&text);
    let mut found = found.map_err(|e| BooksError::Integrity(format!("periods of a customer: `{text}`: {e}")))?;
    found.sort_unstable();
    Ok(found)
}

/// Reads a row of `known_periods.sql`.
fn known_periods(row: &Row) -> Result<KnownPeriods, BooksError> {
    type Anchor = (i64, i64, i64);
    type Period = (i64, i64, Option<String>, Day, Day, Option<Day>, Option<i64>);
    let mut known = KnownPeriods::default();
    for (id, started, ended, anchor, mut history) in list::<(String, i64, Option<i64>, i64, Vec<Anchor>)>(row, 1)? {
        history.sort_unstable();
        let anchors = history.into_iter().map(|(_, from, anchor)| AnchorFrom { from, anchor });
        let mut anchors: Vec<_> = anchors.collect();
        if anchors.is_empty() {
            anchors.push(AnchorFrom { from: started, anchor });
        }
        known.subscriptions.push(Subscription { id, anchors, started, ended });
    }
    for (start, end, subscription, first_day, last_day, planned, month_days) in list::<Period>(row, 2)? {
        let span = Span { start, end, subscription, month: (start, end) };
        // the web backend's trigger leaves the last two columns to this job
        let (planned_last_day, month_days) = (planned.unwrap_or(last_day), month_days.unwrap_or_default());
        known.billing.push(BillingPeriod { span, first_day, last_day, planned_last_day, month_days });
    }
    for (start, end, closed_at, used, refused, allowed_until) in
        list::<(i64, i64, Option<i64>, i64, i64, Option<i64>)>(row, 3)?
    {
        if closed_at.is_some() {
            known.turn_closed_until = Some(end);
        } else {
            known.turn.push(OpenTurn { start, end, used, refused, allowed_until });
        }
    }
    let day = |text: String| text.parse().map_err(|e| BooksError::Integrity(format!("ledger_entries: {e}")));
    known.first_usage = row.get::<Option<String>>(4)?.map(day).transpose()?;
    Ok(known)
}

/// Writes what was decided, in one request.
async fn apply(c: &Connection, decided: &[Decided], plans: &Plans, now: i64) -> Result<(), BooksError> {
    let (mut gone, mut billing, mut turn, mut merged) = (vec![], vec![], vec![], vec![]);
    let (mut lost, mut closed, mut shown) = (vec![], vec![], vec![]);
    for Decided { customer, known, changes } in decided {
        gone.extend(changes.gone.iter().map(|start| (customer, start)));
        for BillingPeriod { span, first_day, last_day, planned_last_day, month_days } in &changes.billing {
            let days = (first_day, last_day, planned_last_day, month_days);
            billing.push((customer, span.start, span.end, &span.subscription, days.0, days.1, days.2, days.3));
        }
        for span in &changes.turn {
            let opening = opening_limit(plans, known, span.start);
            turn.push((customer, span.start, span.end, opening.allowed_until, opening.reason.name()));
        }
        for Merge { from, into } in &changes.merged {
            lost.push((customer, from));
            let row = known.turn.iter().find(|t| t.start == *from && (t.used > 0 || t.refused > 0));
            merged.extend(row.map(|row| (customer, into, row.used, row.refused)));
        }
        closed.extend(changes.closed.iter().map(|start| (customer, start)));
        shown.extend(changes.shown.map(|p| (customer, p.current, p.until)));
    }
    let customers: Vec<_> = decided.iter().map(|d| &d.customer).collect();
    let (none, now) = (vec![], vec![Value::Integer(now)]);
    let statements = [
        changing(DROP_BILLING, &gone, &none)?,
        changing(OPEN_BILLING, &billing, &now)?,
        changing(OPEN_TURN, &turn, &none)?,
        changing(MERGE_TURN, &merged, &none)?,
        changing(DROP_TURN, &lost, &none)?,
        changing(CLOSE_TURN, &closed, &now)?,
        changing(CLOSE_BILLING, &customers, &now)?,
        changing(SHOW_CURRENT, &shown, &none)?,
    ];
    c.batch(statements.into_iter().flatten().collect()).await.map(drop)
}

/// Rows as the first parameter of a statement, which is made as often as they need; never without
/// rows.
fn changing<T: Serialize>(
    sql: &'static str,
    rows: &[T],
    more: &[Value],
) -> Result<Vec<(&'static str, Vec<Value>)>, BooksError> {
    let statement = |some: &[T]| Ok((sql, [&[Value::Text(json(some)?)], more].concat()));
    rows.chunks(ROWS).map(statement).collect()
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
        rolled.opened += u64::try_from(changes.turn.len()).unwrap_or(u64::MAX);
        rolled.merged += u64::try_from(changes.merged.len()).unwrap_or(u64::MAX);
        if billing_period::overlap_at(&known.subscriptions, now) {
            rolled.overlapping_subscriptions.push(customer.clone());
        }
        let end = |start: i64| {
            let changed = changes.turn.iter().find(|span| span.start == start).map(|span| span.end);
            changed.or_else(|| known.turn.iter().find(|t| t.start == start).map(|t| t.end))
        };
        for start in &changes.closed {
            let Some(end) = end(*start) else { continue };
            let merged = changes.merged.iter().filter(|m| m.into == *start).map(|m| &m.from);
            let rows = merged.chain([start]).filter_map(|s| known.turn.iter().find(|t| t.start == *s));
            let own = known.turn.iter().find(|t| t.start == *start);
            rolled.closed.push(ClosedTurnPeriod {
                customer: customer.clone(),
                starts_at: instant(*start),
                ends_at: instant(end),
                used: rows.map(|t| t.used).sum(),
                allowed_until: own.and_then(|t| t.allowed_until),
            });
        }
    }
    rolled
}

/// `closed_at` says when the period was seen to be over.
const OPEN_BILLING: &str = "\
    INSERT INTO billing_periods (customer, starts_at, ends_at, subscription, first_day, last_day, planned_last_day, month_days, \
                                 opened_at) \
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, ?2 \
    FROM json_each(?1) WHERE true \
    ON CONFLICT (customer, starts_at) DO UPDATE SET ends_at = excluded.ends_at, \
           subscription = excluded.subscription, first_day = excluded.first_day, last_day = excluded.last_day, \
           planned_last_day = excluded.planned_last_day, month_days = excluded.month_days, \
           closed_at = iif(billing_periods.closed_at >= excluded.ends_at, billing_periods.closed_at, NULL)";

const OPEN_TURN: &str = "INSERT INTO turn_periods (customer, starts_at, ends_at, allowed_until, reason) \
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?1) WHERE true \
    ON CONFLICT (customer, starts_at) DO UPDATE SET ends_at = excluded.ends_at";

const CLOSE_TURN: &str = "UPDATE turn_periods SET closed_at = ?2 FROM json_each(?1) j \
    WHERE customer = j.value ->> 0 AND starts_at = j.value ->> 1 AND closed_at IS NULL";

const CLOSE_BILLING: &str = "UPDATE billing_periods SET closed_at = ?2 \
    WHERE customer IN (SELECT value FROM json_each(?1)) AND closed_at IS NULL AND ends_at <= ?2";

/// Several rows may be merged into one, so their counts are summed first.
const MERGE_TURN: &str = "UPDATE turn_periods \
    SET used = turn_periods.used + j.used, refused = turn_periods.refused + j.refused \
    FROM (SELECT value ->> 0 AS customer, value ->> 1 AS target, sum(value ->> 2) AS used, sum(value ->> 3) AS refused \
          FROM json_each(?1) GROUP BY 1, 2) j \
    WHERE turn_periods.customer = j.customer AND turn_periods.starts_at = j.target";

const DROP_TURN: &str = "DELETE FROM turn_periods WHERE (customer, starts_at) IN \
    (SELECT value ->> 0, value ->> 1 FROM json_each(?1))";

const DROP_BILLING: &str = "DELETE FROM billing_periods WHERE (customer, starts_at) IN \
    (SELECT value ->> 0, value ->> 1 FROM json_each(?1))";

/// The counter on the customer's row is that of the current period: 0, or what was taken since it
/// began.
const SHOW_CURRENT: &str = "UPDATE customers SET periods_until = j.value ->> 2, \
    turn_allocations_used = coalesce((SELECT used FROM turn_periods t WHERE t.customer = customers.id \
                                      AND t.starts_at = j.value ->> 1), 0) \
    FROM json_each(?1) j WHERE customers.id = j.value ->> 0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn billing_periods_reach_as_far_as_turn_rows_of_a_clock_that_is_ahead() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap().as_second();
        let starts = ["2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z", "2027-02-01T00:00:00Z", "2027-03-01T00:00:00Z"];
        let open =
            |ends: &[&str]| OpenTurn { start: at(ends[0]), end: at(ends[1]), used: 0, refused: 0, allowed_until: None };
        let turn = starts.windows(2).map(open).collect();
        let known = KnownPeriods { plan: Some("free".into()), turn, ..KnownPeriods::default() };
        for now in ["2026-11-30T23:59:58Z", "2026-12-01T00:00:00Z", "2026-12-31T23:59:59Z"] {
            let changes = changes(&known, at(now));
            for row in &known.turn {
                assert!(changes.billing.iter().any(|p| p.span.end == row.end), "{now}: {} has no period", row.end);
            }
            assert!(changes.merged.is_empty(), "{now}");
        }
    }
}
