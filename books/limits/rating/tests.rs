//! Tables and properties of rating.

use proptest::prelude::*;

use super::*;
use crate::limits::terms::{BudgetFrom, PlanFrom};

const DAY: i64 = 86_400;
const METER: &str = "chime_minutes";

fn q(units: i64) -> Quantity {
    Quantity::from_scaled(i128::from(units) * 10_000_000_000)
}

fn day(n: i32) -> Day {
    Day::from_epoch(n).unwrap()
}

fn plan(name: &str, included: i64, price: Option<&str>, report: ReportMode) -> Plan {
    let terms = Terms { included: q(included), price: price.map(|p| p.parse().unwrap()), report };
    Plan {
        name: name.into(),
        currency: "USD".parse().unwrap(),
        effective_from: jiff::Timestamp::UNIX_EPOCH,
        meters: [(METER.to_owned(), terms)].into(),
    }
}

fn plans() -> Plans {
    Plans::new(vec![
        plan("core", 100, None, ReportMode::None),
        plan("pro", 1000, Some("0.01"), ReportMode::Overage),
        plan("big", 5000, Some("0.01"), ReportMode::Overage),
        plan("tiers", 1000, Some("0.01"), ReportMode::Total),
    ])
}

fn history(plans: &[(i64, &str)]) -> TermsHistory {
    let plan = |(from, plan): &(i64, &str)| PlanFrom { from: *from, plan: (*plan).into() };
    TermsHistory { plans: plans.iter().map(plan).collect(), budgets: vec![] }
}

fn budget(from: i64, amount_minor: Option<i64>) -> BudgetFrom {
    BudgetFrom { from, meter: String::new(), amount_minor, currency: "USD".into() }
}

/// A month of 30 days from day 0, cut after `days` of them.
fn month(days: i32) -> PeriodDays {
    PeriodDays { start: 0, first: day(0), last: day(days - 1), planned_last: day(29), month_days: 30 }
}

/// Rates usage by day; days of one stretch are added up.
fn rated(period: PeriodDays, history: &TermsHistory, usage: &[(i32, i64)], advance: Quantity) -> Rated {
    rated_as(period, history, usage, advance, OverageBilling::UpToBudget)
}

fn rated_as(
    period: PeriodDays,
    history: &TermsHistory,
    usage: &[(i32, i64)],
    advance: Quantity,
    overage: OverageBilling,
) -> Rated {
    let plans = plans();
    let mut by_stretch = StretchUsage::new();
    for stretch in history.stretches(period.first, period.last) {
        let on = |(at, _): &&(i32, i64)| stretch.first.epoch() <= *at && *at <= stretch.last.epoch();
        let sum = usage.iter().filter(on).map(|(_, units)| q(*units)).sum();
        by_stretch.insert((METER.into(), stretch.first), sum);
    }
    let agreement = Agreement { plans: &plans, history, overage };
    let meters = [METER.to_owned()];
    rate(period, agreement, &meters, &by_stretch, &[(METER.to_owned(), advance)].into()).unwrap().remove(METER).unwrap()
}

/// Within, billable, house and not priced, in whole units.
fn parts(rated: &Rated) -> [i64; 4] {
    [rated.within, rated.billable, rated.house, rated.not_priced]
        .map(|part| i64::try_from(part.scaled() / 10_000_000_000).unwrap())
}

#[test]
fn a_whole_month_includes_the_whole_amount() {
    let pro = history(&[(0, "pro")]);
    assert_eq!(parts(&rated(month(30), &pro, &[(3, 900), (20, 300)], q(0))), [1000, 200, 0, 0]);
    assert_eq!(rated(month(30), &pro, &[(3, 900), (20, 300)], q(0)).reported, q(200));
    let core = history(&[(0, "core")]);
    assert_eq!(parts(&rated(month(30), &core, &[(3, 150)], q(0))), [100, 0, 0, 50]);
    let tiers = rated(month(30), &history(&[(0, "tiers")]), &[(3, 1200)], q(0));
    assert_eq!(
        (parts(&tiers), tiers.reported),
        ([1000, 200, 0, 0], q(1200)),
        "Stripe's tiers take the included part off"
    );
}

#[test]
fn overage_that_was_due_is_not_given_back_by_an_upgrade() {
    let upgraded = history(&[(0, "pro"), (21 * DAY + 60, "big")]);
    // 200 beyond on day 10; then 5000 x 9/30 + 1000 x 21/30 = 2200 in all, 1000 of them used
    let found = rated(month(30), &upgraded, &[(10, 1200), (25, 1300)], q(0));
    assert_eq!(parts(&found), [2200, 300, 0, 0]);
}

