//! A forecast with its upper bound. Pure.

use std::ops::Range;

use super::ONE;
use super::calibration::{Calibration, Ratios};
use super::rule::{CustomerClass, ExpectedDays, ForecastRule};

/// What the days that are forecast sum up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestOfMonth {
    pub p50: i128,
    pub p90: Option<i128>,
}

/// What is expected of each day, and what past errors make of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForecastDays {
    expected: Vec<i128>,
    ratios: Ratios,
}

impl ForecastDays {
    /// What a rule expects, corrected by its past errors. A naive rule stays as it is, but for idle
    /// customers.
    pub fn new(rule: ForecastRule, of: ExpectedDays, calibration: &Calibration) -> Self {
        let ratios = calibration.ratios(of.class, of.sum());
        let ratios = match (rule, of.class) {
            (ForecastRule::WeekdayPattern, _) | (_, CustomerClass::Idle) => ratios,
            _ => Ratios { p50: ONE, p90: ratios.p90.map(|p90| p90.max(ONE)) },
        };
        Self { expected: of.days, ratios }
    }

    /// In order, from the day after the newest settled one on.
    pub fn p50(&self) -> impl Iterator<Item = i128> {
        self.expected.iter().map(|day| times(*day, self.ratios.p50))
    }

    pub fn rest(&self) -> RestOfMonth {
        self.part(0..self.expected.len())
    }

    /// What some of the days sum up to; the first one is number 0.
    pub fn part(&self, days: Range<usize>) -> RestOfMonth {
        let sum: i128 = self.expected.iter().take(days.end).skip(days.start).sum();
        // what nobody used for weeks has no error to learn from
        let p90 = if sum == 0 { Some(0) } else { self.ratios.p90.map(|ratio| times(sum, ratio)) };
        RestOfMonth { p50: times(sum, self.ratios.p50), p90 }
    }
}

fn times(quantity: i128, ratio: i128) -> i128 {
    match quantity.checked_mul(ratio) {
        Some(product) => product / ONE,
        None => (quantity / ONE).saturating_mul(ratio),
    }
}
