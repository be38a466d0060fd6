//! The truth table of comparing Stripe's totals, case by case.

mod lost_events;

use super::*;
use books::stripe::invoice::RESEND;

const DAY: i64 = 86_400;
const HOUR: i64 = 3600;
const GRACE: i64 = HOUR;
/// A whole minute.
const T0: i64 = 1_800_000_000;

/// A period of 30 days.
fn of(events: InvoiceEvents) -> TotalToCheck {
    TotalToCheck {
        customer: "ada".into(),
        meter: "chime_minutes".into(),
        start: T0,
        end: T0 + 30 * DAY,
        stripe_customer: "cus_1".into(),
        stripe_meter: "mtr_1".into(),
        events,
        shortfall: None,
        acknowledged: 0,
    }
}

/// An event that Stripe took at its timestamp, which is counted from [`T0`].
fn took(seq: i64, value: i64, timestamp: i64) -> AcceptedEvent {
    AcceptedEvent { seq, value, timestamp: T0 + timestamp, at: T0 + timestamp, imported: false }
}

/// Events of the first minutes, numbered from 1 on, in the order of the books: the newest first.
fn first(values: &[i64]) -> InvoiceEvents {
    let numbered: Vec<(i64, i64)> = (1_i64..).zip(values.iter().copied()).collect();
    let accepted = numbered.into_iter().rev().map(|(seq, value)| took(seq, value, seq * 60)).collect();
    InvoiceEvents { accepted, ..InvoiceEvents::default() }
}

/// Sent once, an hour after [`T0`].
fn maybe_applied(seq: i64, value: i64) -> UnconfirmedEvent {
    let sent = T0 + HOUR;
    UnconfirmedEvent { seq, value, timestamp: sent, last_attempt: sent, resend_until: sent + RESEND }
}

/// Reads and compares as the job does. `total` gives Stripe's total before an instant.
fn read(of: &TotalToCheck, total: impl Fn(i64) -> i64, now: i64) -> Comparison {
    let seen = total(minute(of.end));
    compare_whole(of, seen, now, GRACE).unwrap_or_else(|| match settled_until(of, now) {
        None => too_early(of, seen),
        Some(until) => compare_settled(of, seen, until, total(until), now),
    })
}

/// The differences of several reads, one for each instant counted from [`T0`]. Stripe's total
/// stays `total`.
fn differences(mut of: TotalToCheck, total: i64, instants: &[i64]) -> Vec<Difference> {
    let mut found = vec![];
    for now in instants {
        let read = read(&of, |_| total, T0 + now);
        of.shortfall = read.shortfall;
        found.push(read.difference);
    }
    found
}

fn not_received(seqs: &[i64]) -> Difference {
    Difference::EventsMissing { missing: seqs.to_vec(), arrived: None }
}

/// The unconfirmed event arrived, and these are missing.
fn missing_beside(arrived: i64, seqs: &[i64]) -> Difference {
    Difference::EventsMissing { missing: seqs.to_vec(), arrived: Some(arrived) }
}

fn there(seq: i64) -> Difference {
    Difference::UnconfirmedArrived { seq }
}

/// Whether the difference is an alarm with these words.
fn is_alarm(difference: &Difference, says: &str) -> bool {
    difference.is_alarm() && difference.to_string().contains(says)
}

fn short(amount: i64, since: i64) -> Option<Shortfall> {
    Some(Shortfall { amount, since })
}

#[test]
fn a_total_that_agrees_is_final_when_nothing_can_change_it() {
    let last = 30 * DAY + GRACE;
    for (seen, discarded, pending, now, expected) in [
        (30, 0, false, DAY, Some(false)),
        (30, 0, false, last - 1, Some(false)),
        (30, 0, false, last, Some(true)),
        (30, 0, true, last, Some(false)),
        (29, 0, false, last, None),
        (31, 0, false, last, None),
        (0, 0, false, last, None),
        // discarded while unconfirmed: Stripe may have it or not
        (30, 50, false, last, Some(true)),
        (80, 50, false, last, Some(true)),
        (80, 0, false, last, None),
        (55, 50, false, last, None),
    ] {
        let events = InvoiceEvents { discarded, pending, ..first(&[10, 20]) };
        let read = compare_whole(&of(events), seen, T0 + now, GRACE);
        let agrees =
            |is_final| Comparison { seen, expected: 30, shortfall: None, difference: Difference::Agrees, is_final };
        assert_eq!(read, expected.map(agrees), "{seen} {discarded} {pending} {now}");
    }
}

