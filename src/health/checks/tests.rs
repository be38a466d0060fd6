//! Each finding, with a state that has it and one that just has not.

use books::audit::stats::{BillStats, BooksStats, CustomerStats, MonthNote};
use books::forecast::stored::UnusualOfMeter;
use books::forecast::unusual::LikelyCause;
use books::measured::accuracy::{Excess, MeterAccuracy, TwoWitnesses};
use books::shared_bucket::Measure;
use books::shared_bucket::shares::ShareState;
use books::shared_bucket::stored::BookedShare;
use books::store::row_counts::MonthRows;
use books::store::traffic::RowCounts;
use books::units::quantity::Quantity;
use books::usage::bill::BillNote;
use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::config::RowsQuota;
use crate::health::exports::{ExportHealth, Gap, MonthGap};
use crate::queue::{KindStats, QueueStats};
use books::audit::checks::LastAudit;

fn now() -> Timestamp {
    "2026-03-15T12:00:00Z".parse().unwrap()
}

fn hours(ago: i64) -> Option<Timestamp> {
    Some(now() - SignedDuration::from_hours(ago))
}

/// A system on a good day.
fn calm() -> Overview {
    let kind = || KindStats { last_done: hours(0), ..KindStats::default() };
    let kinds = [
        "roll_periods",
        "enforce_budgets",
        "push_stripe",
        "ingest_cur",
        "verify_books",
        "sync_stripe",
        "roll_counters",
    ];
    let bill = BillStats {
        payer: "default".into(),
        month: "2026-03".into(),
        delivered_at: hours(35),
        usage_through: hours(71),
        rows: 10,
        counted_rows: 5,
        lines: BTreeMap::from([("unrecognised".into(), 0)]),
        notes: vec![],
        on_hold: 0,
        hold_reason: None,
    };
    Overview {
        at: now(),
        took: SignedDuration::ZERO,
        database: "meter.db".into(),
        free_bytes: Some(LITTLE_SPACE),
        rows: None,
        rows_quota: RowsQuota { read: Some(500), written: Some(10) },
        billing: BillingMode::Live,
        notifications_go_out: true,
        operator_messages_go_out: true,
        books: BooksStats { bills: vec![bill], ..BooksStats::default() },
        customers: CustomerStats::default(),
        customers_at: now(),
        queue: QueueStats {
            kinds: kinds.map(|k| (k.to_owned(), kind())).into(),
            workers: BTreeMap::from([(WorkerState::Working, 1)]),
            working_since: hours(24),
            scheduled: kinds.map(str::to_owned).into(),
            ticks: BTreeMap::from([("ingest".into(), now())]),
            ticked_at: BTreeMap::new(),
        },
        share_bands: BTreeMap::from([("b".into(), 5)]),
        exports: vec![ExportHealth {
            export: "main".into(),
            payer: "default".into(),
            was_read: true,
            last_end: None,
            first: "2026-01".parse().ok(),
            gaps: vec![],
            on_hold: vec![],
            as_booked: 0,
            looked_at: None,
        }],
        audit: LastAudit { at: hours(47), violations: BTreeMap::from([("conservation".into(), 0)]), billing: vec![] },
        findings: vec![],
    }
}

fn by_end(read: u64, written: u64) -> Option<MonthRows> {
    Some(MonthRows { by_end: RowCounts { read, written }, ..MonthRows::default() })
}

type Change = fn(&mut Overview);

fn kind<'a>(s: &'a mut Overview, name: &str) -> &'a mut KindStats {
    s.queue.kinds.get_mut(name).unwrap()
}

fn note(kind: NoteKind) -> Vec<MonthNote> {
    let note = BillNote { kind, text: "some".into() };
    vec![MonthNote { month: "2026-03".into(), also: vec![], note }]
}

fn accuracy(s: &mut Overview, finding: Option<Excess>, differing_customers: u64) {
    s.books.accuracy.push(MeterAccuracy {
        meter: "m".into(),
        since: "2026-03-01".parse().unwrap(),
        days: vec![],
        usage: TwoWitnesses::default(),
        untagged: Quantity::ZERO,
        finding,
        differing_customers,
        customers: vec![],
    });
}

