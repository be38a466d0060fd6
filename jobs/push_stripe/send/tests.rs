//! Tables and properties of the results of attempts, and of the states that follow.

use proptest::prelude::*;

use super::*;
use crate::stripe::transport::ResponseMeta;

const NOW: i64 = 1_800_000_000;
/// The instant of the first attempt of every event here.
const FIRST: i64 = NOW - 500;

fn error(status: Option<u16>, kind: CallFailure, message: &str) -> CallError {
    CallError { status, kind, code: None, message: message.into(), around: ResponseMeta::default() }
}

/// The name of an answer, without Stripe's message.
fn kind(answer: &SendAnswer) -> &'static str {
    match answer {
        SendAnswer::Taken(false) => "taken",
        SendAnswer::Taken(true) => "taken before",
        SendAnswer::Exists(_) => "exists",
        SendAnswer::Refused(_) => "refused",
        SendAnswer::Key(_) => "key",
        SendAnswer::Later(..) => "later",
        SendAnswer::Broken(_) => "broken",
        SendAnswer::Lost(_) => "lost",
        SendAnswer::NotSent(_) => "not sent",
    }
}

#[test]
fn every_status_has_one_meaning() {
    for status in 100..=999_u16 {
        let expected = match status {
            200..=299 => "taken",
            401 | 403 => "key",
            408 | 424 | 429 => "later",
            409 => "lost",
            400..=499 => "refused",
            500.. => "broken",
            _ => "lost",
        };
        assert_eq!(kind(&answer(&error(Some(status), CallFailure::Answered, "no"))), expected, "{status}");
    }
}

#[test]
fn what_breaks_off_is_only_what_its_status_says_for_sure() {
    for (status, failure, expected) in [
        (None, CallFailure::NotSent, "not sent"),
        (None, CallFailure::NoAnswer, "lost"),
        (None, CallFailure::Answered, "lost"),
        (None, CallFailure::Unreadable, "taken"),
        (Some(200), CallFailure::NoAnswer, "taken"),
        (Some(200), CallFailure::Unreadable, "taken"),
        (Some(400), CallFailure::NoAnswer, "lost"),
        (Some(404), CallFailure::NoAnswer, "lost"),
        (Some(401), CallFailure::NoAnswer, "lost"),
        (Some(401), CallFailure::NotStripe, "later"),
        (Some(404), CallFailure::NotStripe, "later"),
        (Some(502), CallFailure::NotStripe, "broken"),
        (Some(429), CallFailure::NoAnswer, "later"),
        (Some(500), CallFailure::NoAnswer, "broken"),
        (Some(302), CallFailure::NoAnswer, "lost"),
    ] {
        assert_eq!(kind(&answer(&error(status, failure, "no"))), expected, "{status:?} {failure:?}");
    }
}

#[test]
fn only_a_400_says_that_an_identifier_is_used() {
    let duplicate = "An event already exists with identifier meter-7.";
    for (status, expected) in [
        (Some(400), "exists"),
        (Some(404), "refused"),
        (Some(409), "lost"),
        (Some(500), "broken"),
        (Some(200), "taken"),
        (None, "lost"),
    ] {
        assert_eq!(kind(&answer(&error(status, CallFailure::Answered, duplicate))), expected, "{status:?}");
    }
    let other = error(Some(400), CallFailure::Answered, "No such customer: cus_1");
    assert_eq!(answer(&other), SendAnswer::Refused("Stripe answered 400: No such customer: cus_1".into()));
}

#[test]
fn what_comes_around_an_answer_is_heeded() {
    let replayed = ResponseMeta { replayed: true, ..ResponseMeta::default() };
    for (status, failure) in [(Some(200), CallFailure::NoAnswer), (None, CallFailure::Unreadable)] {
        let error = CallError { around: replayed.clone(), ..error(status, failure, "broken off") };
        assert_eq!(answer(&error), SendAnswer::Taken(true), "{status:?}");
    }
    let wait = Some(Duration::from_secs(9));
    let around = ResponseMeta { retry_after: wait, request_id: Some("req_1".into()), ..ResponseMeta::default() };
    let error = CallError { around, ..error(Some(429), CallFailure::Answered, "slow down") };
    assert_eq!(answer(&error), SendAnswer::Later("Stripe answered 429: slow down (req_1)".into(), wait));
}

