//! Finds what needs attention. The limits are those of the alert rules in
//! `dashboards/prometheus/rules`; the sections of the runbook have the names of the alerts.

use std::collections::BTreeMap;

use books::forecast::unusual::UnusualDay;
use books::shared_bucket::stored::BookedShare;
use books::units::calendar::{Day, Month};
use books::usage::bill::NoteKind;
use jiff::SignedDuration;
use jobs::push_stripe::DeferReason;

use super::overview::{BillingMode, Finding, Overview, RowUse, Severity, ShareFault};
use crate::format::{ago, count, quantity, rounded, several, span, verb};
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

/// Unusual days are named as long as this after their end, and at most so many.
const UNUSUAL_FOR: SignedDuration = SignedDuration::from_hours(7 * 24);
const UNUSUAL_NAMED: usize = 10;

/// The alerts that a check can raise, with the severities of
/// `dashboards/prometheus/rules/alerts.yml`; a test compares them.
pub const ALERTS: [(&str, Severity); 33] = [
    ("MeterAttention", Severity::Warning),
    ("MeterBillStale", Severity::Warning),
    ("MeterBillingOnHold", Severity::Critical),
    ("MeterBooksNotVerified", Severity::Warning),
    ("MeterBooksViolated", Severity::Critical),
    ("MeterCountsNothing", Severity::Warning),
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
    ("MeterMeasuredDiffers", Severity::Warning),
    ("MeterMonthsUnread", Severity::Warning),
    ("MeterNotificationsFailing", Severity::Warning),
    ("MeterQueueStuck", Severity::Warning),
    ("MeterSharesUncertain", Severity::Warning),
    ("MeterStripeAlarm", Severity::Critical),
    ("MeterStripeDeferred", Severity::Warning),
    ("MeterStripeDryRun", Severity::Critical),
    ("MeterTurnPeriodsOverdue", Severity::Warning),
    ("MeterUnrecognisedLines", Severity::Warning),
    ("MeterUsageNearStripeLimit", Severity::Critical),
    ("MeterUsageOfUnknownCustomers", Severity::Warning),
    ("MeterUsageStale", Severity::Warning),
    ("MeterUsageUntagged", Severity::Warning),
    ("MeterUsageUnusual", Severity::Warning),
    ("MeterVersionOnHold", Severity::Warning),
];

/// The finding of a worker whose database refuses all statements, as its heartbeat sees it. No
/// overview can be read then.
pub(crate) fn blocked() -> Finding {
    Finding {
        severity: Severity::Critical,
        alert: "MeterDatabaseBlocked",
        subject: String::new(),
        what: "the remote database refuses all statements: the quota of its plan is used up, or it was blocked by hand"
            .into(),
        act: "allow overages or take a larger plan at the database's provider; work then goes on within two minutes"
            .into(),
    }
}

