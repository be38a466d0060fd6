//! All that is learnt of one meter, and the forecast of a customer by it. Pure.

use std::collections::BTreeMap;

use super::backtest::{Backtest, Histories, backtest};
use super::calibration::Calibration;
use super::interval::{ForecastDays, RestOfMonth};
use super::pattern::WeekdayFactors;
use super::rule::{ForecastRule, HISTORY_DAYS, Horizon, expected};
use crate::units::quantity::Quantity;

/// Numbers of days for which errors are learnt beside those to the end of the month, for billing
/// periods that end on other days.
const HORIZONS: [usize; 5] = [3, 7, 14, 21, 31];

/// The quantity at the end of a month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MonthEnd {
    pub p50: Quantity,
    /// None when too few past errors are known.
    pub p90: Option<Quantity>,
}

impl MonthEnd {
    /// From what is settled of a month, the rest, and what is booked of it by now: a forecast is
    /// never below that.
    pub fn new(settled: Quantity, booked: Quantity, rest: RestOfMonth) -> Self {
        let end = |rest: i128| (settled + Quantity::from_scaled(rest)).max(booked);
        Self { p50: end(rest.p50), p90: rest.p90.map(end) }
    }
}

/// What is learnt of a meter.
#[derive(Clone, Debug)]
pub struct MeterModel {
    pub backtest: Backtest,
    factors: WeekdayFactors,
    month: Horizon,
    /// By the number of days.
    calibrations: BTreeMap<usize, Calibration>,
}

impl MeterModel {
    /// Tries the rules on past months, and learns the errors of the best one.
    pub fn learn(of: Histories<'_>, month: Horizon) -> Self {
        let backtest = backtest(of);
        let factors = WeekdayFactors::of(of.all);
        let histories: Vec<&[i128]> = of.series.iter().map(Vec::as_slice).collect();
        let learn = |days: usize| {
            let horizon = Horizon { days, ..month };
            (days, Calibration::learn(backtest.used, &histories, &factors, horizon))
        };
        let calibrations = HORIZONS.into_iter().chain([month.days]).map(learn).collect();
        Self { backtest, factors, month, calibrations }
    }

    /// The number of the day from which on the newest days of a history are enough, and fall on the
    /// same weekdays.
    pub fn enough_from(length: usize) -> usize {
        length.saturating_sub(HISTORY_DAYS) / 7 * 7
    }

    pub fn rule(&self) -> ForecastRule {
        self.backtest.used
    }

    /// The next `days` of a history.
    pub fn forecast(&self, history: &[i128], days: usize) -> ForecastDays {
        let horizon = Horizon { days, ..self.month };
        let of = expected(self.rule(), history, &self.factors, horizon);
        let none = Calibration::default();
        // fewer days err by more, so the bound of fewer days is the safe one
        let near = self.calibrations.range(..=days).next_back().or(self.calibrations.first_key_value());
        let calibration = self.calibrations.get(&days).or(near.map(|(_, near)| near)).unwrap_or(&none);
        ForecastDays::new(self.rule(), of, calibration)
    }
}
