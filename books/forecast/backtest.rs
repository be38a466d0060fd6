//! What the rules would have forecast in past months, beside what came. Pure.
//!
//! On some days of each past month all is done as it would have been done then, with the days up to
//! then and no others: factors, past errors, forecast. Each rule's error is the sum of the
//! differences at the ends of months as a share of all usage (the weighted absolute percentage
//! error), so that large customers count for more.

use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::calibration::{Calibration, LEAST_HISTORY};
use super::interval::{ForecastDays, RestOfMonth};
use super::pattern::WeekdayFactors;
use super::rule::{ForecastRule, Horizon, expected};
use crate::units::calendar::{Day, Month};

/// Days of a month after which it is forecast.
const AFTER_DAYS: [usize; 3] = [7, 14, 21];
/// The newest months that are over.
pub const MONTHS: usize = 3;
/// A customer counts with usage in so many days before.
const ALIVE_DAYS: usize = 28;

/// How good a rule was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct RuleScore {
    pub rule: ForecastRule,
    /// Month ends that were forecast.
    pub forecasts: u64,
    /// The differences of P50 as a share of what was used; none when nothing was used.
    pub error: Option<Decimal>,
    /// Forecasts with an upper bound.
    pub bounded: u64,
    /// How many of these were not above it, as a share.
    pub coverage: Option<Decimal>,
}

/// The scores of all rules for a meter.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Backtest {
    /// In the order of [`ForecastRule::ALL`].
    pub scores: Vec<RuleScore>,
    /// The rule that is used.
    pub used: ForecastRule,
    /// The past months that were forecast.
    pub months: Vec<Month>,
}

impl Backtest {
    pub fn score(&self, rule: ForecastRule) -> Option<&RuleScore> {
        self.scores.iter().find(|score| score.rule == rule)
    }

    /// The error of the rule that is used.
    pub fn error(&self) -> Option<Decimal> {
        self.score(self.used).and_then(|score| score.error)
    }
}

/// Histories of a sample of customers, or of a meter as a whole, that begin and end on the same
/// days.
#[derive(Clone, Copy, Debug)]
pub struct Histories<'a> {
    pub first: Day,
    pub series: &'a [Vec<i128>],
    /// All usage of the meter.
    pub all: &'a [i128],
}

#[derive(Default)]
struct Sums {
    forecasts: u64,
    off: i128,
    used: i128,
    bounded: u64,
    held: u64,
}

/// Tries every rule on the newest months that are over.
pub fn backtest(of: Histories<'_>) -> Backtest {
    let mut sums: [Sums; 3] = Default::default();
    let mut months = vec![];
    for month in past_months(of) {
        for after in AFTER_DAYS {
            if let Some(cut) = CutOff::at(of, month, after) {
                months.push(month);
                for (rule, sums) in ForecastRule::ALL.into_iter().zip(&mut sums) {
                    cut.add(rule, of.series, sums);
                }
            }
        }
    }
    months.dedup();
    let scores: Vec<RuleScore> =
        ForecastRule::ALL.into_iter().zip(&sums).map(|(rule, sums)| score(rule, sums)).collect();
    let used = best(&scores);
    Backtest { scores, used, months }
}

/// The rule with the least error; ours, unless a naive one is better.
fn best(scores: &[RuleScore]) -> ForecastRule {
    let known = scores.iter().filter_map(|score| Some((score.error?, score.rule)));
    known.min_by_key(|(error, rule)| (*error, *rule)).map_or(ForecastRule::WeekdayPattern, |(_, rule)| rule)
}

/// The newest months that are over and whose days are all known, in order.
fn past_months(of: Histories<'_>) -> Vec<Month> {
    let days = i32::try_from(of.all.len()).unwrap_or(i32::MAX);
    let Some(end) = Day::from_epoch(of.first.epoch().saturating_add(days)) else { return vec![] };
    let mut months = Month::range(of.first.month(), end.month().previous());
    months.drain(..months.len().saturating_sub(MONTHS));
    months
}

