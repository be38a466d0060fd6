//! Finds what needs attention. The limits are those of the alert rules in
//! `dashboards/prometheus/rules`; the sections of the runbook have the names of the alerts.

use jiff::SignedDuration;

use super::overview::{BillingMode, Finding, Overview, RowUse, Severity};
use crate::format::{ago, count, quantity, span};
use crate::queue::{JobState, WorkerState};

/// AWS delivers a bill up to three times a day.
pub(crate) const BILL_STALE: SignedDuration = SignedDuration::from_hours(36);
/// Usage of a day is in the bill after one or two days.
const USAGE_STALE: SignedDuration = SignedDuration::from_hours(72);
/// The audit runs daily.
const AUDIT_LATE: SignedDuration = SignedDuration::from_hours(48);
/// A due job should wait for a worker for less than this.
const STUCK: SignedDuration = SignedDuration::from_mins(15);
const STUCK_BILL: SignedDuration = SignedDuration::from_hours(2);
/// TURN periods are closed every five minutes.
const TURN_LATE: SignedDuration = SignedDuration::from_mins(30);
/// Short outages end sooner.
const UNCONFIRMED_LONG: SignedDuration = SignedDuration::from_hours(1);
/// Totals decide within three days.
const UNDECIDED: SignedDuration = SignedDuration::from_hours(4 * 24);
/// Stripe takes events of the last 35 days
/// (<https://docs.stripe.com/api/billing/meter-event/create>); ten are left to act.
const NEAR_LIMIT: SignedDuration = SignedDuration::from_hours(25 * 24);
/// Notifications go out every minute.
const NOTIFICATION_LATE: SignedDuration = SignedDuration::from_hours(1);
/// Less free space than this is too little for a booking of a large bill.
pub(crate) const LITTLE_SPACE: u64 = 1 << 30;
/// A kind with a running job is late only after this time.
const LONG_RUN: SignedDuration = SignedDuration::from_hours(2);
/// Kinds that the schedule runs every few minutes, and how late their last success may be.
const OFTEN: [(&str, SignedDuration); 4] = [
    ("roll_periods", SignedDuration::from_mins(30)),
    ("enforce_budgets", SignedDuration::from_mins(30)),
    ("push_stripe", SignedDuration::from_mins(30)),
    ("ingest_cur", SignedDuration::from_hours(6)),
];
/// Kinds that the schedule runs each hour.
const HOURLY: [&str; 3] = ["sync_stripe", "reconcile_stripe", "roll_counters"];
const HOURLY_LATE: SignedDuration = SignedDuration::from_hours(6);

/// The alerts that a check can raise, with the severities of
/// `dashboards/prometheus/rules/alerts.yml`; a test compares them.
pub const ALERTS: [(&str, Severity); 28] = [
    ("MeterAttention", Severity::Warning),
    ("MeterBillStale", Severity::Warning),
    ("MeterBillingOnHold", Severity::Critical),
    ("MeterBooksNotVerified", Severity::Warning),
    ("MeterBooksViolated", Severity::Critical),
    ("MeterDatabaseBlocked", Severity::Critical),
    ("MeterDatabaseNearlyFull", Severity::Critical),
    ("MeterDatabaseQuota", Severity::Warning),
    ("MeterDeadJobs", Severity::Warning),
    ("MeterDown", Severity::Critical),
    ("MeterEventRefused", Severity::Warning),
    ("MeterEventUnconfirmed", Severity::Warning),
    ("MeterEventUndecided", Severity::Critical),
    ("MeterExportNeverRead", Severity::Warning),
    ("MeterJobLate", Severity::Warning),
    ("MeterJobOverdue", Severity::Critical),
    ("MeterMonthsUnread", Severity::Warning),
    ("MeterNotificationsFailing", Severity::Warning),
    ("MeterQueueStuck", Severity::Warning),
    ("MeterStripeAlarm", Severity::Critical),
    ("MeterStripeDeferred", Severity::Warning),
    ("MeterStripeDryRun", Severity::Critical),
    ("MeterTurnPeriodsOverdue", Severity::Warning),
    ("MeterUnrecognisedLines", Severity::Warning),
    ("MeterUsageNearStripeLimit", Severity::Critical),
    ("MeterUsageOfUnknownCustomers", Severity::Warning),
    ("MeterUsageStale", Severity::Warning),
    ("MeterVersionOnHold", Severity::Warning),
];

