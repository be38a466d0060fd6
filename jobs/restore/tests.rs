//! Tables of what is imported.

use super::*;

fn parts([covered, rest]: [i64; 2]) -> PeriodParts<i64> {
    PeriodParts { covered, rest }
}

#[test]
fn what_stripe_has_beyond_the_books_is_imported() {
    for (accepted, discarded, seen, expected) in [
        (0, 0, 0, 0),
        (0, 0, 70, 70),
        (70, 0, 70, 0),
        (70, 0, 100, 30),
        // Stripe took them and does not have them any more
        (70, 0, 30, -40),
        (0, 0, -5, -5),
        // discarded while unconfirmed: Stripe has it; does not have it; has it and another amount
        (30, 50, 80, 0),
        (30, 50, 30, 0),
        (30, 50, 90, 60),
        (999_999_999_999_999, 0, -999_999_999_999_999, -1_999_999_999_999_998),
    ] {
        let known = KnownEvents { accepted, discarded };
        assert_eq!(surplus(known, seen), expected, "{known:?} {seen}");
    }
}

#[test]
fn what_a_person_has_dealt_with_is_left_where_it_is() {
    for (surplus, shortfall, left) in [
        ([500, 0], -500, [0, 0]),
        ([700, 3], -500, [200, 3]),
        // Stripe agrees again: a person took the surplus back
        ([0, 0], -500, [0, 0]),
        ([0, 8], -5, [0, 3]),
        ([3, 0], -5, [3, 0]),
        ([-7, 0], -5, [-7, 0]),
        // five too little, and the events of the lost books
        ([-5, 0], 5, [0, 0]),
        ([-9, 0], 5, [-4, 0]),
        ([5, 0], 5, [10, 0]),
        ([-2, 0], 5, [3, 0]),
        ([9, 0], 0, [9, 0]),
    ] {
        assert_eq!(without_acknowledged(parts(surplus), shortfall), parts(left), "{surplus:?} {shortfall}");
    }
}

fn short(amount: i64, since: i64) -> Option<Shortfall> {
    Some(Shortfall { amount, since })
}

#[test]
fn less_than_was_sent_is_the_same_only_when_it_is_as_much() {
    assert_eq!(too_little(parts([5, 0]), None, 100), None);
    assert_eq!(too_little(parts([-5, 2]), None, 100), short(5, 100));
    assert_eq!(too_little(parts([-5, -1]), short(6, 40), 100), short(6, 40));
    assert_eq!(too_little(parts([-5, 0]), short(6, 40), 100), short(5, 100));
}