/// Runs all checks on an overview. Pure.
pub(super) fn run(s: &Overview) -> Vec<Finding> {
    let mut found = vec![];
    let mut add = |alert, subject: &str, what: String, act: &str| {
        let severity =
            ALERTS.iter().find(|(name, _)| *name == alert).map_or(Severity::Critical, |(_, severity)| *severity);
        found.push(Finding { severity, alert, subject: subject.to_owned(), what, act: act.to_owned() });
    };
    let since = |at: jiff::Timestamp| s.at.duration_since(at);
    for (check, count) in s.audit.broken() {
        let what = format!("the books break the rule `{check}` in {}", several(count, "place"));
        add("MeterBooksViolated", check, what, "meter verify");
    }
    if s.audit.at.is_some_and(|at| since(at) > AUDIT_LATE) {
        let what = format!("the books were last audited {}", s.audit.at.map_or(String::new(), |at| ago(at, s.at)));
        add("MeterBooksNotVerified", "", what, "meter enqueue verify_books --wait");
    }
    if s.workers(WorkerState::Working) == 0 && !s.queue.ticks.is_empty() {
        add("MeterDown", "", "no worker is running".into(), "meter work");
    }
    exports(s, &mut add);
    bills(s, &mut add);
    for (kind, of) in &s.queue.kinds {
        if let Some(dead) = of.states.get(&JobState::Dead).filter(|n| **n > 0) {
            let what = format!("{} of {kind} {} dead", several(*dead, "job"), verb(*dead, "is", "are"));
            add("MeterDeadJobs", kind, what, &format!("meter jobs list --state dead --kind {kind}"));
        }
        // bills wait for each other
        let most = if kind.starts_with("ingest_") { STUCK_BILL } else { STUCK };
        if let Some(at) = of.waiting_since.filter(|at| since(*at) > most) {
            let what = format!("a job of {kind} has waited for a worker for {}", span(since(at)));
            add("MeterQueueStuck", kind, what, &format!("meter jobs list --kind {kind}; meter workers"));
        }
    }
    overdue(s, &mut add);
    if let Some(at) = s.books.turn_overdue_since.filter(|at| since(*at) > TURN_LATE) {
        let what = format!("a TURN period ended {} ago and is not closed", span(since(at)));
        add("MeterTurnPeriodsOverdue", "", what, "meter run roll-periods");
    }
    let attention = s.queue.kinds.iter().filter(|(_, of)| of.attention);
    for (kind, _) in attention {
        let what = format!("the report of the newest done run of {kind} needs attention");
        add("MeterAttention", kind, what, &format!("meter jobs list --attention --kind {kind}"));
    }
    let unknown = s.customers.unknown.iter().filter(|(_, used)| !used.is_zero());
    let unknown: Vec<String> = unknown.map(|(meter, used)| format!("{} of {meter}", rounded(*used, 2))).collect();
    if !unknown.is_empty() {
        let what = format!(
            "{} of this month and the last belong to ids that no customer has: they are billed nowhere",
            unknown.join(", ")
        );
        add("MeterUsageOfUnknownCustomers", "", what, "meter usage; meter customer add ID");
    }
    measured(s, &mut add);
    unusual(s, &mut add);
    shares(s, &mut add);
    stripe(s, &mut add);
    let notifications = &s.books.notifications;
    if !s.notifications_go_out {
        // they are kept until notifications.url is set
    } else if notifications.dead > 0 {
        let (given_up, were) = (several(notifications.dead, "notification"), verb(notifications.dead, "was", "were"));
        let what = format!("{given_up} to the web backend {were} given up");
        add("MeterNotificationsFailing", "web backend", what, "meter notifications list --state dead");
    } else if let Some(at) = notifications.oldest_pending_at.filter(|at| since(*at) > NOTIFICATION_LATE) {
        let what = format!("a notification has not reached the web backend for {}", span(since(at)));
        add("MeterNotificationsFailing", "web backend", what, "meter notifications list");
    }
    let messages = &s.books.operator_messages;
    if !s.operator_messages_go_out {
        // nobody is to receive any
    } else if messages.dead > 0 {
        let (given_up, were) = (several(messages.dead, "message"), verb(messages.dead, "was", "were"));
        let what = format!("{given_up} to the operator {were} given up");
        add("MeterNotificationsFailing", "operator", what, "meter notifications list --state dead");
    } else if let Some(at) = messages.oldest_pending_at.filter(|at| since(*at) > NOTIFICATION_LATE) {
        let what = format!("a message has not reached the operator for {}", span(since(at)));
        add("MeterNotificationsFailing", "operator", what, "meter notifications list");
    }
    if let Some(free) = s.free_bytes.filter(|free| *free < LITTLE_SPACE) {
        let what = format!("only {} MiB are free where the database lies", free >> 20);
        add("MeterDatabaseNearlyFull", "", what, "free space there");
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
            rows.what,
            what,
            "meter jobs show N (the field database of a report); a larger plan, or overages",
        );
    }
    found.sort_by_key(|f| f.severity);
    found
}

/// Kinds without a success for too long. For a kind without any success the age of the oldest
/// worker counts, as in the alerts.
fn overdue(s: &Overview, add: &mut impl FnMut(&'static str, &str, String, &str)) {
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
            add(alert, kind, what, &format!("meter jobs list --kind {kind}; meter schedule"));
        }
    }
}

