//! The truth table of the module's documentation, line by line, and the view beside the function.

use std::collections::BTreeMap;

use crate::store::connection::params;
use proptest::prelude::*;

use super::*;
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::first_row;
use crate::stripe::due::DueSince;
use crate::stripe::planning::{EventPeriod, load};

const GRACE: i64 = 3600;
/// The event of the table: planned for the period from `START` to `END`, with a timestamp at `AT`.
const START: i64 = 10_000;
const AT: i64 = 50_000;
const END: i64 = 90_000;

/// The values of the table's columns that decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Situation {
    state: EventState,
    period: Period,
    in_time: bool,
    open: bool,
    stripe_customer: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Period {
    Covered,
    CutOff,
    /// Covered, and the subscription of the Stripe customer that got the event had ended.
    OfAnother,
    WithoutSubscription,
    Missing,
}

impl Situation {
    /// Every situation that there is: only an event that Stripe took can be late.
    fn all() -> Vec<Self> {
        let mut all = vec![];
        for state in ["pending", "sending", "unconfirmed", "accepted", "refused", "discarded", "not_received"] {
            let state = EventState::named(state).unwrap();
            let taken = !matches!(state, EventState::Pending | EventState::Sending | EventState::Unconfirmed);
            let periods =
                [Period::Covered, Period::CutOff, Period::OfAnother, Period::WithoutSubscription, Period::Missing];
            for period in periods {
                for (in_time, open) in [(true, true), (true, false), (false, true), (false, false)] {
                    // without a period there is no invoice that could have closed
                    if (in_time || taken) && (open || period != Period::Missing) {
                        let of = |stripe_customer| Self { state, period, in_time, open, stripe_customer };
                        all.extend(["own", "another", "unknown"].map(of));
                    }
                }
            }
        }
        all
    }

    fn placed(self) -> Placement {
        let (covered_until, takes_until) = match self.period {
            Period::Covered | Period::OfAnother => (END, END),
            Period::CutOff => (AT, AT),
            Period::WithoutSubscription | Period::Missing => (START, END),
        };
        let closes = takes_until + GRACE - MARGIN;
        let event = EarlierMeterEvent {
            seq: 1,
            period_start: START,
            timestamp: AT,
            value: 5,
            state: self.state,
            stripe_customer: "cus_sent".into(),
            billed: InvoicePeriod { start: START, end: END },
            send_before: END + GRACE - MARGIN,
            taken_at: Some(if self.in_time { covered_until + GRACE - 1 } else { covered_until + GRACE }),
            period: (self.period != Period::Missing).then_some(EventPeriod {
                start: START,
                covered_until,
                takes_until,
            }),
            own_stripe_customer: match self.stripe_customer {
                "own" => Some("cus_sent".into()),
                "another" => Some("cus_other".into()),
                _ => None,
            },
            subscribed: self.period != Period::OfAnother,
        };
        let not_taken = matches!(self.state, EventState::Pending | EventState::Sending | EventState::Unconfirmed);
        let event = EarlierMeterEvent { taken_at: event.taken_at.filter(|_| !not_taken), ..event };
        place(&event, if self.open { closes - 1 } else { closes }, GRACE)
    }

    /// Whether a line of the table is about it.
    fn is_of(self, line: &[&str]) -> bool {
        let yes = |cell: &str, value: bool| cell == "-" || (cell == "yes") == value;
        let stripe_customer = match line[4] {
            "-" => true,
            "not own" => self.stripe_customer != "own",
            name => self.stripe_customer == name,
        };
        line[0] == self.state.name()
            && yes(line[1], self.period == Period::Covered)
            && yes(line[2], self.in_time)
            && yes(line[3], self.open)
            && stripe_customer
    }
}

#[test]
fn every_situation_is_one_line_of_the_table_and_every_line_holds() {
    let table: Vec<Vec<&str>> = include_str!("../placement.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! | ")?.strip_suffix(" |"))
        .map(|line| line.split(" | ").collect())
        .skip_while(|line: &Vec<&str>| line[0] == "state")
        .collect();
    let mut lines = vec![0; table.len()];
    for situation in Situation::all() {
        let found: Vec<usize> = (0..table.len()).filter(|at| situation.is_of(&table[*at])).collect();
        let [at] = found[..] else { panic!("{situation:?} is in the lines {found:?}") };
        lines[at] += 1;
        let placed = situation.placed();
        let sent = match (placed.sent, placed.billed) {
            (Some(_), true) => "billed",
            (Some(_), false) => "not billed",
            (None, billed) => {
                assert!(!billed);
                "no"
            }
        };
        let change = match placed.change {
            Some(Change::Withdraw) => "withdrawn",
            Some(Change::StopResending) => "not sent again",
            None => "none",
        };
        let said = table[at][6].split(':').next().unwrap();
        assert_eq!((sent, change), (table[at][5], said), "{situation:?} {:?}", table[at]);
    }
    assert!(lines.iter().all(|situations| *situations > 0), "{lines:?}");
}

