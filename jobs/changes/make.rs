//! Makes a plan: reads bills, compares them with the books, and says what that means for customers.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::anyhow;
use jiff::Timestamp;

use super::plan::{
    ChangePlan, PlanEffects, PlanState, PlannedAcceptance, PlannedBase, PlannedBill, PlannedMeter, digest,
};
use crate::context::Context;
use crate::enforce_budgets::{ChangedAnswers, PlannedUsage, changed_answers};
use crate::ingest_cur::{Acceptance, Decision, IngestCur, IngestReport, MeterChange, Prepared, Purpose, prepare};
use crate::job::Failure;
use crate::push_stripe::{ChangedBills, changed_bills};
use books::limits::plan::Plans;
use books::limits::settled::NewestBill;
use books::measured::metered_day::MeteredDay;
use books::shared_bucket::shares::ShareState;
use books::units::calendar::Month;
use books::usage::bill::CurrentVersion;
use books::usage::booking::Booking;
use books::usage::difference::UsageDifference;

/// A plan changes at most so many bills: their versions count from one transaction on, which a
/// server allows five seconds.
const BILLS: usize = 12;

/// A bill that is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedChange {
    pub export: String,
    pub month: Month,
    pub accept: Option<Acceptance>,
}

/// A plan, and what it was made from.
#[derive(Debug)]
pub struct Made {
    pub plan: ChangePlan,
    /// What was found of each bill.
    pub reports: Vec<IngestReport>,
    pub(super) bookings: Vec<Booking>,
}

/// Makes the plan of what the ingest of some bills would book now. Writes nothing.
///
/// # Errors
/// As `ingest_cur`; and when a bill is wanted twice, or too many would change.
pub async fn make(context: &Context, wanted: &[WantedChange], made_by: &str, now: Timestamp) -> Result<Made, Failure> {
    context.books.require_migrated().await?;
    let (mut reports, mut bills, mut bookings) = (vec![], vec![], vec![]);
    let mut usage = PlannedUsage::default();
    for WantedChange { export, month, accept } in wanted {
        let job = IngestCur { export: export.clone(), month: *month, dry_run: true, accept: accept.clone() };
        let Prepared { report, decision, key, current, differences } =
            prepare(&job, Purpose::Plan, context, now).await?;
        let manifest_digest = key.map(|key| key.manifest_digest).unwrap_or_default();
        let mut bill = PlannedBill { manifest_digest, ..planned(&report, current, accept.as_ref()) };
        if let Decision::Book(booking) = decision {
            add(&mut usage, &booking, &differences);
            bill.files_digest = digest(&booking.files.iter().map(|f| (&f.key, f.size, &f.etag)).collect::<Vec<_>>());
            bill.reports_digest.clone_from(&booking.version.reports_digest);
            bill.differences = differences;
            bookings.push(*booking);
        }
        reports.push(report);
        bills.push(bill);
    }
    check(&bills).map_err(|why| Failure::GiveUp(anyhow!(why)))?;
    let state = state(context).await?;
    let effects = match bookings.is_empty() {
        true => PlanEffects::default(),
        false => effects(context, usage, now).await?,
    };
    Ok(Made { plan: ChangePlan::new(state, effects, bills, (made_by, now)), reports, bookings })
}

