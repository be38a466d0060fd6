//! The gauges of the books: one table of names, filled from one snapshot at each scrape, so that
//! all gauges are of the same moment.

use std::collections::{BTreeMap, BTreeSet};

use books::audit::billing_sums::OpenBills;
use books::shared_bucket::stored::{BookedShare, coverage};
use books::stripe::billing_target::MoneyParts;
use books::units::money::Currency;
use books::units::quantity::Quantity;
use books::usage::bill::NoteKind;
use jiff::Timestamp;
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, Opts, Registry};
use rust_decimal::Decimal;

use super::Described;
use crate::health::{BillingMode, Gap, Overview, ShareFault};

/// Kinds of notes, and their names.
const NOTES: [(NoteKind, &str); 4] = [
    (NoteKind::Untagged, "untagged"),
    (NoteKind::ProductNotCounted, "product_not_counted"),
    (NoteKind::MeterCountsNothing, "meter_counts_nothing"),
    (NoteKind::SharedBucket, "shared_bucket"),
];

/// Name, help, labels.
const TABLE: [(&str, &str, &[&str]); 60] = [
    ("meter_snapshot_timestamp_seconds", "When the gauges of the books were read.", &[]),
    ("meter_snapshot_customers_timestamp_seconds", "When the gauges of all customers were read.", &[]),
    ("meter_snapshot_duration_seconds", "How long reading them took.", &[]),
    ("meter_jobs", "Jobs in the queue.", &["kind", "state"]),
    ("meter_job_oldest_waiting_seconds", "How long the longest waiting job has been due.", &["kind"]),
    ("meter_job_last_success_timestamp_seconds", "When a job of this kind was last done; 0: never.", &["kind"]),
    ("meter_job_attention", "1: the report of the newest done run of this kind needs attention.", &["kind"]),
    ("meter_workers", "Worker processes.", &["state"]),
    ("meter_schedule_last_tick_timestamp_seconds", "The newest tick that was enqueued.", &["schedule"]),
    ("meter_bill_delivered_timestamp_seconds", "When AWS made the newest version that is booked.", &["payer"]),
    ("meter_bill_usage_through_timestamp_seconds", "The booked bills include usage through this time.", &["payer"]),
    ("meter_bill_rows", "Rows of the newest month's booked version.", &["payer"]),
    ("meter_bill_counted_rows", "Of these, the ones that a meter counted.", &["payer"]),
    ("meter_bill_lines", "Lines of watched products in it and in that of the month before.", &["payer", "claim"]),
    ("meter_bill_notes", "What is noted of the booked versions of the last year.", &["payer", "kind"]),
    ("meter_bill_versions_on_hold", "Versions of bills that are on hold.", &["payer"]),
    ("meter_export_read", "1: a bill of the export was found; 0: never.", &["export"]),
    ("meter_export_months", "Months of the export that are over and need a reading.", &["export", "gap"]),
    ("meter_ledger_entries", "Entries of the ledger.", &[]),
    ("meter_books_violations", "Places that broke a rule of the books at the last audit; must be 0.", &["check"]),
    ("meter_books_verified_timestamp_seconds", "When the last audit was; 0: never.", &[]),
    ("meter_customers", "Customers.", &["status"]),
    ("meter_entitlements", "Customers by what was decided for the meter.", &["meter", "decision"]),
    ("meter_usage_month_units", "Usage booked for the current month.", &["meter", "attribution"]),
    ("meter_usage_month_booked_ratio", "The share of the current month that is booked.", &["meter"]),
    ("meter_usage_unknown_customer_units", "Usage of two months under ids that no customer has a row for.", &["meter"]),
    ("meter_usage_day_units", "Usage booked for each of the last 35 days.", &["meter", "day", "attribution"]),
    ("meter_forecast_units", "Usage at the end of the month, as it was forecast last.", &["meter", "estimate"]),
    ("meter_forecast_error_ratio", "Its error in past months, as a share of all usage.", &["meter"]),
    ("meter_forecast_bill_money", "Forecast bills of the billing periods that go on.", &["meter", "currency"]),
    ("meter_usage_unusual_findings", "Settled days of the last week far outside of what was expected.", &["meter"]),
    ("meter_measured_accuracy_ratio", "Measured usage as a share of billed usage, on settled days.", &["meter"]),
    ("meter_measured_accuracy_compared", "Settled days that were compared; 0: the ratio is 1.", &["meter"]),
    ("meter_measured_accuracy_findings", "Customers that differ for days; 1: the meter does.", &["meter", "finding"]),
    ("meter_turn_allocations_used", "TURN credentials handed out in current billing periods.", &[]),
    ("meter_turn_allocations_refused", "TURN credentials refused in current billing periods.", &[]),
    ("meter_turn_oldest_overdue_seconds", "How long ago the oldest TURN period ended that is not closed.", &[]),
    (
        "meter_shared_bucket_coverage_ratio",
        "What S3's reports account for of the newest billed day, as a share.",
        &["bucket", "meter"],
    ),
    (
        "meter_shared_bucket_findings",
        "Billed and settled days that are uncertain, of the last 14.",
        &["bucket", "finding"],
    ),
    ("meter_stripe_mode", "1 for the mode of billing: off, dry run, demo, test or live account.", &["mode"]),
    ("meter_stripe_on_hold", "1: billing is on hold, because the books were restored from a backup.", &[]),
    ("meter_stripe_events", "Amounts to be sent to Stripe.", &["state"]),
    ("meter_stripe_oldest_pending_seconds", "Age of the oldest one that was not sent yet.", &[]),
    ("meter_stripe_oldest_unconfirmed_seconds", "For how long the oldest unconfirmed one has been unconfirmed.", &[]),
    ("meter_stripe_drift_units", "How far Stripe's totals are from what they should be.", &["meter"]),
    ("meter_stripe_alarms", "Totals that need attention.", &[]),
    ("meter_stripe_deferred", "Amounts that wait in the books to be carried forward.", &["reason"]),
    ("meter_stripe_deferred_units", "How much that is.", &["meter"]),
    ("meter_billing_units", "What became of all usage; the sum of the parts is what is booked.", &["meter", "part"]),
    ("meter_billing_money", "Worth of some parts at the plans' prices.", &["meter", "part", "currency"]),
    ("meter_open_bills_money", "The same of the billing periods that go on.", &["meter", "part", "currency"]),
    ("meter_aws_cost_money", "What AWS charges in the newest bill of each payer.", &["meter", "part", "currency"]),
    ("meter_stripe_oldest_deferred_seconds", "For how long the oldest of those that are to be billed has waited.", &[]),
    ("meter_notifications", "Notifications to the web backend.", &["state"]),
    ("meter_notification_oldest_pending_seconds", "Age of the oldest one that was not delivered yet.", &[]),
    ("meter_operator_messages", "Messages to the operator.", &["state"]),
    ("meter_operator_message_oldest_pending_seconds", "Age of the oldest one that was not delivered yet.", &[]),
    ("meter_database_size_bytes", "Size of the database.", &[]),
    ("meter_database_free_bytes", "Free space where a local database lies.", &[]),
    ("meter_database_quota_ratio", "Rows that the month will cost, as a share of database.rows_quota.", &["rows"]),
];

