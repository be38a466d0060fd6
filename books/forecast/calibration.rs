//! The interval of a forecast, from the errors of past ones: split conformal prediction. Pure.
//!
//! A rule is applied on past days of the same meter, to every customer of a sample, with the same
//! number of days to forecast. What was used then is divided by what was expected: the median of
//! these ratios corrects the rule, and their 90 % quantile is P90. So nothing is assumed of how
//! errors are distributed. Customers that err alike are kept apart where there are enough of them:
//! new, idle and regular ones, and of the regular ones small, middle and large.

use std::collections::BTreeMap;

use super::ONE;
use super::pattern::{WeekdayFactors, median};
use super::rule::{CustomerClass, ForecastRule, Horizon, expected};

/// Days of history that a past forecast must have.
pub const LEAST_HISTORY: usize = 28;
/// With fewer past errors there is no interval.
pub const LEAST_ERRORS: usize = 20;
/// A class is divided by size when each part has so many.
const LEAST_OF_SIZE: usize = 60;
/// Past days on which a rule is applied to every customer.
const CUT_OFFS: usize = 12;
/// A single series has no other to learn from.
const CUT_OFFS_OF_FEW: usize = 60;
/// Fewer series than this are few.
pub(super) const FEW: usize = 10;
/// A ratio above this says only that it is large.
const LARGEST: i128 = 1_000 * ONE;
/// A median of few errors is mostly chance: so many errors of 1 are put to them.
const PRIOR: i128 = 40;

/// What used is of expected, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratios {
    /// The median.
    pub p50: i128,
    /// Nine of ten are not above it; none when too few errors are known.
    pub p90: Option<i128>,
}

/// A past error.
#[derive(Clone, Copy, Debug)]
struct PastError {
    /// What was expected.
    size: i128,
    ratio: i128,
}

/// Customers of a size, up to `size`.
#[derive(Clone, Copy, Debug)]
struct Pool {
    size: i128,
    ratios: Ratios,
}

/// The ratios of a rule and a number of days, by class and size.
#[derive(Clone, Debug, Default)]
pub struct Calibration {
    /// By size, the largest last.
    pools: BTreeMap<CustomerClass, Vec<Pool>>,
    /// Of all that are not idle.
    of_all: Option<Ratios>,
}

impl Calibration {
    /// Learns from histories that begin and end on the same day; nothing after their end is known.
    pub fn learn(rule: ForecastRule, histories: &[&[i128]], factors: &WeekdayFactors, horizon: Horizon) -> Self {
        let mut errors: BTreeMap<CustomerClass, Vec<PastError>> = BTreeMap::new();
        let days = histories.iter().map(|history| history.len()).max().unwrap_or(0);
        let most = if histories.len() < FEW { CUT_OFFS_OF_FEW } else { CUT_OFFS };
        for end in cut_offs(days, horizon.days, most) {
            for history in histories {
                let of = expected(rule, &history[..end], factors, horizon);
                let (size, used) = (of.sum(), sum(&history[end..end + horizon.days]));
                if size > 0 {
                    let ratio = used.saturating_mul(ONE).saturating_div(size).clamp(0, LARGEST);
                    errors.entry(of.class).or_default().push(PastError { size, ratio });
                }
            }
        }
        let alive = errors.iter().filter(|(class, _)| **class != CustomerClass::Idle);
        let all: Vec<PastError> = alive.flat_map(|(_, errors)| errors.iter().copied()).collect();
        let pools = errors.into_iter().filter(|(_, errors)| errors.len() >= LEAST_ERRORS);
        let of_all = (all.len() >= LEAST_ERRORS).then(|| ratios(CustomerClass::Regular, &all));
        Self { pools: pools.map(|(class, errors)| (class, by_size(class, errors))).collect(), of_all }
    }

    /// The ratios for a customer of whom `size` is expected.
    pub fn ratios(&self, class: CustomerClass, size: i128) -> Ratios {
        let none = match class {
            // as good as nothing
            CustomerClass::Idle => Ratios { p50: 0, p90: None },
            _ => self.of_all.unwrap_or(Ratios { p50: ONE, p90: None }),
        };
        let Some(pools) = self.pools.get(&class) else { return none };
        pools.iter().find(|pool| size <= pool.size).or(pools.last()).map_or(none, |pool| pool.ratios)
    }
}

fn sum(days: &[i128]) -> i128 {
    days.iter().map(|used| (*used).max(0)).sum()
}

/// Ends of the histories of past forecasts, evenly spread: with enough days before, and as many
/// after as are forecast.
pub(super) fn cut_offs(days: usize, horizon: usize, most: usize) -> Vec<usize> {
    let Some(last) = days.checked_sub(horizon).filter(|last| *last >= LEAST_HISTORY && horizon > 0) else {
        return vec![];
    };
    let step = (last - LEAST_HISTORY) / most + 1;
    // the newest always counts
    (LEAST_HISTORY..=last).rev().step_by(step).collect()
}

/// In three parts when there are enough, else in one.
fn by_size(class: CustomerClass, mut errors: Vec<PastError>) -> Vec<Pool> {
    errors.sort_by_key(|error| error.size);
    let parts = if errors.len() >= 3 * LEAST_OF_SIZE { 3 } else { 1 };
    let chunks = errors.chunks(errors.len().div_ceil(parts));
    chunks.map(|some| Pool { size: some.last().map_or(0, |e| e.size), ratios: ratios(class, some) }).collect()
}

fn ratios(class: CustomerClass, errors: &[PastError]) -> Ratios {
    let mut values: Vec<i128> = errors.iter().map(|error| error.ratio).collect();
    let count = i128::try_from(values.len()).unwrap_or(i128::MAX);
    let middle = median(&mut values);
    let p50 = match class {
        CustomerClass::Idle => middle,
        _ => (middle * count + ONE * PRIOR) / (count + PRIOR),
    };
    // the rank that holds for one more value with probability 0.9
    let rank = ((values.len() + 1) * 9).div_ceil(10).min(values.len());
    let p90 = values.get(rank.saturating_sub(1)).copied();
    Ratios { p50, p90: p90.map(|p90| p90.max(p50)) }
}
