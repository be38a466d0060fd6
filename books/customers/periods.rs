//! Billing periods as rows, and the TURN counter of each.
//!
//! A period begins by itself: the current one and the next two stand open, and the web backend
//! counts on the row of the current time. Closing and opening periods may therefore come late. A
//! count is never copied, because closing sets `closed_at` on the row itself, so an increment is in
//! exactly one row.

use std::collections::{BTreeMap, BTreeSet};

use crate::store::connection::{Connection, params};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

use crate::customers::billing_period::{self, AnchorFrom, BillingPeriod, Span, Subscription};
use crate::limits::entitlement::{PaymentStatus, Reason};
use crate::limits::plan::{Plans, TURN};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{self, clock};
use crate::units::calendar::{Day, instant};
use crate::units::quantity::UNIT;

const DAY: i64 = 86_400;

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
    let billing = billing_period::with_days(billing_period::spans(&known.subscriptions, billing, now));

    let oldest = known.turn.first().map_or(now, |t| t.start);
    let from = known.turn_closed_until.unwrap_or_else(|| billing_period::first_start(&known.subscriptions, oldest));
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
    let mut anchors = load_anchors(c, &ids).await?;
    let mut rows = c.query(include_str!("subscriptions.sql"), params![ids.clone()]).await?;
    while let Some(row) = rows.next().await? {
        if let Some(known) = known.get_mut(&row.get::<String>(0)?) {
            let (id, anchor, started, ended) = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
            let history = anchors.remove(&id).unwrap_or_default();
            let anchors = if history.is_empty() { vec![AnchorFrom { from: started, anchor }] } else { history };
            known.subscriptions.push(Subscription { id, anchors, started, ended });
        }
    }
    load_billing(c, &ids, &mut known).await?;
    let mut rows = c.query(include_str!("turn_periods.sql"), params![ids]).await?;
    while let Some(row) = rows.next().await? {
        let Some(known) = known.get_mut(&row.get::<String>(0)?) else { continue };
        let (start, end, closed): (i64, i64, Option<i64>) = (row.get(1)?, row.get(2)?, row.get(3)?);
        if closed.is_some() {
            known.turn_closed_until = Some(end);
        } else {
            let (used, refused, allowed_until) = (row.get(4)?, row.get(5)?, row.get(6)?);
            known.turn.push(OpenTurn { start, end, used, refused, allowed_until });
        }
    }
    Ok(known)
}

/// Every anchor of the customers' subscriptions. One that lies behind, as Stripe's
/// `billing_cycle_anchor=now` makes it, holds from itself on, one to come from when it was known.
async fn load_anchors(c: &Connection, ids: &str) -> Result<BTreeMap<String, Vec<AnchorFrom>>, BooksError> {
    let sql = "SELECT a.subscription, a.anchor_at, min(a.anchor_at, a.known_at) FROM json_each(?1) j \
               JOIN subscriptions s ON s.customer = j.value JOIN subscription_anchors a ON a.subscription = s.id \
               ORDER BY a.subscription, a.seq";
    let mut rows = c.query(sql, params![ids]).await?;
    let mut found: BTreeMap<String, Vec<AnchorFrom>> = BTreeMap::new();
    while let Some(row) = rows.next().await? {
        found.entry(row.get(0)?).or_default().push(AnchorFrom { anchor: row.get(1)?, from: row.get(2)? });
    }
    Ok(found)
}

async fn load_billing(c: &Connection, ids: &str, known: &mut BTreeMap<String, KnownPeriods>) -> Result<(), BooksError> {
    let day = |text: String| text.parse::<Day>().map_err(|e| BooksError::Integrity(format!("billing_periods: {e}")));
    let sql = "SELECT b.customer, b.starts_at, b.ends_at, b.subscription, b.first_day, b.last_day, b.planned_last_day, b.month_days \
               FROM json_each(?1) j JOIN billing_periods b ON b.customer = j.value ORDER BY b.customer, b.starts_at";
    let mut rows = c.query(sql, params![ids]).await?;
    while let Some(row) = rows.next().await? {
        let Some(known) = known.get_mut(&row.get::<String>(0)?) else { continue };
        let (start, end, subscription) = (row.get(1)?, row.get(2)?, row.get(3)?);
        let (first_day, last_day) = (day(row.get(4)?)?, day(row.get(5)?)?);
        // the web backend's trigger leaves the last two columns to this job
        let planned = row.get::<Option<String>>(6)?.map(day).transpose()?;
        let month_days = row.get::<Option<i64>>(7)?.unwrap_or_default();
        let month = (start, end);
        known.billing.push(BillingPeriod {
            span: Span { start, end, subscription, month },
            first_day,
            last_day,
            planned_last_day: planned.unwrap_or(last_day),
            month_days,
        });
    }
    let sql = "SELECT j.value, (SELECT min(day) FROM booked_usage WHERE customer = j.value) FROM json_each(?1) j";
    let mut rows = c.query(sql, params![ids]).await?;
    while let Some(row) = rows.next().await? {
        let first = row.get::<Option<String>>(1)?.map(day).transpose()?;
        if let Some(known) = known.get_mut(&row.get::<String>(0)?) {
            known.first_usage = first;
        }
    }
    Ok(())
}

