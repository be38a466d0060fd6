//! The second witness: what the web backend measured against what AWS billed, on settled days.
//! Pure but for `read`.
//!
//! A customer is judged by the newest [`JUDGED_DAYS`] settled days, and differs when
//! [`DIFFERING_DAYS`] of them do in the same direction: one day is a crash or a late line of the
//! bill, and three are a habit. A meter is judged by the sum over everybody of these days, where
//! such noise cancels out, so its limit is narrower. Comparisons are exact, without division.
//!
//! A meter is compared from the day after the first one that anybody measured: before that nothing
//! was reported, and of that day only a part was.

mod read;

use std::collections::{BTreeMap, BTreeSet};

use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::read::{Accuracy, kept_accuracy};
use super::accrual::Accrues;
use super::metered_day::MeteredDay;
use crate::units::calendar::Day;
use crate::units::quantity::{Quantity, UNIT, divide_half_even};

/// A week, so that each weekday counts once.
pub const JUDGED_DAYS: usize = 7;
/// So many days must differ in the same direction.
pub const DIFFERING_DAYS: usize = 3;
/// A customer's day differs by more than this share of the larger one, in percent. Attendees who
/// are admitted some seconds before AWS counts them stay below it.
pub const DAY_PERCENT: i128 = 10;
/// A meter differs by more than this share of the larger one, in percent.
pub const METER_PERCENT: i128 = 5;
/// Customers that are named, at most.
const NAMED: usize = 20;

/// What is too little to differ, of a customer's day: it is worth less than a cent at AWS's
/// prices, and rounding alone may be as much of a short meeting or a small file.
pub fn least(accrues: Accrues) -> Quantity {
    match accrues {
        Accrues::AttendeeMinutes => Quantity::from_scaled(5 * UNIT),
        Accrues::GbMonths | Accrues::Gb => Quantity::from_scaled(UNIT / 100),
    }
}

/// Which of the two says more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Excess {
    MeasuredMore,
    BilledMore,
}

/// The same usage by both witnesses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct TwoWitnesses {
    pub measured: Quantity,
    pub billed: Quantity,
}

impl TwoWitnesses {
    /// Measured minus billed.
    pub fn difference(self) -> Quantity {
        self.measured - self.billed
    }

    /// Whether they differ by more than `percent` of the larger one, and by more than `least`.
    pub fn excess(self, percent: i128, least: Quantity) -> Option<Excess> {
        let (difference, larger) = (self.difference(), self.measured.abs().max(self.billed.abs()));
        let (by, of) = (difference.abs().scaled(), larger.scaled());
        let beyond = match (by.checked_mul(100), of.checked_mul(percent)) {
            (Some(by), Some(of)) => by > of,
            // absurd amounts, of which a unit is nothing
            _ => by / percent > of / 100,
        };
        let differs = beyond && difference.abs() > least;
        differs.then_some(match difference > Quantity::ZERO {
            true => Excess::MeasuredMore,
            false => Excess::BilledMore,
        })
    }

    /// Measured as a share of billed, to four decimals; none if that is no number of use, because
    /// nothing was billed or much too little.
    pub fn ratio(self) -> Option<Decimal> {
        let (measured, billed) = (self.measured.scaled(), self.billed.scaled());
        let (share, _) = divide_half_even(measured.checked_mul(10_000)?, Some(billed).filter(|b| *b > 0)?);
        Some(Decimal::new(i64::try_from(share).ok()?, 4))
    }

    fn add(&mut self, more: Self) {
        self.measured += more.measured;
        self.billed += more.billed;
    }
}

/// A settled day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct ComparedDay {
    pub day: Day,
    #[serde(flatten)]
    pub usage: TwoWitnesses,
}

/// A customer's usage of a meter on the compared days.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct ComparedCustomer {
    pub customer: String,
    #[serde(flatten)]
    pub usage: TwoWitnesses,
    /// Judged days that differ in the more frequent direction.
    pub differing_days: usize,
    /// The finding.
    pub finding: Option<Excess>,
}

/// A meter's usage on the compared days.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct MeterAccuracy {
    pub meter: String,
    /// The first day that anybody measured; it is not compared.
    pub since: Day,
    /// The compared days, with usage of nobody, too.
    pub days: Vec<ComparedDay>,
    /// Their sum.
    #[serde(flatten)]
    pub usage: TwoWitnesses,
    /// What of `usage` was billed without a customer.
    pub untagged: Quantity,
    /// The finding about the meter as a whole.
    pub finding: Option<Excess>,
    /// Customers with a finding.
    pub differing_customers: u64,
    /// Those that differ: the ones with a finding first, then by the size of the difference. At
    /// most 20.
    pub customers: Vec<ComparedCustomer>,
}