/// A billing period of the generated customer: how long it is, and when its subscription ended.
#[derive(Clone, Debug)]
struct Generated {
    seconds: i64,
    subscription: Option<GeneratedSubscription>,
}

/// Its Stripe customer is unknown, the one that gets the events, or another.
#[derive(Clone, Debug)]
struct GeneratedSubscription {
    status: &'static str,
    stripe_customer: Option<&'static str>,
    started: i64,
    ended: Option<i64>,
}

/// A generated event; `around` is before and after its timestamp in the period of its planning.
#[derive(Clone, Debug)]
struct GeneratedEvent {
    timestamp: i64,
    around: (i64, i64),
    grace: i64,
    taken: Option<i64>,
}

/// Instants that often meet, and often miss each other by a second.
fn instants() -> impl Strategy<Value = i64> {
    (0_i64..40, -1_i64..=1).prop_map(|(steps, off)| (steps * 300 + off).max(0))
}

fn history() -> impl Strategy<Value = (Vec<Generated>, Vec<GeneratedEvent>)> {
    let owner = prop::sample::select(vec![None, Some("cus"), Some("cus_other")]);
    let started = prop_oneof![2 => Just(0), 1 => instants()];
    let status = prop_oneof![8 => Just("active"), 1 => Just("incomplete"), 1 => Just("incomplete_expired")];
    let lived = prop::option::of(instants());
    let subscription = (status, owner, started, lived).prop_map(|(status, stripe_customer, started, lived)| {
        let ended = lived.map(|seconds| started + seconds);
        GeneratedSubscription { status, stripe_customer, started, ended }
    });
    let period = ((1_i64..12).prop_map(|steps| steps * 300), prop::option::weighted(0.8, subscription))
        .prop_map(|(seconds, subscription)| Generated { seconds, subscription });
    let around = ((0_i64..4).prop_map(|n| n * 300), (1_i64..9).prop_map(|n| n * 300));
    let event = (instants(), around, (2_i64..9).prop_map(|n| n * 300), prop::option::of(instants()))
        .prop_map(|(timestamp, around, grace, taken)| GeneratedEvent { timestamp, around, grace, taken });
    (prop::collection::vec(period, 1..6), prop::collection::vec(event, 1..12))
}

/// Stores a history for `customer`, and returns the invoice of each event: by [`invoice_of`], and
/// by the view.
async fn both(
    books: &Database,
    customer: String,
    (periods, events): (Vec<Generated>, Vec<GeneratedEvent>),
) -> Vec<(Option<InvoicePeriod>, Option<InvoicePeriod>)> {
    let stored = books.transaction(async move |c| {
        let sql = "INSERT INTO customers (id, stripe_customer_id) VALUES (?1, 'cus_' || ?1)";
        c.execute(sql, params![customer.clone()]).await?;
        let mut start = 0;
        for (at, period) in periods.iter().enumerate() {
            let subscription = period.subscription.as_ref().map(|_| format!("sub_{customer}_{at}"));
            if let Some(GeneratedSubscription { status, stripe_customer, started, ended }) = period.subscription {
                let sql = "INSERT INTO subscriptions (id, customer, status, anchor_at, started_at, ended_at, stripe_customer) \
                           VALUES (?1, ?2, ?6, 0, ?3, ?4, ?5)";
                let row = params![subscription.clone(), customer.clone(), started, ended, stripe_customer, status];
                c.execute(sql, row).await?;
            }
            let sql = "INSERT INTO billing_periods (customer, starts_at, ends_at, subscription, first_day, last_day, opened_at) \
                       VALUES (?1, ?2, ?3, ?4, '1970-01-01', '1970-01-01', 0)";
            c.execute(sql, params![customer.clone(), start, start + period.seconds, subscription]).await?;
            start += period.seconds;
        }
        for event in &events {
            let (from, to) = (event.timestamp - event.around.0, event.timestamp + event.around.1);
            let sql = "INSERT INTO meter_events (seq, identifier, customer, meter, period_start, billed_start, billed_end, stripe_customer, event_name, \
                         value, timestamp, send_before, state, next_at, taken_at, created_at) \
                       SELECT n, 'x-' || n, ?1, 'm', ?2, ?2, ?3, 'cus', 'e', 1, ?4, ?5, iif(?6 IS NULL, 'pending', 'accepted'), iif(?6 IS NULL, 0, NULL), ?6, 0 \
                       FROM (SELECT coalesce(max(seq), 0) + 1 AS n FROM meter_events)";
            let send_before = to + event.grace - MARGIN;
            c.execute(sql, params![customer.clone(), from, to, event.timestamp, send_before, event.taken]).await?;
        }
        let asked = [DueSince { customer: customer.clone(), from_day: String::new() }];
        let due = load(c, &asked, &["m".to_owned()], 1_000_000, 0).await?.remove(&customer).unwrap();
        let mut found = vec![];
        for event in due.events.get("m").into_iter().flatten() {
            let row = first_row(c, "SELECT starts_at, ends_at FROM event_invoices WHERE seq = ?1", params![event.seq]).await?;
            let view = row.map(|row| Ok::<_, BooksError>(InvoicePeriod { start: row.get(0)?, end: row.get(1)? }));
            found.push((invoice_of(event), view.transpose()?));
        }
        assert_eq!(found.len(), events.len(), "every event is loaded");
        Ok(found)
    });
    stored.await.unwrap()
}

