//! AWS's bill, the ledger and Stripe side by side, for people (the view `stripe_comparison`).

use crate::store::connection::{Connection, Row, params};
use jiff::Timestamp;
use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{exact_sum, json, sum_of};
use crate::stripe::acknowledgement::{self, Acknowledgement};
use crate::stripe::alarm;
use crate::stripe::billing_target::{Conservation, MoneyParts, Split, UsageParts};
use crate::stripe::difference::Difference;
use crate::units::calendar::{Day, Month, instant};
use crate::units::money::Currency;
use crate::units::quantity::Quantity;

/// One meter in one billing period of a customer.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct ComparedPeriod {
    pub customer: String,
    pub meter: String,
    pub period_start: Timestamp,
    pub period_end: Timestamp,
    /// Whether the period belongs to a subscription.
    pub billed: bool,
    /// Usage on the period's days.
    pub ledger: Quantity,
    /// The billing target, in Stripe's units: on this period's invoice, or carried forward to a
    /// later one.
    pub target: i64,
    /// Sums of the events for the period's usage, on any invoice.
    #[serde(flatten)]
    pub events: EventSums,
    pub deferred: i64,
    pub deferred_reason: Option<String>,
    /// Events that Stripe took for this period's invoice, whichever period their usage was in.
    pub accepted_on_invoice: i64,
    /// What became of the usage, as it was planned last.
    #[serde(skip)]
    pub parts: UsageParts,
    /// Stripe's total of this period's invoice when it was last read.
    pub seen: Option<i64>,
    /// What that total should have been.
    pub expected: Option<i64>,
    pub read_at: Option<Timestamp>,
    pub alarm: Option<Difference>,
    /// The shortfall that people have acknowledged (below 0: a surplus), in Stripe's units.
    pub acknowledged: i64,
    /// Whether a person has acknowledged the deferred amount.
    pub deferred_acknowledged: bool,
    /// What people acknowledged of the period, oldest first.
    pub acknowledgements: Vec<Acknowledgement>,
}

/// Sums of the values of events, in Stripe's units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct EventSums {
    pub accepted: i64,
    /// Pending, being sent or unconfirmed.
    pub open: i64,
    pub refused: i64,
    /// Discarded by a person.
    pub discarded: i64,
}

/// What can be said about a billing period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything is accounted for, and Stripe's total, as it was read, agrees.
    Agrees,
    /// Stripe's total was not read yet, or has not stood for a day.
    NotJudged,
    /// Usage is not at Stripe yet.
    Waiting,
    /// Stripe's total differs in a way that needs a person.
    Differs,
}

impl ComparedPeriod {
    /// What became of the usage; `per_unit` are Stripe's units for each of ours.
    pub fn conservation(&self, per_unit: Decimal) -> Conservation {
        let mut usage = self.split(per_unit).usage;
        // booked since the last planning
        usage.waiting += self.ledger - usage.booked;
        usage.booked = self.ledger;
        usage
    }

    /// Worth of the parts at the plan's price; none when nothing is priced. Usage that is not
    /// planned yet has no price yet.
    pub fn money(&self, per_unit: Decimal) -> Option<(Currency, MoneyParts)> {
        Some((self.parts.currency.parse().ok()?, self.split(per_unit).money))
    }

    fn split(&self, per_unit: Decimal) -> Split {
        let EventSums { accepted, discarded, .. } = self.events;
        self.parts.split(self.target - accepted - discarded, discarded, per_unit)
    }

    pub fn verdict(&self) -> Verdict {
        let planned = Quantity::from_scaled(i128::from(self.parts.used));
        let to_send = self.target - self.events.accepted - self.events.discarded;
        if self.alarm.is_some() {
            Verdict::Differs
        } else if to_send != 0 || self.deferred != 0 || self.ledger != planned {
            Verdict::Waiting
        } else if self.seen != self.expected || (self.accepted_on_invoice > 0 && self.seen.is_none()) {
            Verdict::NotJudged
        } else {
            Verdict::Agrees
        }
    }
}