/// The finding of a worker whose database refuses all statements, as its heartbeat sees it. No
/// overview can be read then.
pub(crate) fn blocked() -> Finding {
    Finding {
        severity: Severity::Critical,
        alert: "MeterDatabaseBlocked",
        what: "the remote database refuses all statements: the quota of its plan is used up, or it was blocked by hand"
            .into(),
        act: "allow overages or take a larger plan at the database's provider; work then goes on within two minutes"
            .into(),
    }
}

/// Runs all checks on an overview. Pure.
pub(super) fn run(s: &Overview) -> Vec<Finding> {
    let mut found = vec![];
    let mut add = |alert, what: String, act: &str| {
        let severity =
            ALERTS.iter().find(|(name, _)| *name == alert).map_or(Severity::Critical, |(_, severity)| *severity);
        found.push(Finding { severity, alert, what, act: act.to_owned() });
    };
    let since = |at: jiff::Timestamp| s.at.duration_since(at);
    for (check, count) in s.audit.broken() {
        let what = format!("the books break the rule `{check}` in {count} place(s)");
        add("MeterBooksViolated", what, "meter verify");
    }
    if s.audit.at.is_some_and(|at| since(at) > AUDIT_LATE) {
        let what = format!("the books were last audited {}", s.audit.at.map_or(String::new(), |at| ago(at, s.at)));
        add("MeterBooksNotVerified", what, "meter enqueue verify_books --wait");
    }
    if s.workers(WorkerState::Working) == 0 && !s.queue.ticks.is_empty() {
        add("MeterDown", "no worker is running".into(), "meter work");
    }
    exports(s, &mut add);
    bills(s, &mut add);
    for (kind, of) in &s.queue.kinds {
        if let Some(dead) = of.states.get(&JobState::Dead).filter(|n| **n > 0) {
            let what = format!("{dead} job(s) of {kind} are dead");
            add("MeterDeadJobs", what, &format!("meter jobs list --state dead --kind {kind}"));
        }
        // bills wait for each other
        let most = if kind.starts_with("ingest_") { STUCK_BILL } else { STUCK };
        if let Some(at) = of.waiting_since.filter(|at| since(*at) > most) {
            let what = format!("a job of {kind} has waited for a worker for {}", span(since(at)));
            add("MeterQueueStuck", what, &format!("meter jobs list --kind {kind}; meter workers"));
        }
    }
    overdue(s, &mut add);
    if let Some(at) = s.books.turn_overdue_since.filter(|at| since(*at) > TURN_LATE) {
        let what = format!("a TURN period ended {} ago and is not closed", span(since(at)));
        add("MeterTurnPeriodsOverdue", what, "meter run roll-periods");
    }
    let attention = s.queue.kinds.iter().filter(|(_, of)| of.attention);
    for (kind, _) in attention {
        let what = format!("the report of the newest done run of {kind} needs attention");
        add("MeterAttention", what, &format!("meter jobs list --attention --kind {kind}"));
    }
    let unknown = s.customers.unknown.iter().filter(|(_, used)| !used.is_zero());
    let unknown: Vec<String> = unknown.map(|(meter, used)| format!("{} of {meter}", quantity(*used))).collect();
    if !unknown.is_empty() {
        let what = format!(
            "{} of this month and the last belong to ids that no customer has: they are billed nowhere",
            unknown.join(", ")
        );
        add("MeterUsageOfUnknownCustomers", what, "meter usage; meter customer add ID");
    }
    stripe(s, &mut add);
    let notifications = &s.books.notifications;
    if !s.notifications_go_out {
        // they are kept until notifications.url is set
    } else if notifications.dead > 0 {
        let what = format!("{} notification(s) to the web backend were given up", notifications.dead);
        add("MeterNotificationsFailing", what, "meter notifications list --state dead");
    } else if let Some(at) = notifications.oldest_pending_at.filter(|at| since(*at) > NOTIFICATION_LATE) {
        let what = format!("a notification has not reached the web backend for {}", span(since(at)));
        add("MeterNotificationsFailing", what, "meter notifications list");
    }
    if let Some(free) = s.free_bytes.filter(|free| *free < LITTLE_SPACE) {
        let what = format!("only {} MiB are free where the database lies", free >> 20);
        add("MeterDatabaseNearlyFull", what, "free space there");
    }
    for rows in s.month_rows().filter(RowUse::is_over) {
        let what = format!(
            "about {} rows of the database will be {} this month, and its plan has {}; so far {}",
            count(rows.by_end),
            rows.what,
            count(rows.quota.unwrap_or(0)),
            count(rows.so_far)
        );
        add(
            "MeterDatabaseQuota",
            what,
            "meter jobs show N (the field database of a report); a larger plan, or overages",
        );
    }
    found.sort_by_key(|f| f.severity);
    found
}

