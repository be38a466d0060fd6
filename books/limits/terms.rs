//! The terms that a customer had from day to day: plans, and overage budgets. Pure.
//!
//! A change cuts the days into stretches. The day of a change is a stretch of its own: on it both
//! the plan before and the plan after hold, and of two budgets the larger one.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::units::calendar::Day;

const DAY: i64 = 86_400;
/// The budget for all meters together.
const ALL: &str = "";

/// A plan, and from when on the customer has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PlanFrom {
    pub from: i64,
    pub plan: String,
}

/// An overage budget, and from when on it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetFrom {
    pub from: i64,
    /// The meter that it caps; empty for all together.
    pub meter: String,
    /// In minor units; none = it was taken away.
    pub amount_minor: Option<i64>,
    pub currency: String,
}

/// Every plan and budget that a customer had, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TermsHistory {
    pub plans: Vec<PlanFrom>,
    pub budgets: Vec<BudgetFrom>,
}

/// Days on which the same terms hold, first and last included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stretch {
    pub first: Day,
    pub last: Day,
}

/// What overage may cost on some days, in minor units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// All meters together; none = there is no such budget.
    pub all: Option<i64>,
    /// Single meters.
    pub meters: BTreeMap<String, i64>,
}

impl Stretch {
    /// Number of days.
    pub fn days(self) -> i64 {
        i64::from(self.last.epoch()) - i64::from(self.first.epoch()) + 1
    }

    fn starts_at(self) -> i64 {
        i64::from(self.first.epoch()) * DAY
    }

    fn ends_at(self) -> i64 {
        (i64::from(self.last.epoch()) + 1) * DAY
    }
}

impl TermsHistory {
    /// The days from `first` to `last` in stretches, in order. None if `first` is after `last`.
    pub fn stretches(&self, first: Day, last: Day) -> Vec<Stretch> {
        let instants = self.plans.iter().map(|p| p.from).chain(self.budgets.iter().map(|b| b.from));
        let changes: BTreeSet<i64> = instants.map(|t| t.div_euclid(DAY)).collect();
        let (first, last) = (i64::from(first.epoch()), i64::from(last.epoch()));
        let cuts = changes.iter().flat_map(|day| [*day, day + 1]).filter(|day| first < *day && *day <= last);
        let starts: BTreeSet<i64> = cuts.chain([first]).collect();
        let ends = starts.iter().skip(1).map(|next| next - 1).chain([last]);
        let day = |epoch: i64| i32::try_from(epoch).ok().and_then(Day::from_epoch);
        let stretch = |(first, last): (&i64, i64)| Some(Stretch { first: day(*first)?, last: day(last)? });
        if first > last { vec![] } else { starts.iter().zip(ends).filter_map(stretch).collect() }
    }

    /// The plans that held on a stretch, in order: more than one on the day of a change. The first
    /// plan also holds before it was set.
    pub fn plans_on(&self, stretch: Stretch) -> Vec<&str> {
        let before = self.plans.iter().rposition(|p| p.from <= stretch.starts_at()).unwrap_or(0);
        let held =
            self.plans.iter().enumerate().filter(|(at, p)| *at == before || *at > before && p.from < stretch.ends_at());
        held.map(|(_, p)| p.plan.as_str()).collect()
    }

    /// The plans that were set after a stretch, in order.
    pub fn plans_after(&self, stretch: Stretch) -> Vec<&str> {
        self.plans.iter().filter(|p| p.from >= stretch.ends_at()).map(|p| p.plan.as_str()).collect()
    }

