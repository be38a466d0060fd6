//! Due customers, loaded with everything that planning reads.

use std::collections::{BTreeMap, BTreeSet};

use crate::store::connection::{Connection, Row, Rows, Write, params};
use serde::Serialize;

use crate::customers::subscription::has_begun;
use crate::limits::rating::{PeriodDays, StretchUsage};
use crate::limits::terms::TermsHistory;
use crate::limits::terms_history;
use crate::store::error::BooksError;
use crate::store::rows::{exact_sum, json, sum_of};
use crate::stripe::billing_target::{StoredTarget, UsageParts};
use crate::stripe::due::DueSince;
use crate::stripe::invoice::{InvoicePeriod, takes_until};
use crate::stripe::meter_event::EventState;
use crate::units::calendar::Day;
use crate::units::quantity::Quantity;

/// A customer that is due for planning, with everything that planning reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DueCustomer {
    /// Whether `customers` has the customer. Usage may carry a tag without a customer.
    pub known: bool,
    /// False until `roll_periods` has made the billing periods of changed subscriptions.
    pub periods_are_current: bool,
    /// Whether there is usage on days before the first billing period.
    pub used_before_first_period: bool,
    pub stripe_customer: Option<String>,
    /// Every plan and budget that the customer had.
    pub history: TermsHistory,
    /// Periods that have begun and may have changed, ordered by start.
    pub periods: Vec<DuePeriod>,
    pub subscriptions: BTreeMap<String, DueSubscription>,
    /// Subscription items, by subscription and Stripe's id of the meter.
    pub items: BTreeMap<(String, String), DueItems>,
    /// Usage by meter and first day of each stretch of the history in a period.
    pub usage: StretchUsage,
    /// Stored billing targets, by meter and start of the period; also the one before the first
    /// period.
    pub targets: BTreeMap<(String, i64), StoredTarget>,
    /// Events in any state but `not_received`, by meter.
    pub events: BTreeMap<String, Vec<EarlierMeterEvent>>,
    /// Meters with a refused event, in any period.
    pub refused: BTreeSet<String>,
}

/// A subscription of a due customer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueSubscription {
    pub status: String,
    /// The Stripe customer that it belongs to, to whom its events must go.
    pub stripe_customer: Option<String>,
    pub started: i64,
    pub ended: Option<i64>,
}

/// The items of one subscription that carry one meter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueItems {
    /// The currency of the first one.
    pub currency: String,
    pub count: u64,
}

/// A billing period of a due customer. Instants are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuePeriod {
    pub start: i64,
    pub end: i64,
    /// First instant that its invoice does not cover (the view `covered_periods`).
    pub covered_until: i64,
    pub subscription: Option<String>,
    pub days: PeriodDays,
}

impl DuePeriod {
    /// See [`takes_until`].
    pub fn takes_until(&self) -> i64 {
        takes_until(self.subscription.as_deref(), self.covered_until, self.end)
    }
}

/// A meter event, with the columns that planning reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlierMeterEvent {
    pub seq: i64,
    pub period_start: i64,
    pub timestamp: i64,
    pub value: i64,
    pub state: EventState,
    pub stripe_customer: String,
    /// The invoiced period, as it was when the event was planned.
    pub billed: InvoicePeriod,
    pub send_before: i64,
    pub taken_at: Option<i64>,
    /// The billing period that `timestamp` lies in now.
    pub period: Option<EventPeriod>,
    /// The Stripe customer with the invoice of `period`.
    pub own_stripe_customer: Option<String>,
    /// Whether a subscription of the Stripe customer that got the event lived at `timestamp`.
    pub subscribed: bool,
}

/// The billing period of an event, as it is known now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventPeriod {
    pub start: i64,
    /// As [`DuePeriod::covered_until`].
    pub covered_until: i64,
    /// See [`takes_until`].
    pub takes_until: i64,
}

/// A parameter of [`USAGE`].
#[derive(Serialize)]
struct UsageDays<'a> {
    customer: &'a str,
    first: Day,
    last: Day,
}

/// A parameter of [`EVENTS`] and [`TARGETS`]: the first period of a customer that is planned.
#[derive(Serialize)]
struct FirstPeriod<'a> {
    customer: &'a str,
    start: i64,
}