#[test]
fn the_view_puts_events_on_the_invoices_that_the_function_does() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let books = runtime.block_on(async {
        let books = Database::open_local(&folder.path().join("meter.db")).await.unwrap();
        books.migrate(jiff::Timestamp::UNIX_EPOCH).await.unwrap();
        books
    });
    let (mut seen, mut customers) = (BTreeMap::<bool, u64>::new(), 0);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(400));
    let seen = std::cell::RefCell::new(&mut seen);
    let customers = std::cell::RefCell::new(&mut customers);
    let held = runner.run(&history(), |case| {
        let customer = {
            let mut number = customers.borrow_mut();
            **number += 1;
            format!("c{number}")
        };
        for (function, view) in runtime.block_on(both(&books, customer, case)) {
            prop_assert_eq!(function, view);
            *seen.borrow_mut().entry(function.is_some()).or_default() += 1;
        }
        Ok(())
    });
    held.unwrap();
    let seen = seen.borrow();
    assert!(seen[&true] > 300 && seen[&false] > 300, "{seen:?}");
}

/// A deferred amount loads its old period, and none of those after it.
#[tokio::test]
async fn an_event_of_a_period_that_is_not_planned_is_on_its_own_subscriptions_invoice() {
    let folder = tempfile::tempdir().unwrap();
    let books = Database::open_local(&folder.path().join("meter.db")).await.unwrap();
    books.migrate(jiff::Timestamp::UNIX_EPOCH).await.unwrap();
    let stored = "INSERT INTO customers (id, stripe_customer_id) VALUES ('ann', 'cus_now'); \
        INSERT INTO subscriptions (id, customer, status, anchor_at, started_at, stripe_customer) VALUES ('sub', 'ann', 'active', 0, 0, 'cus_before'); \
        INSERT INTO billing_periods (customer, starts_at, ends_at, subscription, first_day, last_day, opened_at) \
        VALUES ('ann', 0, 1000, 'sub', '1970-01-01', '1970-01-01', 0), ('ann', 1000, 2000, 'sub', '1970-01-01', '1970-01-01', 0); \
        INSERT INTO billing_targets (customer, meter, period_start, period_end, plan, target, deferred, deferred_reason, deferred_since) \
        VALUES ('ann', 'm', 0, 1000, 'core', -4, -4, 'below_zero', 0); \
        INSERT INTO meter_events (seq, identifier, customer, meter, period_start, billed_start, billed_end, stripe_customer, event_name, value, \
          timestamp, send_before, state, taken_at, created_at) \
        VALUES (1, 'x-1', 'ann', 'm', 0, 1000, 2000, 'cus_before', 'e', -4, 1500, 5000, 'accepted', 1500, 0); \
        DELETE FROM stripe_due";
    let load = async |c: &crate::store::connection::Connection| {
        c.execute_batch(stored).await?;
        let asked = [DueSince { customer: "ann".into(), from_day: "9999".into() }];
        Ok(load(c, &asked, &["m".to_owned()], 100_000, GRACE).await?.remove("ann").unwrap())
    };
    let due = books.transaction(load).await.unwrap();
    assert_eq!(due.periods.iter().map(|p| p.start).collect::<Vec<_>>(), [0]);
    let placed = place(&due.events["m"][0], 100_000, GRACE);
    let invoice = Some(InvoicePeriod { start: 1000, end: 2000 });
    assert_eq!(placed, Placement { sent: invoice, billed: true, change: None });
}