fn event(seq: i64, maybe_applied: bool, attempts: i64) -> MeterEvent {
    let at = |second: i64| Timestamp::from_second(second).unwrap();
    MeterEvent {
        seq,
        identifier: format!("meter-{seq}"),
        customer: "ada".into(),
        meter: "chime_minutes".into(),
        period_start: at(NOW - 86_400),
        billed_start: at(NOW - 86_400),
        billed_end: at(NOW + 86_400),
        stripe_customer: "cus_1".into(),
        event_name: "meter_chime".into(),
        value: 12,
        timestamp: at(NOW - 600),
        send_before: at(NOW + 89_000),
        state: EventState::Sending,
        maybe_applied,
        attempts,
        key_no: 3,
        first_attempt_at: Some(at(FIRST)),
        last_attempt_at: Some(at(NOW - 1)),
        next_at: None,
        created_at: at(NOW - 600),
        settled_at: None,
        request_id: None,
        error: None,
        imported: false,
    }
}

/// When another attempt is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Never,
    Now,
    Later,
}

#[test]
fn an_answer_leads_to_one_state() {
    use EventState::{Accepted, Pending, Refused, Unconfirmed};
    let why = || "why".to_owned();
    // for an event that Stripe cannot have, and for one that Stripe may have: state,
    // `maybe_applied`, key number, next attempt, `taken_at`
    let rows = [
        (
            SendAnswer::Taken(false),
            (Accepted, false, 3, Next::Never, Some(NOW)),
            (Accepted, true, 3, Next::Never, Some(NOW)),
        ),
        (
            SendAnswer::Taken(true),
            (Accepted, false, 3, Next::Never, Some(FIRST)),
            (Accepted, true, 3, Next::Never, Some(FIRST)),
        ),
        (
            SendAnswer::Exists(why()),
            (Refused, false, 3, Next::Never, None),
            (Accepted, true, 3, Next::Never, Some(FIRST)),
        ),
        (SendAnswer::Refused(why()), (Refused, false, 3, Next::Never, None), (Unconfirmed, true, 3, Next::Never, None)),
        (SendAnswer::Key(why()), (Pending, false, 3, Next::Now, None), (Unconfirmed, true, 3, Next::Now, None)),
        (
            SendAnswer::Later(why(), None),
            (Pending, false, 3, Next::Later, None),
            (Unconfirmed, true, 3, Next::Later, None),
        ),
        (SendAnswer::NotSent(why()), (Pending, false, 3, Next::Later, None), (Unconfirmed, true, 3, Next::Later, None)),
        (
            SendAnswer::Broken(why()),
            (Unconfirmed, true, 4, Next::Later, None),
            (Unconfirmed, true, 4, Next::Later, None),
        ),
        (SendAnswer::Lost(why()), (Unconfirmed, true, 3, Next::Later, None), (Unconfirmed, true, 3, Next::Later, None)),
    ];
    for (answer, sure, unconfirmed) in rows {
        for (maybe_applied, expected) in [(false, sure), (true, unconfirmed)] {
            let settled = settle(&event(7, maybe_applied, 1), &answer, Some("req_1".into()), NOW);
            let next = match settled.next_at {
                None => Next::Never,
                Some(NOW) => Next::Now,
                Some(at) => {
                    assert!(at > NOW, "{answer:?}");
                    Next::Later
                }
            };
            let found = (settled.state, settled.maybe_applied, settled.key_no, next, settled.taken_at);
            assert_eq!(found, expected, "{answer:?}, unconfirmed: {maybe_applied}");
            assert_eq!((settled.seq, settled.request_id.as_deref()), (7, Some("req_1")));
            assert_eq!(settled.error.is_none(), settled.state == Accepted, "{answer:?}, unconfirmed: {maybe_applied}");
        }
    }
}

#[test]
fn what_went_wrong_is_kept_in_500_characters() {
    let settled = settle(&event(7, false, 1), &SendAnswer::Refused("é".repeat(1000)), None, NOW);
    assert_eq!(settled.error, Some("é".repeat(500)));
}

#[test]
fn without_a_first_attempt_it_was_taken_now() {
    let unknown = MeterEvent { first_attempt_at: None, ..event(7, true, 1) };
    assert_eq!(settle(&unknown, &SendAnswer::Exists("why".into()), None, NOW).taken_at, Some(NOW));
}

fn wait(seq: i64, attempts: i64, asked: Option<Duration>) -> i64 {
    let settled = settle(&event(seq, false, attempts), &SendAnswer::Later("later".into(), asked), None, NOW);
    settled.next_at.unwrap() - NOW
}