/// The table, for comparison with the documents.
pub(super) fn described() -> impl Iterator<Item = Described> {
    TABLE.iter().map(|(name, _, labels)| {
        let mut labels: Vec<String> = labels.iter().map(|l| (*l).to_owned()).collect();
        labels.sort();
        Described { name: (*name).to_owned(), kind: "gauge", labels }
    })
}

/// The gauges that are being filled.
struct Board {
    registry: Registry,
    gauges: BTreeMap<&'static str, GaugeVec>,
}

/// A number as Prometheus keeps it; the books have the exact one.
fn number(value: impl std::fmt::Display) -> f64 {
    value.to_string().parse().unwrap_or(f64::NAN)
}

impl Board {
    fn new() -> prometheus::Result<Self> {
        let (registry, mut gauges) = (Registry::new(), BTreeMap::new());
        for (name, help, labels) in TABLE {
            let gauge = GaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            gauges.insert(name, gauge);
        }
        Ok(Self { registry, gauges })
    }

    fn set(&self, name: &str, labels: &[&str], value: impl std::fmt::Display) -> prometheus::Result<()> {
        let gauge = self.gauges.get(name).ok_or_else(|| prometheus::Error::Msg(format!("no gauge {name}")))?;
        gauge.get_metric_with_label_values(labels)?.set(number(value));
        Ok(())
    }

