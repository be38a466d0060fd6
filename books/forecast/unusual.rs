//! Days far outside of what was expected of them. Pure.
//!
//! A settled day of the last week is forecast from the days before it, and what came is divided by
//! that. The limits are what all but one of a hundred past days of the meter's customers kept,
//! doubled: with thousands of customers, one of a hundred is every day. A day must be beyond the
//! customer's own largest (or smallest) day, too, and of a size that matters for the meter.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ONE;
use super::calibration::{FEW, LEAST_HISTORY, cut_offs};
use super::pattern::{WeekdayFactors, median};
use super::rule::{CustomerClass, ForecastRule, Horizon, expected};
use crate::units::calendar::Day;
use crate::units::quantity::Quantity;

/// The newest settled days that are judged. An older day is no finding any more.
pub const JUDGED: usize = 7;
/// After so many days as usual an earlier one is no finding any more.
const AS_USUAL: usize = 2;
/// Past days of each customer from which the limits are learnt; of a single series all of them.
const PAST_DAYS: usize = 24;
const PAST_DAYS_OF_FEW: usize = 182;
/// With fewer past days no day is unusual.
const LEAST_DAYS: usize = 100;
/// Days beyond the limits by less than this many times are chance.
const FAR: i128 = 2;
/// A customer's day matters when it differs by more than this share of a typical day of all
/// customers, in percent.
const LEAST_SHARE: i128 = 1;
/// The first day of a customer matters from this share on, in percent; and so does the difference
/// of a meter as a whole, as a share of what was expected.
const LARGE_SHARE: i128 = 20;
/// Days before a day that are its customer's own measure.
const OWN_DAYS: usize = 28;
const ONE_DAY: Horizon = Horizon { so_far: 0, days: 1 };

/// Why a day may be unusual.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LikelyCause {
    /// A bill changed the day after another one had settled it.
    Restatement,
    /// Usage without a customer changed by as much in the other direction.
    TagChange,
    /// What the web backend measured of the day is far from what AWS billed.
    MeasuredDiffers,
    /// The customer began to use the meter in the last two weeks.
    NewCustomer,
    /// The web backend measured as much: it was used.
    MeasuredAgrees,
    Unknown,
}

impl LikelyCause {
    pub fn words(self) -> &'static str {
        match self {
            Self::Restatement => "a later bill changed the day (restatement)",
            Self::TagChange => "usage without a customer changed by as much the other way (a tag changed)",
            Self::MeasuredDiffers => "the web backend measured something else",
            Self::NewCustomer => "the customer is new",
            Self::MeasuredAgrees => "the web backend measured as much, so it was used",
            Self::Unknown => "no cause is known",
        }
    }
}

/// A day far outside of what was expected.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct UnusualDay {
    pub meter: String,
    /// Empty for usage without a customer, none for the meter as a whole.
    pub customer: Option<String>,
    pub day: Day,
    pub used: Quantity,
    pub expected: Quantity,
    pub cause: LikelyCause,
}

impl UnusualDay {
    pub fn difference(&self) -> Quantity {
        self.used - self.expected
    }
}

/// An unusual day of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundDay {
    /// The number of the day in its history.
    pub at: usize,
    pub used: i128,
    pub expected: i128,
    pub is_new: bool,
}

/// Whether a history is that of one customer among others, or of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryOf {
    Customer,
    Meter,
}

/// Ratios that past days kept, in millionths.
#[derive(Clone, Copy, Debug)]
struct Limits {
    lower: i128,
    upper: i128,
}

/// What is usual for the days of a meter.
#[derive(Clone, Debug)]
pub struct UsualDays {
    factors: WeekdayFactors,
    limits: BTreeMap<CustomerClass, Limits>,
    /// A typical day of all usage.
    typical: i128,
}

impl UsualDays {
    /// Learns from histories that end on the same day, without the days that are judged.
    pub fn learn(series: &[&[i128]], all: &[i128]) -> Self {
        let known = all.len().saturating_sub(JUDGED);
        let factors = WeekdayFactors::of(&all[..known]);
        let mut ratios: BTreeMap<CustomerClass, Vec<i128>> = BTreeMap::new();
        let most = if series.len() < FEW { PAST_DAYS_OF_FEW } else { PAST_DAYS };
        for end in cut_offs(known, ONE_DAY.days, most) {
            for history in series {
                let of = expected(ForecastRule::WeekdayPattern, &history[..end], &factors, ONE_DAY);
                if of.sum() > 0 {
                    let ratio = history[end].max(0).saturating_mul(ONE) / of.sum();
                    ratios.entry(of.class).or_default().push(ratio);
                }
            }
        }
        let limits = ratios.into_iter().filter(|(_, of)| of.len() >= LEAST_DAYS).map(|(class, mut of)| {
            of.sort_unstable();
            let rank = of.len().div_ceil(100);
            (class, Limits { lower: of[rank - 1], upper: of[of.len() - rank] })
        });
        let mut newest: Vec<i128> = all[known.saturating_sub(OWN_DAYS)..known].to_vec();
        Self { factors, limits: limits.collect(), typical: median(&mut newest) }
    }

