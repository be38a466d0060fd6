//! Properties: what an account loses is found, and nothing else, however its totals lag.

use proptest::prelude::*;

use super::*;

/// An event at Stripe.
#[derive(Clone, Copy, Debug)]
struct Happened {
    event: AcceptedEvent,
    /// When totals begin to include it; none for a lost event.
    shows_at: Option<i64>,
}

/// An account. Its totals lag for less than a day and never include lost events.
#[derive(Debug)]
struct StripeAccount {
    all: Vec<Happened>,
    of: TotalToCheck,
}

impl StripeAccount {
    fn total(&self, until: i64, now: i64) -> i64 {
        let shows = |h: &&Happened| h.event.timestamp < until && h.shows_at.is_some_and(|at| at <= now);
        self.all.iter().filter(shows).map(|h| h.event.value).sum()
    }

    /// The sum of the events that the books have accepted and Stripe lost.
    fn lost(&self, until: i64) -> i64 {
        let booked = self.of.events.accepted.iter().filter(|e| e.timestamp < until);
        booked.map(|e| e.value).sum::<i64>() - self.total(until, i64::MAX)
    }

    /// Takes an event at `now`. Totals include it after `lag`, or never.
    fn take(&mut self, value: i64, now: i64, lag: Option<i64>) {
        let seq = i64::try_from(self.all.len()).unwrap() + 1;
        let event = AcceptedEvent { seq, value, timestamp: now.min(minute(self.of.end) - 1), at: now, imported: false };
        self.all.push(Happened { event, shows_at: lag.map(|lag| now + lag) });
        self.of.events.accepted.insert(0, event);
    }
}

const DAYS: i64 = 6;

/// For each event: when it is taken, its value, and its lag or none if it is lost. At most four
/// are lost, and no correction.
fn any_events() -> impl Strategy<Value = Vec<(i64, i64, Option<i64>)>> {
    let value = prop_oneof![5 => 1..12_i64, 2 => 1..2000_i64, 1 => -30..0_i64];
    let end = DAYS * DAY;
    let at = prop_oneof![4 => 0..end, 1 => end - 100..end + GRACE / 2];
    let one = (at, value, 0..DAY, prop_oneof![3 => Just(false), 1 => Just(true)]);
    prop::collection::vec(one, 0..20).prop_map(|mut events| {
        events.sort_unstable();
        let mut lost = 0;
        let kept = events.into_iter().map(|(at, value, lag, is_lost)| {
            let is_lost = is_lost && value > 0 && lost < 4;
            lost += i64::from(is_lost);
            (at, value, (!is_lost).then_some(lag))
        });
        kept.collect()
    })
}

/// Reads every `step` seconds until long after the period, and plans again what is not received.
/// Returns the sums that were not received.
fn run(events: &[(i64, i64, Option<i64>)], step: i64) -> Result<Vec<i64>, TestCaseError> {
    let end = T0 + DAYS * DAY + 30;
    let mut account = StripeAccount { all: vec![], of: TotalToCheck { end, ..of(InvoiceEvents::default()) } };
    let mut to_come = events.iter().peekable();
    let mut sums = vec![];
    let mut now = T0;
    while now < end + 12 * DAY {
        while let Some((at, value, lag)) = to_come.next_if(|(at, ..)| T0 + at <= now) {
            account.take(*value, T0 + at, *lag);
        }
        let read = read(&account.of, |until| account.total(until, now), now);
        match &read.difference {
            Difference::EventsMissing { missing: not_received, arrived: None } => {
                let not_received_ones = |e: &AcceptedEvent| not_received.contains(&e.seq);
                let sum: i64 =
                    account.of.events.accepted.iter().filter(|e| not_received_ones(e)).map(|e| e.value).sum();
                let until = settled_until(&account.of, now).unwrap();
                prop_assert_eq!(sum, account.lost(until), "{:?} of {:?}", read, account);
                prop_assert!(sum > 0);
                account.of.events.accepted.retain(|e| !not_received_ones(e));
                account.take(sum, now, Some(HOUR));
                sums.push(sum);
            }
            Difference::Agrees | Difference::TooEarly => {}
            Difference::UnconfirmedArrived { .. }
            | Difference::EventsMissing { .. }
            | Difference::StripeHasLess(_)
            | Difference::StripeHasMore(_)
            | Difference::NoTotal { .. } => {
                return Err(TestCaseError::fail(format!("{read:?} of {account:?}")));
            }
        }
        account.of.shortfall = read.shortfall;
        now += step;
    }
    prop_assert_eq!(account.lost(i64::MAX), 0, "not found: {:?}", account);
    Ok(sums)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Exactly the lost events are planned again, with any lag. No correct total raises an alarm.
    #[test]
    fn what_is_lost_is_found_and_nothing_else(events in any_events(), hours in 2..10_i64) {
        let lost: i64 = events.iter().filter(|(.., lag)| lag.is_none()).map(|(_, value, _)| value).sum();
        let sums = run(&events, hours * HOUR + 7)?;
        prop_assert_eq!(sums.iter().sum::<i64>(), lost);
    }

    /// A lagging event is never taken for a lost one.
    #[test]
    fn what_only_lags_is_waited_for(events in any_events(), hours in 2..10_i64) {
        let all: Vec<_> = events.into_iter().map(|(at, value, lag)| (at, value, lag.or(Some(DAY - 1)))).collect();
        prop_assert_eq!(run(&all, hours * HOUR)?, Vec::<i64>::new());
    }
}
