//! Tables and properties of planning for one customer and meter.

use proptest::prelude::*;
use rust_decimal::Decimal;

use super::*;
use books::stripe::billing_target::{Cut, target};
use books::stripe::invoice::MARGIN;
use books::units::quantity::Quantity;

const DAY: i64 = 86_400;
const GRACE: i64 = 3600;
/// A whole minute.
const T0: i64 = 1_800_000_000;

/// A period of a subscription that bills. Instants are counted from [`T0`].
fn period(start: i64, end: i64, target: i64) -> PeriodCase {
    PeriodCase {
        start: T0 + start,
        end: T0 + end,
        until: T0 + end,
        billing: Some(PeriodBilling { active: true, item: Some("USD".into()), items: 1 }),
        target: Some(target),
        currency: "USD".into(),
    }
}

/// An event for the usage of the period from `of` on, on an invoice that is not final: `a`ccepted,
/// `p`ending, or `r`efused.
fn sent(of: i64, at: i64, value: i64, kind: char) -> SentEvent {
    let invoice = InvoicePeriod { start: T0 + of, end: T0 + 1000 * DAY };
    SentEvent { period_start: T0 + of, timestamp: T0 + at, invoice, value, billed: kind != 'r', accepted: kind == 'a' }
}

fn case(periods: Vec<PeriodCase>, sent: Vec<SentEvent>) -> BillingCase {
    BillingCase { deferred: None, periods, sent }
}

/// For each period: the value of the planned event, and the deferred amount.
fn planned(case: &BillingCase, now: i64) -> Vec<(i64, Option<(i64, DeferReason)>)> {
    decide(case, T0 + now, GRACE)
        .iter()
        .map(|d| (d.event.map_or(0, |e| e.value), d.deferred.map(|d| (d.amount, d.reason))))
        .collect()
}

fn units(reported: &str, per_unit: &str) -> Option<i64> {
    target(reported.parse().unwrap(), per_unit.parse().unwrap(), Cut::Nowhere)
}

#[test]
fn what_aws_took_back_is_told_as_nothing() {
    assert_eq!((units("12", "1"), units("0", "1"), units("-3", "1")), (Some(12), Some(0), Some(0)));
}

#[test]
fn what_the_budget_has_cut_is_rounded_down() {
    assert_eq!(target("1.5".parse().unwrap(), Decimal::ONE, Cut::AtBudget), Some(1));
    assert_eq!(target("1.5".parse().unwrap(), Decimal::from(1000), Cut::AtBudget), Some(1500));
}

#[test]
fn units_are_rounded_half_even() {
    for (used, per_unit, expected) in [
        ("0.4999999999", "1", 0),
        ("0.5", "1", 0),
        ("0.5000000001", "1", 1),
        ("1.5", "1", 2),
        ("2.5", "1", 2),
        ("2.5000000001", "1", 3),
        ("0.0005", "1000", 0),
        ("0.0015", "1000", 2),
        ("0.0025", "1000", 2),
        ("1.2345", "1000", 1234),
        ("1.2355", "1000", 1236),
        ("0.5", "7", 4),
        ("1.5", "7", 10),
        ("0.0714285714", "7", 0),
        ("0.0714285715", "7", 1),
        ("1", "0.5", 0),
        ("3", "0.5", 2),
        ("5", "0.5", 2),
        ("5", "0.50", 2),
        ("5.0000000002", "0.5", 3),
        ("1500", "0.001", 2),
        ("2500", "0.001", 2),
    ] {
        assert_eq!(units(used, per_unit), Some(expected), "{used} × {per_unit}");
    }
}

#[test]
fn the_running_total_is_rounded_and_not_what_is_added_to_it() {
    let totals = ["0.4", "0.8", "1.2", "1.6", "2", "2.4", "2.8"];
    let expected = [0, 1, 1, 2, 2, 2, 3];
    for (used, expected) in totals.into_iter().zip(expected) {
        assert_eq!(units(used, "1"), Some(expected), "{used}");
    }
}

#[test]
fn more_than_fifteen_digits_are_no_target() {
    for (used, per_unit, expected) in [
        ("999999999999999", "1", Some(LARGEST_VALUE)),
        ("999999999999999.4999999999", "1", Some(LARGEST_VALUE)),
        ("999999999999999.5", "1", None),
        ("1000000000000000", "1", None),
        ("900000000", "1000000", Some(900_000_000_000_000)),
        ("900000000", "10000000", None),
        ("1999999999999998", "0.5", Some(LARGEST_VALUE)),
        ("2000000000000000", "0.5", None),
    ] {
        assert_eq!(units(used, per_unit), expected, "{used} × {per_unit}");
    }
    let endless = Quantity::from_scaled(i128::MAX);
    assert_eq!(target(endless, Decimal::from(7), Cut::Nowhere), None);
}