    /// What overage may cost on a stretch, in the plan's `currency`; none while no budget was ever
    /// set. A budget in another currency cannot be compared, so it counts as 0.
    pub fn caps_on(&self, stretch: Stretch, currency: &str) -> Option<Caps> {
        let (known, day): (Vec<_>, Vec<_>) =
            self.budgets.iter().filter(|b| b.from < stretch.ends_at()).partition(|b| b.from <= stretch.starts_at());
        // on its first day the budget has not held yet
        if known.is_empty() {
            return None;
        }
        let worth = |b: &BudgetFrom| b.amount_minor.map(|amount| if b.currency == currency { amount } else { 0 });
        let mut caps: BTreeMap<&str, i64> = BTreeMap::new();
        for budget in known {
            match worth(budget) {
                Some(amount) => caps.insert(&budget.meter, amount),
                None => caps.remove(budget.meter.as_str()),
            };
        }
        for budget in day {
            let Some(amount) = worth(budget) else { continue };
            let cap = caps.entry(&budget.meter).or_default();
            *cap = (*cap).max(amount);
        }
        let own = |(meter, amount): (&&str, &i64)| (*meter != ALL).then(|| ((*meter).to_owned(), *amount));
        Some(Caps { all: caps.get(ALL).copied(), meters: caps.iter().filter_map(own).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> Day {
        text.parse().unwrap()
    }

    fn noon(text: &str) -> i64 {
        i64::from(day(text).epoch()) * DAY + DAY / 2
    }

    fn stretch(first: &str, last: &str) -> Stretch {
        Stretch { first: day(first), last: day(last) }
    }

    fn plan(from: i64, plan: &str) -> PlanFrom {
        PlanFrom { from, plan: plan.into() }
    }

    fn budget(from: i64, meter: &str, amount_minor: Option<i64>) -> BudgetFrom {
        BudgetFrom { from, meter: meter.into(), amount_minor, currency: "USD".into() }
    }

    #[test]
    fn the_day_of_a_change_is_a_stretch_of_its_own() {
        let history = TermsHistory {
            plans: vec![plan(0, "core"), plan(noon("2026-03-22"), "pro")],
            budgets: vec![budget(noon("2026-03-31"), "", Some(5)), budget(noon("2026-05-01"), "", None)],
        };
        let found = history.stretches(day("2026-03-01"), day("2026-03-31"));
        let expected = [
            stretch("2026-03-01", "2026-03-21"),
            stretch("2026-03-22", "2026-03-22"),
            stretch("2026-03-23", "2026-03-30"),
            stretch("2026-03-31", "2026-03-31"),
        ];
        assert_eq!(found, expected);
        assert_eq!(found.iter().map(|s| s.days()).sum::<i64>(), 31);
        assert!(history.stretches(day("2026-03-02"), day("2026-03-01")).is_empty());
        let plans: Vec<Vec<&str>> = found.iter().map(|s| history.plans_on(*s)).collect();
        assert_eq!(plans, [vec!["core"], vec!["core", "pro"], vec!["pro"], vec!["pro"]]);
    }

    #[test]
    fn the_first_plan_holds_before_it_was_set() {
        let history = TermsHistory { plans: vec![plan(noon("2026-03-22"), "pro")], budgets: vec![] };
        assert_eq!(history.plans_on(stretch("2026-01-01", "2026-01-31")), ["pro"]);
        assert_eq!(history.plans_on(stretch("2026-03-22", "2026-03-22")), ["pro"]);
    }

    #[test]
    fn a_budget_holds_from_the_day_after_it_was_set_and_the_larger_on_the_day_of_a_change() {
        let history = TermsHistory {
            plans: vec![],
            budgets: vec![
                budget(noon("2026-03-05"), "", Some(100)),
                budget(noon("2026-03-10"), "", Some(10)),
                budget(noon("2026-03-20"), "", None),
                budget(noon("2026-03-20") + 1, "chime_minutes", Some(7)),
            ],
        };
        let all = |first: &str, last: &str| history.caps_on(stretch(first, last), "USD").map(|caps| caps.all);
        assert_eq!(all("2026-03-01", "2026-03-04"), None);
        assert_eq!(all("2026-03-05", "2026-03-05"), None, "what was used that morning was under no budget");
        assert_eq!(all("2026-03-06", "2026-03-09"), Some(Some(100)));
        assert_eq!(all("2026-03-10", "2026-03-10"), Some(Some(100)));
        assert_eq!(all("2026-03-11", "2026-03-19"), Some(Some(10)));
        assert_eq!(all("2026-03-21", "2026-03-31"), Some(None));
        let last = history.caps_on(stretch("2026-03-21", "2026-03-31"), "USD").unwrap();
        assert_eq!(last.meters, [("chime_minutes".to_owned(), 7)].into());
    }

    #[test]
    fn only_the_budget_in_another_currency_counts_as_nothing() {
        let mut history = TermsHistory {
            plans: vec![],
            budgets: vec![
                budget(noon("2026-03-05"), "chime_minutes", Some(100)),
                budget(noon("2026-03-05"), "storage_gb", Some(70)),
                budget(noon("2026-03-20"), "chime_minutes", Some(50)),
            ],
        };
        history.budgets[0].currency = "EUR".into();
        let on =
            |day: &str| history.caps_on(stretch(day, day), "USD").unwrap().meters.into_values().collect::<Vec<_>>();
        assert_eq!(on("2026-03-06"), [0, 70]);
        // 100 EUR are no 100 USD on the day of the change either
        assert_eq!(on("2026-03-20"), [50, 70]);
    }
}