#[test]
fn a_total_that_agrees_again_forgets_what_was_short() {
    let shortfall = TotalToCheck { shortfall: short(20, T0), ..of(first(&[10, 20])) };
    assert_eq!(compare_whole(&shortfall, 30, T0 + 2 * DAY, GRACE).unwrap().shortfall, None);
    assert_eq!(compare_settled(&shortfall, 99, shortfall.end, 30, T0 + 2 * DAY).shortfall, None);
    assert_eq!(too_early(&shortfall, 10).shortfall, short(20, T0), "what is too early to say changes nothing");
}

#[test]
fn an_unconfirmed_event_that_the_total_has_is_there_at_once() {
    for (value, seen, now, expected) in [
        (50, 80, 2 * DAY, Some(there(3))),
        (50, 30, 2 * DAY, None),
        (50, 79, 2 * DAY, None),
        (-5, 25, 2 * DAY, Some(there(3))),
        (-5, 30, 2 * DAY, None),
        // long before its day is over, but not while the total may lack other events
        (50, 80, DAY + 120, Some(there(3))),
        (50, 80, DAY + 119, None),
    ] {
        let events = InvoiceEvents { unconfirmed: Some(maybe_applied(3, value)), ..first(&[10, 20]) };
        let found = compare_whole(&of(events), seen, T0 + now, GRACE);
        assert_eq!(found.as_ref().map(|read| read.difference.clone()), expected, "{value} {seen} {now}");
        assert!(found.is_none_or(|read| !read.is_final));
    }
}

#[test]
fn an_import_is_compared_whole_or_not_at_all() {
    let now = T0 + 20 * DAY;
    let imported = AcceptedEvent { imported: true, at: now, ..took(2, 100, 10 * DAY) };
    // the events that it replaces have earlier timestamps, so a total up to then may include a
    // part of them
    for (own, expected) in [
        (None, Some(T0 + 30 * DAY)),
        (Some(12 * DAY), Some(T0 + 12 * DAY)),
        (Some(10 * DAY + 60), Some(T0 + 10 * DAY + 60)),
        (Some(10 * DAY + 59), None),
        (Some(9 * DAY), None),
    ] {
        let own = own.map(|timestamp| AcceptedEvent { at: now - HOUR, ..took(3, 7, timestamp) });
        let accepted = own.into_iter().chain([imported, took(1, 5, 60)]).collect();
        let case = of(InvoiceEvents { accepted, ..InvoiceEvents::default() });
        assert_eq!(settled_until(&case, now), expected, "{own:?}");
    }
}

#[test]
fn an_unconfirmed_event_is_not_there_after_its_last_attempt_and_a_day_and_another() {
    let alone = |last_attempt: i64, resend_until: i64| InvoiceEvents {
        unconfirmed: Some(UnconfirmedEvent {
            last_attempt: T0 + last_attempt,
            resend_until: T0 + resend_until,
            ..maybe_applied(3, 50)
        }),
        ..InvoiceEvents::default()
    };
    for (last_attempt, resend_until, settled) in [
        (HOUR, HOUR + RESEND, HOUR + DAY),
        (HOUR + RESEND - 10, HOUR + RESEND, HOUR + RESEND - 10 + DAY),
        (HOUR, 2 * HOUR, HOUR + DAY),
        (HOUR, 3 * DAY, 3 * DAY),
    ] {
        let case = of(alone(last_attempt, resend_until));
        assert_eq!(settled_until(&case, T0 + settled - 1), None, "{last_attempt} {resend_until}");
        assert_eq!(settled_until(&case, T0 + settled), Some(case.end), "{last_attempt} {resend_until}");
        let instants = [settled - 1, settled, settled + DAY - 1, settled + DAY];
        let expected = [Difference::TooEarly, Difference::TooEarly, Difference::TooEarly, not_received(&[3])];
        assert_eq!(differences(case, 0, &instants), expected, "{last_attempt} {resend_until}");
    }
}

#[test]
fn unconfirmed_and_missing_accepted_events_are_told_apart() {
    let settled = HOUR + DAY;
    for (value, total, expected) in [
        (50, 30, not_received(&[3])),
        (50, 60, missing_beside(3, &[2])),
        (50, 70, missing_beside(3, &[1])),
        (50, 50, missing_beside(3, &[2, 1])),
        (50, 10, not_received(&[3, 2])),
        (50, 0, not_received(&[3, 2, 1])),
        // a correction that did not arrive
        (-5, 30, not_received(&[3])),
        (-5, 5, missing_beside(3, &[2])),
        (-5, 10, not_received(&[3, 2])),
    ] {
        let events = InvoiceEvents { unconfirmed: Some(maybe_applied(3, value)), ..first(&[10, 20]) };
        let found = differences(of(events), total, &[settled, settled + DAY - 1, settled + DAY]);
        assert_eq!(found, [Difference::TooEarly, Difference::TooEarly, expected], "{value} {total}");
    }
}