#[test]
fn an_event_lies_in_a_whole_minute_of_its_period() {
    for (start, until, now, expected) in [
        (0, 6000, 0, 0),
        (0, 6000, 1234, 1234),
        (0, 6000, 5999, 5999),
        // in grace: the last second of the last whole minute
        (0, 6000, 6000, 5999),
        (0, 6000, 8999, 5999),
        // the incomplete minute at the end belongs to the next period's total
        (0, 6030, 5999, 5999),
        (0, 6030, 6000, 5999),
        (0, 6030, 6029, 5999),
        (0, 6030, 6030, 5999),
        (6030, 12_000, 6030, 6030),
        // shorter than a minute
        (5990, 6030, 6020, 5999),
        (6005, 6030, 6010, 6005),
        (6005, 6030, 7000, 6005),
        (6000, 6059, 6058, 6000),
    ] {
        let period = period(start, until, 0);
        let at = timestamp((period.start, period.until), T0 + now) - T0;
        assert_eq!(at, expected, "[{start}, {until}) at {now}");
        assert!(start <= at && at < until, "[{start}, {until}) at {now}");
    }
    assert_eq!([minute(-1), minute(0), minute(59), minute(60)], [-60, 0, 0, 60]);
}

/// When the first of two periods ends.
const END: i64 = 30 * DAY;

fn two_periods() -> BillingCase {
    case(vec![period(0, END, 0), period(END, 60 * DAY, 0)], vec![])
}

type Change = fn(&mut BillingCase);

fn set(case: &mut BillingCase, at: usize, active: bool, item: Option<&str>) {
    case.periods[at].billing = Some(PeriodBilling { active, item: item.map(str::to_owned), items: 1 });
}

fn set_items(case: &mut BillingCase, items: u64) {
    if let Some(billing) = &mut case.periods[0].billing {
        billing.items = items;
    }
}

#[test]
fn usage_goes_on_its_own_invoice_while_that_takes_it_and_then_on_the_open_one() {
    let closed = END + GRACE - MARGIN;
    let later = END + DAY;
    let rows: &[(&str, i64, Change, Result<usize, DeferReason>)] = &[
        ("open", END - 1, |_| {}, Ok(0)),
        ("grace begins", END, |_| {}, Ok(0)),
        ("the last second of grace", closed - 1, |_| {}, Ok(0)),
        ("the margin of grace", closed, |_| {}, Ok(1)),
        ("grace is over", later, |_| {}, Ok(1)),
        ("nothing is open", closed, |c| c.periods.truncate(1), Err(DeferReason::NoSubscription)),
        ("the open one is over too", 60 * DAY, |_| {}, Err(DeferReason::NoSubscription)),
        ("the month is no subscription's", DAY, |c| c.periods[0].billing = None, Err(DeferReason::NoSubscription)),
        ("so was the month", END, |c| c.periods[0].billing = None, Ok(1)),
        ("what a month had comes back", later, |c| c.periods[0].billing = None, Ok(1)),
        ("into no month", later, |c| c.periods[1].billing = None, Err(DeferReason::NoSubscription)),
        ("paused", DAY, |c| set(c, 0, false, Some("USD")), Err(DeferReason::Inactive)),
        ("over, so invoiced", END, |c| set(c, 0, false, Some("USD")), Ok(0)),
        ("paused later", later, |c| set(c, 1, false, Some("USD")), Err(DeferReason::Inactive)),
        ("paused before", later, |c| set(c, 0, false, Some("USD")), Ok(1)),
        ("no item", DAY, |c| set(c, 0, true, None), Err(DeferReason::NoItem)),
        ("no item in grace", END, |c| set(c, 0, true, None), Err(DeferReason::NoItem)),
        ("no item later", later, |c| set(c, 1, true, None), Err(DeferReason::NoItem)),
        ("no item before", later, |c| set(c, 0, true, None), Ok(1)),
        ("another currency", DAY, |c| set(c, 0, true, Some("EUR")), Err(DeferReason::Currency)),
        ("another currency later", later, |c| set(c, 1, true, Some("EUR")), Err(DeferReason::Currency)),
        ("another currency before", later, |c| set(c, 0, true, Some("EUR")), Ok(1)),
        ("paused, and no item", DAY, |c| set(c, 0, false, None), Err(DeferReason::Inactive)),
        ("two items of a month that is over", END + 5, |c| set_items(c, 2), Ok(1)),
        ("two items bill it twice", DAY, |c| set_items(c, 2), Err(DeferReason::SeveralItems)),
        ("ended early", 10 * DAY, |c| c.periods[0].until = T0 + 10 * DAY, Ok(0)),
        (
            "ended early, and closed",
            10 * DAY + GRACE - MARGIN,
            |c| c.periods[0].until = T0 + 10 * DAY,
            Err(DeferReason::NoSubscription),
        ),
        ("ended early, and back", later, |c| c.periods[0].until = T0 + 10 * DAY, Ok(1)),
    ];
    for (name, now, change, expected) in rows {
        let mut case = two_periods();
        change(&mut case);
        assert_eq!(destination(&case, &case.periods[0], T0 + now, GRACE), *expected, "{name}");
    }
}