/// A bill without what would be booked of it.
fn planned(report: &IngestReport, current: Option<CurrentVersion>, accept: Option<&Acceptance>) -> PlannedBill {
    let meter = |of: &MeterChange| PlannedMeter {
        meter: of.totals.meter.clone(),
        unit: of.totals.unit.clone(),
        before: of.booked_before,
        after: of.totals.booked,
    };
    PlannedBill {
        export: report.export.clone(),
        payer: report.bill.payer.clone(),
        month: report.bill.month,
        outcome: report.outcome,
        version: report.version.clone(),
        delivered_at: report.delivered_at,
        manifest_digest: String::new(),
        files_digest: String::new(),
        reports_digest: String::new(),
        booked: current.map(|CurrentVersion { id, key, reports_digest, .. }| PlannedBase {
            id,
            version: key.version,
            rules_digest: key.rules_digest,
            reports_digest,
        }),
        accept: accept.map(|of| PlannedAcceptance {
            version: of.version.clone(),
            seen: of.seen.clone(),
            reason: of.reason.clone(),
        }),
        hold: report.hold_reasons.clone(),
        accepted: report.accepted.clone(),
        warnings: report.warnings.clone(),
        meters: report.meters.iter().map(meter).collect(),
        differences: vec![],
    }
}

/// Adds what a booking means for decisions.
fn add(usage: &mut PlannedUsage, booking: &Booking, differences: &[UsageDifference]) {
    differences.iter().for_each(|of| usage.changes.add(of));
    let is_undivided = |state: ShareState| matches!(state, ShareState::NoReport | ShareState::Held);
    let undivided: BTreeSet<MeteredDay> = booking
        .shared_days
        .iter()
        .filter(|shared| is_undivided(shared.state))
        .map(|shared| MeteredDay { meter: shared.day.meter.clone(), day: shared.day.day })
        .collect();
    usage.bills.push(NewestBill {
        payer: booking.version.bill.payer.clone(),
        month: booking.version.bill.month,
        newest_day: booking.version.newest_day,
        delivered_at: booking.version.delivered_at,
        undivided: undivided.into_iter().collect(),
    });
}

/// Refuses what cannot be booked together. Pure.
fn check(bills: &[PlannedBill]) -> Result<(), String> {
    let changed: Vec<&PlannedBill> = bills.iter().filter(|bill| bill.outcome.would_change()).collect();
    let mut by_bill: BTreeMap<(&str, Month), &str> = BTreeMap::new();
    for bill in &changed {
        if let Some(other) = by_bill.insert((&bill.payer, bill.month), &bill.export) {
            return Err(format!(
                "the exports {other} and {} both have the bill of payer {} for {}, and the second would change what the \
                 first booked; plan one of them (--export)",
                bill.export, bill.payer, bill.month
            ));
        }
    }
    match changed.len() {
        0..=BILLS => Ok(()),
        n => Err(format!("{n} bills would change, and a plan has at most {BILLS}; plan fewer months (--from, --to)")),
    }
}

/// Digests of what all bills share.
async fn state(context: &Context) -> Result<PlanState, Failure> {
    let plans = context.books.with_connection(async |c| Plans::load(c).await).await?;
    let billing = &context.billing;
    let mapped: BTreeMap<&String, String> =
        billing.meters.iter().map(|(name, m)| (name, format!("{}*{}", m.event_name, m.per_unit))).collect();
    let measured: Vec<String> = context.measuring.meters.iter().map(|meter| format!("{meter:?}")).collect();
    Ok(PlanState {
        rules: context.read_settings.rules.digest(),
        hold: digest(&format!("{:?}", context.read_settings.hold)),
        prices: digest(&(format!("{plans:?}"), mapped, billing.grace, format!("{:?}", billing.overage))),
        enforcement: digest(&(
            format!("{:?}", context.enforcement),
            measured,
            format!("{:?}", context.measuring.settle_after),
        )),
    })
}

/// What the change means for customers.
async fn effects(context: &Context, usage: PlannedUsage, now: Timestamp) -> Result<PlanEffects, Failure> {
    let changed = changed_bills(&context.books, &context.billing, usage.changes.clone(), now).await?;
    let ChangedBills { bills, unknown, no_customer } = changed;
    let ChangedAnswers { blocked, unblocked } = changed_answers(context, usage, now).await?;
    let without_bill = unknown.into_iter().map(|(customer, _)| customer).collect();
    Ok(PlanEffects { money: bills, blocked, unblocked, without_bill, no_customer })
}