#[test]
fn an_accepted_event_is_not_there_after_a_day_and_another() {
    let values = [1, 2, 4, 8, 16, 32];
    let all: i64 = values.iter().sum();
    // the last of them was taken in the sixth minute
    let settled = 360 + DAY;
    let rows: &[&[i64]] =
        &[&[3], &[6], &[5, 2], &[6, 4, 2, 1], &[6, 5, 4, 3, 2], &[5, 4, 3, 2, 1], &[6, 5, 4, 3, 2, 1]];
    for seqs in rows {
        let lost: i64 = seqs.iter().map(|seq| 1_i64 << (seq - 1)).sum();
        let instants = [DAY / 2, settled, settled + DAY / 2, settled + DAY - 1, settled + DAY];
        let found = differences(of(first(&values)), all - lost, &instants);
        assert_eq!(
            found[..4],
            [Difference::TooEarly, Difference::TooEarly, Difference::TooEarly, Difference::TooEarly],
            "{seqs:?}"
        );
        assert_eq!(found[4], not_received(seqs));
    }
}

#[test]
fn the_fewest_and_the_newest_events_explain_what_is_missing() {
    type Row = (&'static [(i64, i64)], i64, Option<Vec<i64>>);
    let rows: &[Row] = &[
        (&[(9, 10), (8, 20), (7, 5)], 20, Some(vec![8])),
        (&[(9, 20), (8, 20)], 20, Some(vec![9])),
        (&[(9, 10), (8, 20), (7, 30)], 30, Some(vec![7])),
        (&[(9, 10), (8, 20), (7, 5)], 30, Some(vec![9, 8])),
        (&[(9, 10), (8, 20), (7, 5), (6, 5)], 15, Some(vec![9, 7])),
        (&[(9, 100), (8, -40)], 60, Some(vec![9, 8])),
        (&[(5, 1), (4, 2), (3, 4), (2, 8), (1, 16)], 7, Some(vec![5, 4, 3])),
        (&[(5, 1), (4, 2), (3, 4), (2, 8), (1, 16)], 27, Some(vec![5, 4, 2, 1])),
        (&[(5, 1), (4, 2), (3, 4), (2, 8), (1, 16)], 31, Some(vec![5, 4, 3, 2, 1])),
        (&[(6, 1), (5, 2), (4, 4), (3, 8), (2, 16), (1, 32)], 62, Some(vec![5, 4, 3, 2, 1])),
        // five, with a gap
        (&[(6, 1), (5, 2), (4, 4), (3, 8), (2, 16), (1, 32)], 47, None),
        (&[(9, 10)], 11, None),
        (&[], 11, None),
        (&[(9, i64::MAX), (8, i64::MAX)], 1, None),
    ];
    for (events, missing, expected) in rows {
        let events: Vec<_> = events.iter().map(|&(seq, value)| Candidate { seq, value }).collect();
        assert_eq!(subset_summing_to(&events, *missing), *expected, "{missing} of {events:?}");
    }
}

#[test]
fn a_shortfall_that_changes_begins_anew() {
    let mut case = of(first(&[10, 20, 40]));
    let until = case.end;
    for (now, settled, difference, shortfall) in [
        (2 * DAY, 50, Difference::TooEarly, short(20, T0 + 2 * DAY)),
        (3 * DAY - 1, 50, Difference::TooEarly, short(20, T0 + 2 * DAY)),
        (3 * DAY, 10, Difference::TooEarly, short(60, T0 + 3 * DAY)),
        (4 * DAY - 1, 50, Difference::TooEarly, short(20, T0 + 4 * DAY - 1)),
        // the event was only late
        (4 * DAY, 70, Difference::TooEarly, None),
        (5 * DAY, 50, Difference::TooEarly, short(20, T0 + 5 * DAY)),
        (6 * DAY, 50, not_received(&[2]), None),
    ] {
        let read = compare_settled(&case, settled, until, settled, T0 + now);
        assert_eq!((read.difference, read.shortfall), (difference, shortfall), "{now}");
        case.shortfall = shortfall;
    }
}

#[test]
fn a_surplus_that_grows_is_an_alarm_after_a_day() {
    let mut case = of(first(&[10, 20]));
    let until = case.end;
    let mut at = |now: i64, settled: i64| {
        let read = compare_settled(&case, settled, until, settled, T0 + now);
        case.shortfall = read.shortfall;
        read.difference
    };
    assert_eq!(at(2 * DAY, 35), Difference::TooEarly);
    assert_eq!(at(2 * DAY + 8 * HOUR, 40), Difference::TooEarly);
    assert_eq!(at(3 * DAY - 1, 45), Difference::TooEarly);
    assert!(is_alarm(&at(3 * DAY, 50), "20 more than was sent"));
    // a smaller surplus is a new difference
    assert_eq!(at(3 * DAY + HOUR, 45), Difference::TooEarly);
}

#[test]
fn an_unconfirmed_correction_may_be_missing_beside_a_lost_event() {
    let settled = 360 + DAY;
    for (values, unconfirmed, total, not_received_ones) in [
        // it looks like a surplus of 7,749: the lost event is smaller than the correction that did
        // not arrive
        (&[631_369, 54_421][..], -62_170, 631_369, &[3, 2][..]),
        (&[10, 20, 40], -50, 50, &[4, 2]),
        (&[10, 20, 40], -50, 70, &[4]),
    ] {
        let seq = i64::try_from(values.len()).unwrap() + 1;
        let events = InvoiceEvents { unconfirmed: Some(maybe_applied(seq, unconfirmed)), ..first(values) };
        let found = differences(of(events), total, &[settled + HOUR, settled + DAY + HOUR]);
        assert_eq!(found[1], not_received(not_received_ones), "{values:?} {unconfirmed} {total}");
    }
    // a surplus from another program still needs a person
    let events = InvoiceEvents { unconfirmed: Some(maybe_applied(3, -5)), ..first(&[10, 20]) };
    let found = differences(of(events), 37, &[settled + HOUR, settled + DAY + HOUR]);
    assert!(found[1].is_alarm(), "{found:?}");
}

/// Compares the whole period on so many days. Returns the last difference.
fn judged(case: &TotalToCheck, total: i64, days: i64) -> Difference {
    let mut case = case.clone();
    let mut difference = Difference::TooEarly;
    for day in 0..days {
        let read = compare_settled(&case, total, case.end, total, T0 + (10 + day) * DAY);
        (case.shortfall, difference) = (read.shortfall, read.difference);
    }
    difference
}

#[test]
fn an_acknowledged_difference_explains_nothing_else() {
    let known = |shortfall: i64, events: InvoiceEvents| TotalToCheck { acknowledged: shortfall, ..of(events) };
    // five are billed by hand; later events that sum up to five are sent, and arrive
    let later = vec![took(5, 3, 4 * DAY), took(4, 2, 3 * DAY)];
    let sent = || InvoiceEvents {
        accepted: [later.clone(), first(&[10, 20, 40]).accepted].concat(),
        ..InvoiceEvents::default()
    };
    for days in 1..4 {
        assert_eq!(judged(&known(5, sent()), 70, days), Difference::TooEarly);
    }
    let whole = compare_whole(&known(5, sent()), 70, T0 + 10 * DAY, GRACE).unwrap();
    assert_eq!((whole.difference, whole.shortfall), (Difference::Agrees, None));
    // the missing five arrived after all and are on two invoices now; a surplus that was credited
    // has gone
    for (shortfall, total, says) in
        [(5, 75, "5 more than was sent and acknowledged"), (-10, 75, "10 less than was sent and acknowledged")]
    {
        let case = known(shortfall, sent());
        assert_eq!(compare_whole(&case, total, T0 + 10 * DAY, GRACE), None);
        assert_eq!(judged(&case, total, 1), Difference::TooEarly);
        assert!(is_alarm(&judged(&case, total, 3), says));
    }
    // the later events do not explain an amount without acknowledgement either: it was missing
    // before they were sent
    let unknown = TotalToCheck { shortfall: short(5, T0 + 2 * DAY), ..of(sent()) };
    assert!(is_alarm(&judged(&unknown, 70, 3), "5 less than was sent;"));
    // a lost event is found beside the acknowledged amount, and any other difference is an alarm
    assert_eq!(judged(&known(5, sent()), 50, 2), not_received(&[2]));
    assert_eq!(judged(&known(5, sent()), 50, 1), Difference::TooEarly);
    let more = judged(&known(-500, first(&[10, 20])), 600, 2);
    assert!(is_alarm(&more, "70 more than was sent and acknowledged;"));
    // an acknowledged amount does not stop the decision about an unconfirmed event
    let unconfirmed =
        |value| known(-5, InvoiceEvents { unconfirmed: Some(maybe_applied(4, value)), ..first(&[10, 20, 40]) });
    for (value, total, days, difference) in [
        (7, 82, 1, there(4)),
        (7, 75, 2, not_received(&[4])),
        (-50, 25, 1, there(4)),
        (-50, 75, 2, not_received(&[4])),
        // the same value as the acknowledged amount
        (5, 80, 1, there(4)),
        (5, 75, 2, not_received(&[4])),
    ] {
        assert_eq!(judged(&unconfirmed(value), total, days), difference, "{value} {total}");
    }
    assert_eq!(compare_whole(&unconfirmed(5), 75, T0 + 10 * DAY, GRACE), None, "it could be either");
}

#[test]
fn of_a_settled_part_only_an_unconfirmed_event_is_decided_beside_an_acknowledged_difference() {
    let (until, now) = (T0 + 20 * DAY, T0 + 21 * DAY);
    let difference = |events: InvoiceEvents, settled: i64| {
        let mut case = TotalToCheck { acknowledged: -5, ..of(events) };
        let mut last = Difference::TooEarly;
        for day in 0..3 {
            let read = compare_settled(&case, 0, until, settled, now + day * DAY);
            (case.shortfall, last) = (read.shortfall, read.difference);
            if matches!(last, Difference::UnconfirmedArrived { .. } | Difference::EventsMissing { .. }) {
                break;
            }
        }
        (last, case.shortfall.map(|shortfall| shortfall.amount))
    };
    let three = || first(&[10, 20, 40]);
    assert_eq!(difference(three(), 70), (Difference::TooEarly, None), "the stranger's comes later");
    assert_eq!(difference(three(), 75), (Difference::TooEarly, None));
    for (settled, shortfall) in [(80, -5), (65, 10)] {
        assert_eq!(
            difference(three(), settled),
            (Difference::TooEarly, Some(shortfall)),
            "counted as drift, and compared with the whole"
        );
    }
    let unconfirmed = |value| InvoiceEvents { unconfirmed: Some(maybe_applied(4, value)), ..three() };
    for (value, settled, expected) in [
        (7, 77, there(4)),
        (7, 82, there(4)),
        (7, 70, not_received(&[4])),
        (7, 75, not_received(&[4])),
        // the event arrived, or it did not and the acknowledged amount is in this part
        (5, 75, Difference::TooEarly),
        (7, 99, Difference::TooEarly),
    ] {
        assert_eq!(difference(unconfirmed(value), settled).0, expected, "{value} {settled}");
    }
}

#[test]
fn an_earlier_shortfall_says_nothing_of_later_events() {
    // five have been missing without explanation for days; then an event of five is sent and stays
    // unconfirmed
    let late = UnconfirmedEvent { last_attempt: T0 + 5 * DAY, ..maybe_applied(3, 5) };
    let case = TotalToCheck {
        shortfall: short(5, T0 + 2 * DAY),
        ..of(InvoiceEvents { unconfirmed: Some(late), ..first(&[10, 20]) })
    };
    let read = compare_settled(&case, 30, case.end, 30, T0 + 9 * DAY);
    assert!(read.difference.is_alarm(), "{read:?}");
    // an event that was lost earlier explains the shortfall, so the unconfirmed event arrived
    let unconfirmed =
        InvoiceEvents { unconfirmed: Some(UnconfirmedEvent { seq: 4, value: 7, ..late }), ..first(&[10, 20, 40]) };
    let lost_before = TotalToCheck { shortfall: short(20, T0 + 2 * DAY), ..of(unconfirmed) };
    let read = compare_settled(&lost_before, 57, lost_before.end, 57, T0 + 9 * DAY);
    assert_eq!(read.difference, missing_beside(4, &[2]), "{read:?}");
    // once a person has acknowledged the missing five, the unconfirmed event is known to have
    // arrived
    assert_eq!(judged(&TotalToCheck { acknowledged: 5, shortfall: None, ..case }, 30, 1), there(3));
}

#[test]
fn events_accepted_lately_are_left_out() {
    let events = |recent: Vec<AcceptedEvent>| InvoiceEvents {
        accepted: [recent, first(&[10, 20]).accepted].concat(),
        ..InvoiceEvents::default()
    };
    let now = 5 * DAY;
    let edge = 4 * DAY;
    for (name, recent, expected) in [
        ("nothing is recent", vec![], Some(30 * DAY)),
        ("a day ago", vec![took(3, 40, edge)], Some(30 * DAY)),
        ("not quite", vec![took(3, 40, edge + 1)], Some(edge)),
        ("the first of two", vec![took(4, 40, edge + 2 * HOUR), took(3, 40, edge + HOUR + 59)], Some(edge + HOUR)),
        // taken late: it holds up the events after it
        ("late", vec![AcceptedEvent { timestamp: T0 + 150, ..took(3, 40, edge + 1) }], Some(120)),
        ("in the minute of the oldest", vec![AcceptedEvent { timestamp: T0 + 61, ..took(3, 40, edge + 1) }], None),
    ] {
        let until = settled_until(&of(events(recent)), T0 + now);
        assert_eq!(until.map(|until| until - T0), expected, "{name}");
    }
    assert_eq!(settled_until(&of(InvoiceEvents::default()), T0 + now), None, "nothing to judge");
    // the events before it are judged without it
    let case = of(events(vec![took(3, 40, edge + 1)]));
    let judged = |settled| compare_settled(&case, 0, T0 + edge, settled, T0 + now);
    assert_eq!((judged(30).difference, judged(30).shortfall), (Difference::TooEarly, None));
    assert_eq!((judged(10).difference, judged(10).shortfall), (Difference::TooEarly, short(20, T0 + now)));
    assert_eq!(judged(30).expected, 70);
}

#[test]
fn a_correction_that_does_not_show_yet_is_no_alarm() {
    let accepted = vec![took(2, -40, 3 * DAY), took(1, 100, 60)];
    let mut case = of(InvoiceEvents { accepted, ..InvoiceEvents::default() });
    for now in [3 * DAY, 3 * DAY + HOUR, 4 * DAY - 1] {
        let total = |until: i64| if until > T0 + 60 { 100 } else { 0 };
        let read = read(&case, total, T0 + now);
        assert_eq!((read.difference, read.shortfall), (Difference::TooEarly, None), "{now}");
        case.shortfall = read.shortfall;
    }
    assert_eq!(read(&case, |_| 60, T0 + 4 * DAY).difference, Difference::Agrees);
}

#[test]
fn a_shortfall_that_no_lost_event_explains_is_an_alarm() {
    let settled = 360 + DAY;
    let rows: &[(&[i64], i64, &str)] = &[
        (&[10, 20], 37, "7 more than was sent"),
        (&[10, 20], 25, "5 less than was sent"),
        // only a person takes back a surplus, even if a correction explains it
        (&[100, -7], 100, "7 more than was sent"),
        (&[1, 2, 4, 8, 16, 32], 63 - 47, "47 less than was sent"),
    ];
    for (values, total, said) in rows {
        let found =
            differences(of(first(values)), *total, &[settled, settled + DAY - 1, settled + DAY, settled + 5 * DAY]);
        assert_eq!(found[..2], [Difference::TooEarly, Difference::TooEarly], "{values:?} {total}");
        for difference in &found[2..] {
            assert!(is_alarm(difference, said), "{values:?} {total}: {difference:?}");
        }
    }
}

#[test]
fn an_event_discarded_unconfirmed_may_have_arrived() {
    let settled = 360 + DAY;
    let events = InvoiceEvents { discarded: 50, ..first(&[10, 20]) };
    // a recent event may be missing from the total, so the total of the whole period decides
    // nothing
    let recent = took(3, 7, 2 * DAY);
    let with_recent = InvoiceEvents { accepted: [vec![recent], events.accepted.clone()].concat(), ..events.clone() };
    let case = of(with_recent);
    for (total, difference, shortfall) in [
        (30, Difference::TooEarly, None),
        (80, Difference::TooEarly, None),
        (60, Difference::TooEarly, short(-30, T0 + 2 * DAY + HOUR)),
    ] {
        let read = compare_settled(&case, 0, T0 + 2 * DAY, total, T0 + 2 * DAY + HOUR);
        assert_eq!((read.difference, read.shortfall), (difference, shortfall), "{total}");
    }
    // an unconfirmed event arrived as well
    let unconfirmed = InvoiceEvents { unconfirmed: Some(maybe_applied(3, 5)), ..events };
    assert_eq!(differences(of(unconfirmed), 85, &[settled + HOUR]), [there(3)]);
}