/// So many unusual days of a meter, of which the ten largest are named.
fn unusual_of(s: &mut Overview, total: u64, day: &str) {
    let named = |n: u64| UnusualDay {
        meter: "m".into(),
        customer: Some(format!("c{n}")),
        day: day.parse().unwrap(),
        used: "1200.5".parse().unwrap(),
        expected: "100".parse().unwrap(),
        cause: LikelyCause::Restatement,
    };
    let days = (1..=total.min(10)).map(named).collect();
    s.books.unusual.push(UnusualOfMeter { meter: "m".into(), total, days });
}

/// A day of a shared bucket that ended so many hours ago, and was billed with 10 units.
fn share(s: &mut Overview, state: ShareState, predicted: &str, hours: i64) {
    s.books.shares = vec![BookedShare {
        payer: "default".into(),
        month: "2026-03".parse().unwrap(),
        version: "v".into(),
        bucket: "b".into(),
        meter: "m".into(),
        measure: Measure::ByteSeconds,
        class: "STANDARD".into(),
        day: "2026-03-09".parse().unwrap(),
        state,
        billed: "10".parse().unwrap(),
        predicted: Some(predicted.parse().unwrap()),
        apportioned: Quantity::ZERO,
        digest: String::new(),
    }];
    s.at = s.books.shares[0].day.end() + SignedDuration::from_hours(hours);
}