#[test]
fn waits_double_up_to_half_an_hour() {
    for (attempts, expected) in [
        (0, 5),
        (1, 5),
        (2, 10),
        (3, 20),
        (4, 40),
        (5, 80),
        (6, 160),
        (7, 320),
        (8, 640),
        (9, 1280),
        (10, 1800),
        (11, 1800),
        (64, 1800),
        (1_000_000, 1800),
    ] {
        for seq in [1, 2, 3, 1000, 123_456_789] {
            let found = wait(seq, attempts, None);
            assert!((expected..=expected + expected / 2).contains(&found), "{found} s after {attempts} attempts");
        }
    }
}

#[test]
fn those_that_failed_together_do_not_come_back_together() {
    let waits: std::collections::BTreeSet<i64> = (1..=100).map(|seq| wait(seq, 10, None)).collect();
    assert!(waits.len() > 50, "{} instants for 100 events", waits.len());
}

#[test]
fn stripes_own_wait_is_heeded_within_reason() {
    for (asked, least, most) in [
        (0, 5, 7),
        (3, 5, 7),
        (60, 60, 62),
        (1800, 1800, 1802),
        // at most our longest wait
        (1801, 1800, 1802),
        (86_400, 1800, 1802),
    ] {
        let found = wait(7, 1, Some(Duration::from_secs(asked)));
        assert!((least..=most).contains(&found), "{found} s for {asked}");
    }
    assert!(wait(7, 10, Some(Duration::from_secs(60))) >= 1800, "a short one does not shorten ours");
    assert!((5..=1802).contains(&wait(7, 1, Some(Duration::MAX))), "an absurd one");
}

fn any_answer() -> impl Strategy<Value = SendAnswer> {
    let why = || "why".to_owned();
    prop_oneof![
        any::<bool>().prop_map(SendAnswer::Taken),
        Just(SendAnswer::Exists(why())),
        Just(SendAnswer::Refused(why())),
        Just(SendAnswer::Key(why())),
        prop::option::of(0..100_000_u64)
            .prop_map(|asked| SendAnswer::Later("why".into(), asked.map(Duration::from_secs))),
        Just(SendAnswer::Broken(why())),
        Just(SendAnswer::Lost(why())),
        Just(SendAnswer::NotSent(why())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// After any sequence of answers: `maybe_applied` never becomes false again, a key is not used
    /// again after a stored failure, and an accepted or refused event has no next attempt.
    #[test]
    fn no_answer_makes_an_unconfirmed_event_certain(
        seq in 1..1_000_000_i64,
        maybe_applied: bool,
        attempts in 0..30_i64,
        key_no in 0..5_i64,
        answers in prop::collection::vec(any_answer(), 1..20),
    ) {
        let mut event = MeterEvent { key_no, ..event(seq, maybe_applied, attempts) };
        let (mut now, mut maybe) = (NOW, maybe_applied);
        for answer in answers {
            event.attempts += 1;
            let settled = settle(&event, &answer, None, now);
            maybe |= matches!(answer, SendAnswer::Lost(_) | SendAnswer::Broken(_));
            prop_assert_eq!(settled.maybe_applied, maybe, "{:?}", answer);
            let stored = i64::from(matches!(answer, SendAnswer::Broken(_)));
            prop_assert_eq!(settled.key_no, event.key_no + stored, "{:?}", answer);
            prop_assert_eq!(settled.seq, seq);
            let is_over = matches!(settled.state, EventState::Accepted | EventState::Refused);
            prop_assert!(!is_over || settled.next_at.is_none(), "{:?}", settled);
            prop_assert_eq!(settled.taken_at.is_some(), settled.state == EventState::Accepted);
            prop_assert!(settled.taken_at.is_none_or(|at| (FIRST..=now).contains(&at)));
            prop_assert!(!maybe || !matches!(settled.state, EventState::Refused | EventState::Pending), "{:?}", settled);
            prop_assert!(maybe || settled.state != EventState::Unconfirmed, "{:?}", settled);
            prop_assert!(settled.state != EventState::Pending || settled.next_at.is_some(), "the books ask for it");
            prop_assert!(settled.state != EventState::Refused || settled.error.is_some(), "the books ask for it");
            let wait = settled.next_at.map_or(0, |at| at - now);
            prop_assert!((0..=LONGEST_WAIT * 3 / 2).contains(&wait), "{} s", wait);
            (event.maybe_applied, event.key_no) = (settled.maybe_applied, settled.key_no);
            let Some(at) = settled.next_at else { break };
            now = at;
        }
    }
}
