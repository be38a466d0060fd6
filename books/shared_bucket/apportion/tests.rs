//! Tables, and models that divide in another way.

use proptest::prelude::*;

use super::*;

fn named(weights: &[u128]) -> Vec<CustomerWeight> {
    let name = |place: usize| if place == 0 { String::new() } else { format!("c{place:03}") };
    weights.iter().enumerate().filter(|(_, weight)| **weight > 0).map(|(place, w)| (name(place), *w)).collect()
}

fn divided(amount: i128, weights: &[u128], divisor: u128, remainder: Remainder) -> Vec<(String, i128)> {
    let found = shares(Quantity::from_scaled(amount), &named(weights), divisor, remainder);
    found.into_iter().map(|(customer, share)| (customer, share.scaled())).collect()
}

fn of(list: &[(&str, i128)]) -> Vec<(String, i128)> {
    list.iter().map(|(customer, share)| ((*customer).to_owned(), *share)).collect()
}

/// A request is 10¹⁰ units, so a weight of 1 and a divisor of 10¹⁰ is one unit.
const ONE: u128 = 10_000_000_000;

#[test]
fn the_house_has_what_nobody_can_be_shown_to_have() {
    use Remainder::{House, Spread};
    for (amount, weights, remainder, want) in [
        (10, &[0, 3, 4][..], House, &[("", 3), ("c001", 3), ("c002", 4)][..]),
        (10, &[2, 3, 4], House, &[("", 3), ("c001", 3), ("c002", 4)]),
        (7, &[0, 3, 4], House, &[("c001", 3), ("c002", 4)]),
        // the reports have more than the bill: all weigh less
        (7, &[0, 6, 8], House, &[("c001", 3), ("c002", 4)]),
        (7, &[14, 6, 8], House, &[("", 4), ("c001", 1), ("c002", 2)]),
        (10, &[0, 7, 7, 7], House, &[("", 1), ("c001", 3), ("c002", 3), ("c003", 3)]),
        (10, &[0, 3, 4], Spread, &[("c001", 4), ("c002", 6)]),
        (10, &[1, 1, 1], Spread, &[("", 4), ("c001", 3), ("c002", 3)]),
        (10, &[0, 1, 1, 1], Spread, &[("c001", 4), ("c002", 3), ("c003", 3)]),
        (10, &[5, 0, 0], House, &[("", 10)]),
        (10, &[], Spread, &[("", 10)]),
        (0, &[0, 1], Spread, &[]),
        (-4, &[0, 1], Spread, &[]),
    ] {
        assert_eq!(divided(amount, weights, ONE, remainder), of(want), "{amount} {weights:?} {remainder:?}");
    }
}

#[test]
fn a_gigabyte_for_a_month_is_one() {
    for (month, days) in [("2026-02", 28), ("2028-02", 29), ("2026-04", 30), ("2026-12", 31)] {
        let divisor = divisor(Measure::ByteSeconds, month.parse().unwrap());
        let weights = named(&[0, (1 << 30) * 86_400 * days]);
        assert_eq!(predicted(&weights, divisor).to_string(), "1", "{month}");
        // AWS bills a gigabyte that lies there for a day of a month of 30 days as 0.0333333333
        let weights = named(&[0, (1 << 30) * 86_400]);
        let share = shares("1".parse().unwrap(), &weights, divisor, Remainder::House);
        let of_day = Quantity::from_scaled(UNIT / i128::try_from(days).unwrap());
        assert_eq!(share[1], ("c001".to_owned(), of_day), "{month}");
    }
    let month = "2026-02".parse().unwrap();
    assert_eq!(predicted(&named(&[0, 3 << 30]), divisor(Measure::BytesSent, month)).to_string(), "3");
    assert_eq!(predicted(&named(&[1, 6]), divisor(Measure::Requests2, month)).to_string(), "7");
}