#[test]
fn what_was_included_when_it_was_used_is_not_billed_after_a_downgrade() {
    let down = history(&[(0, "big"), (21 * DAY + 60, "pro")]);
    let found = rated(month(30), &down, &[(2, 4900)], q(0));
    assert_eq!(parts(&found), [4900, 0, 0, 0]);
    // 22 days of 5000 and 8 of 1000 are 3933: 967 were used in advance
    assert_eq!(found.advance.scaled() / 10_000_000_000, 966);
    let next = rated(month(30), &history(&[(0, "pro")]), &[(2, 900)], found.advance);
    assert_eq!(parts(&next), [33, 866, 0, 0]);
    assert_eq!(next.advance, q(0));
    // usage on the morning of the change was under the larger plan
    assert_eq!(parts(&rated(month(30), &down, &[(21, 4900)], q(0))), [4900, 0, 0, 0]);
}

#[test]
fn a_cut_month_takes_what_was_used_in_advance_off_the_next() {
    let pro = history(&[(0, "pro")]);
    let cut = rated(month(21), &pro, &[(3, 900)], q(0));
    assert_eq!((parts(&cut), cut.advance), ([900, 0, 0, 0], q(200)));
    assert_eq!(parts(&rated(month(30), &pro, &[(3, 900)], cut.advance)), [800, 100, 0, 0]);
    // what was not used of a cut month is gone with its days
    assert_eq!(rated(month(21), &pro, &[(3, 100)], q(0)).advance, q(0));
    // a period that begins in the month has its share of it
    let rest = PeriodDays { start: 20 * DAY, first: day(20), last: day(29), planned_last: day(29), month_days: 30 };
    assert_eq!(parts(&rated(rest, &pro, &[(22, 500)], q(0))), [333, 166, 0, 0]);
}

/// However many stretches the days with `report = "total"` are, the other days have their share.
#[test]
fn days_that_are_reported_in_total_are_counted_apart() {
    let mut changed = history(&[(0, "tiers"), (21 * DAY, "pro")]);
    // Stripe leaves 1000 of 1200 free; 9 days of pro include 300 of 500
    let found = rated(month(30), &changed, &[(3, 1200), (25, 500)], q(0));
    assert_eq!((parts(&found), found.reported, found.advance), ([1300, 400, 0, 0], q(1400), q(0)));
    for day in [5, 10, 15] {
        changed.budgets.push(budget(day * DAY, Some(100_000)));
        assert_eq!(parts(&rated(month(30), &changed, &[(3, 1200), (25, 500)], q(0))), [1300, 400, 0, 0]);
    }
    // what was used in advance of the other days is not made up for by Stripe's tiers
    let back = rated(month(30), &history(&[(0, "pro"), (21 * DAY, "tiers")]), &[(3, 900), (25, 500)], q(0));
    assert_eq!((parts(&back), back.reported, back.advance), ([1400, 0, 0, 0], q(500), q(200)));
    assert_eq!(rated(month(30), &history(&[(0, "tiers")]), &[(3, 100)], back.advance).advance, q(200));
}

#[test]
fn no_more_than_the_budget_is_billed() {
    let mut pro = history(&[(0, "pro")]);
    assert_eq!(parts(&rated(month(30), &pro, &[(3, 1300)], q(0))), [1000, 300, 0, 0], "nothing was promised");
    pro.budgets = vec![budget(-DAY, Some(200))];
    let found = rated(month(30), &pro, &[(3, 1300)], q(0));
    assert_eq!(parts(&found), [1000, 200, 100, 0]);
    let usd = "USD".parse().unwrap();
    assert_eq!((found.billable_cost.to_minor(usd), found.house_cost.to_minor(usd)), (200, 100));
    pro.budgets = vec![budget(-DAY, Some(0))];
    assert_eq!(parts(&rated(month(30), &pro, &[(3, 1300)], q(0))), [1000, 0, 300, 0]);
    let all = rated_as(month(30), &pro, &[(3, 1300)], q(0), OverageBilling::All);
    assert_eq!(parts(&all), [1000, 300, 0, 0]);
    // what was billed under the larger budget stays billed
    pro.budgets = vec![budget(-DAY, Some(200)), budget(10 * DAY + 5, Some(0))];
    assert_eq!(parts(&rated(month(30), &pro, &[(3, 1100), (20, 100)], q(0))), [1000, 100, 100, 0]);
    pro.budgets[0].currency = "EUR".into();
    pro.budgets.truncate(1);
    assert_eq!(parts(&rated(month(30), &pro, &[(3, 1100)], q(0))), [1000, 0, 100, 0], "euros bound no dollars");
}

#[test]
fn an_unknown_plan_is_not_rated() {
    let plans = plans();
    let unknown = history(&[(0, "gold")]);
    let agreement = Agreement { plans: &plans, history: &unknown, overage: OverageBilling::UpToBudget };
    let found = rate(month(30), agreement, &[METER.to_owned()], &StretchUsage::new(), &BTreeMap::new());
    assert!(found.is_none());
}

#[test]
fn what_aws_takes_back_lowers_the_usage_before_it() {
    let mut pro = history(&[(0, "pro")]);
    pro.budgets = vec![budget(10 * DAY, Some(100_000))];
    assert_eq!(parts(&rated(month(30), &pro, &[(3, 1300), (20, -200)], q(0))), [1000, 100, 0, 0]);
    assert_eq!(parts(&rated(month(30), &pro, &[(3, -200), (20, 1300)], q(0))), [1000, 100, 0, 0]);
    assert_eq!(parts(&rated(month(30), &pro, &[(3, -200)], q(0))), [-200, 0, 0, 0]);
}

