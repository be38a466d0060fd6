//! Tables and properties of [`decide`](super::decide).

use proptest::prelude::*;

use super::*;
use books::limits::plan::{ReportMode, TURN};

fn terms(included: &str, price: Option<&str>) -> Option<Terms> {
    let price = price.map(|p| p.parse().unwrap());
    Some(Terms { included: included.parse().unwrap(), price, report: ReportMode::Overage })
}

/// A whole month under one plan.
fn grant(terms: Option<Terms>) -> Grant {
    Grant { until: terms.map_or(Quantity::ZERO, |t| t.included), cost_before: Cost::ZERO }
}

fn meter(name: &'static str, terms: Option<Terms>, used: &str) -> MeterCase<'static> {
    MeterCase { meter: name, terms, grant: grant(terms), used: used.parse().unwrap(), budget: None }
}

fn case(budget: Option<i64>, meters: Vec<MeterCase<'static>>) -> CustomerCase<'static> {
    CustomerCase {
        payment: PaymentStatus::Good,
        currency: Some("USD".parse().unwrap()),
        budget,
        budget_in_other_currency: false,
        data_too_old: false,
        meters,
    }
}

/// Allowed, reason and limit of the first meter.
fn first(case: &CustomerCase<'_>) -> (bool, Reason, Option<String>) {
    let d = decide(case).meters[0].clone();
    (d.allowed, d.reason, d.limit.map(|l| l.to_string()))
}

#[test]
fn one_meter_alone() {
    let limit = |text: &str| Some(text.to_owned());
    for (included, price, used, budget, expected) in [
        ("500", None, "0", None, (true, Reason::WithinIncluded, limit("500"))),
        ("500", None, "499", None, (true, Reason::WithinIncluded, limit("500"))),
        ("500", None, "500", None, (false, Reason::IncludedUsed, limit("500"))),
        ("500", None, "500", Some(1000), (false, Reason::IncludedUsed, limit("500"))),
        ("500", Some("0.01"), "500", None, (false, Reason::NoBudget, limit("500"))),
        ("500", Some("0.01"), "500", Some(0), (false, Reason::NoBudget, limit("500"))),
        ("500", Some("0.01"), "500", Some(1000), (true, Reason::WithinBudget, limit("1500"))),
        ("500", Some("0.01"), "1499.9999999999", Some(1000), (true, Reason::WithinBudget, limit("1500"))),
        ("500", Some("0.01"), "1500", Some(1000), (false, Reason::BudgetSpent, limit("1500"))),
        ("500", Some("0.03"), "0", Some(100), (true, Reason::WithinIncluded, limit("533.3333333334"))),
        ("0", Some("0.01"), "0", None, (false, Reason::NoBudget, limit("0"))),
        ("0", Some("0.01"), "0", Some(1), (true, Reason::WithinBudget, limit("1"))),
        ("0", None, "0", Some(1000), (false, Reason::IncludedUsed, limit("0"))),
        ("5", Some("0"), "900000000", Some(1), (true, Reason::WithinBudget, None)),
        ("5", Some("0"), "5", Some(0), (false, Reason::NoBudget, limit("5"))),
        ("5", Some("0.01"), "-3", None, (true, Reason::WithinIncluded, limit("5"))),
        ("0", None, "-3", Some(100), (false, Reason::IncludedUsed, limit("0"))),
    ] {
        let case = case(budget, vec![meter("m", terms(included, price), used)]);
        assert_eq!(first(&case), expected, "{included} {price:?} {used} {budget:?}");
    }
}

/// Its price counts as none: it opens no overage, and takes nothing from the budget of the others.
#[test]
fn what_is_billed_nowhere_has_no_overage_and_spends_no_budget() {
    let silent = |report| terms("10", Some("1")).map(|terms| Terms { report, ..terms });
    for (name, report, billed) in [
        ("m", ReportMode::None, false),
        ("m", ReportMode::Overage, true),
        ("m", ReportMode::Total, true),
        (TURN, ReportMode::None, false),
        (TURN, ReportMode::Overage, false),
    ] {
        for budget in [None, Some(0), Some(100_000)] {
            let meters = vec![meter(name, silent(report), "15"), meter("other", terms("10", Some("1")), "10")];
            let decided = decide(&case(budget, meters));
            let [own, other] = &decided.meters[..] else { panic!("two meters: {decided:?}") };
            assert_eq!(
                decided.cost.to_minor("USD".parse().unwrap()),
                if billed { 500 } else { 0 },
                "{name} {report:?}"
            );
            assert_eq!(other.allowed, budget == Some(100_000));
            let limit = own.limit.map(|l| l.to_string());
            if billed {
                assert_eq!(own.allowed, budget == Some(100_000), "{name} {report:?} {budget:?}");
            } else {
                assert_eq!((own.allowed, own.reason, limit), (false, Reason::IncludedUsed, Some("10".into())));
                assert_eq!(
                    other.limit.map(|l| l.to_string()),
                    Some(if budget == Some(100_000) { "1010" } else { "10" }.into())
                );
            }
        }
    }
}

#[test]
fn what_others_cost_is_taken_from_the_same_budget() {
    let meters = vec![
        meter("a", terms("100", Some("0.10")), "100"),
        meter("b", terms("10", Some("1")), "16"),
        meter("c", terms("10", None), "9"),
    ];
    let decided = decide(&case(Some(1000), meters.clone()));
    assert_eq!(decided.cost.to_minor("USD".parse().unwrap()), 600);
    let limits: Vec<_> = decided.meters.iter().map(|d| d.limit.unwrap().to_string()).collect();
    assert_eq!(limits, ["140", "20", "10"]);
    assert!(decided.meters.iter().all(|d| d.allowed));
    // the budget is spent by b alone: a stops at what is included, which it has used; c goes on
    // within its own
    let decided = decide(&case(Some(600), meters));
    let answers: Vec<_> = decided.meters.iter().map(|d| (d.allowed, d.reason)).collect();
    assert_eq!(answers, [(false, Reason::BudgetSpent), (false, Reason::BudgetSpent), (true, Reason::WithinIncluded)]);
}

#[test]
fn a_meter_may_have_a_budget_of_its_own() {
    let one = |all, own, used| {
        let meter = MeterCase { budget: own, ..meter("m", terms("10", Some("1")), used) };
        first(&case(all, vec![meter]))
    };
    let limit = |text: &str| Some(text.to_owned());
    assert_eq!(one(Some(1000), Some(300), "12"), (true, Reason::WithinBudget, limit("13")));
    assert_eq!(one(Some(1000), Some(300), "13"), (false, Reason::MeterBudgetSpent, limit("13")));
    assert_eq!(one(Some(200), Some(300), "13"), (false, Reason::BudgetSpent, limit("12")));
    assert_eq!(one(None, Some(300), "12"), (true, Reason::WithinBudget, limit("13")), "without a budget for all");
    assert_eq!(one(None, Some(0), "10"), (false, Reason::MeterBudgetSpent, limit("10")));
    assert_eq!(one(Some(0), Some(300), "10"), (false, Reason::BudgetSpent, limit("10")));
}

#[test]
fn who_does_not_pay_gets_what_the_policy_says() {
    let good = case(Some(1000), vec![meter("m", terms("10", Some("1")), "5")]);
    let beyond = |case: &CustomerCase<'static>| CustomerCase {
        meters: vec![meter("m", terms("10", Some("1")), "11")],
        ..case.clone()
    };
    for (payment, within, after) in [
        (PaymentStatus::Good, (true, Reason::WithinIncluded), (true, Reason::WithinBudget)),
        (PaymentStatus::PastDue, (true, Reason::WithinIncluded), (false, Reason::PastDue)),
        (PaymentStatus::Unpaid, (false, Reason::Unpaid), (false, Reason::Unpaid)),
        (PaymentStatus::Paused, (false, Reason::Paused), (false, Reason::Paused)),
        (PaymentStatus::Canceled, (false, Reason::Canceled), (false, Reason::Canceled)),
    ] {
        let now = CustomerCase { payment, ..good.clone() };
        let (allowed, reason, _) = first(&now);
        assert_eq!((allowed, reason), within, "{payment:?}");
        let (allowed, reason, _) = first(&beyond(&now));
        assert_eq!((allowed, reason), after, "{payment:?}");
    }
    let old = CustomerCase { data_too_old: true, ..good.clone() };
    assert_eq!(first(&old), (true, Reason::WithinIncluded, Some("10".into())));
    assert_eq!(first(&beyond(&old)).1, Reason::DataTooOld);
    let foreign = CustomerCase { budget_in_other_currency: true, ..good.clone() };
    assert!(first(&foreign).0);
    assert_eq!(first(&beyond(&foreign)).1, Reason::BudgetInOtherCurrency);
    assert_eq!(first(&CustomerCase { currency: None, ..good.clone() }).1, Reason::UnknownPlan);
    assert_eq!(first(&CustomerCase { meters: vec![meter("m", None, "0")], ..good }).1, Reason::NotInPlan);
}

/// AWS took back more than it had given in the period. What counts as used is 0 then, so limit and
/// answer agree. Found by the properties below.
#[test]
fn a_cancelled_customer_with_negative_usage_may_use_nothing() {
    let meter = meter("m", terms("0", None), "-0.01");
    let case = CustomerCase { payment: PaymentStatus::Canceled, ..case(None, vec![meter]) };
    assert_eq!(first(&case), (false, Reason::Canceled, Some("0".into())));
    assert!(!naive(&case, 0));
}

#[test]
fn payment_status_is_the_worse_of_customer_and_subscription() {
    for (customer, subscription, payment) in [
        ("active", None, PaymentStatus::Good),
        ("active", Some("active"), PaymentStatus::Good),
        ("active", Some("trialing"), PaymentStatus::Good),
        ("past_due", Some("active"), PaymentStatus::PastDue),
        ("active", Some("past_due"), PaymentStatus::PastDue),
        ("past_due", Some("unpaid"), PaymentStatus::Unpaid),
        ("past_due", Some("paused"), PaymentStatus::Paused),
        ("active", Some("canceled"), PaymentStatus::Canceled),
        ("canceled", Some("active"), PaymentStatus::Canceled),
        ("canceled", None, PaymentStatus::Canceled),
    ] {
        assert_eq!(PaymentStatus::of(customer, subscription), payment, "{customer} {subscription:?}");
    }
}

/// A meter with up to 1,000 units included, a price with four decimals, and use in hundredths.
fn any_meter() -> impl Strategy<Value = MeterCase<'static>> {
    let report = prop_oneof![4 => Just(ReportMode::Overage), 1 => Just(ReportMode::Total), 1 => Just(ReportMode::None)];
    let numbers = (0..1000_i64, prop::option::of(0..50_000_i64), -100..300_000_i64, prop::option::of(0..5000_i64));
    (numbers, report).prop_map(|((included, price, used, budget), report)| {
        let terms = Some(Terms {
            included: Quantity::from_scaled(i128::from(included) * 10_000_000_000),
            price: price.map(|p| rust_decimal::Decimal::new(p, 4).to_string().parse().unwrap()),
            report,
        });
        let used = Quantity::from_scaled(i128::from(used) * 100_000_000);
        MeterCase { meter: "m", terms, grant: grant(terms), used, budget }
    })
}