/// Usage that lies in no billing period, by meter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UsageWithoutPeriod {
    pub meter: String,
    pub why: WithoutPeriod,
    /// How many ids have such usage.
    pub ids: i64,
    #[serde(skip)]
    pub quantity: Quantity,
}

/// Why usage lies in no billing period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WithoutPeriod {
    /// Its lines have no customer's tag: the company pays.
    NoTag,
    /// `customers` has no row of that id.
    UnknownCustomer,
    /// `roll_periods` has not made the period yet.
    NoPeriod,
}

/// A meter in a month: the sum of all payers' newest bills, and the sum of the ledger. Both
/// include usage without a customer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComparedBill {
    pub month: String,
    pub meter: String,
    pub bill: Quantity,
    pub ledger: Quantity,
}

/// Which periods are compared.
#[derive(Clone, Debug)]
pub struct ComparisonFilter {
    pub customer: Option<String>,
    pub meters: Vec<String>,
    /// The periods begin in this range, in seconds since 1970.
    pub starts: std::ops::Range<i64>,
    pub limit: u32,
}

/// ?1 the first month, ?2 the month after the last.
const BILLS: &str = concat!(
    "SELECT v.month, t.meter, t.booked, (SELECT ",
    exact_sum!("quantity"),
    " FROM bookings b CROSS JOIN ledger_entries e ON e.booking_id = b.id \
       WHERE b.payer = v.payer AND b.month = v.month AND b.version_id IS NOT NULL AND e.meter = t.meter) \
    FROM bill_versions v JOIN bill_totals t ON t.version_id = v.id \
    WHERE v.state = 'applied' AND v.month >= ?1 AND v.month < ?2 AND NOT EXISTS (SELECT 1 FROM bill_versions n WHERE n.supersedes = v.id) \
    ORDER BY v.month, t.meter"
);

/// ?1 a customer or null; periods begin from ?2 to before ?3; ?4 the most rows; ?5 meters.
const PERIODS: &str = "SELECT customer, meter, period_start, period_end, billed, ledger, target, events, \
      deferred, deferred_reason, deferred_acknowledged, seen, expected, read_at, \
      alarm_kind, alarm_shortfall, alarm_total, alarm_until, alarm_stripe_customer, alarm_answer, acknowledged, accepted_on_invoice, \
      used, within, billable, house, not_priced, advance, billable_minor, house_minor, currency \
    FROM stripe_comparison \
    WHERE (?1 IS NULL OR customer = ?1) AND period_start >= ?2 AND period_start < ?3 AND meter IN (SELECT value FROM json_each(?5)) \
    ORDER BY customer, period_start, meter LIMIT ?4";