/// Each finding, a change that causes it, and a change that is just not enough.
const CASES: [(&str, Change, Change); 42] = [
    ("MeterAttention", |s| kind(s, "push_stripe").attention = true, |s| kind(s, "push_stripe").attention = false),
    ("MeterExportNeverRead", |s| s.exports[0].was_read = false, |s| s.exports.clear()),
    (
        "MeterMonthsUnread",
        |s| {
            let gap = Gap::NotFinal { delivered_at: now() };
            s.exports[0].gaps.push(MonthGap { month: "2026-01".parse().unwrap(), gap });
        },
        |s| s.exports[0].first = None,
    ),
    ("MeterMeasuredDiffers", |s| accuracy(s, Some(Excess::BilledMore), 0), |s| accuracy(s, None, 0)),
    ("MeterMeasuredDiffers", |s| accuracy(s, None, 1), |s| s.books.accuracy.clear()),
    ("MeterUsageUnusual", |s| unusual_of(s, 1, "2026-03-08"), |s| unusual_of(s, 1, "2026-03-07")),
    ("MeterSharesUncertain", |s| share(s, ShareState::Held, "4", 30), |s| share(s, ShareState::Open, "4", 30)),
    ("MeterSharesUncertain", |s| share(s, ShareState::NoReport, "0", 73), |s| share(s, ShareState::NoReport, "0", 72)),
    (
        "MeterSharesUncertain",
        |s| share(s, ShareState::Apportioned, "9.4", 30),
        |s| share(s, ShareState::Apportioned, "9.5", 30),
    ),
    (
        "MeterSharesUncertain",
        |s| share(s, ShareState::Apportioned, "10.6", 30),
        |s| share(s, ShareState::Apportioned, "10.5", 30),
    ),
    (
        "MeterUsageOfUnknownCustomers",
        |s| {
            s.customers.unknown.insert("m".into(), Quantity::from_scaled(1));
        },
        |s| {
            s.customers.unknown.insert("m".into(), Quantity::ZERO);
        },
    ),
    (
        "MeterStripeDryRun",
        |s| {
            s.billing = BillingMode::DryRun;
            s.books.stripe.events.settled = 1;
        },
        |s| s.billing = BillingMode::DryRun,
    ),
    (
        "MeterStripeDryRun",
        |s| {
            s.billing = BillingMode::Off;
            s.books.stripe.events.settled = 1;
        },
        |s| s.billing = BillingMode::Off,
    ),
    ("MeterJobLate", |s| kind(s, "sync_stripe").last_done = hours(7), |s| kind(s, "sync_stripe").last_done = hours(6)),
    (
        "MeterJobLate",
        |s| kind(s, "roll_counters").last_done = None,
        |s| {
            kind(s, "roll_counters").last_done = None;
            s.queue.working_since = hours(6);
        },
    ),
    (
        "MeterJobOverdue",
        |s| kind(s, "push_stripe").last_done = None,
        |s| {
            kind(s, "push_stripe").last_done = None;
            s.queue.working_since = hours(0);
        },
    ),
    (
        "MeterStripeDeferred",
        |s| {
            s.customers.deferred.insert("currency".into(), 1);
        },
        |s| {
            s.customers.deferred.insert("no_item".into(), 1);
        },
    ),
    (
        "MeterBooksViolated",
        |s| {
            s.audit.violations.insert("counters".into(), 1);
        },
        |s| {
            s.audit.violations.insert("counters".into(), 0);
        },
    ),
    ("MeterBooksNotVerified", |s| s.audit.at = hours(49), |s| s.audit.at = hours(48)),
    (
        "MeterDown",
        |s| {
            s.queue.workers = BTreeMap::from([(WorkerState::Silent, 1)]);
            s.queue.working_since = None;
        },
        |s| s.queue.workers = BTreeMap::from([(WorkerState::Silent, 1), (WorkerState::Working, 1)]),
    ),
    ("MeterBillStale", |s| s.books.bills[0].delivered_at = hours(37), |s| s.books.bills[0].delivered_at = None),
    ("MeterUsageStale", |s| s.books.bills[0].usage_through = hours(73), |s| s.books.bills[0].usage_through = hours(72)),
    ("MeterVersionOnHold", |s| s.books.bills[0].on_hold = 1, |s| s.books.bills[0].hold_reason = Some("old".into())),
    (
        "MeterUsageUntagged",
        |s| s.books.bills[0].notes = note(NoteKind::Untagged),
        |s| s.books.bills[0].notes = note(NoteKind::MeterCountsNothing),
    ),
    (
        "MeterCountsNothing",
        |s| s.books.bills[0].notes = note(NoteKind::ProductNotCounted),
        |s| s.books.bills[0].notes = note(NoteKind::MeterCountsNothing),
    ),
    (
        "MeterUnrecognisedLines",
        |s| {
            s.books.bills[0].lines.insert("unrecognised".into(), 1);
        },
        |s| {
            s.books.bills[0].lines.insert("ignored".into(), 1);
        },
    ),
    (
        "MeterDeadJobs",
        |s| {
            kind(s, "push_stripe").states.insert(JobState::Dead, 1);
        },
        |s| {
            kind(s, "push_stripe").states.insert(JobState::Retrying, 1);
        },
    ),
    (
        "MeterQueueStuck",
        |s| kind(s, "push_stripe").waiting_since = hours(1),
        |s| kind(s, "ingest_cur").waiting_since = hours(2),
    ),
    (
        "MeterJobOverdue",
        |s| kind(s, "roll_periods").last_done = hours(1),
        |s| {
            kind(s, "push_stripe").last_done = hours(2);
            kind(s, "push_stripe").states.insert(JobState::Running, 1);
        },
    ),
    ("MeterTurnPeriodsOverdue", |s| s.books.turn_overdue_since = hours(1), |s| s.books.turn_overdue_since = hours(0)),
    (
        "MeterBillingOnHold",
        |s| s.books.stripe.restored_from = hours(1),
        |s| {
            s.books.stripe.restored_from = hours(1);
            s.billing = BillingMode::DryRun;
        },
    ),
    (
        "MeterStripeAlarm",
        |s| s.books.stripe.alarms = 1,
        |s| {
            s.books.stripe.events.settled = 1;
        },
    ),
    (
        "MeterEventUndecided",
        |s| s.books.stripe.oldest_unconfirmed_at = hours(97),
        |s| s.books.stripe.oldest_unconfirmed_at = hours(1),
    ),
    (
        "MeterEventUnconfirmed",
        |s| s.books.stripe.oldest_unconfirmed_at = hours(2),
        |s| s.books.stripe.oldest_unconfirmed_at = hours(1),
    ),
    (
        "MeterEventRefused",
        |s| {
            s.books.stripe.events.refused = 1;
        },
        |s| {
            s.books.stripe.events.pending = 1;
        },
    ),
    (
        "MeterUsageNearStripeLimit",
        |s| s.customers.oldest_deferred_at = hours(25 * 24 + 1),
        |s| s.books.stripe.oldest_pending_at = hours(25 * 24),
    ),
    (
        "MeterNotificationsFailing",
        |s| s.books.notifications.dead = 1,
        |s| {
            s.books.notifications.dead = 1;
            s.notifications_go_out = false;
        },
    ),
    (
        "MeterNotificationsFailing",
        |s| s.books.operator_messages.dead = 1,
        |s| {
            s.books.operator_messages.dead = 1;
            s.operator_messages_go_out = false;
        },
    ),
    (
        "MeterNotificationsFailing",
        |s| s.books.operator_messages.oldest_pending_at = hours(2),
        |s| s.books.operator_messages.oldest_pending_at = hours(1),
    ),
    ("MeterDatabaseNearlyFull", |s| s.free_bytes = Some(LITTLE_SPACE - 1), |s| s.free_bytes = None),
    ("MeterDatabaseQuota", |s| s.rows = by_end(501, 10), |s| s.rows = by_end(500, 10)),
    (
        "MeterDatabaseQuota",
        |s| s.rows = by_end(0, 11),
        |s| {
            s.rows = by_end(501, 11);
            s.rows_quota = RowsQuota::default();
        },
    ),
];