#[test]
fn a_plan_name_that_was_a_mistake_counts_as_what_it_was_set_right_to() {
    let days = history(&[(0, "pro"), (5 * DAY, "gold"), (9 * DAY, "pro")]);
    assert_eq!(parts(&rated(month(30), &days, &[(7, 1200)], q(0))), [1000, 200, 0, 0]);
}

fn any_history() -> impl Strategy<Value = TermsHistory> {
    let plans = proptest::collection::vec((0..30 * DAY, prop_oneof![Just("core"), Just("pro"), Just("big")]), 0..4);
    let budgets = proptest::collection::vec((-DAY..30 * DAY, proptest::option::of(0..20_000_i64)), 0..4);
    (plans, budgets).prop_map(|(mut plans, mut budgets)| {
        plans.sort();
        budgets.sort();
        let mut found = history(&[(0, "pro")]);
        found.plans.extend(plans.iter().map(|(from, plan)| PlanFrom { from: *from, plan: (*plan).into() }));
        found.budgets = budgets.iter().map(|(from, amount)| budget(*from, *amount)).collect();
        found
    })
}

proptest! {
    /// Every unit ends in one part.
    #[test]
    fn the_parts_add_up(history in any_history(), usage in proptest::collection::vec((0..30_i32, -50..2000_i64), 0..20)) {
        let found = rated(month(30), &history, &usage, q(0));
        let all: i64 = usage.iter().map(|(_, units)| units).sum();
        prop_assert_eq!(found.used, q(all));
        prop_assert_eq!(found.within + found.billable + found.house + found.not_priced, found.used);
    }

    /// Nothing that is done later changes what the days before became.
    #[test]
    fn later_changes_leave_the_past(
        history in any_history(),
        usage in proptest::collection::vec((0..30_i32, 0..2000_i64), 0..20),
        until in 1..30_i32,
    ) {
        let end = i64::from(until) * DAY;
        let mut before = history.clone();
        before.plans.retain(|p| p.from < end);
        before.budgets.retain(|b| b.from < end);
        let early: Vec<(i32, i64)> = usage.iter().filter(|(at, _)| *at < until).copied().collect();
        let then = rated(month(30), &before, &early, q(0));
        let now = rated(month(30), &history, &early, q(0));
        let close = |a: Quantity, b: Quantity| (a - b).scaled().abs() < 1000;
        prop_assert!(close(then.within, now.within), "{:?} {:?}", then, now);
        prop_assert!(close(then.billable, now.billable), "{:?} {:?}", then, now);
    }

    /// However a month is cut, no more is within the plan than its days earn, but for what is
    /// taken off the next month.
    #[test]
    fn cutting_grants_no_more_than_the_days(
        cuts in proptest::collection::vec(1..29_i32, 0..8),
        usage in proptest::collection::vec((0..60_i32, 0..2000_i64), 0..30),
    ) {
        let pro = history(&[(0, "pro")]);
        let mut starts: Vec<i32> = cuts.iter().copied().chain([0]).collect();
        starts.sort_unstable();
        starts.dedup();
        let (mut within, mut advance, mut days) = (q(0), q(0), 0);
        for (at, start) in starts.iter().enumerate() {
            // each is meant to be a whole month
            let end = starts.get(at + 1).copied().unwrap_or(start + 30);
            let period = PeriodDays {
                start: i64::from(*start) * DAY, first: day(*start), last: day(end - 1), planned_last: day(start + 29), month_days: 30,
            };
            let own: Vec<(i32, i64)> = usage.iter().filter(|(d, _)| (*start..end).contains(d)).copied().collect();
            let found = rated(period, &pro, &own, advance);
            within += found.within;
            advance = found.advance;
            days += end - start;
        }
        let earned = q(1000).scaled() * i128::from(days) / 30;
        prop_assert!((within - advance).scaled() <= earned + i128::from(days));
    }

    /// A customer who has set a budget is billed no more than the largest that was set.
    #[test]
    fn the_budget_is_a_promise(
        amounts in proptest::collection::vec((0..30 * DAY, 0..20_000_i64), 0..4),
        usage in proptest::collection::vec((0..30_i32, 0..3000_i64), 0..20),
    ) {
        let mut pro = history(&[(0, "pro")]);
        pro.budgets = vec![budget(-DAY, Some(500))];
        pro.budgets.extend(amounts.iter().map(|(from, amount)| budget(*from, Some(*amount))));
        pro.budgets.sort_by_key(|b| b.from);
        let largest = pro.budgets.iter().filter_map(|b| b.amount_minor).max().unwrap();
        let found = rated(month(30), &pro, &usage, q(0));
        prop_assert!(found.billable_cost <= Cost::of_minor(largest, "USD".parse().unwrap()));
    }
}