    fn at(&self, name: &str, labels: &[&str], at: Option<Timestamp>) -> prometheus::Result<()> {
        self.set(name, labels, at.map_or(0, Timestamp::as_second))
    }

    /// Seconds from `since` to `now`; 0 when there is nothing.
    fn age(&self, name: &str, labels: &[&str], since: Option<Timestamp>, now: Timestamp) -> prometheus::Result<()> {
        self.set(name, labels, since.map_or(0, |since| now.duration_since(since).as_secs().max(0)))
    }
}

pub(super) fn of(overview: &Overview, meters: &[String]) -> prometheus::Result<Vec<MetricFamily>> {
    let board = Board::new()?;
    board.at("meter_snapshot_timestamp_seconds", &[], Some(overview.at))?;
    board.at("meter_snapshot_customers_timestamp_seconds", &[], Some(overview.customers_at))?;
    board.set("meter_snapshot_duration_seconds", &[], overview.took.as_secs_f64())?;
    queue(&board, overview)?;
    bills(&board, overview)?;
    usage(&board, overview, meters)?;
    forecasts(&board, overview, meters)?;
    measured(&board, overview, meters)?;
    shares(&board, overview)?;
    costs(&board, overview)?;
    customers(&board, overview, meters)?;
    stripe(&board, overview, meters)?;
    board.at("meter_books_verified_timestamp_seconds", &[], overview.audit.at)?;
    for (check, count) in &overview.audit.violations {
        board.set("meter_books_violations", &[check], count)?;
    }
    let notifications = &overview.books.notifications;
    // without a receiver none is sent
    let (pending, dead, unsent) = match overview.notifications_go_out {
        true => (notifications.pending, notifications.dead, 0),
        false => (0, 0, notifications.pending + notifications.dead),
    };
    for (state, count) in [("pending", pending), ("dead", dead), ("unsent", unsent)] {
        board.set("meter_notifications", &[state], count)?;
    }
    let oldest = notifications.oldest_pending_at.filter(|_| overview.notifications_go_out);
    board.age("meter_notification_oldest_pending_seconds", &[], oldest, overview.at)?;
    let messages = &overview.books.operator_messages;
    let go_out = |count: i64| if overview.operator_messages_go_out { count } else { 0 };
    board.set("meter_operator_messages", &["pending"], go_out(messages.pending))?;
    board.set("meter_operator_messages", &["dead"], go_out(messages.dead))?;
    let oldest = messages.oldest_pending_at.filter(|_| overview.operator_messages_go_out);
    board.age("meter_operator_message_oldest_pending_seconds", &[], oldest, overview.at)?;
    if let Some(bytes) = overview.books.size_bytes {
        board.set("meter_database_size_bytes", &[], bytes)?;
    }
    if let Some(bytes) = overview.free_bytes {
        board.set("meter_database_free_bytes", &[], bytes)?;
    }
    for what in ["read", "written"] {
        board.set("meter_database_quota_ratio", &[what], 0)?;
    }
    for rows in overview.month_rows() {
        let share = rows.quota.map_or(Decimal::ZERO, |quota| Decimal::from(rows.by_end) / Decimal::from(quota));
        board.set("meter_database_quota_ratio", &[rows.what], share)?;
    }
    Ok(board.registry.gather())
}