/// ?1 [`DueSince`]s; ?2 now; ?3 now less the grace: the invoice of a period that ends
/// later may still be open. What was used in advance is taken off the periods after it one by one.
/// A change since the [`DueSince`]s were read counts too.
const PERIODS: &str = "SELECT p.customer, p.starts_at, p.ends_at, p.subscription, p.first_day, p.last_day, p.planned_last_day, p.month_days, \
      (SELECT covered_until FROM covered_periods v WHERE v.customer = p.customer AND v.starts_at = p.starts_at) FROM json_each(?1) j \
    LEFT JOIN stripe_due d ON d.customer = j.value ->> 'customer' \
    CROSS JOIN billing_periods p ON p.customer = j.value ->> 'customer' AND p.starts_at <= ?2 \
    WHERE p.last_day >= min(j.value ->> 'from_day', coalesce(d.from_day, '9999')) OR p.ends_at > ?3 \
       OR EXISTS (SELECT 1 FROM billing_targets t WHERE t.customer = p.customer AND t.period_start = p.starts_at AND t.deferred <> 0) \
       OR p.starts_at >= (SELECT max(period_start) FROM billing_targets t INDEXED BY billing_targets_advance \
                          WHERE t.customer = p.customer AND t.advance > 0) \
    ORDER BY p.customer, p.starts_at";

/// ?1 [`DueSince`]s; ?2 meters.
const CUSTOMERS: &str = "SELECT c.id, c.stripe_customer_id, c.periods_until IS NOT NULL, EXISTS ( \
      SELECT 1 FROM json_each(?2) m CROSS JOIN booked_usage u ON u.customer = c.id AND u.meter = m.value \
       AND u.day < (SELECT first_day FROM billing_periods WHERE customer = c.id ORDER BY starts_at LIMIT 1)) \
    FROM json_each(?1) j JOIN customers c ON c.id = j.value ->> 'customer'";

/// ?1 [`UsageDays`]; ?2 meters.
const USAGE: &str = concat!(
    "SELECT j.value ->> 'customer', j.value ->> 'first', m.value, (SELECT ",
    exact_sum!("quantity"),
    " FROM booked_usage u \
            WHERE u.customer = j.value ->> 'customer' AND u.meter = m.value AND u.day BETWEEN j.value ->> 'first' AND j.value ->> 'last') \
    FROM json_each(?1) j CROSS JOIN json_each(?2) m"
);

/// ?1 [`FirstPeriod`]s; ?2 meters.
const EVENTS: &str = concat!(
    "SELECT e.customer, e.meter, e.seq, e.period_start, e.timestamp, e.value, e.state, e.stripe_customer, \
      e.billed_start, e.billed_end, e.send_before, e.taken_at, p.starts_at, p.covered_until, p.ends_at, p.subscription, \
      coalesce((SELECT stripe_customer FROM subscriptions WHERE id = p.subscription), (SELECT stripe_customer_id FROM customers WHERE id = e.customer)), \
      EXISTS (SELECT 1 FROM subscriptions s WHERE s.customer = e.customer AND coalesce(s.stripe_customer, e.stripe_customer) = e.stripe_customer \
        AND s.started_at <= e.timestamp AND coalesce(e.timestamp < s.ended_at, true) AND ",
    has_begun!("s"),
    ") \
    FROM json_each(?1) j CROSS JOIN json_each(?2) m CROSS JOIN meter_events e INDEXED BY meter_events_by_time \
      ON e.customer = j.value ->> 'customer' AND e.meter = m.value AND e.timestamp >= j.value ->> 'start' \
    LEFT JOIN covered_periods p ON p.customer = e.customer AND p.ends_at > e.timestamp \
      AND p.starts_at = (SELECT max(starts_at) FROM billing_periods WHERE customer = e.customer AND starts_at <= e.timestamp) \
    WHERE e.state <> 'not_received' ORDER BY e.customer, e.meter, e.timestamp, e.seq"
);

/// ?1 [`FirstPeriod`]s; ?2 meters.
const TARGETS: &str = "SELECT t.customer, t.meter, t.period_start, t.plan, t.period_end, t.target, t.deferred, t.deferred_reason, \
      t.used, t.within, t.billable, t.house, t.not_priced, t.advance, t.billable_minor, t.house_minor, t.currency \
    FROM json_each(?1) j CROSS JOIN json_each(?2) m \
    CROSS JOIN billing_targets t ON t.customer = j.value ->> 'customer' AND t.meter = m.value AND t.period_start >= coalesce( \
      (SELECT max(period_start) FROM billing_targets b WHERE b.customer = j.value ->> 'customer' AND b.meter = m.value \
         AND b.period_start < j.value ->> 'start'), j.value ->> 'start')";

/// ?1 [`DueSince`]s.
const SUBSCRIPTIONS: &str = concat!(
    "SELECT s.customer, s.id, s.status, coalesce(s.stripe_customer, c.stripe_customer_id), s.started_at, \
      CASE WHEN s.status = 'canceled' THEN coalesce(s.ended_at, max(s.updated_at, s.started_at + 1)) ELSE s.ended_at END \
    FROM json_each(?1) j JOIN subscriptions s ON s.customer = j.value ->> 'customer' LEFT JOIN customers c ON c.id = s.customer \
    WHERE ",
    has_begun!("s")
);