/// Gives away one unit after another: each goes to whom the most is missing to the exact share.
/// With fractions of big integers, and without any division.
fn one_by_one(amount: u32, weights: &[u32]) -> Vec<u64> {
    let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    let mut given = vec![0_u64; weights.len()];
    for _ in 0..amount {
        // amount × weight − given × sum, which is what is missing times the sum
        let missing =
            |place: usize| i128::from(amount) * i128::from(weights[place]) - i128::from(given[place]) * i128::from(sum);
        let most = (0..weights.len()).max_by(|a, b| missing(*a).cmp(&missing(*b)).then(b.cmp(a))).unwrap();
        given[most] += 1;
    }
    given
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever the weights are, nothing is lost, nothing is added, and nobody has a share without
    /// a weight.
    #[test]
    fn shares_make_the_amount(
        amount in prop_oneof![1..100_i128, 1..9_000_000_000_000_000_000_i128, Just(i128::MAX)],
        weights in prop::collection::vec(prop_oneof![0..5_u128, any::<u64>().prop_map(u128::from), any::<u128>()], 0..12),
        divisor in prop_oneof![Just(1_u128), 1..50_000_u128, Just(ONE), 1..10_u128.pow(17)],
        spread in any::<bool>(),
    ) {
        let remainder = if spread { Remainder::Spread } else { Remainder::House };
        let weights = named(&weights);
        let found = shares(Quantity::from_scaled(amount), &weights, divisor, remainder);
        prop_assert_eq!(found.iter().map(|(_, share)| share.scaled()).sum::<i128>(), amount);
        prop_assert!(found.windows(2).all(|two| two[0].0 < two[1].0));
        let unit = BigUint::from(ONE);
        let sum: BigUint = weights.iter().map(|(_, w)| BigUint::from(*w)).sum();
        for (customer, share) in found.iter().filter(|(customer, _)| !customer.is_empty()) {
            let weight = weights.iter().find(|(name, _)| name == customer).unwrap().1;
            let share = BigUint::from(share.scaled().unsigned_abs());
            if remainder == Remainder::House {
                // never above what is theirs, nor above their part of the amount
                prop_assert!(&share * divisor <= BigUint::from(weight) * &unit);
                prop_assert!(&share * &sum <= BigUint::from(weight) * BigUint::from(amount.unsigned_abs()));
            }
            // but for the last decimal
            prop_assert!((&share - 1_u32) * &sum <= BigUint::from(weight) * BigUint::from(amount.unsigned_abs()));
        }
    }

    /// By weight, the largest remainder is what a model finds that gives away unit after unit.
    #[test]
    fn division_by_weight_is_fair(amount in 1..300_u32, weights in prop::collection::vec(0..40_u32, 1..8)) {
        prop_assume!(weights.iter().any(|w| *w > 0));
        let found = divided(i128::from(amount), &weights.iter().map(|w| u128::from(*w)).collect::<Vec<_>>(), ONE, Remainder::Spread);
        let model = one_by_one(amount, &weights);
        for (place, want) in model.into_iter().enumerate() {
            let name = if place == 0 { String::new() } else { format!("c{place:03}") };
            let share = found.iter().find(|(customer, _)| *customer == name).map_or(0, |(_, share)| *share);
            prop_assert_eq!(share, i128::from(want), "{} {:?}", place, found);
        }
    }

    /// In the house's rule, a customer's share does not depend on what others have while the bill
    /// has room for all.
    #[test]
    fn others_change_nothing_while_there_is_room(weights in prop::collection::vec(1..1000_u128, 2..8)) {
        let amount = i128::try_from(weights.iter().sum::<u128>()).unwrap() + 5;
        let all = divided(amount, &weights, ONE, Remainder::House);
        let alone = divided(amount, &[0, weights[1]], ONE, Remainder::House);
        let share = |of: &[(String, i128)]| of.iter().find(|(customer, _)| customer == "c001").map(|s| s.1);
        prop_assert_eq!(share(&all), share(&alone));
    }
}