fn any_case() -> impl Strategy<Value = CustomerCase<'static>> {
    let payment = prop_oneof![3 => Just(PaymentStatus::Good), 1 => Just(PaymentStatus::PastDue), 1 => Just(PaymentStatus::Canceled)];
    (prop::collection::vec(any_meter(), 1..5), prop::option::of(0..20_000_i64), payment)
        .prop_map(|(meters, budget, payment)| CustomerCase { payment, ..case(budget, meters) })
}

#[test]
fn what_was_beyond_an_earlier_plan_has_spent_its_part_of_the_budget() {
    // 200 of 1,200 were beyond the old plan; the new one includes up to 2,400, and 5 dollars are
    // 500 more
    let spent = Cost::of("200".parse().unwrap(), "0.01".parse().unwrap());
    let grant = Grant { until: "2400".parse().unwrap(), cost_before: spent };
    let of = |used: &str| MeterCase { grant, ..meter("m", terms("5000", Some("0.01")), used) };
    let found = decide(&case(Some(500), vec![of("1300")])).meters.remove(0);
    assert_eq!((found.reason, found.cost), (Reason::WithinIncluded, spent));
    assert_eq!(found.limit, Some("2700".parse().unwrap()), "3 dollars are left");
}

/// The rule in other words, in plain integers: cents × 10⁴ for used in hundredths and prices with
/// four decimals.
fn naive(case: &CustomerCase<'_>, at: usize) -> bool {
    let plain = |m: &MeterCase<'_>| {
        let t = m.terms.unwrap();
        let over = (m.used.scaled() - t.included.scaled()).max(0) / 100_000_000;
        let price = t.price.filter(|_| t.report != ReportMode::None).map_or(0, |p| {
            let price: rust_decimal::Decimal = p.to_string().parse().unwrap();
            (price * rust_decimal::Decimal::from(10_000)).mantissa()
                / 10_i128.pow((price * rust_decimal::Decimal::from(10_000)).scale())
        });
        over * price
    };
    let m = &case.meters[at];
    let t = m.terms.unwrap();
    let total: i128 = case.meters.iter().map(plain).sum();
    // hundredths of a unit × 10⁻⁴ dollars = 10⁻⁴ cents
    let cents = |minor: i64| i128::from(minor) * 10_000;
    match case.payment {
        PaymentStatus::Canceled => false,
        _ if m.counted() < t.included => true,
        PaymentStatus::PastDue => false,
        _ if t.price.is_none() || t.report == ReportMode::None => false,
        _ => match (case.budget, m.budget) {
            (None, None) => false,
            (None, Some(own)) => plain(m) < cents(own),
            (Some(all), own) => total < cents(all) && own.is_none_or(|own| plain(m) < cents(own)),
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn it_equals_a_naive_model_and_the_limit_says_the_same(case in any_case()) {
        for (at, d) in decide(&case).meters.iter().enumerate() {
            prop_assert_eq!(d.allowed, naive(&case, at), "meter {} of {:?}", at, case);
            prop_assert_eq!(d.allowed, d.limit.is_none_or(|limit| case.meters[at].counted() < limit));
            if d.allowed {
                prop_assert!(matches!(d.reason, Reason::WithinIncluded | Reason::WithinBudget));
            }
        }
    }

    /// More use of any meter never allows what was not allowed; the limit of the others never
    /// rises.
    #[test]
    fn it_is_monotone_in_usage(case in any_case(), more in 0..1_000_000_i64, who in 0..4_usize) {
        let mut later = case.clone();
        let at = who % case.meters.len();
        later.meters[at].used += Quantity::from_scaled(i128::from(more) * 100_000_000);
        let (before, after) = (decide(&case), decide(&later));
        prop_assert!(after.cost >= before.cost);
        for (b, a) in before.meters.iter().zip(&after.meters) {
            prop_assert!(b.allowed || !a.allowed);
            let falls = b.limit.is_none_or(|was| a.limit.is_some_and(|is| is <= was));
            prop_assert!(falls, "the limit rose from {:?} to {:?}", b.limit, a.limit);
        }
    }

    /// A higher budget never blocks, and a high enough one unblocks whoever pays.
    #[test]
    fn it_is_monotone_in_the_budget(case in any_case(), more in 0..1_000_000_i64) {
        let Some(budget) = case.budget else { return Ok(()) };
        let raised = CustomerCase { budget: Some(budget + more), ..case.clone() };
        for (b, a) in decide(&case).meters.iter().zip(&decide(&raised).meters) {
            prop_assert!(!b.allowed || a.allowed);
        }
        let mut rich = CustomerCase { budget: Some(100_000_000_000), ..case.clone() };
        rich.meters.iter_mut().for_each(|m| m.budget = None);
        for (m, d) in rich.meters.iter().zip(&decide(&rich).meters) {
            let billed = m.terms.unwrap().billed_price(m.meter).is_some();
            let could = case.payment == PaymentStatus::Good && billed;
            prop_assert!(d.allowed || !could);
        }
    }

    /// Who pays, even late, is never blocked within the included amount, whatever else has
    /// happened.
    #[test]
    fn it_never_blocks_within_the_included_amount(case in any_case(), old: bool, foreign: bool) {
        let case = CustomerCase { data_too_old: old, budget_in_other_currency: foreign, ..case };
        for (m, d) in case.meters.iter().zip(&decide(&case).meters) {
            prop_assert!(d.allowed || case.payment == PaymentStatus::Canceled || m.counted() >= m.terms.unwrap().included);
        }
    }
}