impl MeterAccuracy {
    pub fn has_finding(&self) -> bool {
        self.finding.is_some() || self.differing_customers > 0
    }
}

/// A meter that is being compared.
#[derive(Debug)]
struct Compared {
    accrues: Accrues,
    accuracy: MeterAccuracy,
}

/// The comparison of all customers, one after another.
#[derive(Debug)]
pub struct AccuracyCheck {
    meters: BTreeMap<String, Compared>,
}

impl AccuracyCheck {
    /// For meters that are measured since a day, on settled days in order. Of undivided days the
    /// bill says nothing by customer.
    pub fn new(meters: &BTreeMap<String, (Accrues, Day)>, days: &[Day], undivided: &BTreeSet<MeteredDay>) -> Self {
        let compared = |(meter, (accrues, since)): (&String, &(Accrues, Day))| {
            let is_divided = |day: Day| !undivided.contains(&MeteredDay { meter: meter.clone(), day });
            let days = days.iter().filter(|day| *day > since && is_divided(**day));
            let accuracy = MeterAccuracy {
                meter: meter.clone(),
                since: *since,
                days: days.map(|day| ComparedDay { day: *day, usage: TwoWitnesses::default() }).collect(),
                usage: TwoWitnesses::default(),
                untagged: Quantity::ZERO,
                finding: None,
                differing_customers: 0,
                customers: vec![],
            };
            (meter.clone(), Compared { accrues: *accrues, accuracy })
        };
        Self { meters: meters.iter().map(compared).collect() }
    }

    /// Adds a customer's usage by meter and day; the customer is empty for usage without a tag.
    pub fn add(&mut self, customer: &str, usage: &BTreeMap<(String, Day), TwoWitnesses>) {
        for (meter, Compared { accrues, accuracy }) in &mut self.meters {
            let of_day = |day: Day| usage.get(&(meter.clone(), day)).copied().unwrap_or_default();
            let days: Vec<TwoWitnesses> = accuracy.days.iter().map(|of| of_day(of.day)).collect();
            let mut sum = TwoWitnesses::default();
            for (all, own) in accuracy.days.iter_mut().zip(&days) {
                all.usage.add(*own);
                sum.add(*own);
            }
            accuracy.usage.add(sum);
            if customer.is_empty() {
                accuracy.untagged += sum.billed;
                continue;
            }
            let (differing_days, finding) = judge(&days, least(*accrues));
            accuracy.differing_customers += u64::from(finding.is_some());
            if !sum.difference().is_zero() || differing_days > 0 {
                let customer = customer.to_owned();
                accuracy.customers.push(ComparedCustomer { customer, usage: sum, differing_days, finding });
            }
            if accuracy.customers.len() > 2 * NAMED {
                name_the_first(&mut accuracy.customers);
            }
        }
    }

    /// What was found, by meter.
    pub fn finish(self) -> Vec<MeterAccuracy> {
        let judged = |Compared { accrues, mut accuracy }: Compared| {
            name_the_first(&mut accuracy.customers);
            let newest = newest(&accuracy.days);
            let mut sum = TwoWitnesses::default();
            newest.iter().for_each(|of| sum.add(of.usage));
            if newest.len() >= DIFFERING_DAYS {
                accuracy.finding = sum.excess(METER_PERCENT, least(accrues));
            }
            accuracy
        };
        self.meters.into_values().map(judged).collect()
    }
}

/// The days that are judged.
fn newest<T>(days: &[T]) -> &[T] {
    &days[days.len().saturating_sub(JUDGED_DAYS)..]
}

/// Of a customer's days: how many differ in the more frequent direction, and the finding.
fn judge(days: &[TwoWitnesses], least: Quantity) -> (usize, Option<Excess>) {
    let found: Vec<Excess> = newest(days).iter().filter_map(|day| day.excess(DAY_PERCENT, least)).collect();
    let more = |of: Excess| found.iter().filter(|excess| **excess == of).count();
    let (measured, billed) = (more(Excess::MeasuredMore), more(Excess::BilledMore));
    let direction = if measured > billed { Excess::MeasuredMore } else { Excess::BilledMore };
    let most = measured.max(billed);
    (most, (most >= DIFFERING_DAYS).then_some(direction))
}

fn name_the_first(customers: &mut Vec<ComparedCustomer>) {
    customers.sort_by_cached_key(|of| {
        (of.finding.is_none(), std::cmp::Reverse(of.usage.difference().abs()), of.customer.clone())
    });
    customers.truncate(NAMED);
}

#[cfg(test)]
mod tests;