#[test]
fn an_event_says_whose_invoice_it_is_on_and_until_when_it_is_sent() {
    let mut case = two_periods();
    case.periods[0].target = Some(7);
    let event = |case: &BillingCase, now: i64| decide(case, T0 + now, GRACE)[0].event.unwrap();
    let own = EventToStore {
        value: 7,
        billed: InvoicePeriod { start: T0, end: T0 + END },
        timestamp: T0 + END - 1,
        send_before: T0 + END + GRACE - MARGIN,
    };
    assert_eq!(event(&case, END + 5), own);
    assert_eq!(event(&case, DAY), EventToStore { timestamp: T0 + DAY, ..own });
    let next = EventToStore {
        value: 7,
        billed: InvoicePeriod { start: T0 + END, end: T0 + 60 * DAY },
        timestamp: T0 + 31 * DAY,
        send_before: T0 + 60 * DAY + GRACE - MARGIN,
    };
    assert_eq!(event(&case, 31 * DAY), next);
    // the invoice is made when the subscription ends, not when the period would have
    case.periods[0].until = T0 + 10 * DAY + 30;
    let early = EventToStore { timestamp: T0 + 10 * DAY - 1, send_before: T0 + 10 * DAY + 30 + GRACE - MARGIN, ..own };
    assert_eq!(event(&case, 10 * DAY + 60), early);
}