/// ?1 [`DueSince`]s.
const ITEMS: &str = "SELECT i.customer, i.subscription, i.stripe_meter, min(i.currency), count(*) FROM json_each(?1) j \
    JOIN subscription_items i ON i.customer = j.value ->> 'customer' GROUP BY 1, 2, 3";

/// ?1 [`DueSince`]s.
const REFUSED: &str = "SELECT DISTINCT e.customer, e.meter FROM json_each(?1) j \
    JOIN meter_events e INDEXED BY meter_events_refused ON e.customer = j.value ->> 'customer' WHERE e.state = 'refused'";

/// The customers of `asked`, each with the first day on which usage may have changed. Two requests
/// on a server, however many there are.
pub async fn load(
    c: &Connection,
    asked: &[DueSince],
    meters: &[String],
    now: i64,
    grace: i64,
) -> Result<BTreeMap<String, DueCustomer>, BooksError> {
    let mut found: BTreeMap<String, DueCustomer> = BTreeMap::new();
    if asked.is_empty() {
        return Ok(found);
    }
    found.extend(asked.iter().map(|due| (due.customer.clone(), DueCustomer::default())));
    let ids: Vec<&String> = found.keys().collect();
    let [plans, budgets] = terms_history::statements(&json(&ids)?);
    let (due, names) = (json(asked)?, json(meters)?);
    let reads = vec![
        (CUSTOMERS, vec![due.clone().into(), names.clone().into()]),
        (PERIODS, vec![due.clone().into(), now.into(), (now - grace).into()]),
        (SUBSCRIPTIONS, vec![due.clone().into()]),
        (ITEMS, vec![due.clone().into()]),
        (REFUSED, vec![due.into()]),
        plans,
        budgets,
    ];
    let mut results = c.batch(reads).await?.into_iter();
    let mut next = || results.next().unwrap_or_default();
    read_customers(next(), &mut found).await?;
    read_periods(next(), &mut found).await?;
    read_subscriptions(next(), next(), &mut found).await?;
    let mut refused = next();
    while let Some(row) = refused.next().await? {
        if let Some(due) = found.get_mut(&row.get::<String>(0)?) {
            due.refused.insert(row.get(1)?);
        }
    }
    for (customer, history) in terms_history::read(next(), next()).await? {
        if let Some(due) = found.get_mut(&customer) {
            due.history = history;
        }
    }
    load_sums(c, names, &mut found).await?;
    Ok(found)
}

async fn read_customers(mut rows: Rows, found: &mut BTreeMap<String, DueCustomer>) -> Result<(), BooksError> {
    while let Some(row) = rows.next().await? {
        if let Some(due) = found.get_mut(&row.get::<String>(0)?) {
            (due.known, due.stripe_customer) = (true, row.get(1)?);
            due.used_before_first_period = row.get::<i64>(3)? == 1;
            due.periods_are_current = row.get::<i64>(2)? == 1 && !due.used_before_first_period;
        }
    }
    Ok(())
}

async fn read_periods(mut rows: Rows, found: &mut BTreeMap<String, DueCustomer>) -> Result<(), BooksError> {
    while let Some(row) = rows.next().await? {
        if let Some(due) = found.get_mut(&row.get::<String>(0)?) {
            let (start, end, subscription) = (row.get(1)?, row.get(2)?, row.get(3)?);
            let days = PeriodDays::read(start, &row, 4)?;
            due.periods.push(DuePeriod { start, end, covered_until: row.get(8)?, subscription, days });
        }
    }
    Ok(())
}

async fn read_subscriptions(
    mut subscriptions: Rows,
    mut items: Rows,
    found: &mut BTreeMap<String, DueCustomer>,
) -> Result<(), BooksError> {
    while let Some(row) = subscriptions.next().await? {
        if let Some(due) = found.get_mut(&row.get::<String>(0)?) {
            let (status, stripe_customer) = (row.get(2)?, row.get(3)?);
            let (started, ended) = (row.get(4)?, row.get(5)?);
            due.subscriptions.insert(row.get(1)?, DueSubscription { status, stripe_customer, started, ended });
        }
    }
    while let Some(row) = items.next().await? {
        if let Some(due) = found.get_mut(&row.get::<String>(0)?) {
            due.items.insert((row.get(1)?, row.get(2)?), DueItems { currency: row.get(3)?, count: row.get(4)? });
        }
    }
    Ok(())
}

fn day(text: String) -> Result<Day, BooksError> {
    text.parse().map_err(|e| BooksError::Integrity(format!("billing_periods: {e}")))
}