fn queue(board: &Board, overview: &Overview) -> prometheus::Result<()> {
    for (name, kind) in &overview.queue.kinds {
        for (state, count) in &kind.states {
            board.set("meter_jobs", &[name, state.as_str()], count)?;
        }
        board.age("meter_job_oldest_waiting_seconds", &[name], kind.waiting_since, overview.at)?;
        board.set("meter_job_attention", &[name], u8::from(kind.attention))?;
        // a kind without a schedule has no success to wait for
        if overview.queue.scheduled.contains(name) {
            board.at("meter_job_last_success_timestamp_seconds", &[name], kind.last_done)?;
        }
    }
    for (state, count) in &overview.queue.workers {
        board.set("meter_workers", &[state.name()], count)?;
    }
    for (schedule, tick) in &overview.queue.ticks {
        board.at("meter_schedule_last_tick_timestamp_seconds", &[schedule], Some(*tick))?;
    }
    Ok(())
}

fn bills(board: &Board, overview: &Overview) -> prometheus::Result<()> {
    for bill in &overview.books.bills {
        let payer = bill.payer.as_str();
        board.at("meter_bill_delivered_timestamp_seconds", &[payer], bill.delivered_at)?;
        board.at("meter_bill_usage_through_timestamp_seconds", &[payer], bill.usage_through)?;
        board.set("meter_bill_rows", &[payer], bill.rows)?;
        board.set("meter_bill_counted_rows", &[payer], bill.counted_rows)?;
        for claim in ["counted", "excluded", "ignored", "unrecognised", "not_usage"] {
            board.set("meter_bill_lines", &[payer, claim], bill.lines.get(claim).unwrap_or(&0))?;
        }
        for (kind, name) in NOTES {
            let notes = bill.notes.iter().filter(|of| of.note.kind == kind).count();
            board.set("meter_bill_notes", &[payer, name], notes)?;
        }
        board.set("meter_bill_versions_on_hold", &[payer], bill.on_hold)?;
    }
    for export in &overview.exports {
        board.set("meter_export_read", &[&export.export], u8::from(export.was_read))?;
        for name in Gap::NAMES {
            let months = export.gaps.iter().filter(|gap| gap.gap.name() == name).count();
            board.set("meter_export_months", &[&export.export, name], months)?;
        }
    }
    board.set("meter_ledger_entries", &[], overview.books.entries)
}

fn usage(board: &Board, overview: &Overview, meters: &[String]) -> prometheus::Result<()> {
    let attributed = |name: &str, labels: &[&str], of: Quantity, none: Quantity| {
        board.set(name, &[labels, &["attributed"]].concat(), of)?;
        board.set(name, &[labels, &["unattributed"]].concat(), none)
    };
    for meter in meters {
        attributed("meter_usage_month_units", &[meter], Quantity::ZERO, Quantity::ZERO)?;
        board.set("meter_usage_month_booked_ratio", &[meter], 0)?;
        let unknown = overview.customers.unknown.get(meter).copied().unwrap_or_default();
        board.set("meter_usage_unknown_customer_units", &[meter], unknown)?;
    }
    for month in &overview.books.month {
        attributed("meter_usage_month_units", &[&month.meter], month.attributed, month.unattributed)?;
        let all = i64::from(overview.at.to_zoned(jiff::tz::TimeZone::UTC).days_in_month());
        let ratio = Decimal::from(month.days) / Decimal::from(all);
        board.set("meter_usage_month_booked_ratio", &[&month.meter], ratio)?;
    }
    for day in &overview.books.days {
        attributed("meter_usage_day_units", &[&day.meter, &day.day], day.attributed, day.unattributed)?;
    }
    Ok(())
}

