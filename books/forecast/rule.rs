//! The three rules that say what the next days will be like. Pure.
//!
//! *Weekday pattern* is ours: the level of the newest four weeks without the pattern of the week,
//! a trend that fades, and the pattern put back. The other two are naive, and are what a forecast
//! must beat: *same pace* is the average of the month so far, *same as last week* repeats it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ONE;
use super::pattern::{WeekdayFactors, robust_mean};

/// The newest days that make the level.
const LEVEL_DAYS: usize = 28;
/// The newest of these count twice, and are compared with those before for the trend.
const HALF: usize = LEVEL_DAYS / 2;
const WEEK: usize = 7;
/// A customer with fewer days since the first usage is new.
const NEW_DAYS: usize = 14;
/// Older days say nothing of a customer.
pub const HISTORY_DAYS: usize = 42;
/// A week's growth is at most this much, in either direction.
const MOST_GROWTH: i128 = ONE / 8;
/// What chance makes of the difference of two means of 14 days, in percent of the mean deviation of
/// a day: about twice the standard error.
const CHANCE: i128 = 100;
/// Of a day's growth so much is left on the next.
const FADES: i128 = 960_000;
/// The level is that of the day so long before the newest one, on average.
const LEVEL_AGE: usize = 11;

/// How a forecast is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForecastRule {
    WeekdayPattern,
    SamePace,
    SameAsLastWeek,
}

impl ForecastRule {
    /// Ours first: a naive one replaces it only when it is better.
    pub const ALL: [Self; 3] = [Self::WeekdayPattern, Self::SamePace, Self::SameAsLastWeek];

    /// As it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::WeekdayPattern => "weekday_pattern",
            Self::SamePace => "same_pace",
            Self::SameAsLastWeek => "same_as_last_week",
        }
    }

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::WeekdayPattern => "weekday pattern",
            Self::SamePace => "same pace",
            Self::SameAsLastWeek => "same as last week",
        }
    }

    /// The rule that is stored under `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == name)
    }
}

/// Customers whose forecasts err alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CustomerClass {
    Regular,
    /// Since a few days only.
    New,
    /// Nothing was used in the last week.
    Idle,
}

/// Where a forecast stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon {
    /// Settled days of the month so far.
    pub so_far: usize,
    /// The days that are forecast.
    pub days: usize,
}

/// What the next days are expected to be, before any correction by past errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedDays {
    pub class: CustomerClass,
    /// In order, from the day after the newest one on. Of an idle customer: what they would be if
    /// the customer came back.
    pub days: Vec<i128>,
}

impl ExpectedDays {
    pub fn sum(&self) -> i128 {
        self.days.iter().sum()
    }
}

/// Applies a rule to a history of days. Usage below 0 counts as none.
pub fn expected(rule: ForecastRule, history: &[i128], factors: &WeekdayFactors, horizon: Horizon) -> ExpectedDays {
    let class = class(history);
    let days = match rule {
        ForecastRule::WeekdayPattern => pattern_days(history, class, factors, horizon.days),
        ForecastRule::SamePace => vec![pace(history, horizon.so_far); horizon.days],
        ForecastRule::SameAsLastWeek if history.len() < WEEK => vec![pace(history, horizon.so_far); horizon.days],
        ForecastRule::SameAsLastWeek => {
            newest(history, WEEK).iter().map(|used| (*used).max(0)).cycle().take(horizon.days).collect()
        }
    };
    ExpectedDays { class, days }
}

fn newest(history: &[i128], most: usize) -> &[i128] {
    &history[history.len().saturating_sub(most)..]
}

/// The number of the first day with usage; that after the newest one without any.
fn first_used(history: &[i128]) -> usize {
    let from = history.len().saturating_sub(HISTORY_DAYS);
    history[from..].iter().position(|used| *used > 0).map_or(history.len(), |first| from + first)
}

fn class(history: &[i128]) -> CustomerClass {
    let since = history.len() - first_used(history);
    if newest(history, WEEK).iter().all(|used| *used <= 0) {
        CustomerClass::Idle
    } else if since < NEW_DAYS {
        CustomerClass::New
    } else {
        CustomerClass::Regular
    }
}

/// The average of the month so far; before its first day that of four weeks.
fn pace(history: &[i128], so_far: usize) -> i128 {
    let days = newest(history, if so_far == 0 { LEVEL_DAYS } else { so_far });
    let sum: i128 = days.iter().map(|used| (*used).max(0)).sum();
    if days.is_empty() { 0 } else { sum / i128::try_from(days.len()).unwrap_or(1) }
}

fn pattern_days(history: &[i128], class: CustomerClass, factors: &WeekdayFactors, days: usize) -> Vec<i128> {
    // days before the first usage say nothing of a new customer
    let from = history.len().saturating_sub(LEVEL_DAYS).max(first_used(history));
    let flat: Vec<i128> = (from..history.len()).map(|day| history[day].max(0) * ONE / factors.at(day)).collect();
    let older = flat.len().saturating_sub(HALF);
    let weighted: Vec<(i128, i128)> =
        flat.iter().enumerate().map(|(n, used)| (*used, if n < older { 1 } else { 2 })).collect();
    let level = robust_mean(&weighted);
    let growth = match class {
        CustomerClass::Regular if flat.len() == LEVEL_DAYS => weekly_growth(&weighted[..older], &weighted[older..]),
        _ => 0,
    };
    let mut fading = Fading::new();
    let mut expected = Vec::with_capacity(days);
    for day in history.len()..history.len() + days {
        let grown = (ONE + growth * fading.next_day() / ONE).max(ONE / 10);
        // multiplied before it is divided, as far as 128 bits have room
        expected.push((level * factors.at(day) / ONE).saturating_mul(grown) / ONE);
    }
    expected
}

/// By how much a week is more than the one before, from two halves. What chance may make of it is
/// taken off, so days that vary much have no trend.
fn weekly_growth(older: &[(i128, i128)], newer: &[(i128, i128)]) -> i128 {
    let (before, after) = (robust_mean(older), robust_mean(newer));
    if before == 0 {
        return 0;
    }
    let off = |half: &[(i128, i128)], mean: i128| -> i128 {
        half.iter().map(|(used, _)| ((*used).min(mean.saturating_mul(4)) - mean).abs()).sum()
    };
    let deviation = (off(older, before) + off(newer, after)) / i128::try_from(LEVEL_DAYS).unwrap_or(1);
    let grown = after - before;
    let certain = grown.signum() * (grown.abs() - deviation * CHANCE / 100).max(0);
    // two weeks lie between the halves
    (certain.saturating_mul(ONE) / before / 2).clamp(-MOST_GROWTH, MOST_GROWTH)
}

/// How many weeks of growth have passed on each day, while growth fades.
struct Fading {
    left: i128,
    weeks: i128,
}

impl Fading {
    /// From the middle of the level's days to the newest one.
    fn new() -> Self {
        let mut fading = Self { left: ONE, weeks: 0 };
        (0..LEVEL_AGE).for_each(|_| {
            fading.next_day();
        });
        fading
    }

    fn next_day(&mut self) -> i128 {
        self.weeks += self.left / 7;
        self.left = self.left * FADES / ONE;
        self.weeks
    }
}