async fn load_sums(
    c: &Connection,
    meters: String,
    found: &mut BTreeMap<String, DueCustomer>,
) -> Result<(), BooksError> {
    let mut stretches = vec![];
    for (customer, due) in found.iter() {
        let of_period = due.periods.iter().flat_map(|p| due.history.stretches(p.days.first, p.days.last));
        stretches.extend(of_period.map(|s| UsageDays { customer, first: s.first, last: s.last }));
    }
    let first = found.iter().filter_map(|(customer, due)| {
        let start = due.periods.first()?.start;
        Some(FirstPeriod { customer, start })
    });
    let (stretches, since) = (json(&stretches)?, json(&first.collect::<Vec<_>>())?);
    let reads = vec![
        (USAGE, vec![stretches.into(), meters.clone().into()]),
        (TARGETS, vec![since.clone().into(), meters.clone().into()]),
        (EVENTS, vec![since.into(), meters.into()]),
    ];
    let mut results = c.batch(reads).await?.into_iter();
    let mut next = || results.next().unwrap_or_default();
    let mut usage = next();
    while let Some(row) = usage.next().await? {
        let Some(sum) = row.get::<Option<String>>(3)? else { continue };
        let used = sum_of(&sum)?;
        if let Some(due) = found.get_mut(&row.get::<String>(0)?) {
            due.usage.insert((row.get(2)?, day(row.get(1)?)?), used);
        }
    }
    let mut targets = next();
    while let Some(row) = targets.next().await? {
        let Some(due) = found.get_mut(&row.get::<String>(0)?) else { continue };
        let target = StoredTarget {
            plan: row.get(3)?,
            period_end: row.get(4)?,
            target: row.get(5)?,
            deferred: row.get(6)?,
            deferred_reason: row.get(7)?,
            parts: UsageParts::read(&row, 8)?,
        };
        due.targets.insert((row.get(1)?, row.get(2)?), target);
    }
    let mut events = next();
    while let Some(row) = events.next().await? {
        let Some(due) = found.get_mut(&row.get::<String>(0)?) else { continue };
        due.events.entry(row.get(1)?).or_default().push(earlier_event(&row)?);
    }
    Ok(())
}

/// Usage by meter and day of some days of customers.
pub type DailyUsage = BTreeMap<(String, Day), Quantity>;

/// Days of a customer of which the usage is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WantedDays {
    pub customer: String,
    pub first: Day,
    pub last: Day,
}

/// Usage by day, of each customer.
pub async fn daily_usage(
    c: &Connection,
    wanted: &[WantedDays],
    meters: &[String],
) -> Result<BTreeMap<String, DailyUsage>, BooksError> {
    let sql = concat!(
        "SELECT j.value ->> 'customer', u.meter, u.day, ",
        exact_sum!("quantity"),
        " FROM json_each(?1) j CROSS JOIN json_each(?2) m CROSS JOIN booked_usage u ON u.customer = j.value ->> 'customer' \
         AND u.meter = m.value AND u.day BETWEEN j.value ->> 'first' AND j.value ->> 'last' GROUP BY 1, 2, 3"
    );
    let mut rows = c.query(sql, params![json(wanted)?, json(meters)?]).await?;
    let mut found: BTreeMap<String, DailyUsage> = BTreeMap::new();
    while let Some(row) = rows.next().await? {
        let used = sum_of(&row.get::<String>(3)?)?;
        found.entry(row.get(0)?).or_default().insert((row.get(1)?, day(row.get(2)?)?), used);
    }
    Ok(found)
}

/// Reads a row of [`EVENTS`].
fn earlier_event(row: &Row) -> Result<EarlierMeterEvent, BooksError> {
    let state: String = row.get(6)?;
    Ok(EarlierMeterEvent {
        seq: row.get(2)?,
        period_start: row.get(3)?,
        timestamp: row.get(4)?,
        value: row.get(5)?,
        state: EventState::named(&state).ok_or_else(|| BooksError::Integrity(format!("an event is `{state}`")))?,
        stripe_customer: row.get(7)?,
        billed: InvoicePeriod { start: row.get(8)?, end: row.get(9)? },
        send_before: row.get(10)?,
        taken_at: row.get(11)?,
        period: match row.get::<Option<i64>>(12)? {
            Some(start) => {
                let (covered_until, subscription) = (row.get(13)?, row.get::<Option<String>>(15)?);
                let takes_until = takes_until(subscription.as_deref(), covered_until, row.get(14)?);
                Some(EventPeriod { start, covered_until, takes_until })
            }
            None => None,
        },
        own_stripe_customer: row.get(16)?,
        subscribed: row.get::<i64>(17)? == 1,
    })
}

/// Makes `roll_periods` make the billing periods of customers anew: there is usage on days before
/// their first one.
pub fn roll_again(customers: &[String]) -> Result<Write, BooksError> {
    let sql = "UPDATE customers SET periods_until = NULL WHERE id IN (SELECT value FROM json_each(?1))";
    Ok((sql, vec![json(customers)?.into()]))
}
