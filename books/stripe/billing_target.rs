//! Billing targets: the quantities that Stripe should bill, from which events are planned.

use std::collections::BTreeMap;

use crate::store::connection::{Connection, Row, Write, params};
use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::rating::Rated;
use crate::store::error::BooksError;
use crate::store::rows::json;
use crate::stripe::invoice::LARGEST_VALUE;
use crate::units::quantity::{Quantity, UNIT, divide_half_even};

/// What is reported, in Stripe's units, rounded half-even once; none if it has more than 15 digits.
/// What AWS took back beyond what it had billed is reported as 0. An amount that was cut at the
/// budget is rounded down, so that the invoice is not above it.
pub fn target(reported: Quantity, per_unit: Decimal, cut: Cut) -> Option<i64> {
    if reported <= Quantity::ZERO {
        return Some(0);
    }
    let product = reported.scaled().checked_mul(per_unit.mantissa())?;
    let divisor = UNIT.checked_mul(10_i128.checked_pow(per_unit.scale())?)?;
    let units = match cut {
        Cut::AtBudget => product / divisor,
        Cut::Nowhere => divide_half_even(product, divisor).0,
    };
    i64::try_from(units).ok().filter(|units| *units <= LARGEST_VALUE)
}

/// Whether the budget has cut an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Nowhere,
    AtBudget,
}

impl Cut {
    /// `house` is what is beyond the budget.
    pub fn of(house: Quantity) -> Self {
        if house.is_zero() { Self::Nowhere } else { Self::AtBudget }
    }
}

/// A row of `billing_targets`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTarget {
    pub plan: String,
    pub period_end: i64,
    pub target: i64,
    pub deferred: i64,
    pub deferred_reason: Option<String>,
    pub parts: UsageParts,
}

/// What became of the usage of a billing target: [`Rated`], as it is stored. Quantities are in
/// 10⁻¹⁰ units, money in minor units of `currency`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UsageParts {
    pub used: i64,
    pub within: i64,
    pub billable: i64,
    pub house: i64,
    pub not_priced: i64,
    pub advance: i64,
    pub billable_minor: i64,
    pub house_minor: i64,
    pub currency: String,
}

impl UsageParts {
    /// Whether the columns hold these quantities: up to 922 million units each. The period of a
    /// larger one is deferred as `too_large`.
    pub fn fit(rated: &Rated) -> bool {
        let Rated { used, within, billable, house, not_priced, advance, .. } = rated;
        [used, within, billable, house, not_priced, advance].iter().all(|q| i64::try_from(q.scaled()).is_ok())
    }

    /// What was used in advance of a later period.
    pub fn in_advance(&self) -> Quantity {
        Quantity::from_scaled(i128::from(self.advance))
    }

    pub fn of(rated: &Rated) -> Self {
        let cell = |q: Quantity| i64::try_from(q.scaled()).unwrap_or(i64::MAX);
        Self {
            used: cell(rated.used),
            within: cell(rated.within),
            billable: cell(rated.billable),
            house: cell(rated.house),
            not_priced: cell(rated.not_priced),
            advance: cell(rated.advance),
            billable_minor: rated.billable_cost.to_minor(rated.currency),
            house_minor: rated.house_cost.to_minor(rated.currency),
            currency: rated.currency.to_string(),
        }
    }

    /// Divides the usage by what became of it: `to_send` and `discarded` are Stripe's units, of
    /// which `per_unit` are one of ours.
    pub fn split(&self, to_send: i64, discarded: i64, per_unit: Decimal) -> Split {
        let scaled = |n: i64| Quantity::from_scaled(i128::from(n));
        let billable = scaled(self.billable);
        // Stripe's tiers charge the last units: what is to be sent of an included amount is free
        let in_units = |units: i64| Quantity::of_stripe(units, per_unit).min(billable);
        // and of what was discarded, only what is left of the billable amount beside that
        let given_up = |waiting: Quantity| {
            let left = (billable - waiting.max(Quantity::ZERO)).max(Quantity::ZERO);
            Quantity::of_stripe(discarded, per_unit).min(left)
        };
        // nothing is at Stripe: what is less than one of its units is not billed either
        let is_none_billed = target(billable, per_unit, Cut::of(scaled(self.house))) == Some(to_send + discarded);
        let (waiting, discarded) = match (is_none_billed, to_send, discarded) {
            (false, ..) | (true, 0, 0) => (in_units(to_send), given_up(in_units(to_send))),
            (true, 0, _) => (Quantity::ZERO, billable),
            (true, ..) => (billable - given_up(Quantity::ZERO), given_up(Quantity::ZERO)),
        };
        // rounded to the nearest minor unit, and the parts add up to what is billable
        let share = |part: Quantity| {
            if billable.is_zero() {
                return 0;
            }
            let (amount, of) = (i128::from(self.billable_minor) * part.scaled(), billable.scaled());
            let half = (of / 2) * amount.signum() * of.signum();
            i64::try_from((amount + half) / of).unwrap_or(i64::MAX)
        };
        let discarded_minor = share(discarded);
        let waiting_minor = share(waiting + discarded) - discarded_minor;
        Split {
            usage: Conservation {
                booked: scaled(self.used),
                within: scaled(self.within),
                billed: billable - waiting - discarded,
                waiting,
                house: scaled(self.house) + discarded,
                not_priced: scaled(self.not_priced),
            },
            money: MoneyParts {
                billed: self.billable_minor - waiting_minor - discarded_minor,
                waiting: waiting_minor,
                house: self.house_minor + discarded_minor,
            },
        }
    }