fn exports(s: &Overview, add: &mut impl FnMut(&'static str, &str, String, &str)) {
    for export in &s.exports {
        if let Some((what, act)) = export.never_read(s.queue.working_since, s.at) {
            add("MeterExportNeverRead", &export.export, what, &act);
        }
        for gap in &export.gaps {
            let (what, act) = gap.words(&export.export, s.at);
            add("MeterMonthsUnread", &format!("{} {}", export.export, gap.month), what, &act);
        }
    }
}

fn bills(s: &Overview, add: &mut impl FnMut(&'static str, &str, String, &str)) {
    for bill in &s.books.bills {
        let payer = &bill.payer;
        if let Some(age) = bill.delivered_at.map(|at| s.at.duration_since(at)).filter(|age| *age > BILL_STALE) {
            let what = format!("the newest bill of payer {payer} that is booked is {} old", span(age));
            add("MeterBillStale", payer, what, "meter jobs list --kind ingest_cur; meter versions");
        }
        if let Some(age) = bill.usage_through.map(|at| s.at.duration_since(at)).filter(|age| *age > USAGE_STALE) {
            let what = format!("the bills of payer {payer} include usage only through {} ago", span(age));
            add("MeterUsageStale", payer, what, "meter versions; meter usage");
        }
        if bill.on_hold > 0 {
            let because = bill.hold_reason.as_deref().unwrap_or_default();
            let held = s.exports.iter().filter(|export| export.payer == *payer).flat_map(|export| &export.on_hold);
            let held: Vec<String> = held.map(ToString::to_string).collect();
            let of = if held.is_empty() { String::new() } else { format!(" ({})", held.join(", ")) };
            let (versions, are) = (several(bill.on_hold, "version"), verb(bill.on_hold, "is", "are"));
            let what = format!("{versions} of payer {payer}'s bill{of} {are} on hold: {because}");
            add("MeterVersionOnHold", payer, what, "meter versions; meter ingest --dry-run");
        }
        if let Some(lines) = bill.lines.get("unrecognised").filter(|n| **n > 0) {
            let (lines, are) = (several(*lines, "line"), verb(*lines, "is", "are"));
            let month: Option<Month> = bill.month.parse().ok();
            let before = month.map_or(String::new(), |month| format!("; meter discover --month {}", month.previous()));
            let what =
                format!("{lines} of payer {payer}'s two newest bills {are} recognised by no meter and no ignore rule");
            add("MeterUnrecognisedLines", payer, what, &format!("meter discover{before}"));
        }
        for of in &bill.notes {
            let (what, kind) = (format!("bill of payer {payer}, {}: {}", of.months(), of.note.text), of.note.kind);
            match kind {
                NoteKind::Untagged => add("MeterUsageUntagged", payer, what, act_on(kind)),
                NoteKind::ProductNotCounted => add("MeterCountsNothing", payer, what, act_on(kind)),
                // as long as its product is counted by another meter, nothing need be wrong
                NoteKind::MeterCountsNothing => {}
                NoteKind::SharedBucket => add("MeterSharesUncertain", payer, what, act_on(kind)),
            }
        }
    }
}

/// What a person can do about a note.
pub(crate) fn act_on(note: NoteKind) -> &'static str {
    match note {
        NoteKind::Untagged => {
            "write the right key into tag_key, or activate the tag (Billing console, Cost allocation tags); then meter ingest --month, for each of the months"
        }
        NoteKind::SharedBucket => "meter discover; docs/shared-bucket.md",
        NoteKind::ProductNotCounted | NoteKind::MeterCountsNothing => {
            "meter discover; compare it with watched_products, and with usage_types and line_types of the meter"
        }
    }
}

/// Measured usage that differs from the bill of settled days.
fn measured(s: &Overview, add: &mut impl FnMut(&'static str, &str, String, &str)) {
    for of in s.books.accuracy.iter().filter(|of| of.has_finding()) {
        let meter = &of.meter;
        let what = match of.finding {
            Some(_) => format!(
                "{} of {meter} were measured on the last settled days, and AWS billed {}",
                quantity(of.usage.measured),
                quantity(of.usage.billed)
            ),
            None => {
                let customers = several(of.differing_customers, "customer");
                format!("measured and billed {meter} of {customers} differ on several settled days")
            }
        };
        add("MeterMeasuredDiffers", meter, what, &format!("meter accuracy --meter {meter}"));
    }
}

/// Settled days far outside of what was expected of them: the largest ones, and how many more.
fn unusual(s: &Overview, add: &mut impl FnMut(&'static str, &str, String, &str)) {
    let (mut named, mut all) = (0, 0);
    for of in &s.books.unusual {
        let is_new = |day: &&UnusualDay| s.at.duration_since(day.day.end()) <= UNUSUAL_FOR;
        let days: Vec<&UnusualDay> = of.days.iter().filter(is_new).collect();
        // of those that are not named nobody knows the day
        let older = of.days.len() - days.len();
        all += usize::try_from(of.total).unwrap_or(usize::MAX).saturating_sub(older);
        for day in days.into_iter().take(UNUSUAL_NAMED - named) {
            named += 1;
            let (subject, what, act) = unusual_day(day);
            add("MeterUsageUnusual", &subject, what, &act);
        }
    }
    if named > 0 && all > named {
        let what = format!("{} more are far outside of what was expected", several(all - named, "day"));
        add("MeterUsageUnusual", "others", what, "meter usage; meter versions");
    }
}

/// The subject of a finding, its words, and what to do.
fn unusual_day(of: &UnusualDay) -> (String, String, String) {
    let UnusualDay { meter, day, cause, .. } = of;
    let amounts = format!(
        "used {} of {meter} on {day}, and {} were expected; likely cause: {}",
        rounded(of.used, 2),
        rounded(of.expected, 2),
        cause.words()
    );
    match of.customer.as_deref() {
        None => (meter.clone(), format!("all customers together {amounts}"), "meter usage; meter versions".into()),
        Some("") => (
            format!("{meter} without a customer"),
            format!("lines without a customer {amounts}"),
            "meter discover".into(),
        ),
        Some(customer) => (
            format!("{meter} {customer}"),
            format!("{customer} {amounts}"),
            format!("meter explain {customer} --meter {meter} --day {day}"),
        ),
    }
}

/// Days of shared buckets of which the reports account for too little, too much or nothing.
fn shares(s: &Overview, add: &mut impl FnMut(&'static str, &str, String, &str)) {
    let mut by_bucket: BTreeMap<&str, BTreeMap<ShareFault, BTreeMap<Day, &BookedShare>>> = BTreeMap::new();
    for share in &s.books.shares {
        let Some(fault) = s.share_fault(share) else { continue };
        by_bucket.entry(&share.bucket).or_default().entry(fault).or_default().entry(share.day).or_insert(share);
    }
    for (bucket, faults) in by_bucket {
        let (mut said, mut held) = (vec![], None);
        for (fault, days) in &faults {
            let newest = days.keys().next_back().map_or(String::new(), Day::to_string);
            let of = several(days.len(), "day");
            said.push(match fault {
                ShareFault::Held => {
                    format!(
                        "far too little or too much of {of} (the newest {newest}), which {} held",
                        verb(days.len(), "is", "are")
                    )
                }
                ShareFault::NoReport => format!("nothing of {of} (the newest {newest})"),
                ShareFault::Outside => {
                    let newest = days.values().next_back().map_or(String::new(), |share| {
                        let class = if share.class.is_empty() { String::new() } else { format!(" {}", share.class) };
                        let percent = share.coverage().unwrap_or_default() / 100;
                        format!("{}, {}{class}: {percent} %", share.day, share.meter)
                    });
                    format!("too little or too much of {of} (the newest {newest})")
                }
            });
            if *fault == ShareFault::Held {
                held = Some(newest);
            }
        }
        let what = format!("S3's reports about the shared bucket {bucket} account for {}", said.join(", and "));
        let accept = held.map(|day| format!("; meter shared {bucket} --accept {day} --reason \"why\""));
        add(
            "MeterSharesUncertain",
            bucket,
            what,
            &format!("meter shared {bucket} --days 14{}", accept.unwrap_or_default()),
        );
    }
}

fn stripe(s: &Overview, add: &mut impl FnMut(&'static str, &str, String, &str)) {
    let (stripe, customers) = (&s.books.stripe, &s.customers);
    let since = |at: jiff::Timestamp| s.at.duration_since(at);
    if let Some(backup_at) = s.on_hold() {
        let what = format!("billing is on hold: these books were restored from a backup of {backup_at}");
        add("MeterBillingOnHold", "", what, "meter restore status");
    }
    if stripe.alarms > 0 {
        let what = format!("{} of Stripe's totals are not what was sent", stripe.alarms);
        add("MeterStripeAlarm", "", what, "meter reconcile");
    }
    if let Some(at) = stripe.oldest_unconfirmed_at.filter(|at| since(*at) > UNDECIDED) {
        let what = format!(
            "an event has been unconfirmed for {}, longer than Stripe's totals take to decide",
            span(since(at))
        );
        add("MeterEventUndecided", "", what, "meter events list --state unconfirmed; meter reconcile");
    } else if let Some(at) = stripe.oldest_unconfirmed_at.filter(|at| since(*at) > UNCONFIRMED_LONG) {
        let what = format!("it has been unknown for {} whether Stripe took an event", span(since(at)));
        add("MeterEventUnconfirmed", "", what, "meter events list --state unconfirmed");
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
        add("MeterStripeDryRun", "", what, act);
    }
    for reason in ["currency", "several_items", "too_large", "no_meter", "no_stripe_customer", "no_subscription"] {
        if let Some(deferred) = customers.deferred.get(reason).filter(|n| **n > 0) {
            let (amounts, are) = (several(*deferred, "amount"), verb(*deferred, "is", "are"));
            let why = DeferReason::named(reason).map_or(reason, DeferReason::words);
            let what = format!("{amounts} {are} deferred until a person acts: {why}");
            add("MeterStripeDeferred", reason, what, "meter bill; docs/stripe.md, \"Why an amount is deferred\"");
        }
    }
    if s.books.stripe.events.refused > 0 {
        let what = format!("Stripe refused {}", several(s.books.stripe.events.refused, "event"));
        add("MeterEventRefused", "", what, "meter events list --state refused");
    }
    let oldest = [stripe.oldest_pending_at, customers.oldest_deferred_at].into_iter().flatten().min();
    if let Some(at) = oldest.filter(|at| since(*at) > NEAR_LIMIT) {
        let what = format!("usage has waited for {} to be sent to Stripe, which takes 35 days back", span(since(at)));
        add("MeterUsageNearStripeLimit", "", what, "meter reconcile");
    }
}

#[cfg(test)]
mod tests;