fn forecasts(board: &Board, overview: &Overview, meters: &[String]) -> prometheus::Result<()> {
    for meter in meters {
        let unusual = overview.books.unusual.iter().find(|of| of.meter == *meter).map_or(0, |of| of.total);
        board.set("meter_usage_unusual_findings", &[meter], unusual)?;
    }
    for of in &overview.books.forecasts {
        let (meter, forecast) = (of.forecast.meter.as_str(), &of.forecast);
        board.set("meter_forecast_units", &[meter, "p50"], forecast.p50)?;
        if let Some(p90) = forecast.p90 {
            board.set("meter_forecast_units", &[meter, "p90"], p90)?;
        }
        // before a month could be tried, a forecast is worth nothing
        board.set("meter_forecast_error_ratio", &[meter], of.accuracy.as_a_whole.error().unwrap_or(Decimal::ONE))?;
        if let Some(bill) = &forecast.bill {
            let currency = bill.p50.currency.to_string();
            board.set("meter_forecast_bill_money", &[meter, &currency], bill.p50.written())?;
        }
    }
    Ok(())
}

fn measured(board: &Board, overview: &Overview, meters: &[String]) -> prometheus::Result<()> {
    for meter in meters {
        let of = overview.books.accuracy.iter().find(|of| of.meter == *meter);
        let share = match of.map(|of| (of.usage.ratio(), of.usage.measured.is_zero())) {
            None | Some((None, true)) => "1".to_owned(),
            Some((None, false)) => "+inf".to_owned(),
            Some((Some(ratio), _)) => ratio.to_string(),
        };
        board.set("meter_measured_accuracy_ratio", &[meter], share)?;
        board.set("meter_measured_accuracy_compared", &[meter], of.map_or(0, |of| of.days.len()))?;
        let customers = of.map_or(0, |of| of.differing_customers);
        let whole = u64::from(of.is_some_and(|of| of.finding.is_some()));
        for (finding, count) in [("customers", customers), ("meter", whole)] {
            board.set("meter_measured_accuracy_findings", &[meter, finding], count)?;
        }
    }
    Ok(())
}

fn shares(board: &Board, overview: &Overview) -> prometheus::Result<()> {
    for bucket in overview.share_bands.keys() {
        let of_bucket = || overview.books.shares.iter().filter(|share| share.bucket == *bucket);
        for fault in ShareFault::ALL {
            let days: BTreeSet<_> =
                of_bucket().filter(|share| overview.share_fault(share) == Some(fault)).map(|share| share.day).collect();
            board.set("meter_shared_bucket_findings", &[bucket, fault.name()], days.len())?;
        }
        // in the order of the days, so the newest is the last
        let mut newest: BTreeMap<&str, Vec<&BookedShare>> = BTreeMap::new();
        for share in of_bucket().filter(|share| share.coverage().is_some()) {
            let of_meter = newest.entry(&share.meter).or_default();
            if of_meter.first().is_some_and(|first| first.day != share.day) {
                of_meter.clear();
            }
            of_meter.push(share);
        }
        for (meter, shares) in newest {
            let predicted = shares.iter().filter_map(|share| share.predicted).sum();
            let ratio = coverage(predicted, shares.iter().map(|share| share.billed).sum()).unwrap_or(10_000);
            board.set("meter_shared_bucket_coverage_ratio", &[bucket, meter], Decimal::new(ratio, 4))?;
        }
    }
    Ok(())
}

fn costs(board: &Board, overview: &Overview) -> prometheus::Result<()> {
    let mut sums: BTreeMap<(&str, &str, &str), Quantity> = BTreeMap::new();
    for of in &overview.books.costs {
        for (part, cost) in
            [("attributed", of.attributed), ("unattributed", of.unattributed), ("excluded", of.excluded)]
        {
            *sums.entry((&of.meter, part, &of.currency)).or_default() += cost;
        }
    }
    for ((meter, part, currency), cost) in sums {
        board.set("meter_aws_cost_money", &[meter, part, currency], cost)?;
    }
    Ok(())
}