/// Writes what was decided.
async fn apply(c: &Connection, decided: &[Decided], plans: &Plans, now: i64) -> Result<(), BooksError> {
    let (mut billing, mut gone, mut turn, mut merged) = (vec![], vec![], vec![], vec![]);
    let (mut closed, mut shown) = (vec![], vec![]);
    for Decided { customer, known, changes } in decided {
        for BillingPeriod { span, first_day, last_day, planned_last_day, month_days } in &changes.billing {
            billing.push(json!({
                "customer": customer, "starts_at": span.start, "ends_at": span.end,
                "subscription": span.subscription, "first_day": first_day, "last_day": last_day,
                "planned_last_day": planned_last_day, "month_days": month_days,
            }));
        }
        for span in &changes.turn {
            let opening = opening_limit(plans, known, span.start);
            turn.push(json!({
                "customer": customer, "starts_at": span.start, "ends_at": span.end,
                "allowed_until": opening.allowed_until, "reason": opening.reason.name(),
            }));
        }
        let named = |start: &i64| json!({ "customer": customer, "starts_at": start });
        gone.extend(changes.gone.iter().map(named));
        closed.extend(changes.closed.iter().map(named));
        let show = |p: ShownPeriods| json!({ "customer": customer, "starts_at": p.current, "until": p.until });
        shown.extend(changes.shown.map(show));
        for Merge { from, into } in &changes.merged {
            if let Some(row) = known.turn.iter().find(|t| t.start == *from) {
                merged.push(json!({
                    "customer": customer, "from": from, "into": into, "used": row.used, "refused": row.refused,
                }));
            }
        }
    }
    // a remote database refuses a parameter that a statement does not have
    let run = async |sql: &'static str, rows: &[serde_json::Value], now: Option<i64>| -> Result<(), BooksError> {
        let rows = if rows.is_empty() { return Ok(()) } else { rows::json(&rows)? };
        match now {
            Some(now) => c.execute(sql, params![rows, now]).await?,
            None => c.execute(sql, params![rows]).await?,
        };
        Ok(())
    };
    run(DROP_BILLING, &gone, None).await?;
    run(OPEN_BILLING, &billing, Some(now)).await?;
    run(OPEN_TURN, &turn, None).await?;
    run(MERGE_TURN, &merged, None).await?;
    run(DROP_TURN, &merged, None).await?;
    run(CLOSE_TURN, &closed, Some(now)).await?;
    let customers: Vec<_> = decided.iter().map(|d| json!(d.customer)).collect();
    run(CLOSE_BILLING, &customers, Some(now)).await?;
    run(SHOW_CURRENT, &shown, None).await
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
    SELECT value ->> 'customer', value ->> 'starts_at', value ->> 'ends_at', value ->> 'subscription', \
           value ->> 'first_day', value ->> 'last_day', value ->> 'planned_last_day', value ->> 'month_days', ?2 \
    FROM json_each(?1) WHERE true \
    ON CONFLICT (customer, starts_at) DO UPDATE SET ends_at = excluded.ends_at, \
           subscription = excluded.subscription, first_day = excluded.first_day, last_day = excluded.last_day, \
           planned_last_day = excluded.planned_last_day, month_days = excluded.month_days, \
           closed_at = iif(billing_periods.closed_at >= excluded.ends_at, billing_periods.closed_at, NULL)";

const OPEN_TURN: &str = "INSERT INTO turn_periods (customer, starts_at, ends_at, allowed_until, reason) \
    SELECT value ->> 'customer', value ->> 'starts_at', value ->> 'ends_at', value ->> 'allowed_until', \
           value ->> 'reason' FROM json_each(?1) WHERE true \
    ON CONFLICT (customer, starts_at) DO UPDATE SET ends_at = excluded.ends_at";

const CLOSE_TURN: &str = "UPDATE turn_periods SET closed_at = ?2 FROM json_each(?1) j \
    WHERE customer = j.value ->> 'customer' AND starts_at = j.value ->> 'starts_at' AND closed_at IS NULL";

const CLOSE_BILLING: &str = "UPDATE billing_periods SET closed_at = ?2 \
    WHERE customer IN (SELECT value FROM json_each(?1)) AND closed_at IS NULL AND ends_at <= ?2";

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
    (SELECT value ->> 'customer', value ->> 'starts_at' FROM json_each(?1))";

/// The counter on the customer's row is that of the current period: 0, or what was taken since it
/// began.
const SHOW_CURRENT: &str = "UPDATE customers SET periods_until = j.value ->> 'until', \
    turn_allocations_used = coalesce((SELECT used FROM turn_periods t WHERE t.customer = customers.id \
                                      AND t.starts_at = j.value ->> 'starts_at'), 0) \
    FROM json_each(?1) j WHERE customers.id = j.value ->> 'customer'";