impl Database {
    /// The newest bills from month `from` to before month `to`, and the sums of the ledger for
    /// them.
    pub async fn bills_and_ledger(&self, from: Month, to: Month) -> Result<Vec<ComparedBill>, BooksError> {
        self.with_connection(async move |c| {
            let mut rows = c.query(BILLS, params![from.to_string(), to.to_string()]).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                let booked: String = row.get(2)?;
                found.push(ComparedBill {
                    month: row.get(0)?,
                    meter: row.get(1)?,
                    bill: booked.parse().map_err(|e| BooksError::Integrity(format!("bill_totals: {e}")))?,
                    ledger: usage(&row, 3)?,
                });
            }
            Ok(found)
        })
        .await
    }

    /// Usage on the days from `first` to `last` that lies in no billing period.
    pub async fn usage_without_period(
        &self,
        first: Day,
        last: Day,
        meters: Vec<String>,
    ) -> Result<Vec<UsageWithoutPeriod>, BooksError> {
        self.with_connection(async move |c| usage_without_period(c, Some((first, last)), json(&meters)?).await).await
    }

    /// Bill, ledger and Stripe side by side, for the periods that the filter selects.
    pub async fn compare(&self, filter: ComparisonFilter) -> Result<Vec<ComparedPeriod>, BooksError> {
        self.with_connection(async move |c| {
            let ComparisonFilter { customer, meters, starts, limit } = filter;
            let entries = acknowledgement::entries(c, customer.clone(), &starts).await?;
            let values = params![customer, starts.start, starts.end, limit, json(&meters)?];
            let mut rows = c.query(PERIODS, values).await?;
            let mut found: Vec<ComparedPeriod> = vec![];
            while let Some(row) = rows.next().await? {
                found.push(ComparedPeriod {
                    customer: row.get(0)?,
                    meter: row.get(1)?,
                    period_start: instant(row.get(2)?),
                    period_end: instant(row.get(3)?),
                    billed: row.get::<i64>(4)? == 1,
                    ledger: usage(&row, 5)?,
                    target: row.get(6)?,
                    events: events(&row.get::<String>(7)?)?,
                    deferred: row.get(8)?,
                    deferred_reason: row.get(9)?,
                    deferred_acknowledged: row.get::<i64>(10)? == 1,
                    seen: row.get(11)?,
                    expected: row.get(12)?,
                    read_at: row.get::<Option<i64>>(13)?.map(instant),
                    alarm: alarm::read(&row, 14)?,
                    acknowledged: row.get(20)?,
                    accepted_on_invoice: row.get(21)?,
                    parts: UsageParts::read(&row, 22)?,
                    acknowledgements: vec![],
                });
            }
            for entry in entries {
                let of = |c: &&mut ComparedPeriod| {
                    (&c.customer, &c.meter, c.period_start) == (&entry.customer, &entry.meter, entry.period_start)
                };
                if let Some(of) = found.iter_mut().find(of) {
                    of.acknowledgements.push(entry);
                }
            }
            Ok(found)
        })
        .await
    }
}

/// Usage of `meters`, a JSON list, that lies in no billing period; on some days, or on all.
pub(crate) async fn usage_without_period(
    c: &Connection,
    days: Option<(Day, Day)>,
    meters: String,
) -> Result<Vec<UsageWithoutPeriod>, BooksError> {
    let (first, last) = days.map(|(first, last)| (first.to_string(), last.to_string())).unzip();
    let mut rows = c.query(WITHOUT_PERIOD, params![first, last, meters]).await?;
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        let why = match row.get::<i64>(1)? {
            0 => WithoutPeriod::NoTag,
            1 => WithoutPeriod::UnknownCustomer,
            _ => WithoutPeriod::NoPeriod,
        };
        found.push(UsageWithoutPeriod { meter: row.get(0)?, why, ids: row.get(2)?, quantity: usage(&row, 3)? });
    }
    Ok(found)
}

/// ?1 the first day, ?2 the last, or null; ?3 meters.
const WITHOUT_PERIOD: &str = concat!(
    "SELECT meter, why, count(DISTINCT customer), ",
    exact_sum!("quantity"),
    " FROM (SELECT u.meter, u.customer, u.quantity, CASE WHEN u.customer = '' THEN 0 \
        WHEN EXISTS (SELECT 1 FROM billing_periods p WHERE p.customer = u.customer AND u.day BETWEEN p.first_day AND p.last_day) THEN NULL \
        WHEN NOT EXISTS (SELECT 1 FROM customers c WHERE c.id = u.customer) THEN 1 ELSE 2 END AS why \
      FROM booked_usage u WHERE u.day BETWEEN coalesce(?1, '') AND coalesce(?2, '9999') AND u.meter IN (SELECT value FROM json_each(?3))) \
    WHERE why IS NOT NULL GROUP BY meter, why ORDER BY meter, why"
);

/// Reads the sum in column `at`; none for no rows.
fn usage(row: &Row, at: i32) -> Result<Quantity, BooksError> {
    row.get::<Option<String>>(at)?.map_or(Ok(Quantity::ZERO), |sum| sum_of(&sum))
}

fn events(text: &str) -> Result<EventSums, BooksError> {
    serde_json::from_str(text).map_err(|e| BooksError::Integrity(format!("stripe_comparison: `{text}`: {e}")))
}