fn customers(board: &Board, overview: &Overview, meters: &[String]) -> prometheus::Result<()> {
    let customers = &overview.customers;
    for status in ["active", "past_due", "canceled"] {
        board.set("meter_customers", &[status], customers.by_status.get(status).unwrap_or(&0))?;
    }
    let own = meters.iter().map(String::as_str).chain([books::limits::plan::TURN]);
    let known = own.chain(customers.decisions.keys().map(String::as_str));
    for meter in known {
        let of = customers.decisions.get(meter).copied().unwrap_or_default();
        for (decision, count) in [
            ("allowed", of.allowed),
            ("near", of.near),
            ("overage", of.overage),
            ("blocked", of.blocked),
            ("denied", of.denied),
        ] {
            board.set("meter_entitlements", &[meter, decision], count)?;
        }
    }
    board.set("meter_turn_allocations_used", &[], customers.turn_used)?;
    board.set("meter_turn_allocations_refused", &[], customers.turn_refused)?;
    board.age("meter_turn_oldest_overdue_seconds", &[], overview.books.turn_overdue_since, overview.at)
}

fn stripe(board: &Board, overview: &Overview, meters: &[String]) -> prometheus::Result<()> {
    let (stripe, customers) = (&overview.books.stripe, &overview.customers);
    for mode in BillingMode::ALL {
        board.set("meter_stripe_mode", &[mode.name()], u8::from(mode == overview.billing))?;
    }
    board.set("meter_stripe_on_hold", &[], u8::from(overview.on_hold().is_some()))?;
    for (state, count) in stripe.events.named() {
        board.set("meter_stripe_events", &[state], count)?;
    }
    board.age("meter_stripe_oldest_pending_seconds", &[], stripe.oldest_pending_at, overview.at)?;
    board.age("meter_stripe_oldest_unconfirmed_seconds", &[], stripe.oldest_unconfirmed_at, overview.at)?;
    board.age("meter_stripe_oldest_deferred_seconds", &[], customers.oldest_deferred_at, overview.at)?;
    board.set("meter_stripe_alarms", &[], stripe.alarms)?;
    for meter in meters.iter().map(String::as_str).chain(customers.drift.keys().map(String::as_str)) {
        board.set("meter_stripe_drift_units", &[meter], customers.drift.get(meter).copied().unwrap_or_default())?;
        board.set(
            "meter_stripe_deferred_units",
            &[meter],
            customers.deferred_units.get(meter).copied().unwrap_or_default(),
        )?;
    }
    for of in &overview.audit.billing {
        for (part, amount) in of.named() {
            board.set("meter_billing_units", &[&of.meter, part], amount)?;
        }
        for (currency, MoneyParts { billed, waiting, house }) in &of.money {
            let Ok(known) = currency.parse::<Currency>() else { continue };
            for (part, minor) in [("billed", billed), ("waiting", waiting), ("house", house)] {
                board.set("meter_billing_money", &[&of.meter, part, currency], known.written(*minor))?;
            }
        }
    }
    for of in &overview.audit.billing {
        for (currency, OpenBills { billable, house }) in &of.open {
            let Ok(known) = currency.parse::<Currency>() else { continue };
            for (part, minor) in [("billable", billable), ("house", house)] {
                board.set("meter_open_bills_money", &[&of.meter, part, currency], known.written(*minor))?;
            }
        }
    }
    for reason in jobs::push_stripe::DeferReason::names().chain(["acknowledged"]) {
        board.set("meter_stripe_deferred", &[reason], customers.deferred.get(reason).unwrap_or(&0))?;
    }
    Ok(())
}