/// Kinds without a success for too long. For a kind without any success the age of the oldest
/// worker counts, as in the alerts.
fn overdue(s: &Overview, add: &mut impl FnMut(&'static str, String, &str)) {
    let often = OFTEN.map(|(kind, late)| (kind, late, "MeterJobOverdue"));
    let hourly = HOURLY.map(|kind| (kind, HOURLY_LATE, "MeterJobLate"));
    // without a worker MeterDown is the finding
    let Some(working_since) = s.queue.working_since else { return };
    for (kind, late, alert) in often.into_iter().chain(hourly) {
        let Some(of) = s.queue.kinds.get(kind).filter(|_| s.queue.scheduled.contains(kind)) else { continue };
        // the first push of a large account and a large bill take long
        let runs = of.states.get(&JobState::Running).is_some_and(|n| *n > 0);
        let late = if runs { late.max(LONG_RUN) } else { late };
        if s.at.duration_since(of.last_done.unwrap_or(working_since)) > late {
            let what = match of.last_done {
                Some(at) => format!("{kind} was last done {}", ago(at, s.at)),
                None => format!("{kind} was never done since a worker began {}", ago(working_since, s.at)),
            };
            add(alert, what, &format!("meter jobs list --kind {kind}; meter schedule"));
        }
    }
}

fn exports(s: &Overview, add: &mut impl FnMut(&'static str, String, &str)) {
    for export in &s.exports {
        if let Some((what, act)) = export.never_read(s.queue.working_since, s.at) {
            add("MeterExportNeverRead", what, &act);
        }
        for gap in &export.gaps {
            let (what, act) = gap.words(&export.export, s.at);
            add("MeterMonthsUnread", what, &act);
        }
    }
}

fn bills(s: &Overview, add: &mut impl FnMut(&'static str, String, &str)) {
    for bill in &s.books.bills {
        let payer = &bill.payer;
        if let Some(age) = bill.delivered_at.map(|at| s.at.duration_since(at)).filter(|age| *age > BILL_STALE) {
            let what = format!("the newest bill of payer {payer} that is booked is {} old", span(age));
            add("MeterBillStale", what, "meter jobs list --kind ingest_cur; meter versions");
        }
        if let Some(age) = bill.usage_through.map(|at| s.at.duration_since(at)).filter(|age| *age > USAGE_STALE) {
            let what = format!("the bills of payer {payer} include usage only through {} ago", span(age));
            add("MeterUsageStale", what, "meter versions; meter usage");
        }
        if bill.on_hold > 0 {
            let because = bill.hold_reason.as_deref().unwrap_or_default();
            let held = s.exports.iter().filter(|export| export.payer == *payer).flat_map(|export| &export.on_hold);
            let held: Vec<String> = held.map(ToString::to_string).collect();
            let of = if held.is_empty() { String::new() } else { format!(" ({})", held.join(", ")) };
            let what = format!("{} version(s) of payer {payer}'s bill{of} are on hold: {because}", bill.on_hold);
            add("MeterVersionOnHold", what, "meter versions; meter ingest --dry-run");
        }
        if let Some(lines) = bill.lines.get("unrecognised").filter(|n| **n > 0) {
            let what = format!("{lines} line(s) of payer {payer}'s bill are recognised by no meter and no ignore rule");
            add("MeterUnrecognisedLines", what, "meter discover");
        }
    }
}

fn stripe(s: &Overview, add: &mut impl FnMut(&'static str, String, &str)) {
    let (stripe, customers) = (&s.books.stripe, &s.customers);
    let since = |at: jiff::Timestamp| s.at.duration_since(at);
    if let Some(backup_at) = s.on_hold() {
        let what = format!("billing is on hold: these books were restored from a backup of {backup_at}");
        add("MeterBillingOnHold", what, "meter restore status");
    }
    if stripe.alarms > 0 {
        let what = format!("{} of Stripe's totals are not what was sent", stripe.alarms);
        add("MeterStripeAlarm", what, "meter reconcile");
    }
    if let Some(at) = stripe.oldest_unconfirmed_at.filter(|at| since(*at) > UNDECIDED) {
        let what = format!(
            "an event has been unconfirmed for {}, longer than Stripe's totals take to decide",
            span(since(at))
        );
        add("MeterEventUndecided", what, "meter events list --state unconfirmed; meter reconcile");
    } else if let Some(at) = stripe.oldest_unconfirmed_at.filter(|at| since(*at) > UNCONFIRMED_LONG) {
        let what = format!("it has been unknown for {} whether Stripe took an event", span(since(at)));
        add("MeterEventUnconfirmed", what, "meter events list --state unconfirmed");
    }
    let lacks = match s.billing {
        BillingMode::DryRun => Some(("there is no key now", "set METER_STRIPE__KEY")),
        BillingMode::Off => {
            Some(("the configuration bills no meter now", "put [stripe.meters] back into the configuration"))
        }
        _ => None,
    };
    if let Some((why, act)) = lacks.filter(|_| s.books.stripe.events.settled > 0) {
        let what = format!("usage was sent to Stripe from these books, and {why}: nothing goes out");
        add("MeterStripeDryRun", what, act);
    }
    for reason in ["currency", "several_items", "too_large", "no_meter", "no_stripe_customer", "no_subscription"] {
        if let Some(deferred) = customers.deferred.get(reason).filter(|n| **n > 0) {
            let what = format!("{deferred} amount(s) are deferred until a person acts: {reason}");
            add("MeterStripeDeferred", what, "meter push; docs/stripe.md, \"Why an amount is deferred\"");
        }
    }
    if s.books.stripe.events.refused > 0 {
        let what = format!("Stripe refused {} event(s)", s.books.stripe.events.refused);
        add("MeterEventRefused", what, "meter events list --state refused");
    }
    let oldest = [stripe.oldest_pending_at, customers.oldest_deferred_at].into_iter().flatten().min();
    if let Some(at) = oldest.filter(|at| since(*at) > NEAR_LIMIT) {
        let what = format!("usage has waited for {} to be sent to Stripe, which takes 35 days back", span(since(at)));
        add("MeterUsageNearStripeLimit", what, "meter reconcile");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use books::audit::stats::{BillStats, BooksStats, CustomerStats};
    use books::store::row_counts::MonthRows;
    use books::store::traffic::RowCounts;
    use books::units::quantity::Quantity;
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
            audit: LastAudit {
                at: hours(47),
                violations: BTreeMap::from([("conservation".into(), 0)]),
                billing: vec![],
            },
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

    /// Each finding, a change that causes it, and a change that is just not enough.
    const CASES: [(&str, Change, Change); 31] = [
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
        (
            "MeterJobLate",
            |s| kind(s, "sync_stripe").last_done = hours(7),
            |s| kind(s, "sync_stripe").last_done = hours(6),
        ),
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
        (
            "MeterUsageStale",
            |s| s.books.bills[0].usage_through = hours(73),
            |s| s.books.bills[0].usage_through = hours(72),
        ),
        ("MeterVersionOnHold", |s| s.books.bills[0].on_hold = 1, |s| s.books.bills[0].hold_reason = Some("old".into())),
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
        (
            "MeterTurnPeriodsOverdue",
            |s| s.books.turn_overdue_since = hours(1),
            |s| s.books.turn_overdue_since = hours(0),
        ),
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
    fn the_worst_comes_first() {
        let mut both = calm();
        both.books.bills[0].on_hold = 1;
        both.books.stripe.alarms = 1;
        assert_eq!(run(&both).iter().map(|f| f.severity).collect::<Vec<_>>(), [Severity::Critical, Severity::Warning]);
    }
}