    /// The newest unusual day of a history, unless the days after it are as usual. The history
    /// begins on the same weekday as those that were learnt.
    pub fn find(&self, history: &[i128], of: HistoryOf) -> Option<FoundDay> {
        let first = history.len().saturating_sub(JUDGED).max(LEAST_HISTORY);
        let (mut found, mut as_usual): (Option<FoundDay>, usize) = (None, 0);
        let mut history = history.to_vec();
        for at in first..history.len() {
            match self.judge(&history, at, of) {
                Some(day) => {
                    as_usual = 0;
                    // a level that stays is one finding, and does not become usual within the week
                    history[at] = day.expected;
                    found = found.or(Some(day));
                }
                None => as_usual += 1,
            }
            if as_usual >= AS_USUAL {
                found = None;
            }
        }
        found
    }

    fn judge(&self, history: &[i128], at: usize, of: HistoryOf) -> Option<FoundDay> {
        let (before, used) = (&history[..at], history[at].max(0));
        let ahead = expected(ForecastRule::WeekdayPattern, before, &self.factors, ONE_DAY);
        let expected = ahead.sum();
        let flat = |day: usize| history[day].max(0).saturating_mul(ONE) / self.factors.at(day);
        let own = || (at - OWN_DAYS.min(at)..at).map(flat);
        let (least, most) = (own().min()?, own().max()?);
        let difference = (used - expected).abs();
        let found = FoundDay { at, used, expected, is_new: expected == 0 || ahead.class == CustomerClass::New };
        let matters = match of {
            HistoryOf::Customer => is_beyond(difference, LEAST_SHARE, self.typical),
            HistoryOf::Meter => is_beyond(difference, LARGE_SHARE, expected),
        };
        if !matters {
            return None;
        }
        if expected == 0 {
            return is_beyond(used, LARGE_SHARE, self.typical).then_some(found);
        }
        let limits = self.limits.get(&ahead.class)?;
        let ratio = used.saturating_mul(ONE) / expected;
        let above = ratio > limits.upper.saturating_mul(FAR) && flat(at) > most.saturating_mul(FAR);
        let below = ratio.saturating_mul(FAR) < limits.lower && flat(at).saturating_mul(FAR) < least;
        (above || below).then_some(found)
    }

    /// Whether what is without a customer changed by about as much in the other direction: within
    /// a quarter.
    pub fn is_opposite(&self, untagged: &[i128], of: &FoundDay) -> bool {
        let Some(used) = untagged.get(of.at) else { return false };
        let expected = expected(ForecastRule::WeekdayPattern, &untagged[..of.at], &self.factors, ONE_DAY).sum();
        let (own, other) = (of.used - of.expected, used - expected);
        (own + other).abs().saturating_mul(4) <= own.abs()
    }
}

fn is_beyond(amount: i128, percent: i128, of: i128) -> bool {
    amount.saturating_mul(100) > of.max(0).saturating_mul(percent)
}