/// A day in the past, with what was known then.
struct CutOff {
    /// The length of the histories then.
    end: usize,
    horizon: Horizon,
    factors: WeekdayFactors,
}

impl CutOff {
    /// After the first `after` days of a month; none when too little was known then.
    fn at(of: Histories<'_>, month: Month, after: usize) -> Option<Self> {
        let begin = usize::try_from(month.first_day().epoch() - of.first.epoch()).ok()?;
        let days = usize::try_from(month.last_day().epoch() - month.first_day().epoch()).ok()? + 1;
        let end = begin + after;
        let known = end >= LEAST_HISTORY && begin + days <= of.all.len();
        let horizon = Horizon { so_far: after, days: days - after };
        known.then(|| Self { end, horizon, factors: WeekdayFactors::of(&of.all[..end]) })
    }

    /// What would have been forecast of the rest of the month; none for who used nothing in weeks.
    fn forecasts(&self, rule: ForecastRule, series: &[Vec<i128>]) -> Vec<Option<RestOfMonth>> {
        let then: Vec<&[i128]> = series.iter().map(|history| &history[..self.end]).collect();
        let calibration = Calibration::learn(rule, &then, &self.factors, self.horizon);
        let forecast = |history: &&[i128]| {
            let is_alive = history.iter().rev().take(ALIVE_DAYS).any(|used| *used > 0);
            let of = || expected(rule, history, &self.factors, self.horizon);
            is_alive.then(|| ForecastDays::new(rule, of(), &calibration).rest())
        };
        then.iter().map(forecast).collect()
    }

    fn add(&self, rule: ForecastRule, series: &[Vec<i128>], sums: &mut Sums) {
        for (history, rest) in series.iter().zip(self.forecasts(rule, series)) {
            let Some(rest) = rest else { continue };
            let so_far: i128 = history[self.end - self.horizon.so_far..self.end].iter().sum();
            let came: i128 = history[self.end..self.end + self.horizon.days].iter().sum();
            sums.forecasts += 1;
            sums.off += (rest.p50 - came).abs();
            sums.used += (so_far + came).max(0);
            if let Some(p90) = rest.p90 {
                sums.bounded += 1;
                sums.held += u64::from(came <= p90);
            }
        }
    }
}

fn score(rule: ForecastRule, sums: &Sums) -> RuleScore {
    let share = |part: i128, of: i128| {
        let share = part.checked_mul(10_000)?.checked_div(of)?;
        Some(Decimal::new(i64::try_from(share).ok()?, 4))
    };
    RuleScore {
        rule,
        forecasts: sums.forecasts,
        error: share(sums.off, sums.used),
        bounded: sums.bounded,
        coverage: share(sums.held.into(), sums.bounded.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forecast::generated::{WORLDS, all, first};

    /// What came later must not change what would have been forecast.
    #[test]
    fn a_past_forecast_sees_nothing_of_what_came_later() {
        let histories = WORLDS[4].histories(3);
        let forecasts = |series: &[Vec<i128>]| {
            let of_all = all(series);
            let of = Histories { first: first(), series, all: &of_all };
            let months = past_months(of);
            let cut = CutOff::at(of, months[2], 14).unwrap();
            (cut.end, ForecastRule::ALL.map(|rule| cut.forecasts(rule, series)))
        };
        let (end, expected) = forecasts(&histories);
        let mut later = histories.clone();
        later.iter_mut().for_each(|of| of[end..].iter_mut().for_each(|day| *day = *day * 7 + 99));
        assert_eq!(forecasts(&later).1, expected);
        let mut before = histories.clone();
        before.iter_mut().for_each(|of| of[end - 1] = of[end - 1] * 7 + 99);
        assert_ne!(forecasts(&before).1, expected);
    }
}