    /// Reads them from column `at` and those after it, in their order.
    pub(crate) fn read(row: &Row, at: i32) -> Result<Self, BooksError> {
        Ok(Self {
            used: row.get(at)?,
            within: row.get(at + 1)?,
            billable: row.get(at + 2)?,
            house: row.get(at + 3)?,
            not_priced: row.get(at + 4)?,
            advance: row.get(at + 5)?,
            billable_minor: row.get(at + 6)?,
            house_minor: row.get(at + 7)?,
            currency: row.get(at + 8)?,
        })
    }
}

/// A target's usage by what became of it, and what that is worth at the plan's price.
pub struct Split {
    pub usage: Conservation,
    pub money: MoneyParts,
}

/// What parts of the usage are worth, in minor units of one currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct MoneyParts {
    pub billed: i64,
    pub waiting: i64,
    pub house: i64,
}

/// All usage of a billing period by what became of it: `booked` is the sum of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Conservation {
    pub booked: Quantity,
    /// Within what the plan includes.
    pub within: Quantity,
    /// At Stripe, and charged.
    pub billed: Quantity,
    /// Not at Stripe yet: deferred, on its way, refused, or not planned yet. Below 0: to be taken
    /// back.
    pub waiting: Quantity,
    /// The company's: beyond the overage budget, or discarded by a person.
    pub house: Quantity,
    /// The plan reports none of it.
    pub not_priced: Quantity,
}

impl Conservation {
    /// Adds the parts of another period.
    pub fn add(&mut self, other: &Self) {
        let Self { booked, within, billed, waiting, house, not_priced } = other;
        self.booked += *booked;
        self.within += *within;
        self.billed += *billed;
        self.waiting += *waiting;
        self.house += *house;
        self.not_priced += *not_priced;
    }
}

/// A row of `billing_targets` to be written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NewTarget {
    pub customer: String,
    pub meter: String,
    pub period_start: i64,
    pub period_end: i64,
    pub plan: String,
    pub target: i64,
    pub deferred: i64,
    pub deferred_reason: Option<&'static str>,
    #[serde(flatten)]
    pub parts: UsageParts,
}

/// Deferred amounts that nobody has acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// By reason, as [`NewTarget::deferred_reason`] has it.
    pub by_reason: BTreeMap<String, u64>,
    /// Those above 0 that have been deferred since an instant of the interval that was asked for.
    pub since: u64,
}

/// All deferred amounts that nobody has acknowledged; counts those that have been deferred since an
/// instant from `from` to before `to`.
pub async fn waiting(c: &Connection, from: i64, to: i64) -> Result<Waiting, BooksError> {
    let sql = "SELECT reason, count(*), sum(amount > 0 AND since >= ?1 AND since < ?2) FROM deferred_amounts \
               WHERE NOT acknowledged GROUP BY reason";
    let (mut rows, mut found) = (c.query(sql, params![from, to]).await?, Waiting::default());
    while let Some(row) = rows.next().await? {
        found.by_reason.insert(row.get(0)?, row.get(1)?);
        found.since += row.get::<u64>(2)?;
    }
    Ok(found)
}

/// Targets in one statement of [`store_targets`]: its parameter stays far below the largest that a
/// server takes.
const MAX_ROWS: usize = 1000;

/// ?1 [`NewTarget`]s, ?2 now.
const STORE: &str = include_str!("store_targets.sql");

pub fn store_targets(targets: &[NewTarget], now: i64) -> Result<Vec<Write>, BooksError> {
    targets.chunks(MAX_ROWS).map(|some| Ok((STORE, vec![json(some)?.into(), now.into()]))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worth_of_parts_is_rounded_and_adds_up() {
        let unit = |n: i64| n * 10_000_000_000;
        for (billable, minor, to_send, discarded, worth) in [
            // 12,864.2 of 12,864.25 units, of which nothing is at Stripe
            (unit(12_864) + 2_500_000_000, 40_780, 128_642, 0, (0, 40_780, 0)),
            // one of Stripe's units is there
            (unit(12_864) + 2_500_000_000, 407_800, 128_641, 0, (5, 407_795, 0)),
            (unit(1), 1, 5, 5, (0, 0, 1)),
            (unit(1), 3, 5, 0, (1, 2, 0)),
            (unit(1), 3, -5, 0, (5, -2, 0)),
            (unit(3), 100, 10, 10, (33, 34, 33)),
            // of an included amount that Stripe's tiers leave free, too
            (unit(10), 1_000, 0, 1_100, (0, 0, 1_000)),
            (unit(10), 1_000, 600, 500, (0, 1_000, 0)),
            (0, 0, 0, 0, (0, 0, 0)),
        ] {
            let parts = UsageParts { billable, billable_minor: minor, ..UsageParts::default() };
            let Split { usage, money } = parts.split(to_send, discarded, Decimal::TEN);
            let MoneyParts { billed, waiting, house } = money;
            assert_eq!((billed, waiting, house), worth, "{minor} for {billable}");
            assert_eq!(usage.billed.is_zero(), billed == 0, "{minor} for {billable}");
            assert_eq!(billed + waiting + house, minor);
        }
    }
}