/// The findings of a meter: the largest differences first, and of the meter as a whole only what no
/// customer explains.
pub fn ordered(mut found: Vec<UnusualDay>) -> Vec<UnusualDay> {
    let explained: BTreeSet<(String, Day)> = {
        let mut sums: BTreeMap<(&str, Day), Quantity> = BTreeMap::new();
        for of in found.iter().filter(|of| of.customer.is_some()) {
            *sums.entry((&of.meter, of.day)).or_default() += of.difference();
        }
        let is_explained = |of: &&UnusualDay| {
            let (all, of_customers) = (of.difference(), sums.get(&(of.meter.as_str(), of.day)).copied());
            let half = Quantity::from_scaled(all.scaled().abs() / 2);
            of_customers.is_some_and(|sum| sum.abs() >= half && (sum > Quantity::ZERO) == (all > Quantity::ZERO))
        };
        let whole = found.iter().filter(|of| of.customer.is_none());
        whole.filter(is_explained).map(|of| (of.meter.clone(), of.day)).collect()
    };
    found.retain(|of| of.customer.is_some() || !explained.contains(&(of.meter.clone(), of.day)));
    found.sort_by_cached_key(|of| (std::cmp::Reverse(of.difference().abs()), of.customer.clone(), of.day));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forecast::generated::{WORLDS, all};

    /// The histories end on a Friday.
    const DAYS: usize = crate::forecast::generated::DAYS - 2;

    fn learnt(series: &[Vec<i128>]) -> UsualDays {
        UsualDays::learn(&series.iter().map(Vec::as_slice).collect::<Vec<_>>(), &all(series))
    }

    fn found(series: &[Vec<i128>]) -> Vec<(usize, FoundDay)> {
        let usual = learnt(series);
        let find = |(n, of): (usize, &Vec<i128>)| Some((n, usual.find(of, HistoryOf::Customer)?));
        series.iter().enumerate().filter_map(find).collect()
    }

    fn world(n: usize, seed: u64) -> Vec<Vec<i128>> {
        WORLDS[n].histories(seed).into_iter().map(|of| of[..DAYS].to_vec()).collect()
    }

    /// The largest customer.
    fn largest(series: &[Vec<i128>]) -> usize {
        (0..series.len()).max_by_key(|n| series[*n].iter().sum::<i128>()).unwrap()
    }

    #[test]
    fn usual_days_are_silent() {
        let mut judged = 0;
        for (n, of) in WORLDS[..3].iter().enumerate() {
            for seed in 1..=4 {
                let series = world(n, seed);
                judged += series.len() * JUDGED;
                assert_eq!(found(&series), [], "{} {seed}", of.name);
            }
        }
        assert!(judged > 10_000, "{judged}");
    }

    #[test]
    fn what_is_far_outside_is_found_until_two_days_are_as_usual() {
        let series = world(1, 7);
        let big = largest(&series);
        for (days_ago, factor, is_found) in [
            (1, (10, 1), true),
            (1, (1, 1), false),
            // nothing at all
            (1, (0, 1), true),
            (2, (10, 1), true),
            // two days as usual came since
            (3, (10, 1), false),
            (7, (10, 1), false),
            (8, (10, 1), false),
        ] {
            let mut wrong = series.clone();
            let day = &mut wrong[big][DAYS - days_ago];
            *day = *day * factor.0 / factor.1;
            let of: Vec<(usize, usize)> = found(&wrong).into_iter().map(|(n, of)| (n, of.at)).collect();
            let expected = if is_found { vec![(big, DAYS - days_ago)] } else { vec![] };
            assert_eq!(of, expected, "{days_ago} days ago, times {factor:?}");
        }
        // a level that stays is one finding, of its first day
        let mut risen = series.clone();
        risen[big][DAYS - 4..].iter_mut().for_each(|day| *day *= 12);
        let of = found(&risen);
        assert_eq!((of.len(), of[0].1.at), (1, DAYS - 4), "{of:?}");
    }

    #[test]
    fn trifles_are_silent_and_a_large_new_customer_is_not() {
        let mut series = world(1, 7);
        let small = (0..series.len()).min_by_key(|n| series[*n].iter().sum::<i128>()).unwrap();
        series[small][DAYS - 1] *= 20;
        assert_eq!(found(&series), []);
        // a fifth of all usage on a first day
        let day = all(&series)[DAYS - 8];
        for (share, is_found) in [(10, false), (50, true)] {
            let mut joined = series.clone();
            joined.push([vec![0; DAYS - 1], vec![day * share / 100]].concat());
            let of = found(&joined);
            assert_eq!(of.len(), usize::from(is_found), "{share} %: {of:?}");
            assert!(of.iter().all(|(n, of)| *n == series.len() && of.is_new && of.expected == 0));
        }
    }

    #[test]
    fn a_meter_as_a_whole_is_judged_by_its_own_past() {
        let series = world(1, 7);
        let whole = all(&series);
        let usual = UsualDays::learn(&[&whole], &whole);
        assert_eq!(usual.find(&whole, HistoryOf::Meter), None);
        for (factor, is_found) in [(3, true), (0, true), (1, false)] {
            let mut wrong = whole.clone();
            wrong[DAYS - 1] *= factor;
            assert_eq!(usual.find(&wrong, HistoryOf::Meter).is_some(), is_found, "{factor}");
        }
        // what nobody can know is no finding
        let short = UsualDays::learn(&[&whole[..40]], &whole[..40]);
        assert_eq!(short.find(&[&whole[..39], &[0]].concat(), HistoryOf::Meter), None);
    }

    #[test]
    fn a_tag_that_changed_moves_usage_from_one_to_the_other() {
        let series = world(1, 7);
        let (usual, big) = (learnt(&series), largest(&series));
        let gone = FoundDay { at: DAYS - 1, used: 0, expected: series[big][DAYS - 1], is_new: false };
        let untagged = |more: i128| [series[3][..DAYS - 1].to_vec(), vec![series[3][DAYS - 1] + more]].concat();
        assert!(usual.is_opposite(&untagged(gone.expected), &gone));
        assert!(!usual.is_opposite(&untagged(0), &gone));
        assert!(!usual.is_opposite(&untagged(-gone.expected), &gone));
        assert!(!usual.is_opposite(&[], &gone));
    }

    #[test]
    fn the_largest_comes_first_and_a_customer_explains_its_meter() {
        let of = |customer: Option<&str>, used: i128, expected: i128| UnusualDay {
            meter: "m".into(),
            customer: customer.map(str::to_owned),
            day: Day::EPOCH,
            used: Quantity::from_scaled(used),
            expected: Quantity::from_scaled(expected),
            cause: LikelyCause::Unknown,
        };
        let (whole, ann, bob) = (of(None, 200, 100), of(Some("ann"), 70, 10), of(Some("bob"), 0, 90));
        assert_eq!(ordered(vec![whole.clone(), ann.clone()]), vec![ann]);
        // bob's days explain a fall, not a rise
        assert_eq!(ordered(vec![bob.clone(), whole.clone()]), [whole.clone(), bob.clone()]);
        let little = of(Some("ann"), 40, 10);
        assert_eq!(ordered(vec![little.clone(), whole.clone()]), [whole, little]);
    }
}