#[test]
fn a_good_day_needs_nobody() {
    assert_eq!(run(&calm()), []);
}

#[test]
fn each_finding_has_its_cause_and_nothing_less() {
    for (alert, cause, not_enough) in CASES {
        let mut bad = calm();
        cause(&mut bad);
        let found = run(&bad);
        assert_eq!(found.iter().map(|f| f.alert).collect::<Vec<_>>(), [alert], "{found:?}");
        assert!(found.iter().all(|f| !f.what.is_empty() && !f.act.is_empty()), "{found:?}");
        let mut good = calm();
        not_enough(&mut good);
        assert_eq!(run(&good), [], "{alert}");
    }
}

#[test]
fn findings_about_two_things_have_two_names() {
    let mut bad = calm();
    bad.books.notifications.dead = 1;
    bad.books.operator_messages.dead = 1;
    bad.audit.violations = [("a".to_owned(), 1), ("b".to_owned(), 1)].into();
    for kind in ["push_stripe", "ingest_cur"] {
        let dead = BTreeMap::from([(JobState::Dead, 1)]);
        bad.queue.kinds.insert(kind.into(), KindStats { states: dead, last_done: hours(0), ..KindStats::default() });
    }
    let found = run(&bad);
    let mut names: Vec<(&str, &str)> = found.iter().map(|f| (f.alert, f.subject.as_str())).collect();
    names.sort_unstable();
    let expected = [
        ("MeterBooksViolated", "a"),
        ("MeterBooksViolated", "b"),
        ("MeterDeadJobs", "ingest_cur"),
        ("MeterDeadJobs", "push_stripe"),
        ("MeterNotificationsFailing", "operator"),
        ("MeterNotificationsFailing", "web backend"),
    ];
    assert_eq!(names, expected);
}

#[test]
fn the_worst_comes_first() {
    let mut both = calm();
    both.books.bills[0].on_hold = 1;
    both.books.stripe.alarms = 1;
    assert_eq!(run(&both).iter().map(|f| f.severity).collect::<Vec<_>>(), [Severity::Critical, Severity::Warning]);
}

#[test]
fn the_largest_unusual_days_are_named_and_the_others_counted() {
    let found = |change: &dyn Fn(&mut Overview)| {
        let mut s = calm();
        change(&mut s);
        run(&s)
    };
    let of = found(&|s| unusual_of(s, 1, "2026-03-08"));
    let what = "c1 used 1,200.5 of m on 2026-03-08, and 100 were expected; likely cause: \
                a later bill changed the day (restatement)";
    assert_eq!((of.len(), of[0].subject.as_str(), of[0].what.as_str()), (1, "m c1", what));
    assert_eq!(of[0].act, "meter explain c1 --meter m --day 2026-03-08");
    let of = found(&|s| unusual_of(s, 300, "2026-03-08"));
    assert_eq!((of.len(), of[10].subject.as_str()), (11, "others"));
    assert!(of[10].what.starts_with("290 days more"), "{}", of[10].what);
    // ten of all meters together
    let of = found(&|s| {
        unusual_of(s, 6, "2026-03-08");
        unusual_of(s, 6, "2026-03-09");
    });
    assert_eq!((of.len(), of[10].what.split(' ').next().unwrap()), (11, "2"));
    // the meter as a whole, and what has no customer
    let of = found(&|s| {
        unusual_of(s, 2, "2026-03-08");
        s.books.unusual[0].days[0].customer = None;
        s.books.unusual[0].days[1].customer = Some(String::new());
    });
    let subjects: Vec<&str> = of.iter().map(|of| of.subject.as_str()).collect();
    assert_eq!(subjects, ["m", "m without a customer"]);
}