#[test]
fn a_correction_never_takes_an_invoice_below_zero() {
    let below = |amount: i64| Some((amount, DeferReason::BelowZero));
    type Row = (&'static [(i64, char)], i64, i64, Option<(i64, DeferReason)>);
    let rows: &[Row] = &[
        (&[(100, 'a')], 100, 0, None),
        (&[(100, 'a')], 30, -70, None),
        (&[(100, 'a')], 0, -100, None),
        // an event that is not accepted may never be accepted
        (&[(100, 'p')], 30, 0, below(-70)),
        (&[(100, 'a'), (50, 'p')], 20, -100, below(-30)),
        // a pending correction may still be accepted
        (&[(100, 'a'), (-40, 'p')], 0, -60, None),
        (&[(100, 'a'), (-40, 'p'), (30, 'p')], 0, -60, below(-30)),
        // an invoice that is below zero already is taken no further below
        (&[(-50, 'p'), (70, 'p')], 0, 0, below(-20)),
        // refused and discarded events count as sent for the period, but are on no invoice
        (&[(100, 'a'), (-40, 'r')], 0, -60, None),
        (&[(100, 'r')], 0, 0, below(-100)),
        (&[(100, 'r'), (100, 'a')], 0, -100, below(-100)),
        (&[(100, 'r')], 150, 50, None),
        // an amount above 0 is not deferred for an invoice below zero
        (&[(-100, 'p')], 0, 100, None),
        (&[(-100, 'p'), (20, 'a')], 5, 85, None),
    ];
    for (before, target, value, deferred) in rows {
        let before: Vec<SentEvent> = before.iter().map(|(value, kind)| sent(0, DAY, *value, *kind)).collect();
        let case = case(vec![period(0, END, *target)], before);
        assert_eq!(planned(&case, 2 * DAY), [(*value, *deferred)], "{case:?}");
    }
}

#[test]
fn corrections_of_one_plan_share_the_floor_of_an_invoice() {
    let periods = |open| vec![period(0, END, 40), period(END, 60 * DAY, 50), period(60 * DAY, 90 * DAY, open)];
    let mut before = vec![sent(0, DAY, 100, 'a'), sent(END, 31 * DAY, 100, 'a'), sent(60 * DAY, 61 * DAY, 80, 'a')];
    let below = |amount: i64| Some((amount, DeferReason::BelowZero));
    let plan = |open, before: &[SentEvent]| planned(&case(periods(open), before.to_vec()), 65 * DAY);
    assert_eq!(plan(80, &before), [(-60, None), (-20, below(-30)), (0, None)]);
    assert_eq!(plan(90, &before), [(-60, None), (-20, below(-30)), (10, None)], "what is only planned lifts nothing");
    assert_eq!(plan(70, &before), [(-60, None), (-20, below(-30)), (0, below(-10))]);
    // a carried forward amount is on the invoice that took it, not on that of its period
    before.push(sent(0, 62 * DAY, -60, 'p'));
    assert_eq!(plan(80, &before), [(0, None), (-20, below(-30)), (0, None)]);
    before[2].value = 200;
    assert_eq!(plan(200, &before), [(0, None), (-50, None), (0, None)]);
}

#[test]
fn what_a_final_invoice_cut_off_is_taken_back_on_the_next() {
    let on_first = |at: i64, value: i64, kind: char| SentEvent {
        invoice: InvoicePeriod { start: T0, end: T0 + END },
        ..sent(0, at, value, kind)
    };
    // Stripe had taken 100 that are missing now, so the invoice came out at 30 - 20 - 40, and
    // Stripe cut it off at zero
    let before = vec![
        on_first(DAY, 30, 'a'),
        on_first(2 * DAY, -20, 'a'),
        on_first(3 * DAY, -40, 'a'),
        sent(END, 31 * DAY, 500, 'a'),
    ];
    let plan = |before: &[SentEvent], now: i64| {
        planned(&case(vec![period(0, END, 10), period(END, 60 * DAY, 500)], before.to_vec()), now)
    };
    let effects_at = |before: &[SentEvent], now: i64| -> Vec<i64> {
        effects(before, T0 + now, GRACE).into_iter().map(|(_, effect)| effect).collect()
    };
    // until the invoice is final, every event has its full effect: 10 + 30 more are to be billed
    assert_eq!(effects_at(&before, END + GRACE - 1), [30, -20, -40, 500]);
    assert_eq!(plan(&before, END), [(40, None), (0, None)]);
    // then the invoice is zero, and 10 are to be billed: of the newest correction 10 of its 40 had
    // an effect
    assert_eq!(effects_at(&before, END + GRACE), [30, -20, -10, 500]);
    assert_eq!(plan(&before, 31 * DAY), [(10, None), (0, None)]);
    // without the oldest event, no correction had any effect
    assert_eq!(effects_at(&before[1..], END + GRACE), [0, 0, 500]);
    // an event that is not accepted may be missing
    let mut pending = before.clone();
    pending[2] = on_first(3 * DAY, -40, 'p');
    assert_eq!(effects_at(&pending, END + GRACE), [30, -20, -40, 500]);
}

#[test]
fn what_holds_everything_holds_what_differs() {
    let mut case = case(vec![period(0, END, 7), period(END, 60 * DAY, 5)], vec![sent(END, 31 * DAY, 5, 'a')]);
    for why in [DeferReason::NoStripeCustomer, DeferReason::Refused, DeferReason::NoMeter] {
        case.deferred = Some(why);
        assert_eq!(planned(&case, 31 * DAY), [(0, Some((7, why))), (0, None)]);
    }
    case.deferred = None;
    assert_eq!(planned(&case, 31 * DAY), [(7, None), (0, None)]);
}

#[test]
fn what_has_too_many_digits_waits_and_its_neighbours_do_not() {
    let too_large = (0_i64, Some((LARGEST_VALUE, DeferReason::TooLarge)));
    let mut large = case(vec![period(0, END, 0), period(END, 60 * DAY, 5)], vec![]);
    large.periods[0].target = None;
    assert_eq!(planned(&large, 31 * DAY), [too_large, (5, None)]);
    // both have 15 digits, the difference has 16
    let apart = case(vec![period(0, END, LARGEST_VALUE)], vec![sent(0, DAY, -1, 'a')]);
    assert_eq!(planned(&apart, DAY), [too_large]);
    let largest = case(vec![period(0, END, LARGEST_VALUE)], vec![]);
    assert_eq!(planned(&largest, DAY), [(LARGEST_VALUE, None)]);
}

#[test]
fn what_is_deferred_is_looked_at_again_when_time_may_free_it() {
    let mut case = two_periods();
    let again = |case: &BillingCase, now: i64| look_again(case, T0 + now, GRACE).map(|at| at - T0);
    let closes = GRACE - MARGIN;
    assert_eq!(again(&case, DAY), Some(END));
    assert_eq!(again(&case, END), Some(END + closes));
    assert_eq!(again(&case, END + closes), Some(60 * DAY));
    assert_eq!(again(&case, 60 * DAY + closes), None);
    case.periods[0].until = T0 + 10 * DAY;
    assert_eq!(again(&case, DAY), Some(10 * DAY + closes));
    assert_eq!(again(&case, 11 * DAY), Some(END));
}

#[test]
fn a_reason_has_one_name() {
    for (deferred, name) in DeferReason::ALL.map(|reason| (reason, reason.name())) {
        assert_eq!(deferred.name(), name);
        assert_eq!(serde_json::to_value(deferred).unwrap(), name);
    }
}

fn any_period() -> impl Strategy<Value = (i64, i64, Option<PeriodBilling>, Option<i64>)> {
    let item =
        prop_oneof![1 => Just(None::<String>), 8 => Just(Some("USD".to_owned())), 1 => Just(Some("EUR".to_owned()))];
    let active = prop_oneof![4 => Just(true), 1 => Just(false)];
    let billing = (active, item).prop_map(|(active, item)| PeriodBilling { active, item, items: 1 });
    let billing = prop_oneof![1 => Just(None::<PeriodBilling>), 8 => billing.prop_map(Some)];
    let target = prop_oneof![1 => Just(None::<i64>), 19 => (0..2000_i64).prop_map(Some)];
    let length = prop_oneof![1 => 1..200_i64, 6 => 200..3 * DAY];
    (length, 0..9 * DAY, billing, target)
}

/// Adjoining periods, some ended early; events anywhere in them; and an instant near one of their
/// bounds.
fn any_case() -> impl Strategy<Value = (BillingCase, i64)> {
    let event = (0..5_usize, 0..5_usize, 0..1000_i64, -600..1200_i64, prop::sample::select(vec!['a', 'a', 'p', 'r']));
    let now = (0..9_usize, -2 * GRACE..2 * GRACE);
    (prop::collection::vec(any_period(), 1..5), prop::collection::vec(event, 0..9), now).prop_map(
        |(lengths, events, (bound, offset))| {
            let mut periods: Vec<PeriodCase> = vec![];
            let mut start = 17;
            for (length, cut, billing, target) in lengths {
                let whole = period(start, start + length, 0);
                let until = if cut < length { whole.end - cut } else { whole.end };
                periods.push(PeriodCase { until, billing, target, ..whole });
                start += length;
            }
            let bounds: Vec<i64> = periods.iter().flat_map(|p| [p.start, p.until]).chain([T0 + start]).collect();
            let now = (bounds[bound % bounds.len()] + offset).max(T0 + 17);
            periods.retain(|p| p.start <= now);
            let of = |at: usize| &periods[at % periods.len()];
            let sent = events.into_iter().map(|(own, on, part, value, kind)| {
                let on = of(on);
                let at = on.start + (on.until - on.start) * part / 1000;
                SentEvent {
                    invoice: InvoicePeriod { start: on.start, end: on.until },
                    ..sent(of(own).start - T0, at - T0, value, kind)
                }
            });
            let mut sent: Vec<SentEvent> = sent.collect();
            sent.sort_by_key(|s| s.timestamp);
            (case(periods, sent), now)
        },
    )
}

/// The case after its decisions: the planned events are pending.
fn carried_out(case: &BillingCase, decisions: &[PeriodDecision]) -> BillingCase {
    let mut after = case.clone();
    for (own, decision) in case.periods.iter().zip(decisions) {
        after.sent.extend(decision.event.map(|event| SentEvent {
            period_start: own.start,
            timestamp: event.timestamp,
            invoice: event.billed,
            value: event.value,
            billed: true,
            accepted: false,
        }));
    }
    after.sent.sort_by_key(|s| s.timestamp);
    after
}

/// The total of the accepted events of an invoice.
fn comes_to<'a>(effects: impl Iterator<Item = &'a (&'a SentEvent, i64)>, invoice: InvoicePeriod) -> i64 {
    effects.filter(|(s, _)| s.accepted && s.invoice == invoice).map(|(_, effect)| *effect).sum()
}

/// The smallest possible total of each invoice: of the accepted events, and all negative ones.
fn at_worst(case: &BillingCase) -> Vec<i64> {
    let counts = |p: &PeriodCase, s: &SentEvent| {
        s.billed && (s.accepted || s.value < 0) && (p.start..p.end).contains(&s.timestamp)
    };
    let of = |p: &PeriodCase| case.sent.iter().filter(|s| counts(p, s)).map(|s| s.value).sum::<i64>();
    case.periods.iter().map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// The sent, planned and deferred amounts sum up to the billing target.
    #[test]
    fn nothing_is_lost_and_nothing_is_counted_twice((case, now) in any_case()) {
        let (decisions, effects) = (decide(&case, now, GRACE), effects(&case.sent, now, GRACE));
        prop_assert_eq!(decisions.len(), case.periods.len());
        for (own, decision) in case.periods.iter().zip(&decisions) {
            let Some(target) = own.target else {
                prop_assert_eq!(*decision, PeriodDecision { event: None, deferred: Some(Deferral { amount: LARGEST_VALUE, reason: DeferReason::TooLarge }) });
                continue;
            };
            let of_period = effects.iter().filter(|(s, _)| s.period_start == own.start);
            let sent: i64 = of_period.map(|(_, effect)| *effect).sum();
            let event = decision.event.map_or(0, |e| e.value);
            let deferred = decision.deferred.map_or(0, |d| d.amount);
            prop_assert_eq!(sent + event + deferred, target, "{:?} of {:?}", decision, case);
            prop_assert!(decision.event.is_none_or(|e| e.value != 0));
            prop_assert!(decision.deferred.is_none_or(|d| d.amount != 0));
        }
    }

    /// A final invoice has the total of its events, or zero if that is negative. The total of any
    /// other invoice does not change.
    #[test]
    fn a_final_invoice_is_cut_off_at_zero_and_nowhere_else((case, now) in any_case()) {
        let plain: Vec<(&SentEvent, i64)> = case.sent.iter().map(|s| (s, s.value)).collect();
        let effects = effects(&case.sent, now, GRACE);
        for p in &case.periods {
            let invoice = InvoicePeriod { start: p.start, end: p.until };
            let said = comes_to(plain.iter(), invoice);
            let expected = if now >= p.until + GRACE { said.max(0) } else { said };
            prop_assert_eq!(comes_to(effects.iter(), invoice), expected, "{:?} of {:?}", invoice, case);
        }
        prop_assert_eq!(effects.len(), plain.len());
        for ((s, value), (same, effect)) in plain.iter().zip(&effects) {
            prop_assert_eq!(s, same);
            prop_assert!(value == effect || s.accepted && value < effect && *effect <= 0, "{:?}: {}", s, effect);
        }
    }

    /// Planning again at the same instant, with the events of the first plan still pending, plans
    /// no event and defers the same amounts.
    #[test]
    fn planning_twice_plans_once((case, now) in any_case()) {
        let first = decide(&case, now, GRACE);
        let again = decide(&carried_out(&case, &first), now, GRACE);
        for (first, again) in first.iter().zip(&again) {
            prop_assert_eq!(again.event, None, "{:?}", case);
            prop_assert_eq!(first.deferred, again.deferred, "{:?}", case);
        }
    }

    /// No plan takes an invoice below zero, even if none of the pending positive events is
    /// accepted.
    #[test]
    fn no_invoice_is_taken_below_zero((case, now) in any_case()) {
        let after = at_worst(&carried_out(&case, &decide(&case, now, GRACE)));
        for (before, after) in at_worst(&case).into_iter().zip(after) {
            prop_assert!(after >= before.min(0), "from {} to {} in {:?}", before, after, case);
        }
    }

    /// Every event is in the period of its invoice, before its last incomplete minute, and there
    /// is time to send it.
    #[test]
    fn an_event_is_on_an_invoice_that_takes_it((case, now) in any_case()) {
        for event in decide(&case, now, GRACE).into_iter().filter_map(|d| d.event) {
            let billed = case.periods.iter().find(|p| InvoicePeriod { start: p.start, end: p.end } == event.billed).unwrap();
            prop_assert!(billed.billing.is_some());
            prop_assert!((billed.start..billed.until).contains(&event.timestamp), "{:?} of {:?}", event, case);
            prop_assert!(event.timestamp <= now);
            let is_short = minute(billed.until) <= billed.start;
            prop_assert!(is_short || event.timestamp < minute(billed.until), "{:?} of {:?}", event, case);
            prop_assert!(now < event.send_before && event.send_before <= billed.until + GRACE);
        }
    }
}
