//! Tables of what is imported, and when.

use super::*;
use books::stripe::invoice::RESEND;
use books::stripe::reconciliation::UnconfirmedEvent;

const DAY: i64 = 86_400;
const T0: i64 = 1_800_000_000;

fn took(value: i64, at: i64, imported: bool) -> AcceptedEvent {
    AcceptedEvent { seq: 1, value, timestamp: T0, at: T0 + at, imported }
}

#[test]
fn what_stripe_has_beyond_the_books_is_taken_over() {
    for (accepted, discarded, seen, expected) in [
        (vec![], 0, 0, 0),
        (vec![], 0, 70, 70),
        (vec![30, 40], 0, 70, 0),
        (vec![30, 40], 0, 100, 30),
        // Stripe took them and does not have them any more
        (vec![30, 40], 0, 30, -40),
        (vec![], 0, -5, -5),
        // discarded while unconfirmed: Stripe has it; does not have it; has it and another amount
        (vec![30], 50, 80, 0),
        (vec![30], 50, 30, 0),
        (vec![30], 50, 90, 60),
        (vec![999_999_999_999_999], 0, -999_999_999_999_999, -1_999_999_999_999_998),
    ] {
        let accepted: Vec<AcceptedEvent> = accepted.into_iter().map(|value| took(value, 0, false)).collect();
        let events = InvoiceEvents { accepted, discarded, ..InvoiceEvents::default() };
        assert_eq!(surplus(&events, seen), expected, "{events:?} {seen}");
    }
}

#[test]
fn nothing_is_taken_over_while_something_of_these_books_may_not_show_yet() {
    let unconfirmed = |sent: i64| UnconfirmedEvent {
        seq: 2,
        value: 5,
        timestamp: T0,
        last_attempt: T0 + sent,
        resend_until: T0 + sent + RESEND,
    };
    let accepted = |at, imported| InvoiceEvents { accepted: vec![took(10, at, imported)], ..InvoiceEvents::default() };
    for (events, now, expected) in [
        (InvoiceEvents::default(), 0, true),
        (accepted(0, false), DAY - 1, false),
        (accepted(0, false), DAY, true),
        (accepted(DAY, false), DAY, false),
        (accepted(DAY, true), DAY, true),
        (InvoiceEvents { in_flight: true, ..InvoiceEvents::default() }, 9 * DAY, false),
        (InvoiceEvents { pending: true, ..InvoiceEvents::default() }, 9 * DAY, false),
        (InvoiceEvents { unconfirmed: Some(unconfirmed(0)), ..InvoiceEvents::default() }, DAY - 1, false),
        (InvoiceEvents { unconfirmed: Some(unconfirmed(0)), ..InvoiceEvents::default() }, DAY, true),
    ] {
        assert_eq!(has_settled(&events, T0 + now, DAY), expected, "{events:?} {now}");
    }
}

#[test]
fn what_a_person_has_dealt_with_is_left_where_it_is() {
    for (surpluses, shortfall, left) in [
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
        assert_eq!(without_known(surpluses, shortfall), left, "{surpluses:?} {shortfall}");
    }
}

fn short(amount: i64, since: i64) -> Option<Shortfall> {
    Some(Shortfall { amount, since })
}

#[test]
fn less_than_was_sent_is_the_same_only_when_it_is_as_much() {
    assert_eq!(too_little([5, 0], None, 100), None);
    assert_eq!(too_little([-5, 2], None, 100), short(5, 100));
    assert_eq!(too_little([-5, -1], short(6, 40), 100), short(6, 40));
    assert_eq!(too_little([-5, 0], short(6, 40), 100), short(5, 100));
}
